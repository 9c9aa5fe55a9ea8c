"""The paired comparison that the checks of an evaluation rest on. Torch-free."""

from __future__ import annotations

import math


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947): how likely two attacks that are equally
    strong differ at least so much. `only_first` and `only_second` are the numbers of samples that
    one of them broke and the other did not; 1 if there are none."""
    total = only_first + only_second
    least = min(only_first, only_second)
    tail: int = sum(math.comb(total, k) for k in range(least + 1))
    return float(min(1.0, 2 * tail / 2**total))
