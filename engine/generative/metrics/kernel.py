"""Kernel distance of two sets of features (KID): the squared maximum mean discrepancy under a
polynomial kernel, without bias (Bińkowski et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput

SUBSETS, SIZE = 50, 1000
"""Pairs of subsets that the distance is the mean of, and how many images each has at most: half of
the smaller set, or all subsets would be alike."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The mean over subsets, and their standard deviation. 0 is the same distribution; being
    unbiased, it may fall below."""

    distance: float
    spread: float
    subsets: int
    size: int


def kernel_distance(real: Tensor, fake: Tensor, draw: torch.Generator) -> Kernel:
    """Of features, (N, D) and (M, D). Raises BadInput for fewer than four of either."""
    return summed(list(subset_distances(real, fake, draw)), subset_size(real, fake))


def subset_size(real: Tensor, fake: Tensor) -> int:
    """Raises BadInput where subsets would have less than two images."""
    size = min(SIZE, len(real) // 2, len(fake) // 2)
    if size < 2:
        raise BadInput(
            f"a kernel distance is of at least four images of either kind, and there are "
            f"{len(real)} real and {len(fake)} generated ones; take more"
        )
    return size


def subset_distances(real: Tensor, fake: Tensor, draw: torch.Generator) -> Iterator[float]:
    """The distance of one pair of subsets after another."""
    size = subset_size(real, fake)
    first, second = real.double(), fake.double()
    for _ in range(SUBSETS):
        one = torch.randperm(len(first), generator=draw)[:size].to(first.device)
        other = torch.randperm(len(second), generator=draw)[:size].to(second.device)
        yield mmd2(first[one], second[other])


def summed(distances: list[float], size: int) -> Kernel:
    values = torch.tensor(distances, dtype=torch.float64)
    spread = float(values.std(correction=0))
    return Kernel(float(values.mean()), spread, len(distances), size)


def mmd2(first: Tensor, second: Tensor) -> float:
    """The unbiased estimate of the squared discrepancy of (N, D) and (M, D), N and M at least 2,
    under (x.y / D + 1)^3 (Gretton et al. 2012, equation 3)."""
    n, m = len(first), len(second)
    inside = _others(first) / (n * (n - 1))
    there = _others(second) / (m * (m - 1))
    return float(inside + there - 2 * _kernel(first @ second.T, first.shape[1]).mean())


def _others(values: Tensor) -> Tensor:
    """The sum over all pairs of two different ones."""
    every = _kernel(values @ values.T, values.shape[1])
    return every.sum() - every.trace()


def _kernel(dots: Tensor, dimensions: int) -> Tensor:
    """In the memory of the products."""
    dots.div_(dimensions).add_(1)
    return dots.mul_(dots.square())
