"""Autoencoders: images to codes and back, their codes in the plane, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "autoencoder"
ORDER = 34
FIRST = ("data", "code")


def detail(spec: Mapping[str, Any]) -> str:
    """As in "MNIST · Adversarial · 100 labels"."""
    parts = [name_of(spec["data"]["kind"]), name_of(spec["code"]["kind"])]
    if labels := spec.get("labels"):
        parts.append(tr("{count} labels", count=labels["count"]))
    return " · ".join(parts)


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.autoencoder_view import AutoencoderView

    return AutoencoderView(parent)
