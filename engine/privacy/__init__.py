"""Differential privacy: what a step may cost, what it did cost, and proof of neither more."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.privacy.accounting import (
        Bounds,
        Curve,
        curve,
        epsilon,
        epsilon_fixed_size,
        noise_multiplier,
        prv_bounds,
        split_noise,
        steps_within,
        total,
    )
    from engine.privacy.ledger import Charge, Ledger, read_charges
    from engine.privacy.spec import DPSGD, Naive

_HOME = {
    "DPSGD": "spec",
    "Bounds": "accounting",
    "Charge": "ledger",
    "Curve": "accounting",
    "Ledger": "ledger",
    "Naive": "spec",
    "curve": "accounting",
    "epsilon": "accounting",
    "epsilon_fixed_size": "accounting",
    "noise_multiplier": "accounting",
    "prv_bounds": "accounting",
    "read_charges": "ledger",
    "split_noise": "accounting",
    "steps_within": "accounting",
    "total": "accounting",
}

__all__ = [
    "DPSGD",
    "Bounds",
    "Charge",
    "Curve",
    "Ledger",
    "Naive",
    "curve",
    "epsilon",
    "epsilon_fixed_size",
    "noise_multiplier",
    "prv_bounds",
    "read_charges",
    "split_noise",
    "steps_within",
    "total",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
