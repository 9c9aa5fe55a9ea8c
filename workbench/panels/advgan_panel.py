"""AdvGAN: a generator that makes adversarial examples in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "forge"
ORDER = 34


def detail(spec: Mapping[str, Any]) -> str:
    """As in "ε 0.3", or "ε 0.3 · as class 4"."""
    parts = [f"ε {spec['eps']:g}"]
    if spec.get("target") is not None:
        parts.append(tr("as class {label}", label=spec["target"]))
    return " · ".join(parts)


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.advgan_view import AdvGanView

    return AdvGanView(parent)
