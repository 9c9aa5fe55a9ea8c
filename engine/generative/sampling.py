"""Latents, and samples of a generator. Draws belong to a sample: see `engine.random`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.generative.spec.base import Latent
from engine.random import derive, normal, uniform

BATCH = 500


def latents(latent: Latent, seed: int, ids: Tensor) -> Tensor:
    """The latents of the samples `ids`, int64 (N,): float32 (N, width)."""
    if latent.distribution == "normal":
        drawn = normal(derive(seed, "latent"), ids, (latent.size,))
    else:
        drawn = uniform(derive(seed, "latent"), ids, (latent.size,)).mul_(2).sub_(1)
    return with_codes(latent, drawn, uniform(derive(seed, "code"), ids, (1,))[:, 0])


def with_codes(latent: Latent, drawn: Tensor, share: Tensor) -> Tensor:
    """The continuous part, (..., size), and the code that each share in [0, 1), (...), stands
    for."""
    if not latent.codes:
        return drawn
    made = drawn.new_zeros(*share.shape, latent.width)
    made[..., : latent.size] = drawn
    place = (share * latent.codes).long().add_(latent.size)
    return made.scatter_(-1, place[..., None], latent.code_scale)


def even_labels(ids: Tensor, classes: int) -> Tensor | None:
    """Classes in turn, int64 (N,); None where there are none."""
    return ids % classes if classes else None


def samples(
    generator: nn.Module,
    latent: Latent,
    seed: int,
    count: int,
    classes: int = 0,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`count` samples, (B, C, H, W), and their labels in parts, of a generator in eval mode; told
    `classes` in turn where there are any."""
    for ids in torch.arange(count, device=device).split(BATCH):
        labels = even_labels(ids, classes)
        with torch.no_grad():
            yield generator(latents(latent, seed, ids), labels), labels
