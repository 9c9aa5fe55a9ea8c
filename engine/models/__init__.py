"""Classifiers: the zoo, the user's own, and what is known about them; the files of all networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.building import build
    from engine.models.card import ModelCard, NetworkCard, read_card
    from engine.models.describing import LayerDescription, ModelDescription, describe
    from engine.models.files import (
        LoadedModel,
        LoadedNetwork,
        load_model,
        load_network,
        save_model,
        weights_sha256,
    )
    from engine.models.normalise import Normalise, channel_statistics

__all__ = [
    "LayerDescription",
    "LoadedModel",
    "LoadedNetwork",
    "ModelCard",
    "ModelDescription",
    "NetworkCard",
    "Normalise",
    "build",
    "channel_statistics",
    "describe",
    "load_model",
    "load_network",
    "read_card",
    "save_model",
    "weights_sha256",
]

_HOME = {
    "LayerDescription": "describing",
    "LoadedModel": "files",
    "LoadedNetwork": "files",
    "ModelCard": "card",
    "ModelDescription": "describing",
    "NetworkCard": "card",
    "Normalise": "normalise",
    "build": "building",
    "channel_statistics": "normalise",
    "describe": "describing",
    "load_model": "files",
    "load_network": "files",
    "read_card": "card",
    "save_model": "files",
    "weights_sha256": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
