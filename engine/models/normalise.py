"""The first layer of every model: image units in, normalised values out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.data.split import Split

SAMPLE = 4096
"""Images that the statistics of a larger split are taken from."""

LEAST_STD = 1 / 255
"""One grey level: what a channel without any variation is divided by."""


class Normalise(nn.Module):
    """(images - mean) / std, per channel; the images are (N, C, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in image units.

    Over all images of the split, or SAMPLE evenly spaced ones of a larger one. The deviation is
    at least one grey level.
    """
    count = min(len(split), SAMPLE)
    index = torch.arange(count) * len(split) // count
    total = torch.zeros(split.shape[0], dtype=torch.float64, device=split.device)
    squares = torch.zeros_like(total)
    for _, images, _ in split.batches(index, 256):
        flat = images.transpose(0, 1).flatten(1)
        total += flat.sum(1, dtype=torch.float64)
        squares += flat.square_().sum(1, dtype=torch.float64)
    pixels = count * split.shape[1] * split.shape[2]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())
