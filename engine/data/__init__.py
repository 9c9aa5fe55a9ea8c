"""Labelled images as tensors on the device: data sets, their splits, batches of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.data.loading import load
    from engine.data.split import Dataset, ResidentSplit, Split, StreamedSplit
    from engine.data.splitting import stratified

__all__ = ["Dataset", "ResidentSplit", "Split", "StreamedSplit", "load", "stratified"]

_HOME = {
    "Dataset": "split",
    "ResidentSplit": "split",
    "Split": "split",
    "StreamedSplit": "split",
    "load": "loading",
    "stratified": "splitting",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
