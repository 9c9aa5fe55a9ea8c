"""SPSA: Adam along a gradient that is estimated from losses at random corners of a small cube, in
pairs (Spall 1992; Uesato, O'Donoghue, van den Oord and Kohli 2018, section 3.2 and appendix A),
with the margin of the logits as its loss.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.estimates import Looking, estimating
from engine.attacks.losses import margin
from engine.attacks.method import Method, Problem
from engine.attacks.spec import SPSA
from engine.random import derive, uniform

BETAS = 0.9, 0.999
"""Of Adam (Kingma and Ba 2015, algorithm 1)."""


def spsa(spec: SPSA) -> Method[Looking]:
    """SPSA as a method for the driver."""

    def draw(of: Problem, step: int, part: int, count: int) -> Tensor:
        seed = derive(of.seed, "spsa", step, part)
        corners = uniform(seed, of.ids, (count, *of.ball.centre.shape[1:])) < 0.5
        return (2 * corners.float() - 1).mul_(spec.delta)

    def update(of: Problem, at: Looking, estimate: Tensor, step: int) -> Looking:
        # A difference of losses over 2 delta, along each axis: the change is +-delta itself.
        gradient = estimate / (2 * spec.delta**2)
        first = at.first.lerp(gradient, 1 - BETAS[0])
        second = at.second.lerp(gradient**2, 1 - BETAS[1])
        corrected = second / (1 - BETAS[1] ** (step + 1))
        change = first / (1 - BETAS[0] ** (step + 1)) / corrected.sqrt().add_(1e-8)
        moved = of.ball.project(at.at + spec.step_size * change)
        return at._replace(at=moved, first=first, second=second)

    return estimating(
        steps=spec.steps,
        pairs=spec.samples // 2,
        points=spec.points,
        draw=draw,
        update=update,
        loss=margin,
    )
