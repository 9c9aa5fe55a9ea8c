"""How smooth the way through latent space is: perceptual path length (Karras, Laine and Aila 2019,
section 4.1), seen by the features.

A small step along a way between two latents is taken, and the squared distance of the features
before and after is divided by the square of the step. It is scaled by the mean squared distance of
two real images' features: the length of the whole way, squared, in units of how far two real images
are apart, were all steps alike. A generator that jumps between images has long ways.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.errors import BadInput
from engine.generative.latents import lerp, slerp

STEP = 1e-3
"""Of the way. Karras et al. take 1e-4, which float32 leaves too few digits of where features are
small."""

KEPT = (0.01, 0.99)
"""Quantiles outside of which single lengths are left out, as the authors' code does."""


@dataclass(frozen=True, slots=True)
class Smoothness:
    """The mean, its standard error, and the median, of scaled squared lengths."""

    mean: float
    error: float
    median: float


def steps_apart(
    first: Tensor, second: Tensor, at: Tensor, *, arc: bool, step: float = STEP
) -> tuple[Tensor, Tensor]:
    """Two latents a small step apart on each of the ways between `first` and `second`, (N, D):
    at `at`, (N,), in 0 to 1, and `step` further."""
    between = slerp if arc else lerp
    at = at * (1 - step)
    return between(first, second, at), between(first, second, at + step)


def lengths(before: Tensor, after: Tensor, scale: float, step: float = STEP) -> Tensor:
    """Scaled squared lengths, float64 (N,), of features, (N, D), a step apart. scale: see
    `spread_of`. Raises BadInput where it is 0."""
    if not scale > 0:
        raise BadInput(
            "all real images look the same to the extractor, so that there is no unit for the "
            "smoothness; take data with more than one image"
        )
    return (after.double() - before.double()).square().sum(1) / (step**2 * scale)


def smoothness_of(found: Tensor) -> Smoothness:
    """Of single lengths, (N,)."""
    low, high = (float(found.quantile(q)) for q in KEPT)
    kept = found[(found >= low) & (found <= high)]
    error = float(kept.std() / len(kept) ** 0.5) if len(kept) > 1 else float("nan")
    return Smoothness(float(kept.mean()), error, float(found.median()))


def spread_of(variance: float) -> float:
    """The mean squared distance of two, of which the covariance has this trace."""
    return 2 * variance
