"""Private training: the budget before and while it is spent, and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark
from workbench.panels.train_panel import detail, unset

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

__all__ = [
    "FIRST",
    "ICON",
    "OF",
    "ORDER",
    "START",
    "TITLE",
    "detail",
    "holds",
    "make_view",
    "unset",
]

ICON = "privacy"
ORDER = 31
OF = "train"
TITLE = mark("Privacy")
FIRST = ("privacy",)
START = {
    "privacy": {"kind": "dpsgd", "epsilon": 3.0},
    "model": {"kind": "cnn", "norm": "group", "activation": "tanh"},
    "optimizer": {"kind": "adam", "lr": 1e-2},
    "epochs": 30,
    "batch_size": 256,
}
"""A target to begin with, and a model that private training suits: batch statistics would mix
samples, and bounded activations keep gradients short."""


def holds(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("privacy"))


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.privacy_view import PrivacyView

    return PrivacyView(parent)
