"""The nearest training image of each sample, and whether samples are nearer to the training images
than they should be (memorisation).

Of a generator that has learnt the distribution, samples are no nearer to the training images than
images are that were kept aside. What is compared is a ratio: the distance to the nearest training
image over that to the nearest image kept aside. Blurry samples are near to both, so that it does
not take blur for memory. How the ratio lies without memory is seen on images kept aside: one half
of them is judged as the samples are, with the other half to compare with. That takes care of the
sets' sizes, and of duplicates in the data. The rank test of the ratios is that of Meehan, Chaudhuri
and Dasgupta (2020, section 3), who compare the distances themselves.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput

UNUSUAL = 0.01
"""Share of images kept aside whose ratio is below what counts as memorised."""

LEAST = 40
"""Images kept aside, without which the ratio's distribution is not known."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """place: int64 (N,), of the nearest in the pool. distance: Euclidean, float32 (N,)."""

    place: Tensor
    distance: Tensor


def nearest(samples: Tensor, pool: Tensor, block: int = 2048) -> Nearest:
    """Of `samples`, (N, ...), in `pool`, (M, ...), each flattened. Raises BadInput for an empty
    pool."""
    search = Search(samples)
    for part in pool.split(block):
        search.among(part)
    return search.found()


class Search:
    """A search through a pool that comes in parts, in the order of its places."""

    def __init__(self, samples: Tensor) -> None:
        """samples: (N, ...)."""
        self._samples = samples.flatten(1).float()
        self._sizes = self._samples.square().sum(1, keepdim=True)
        self._best = torch.full((len(samples),), math.inf, device=samples.device)
        self._place = torch.zeros(len(samples), dtype=torch.int64, device=samples.device)
        self._seen = 0

    def among(self, part: Tensor) -> None:
        """Look among the next of the pool, (B, ...)."""
        if not len(part):
            return
        values = part.flatten(1).to(self._samples)
        near = torch.addmm(self._sizes + values.square().sum(1), self._samples, values.T, alpha=-2)
        squared, place = near.min(1)
        # Products of matrices lose a small distance in rounding: that of the nearest is taken anew.
        exact = (self._samples - values[place]).square().sum(1)
        nearer = exact < self._best
        self._best = torch.where(nearer, exact, self._best)
        self._place = torch.where(nearer, place + self._seen, self._place)
        self._seen += len(part)

    def found(self) -> Nearest:
        if not self._seen:
            raise BadInput("there is no image to find a nearest one among; take a set that has any")
        return Nearest(self._place, self._best.sqrt())


@dataclass(frozen=True, slots=True)
class Memory:
    """What the ratios say.

    ratio: float32 (N,), of each sample, distance to the nearest training image over that to the
    nearest one kept aside. usual: median ratio of images kept aside. threshold: the ratio that
    one in a hundred of them is below. memorised: the share of samples below it; .01 is none.
    p_value: how probable ratios as low as these, or lower, are where nothing is memorised; one
    sided.
    """

    ratio: Tensor
    usual: float
    threshold: float
    memorised: float
    p_value: float


def memory(samples: Iterable[Tensor], aside: Iterable[Tensor]) -> Memory:
    """From the distances, (N,), of the samples, and of one half of the images kept aside, each to
    the nearest training image and to the nearest of the other half."""
    to_train, to_other = samples
    own_train, own_other = aside
    ratio, usual = _ratio(to_train, to_other), _ratio(own_train, own_other)
    threshold = float(usual.double().quantile(UNUSUAL))
    return Memory(
        ratio=ratio,
        usual=float(usual.median()),
        threshold=threshold,
        memorised=float((ratio < threshold).double().mean()),
        p_value=_rank_test(ratio, usual),
    )


def halves(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of the images kept aside, in two halves. Raises BadInput if they are too few."""
    if count < LEAST:
        raise BadInput(
            f"whether samples are memorised is told from images that were kept aside, and there "
            f"are {count}; expected at least {LEAST}"
        )
    order = torch.randperm(count, generator=draw)
    return order[: count // 2].sort().values, order[count // 2 :].sort().values


def _ratio(first: Tensor, second: Tensor) -> Tensor:
    """Of two distances; where both are 0 it is 1."""
    least = torch.finfo(first.dtype).tiny
    return torch.where(first == second, 1.0, first / second.clamp_min(least))


def _rank_test(lower: Tensor, higher: Tensor) -> float:
    """How probable ranks as low as those of `lower`, (N,), among both are by chance: the test of
    Mann and Whitney (1947), by its normal limit, corrected for ties and continuity."""
    first, ordered = lower.double().cpu(), higher.double().cpu().sort().values
    below = torch.searchsorted(ordered, first, side="left")
    upto = torch.searchsorted(ordered, first, side="right")
    wins = float((below + upto).double().sum()) / 2
    n, m = len(first), len(ordered)
    ties = torch.cat([first, ordered]).unique(return_counts=True)[1].double()
    tied = float((ties**3 - ties).sum()) / ((n + m) * (n + m - 1))
    deviation = math.sqrt(max(n * m / 12 * (n + m + 1 - tied), 0.0))
    if not deviation:  # all are alike
        return 1.0
    return 0.5 * math.erfc(-(wins - n * m / 2 + 0.5) / deviation / math.sqrt(2))


def looking(search: Search, parts: Iterable[Tensor]) -> Generator[int, None, Nearest]:
    """A search that says how many of the pool it has seen."""
    for part in parts:
        search.among(part)
        yield search._seen
    return search.found()
