"""Handing a model over: where the encrypted file went, and the command that opens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "lock"
ORDER = 70


def detail(spec: Mapping[str, Any]) -> str:
    """As in "hardened · passphrase"."""
    how = tr("passphrase") if spec.get("passphrase") else tr("key pair")
    return f"{str(spec['model']).rsplit('/', 1)[-1]} · {how}"


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.file_view import FileView

    return FileView(
        parent,
        hint=mark(
            "A model leaves here as one encrypted file that the age program opens anywhere. Choose "
            "the model in the form and press Start run, or press Export encrypted…"
        ),
    )
