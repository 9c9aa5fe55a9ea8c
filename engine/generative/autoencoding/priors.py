"""Draws of a prior, and which of its parts a code lies in.

What lies in a plane is drawn in pairs of numbers: every pair of a code is from the same part, the
one that its label names or one that is drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.generative.spec.autoencoder import (
    GaussianPrior,
    MixturePrior,
    PriorSpec,
    SwissRollPrior,
)
from engine.random import derive, normal, uniform

PLACES = 64
"""Points of a section of the swiss roll from which the distance of a code is taken."""


def draw(spec: PriorSpec, count: int, size: int, seed: int, parts: Tensor | None = None) -> Tensor:
    """`count` draws of codes of `size` numbers, float32 (count, size). They depend on the seed
    alone. `parts`: int64 (count,), the part that each is drawn from; -1 is any."""
    ids = torch.arange(count)
    device = None if parts is None else parts.device
    match spec:
        case GaussianPrior():
            found = normal(derive(seed, "gaussian"), ids, (size,)) * spec.deviation
        case MixturePrior() | SwissRollPrior():
            part = drawn_parts(spec, count, seed, parts)
            pairs = size // 2
            noise = normal(derive(seed, "pairs"), ids, (pairs, 2))
            along = uniform(derive(seed, "along"), ids, (pairs,))
            found = _pairs(spec, part.cpu()[:, None].expand(-1, pairs), along, noise).flatten(1)
        case _:
            raise TypeError(f"no draws of {type(spec).__name__}")
    return found.to(device) if device is not None else found


def drawn_parts(spec: PriorSpec, count: int, seed: int, parts: Tensor | None = None) -> Tensor:
    """The part of each of `count` draws, int64 (count,): those that `parts` names, others drawn."""
    each = uniform(derive(seed, "parts"), torch.arange(count), ())
    any_part = (each * spec.components).long().clamp_max(spec.components - 1)
    if parts is None:
        return any_part
    named = parts.cpu()
    return torch.where(named < 0, any_part, named).to(parts.device)


def _pairs(spec: PriorSpec, part: Tensor, along: Tensor, noise: Tensor) -> Tensor:
    """Points of the plane, (N, P, 2), in the parts (N, P); `along`, uniform, (N, P), and `noise`,
    standard normal, (N, P, 2), are what is drawn."""
    if isinstance(spec, MixturePrior):
        angle = part * (2 * math.pi / spec.gaussians)
        away = spec.distance + noise[..., 0] * spec.along
        beside = noise[..., 1] * spec.across
        x = away * angle.cos() - beside * angle.sin()
        return torch.stack([x, away * angle.sin() + beside * angle.cos()], -1)
    assert isinstance(spec, SwissRollPrior)
    return _rolled(spec, (part + along) / spec.sections) + noise * spec.noise


def _rolled(spec: SwissRollPrior, share: Tensor) -> Tensor:
    """The points of the band at a share of it, 0 (inside) to 1, (..., 2). A spiral's length grows
    with the square of its radius, but near the middle, so that equal shares are about as long."""
    out = share.sqrt()
    angle = out * (2 * math.pi * spec.turns)
    return torch.stack([angle.cos(), angle.sin()], -1) * (out * spec.radius)[..., None]


def scores_of_parts(spec: PriorSpec, codes: Tensor) -> Tensor:
    """How likely each part is that a code is from: log densities up to a constant, (N, parts)."""
    pairs = codes.unflatten(1, (-1, 2))
    match spec:
        case MixturePrior():
            angle = torch.arange(spec.gaussians, device=codes.device) * (
                2 * math.pi / spec.gaussians
            )
            x, y = pairs[..., 0, None], pairs[..., 1, None]
            away = x * angle.cos() + y * angle.sin() - spec.distance
            beside = y * angle.cos() - x * angle.sin()
            exponent = (away / spec.along) ** 2 + (beside / spec.across) ** 2
            densities: Tensor = -exponent.sum(1) / 2
            return densities
        case SwissRollPrior():
            count = spec.sections
            share = (torch.arange(count * PLACES, device=codes.device) + 0.5) / (count * PLACES)
            band = _rolled(spec, share)
            squared = (pairs[:, :, None] - band).square().sum(-1) / spec.noise**2
            nearest: Tensor = (-squared / 2).unflatten(2, (count, PLACES)).logsumexp(3).sum(1)
            return nearest
        case _:
            raise TypeError(f"{type(spec).__name__} has no parts")
