"""Where an axis ends and where its ticks stand."""

from __future__ import annotations

import math

GROWTH = 1.25
MOST = 7
"""As many steps between ticks as can be told apart at a glance, however long the axis."""
STILL = 1e-6
"""What varies by less than this share of its size stands still: that is rounding."""


def nice_step(span: float, count: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that gives about `count` ticks over `span`."""
    rough = span / min(max(count, 1), MOST)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def ticks(low: float, high: float, count: float, whole: bool = False) -> tuple[list[float], float]:
    """Round positions within [low, high], and the step between them. Only `whole` numbers where
    nothing is between them."""
    if not high > low:
        return [low], 1.0
    step = nice_step(high - low, count)
    if whole:
        step = max(step, 1.0)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)], step


def log_ticks(low: float, high: float, count: float) -> list[float]:
    """Round values between 10**low and 10**high: powers of ten, and 2 and 5 where they are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    count = min(max(count, 1), MOST)
    every = max(1, math.ceil((high - low) / count))

    def within(values: list[float]) -> list[float]:
        return [v for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]

    values = within([10.0**d for d in decades if d % every == 0])
    if 3 * (high - low) <= count or len(values) < 2:
        values = within([m * 10.0**d for d in decades for m in (1, 2, 5)])
    return values or [10.0 ** ((low + high) / 2)]


def spread(
    low: float, high: float, log: bool = False, percent: bool = False
) -> tuple[float, float]:
    """The range itself; where it stands still, a range around it that has sensible ticks. Of
    logarithms to base ten if `log`, of fractions if `percent`."""
    if not high - low <= STILL * max(abs(low), abs(high)):
        return low, high
    middle = (low + high) / 2
    if log:
        return middle - 0.5, middle + 0.5
    if middle == 0:
        return 0.0, 1.0
    room = abs(middle) * 0.1
    fraction = percent and 0 < middle <= 1 + STILL
    return middle - room, min(middle + room, 1.0) if fraction else middle + room


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """The range a little wider on both sides, and never empty."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    low, high = spread(low, high)
    room = (high - low) * share
    return _above_zero(low - room, low), high + room


def _above_zero(end: float, low: float) -> float:
    """The lower end of an axis: not below zero for what is never below it."""
    return max(end, 0.0) if low >= 0 else end


def grown(now: tuple[float, float] | None, low: float, high: float) -> tuple[float, float]:
    """The range `now`, widened where [low, high] leaves it, by more than it needs: so a live
    curve's axes move seldom. A range far wider than its contents is given up."""
    wanted = padded(low, high)
    if now is None:
        return wanted
    left, right = now
    span = wanted[1] - wanted[0]
    if right - left > 6 * span:
        return wanted
    if low < left:
        left = _above_zero(high - (high - low) * GROWTH, low)
    if high > right:
        right = low + (high - low) * GROWTH
    return left, right
