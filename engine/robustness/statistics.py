"""The exact tests that the checks of an evaluation rest on. Torch-free."""

from __future__ import annotations

import math

SIGNIFICANT = 0.01
"""Only below this probability is anything flagged."""
DISCORDANT = 8
"""Samples that two attacks have to differ on, all one way, before McNemar's test can be
significant: 2 / 2^7 is above .01, 2 / 2^8 below."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947): how likely two attacks that are equally
    strong differ at least so much. `only_first` and `only_second` are the numbers of samples that
    one of them broke and the other did not; 1 if there are none."""
    total = only_first + only_second
    least = min(only_first, only_second)
    tail: int = sum(math.comb(total, k) for k in range(least + 1))
    return float(min(1.0, 2 * tail / 2**total))


def at_least(hits: int, total: int, share: float) -> float:
    """One-sided exact p-value of the binomial test: how likely `hits` of `total` samples or more
    misbehave where each does with a chance of `share`."""
    below = sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(hits))
    return min(1.0, max(0.0, 1.0 - below))
