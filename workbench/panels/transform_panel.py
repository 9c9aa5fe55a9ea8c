"""An input transform in front of a model: its accuracy with and without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "funnel"
ORDER = 62


def detail(spec: Mapping[str, Any]) -> str:
    """As in "JPEG · on plain"."""
    on = tr("on {name}", name=PurePath(str(spec["model"])).name)
    return " · ".join([name_of(spec["transform"]["kind"]), on])


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.file_view import FileView

    return FileView(
        parent,
        title=mark("Input transform"),
        hint=mark(
            "What comes out is a model like any other, with the transform in front of it. It hides "
            "its gradients and is no better defended: attack it as it is, then straight through "
            "(under More in the attack), and have it evaluated."
        ),
    )
