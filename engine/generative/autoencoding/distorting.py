"""Where things are in an image, changed at random: one affine map an image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.generative.spec.autoencoder import Distortion
from engine.random import uniform


def distort(images: Tensor, ids: Tensor, spec: Distortion, seed: int) -> Tensor:
    """Changed copies of images, float32 (N, C, H, W); zeros come in from outside. The draws of an
    image depend on the seed and its id, int64 (N,), alone."""
    if spec.nothing:
        return images
    _, _, height, width = images.shape
    draws = uniform(seed, ids.to(images.device), (6,)).mul_(2).sub_(1)
    turn = draws[:, 0] * math.radians(spec.rotation)
    across, down = (1 + draws[:, 1:3] * spec.scale).unbind(1)
    shear = draws[:, 3] * spec.shear
    cos, sin = turn.cos(), turn.sin()
    rows = torch.stack(
        [
            *(cos * across, (shear - sin) * across, draws[:, 4] * (2 * spec.shift / width)),
            *(sin * down, cos * down, draws[:, 5] * (2 * spec.shift / height)),
        ],
        1,
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
