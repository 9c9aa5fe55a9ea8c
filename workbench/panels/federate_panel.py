"""Federated training: who has what, who takes part, and what their updates look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import mark, name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "federated"
ORDER = 33
TITLE = mark("Federated")
FIRST = ("data", "partition", "strategy")
"""Who has what and what becomes of it; then the sizes, and what protects or spoils it."""


def detail(spec: Mapping[str, Any]) -> str:
    """As in "10 clients · Dirichlet · FedAvg · 2 hostile · ε 8"."""
    parts = [tr("{count} clients", count=spec["clients"])]
    if spec["partition"]["kind"] != "iid":
        parts.append(name_of(spec["partition"]["kind"]))
    parts.append(name_of(spec["strategy"]["kind"]))
    hostile = sum(len(each.get("clients") or ()) or each["count"] for each in spec["hostile"])
    if hostile:
        parts.append(tr("{count} hostile", count=hostile))
    if privacy := spec.get("privacy"):
        known = privacy.get("epsilon")
        parts.append(f"ε {known:g}" if known is not None else tr("private"))
    return " · ".join(parts)


def unset(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Data and model that are not given are those of the run it starts from, or the usual ones."""
    from workbench.panels.train_panel import unset as of_training

    return of_training(values)


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.federate_view import FederateView

    return FederateView(parent)
