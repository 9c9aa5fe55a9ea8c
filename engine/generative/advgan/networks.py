"""The generator of AdvGAN, and its critic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.generative.spec.advgan import AdvGanGenerator

Shape = tuple[int, int, int]

LEAST_SIDE = 4
"""Of images that are halved twice."""


class Perturber(nn.Module):
    """Images, float32 (N, C, H, W) in [0, 1], to what is added to them, within eps of 0.

    Two convolutions of stride 2, residual blocks, and back, with normalisation of each image by
    itself: what an image gets depends on no other. Raises BadInput for images that are too small.
    """

    def __init__(self, spec: AdvGanGenerator, shape: Shape) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < LEAST_SIDE:
            raise BadInput(
                f"images of {height} x {width} cannot be halved twice; an AdvGAN's generator needs "
                f"at least {LEAST_SIDE} x {LEAST_SIDE}"
            )
        self.shape = shape
        self.eps = spec.eps
        w = spec.width
        down = [*_layer(channels, w, 1), *_layer(w, 2 * w, 2), *_layer(2 * w, 4 * w, 2)]
        middle = [_Block(4 * w) for _ in range(spec.blocks)]
        sides = [(height, width), (-(-height // 2), -(-width // 2))]
        up: list[nn.Module] = []
        for i, (given, out) in enumerate(((4 * w, 2 * w), (2 * w, w))):
            up += [nn.Upsample(sides[1 - i], mode="nearest"), *_layer(given, out, 1)]
        self.layers = nn.Sequential(*down, *middle, *up, nn.Conv2d(w, channels, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        change: Tensor = self.layers(images).tanh() * self.eps
        return change


def _layer(given: int, out: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(given, out, 3, stride, padding=1, bias=False),
        nn.GroupNorm(math.gcd(out, 8), out),
        nn.ReLU(),
    ]


class _Block(nn.Module):
    """x + layers(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layer(width, width, 1), *_layer(width, width, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def critic(shape: Shape, width: int) -> nn.Module:
    """Tells images from changed ones: (N, C, H, W) to logits (N, 1), high for images."""
    channels, height, side = shape
    last = 2 * width * (-(-height // 4)) * (-(-side // 4))
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(last, 1),
    )


def changed(images: Tensor, change: Tensor) -> Tensor:
    """The images with the change, inside the box."""
    return torch.clamp(images + change, 0.0, 1.0)
