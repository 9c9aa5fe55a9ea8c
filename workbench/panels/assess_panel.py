"""Judging what a generator makes: distances, precision and recall, neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.i18n import name_of, tr

ICON = "chart"
ORDER = 34


def detail(spec: Mapping[str, Any]) -> str:
    """As in "2000 samples · auto"."""
    count = tr("{count} samples", count=spec["samples"])
    return f"{count} · {name_of(spec['extractor'])}"
