"""Training: loss, accuracy, gradient norm and learning rate, and the model's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.i18n import name_of, tr

if TYPE_CHECKING:
    from PySide6.QtWidgets import QWidget

    from workbench.panels.live import LiveView

ICON = "flask"
ORDER = 10


def detail(spec: Mapping[str, Any]) -> str:
    """As in "CNN · Digits · AdamW", "CNN · Digits · DP-SGD ε 3" or "from plain · TRADES · against
    KL"."""
    parts = []
    if spec.get("init"):
        parts.append(tr("from {name}", name=spec["init"]))
    else:
        from engine.training.spec import DEFAULT_DATA, DEFAULT_MODEL

        for field, default in (("model", DEFAULT_MODEL), ("data", DEFAULT_DATA)):
            parts.append(name_of((spec.get(field) or {"kind": default.kind})["kind"]))
        if not spec.get("privacy"):
            parts.append(name_of(spec["optimizer"]["kind"]))
    if adversarial := spec.get("adversarial"):
        parts.append(name_of(adversarial["kind"]))
        if "attack" in adversarial:
            parts.append(tr("against {attack}", attack=name_of(adversarial["attack"]["kind"])))
    if privacy := spec.get("privacy"):
        parts.append(private(privacy))
    return " · ".join(parts) or name_of("train")


def private(privacy: Mapping[str, Any]) -> str:
    """As in "DP-SGD ε 3", or "DP-SGD σ 1.1" without a target."""
    kind = name_of(privacy["kind"])
    for field, sign in (("epsilon", "ε"), ("noise_multiplier", "σ")):
        if privacy.get(field) is not None:
            return f"{kind} {sign} {privacy[field]:g}"
    return kind


def unset(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Data and model that are not given are those of the run it starts from, or the usual ones."""
    from engine.training.spec import DEFAULT_DATA, DEFAULT_MODEL

    usual = {"data": DEFAULT_DATA, "model": DEFAULT_MODEL}
    if values.get("init"):
        return dict.fromkeys(usual, tr("inherited"))
    return {field: name_of(default.kind) for field, default in usual.items()}


def make_view(parent: QWidget) -> LiveView:
    from workbench.panels.train_view import TrainView

    return TrainView(parent)
