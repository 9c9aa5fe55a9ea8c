"""How much privacy noisy steps cost: epsilon at a delta.

The step is that of DP-SGD and of private federated averaging: a sum of vectors clipped to one norm,
each member's vector in it with probability `sample_rate` (Poisson sampling: each by itself), plus
Gaussian noise of `noise_multiplier` times that norm. Neighbours differ in one member, added or
removed; a member is a sample, or a client, whatever the vectors belong to.

Three accountants, all of them upper bounds:

- `pld`, the figure that is shown: privacy loss distributions by Google's dp-accounting, rounded up
  on a grid (connect the dots) of its default interval 1e-4. The grid is coarser where the losses
  are so wide that nothing is lost by it. `engine.privacy.composing` computes the same, on a finer
  grid if need be, where the losses are so narrow that the default would be more than 2 % too high,
  delta is below what its FFT resolves, its arrays would be too long, or epsilon is in the hundreds.
- `rdp`: Renyi differential privacy at dp-accounting's orders (Mironov, Talwar and Zhang 2019), to
  compare with what papers before 2021 report.
- `prv`: the upper end of Opacus' privacy random variables (Gopi, Lee and Wutschitz 2021), another
  implementation of another analysis, as a cross-check.

Gaussian differential privacy is none of them: its central limit approximation reports too little.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from numbers import Real
from typing import Any, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

from engine.errors import BadInput
from engine.privacy.ledger import Charge

Accountant: TypeAlias = Literal["pld", "rdp", "prv"]

DEFAULT_INTERVAL = 1e-4
"""dp-accounting's."""

NARROWEST = 2.5
"""Deviations of a step's loss, in default intervals, from which on the default grid is at most 2 %
too high: connecting dots adds up to a quarter of the squared interval to a step's variance."""

FINE, FINEST = 50.0, 40.0
"""Intervals in a deviation: where the losses are wide, and where they are narrow. The error is
1 / (8 * FINE**2) of epsilon, 5e-5, and 8e-5, a few times that where epsilon is tiny."""

SMALLEST_DELTA = 1e-8
"""Below it, what dp-accounting's FFT rounds off is no longer small beside delta."""

MOST_POINTS = 1 << 18
"""Of one step's grid that dp-accounting is given: it takes a second for that many."""

MOST_COMPOSED = 1 << 21
"""Of all steps' grid, of 16 deviations."""

MOST_POWER = 1 << 19
"""Steps of a kind that dp-accounting is given: it raises a whole number to that power, exactly."""

MOST_EPSILON = 500.0
"""Somewhat above it dp-accounting finds no exponential for a loss, and takes one of its grid."""

MOST_MESH = 1 << 21
"""Points of Opacus' grid."""

WIDEST = 0.1
"""Error of Opacus' bounds, as a share of epsilon, from which on they are no answer."""

LEAST_NOISE, MOST_NOISE = 1e-2, 1e4
"""Between which a noise multiplier is looked for."""

DIGITS = 5
"""To which a noise multiplier that was looked for is rounded up."""
PLACES: int = 10 ** (DIGITS - 1)
"""A number of so many digits is at least this, without its point."""

MOST_STEPS = 100_000_000


class Curve(NamedTuple):
    """Epsilon over steps, by two accountants; ascending."""

    steps: tuple[int, ...]
    pld: tuple[float, ...]
    rdp: tuple[float, ...]


class Bounds(NamedTuple):
    """What Opacus' PRV accountant says of epsilon. (0, nan, inf) where it has no answer."""

    lower: float
    estimate: float
    upper: float


P = ParamSpec("P")
T = TypeVar("T")


def _computable(ask: Callable[P, T]) -> Callable[P, T]:
    """Where numbers are so extreme that double precision or memory do not reach: says so."""

    @wraps(ask)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return ask(*args, **kwargs)
        except BadInput:
            raise
        except (ArithmeticError, MemoryError, ValueError) as error:
            raise BadInput(
                f"{ask.__name__} cannot be computed of numbers so extreme: {error}. Expected "
                "a noise multiplier, sample rate, number of steps and delta that are less so"
            ) from error

    return asked


@_computable
def epsilon(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: Accountant = "pld",
    *,
    sampling: str = "poisson",
) -> float:
    """The epsilon of `steps` equal steps: 0 for none, inf without noise.

    noise_multiplier >= 0; sample_rate in [0, 1]; delta in (0, 1). Never below the true value by
    more than rounding. Raises BadInput for anything else, and for a sampling that is not Poisson.

    "pld" rounds losses up on a grid, which makes epsilon too high by what the grid is too coarse.
    Its interval is dp-accounting's default, 1e-4, and the figure dp-accounting's own, unless a
    step's loss deviates by less than 2.5 intervals (`NARROWEST`), as it does where few members are
    sampled or there is much noise; then the interval is a fortieth of that deviation. There
    dp-accounting's default is far above the truth, and this figure as far below that default: 36 %
    at (.5, 1e-6, 1000, 1e-5), 58 % at (1, 1e-5, 3000, 1e-5): .000468 and .001356, the default's
    .000736 and .003234. Losses all rounded down, and all up, on a grid so fine that it hardly
    matters, say .000451 to .000466 and .001355 to .001385; dp-accounting itself says .000473 and
    .001432 at an interval of 1e-5. Where a step's loss deviates by more than fifty intervals, the
    interval is a fiftieth of that. What else is not left to dp-accounting is said above, of `pld`.
    """
    charge = Charge(noise_multiplier, sample_rate, steps, sampling)
    return total((charge,), delta, accountant)


@_computable
def total(charges: Sequence[Charge], delta: float, accountant: Accountant = "pld") -> float:
    """The epsilon of several kinds of steps on the same members, as of a run that was resumed with
    other parameters. The rest as in `epsilon`."""
    _check_accountant(accountant)
    _check_delta(delta)
    _check_all(charges)
    spent = _merged(charges)
    if not spent:
        return 0.0
    if any(noise == 0.0 for noise, _, _ in spent):
        return math.inf
    return _ACCOUNTANTS[accountant](spent, delta)


@_computable
def prv_bounds(charges: Sequence[Charge], delta: float) -> Bounds:
    """Between what Opacus' PRV accountant is sure that epsilon lies. It looks at a member removed
    only. Raises BadInput as `epsilon` does."""
    _check_delta(delta)
    _check_all(charges)
    spent = _merged(charges)
    if not spent:
        return Bounds(0.0, 0.0, 0.0)
    if any(noise == 0.0 for noise, _, _ in spent):
        return Bounds(math.inf, math.inf, math.inf)
    return _prv(spent, delta)


@_computable
def noise_multiplier(
    epsilon: float,
    sample_rate: float,
    steps: int,
    delta: float,
    accountant: Accountant = "pld",
    *,
    before: Sequence[Charge] = (),
) -> float:
    """The smallest noise multiplier with which `steps` steps cost at most `epsilon`, rounded up to
    DIGITS digits (so by less than 1e-4 of itself); LEAST_NOISE where less would do. What was spent
    `before` is part of it.

    Raises BadInput where even MOST_NOISE is not enough, and as `epsilon` does.
    """
    _check_target(epsilon)
    _check(Charge(1.0, sample_rate, steps))
    _check_delta(delta)
    _check_accountant(accountant)
    _check_all(before)

    def spent(noise: float) -> float:
        return _quick([*_merged(before), (noise, sample_rate, steps)], delta, accountant)

    if steps == 0 or sample_rate == 0.0 or spent(LEAST_NOISE) <= epsilon:
        return LEAST_NOISE
    least = spent(MOST_NOISE)
    if least > epsilon:
        raise BadInput(
            f"an epsilon of {epsilon:g} cannot be reached in {steps:,} steps at a sample rate of "
            f"{sample_rate:.4g}: with a noise multiplier of {MOST_NOISE:,.0f} it is still "
            f"{least:.3g} at delta {delta:g}. Take fewer steps, a smaller batch or a larger target"
            f"{', or spend less before' if before else ''}."
        )
    low, high = _bracket(spent, epsilon, LEAST_NOISE, MOST_NOISE, lambda a, b: b - a < 1e-6 * a)

    def enough(place: int) -> bool:
        charge = Charge(_of_digits(place), sample_rate, steps)
        return total((*before, charge), delta, accountant) <= epsilon

    # The last digit is the shown figure's to decide.
    places = _digits(high), _digits(LEAST_NOISE), _digits(MOST_NOISE)
    return _of_digits(_least(enough, *places))


@_computable
def steps_within(
    epsilon: float,
    noise_multiplier: float,
    sample_rate: float,
    delta: float,
    accountant: Accountant = "pld",
    *,
    before: Sequence[Charge] = (),
) -> int:
    """How many steps cost at most `epsilon`, with what was spent `before`, 0 if one is too much; no
    more than MOST_STEPS.

    Raises BadInput as `epsilon` does."""
    _check_target(epsilon)
    _check(Charge(noise_multiplier, sample_rate, 1))
    _check_delta(delta)
    _check_accountant(accountant)
    _check_all(before)
    if sample_rate == 0.0:
        return MOST_STEPS
    if noise_multiplier == 0.0:
        return 0

    def spent(steps: float) -> float:
        parts = [*_merged(before), (noise_multiplier, sample_rate, int(steps))]
        return -_quick(parts, delta, accountant)

    if -spent(1) > epsilon:
        return 0
    most = 1
    while -spent(most) <= epsilon:
        if most >= MOST_STEPS:
            return MOST_STEPS
        most = min(MOST_STEPS, most * 4)
    high, low = float(most), most / 4
    while int(high) - int(low) > 1:
        middle = math.floor(math.sqrt(low * high)) if high / low > 1.1 else (low + high) // 2
        middle = min(max(int(middle), int(low) + 1), int(high) - 1)
        low, high = (middle, high) if -spent(middle) <= epsilon else (low, middle)

    def too_many(steps: int) -> bool:
        charge = Charge(noise_multiplier, sample_rate, steps)
        return total((*before, charge), delta, accountant) > epsilon

    return _least(too_many, int(low) + 1, 1, MOST_STEPS + 1) - 1


@_computable
def curve(
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    points: int = 100,
    *,
    before: Sequence[Charge] = (),
) -> Curve:
    """Epsilon over the steps of a run, before it starts: at `points` equal distances and at the
    last step, where it is what `epsilon` says. In between PLD is at most 2e-4 higher than that
    would be, and never lower. What is spent `before` the first step is in all of it.

    Raises BadInput as `epsilon` does."""
    _check(Charge(noise_multiplier, sample_rate, steps))
    _check_delta(delta)
    _check_whole(points, "points", 1)
    _check_all(before)
    points = min(int(points), max(1, int(steps)))
    at = sorted({max(1, round(steps * part / points)) for part in range(1, points + 1)})
    at = at if steps else [0]
    rdp = [total((*before, Charge(noise_multiplier, sample_rate, n)), delta, "rdp") for n in at]
    pld = [total((*before, Charge(noise_multiplier, sample_rate, at[-1])), delta)]
    for count in reversed(at[:-1]):  # fewer steps cost no more than more
        parts = [*_merged(before), (noise_multiplier, sample_rate, count)]
        found = _quick(parts, delta, "pld", of=steps, fine=0.5)
        pld.append(min(found, pld[-1]))
    return Curve(tuple(at), tuple(reversed(pld)), tuple(rdp))


@_computable
def split_noise(noise_multiplier: float, count_noise: float) -> float:
    """The noise multiplier of the gradients' sum beside a noised count of the clipped ones, so that
    both together cost what one release with `noise_multiplier` does.

    count_noise: deviation of the noise on the sum of the members' bits less one half, of which one
    member changes a half. (Andrew, Thakkar, McMahan and Ramaswamy 2021, theorem 1.)
    Raises BadInput where the count alone spends everything."""
    _check_noise(noise_multiplier)
    if not _is_number(count_noise):
        raise BadInput(f"noise of deviation {_said(count_noise)} on the count is no number")
    if noise_multiplier == 0.0:
        return 0.0
    rest = noise_multiplier**-2 - (2.0 * count_noise) ** -2 if count_noise > 0.0 else -1.0
    if rest <= 0.0:
        raise BadInput(
            f"noise of deviation {count_noise:g} on the count of clipped gradients spends more "
            f"than the noise multiplier {noise_multiplier:g} allows for the whole step: it must be "
            f"above {noise_multiplier / 2:g}. Take more noise on the count, or a larger batch."
        )
    return float(rest**-0.5)


@_computable
def epsilon_fixed_size(
    noise_multiplier: float, batch_size: int, population: int, steps: int, delta: float
) -> float:
    """The epsilon where each step takes exactly `batch_size` of `population` members, drawn without
    replacement (Wang, Balle and Kasiviswanathan 2019, theorem 27, by dp-accounting's RDP).

    Neighbours are others here than everywhere else: one member is replaced by another, so that the
    sum moves by up to twice the clipping norm. `noise_multiplier` is over the clipping norm, as
    everywhere; half of it is what counts. The figures of the two relations are not comparable.
    Raises BadInput for what `epsilon` refuses, and for a batch larger than the population."""
    _check_delta(delta)
    _check_whole(batch_size, "members in a batch", 0)
    _check_whole(population, "members", 0)
    if not 0 < batch_size <= population:
        raise BadInput(
            f"a batch of {batch_size} cannot be drawn from {population} without replacement; it "
            f"must have 1 to {population} members"
        )
    _check(Charge(noise_multiplier, batch_size / population, steps))
    if steps == 0:
        return 0.0
    if noise_multiplier == 0.0:
        return math.inf
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    step = dp_accounting.GaussianDpEvent(noise_multiplier / 2.0)
    sampled = dp_accounting.SampledWithoutReplacementDpEvent(population, batch_size, step)
    accountant.compose(sampled, int(steps))
    return float(accountant.get_epsilon(delta))


# --- what is asked --------------------------------------------------------------------------------


def _check(charge: Charge) -> None:
    _check_noise(charge.noise_multiplier)
    rate = charge.sample_rate
    if not (_is_number(rate) and 0.0 <= rate <= 1.0):
        raise BadInput(
            f"a sample rate of {_said(rate)} makes no sense: it is the probability with which each "
            "member is in a step, between 0 and 1 (batch size / number of members)"
        )
    _check_whole(charge.steps, "steps", 0)
    if charge.sampling != "poisson":
        raise BadInput(
            f"the epsilon of steps whose sampling was {charge.sampling!r} cannot be told: the "
            "accountants count with Poisson sampling, each member in each step by a coin of its "
            "own, and would say too little of any other. Train with Poisson sampling (privacy "
            'kind "dpsgd").'
        )


def _check_all(charges: Sequence[Charge]) -> None:
    if not isinstance(charges, Sequence) or not all(isinstance(c, Charge) for c in charges):
        raise BadInput(f"what was spent is {_said(charges)}; expected a sequence of Charge")
    for charge in charges:
        _check(charge)


def _check_noise(noise: float) -> None:
    if not (_is_number(noise) and noise >= 0.0):
        raise BadInput(
            f"a noise multiplier of {_said(noise)} makes no sense; it must be a number, 0 or more"
        )


def _check_whole(count: float, what: str, least: int) -> None:
    if not _is_number(count) or count < least or int(count) != count:
        raise BadInput(
            f"{_said(count)} {what} cannot be taken; it must be a whole number, {least} or more"
        )


def _check_delta(delta: float) -> None:
    if not (_is_number(delta) and 0.0 < delta < 1.0):
        raise BadInput(
            f"a delta of {_said(delta)} makes no sense: it is the probability with which epsilon "
            "may not hold, above 0 and well below 1 / number of members"
        )


def _check_target(epsilon: float) -> None:
    if not (_is_number(epsilon) and epsilon > 0.0):
        raise BadInput(
            f"an epsilon of {_said(epsilon)} cannot be reached with noise; it must be above 0"
        )


def _check_accountant(accountant: object) -> None:
    if not isinstance(accountant, str) or accountant not in _ACCOUNTANTS:
        known = ", ".join(_ACCOUNTANTS)
        raise BadInput(f"there is no accountant {_said(accountant)}; expected one of: {known}")


def _is_number(value: object) -> bool:
    """Whether it is a finite real number, of Python or NumPy, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _said(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, int):
        return str(value)
    return repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "so large a number"


_Spent: TypeAlias = list[tuple[float, float, int]]
"""Noise multiplier, sample rate and number of steps."""


def _merged(charges: Sequence[Charge]) -> _Spent:
    """What costs anything: equal ones added up, and all steps without sampling made one Gaussian,
    of which the square of noise over norm adds up."""
    counts: dict[tuple[float, float], int] = {}
    for charge in charges:
        key = float(charge.noise_multiplier), float(charge.sample_rate)
        counts[key] = counts.get(key, 0) + int(charge.steps)
    left = [(*key, count) for key, count in counts.items() if count and key[1] > 0.0]
    whole = [(noise, count) for noise, rate, count in left if rate == 1.0 and noise > 0.0]
    sampled = [part for part in left if part[1] < 1.0 or part[0] == 0.0]
    if whole:
        sampled.append((sum(count / noise**2 for noise, count in whole) ** -0.5, 1.0, 1))
    return sampled


# --- privacy loss distributions -------------------------------------------------------------------


def _pld(spent: _Spent, delta: float) -> float:
    interval = _interval(spent)
    ours = _quick(spent, delta, "pld")
    deviation = _deviation(spent)
    wide = sum(_span(noise, rate) for noise, rate, _ in spent)
    long = 16.0 * deviation * math.sqrt(sum(count for _, _, count in spent))
    if (
        deviation < NARROWEST * DEFAULT_INTERVAL
        or delta < SMALLEST_DELTA
        or wide > MOST_POINTS * interval
        or long > MOST_COMPOSED * interval
        or ours > MOST_EPSILON
        or max(count for _, _, count in spent) > MOST_POWER
    ):
        return ours
    first, *rest = (_distribution(*part[:2], interval).self_compose(part[2]) for part in spent)
    for each in rest:
        first = first.compose(each)
    return float(first.get_epsilon_for_delta(delta))


@lru_cache(maxsize=4)
def _distribution(noise: float, rate: float, interval: float) -> Any:
    """dp-accounting's privacy loss distribution of one step."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval
    )


def _interval(spent: _Spent) -> float:
    """Of the grid that losses are rounded up to."""
    deviation = _deviation(spent)
    if deviation < NARROWEST * DEFAULT_INTERVAL:
        return deviation / FINEST
    return max(DEFAULT_INTERVAL, deviation / FINE)


def _deviation(spent: _Spent) -> float:
    """Root mean square of the steps' deviations: what their sum's is judged by."""
    from engine.privacy.composing import deviation

    squares = sum(count * deviation(noise, rate) ** 2 for noise, rate, count in spent)
    return math.sqrt(squares / sum(count for _, _, count in spent))


def _span(noise: float, rate: float) -> float:
    from engine.privacy.composing import span

    return span(noise, rate, -50.0)


def _quick(
    spent: _Spent, delta: float, accountant: Accountant, of: int = 0, fine: float = 1.0
) -> float:
    """The same as `total`, by our own composition where that is dp-accounting's.

    of: the most steps that will be asked for, of which less is computed then. fine: of the interval
    that else would be taken."""
    spent = _merged([Charge(*part) for part in spent])
    if not spent:
        return 0.0
    if any(noise == 0.0 for noise, _, _ in spent):
        return math.inf
    if accountant != "pld":
        return _ACCOUNTANTS[accountant](spent, delta)
    from engine.privacy.composing import MOST_POINTS, compose, losses, span

    steps = max(of, sum(count for _, _, count in spent))
    # What is cut off of one step, over all of them, is nothing beside delta. In jumps, so that
    # other numbers of steps find the same losses in the cache.
    log_tail = 5.0 * math.floor((math.log(delta / steps) - 16.0) / 5.0)
    widest = max(span(noise, rate, log_tail) for noise, rate, _ in spent)
    interval = max(_interval(spent) / fine, widest / MOST_POINTS)
    steps_of = [(losses(noise, rate, interval, log_tail), count) for noise, rate, count in spent]
    ways = max(len(each) for each, _ in steps_of)
    return max(
        compose([(each[way % len(each)], count) for each, count in steps_of], delta)
        for way in range(ways)
    )


# --- the others -----------------------------------------------------------------------------------


def _rdp(spent: _Spent, delta: float) -> float:
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    orders, _ = _renyi(*spent[0][:2])
    divergence = [0.0] * len(orders)
    for noise, rate, count in spent:
        one = _renyi(noise, rate)[1]
        divergence = [so_far + count * more for so_far, more in zip(divergence, one, strict=True)]
    return float(compute_epsilon(orders, divergence, delta)[0])


@lru_cache(maxsize=64)
def _renyi(noise: float, rate: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """dp-accounting's orders, and the Renyi divergence of one step at each."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    step = dp_accounting.GaussianDpEvent(noise)
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns of each order that it leaves out
    try:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, step))
    finally:
        log.setLevel(before)
    return tuple(map(float, accountant.orders)), tuple(map(float, accountant.rdp))


def _prv(spent: _Spent, delta: float) -> Bounds:
    import numpy as np
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        compute_safe_domain_size,
        discretize,
    )

    near = _quick(spent, delta, "pld")
    error, rare = min(0.01, 0.01 * near), delta / 1000.0
    counts = [count for _, _, count in spent]
    steps = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in spent]
    # It takes the logarithm of what is 0 without sampling, and warns of the orders that it tries.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            reach = compute_safe_domain_size(steps, counts, error, rare)
            # At best `error`; more where the grid would be too long.
            meshes = math.sqrt(sum(counts) * math.log(12.0 / rare) / 2.0)
            error = max(error, 2.0 * reach * meshes / MOST_MESH)
            if not error < WIDEST * near:
                return Bounds(0.0, math.nan, math.inf)
            mesh = error / meshes
            domain = Domain.create_aligned(-reach, reach, mesh)
            parts = [TruncatedPrivacyRandomVariable(s, domain.t_min, domain.t_max) for s in steps]
            composed = compose_heterogeneous([discretize(part, domain) for part in parts], counts)
            lower, estimate, upper = map(float, composed.compute_epsilon(delta, rare, error))
        except (RuntimeError, ValueError, OverflowError, ZeroDivisionError):
            return Bounds(0.0, math.nan, math.inf)
    if not lower <= estimate <= upper < math.inf:
        return Bounds(0.0, math.nan, math.inf)
    return Bounds(max(0.0, lower), max(0.0, estimate), max(0.0, upper))


_ACCOUNTANTS: dict[str, Callable[[_Spent, float], float]] = {
    "pld": _pld,
    "rdp": _rdp,
    "prv": lambda spent, delta: _prv(spent, delta).upper,
}


# --- looking for a value --------------------------------------------------------------------------


def _bracket(
    falling: Callable[[float], float],
    target: float,
    low: float,
    high: float,
    near: Callable[[float, float], bool],
) -> tuple[float, float]:
    """Two places near each other, `falling` above `target` at the first and not at the second.

    By the chord in logarithms (epsilon is nearly a power of noise), or halves where it is slow."""
    at_low, at_high = falling(low), falling(high)
    halve = False
    while not near(low, high):
        width = math.log(high / low)
        share = 0.5
        if not halve and at_high > 0.0 and math.isfinite(at_low):
            share = math.log(at_low / target) / math.log(at_low / at_high)
            share = min(max(share, 0.02), 0.98)
        place = low * math.exp(share * width)
        found = falling(place)
        if found > target:
            low, at_low = place, found
        else:
            high, at_high = place, found
        halve = math.log(high / low) > 0.5 * width
    return low, high


def _least(holds: Callable[[int], bool], guess: int, low: int, high: int) -> int:
    """The least whole number from `low` to `high` for which `holds`, as it does for all above it,
    and for `high` without a look: found around a guess, in steps that double."""
    step, no, yes = 1, low - 1, high
    if guess >= high or holds(guess):
        yes = min(guess, high)
        while yes - step > no:
            if not holds(yes - step):
                no = yes - step
                break
            yes, step = yes - step, 2 * step
    else:
        no = guess
        while no + step < high:
            if holds(no + step):
                yes = no + step
                break
            no, step = no + step, 2 * step
    while yes - no > 1:
        middle = (no + yes) // 2
        no, yes = (no, middle) if holds(middle) else (middle, yes)
    return yes


# Numbers of DIGITS digits, in order.


def _digits(value: float) -> int:
    """The place of the next one from `value` on (to a millionth of a digit)."""
    exponent = math.floor(math.log10(value))
    digits = math.ceil(value / 10.0 ** (exponent + 1 - DIGITS) - 1e-6)
    return (9 * exponent - 1) * PLACES + digits


def _of_digits(place: int) -> float:
    """The one at this place."""
    exponent, digits = divmod(place, 9 * PLACES)
    return float(f"{digits + PLACES}e{exponent + 1 - DIGITS}")
