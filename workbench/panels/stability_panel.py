"""Judging how far a model's answers depend on what should not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "stability"
ORDER = 32


def detail(spec: Mapping[str, Any]) -> str:
    """As in "on plain · 5 seeds · 3 batch orders"."""
    parts = [tr("on {name}", name=str(spec["model"]).rsplit("/", 1)[-1])]
    models = 1 + len(spec.get("also") or ()) + int(spec.get("seeds") or 0)
    if models > 1:
        parts.append(tr("{count} seeds", count=models))
    if orders := int(spec.get("orders") or 0):
        parts.append(tr("{count} batch orders", count=orders + 1))
    return " · ".join(parts)


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.stability_view import StabilityView

    return StabilityView(parent)
