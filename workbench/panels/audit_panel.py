"""Audits: what attacks on a model's promise came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "audit"
ORDER = 32


def detail(spec: Mapping[str, Any]) -> str:
    """As in "Membership · on plain"."""
    audit = spec.get("audit") or {}
    parts = [name_of(str(audit["kind"]))]
    if audit["kind"] == "inversion" and "method" in audit:
        parts.append(name_of(str(audit["method"])))
    return " · ".join([*parts, tr("on {name}", name=str(spec["model"]).rsplit("/", 1)[-1])])


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.audit_view import AuditView

    return AuditView(parent)
