"""The playground: a generator against a critic, to be watched, broken and steadied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "playground"
ORDER = 33
TITLE = mark("Playground")
FIRST = ("data", "loss")
"""What is imitated, and what both want of each other."""


def detail(spec: Mapping[str, Any]) -> str:
    """As in "Ring · Non-saturating · 8 seeds"."""
    parts = [name_of(spec["data"]["kind"]), name_of(spec["loss"]["kind"])]
    if spec.get("conditional", "none") != "none":
        parts.append(tr("conditional"))
    if int(spec.get("seeds") or 1) > 1:
        parts.append(tr("{count} seeds", count=spec["seeds"]))
    return " · ".join(parts)


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.gan_view import GanView

    return GanView(parent)
