"""How well a score tells members from others: the curve of true over false positives, and its
figures, each with an interval.

A sample is taken for a member where its score is at least a threshold. Samples of equal score are
told apart by no threshold, so that they enter the curve together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

RATES = (0.001, 0.01)
"""False positives at which true ones are told."""
FLOOR = 1e-4
"""Where a curve on log axes begins."""
DRAWN = 200
"""Points of a curve that is drawn, at most."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One point a threshold, from the strictest on: shares of the others and of the members that
    are taken for members, float64 (T,), both beginning with 0 and ending with 1."""

    false: NDArray[np.float64]
    true: NDArray[np.float64]
    members: int
    others: int

    @property
    def auc(self) -> float:
        """Area under it: how likely a member scores higher than another, half of a tie counted."""
        return float(np.trapezoid(self.true, self.false))

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of both that are told right, at the best threshold for these samples:
        an upper estimate."""
        return float(((self.true + 1 - self.false) / 2).max())

    def found(self, rate: float) -> int:
        """Members above the lowest threshold with a share of false positives of at most `rate`."""
        place = int((self.false <= rate).nonzero()[0][-1])
        return round(float(self.true[place]) * self.members)

    def true_rate(self, rate: float) -> tuple[float, float, float]:
        """The share of members that are found at `rate`, and its 95 % interval (Clopper and
        Pearson 1934), the threshold taken as given."""
        hits = self.found(rate)
        return hits / self.members, *clopper_pearson(hits, self.members)

    def points(self) -> list[tuple[float, float]]:
        """The curve as it is drawn on log axes: evenly spaced there, ends included, and all that is
        found without a single false positive."""
        if len(self.false) <= DRAWN:
            return list(zip(self.false.tolist(), self.true.tolist(), strict=True))
        wanted = np.append(0.0, np.geomspace(max(FLOOR, 1 / self.others), 1.0, DRAWN - 2))
        places = np.searchsorted(self.false, wanted, side="right") - 1
        places = np.unique(np.concatenate([[0], places, [len(self.false) - 1]]))
        return [(float(self.false[p]), float(self.true[p])) for p in places]


def curve(scores: Tensor, member: Tensor) -> Curve:
    """Of scores, (N,), the higher the likelier a member, and who is one, bool (N,). A score that is
    no number is the lowest."""
    values = scores.double().cpu().numpy()
    values = np.where(np.isnan(values), -np.inf, values)
    truth = member.cpu().numpy().astype(bool)
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], truth[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    true = np.concatenate([[0], np.cumsum(hits)[last]])
    false = np.concatenate([[0], np.cumsum(~hits)[last]])
    members, others = int(truth.sum()), int((~truth).sum())
    return Curve(false / max(1, others), true / max(1, members), members, others)


def auc_interval(scores: Tensor, member: Tensor) -> tuple[float, float]:
    """95 % interval of the area (DeLong, DeLong and Clarke-Pearson 1988), by its normal limit;
    where every pair is told alike, by Clopper and Pearson's on the fewer of both."""
    from scipy.stats import norm, rankdata

    values = scores.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    inside = values[member].cpu().numpy()
    outside = values[~member].cpu().numpy()
    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[:m] - rankdata(inside)) / n  # share of the others that each member is above
    below = 1 - (ranks[m:] - rankdata(outside)) / m
    area = float(above.mean())
    if m < 2 or n < 2:
        return 0.0, 1.0
    deviation = math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    if deviation == 0:
        fewer = min(m, n)
        return clopper_pearson(round(area * fewer), fewer)
    reach = float(norm.ppf(0.975)) * deviation
    return max(0.0, area - reach), min(1.0, area + reach)


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    if not count:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high
