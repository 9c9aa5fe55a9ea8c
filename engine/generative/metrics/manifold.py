"""What part of the generated images looks real, and what part of the real ones is generated.

The real images' manifold is the union of balls around each, up to its k-th nearest neighbour.
Precision and recall are those of Kynkäänniemi et al. (2019, equations 1 and 2); density and
coverage those of Naeem et al. (2020, equations 3 and 4), which single outliers move less.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.events import Event, Progress, drain

NEIGHBOURS = 5
"""k of all four (Naeem et al. 2020, section 5.1; Kynkäänniemi et al. take 3)."""

BLOCK = 400_000
"""Distances that are held at a time."""


@dataclass(frozen=True, slots=True)
class Manifold:
    """Shares of 1, but for the density, which is 1 for the same distribution and may be more."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> Manifold:
    """Of features, (N, D) and (M, D). Raises BadInput where either has no k neighbours."""
    return drain(measuring(real, fake, drain(radii(real, k)), k))


def measuring(
    real: Tensor, fake: Tensor, around: Tensor, k: int = NEIGHBOURS
) -> Generator[Event, None, Manifold]:
    """The same, where the squared radii of the real ones are known; says how far it is."""
    others = yield from radii(fake, k)
    inside = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = 0, 0
    for start, apart in _blocks(real, fake):
        own = around[start : start + len(apart), None]
        within = apart <= own
        inside += within.sum(0)
        covered += int(within.any(1).sum())
        recalled += int((apart <= others).any(1).sum())
        yield Progress(start + len(apart), len(real), "images")
    return Manifold(
        precision=float((inside > 0).double().mean()),
        recall=recalled / len(real),
        density=float(inside.double().mean()) / k,
        coverage=covered / len(real),
    )


def radii(features: Tensor, k: int = NEIGHBOURS) -> Generator[Event, None, Tensor]:
    """The squared distance of each, (N, D), to its k-th nearest neighbour among the others, float64
    (N,). Raises BadInput where there are not as many."""
    if len(features) <= k:
        raise BadInput(
            f"the neighbourhood of an image goes up to its neighbour number {k}, and there are "
            f"{len(features)} images; take at least {k + 1}, or a smaller neighbourhood"
        )
    found = []
    for start, apart in _blocks(features, features):
        rows = torch.arange(len(apart), device=apart.device)
        apart[rows, rows + start] = torch.inf  # its own
        found.append(apart.topk(k, dim=1, largest=False).values[:, -1])
        yield Progress(start + len(apart), len(features), "images")
    return torch.cat(found)


def _blocks(first: Tensor, second: Tensor) -> Generator[tuple[int, Tensor], None, None]:
    """Squared distances of some of `first` to all of `second`, and where they begin. In float64 the
    product of matrices is exact enough, and the quickest way."""
    a, b = first.double(), second.double()
    own, other = a.square().sum(1, keepdim=True), b.square().sum(1)
    size = max(1, BLOCK // len(b))
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        yield start, torch.addmm(other, a[part], b.T, alpha=-2).add_(own[part])
