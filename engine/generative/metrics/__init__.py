"""How good generated images are, in figures: `assessing` is the task, the others are functions that
trainings call too.

`extractors` says what images are seen by; `reference` holds what is known of the real ones, and
compares: by `frechet` (FID), `kernel` (KID) and `manifold` (precision, recall, density, coverage).
`neighbours` finds copies of training images, `smoothness` measures ways through latent space,
`inception` is the extractor of published figures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.generative.metrics.extractors import (
        Extractor,
        Seen,
        extractor_of,
        features,
        recognised,
        seen,
        seen_of_split,
        shipped,
        suited,
    )
    from engine.generative.metrics.frechet import Gaussian, frechet_distance, gaussian, gaussian_of
    from engine.generative.metrics.kernel import Kernel, kernel_distance
    from engine.generative.metrics.manifold import Manifold, compare
    from engine.generative.metrics.neighbours import Memory, Nearest, Search, memory, nearest
    from engine.generative.metrics.reference import Reference, few

_HOME = {
    "Extractor": "extractors",
    "Gaussian": "frechet",
    "Kernel": "kernel",
    "Manifold": "manifold",
    "Memory": "neighbours",
    "Nearest": "neighbours",
    "Reference": "reference",
    "Search": "neighbours",
    "Seen": "extractors",
    "compare": "manifold",
    "extractor_of": "extractors",
    "features": "extractors",
    "few": "reference",
    "frechet_distance": "frechet",
    "gaussian": "frechet",
    "gaussian_of": "frechet",
    "kernel_distance": "kernel",
    "memory": "neighbours",
    "nearest": "neighbours",
    "recognised": "extractors",
    "seen": "extractors",
    "seen_of_split": "extractors",
    "shipped": "extractors",
    "suited": "extractors",
}

__all__ = [
    "Extractor",
    "Gaussian",
    "Kernel",
    "Manifold",
    "Memory",
    "Nearest",
    "Reference",
    "Search",
    "Seen",
    "compare",
    "extractor_of",
    "features",
    "few",
    "frechet_distance",
    "gaussian",
    "gaussian_of",
    "kernel_distance",
    "memory",
    "nearest",
    "recognised",
    "seen",
    "seen_of_split",
    "shipped",
    "suited",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
