"""Handing adversarial examples over: where they went, and how many still fool the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "export"
ORDER = 75


def detail(spec: Mapping[str, Any]) -> str:
    """As in "PNG · of broken"."""
    source = str(spec["source"]).rsplit("/", 1)[-1]
    return f"{name_of(str(spec.get('form', 'png')))} · {tr('of {name}', name=source)}"


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.file_view import FileView

    return FileView(
        parent,
        hint=mark(
            "The adversarial examples of an attack leave here as PNG files with an index, or as "
            "one safetensors file. Choose the attack in the form and press Start run."
        ),
    )
