"""Whether the noise that a private training promised was there, from the canaries left out of it.

Where a gradient canary was left out, a step holds noise alone beyond the known gradients: let
x[i, t] be that of canary i of n in step t of T, in clipping norms. What was promised is that all of
them are drawn by themselves from a normal distribution of deviation s. Their squares then fall
apart, as in an analysis of variance of two ways, into sums that are independent by Cochran's
theorem, each s^2 times a chi-squared variable:

- A, of n degrees of freedom: over canaries, (sum over steps)^2 / T. It is what the noise of all
  steps comes to, and so what the final model holds.
- R, of (n - 1) (T - 1): what is left of the squares once each canary's mean over the steps and each
  step's mean over the canaries are taken off. It is nought where one vector is added at every step,
  or one number to all parameters. (Vectors that come again with other signs, or mixed from a few,
  leave it as large as it should be, and A as well: those nobody finds here.)

So there are three tests, exact for any n and T:

- `each_step`: R is as small as has at most this probability under the promise.
- `all_steps`: A is, as where the noise of one step takes off that of another.
- `between_steps`: A / n over R / ((n - 1) (T - 1)), which has an F distribution whatever s is, is
  as large as has at most this probability: noise comes again in other steps, as where a few vectors
  take turns. The accountant counts with draws that are independent.

The first two reject small values alone. Whatever a step holds beside the noise and independently of
it, as gradients that are not known, makes both larger in distribution (chi-squared variables that
are no longer central), so that a run whose noise is as promised is not rejected more often. The
third needs these gradients known, which they are: the training takes them off, to rounding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

TESTS = 3


class Check(NamedTuple):
    """One of the tests. `found` beside `promised`: the deviation of the noise in a step, in
    clipping norms; of `between_steps` the ratio of those that A and R show. It fails below `limit`
    (of `between_steps` above it); `p` is how likely so small, or so large, a value is if the
    promise was kept."""

    name: str
    promised: float
    found: float
    limit: float
    p: float
    fails: bool


def checks(
    score: Tensor, included: Tensor, noise: Tensor | None, promised: float, steps: int, error: float
) -> list[Check]:
    """Those that the record allows: none where no canary was left out.

    score: float (m,), the sums over the steps. included: bool (m,). noise: what the training kept
    of its noise (`engine.privacy.canaries`); without it A alone is looked at. promised: s. steps:
    T, where noise does not say. error: with what probability a promise that is kept fails any of
    them, at most; each of the three has an equal share."""
    from scipy.stats import chi2, f

    sums = score[~included.bool()].double()
    count, level = len(sums), error / TESTS
    told = torch.cat([sums, noise]) if noise is not None else sums
    if not count or not bool(told.isfinite().all()):
        return []
    if noise is not None:
        steps = int(noise[0])
    if steps < 1:
        return []

    def small(name: str, squares: float, degrees: int) -> Check:
        """Of a sum of squares that should be s^2 times a chi-squared variable."""
        p = float(chi2.cdf(squares / promised**2, degrees))
        found = math.sqrt(squares / degrees)
        limit = promised * math.sqrt(chi2.ppf(level, degrees) / degrees)
        return Check(name, promised, found, limit, p, p <= level)

    whole = float(sums.square().sum()) / steps
    over = small("all_steps", whole, count)
    if noise is None or min(count, steps) < 2:
        return [over]
    total, shared = noise[1:].tolist()
    rest = total - whole - shared / count + float(sums.sum()) ** 2 / (count * steps)
    degrees = (count - 1) * (steps - 1)
    each = small("each_step", max(0.0, rest), degrees)
    if not each.found:
        return [each, over]
    ratio = (over.found / each.found) ** 2
    p = float(f.sf(ratio, count, degrees))
    limit = math.sqrt(f.isf(level, count, degrees))
    return [each, over, Check("between_steps", 1.0, math.sqrt(ratio), limit, p, p <= level)]
