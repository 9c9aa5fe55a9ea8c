"""What many noisy steps give away together: privacy loss distributions, tilted, composed by FFT.

The step is the Poisson-sampled Gaussian mechanism: a sum of vectors no longer than 1, each in it
with probability `rate`, plus noise of deviation `noise`. Its loss is laid on a grid so that every
hockey stick divergence is at least the true one (connect the dots: Doroshenko, Ghazi, Kamath, Kumar
and Manurangsi 2022, algorithm 1), which composition keeps. Before the losses are convolved they are
tilted (multiplied by exp(t * loss), scaled to sum to 1) so that their bulk lies near the answer:
what the FFT rounds off is then small beside delta, whatever delta is, and the grid is no longer
than that bulk. What lies outside of it is bounded (Chernoff 1952), what may have been rounded off
is added: the result is not below the truth.

dp-accounting's accountant does the same without the tilt. Its figure is the one that is shown (see
`engine.privacy.accounting`); this one answers where there are hundreds of questions, as for a
curve, and where that one's grid or rounding is too coarse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from scipy import fft, signal, special

Floats: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

Spectrum: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.complex128]]

NOUGHT = 60.0
"""Minus the logarithm of what is nothing beside 1, even a million times."""

RATIO = 1.15
"""Between one tilt that is tried and the next."""

LEFT_OUT = 1e-8
"""Share of delta that may lie above the grid, and below it."""

SLACK = 1e-7
"""Share of delta that is given up for what is left out and rounded off."""

NEAR = 6.0
"""How far below the tilted bulk, in units of 1 / tilt, the answer mostly lies at least."""

FAR = 15.0
"""How far apart, in units of 1 / tilt, the answer and the tilted bulk may lie before a weaker tilt
is tried as well."""

MOST_POINTS = 1 << 19
"""Of one step's grid. Where it would need more it is coarser, and epsilon a little too high."""

ROUNDED = 8 * 2.0**-53
"""What one operation of the FFT and of the power may be off by, generously."""

_GRID = 64


@dataclass(frozen=True, eq=False)
class Losses:
    """The privacy loss of one step on a grid: `start + i` intervals with mass exp(log_mass[i]), and
    `infinite` for what is cut off."""

    interval: float
    start: int
    log_mass: Floats
    infinite: float
    _logs: dict[int, float] = field(default_factory=dict)

    def log_moment(self, tilt: int) -> float:
        """log E[exp(t * loss)] at t = RATIO**tilt, of what is not cut off."""
        if tilt not in self._logs:
            self._logs[tilt] = self._log_moment(RATIO**tilt)
        return self._logs[tilt]

    def tried(self) -> list[int]:
        return list(self._logs)

    def _log_moment(self, t: float) -> float:
        exponents = self._exponents(t)
        most = float(exponents.max())
        return most + math.log(float(np.exp(exponents - most).sum()))

    def tilted(self, tilt: int) -> Floats:
        return np.exp(self._exponents(RATIO**tilt) - self.log_moment(tilt))

    def _exponents(self, t: float) -> Floats:
        places = np.arange(self.start, self.start + len(self.log_mass), dtype=np.float64)
        return self.log_mass + places * (t * self.interval)


Parts: TypeAlias = Sequence[tuple[Losses, int]]
"""Steps that are composed: the loss of one, and how many there are. All on one interval."""


@lru_cache(maxsize=256)
def deviation(noise: float, rate: float) -> float:
    """Standard deviation of one step's privacy loss, for a sample removed."""
    points, weights = np.polynomial.hermite_e.hermegauss(_GRID)
    weights = weights / weights.sum()
    first = second = 0.0
    for centre, share in ((0.0, 1.0 - rate), (1.0, rate)):
        loss = _loss(centre + noise * points, noise, rate)
        first += share * float(weights @ loss)
        second += share * float(weights @ loss**2)
    return math.sqrt(max(0.0, second - first**2))


@lru_cache(maxsize=8)
def losses(noise: float, rate: float, interval: float, log_tail: float) -> tuple[Losses, ...]:
    """Of one step, for a sample removed and for one added; without sampling they are the same.

    noise > 0; rate in (0, 1]; log_tail: logarithm of the mass that may be cut off."""
    removed = _dots(noise, rate, interval, log_tail, added=False)
    if rate == 1.0:
        return (removed,)
    return removed, _dots(noise, rate, interval, log_tail, added=True)


def span(noise: float, rate: float, log_tail: float) -> float:
    """From the smallest to the largest loss that is not cut off."""
    low, high = _ends(noise, rate, log_tail)
    return high - low


def compose(parts: Parts, delta: float) -> float:
    """An epsilon, at most a little above the smallest one, with which the steps together are
    (epsilon, delta)-differentially private. inf where what is cut off exceeds delta."""
    parts = [(step, count) for step, count in parts if count > 0]
    if not parts:
        return 0.0
    lost = -math.expm1(sum(count * math.log1p(-step.infinite) for step, count in parts))
    budget = delta * (1.0 - SLACK) - lost
    if budget <= 0.0:
        return math.inf
    log_delta = math.log(delta)
    tilt = _best(parts, log_delta, _guess(parts, log_delta))
    least = math.inf
    while True:
        found = _epsilon(parts, delta, budget, tilt)
        if found >= least:  # each is an upper bound
            return least
        least = found
        if RATIO**tilt * (_bound(parts, log_delta, tilt) - least) < FAR:
            return least
        tilt -= 4


def _epsilon(parts: Parts, delta: float, budget: float, tilt: int) -> float:
    """Epsilon by one tilt.

    The FFT lays what is beyond the grid onto it, a multiple of the grid's length away. What comes
    from below shrinks by exp(t * length) on its way up: next to nothing is left of it if the grid
    is long. What comes from above grows by as much: there is next to nothing of it if the grid
    reaches far enough."""
    t, interval = RATIO**tilt, parts[0][0].interval
    middle = _bound(parts, math.log(delta), tilt)
    length = -math.log(delta * LEFT_OUT) / t
    end = sum(count * (step.start + len(step.log_mass) - 1) for step, count in parts)
    above_tilt = tilt
    while True:
        size = fft.next_fast_len(math.ceil(length / interval) + 2, real=True)
        rest = math.log(delta * LEFT_OUT) - t * size * interval
        above_tilt = _best(parts, rest, above_tilt)
        # Of a few steps the bound goes on and on, and the losses do not.
        last = min(end, math.ceil(_bound(parts, rest, above_tilt) / interval))
        first = last - size + 1
        if first * interval > max(0.0, middle - NEAR / t):
            length *= 1.2
            continue
        at = np.arange(first, last + 1) * interval - middle
        wanted = budget / delta
        with np.errstate(over="ignore", invalid="ignore"):  # far below the answer
            # In units of delta: at the bound, t * middle is the moment less log(delta).
            mass = (_convolved(parts, tilt, first, size) * np.exp(-t * at))[::-1]
            upper = np.cumsum(mass)[::-1]
            lower: Floats = signal.lfilter([1.0], [1.0, -math.exp(-interval)], mass)[::-1]
            place = int(np.argmax(np.isfinite(upper) & (upper - lower <= wanted)))
        if place > 0 or first <= 0:
            break
        length *= 1.5
    # From the point before to this one, delta is upper - exp(epsilon - loss) * lower.
    over = float(upper[place]) - wanted
    beyond = math.log(over) - math.log(float(lower[place])) if over > 0.0 else -math.inf
    return max(0.0, float((first + place) * interval + max(beyond, -interval)))


# --- one step -------------------------------------------------------------------------------------


def _loss(x: Floats, noise: float, rate: float) -> Floats:
    """log of the density with the sample over that without it, at `x` along its direction."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-rate), math.log(rate) + (x - 0.5) / noise**2)


def _ends(noise: float, rate: float, log_tail: float) -> tuple[float, float]:
    reach = -noise * float(special.ndtri_exp(log_tail))
    low, high = _loss(np.array([-reach, 1.0 + reach]), noise, rate)
    return float(low), float(high)


def _dots(noise: float, rate: float, interval: float, log_tail: float, added: bool) -> Losses:
    low, high = _ends(noise, rate, log_tail)
    if added:
        low, high = -high, -low
    start, stop = math.floor(low / interval), math.ceil(high / interval)
    grid: Floats = np.arange(start, stop + 1) * np.float64(interval)
    deltas = (_delta_added if added else _delta_removed)(grid, noise, rate)
    steps = np.diff(np.minimum.accumulate(deltas))
    mass = np.empty(len(deltas))
    mass[1:-1] = (steps[:-1] - math.exp(-interval) * steps[1:]) / math.expm1(-interval)
    mass[-1] = steps[-1] / math.expm1(-interval)
    np.maximum(mass, 0.0, out=mass)
    infinite = float(deltas[-1])
    mass[0] = max(0.0, 1.0 - infinite - float(mass[1:].sum()))
    with np.errstate(divide="ignore"):
        return Losses(interval, start, np.log(mass), infinite)


def _delta_removed(epsilon: Floats, noise: float, rate: float) -> Floats:
    """The hockey stick divergence of q N(1, s^2) + (1 - q) N(0, s^2) from N(0, s^2)."""
    found = -np.expm1(np.minimum(epsilon, 0.0))
    free = epsilon > math.log1p(-rate) if rate < 1.0 else np.full(len(epsilon), True)
    odds = _odds(epsilon[free], rate)
    x = noise**2 * (odds - math.log(rate)) + 0.5
    gained = rate * special.ndtr((1.0 - x) / noise)
    found[free] = np.maximum(0.0, gained - np.exp(odds + special.log_ndtr(-x / noise)))
    return found


def _delta_added(epsilon: Floats, noise: float, rate: float) -> Floats:
    """That of N(0, s^2) from q N(1, s^2) + (1 - q) N(0, s^2)."""
    found = np.zeros(len(epsilon))
    free = epsilon < -math.log1p(-rate)
    e = epsilon[free]
    odds = _odds(-e, rate)
    x = noise**2 * (odds - math.log(rate)) + 0.5
    gained = np.exp(e + odds + special.log_ndtr(x / noise))
    found[free] = np.maximum(0.0, gained - rate * np.exp(e + special.log_ndtr((x - 1.0) / noise)))
    return found


def _odds(epsilon: Floats, rate: float) -> Floats:
    """log(exp(epsilon) - 1 + rate), also where the terms nearly cancel or exceed a float."""
    if rate == 1.0:
        return epsilon
    return epsilon + np.log(-np.expm1(math.log1p(-rate) - epsilon))


# --- many -----------------------------------------------------------------------------------------


def _moment(parts: Parts, tilt: int) -> float:
    return sum(count * step.log_moment(tilt) for step, count in parts)


def _bound(parts: Parts, log_delta: float, tilt: int) -> float:
    """The epsilon beyond which no more than delta of the loss's mass lies (Chernoff)."""
    return (_moment(parts, tilt) - log_delta) / RATIO**tilt


def _guess(parts: Parts, log_delta: float) -> int:
    """Of the tilts that were tried before, the best."""
    tried = max((step.tried() for step, _ in parts), key=len)
    return min(tried, key=lambda tilt: _bound(parts, log_delta, tilt), default=0)


def _best(parts: Parts, log_delta: float, tilt: int) -> int:
    """The tilt with the smallest bound: it has one minimum, which is walked to."""
    here = _bound(parts, log_delta, tilt)
    for way in (8, -8, 1, -1):
        while abs(tilt + way) < 400 and (there := _bound(parts, log_delta, tilt + way)) < here:
            tilt, here = tilt + way, there
    return tilt


def _convolved(parts: Parts, tilt: int, first: int, size: int) -> Floats:
    """The tilted mass of all steps' sum, at `first` and the `size - 1` intervals after it, and what
    rounding may have taken from it."""
    product: Spectrum | None = None
    start = 0
    for step, count in parts:
        mass = step.tilted(tilt)
        rows = -(-len(mass) // size)
        folded = np.zeros(rows * size)
        folded[: len(mass)] = mass
        spectrum = fft.rfft(folded.reshape(rows, size).sum(0))
        power = _power(spectrum, count)
        product = power if product is None else product * power
        start += step.start * count
    around: Floats = fft.irfft(product, size)
    rounded = ROUNDED * (64 + sum(count for _, count in parts)) / size
    return np.maximum(np.roll(around, (start - first) % size), 0.0) + rounded


def _power(spectrum: Spectrum, count: int) -> Spectrum:
    """spectrum**count, its terms below exp(-NOUGHT) left out: of many steps nearly all of them."""
    logs = np.log(np.maximum(spectrum.real**2 + spectrum.imag**2, 1e-300))
    left = logs > -2.0 * NOUGHT / count
    found = np.zeros_like(spectrum)
    found[left] = spectrum[left] ** count
    return found
