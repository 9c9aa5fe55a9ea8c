"""What a private training would cost, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import BadInput
from engine.privacy.accounting import Curve, curve, noise_multiplier, steps_within
from engine.privacy.ledger import Charge
from engine.privacy.spec import DEFAULT_NOISE, DPSGD


@dataclass(frozen=True, slots=True)
class Plan:
    """noise: the multiplier, given or found. rate: probability with which each image is in a step.
    planned: steps that the epochs have. within: how many of them the target allows, all without
    one. before: what is spent ahead of the first step."""

    noise: float
    rate: float
    planned: int
    within: int
    before: tuple[Charge, ...]

    def ahead(self, delta: float, points: int = 100) -> Curve:
        """Epsilon over all steps that are planned."""
        return curve(self.noise, self.rate, self.planned, delta, points, before=self.before)


def plan(spec: DPSGD, count: int, batch_size: int, epochs: int, *, statistic: bool = False) -> Plan:
    """For `count` training images. statistic: whether one of them is told before the first step.

    Raises BadInput for a target epsilon that cannot be met."""
    rate = min(1.0, batch_size / count)
    planned = epochs * max(1, round(count / batch_size))
    before = (Charge(spec.statistic_noise, 1.0),) if statistic else ()
    if spec.noise_multiplier is not None:
        noise = spec.noise_multiplier
    elif spec.epsilon is not None:
        noise = noise_multiplier(spec.epsilon, rate, planned, spec.delta, before=before)
    else:
        noise = DEFAULT_NOISE
    within = planned
    if spec.epsilon is not None:
        within = min(planned, steps_within(spec.epsilon, noise, rate, spec.delta, before=before))
    if within < 1:
        raise BadInput(
            f"a target epsilon of {spec.epsilon:g} is exceeded by a single step with noise "
            f"multiplier {noise:g} at a sample rate of {rate:.4g}; take more noise, a smaller "
            "batch, or a larger target"
        )
    return Plan(noise, rate, planned, within, before)
