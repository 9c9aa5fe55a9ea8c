"""Epsilon against figures of the issue, other people's accountants, closed forms and integrals."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from engine.errors import BadInput
from engine.privacy import (
    Charge,
    curve,
    epsilon,
    epsilon_fixed_size,
    noise_multiplier,
    prv_bounds,
    split_noise,
    steps_within,
    total,
)
from engine.privacy.accounting import (
    LEAST_NOISE,
    MOST_STEPS,
    _digits,
    _least,
    _of_digits,
    _quick,
)

MNIST = 256 / 60_000

LISTED = [
    (1.1, MNIST, 14_062, 2.3817, 2.5966),
    (8.0, 0.01, 700, 0.1032, 0.1166),
    (0.5, MNIST, 235, 5.0303, 6.3511),
    (4.0, 0.01, 10_000, 0.9470, 1.0355),
    (1.5, 0.08192, 2_600, 17.7007, 19.0695),
]

OTHERS = [  # noise multiplier, sample rate, steps, delta
    (0.7, 0.02, 500, 1e-5),
    (1.0, 0.1, 60, 1e-6),
    (2.3, 0.05, 3_000, 1e-5),
    (3.0, 0.5, 20, 1e-4),
    (0.8, 0.003, 40_000, 1e-7),
    (1.3, 0.25, 1, 1e-5),
    (6.0, 0.03, 100_000, 1e-3),
    (1.0, 1.0, 30, 1e-5),
]


# --- one step and many, by other means ------------------------------------------------------------


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Of the Gaussian mechanism, by Balle and Wang 2018, theorem 8; in logarithms."""

    def log_delta(e: float) -> float:
        gained = special.log_ndtr(1 / (2 * noise) - e * noise)
        paid = e + special.log_ndtr(-1 / (2 * noise) - e * noise)
        return float(gained + math.log(-math.expm1(paid - gained))) if paid < gained else -math.inf

    return bisected(log_delta, math.log(delta), 1 / (2 * noise**2) + 60 / noise)


def bisected(falling: Callable[[float], float], target: float, most: float) -> float:
    low, high = 0.0, most
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > target else (low, middle)
    return high


def one_step(noise: float, rate: float, e: float, added: bool) -> float:
    """Delta of one sampled step: the integral of one density less exp(e) times the other."""
    nothing, something = stats.norm(0.0, noise), stats.norm(1.0, noise)

    def mixture(x: float) -> float:
        return float(rate * something.pdf(x) + (1 - rate) * nothing.pdf(x))

    def over(x: float) -> float:
        with_it, without = mixture(x), float(nothing.pdf(x))
        first, second = (without, with_it) if added else (with_it, without)
        return max(0.0, first - math.exp(e) * second)

    return integrated(over, noise)


def two_steps(noise: float, rate: float, e: float) -> float:
    """Delta of two steps, a member removed: the second's, at what the first one left."""
    nothing, something = stats.norm(0.0, noise), stats.norm(1.0, noise)

    def second(left: float) -> float:
        if left <= math.log1p(-rate):
            return -math.expm1(left)
        x = noise**2 * math.log(math.expm1(left) / rate + 1) + 0.5
        gained = rate * something.sf(x) + (1 - rate) * nothing.sf(x)
        return float(gained - math.exp(left) * nothing.sf(x))

    def first(x: float) -> float:
        density = rate * something.pdf(x) + (1 - rate) * nothing.pdf(x)
        return float(density) * second(e - math.log(density / nothing.pdf(x)))

    return integrated(first, noise)


def integrated(over: Callable[[float], float], noise: float) -> float:
    edges = np.linspace(-9 * noise, 1 + 12 * noise, 120)
    return sum(
        integrate.quad(over, a, b, epsabs=0, limit=200)[0] for a, b in itertools.pairwise(edges)
    )


def by_rounding(
    noise: float, rate: float, steps: int, delta: float, interval: float, up: bool
) -> float:
    """Epsilon of a member removed where each step's loss is rounded down, or up: not above the
    truth, or not below it. What a dimension of the grid, and one FFT, has room for."""
    reach = 6.2 * noise
    first = math.floor(math.log1p(-rate) / interval)
    last = math.ceil(math.log1p(rate * math.expm1((reach - 0.5) / noise**2)) / interval)
    odds = np.expm1(np.arange(first, last + 1) * interval) / rate + 1
    with np.errstate(divide="ignore"):
        x = noise**2 * np.log(np.maximum(odds, 0)) + 0.5
    with_it = rate * special.ndtr((x - 1) / noise) + (1 - rate) * special.ndtr(x / noise)
    mass, lost = np.diff(with_it), 1 - with_it[-1]
    size = 1 << math.ceil(math.log2(3 * len(mass)))
    whole = np.fft.irfft(np.fft.rfft(mass, size) ** steps, size)
    middle = int(steps * (mass @ np.arange(len(mass))))
    places = np.arange(size)
    places = middle - size // 3 + (places - (middle - size // 3)) % size
    losses = (steps * first + places + (steps if up else 0)) * interval

    def above(e: float) -> float:
        over = losses > e
        gained = float(whole[over] @ -np.expm1(e - losses[over]))
        return gained + (steps * lost if up else 0.0)

    return bisected(above, delta, 0.01)


# --- the figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "rate", "steps", "pld", "rdp"), LISTED)
def test_the_figures_of_the_issue(
    noise: float, rate: float, steps: int, pld: float, rdp: float
) -> None:
    assert epsilon(noise, rate, steps, 1e-5) == pytest.approx(pld, rel=1e-3)
    assert epsilon(noise, rate, steps, 1e-5, accountant="rdp") == pytest.approx(rdp, rel=1e-3)
    bounds = prv_bounds([Charge(noise, rate, steps)], 1e-5)
    assert bounds.lower <= epsilon(noise, rate, steps, 1e-5) <= bounds.upper
    assert bounds.upper - bounds.lower < 0.025 * bounds.estimate
    assert epsilon(noise, rate, steps, 1e-5, accountant="prv") == bounds.upper


@pytest.mark.filterwarnings("ignore:Optimal order is the largest alpha")
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), OTHERS)
def test_other_settings_by_other_accountants(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis import rdp as opacus_rdp

    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    found = epsilon(noise, rate, steps, delta)
    by_google = PLDAccountant().compose(event).get_epsilon(delta)
    assert found == pytest.approx(by_google, rel=2e-4)
    opacus = PRVAccountant()
    opacus.history = [(noise, rate, steps)]
    if rate < 1.0:  # Opacus takes the logarithm of 0 there
        assert found < opacus.get_epsilon(delta)
    renyi = epsilon(noise, rate, steps, delta, accountant="rdp")
    assert renyi == pytest.approx(RdpAccountant().compose(event).get_epsilon(delta), rel=1e-9)
    orders = RdpAccountant().orders
    divergence = opacus_rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders)
    by_opacus, _ = opacus_rdp.get_privacy_spent(orders=orders, rdp=divergence, delta=delta)
    # At broken orders dp-accounting adds up what Opacus adds and subtracts: a little above it.
    assert by_opacus * (1 - 1e-9) <= renyi <= by_opacus * (1 + 1e-3)
    assert renyi > found


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), OTHERS)
def test_our_own_composition_is_dp_accounting_s(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    shown = epsilon(noise, rate, steps, delta)
    ours = _quick([(noise, rate, steps)], delta, "pld")
    assert ours == pytest.approx(shown, rel=1e-6)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9, 1e-15, 1e-40])
@pytest.mark.parametrize(
    ("noise", "steps"), [(0.02, 1), (0.05, 1), (0.7, 1), (1.0, 4), (5.0, 300), (60.0, 7)]
)
def test_without_sampling_it_is_the_gaussian_mechanism(
    noise: float, steps: int, delta: float
) -> None:
    truth = gaussian_epsilon(noise / math.sqrt(steps), delta)
    found = epsilon(noise, 1.0, steps, delta)
    assert found >= truth * (1 - 1e-12)
    assert found == pytest.approx(truth, rel=5e-4, abs=1e-9)
    ours = _quick([(noise, 1.0, steps)], delta, "pld")
    assert ours >= truth * (1 - 1e-12)
    assert ours == pytest.approx(truth, rel=5e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "delta"),
    [(1.0, 0.05, 1e-5), (0.6, 0.01, 1e-5), (2.0, 0.3, 1e-6), (1.1, MNIST, 1e-5), (1.0, 0.2, 1e-9)],
)
def test_one_step_is_the_integral(noise: float, rate: float, delta: float) -> None:
    for found in (epsilon(noise, rate, 1, delta), _quick([(noise, rate, 1)], delta, "pld")):
        worst = max(one_step(noise, rate, found, added) for added in (False, True))
        assert worst <= delta * (1 + 1e-9)
        less = found * (1 - 1e-3)
        assert max(one_step(noise, rate, less, added) for added in (False, True)) > delta


@pytest.mark.parametrize(("noise", "rate", "delta"), [(1.0, 0.1, 1e-5), (0.8, 0.02, 1e-10)])
def test_two_steps_are_the_integral(noise: float, rate: float, delta: float) -> None:
    found = epsilon(noise, rate, 2, delta)
    assert two_steps(noise, rate, found) <= delta * (1 + 1e-8)
    assert two_steps(noise, rate, found * (1 - 1e-3)) > delta


def test_what_dp_accounting_cannot_resolve_is_still_told() -> None:
    """At a tiny delta its FFT's rounding is what it sees; on its default grid narrow losses are too
    high. Ours lies below both, and not below what Opacus is sure of. (How much it rounds depends on
    the processor: 4.206 on one, above 4.3 on another.)"""
    from dp_accounting.pld import privacy_loss_distribution as distributions

    def by_default(noise: float, rate: float, steps: int, delta: float) -> float:
        step = distributions.from_gaussian_mechanism(noise, sampling_prob=rate)
        return float(step.self_compose(steps).get_epsilon_for_delta(delta))

    tiny = epsilon(1.1, MNIST, 14_062, 1e-12)
    assert tiny == pytest.approx(4.1746, rel=1e-3)
    assert by_default(1.1, MNIST, 14_062, 1e-12) > 1.004 * tiny
    narrow = epsilon(1.0, 1e-4, 10_000, 1e-5)
    assert narrow < 0.97 * by_default(1.0, 1e-4, 10_000, 1e-5)
    assert narrow > prv_bounds([Charge(1.0, 1e-4, 10_000)], 1e-5).lower
    assert narrow == pytest.approx(0.03802, rel=1e-3)  # dp-accounting's, on a grid 100 times finer


# --- corners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_corners(accountant: Any) -> None:
    def of(noise: float, rate: float, steps: int) -> float:
        return epsilon(noise, rate, steps, 1e-5, accountant)

    assert of(1.0, 0.01, 0) == 0.0
    assert of(0.0, 0.01, 0) == 0.0
    assert of(1.0, 0.0, 1000) == 0.0
    assert of(0.0, 0.0, 1000) == 0.0
    assert of(0.0, 0.01, 1) == math.inf
    if accountant != "prv":  # Opacus has no answer there
        assert epsilon(5.0, 0.001, 5, 0.9, accountant) == 0.0


def test_extremes_are_told_in_order() -> None:
    assert epsilon(1.0, 1e-7, 10, 1e-5) == 0.0  # whom is never drawn costs nothing
    huge = epsilon(0.05, 0.5, 1000, 1e-5)
    assert 1e5 < huge < epsilon(0.05, 0.5, 1000, 1e-5, "rdp")
    # Ten steps of which each one sees a member with probability 1e-3, and then moves the sum by a
    # hundred deviations: it is seen twice with 4.5e-5, and a loss of 5,000 each time.
    seen = epsilon(0.01, 0.001, 10, 1e-5)
    z = stats.norm.isf(1e-5 / (45 * 1e-6 * 0.999**8))
    twice = 2 * (5000 + math.log(0.001)) + z * 100 * math.sqrt(2)
    assert seen == pytest.approx(twice, rel=2e-3)
    many = [epsilon(2.0, 0.01, steps, 1e-5) for steps in (10**5, 10**6, 10**7)]
    assert many == sorted(many)
    assert math.isfinite(many[-1])


def test_both_ways_are_looked_at() -> None:
    """Adding a member and removing one are not alike; the worse one counts."""
    from engine.privacy.composing import compose, losses

    both = [compose([(way, 100)], 1e-5) for way in losses(1.0, 0.1, 1e-3, -40.0)]
    assert len(both) == 2
    assert both[0] > both[1]
    assert epsilon(1.0, 0.1, 100, 1e-5) == pytest.approx(max(both), rel=1e-3)


def test_several_charges_are_composed() -> None:
    from dp_accounting.pld import privacy_loss_distribution as distributions

    charges = [Charge(1.1, 0.004, 1000), Charge(2.0, 0.01, 500), Charge(4.0, 1.0, 3)]
    together = total(charges, 1e-5)
    parts = [
        distributions.from_gaussian_mechanism(noise, sampling_prob=rate).self_compose(steps)
        for noise, rate, steps in ((1.1, 0.004, 1000), (2.0, 0.01, 500), (4.0, 1.0, 3))
    ]
    reference = parts[0].compose(parts[1]).compose(parts[2]).get_epsilon_for_delta(1e-5)
    assert together == pytest.approx(reference, rel=2e-4)
    bounds = prv_bounds(charges, 1e-5)
    assert bounds.lower < together < bounds.upper
    assert max(total([c], 1e-5) for c in charges) < together < total(charges, 1e-5, "rdp")
    assert total(charges[::-1], 1e-5) == pytest.approx(together, rel=1e-9)
    halves = [Charge(1.1, 0.004, 400), Charge(1.1, 0.004, 600)]
    assert total(halves, 1e-5) == epsilon(1.1, 0.004, 1000, 1e-5)
    assert total((), 1e-5) == 0.0
    assert total([*charges, Charge(0.0, 0.1, 1)], 1e-5) == math.inf


# --- the other way round --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "rate", "steps"),
    [(3.0, MNIST, 14_062), (0.5, 0.01, 100), (8.0, 1.0, 20), (50, 0.1, 9), (1500, 0.3, 10_000)],
)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_the_noise_that_meets_a_target(
    target: float, rate: float, steps: int, accountant: Any
) -> None:
    found = noise_multiplier(target, rate, steps, 1e-5, accountant)
    assert epsilon(found, rate, steps, 1e-5, accountant) <= target
    assert epsilon(found * (1 - 2e-4), rate, steps, 1e-5, accountant) > target
    assert found == float(f"{found:.5g}")


def test_noise_and_steps_are_found_again() -> None:
    for noise, rate, steps, *_ in LISTED[1:]:
        spent = epsilon(noise, rate, steps, 1e-5)
        assert noise_multiplier(spent, rate, steps, 1e-5) == noise
        assert steps_within(spent, noise, rate, 1e-5) == steps
        assert steps_within(spent * (1 - 1e-6), noise, rate, 1e-5) == steps - 1


def test_few_steps_of_a_large_target_are_found() -> None:
    """Where nearly all of a bounded loss counts, as at an epsilon of 50, the search ends too."""
    rate = 256 / 1295
    noise = noise_multiplier(50.0, rate, 15, 1e-5)
    assert steps_within(50.0, noise, rate, 1e-5) == 15
    charges = [Charge(noise, rate, steps) for steps in (1, 2, 3)]
    spent = [total((charge,), 1e-5) for charge in charges]
    assert spent == sorted(spent)
    assert steps_within(spent[1] + 1e-3, noise, rate, 1e-5) == 2


def test_what_was_spent_before_is_part_of_it() -> None:
    before = [Charge(1.0, 0.01, 500)]
    steps = steps_within(2.0, 1.2, 0.02, 1e-5, before=before)
    assert total([*before, Charge(1.2, 0.02, steps)], 1e-5) <= 2.0
    assert total([*before, Charge(1.2, 0.02, steps + 1)], 1e-5) > 2.0
    noise = noise_multiplier(2.0, 0.02, 100, 1e-5, before=before)
    assert total([*before, Charge(noise, 0.02, 100)], 1e-5) <= 2.0
    assert noise > noise_multiplier(2.0, 0.02, 100, 1e-5)
    ahead = curve(1.2, 0.02, 10, 1e-5, points=2, before=before)
    assert ahead.pld[-1] == total([*before, Charge(1.2, 0.02, 10)], 1e-5)


def test_a_target_out_of_reach() -> None:
    with pytest.raises(BadInput, match="an epsilon of 0.0001 cannot be reached in 1,000,000 steps"):
        noise_multiplier(1e-4, 1.0, 1_000_000, 1e-5)
    assert steps_within(0.01, 0.5, 0.5, 1e-5) == 0
    assert steps_within(1.0, 0.0, 0.5, 1e-5) == 0
    assert steps_within(1.0, 1.0, 0.0, 1e-5) == MOST_STEPS
    assert noise_multiplier(1.0, 0.1, 0, 1e-5) == LEAST_NOISE
    assert noise_multiplier(1e-3, 1e-7, 10, 1e-5) == LEAST_NOISE


def test_a_curve_is_what_epsilon_says() -> None:
    found = curve(1.1, 0.02, 3_000, 1e-5, points=30)
    assert found.steps[0] == 100
    assert found.steps[-1] == 3_000
    assert len(found.steps) == len(found.pld) == len(found.rdp) == 30
    assert list(found.pld) == sorted(found.pld)
    assert found.pld[-1] == epsilon(1.1, 0.02, 3_000, 1e-5)
    for at in (0, 7, 20):
        truth = epsilon(1.1, 0.02, found.steps[at], 1e-5)
        assert truth * (1 - 1e-7) <= found.pld[at] <= truth * (1 + 3e-4)
        assert found.rdp[at] == epsilon(1.1, 0.02, found.steps[at], 1e-5, "rdp")
    assert curve(1.0, 0.1, 3, 1e-5, points=100).steps == (1, 2, 3)
    assert curve(1.0, 0.1, 0, 1e-5) == ((0,), (0.0,), (0.0,))


# --- beside it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "count"), [(1.0, 0.6), (1.1, 12.8), (0.5, 5.0)])
def test_gradient_and_count_together_cost_what_was_asked(noise: float, count: float) -> None:
    """The count changes by one half with a member: alone it is a Gaussian of 2 * count."""
    rest = split_noise(noise, count)
    assert rest > noise
    both = total([Charge(rest, 1.0, 1), Charge(2 * count, 1.0, 1)], 1e-5)
    assert both == pytest.approx(epsilon(noise, 1.0, 1, 1e-5), rel=1e-9)


def test_a_count_that_spends_it_all_is_refused() -> None:
    for count in (0.5, 0.1, 0.0):
        with pytest.raises(BadInput, match="must be above 0.5"):
            split_noise(1.0, count)
    assert split_noise(0.0, 1.0) == 0.0


def test_batches_of_a_fixed_size_have_an_accountant_of_their_own() -> None:
    # All of them: nothing is sampled, and the Gaussian of half the noise is what is left.
    whole = epsilon_fixed_size(2.0, 100, 100, 10, 1e-5)
    assert whole == pytest.approx(epsilon(1.0, 1.0, 10, 1e-5, "rdp"), rel=1e-9)
    sampled = epsilon_fixed_size(2.0, 10, 1000, 100, 1e-5)
    assert epsilon(1.0, 0.01, 100, 1e-5, "rdp") < sampled < epsilon(1.0, 1.0, 100, 1e-5, "rdp")
    # By hand at order 2: log(1 + q^2 min(4 (exp(1/s^2) - 1), 2 exp(1/s^2))), and the conversion.
    q, s, steps, delta = 0.01, 1.0, 100, 1e-5
    order2 = math.log1p(q**2 * min(4 * math.expm1(s**-2), 2 * math.exp(s**-2)))
    assert sampled <= steps * order2 + math.log(1 / 2) - math.log(delta * 2)
    assert epsilon_fixed_size(1.0, 10, 100, 0, 1e-5) == 0.0
    assert epsilon_fixed_size(0.0, 10, 100, 1, 1e-5) == math.inf
    for batch in (0, 101):
        with pytest.raises(BadInput, match="without replacement"):
            epsilon_fixed_size(1.0, batch, 100, 1, 1e-5)


@pytest.mark.parametrize("sampling", ["shuffled", "fixed", "without_replacement"])
def test_other_sampling_is_refused(sampling: str) -> None:
    with pytest.raises(BadInput, match=f"'{sampling}' cannot be told: .* Poisson"):
        epsilon(1.0, 0.1, 10, 1e-5, sampling=sampling)
    with pytest.raises(BadInput, match="Poisson"):
        total([Charge(1.0, 0.1, 10), Charge(1.0, 0.1, 10, sampling)], 1e-5)
    with pytest.raises(BadInput, match="Poisson"):
        prv_bounds([Charge(1.0, 0.1, 10, sampling)], 1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((-1.0, 0.1, 10, 1e-5), "a noise multiplier of -1.0 makes no sense"),
        ((math.nan, 0.1, 10, 1e-5), "a noise multiplier of nan"),
        ((math.inf, 0.1, 10, 1e-5), "a noise multiplier of inf"),
        ((1.0, 1.1, 10, 1e-5), "a sample rate of 1.1 makes no sense"),
        ((1.0, -0.1, 10, 1e-5), "a sample rate of -0.1"),
        ((1.0, math.nan, 10, 1e-5), "a sample rate of nan"),
        ((1.0, 0.1, -1, 1e-5), "-1 steps cannot be taken"),
        ((1.0, 0.1, math.nan, 1e-5), "nan steps cannot be taken"),
        ((1.0, 0.1, math.inf, 1e-5), "inf steps cannot be taken"),
        ((1.0, 0.1, 10.5, 1e-5), "10.5 steps cannot be taken"),
        ((1.0, 0.1, "10", 1e-5), "'10' steps cannot be taken"),
        ((1.0, 0.1, 10, 0.0), "a delta of 0.0 makes no sense"),
        ((1.0, 0.1, 10, 1.0), "a delta of 1.0"),
        ((1.0, 0.1, 10, -1e-5), "a delta of -1e-05"),
        ((1.0, 0.1, 10, math.nan), "a delta of nan"),
    ],
)
def test_what_makes_no_sense_is_refused(values: tuple[Any, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        epsilon(*values)
    with pytest.raises(BadInput, match=said):
        curve(*values)
    noise, rate, steps, delta = values
    if "noise" not in said:
        with pytest.raises(BadInput, match=said):
            noise_multiplier(1.0, rate, steps, delta)
    if "steps" not in said:
        with pytest.raises(BadInput, match=said):
            steps_within(1.0, noise, rate, delta)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "interval", "default"),
    [(0.5, 1e-6, 1_000, 1e-5, 2e-8, 7.358e-4), (1.0, 1e-5, 3_000, 1e-5, 1e-8, 3.234e-3)],
)
def test_a_tiny_epsilon_is_between_losses_rounded_down_and_up(
    noise: float, rate: float, steps: int, delta: float, interval: float, default: float
) -> None:
    """Where dp-accounting's default grid is much too coarse."""
    found = epsilon(noise, rate, steps, delta)
    lower = by_rounding(noise, rate, steps, delta, interval, up=False)
    upper = by_rounding(noise, rate, steps, delta, interval, up=True)
    assert lower <= found <= 1.01 * upper < 0.8 * default
    assert upper < 1.3 * lower


NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, -1, "1", None, [1], 1j, True, 10**400]


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=lambda bad: str(bad)[:9])
def test_no_argument_may_be_anything_but_a_number_in_its_range(bad: Any) -> None:
    asked: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (epsilon, (1.0, 0.1, 10, 1e-5)),
        (noise_multiplier, (1.0, 0.1, 10, 1e-5)),
        (steps_within, (1.0, 1.0, 0.1, 1e-5)),
        (curve, (1.0, 0.1, 10, 1e-5, 3)),
        (split_noise, (1.0, 10.0)),
        (epsilon_fixed_size, (1.0, 10, 100, 10, 1e-5)),
    ]
    for ask, right in asked:
        for place in range(len(right)):
            with pytest.raises(BadInput):
                ask(*right[:place], bad, *right[place + 1 :])
    for accountant in ("pld", "rdp", "prv", bad):
        with pytest.raises(BadInput):
            epsilon(1.0, 0.1, bad, 1e-5, accountant)
    with pytest.raises(BadInput):
        epsilon(1.0, 0.1, 10, 1e-5, bad)
    with pytest.raises(BadInput):
        epsilon(1.0, 0.1, 10, 1e-5, sampling=bad)
    spent = Charge(1.0, 0.1, bad)
    for before in ([spent], [bad], bad):
        with pytest.raises(BadInput):
            total(before, 1e-5)
        with pytest.raises(BadInput):
            prv_bounds(before, 1e-5)
        with pytest.raises(BadInput):
            noise_multiplier(1.0, 0.1, 10, 1e-5, before=before)
        with pytest.raises(BadInput):
            steps_within(1.0, 1.0, 0.1, 1e-5, before=before)
        with pytest.raises(BadInput):
            curve(1.0, 0.1, 10, 1e-5, before=before)


@pytest.mark.parametrize(
    "values", [(1e300, 0.1, 10, 1e-5), (1.0, 0.1, 1e300, 1e-5), (1.0, 0.1, 10, 5e-324)]
)
def test_numbers_too_extreme_for_double_precision_are_refused_in_words(values: Any) -> None:
    with pytest.raises(BadInput, match="epsilon cannot be computed of numbers so extreme|total"):
        epsilon(*values)


def test_whole_numbers_of_any_kind_are_taken() -> None:
    right = epsilon(1.0, 0.1, 10, 1e-5)
    assert epsilon(np.float64(1.0), np.float32(0.1).item(), np.int64(10), 1e-5) == pytest.approx(
        right, rel=1e-6
    )
    assert epsilon(1, 0.1, 10.0, 1e-5) == right  # type: ignore[arg-type]
    assert curve(1.0, 0.1, 10, 1e-5, 10**15).steps == tuple(range(1, 11))


def test_an_unknown_accountant_and_a_target_of_nothing_are_refused() -> None:
    accountant: Any = "gdp"
    with pytest.raises(BadInput, match="there is no accountant 'gdp'; expected one of: pld, rdp"):
        epsilon(1.0, 0.1, 10, 1e-5, accountant)
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="must be above 0"):
            noise_multiplier(target, 0.1, 10, 1e-5)
        with pytest.raises(BadInput, match="must be above 0"):
            steps_within(target, 1.0, 0.1, 1e-5)


def test_the_logs_are_quiet_and_left_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogger("absl").level
    epsilon(0.6, 0.31, 50, 1e-6, "rdp")  # orders that do not converge
    assert not caplog.records
    assert logging.getLogger("absl").level == before


@pytest.mark.parametrize(
    ("sample_rate", "delta", "found"), [(0.001, 1e-3, 0.06619), (0.001, 0.000999999, 0.091492)]
)
def test_a_search_ends_where_delta_is_all_that_a_step_could_cost(
    sample_rate: float, delta: float, found: float
) -> None:
    """There the quick figure and the shown one jump to 0, one of them sooner."""
    assert noise_multiplier(0.5, sample_rate, 1, delta) == found
    assert (
        epsilon(found, sample_rate, 1, delta) <= 0.5 < epsilon(found - 1e-6, sample_rate, 1, delta)
    )


@pytest.mark.parametrize("edge", [1, 2, 37, 999, 1000, 1001])
@pytest.mark.parametrize("guess", [1, 36, 37, 500, 1001])
def test_a_search_looks_around_its_guess(edge: int, guess: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        assert 1 <= number <= 1000
        asked.append(number)
        return number >= edge

    assert _least(holds, guess, 1, 1001) == edge
    assert len(asked) == len(set(asked)) <= 2 * 10 + 2
    if guess == edge < 1001:
        assert len(asked) <= 2


def test_the_numbers_of_so_many_digits_are_in_order() -> None:
    values = [_of_digits(place) for place in range(_digits(0.99998), _digits(1.0003) + 1)]
    assert values == [0.99998, 0.99999, 1.0, 1.0001, 1.0002, 1.0003]
    assert [_of_digits(_digits(v)) for v in (0.01, 1.23451, 9.99999, 1e4)] == [
        0.01,
        1.2346,
        10,
        1e4,
    ]


def test_very_many_steps_take_a_moment() -> None:
    """dp-accounting would raise a whole number to their power."""
    assert epsilon(5.0, 0.01, 2_000_000, 1e-6) == pytest.approx(17.0818, rel=1e-4)
