"""Where an axis ends and where its ticks stand."""

from __future__ import annotations

import math

GROWTH = 1.25


def nice_step(span: float, count: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that gives about `count` ticks over `span`."""
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def ticks(low: float, high: float, count: float) -> tuple[list[float], float]:
    """Round positions within [low, high], and the step between them."""
    if not high > low:
        return [low], 1.0
    step = nice_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)], step


def log_ticks(low: float, high: float, count: float) -> list[float]:
    """Round values between 10**low and 10**high: powers of ten, and 2 and 5 where they are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    every = max(1, math.ceil((high - low) / max(count, 1)))
    values = [10.0**d for d in decades if d % every == 0]
    if high - low < count / 2:
        values = sorted(m * 10.0**d for d in decades for m in (1, 2, 5))
    within = [v for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    return within or [10.0 ** ((low + high) / 2)]


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """The range a little wider on both sides, and never empty."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    room = (high - low) * share or max(abs(high) * 0.1, 1e-9)
    return low - room, high + room


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
        left = high - (high - low) * GROWTH
    if high > right:
        right = low + (high - low) * GROWTH
    return left, right
