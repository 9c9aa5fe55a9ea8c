"""What a private training would cost, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.errors import BadInput
from engine.privacy.accounting import Curve, curve, noise_multiplier, steps_within
from engine.privacy.ledger import Charge
from engine.privacy.spec import DEFAULT_NOISE, DPSGD


class Asked(Protocol):
    """What is asked of a budget, of images or of clients."""

    @property
    def epsilon(self) -> float | None: ...
    @property
    def delta(self) -> float: ...
    @property
    def noise_multiplier(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """noise: the multiplier, given or found. rate: probability with which each image (or client)
    is in a step (or round). planned: steps that are asked for. allowed: those that the target
    allows, if there is one. before: what is spent ahead of the first step."""

    noise: float
    rate: float
    planned: int
    allowed: int | None
    before: tuple[Charge, ...] = ()

    @property
    def within(self) -> int:
        """The steps that will be taken."""
        return self.planned if self.allowed is None else min(self.planned, self.allowed)

    def ahead(self, delta: float, points: int = 100) -> Curve:
        """Epsilon over all steps that are planned."""
        return curve(self.noise, self.rate, self.planned, delta, points, before=self.before)


def plan(spec: DPSGD, count: int, batch_size: int, epochs: int, *, statistic: bool = False) -> Plan:
    """For `count` training images. statistic: whether one of them is told before the first step.

    Raises BadInput for a target epsilon that cannot be met."""
    rate = min(1.0, batch_size / count)
    planned = epochs * max(1, round(count / batch_size))
    before = (Charge(spec.statistic_noise, 1.0),) if statistic else ()
    found = budget(spec, rate, planned, before)
    if found.within < 1:
        raise BadInput(
            f"a target epsilon of {spec.epsilon:g} is exceeded by a single step with noise "
            f"multiplier {found.noise:g} at a sample rate of {rate:.4g}; take more noise, a "
            "smaller batch, or a larger target"
        )
    return found


def budget(spec: Asked, rate: float, planned: int, before: tuple[Charge, ...] = ()) -> Plan:
    """The noise that is given, or found for the target, and how far that reaches: `within` is 0
    where it does not for a single step."""
    if spec.noise_multiplier is not None:
        noise = spec.noise_multiplier
    elif spec.epsilon is not None:
        noise = noise_multiplier(spec.epsilon, rate, planned, spec.delta, before=before)
    else:
        noise = DEFAULT_NOISE
    allowed = None
    if spec.epsilon is not None:
        allowed = steps_within(spec.epsilon, noise, rate, spec.delta, before=before)
    return Plan(noise, rate, planned, allowed, before)
