"""Generative models: their samples, and what the codes of an autoencoder are good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.generative.autoencoding.scoring import anomaly_score, is_anomalous
    from engine.generative.making import load_maker

__all__ = ["anomaly_score", "is_anomalous", "load_maker"]

_HOME = {
    "anomaly_score": "autoencoding.scoring",
    "is_anomalous": "autoencoding.scoring",
    "load_maker": "making",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
