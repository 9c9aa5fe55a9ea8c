"""DiffAugment (Zhao et al. 2020): changes of real and generated images that gradients pass through,
so that the critic cannot learn the training images by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Change: TypeAlias = Literal["translation", "cutout", "colour"]

SHIFT = 1 / 8
"""Largest translation, as a share of the side."""

HOLE = 1 / 2
"""Side of what is cut out, as a share of the image's."""

DRAWS = 7
"""Numbers that are drawn for an image: brightness, saturation, contrast, two shifts, two places."""


def draws(count: int, generator: torch.Generator) -> Tensor:
    """What decides on the changes of `count` images: uniform (count, DRAWS)."""
    return torch.rand(count, DRAWS, generator=generator)


def changed(images: Tensor, kinds: Sequence[Change], drawn: Tensor) -> Tensor:
    """Images (..., C, H, W) in [-1, 1], each changed by its own draws, (..., DRAWS)."""
    shape = images.shape
    flat, own = images.reshape(-1, *shape[-3:]), drawn.reshape(-1, DRAWS).to(images.device)
    if "colour" in kinds:
        flat = _coloured(flat, own[:, :3])
    if "translation" in kinds:
        flat = _moved(flat, own[:, 3:5])
    if "cutout" in kinds:
        flat = _cut(flat, own[:, 5:])
    return flat.reshape(shape)


def _coloured(images: Tensor, drawn: Tensor) -> Tensor:
    """Brightness within a half, saturation up to twice (of colour images), contrast from a half to
    one and a half: of a range of 2, as the images have."""
    brightness, saturation, contrast = (drawn[:, k, None, None, None] for k in range(3))
    images = images + (brightness - 0.5)
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * (saturation * 2)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _moved(images: Tensor, drawn: Tensor) -> Tensor:
    """Shifted by whole pixels, with black coming in."""
    count, _, height, width = images.shape
    most = [round(side * SHIFT) for side in (height, width)]
    down, right = ((drawn[:, k] * (2 * m + 1)).long().clamp_(max=2 * m) for k, m in enumerate(most))
    padded = F.pad(images, (most[1], most[1], most[0], most[0]), value=-1.0)
    each = torch.arange(count, device=images.device)[:, None, None]
    rows = torch.arange(height, device=images.device)[None, :, None] + down[:, None, None]
    columns = torch.arange(width, device=images.device)[None, None] + right[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows, columns].permute(0, 3, 1, 2)


def _cut(images: Tensor, drawn: Tensor) -> Tensor:
    """With a square of grey, which may reach out of the image."""
    _, _, height, width = images.shape
    inside = []
    for k, side in enumerate((height, width)):
        hole = max(1, round(side * HOLE))
        start = (drawn[:, k] * (side + 1)).long() - hole // 2
        along = torch.arange(side, device=images.device) - start[:, None]
        inside.append((along >= 0) & (along < hole))
    cut = inside[0][:, :, None] & inside[1][:, None, :]
    kept: Tensor = images * (~cut)[:, None].to(images.dtype)
    return kept
