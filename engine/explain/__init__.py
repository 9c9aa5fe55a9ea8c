"""Why a model says what it says of one sample: attribution maps, and the loss around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.explain.explaining import METHODS, Explanation, explain
    from engine.explain.pair import Pair, read_pair
    from engine.explain.surface import Plane, Survey, plane_through, survey

__all__ = [
    "METHODS",
    "Explanation",
    "Pair",
    "Plane",
    "Survey",
    "explain",
    "plane_through",
    "read_pair",
    "survey",
]

_HOME = {
    "METHODS": "explaining",
    "Explanation": "explaining",
    "Pair": "pair",
    "Plane": "surface",
    "Survey": "surface",
    "explain": "explaining",
    "plane_through": "surface",
    "read_pair": "pair",
    "survey": "surface",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
