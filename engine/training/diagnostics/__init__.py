"""Why a network does or does not train, measured while it does.

`Diagnostics` looks at the layers of any model in the middle of anyone's steps; `curvature` and
`plane` look at the loss around its weights. `layers` says what a layer is, `spectral` how much it
can stretch, `price` how often looking is affordable.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.training.diagnostics.curvature import (
        Loss,
        hessian_trace,
        noise_scale,
        top_eigenvalue,
    )
    from engine.training.diagnostics.layers import QUANTITIES, Layer, layers_of
    from engine.training.diagnostics.plane import loss_plane
    from engine.training.diagnostics.spectral import Stretch
    from engine.training.diagnostics.watching import Diagnostics

_HOME = {
    "QUANTITIES": "layers",
    "Diagnostics": "watching",
    "Layer": "layers",
    "Loss": "curvature",
    "Stretch": "spectral",
    "hessian_trace": "curvature",
    "layers_of": "layers",
    "loss_plane": "plane",
    "noise_scale": "curvature",
    "top_eigenvalue": "curvature",
}

__all__ = [
    "QUANTITIES",
    "Diagnostics",
    "Layer",
    "Loss",
    "Stretch",
    "hessian_trace",
    "layers_of",
    "loss_plane",
    "noise_scale",
    "top_eigenvalue",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
