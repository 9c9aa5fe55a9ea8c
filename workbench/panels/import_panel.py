"""Bringing in a model: its layers and its accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "import"
ORDER = 60


def detail(spec: Mapping[str, Any]) -> str:
    """As in "CNN · Digits · weights.pt"."""
    parts = [name_of(spec[field]["kind"]) for field in ("model", "data") if spec.get(field)]
    return " · ".join([*parts, PurePath(str(spec.get("weights", ""))).name])


def unset(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Without model or data given, the file must say itself what they are."""
    return {"model": tr("from the file"), "data": tr("from the file")}


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.file_view import FileView

    return FileView(
        parent,
        title=mark("Model"),
        hint=mark(
            "A model that you already have becomes a run like any other. Say in the form where its "
            "weights are and what it was made for, and press Start run: its accuracy is measured "
            "at once."
        ),
    )
