"""Judging a model: robust accuracy over the radius, by attack and by class, and what makes it
doubtful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "shield"
ORDER = 30


def detail(spec: Mapping[str, Any]) -> str:
    """As in "PGD, APGD · on plain"."""
    kinds = list(dict.fromkeys(name_of(attack["kind"]) for attack in spec.get("attacks", ())))
    on = tr("on {name}", name=str(spec["model"]).rsplit("/", 1)[-1])
    return " · ".join(filter(None, (", ".join(kinds), on)))


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.evaluate_view import EvaluateView

    return EvaluateView(parent)
