"""The virtual adversarial direction: along which the prediction changes fastest, found without
labels (Miyato et al. 2018, section 3.3, algorithm 1).

The divergence KL(clean | perturbed) is smallest at the image, so its slope is taken a tiny way `xi`
off; each such slope is one step of a power iteration for the direction of greatest curvature.
The perturbation has the full length epsilon, less what the box cuts off; as in the paper it is
Euclidean.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.kl import Diverging, divergence
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import VirtualAdversarial
from engine.random import derive, normal


def virtual(spec: VirtualAdversarial) -> Method[Diverging]:
    """The virtual adversarial perturbation as a method for the driver."""

    def start(of: Problem) -> Diverging:
        drawn = normal(derive(of.seed, "start"), of.ids, of.ball.centre.shape[1:])
        return Diverging(_near(of, drawn, spec.xi), of.clean.log_softmax(1))

    def step(of: Problem, at: Diverging, answer: Answer, number: int) -> Diverging:
        if number + 1 < spec.steps:
            return at._replace(x=_near(of, answer.gradient, spec.xi))
        long = of.ball.direction(answer.gradient).mul_(of.ball.eps)
        return at._replace(x=of.ball.project(long.add_(of.ball.centre)))

    return Method(start, step, divergence, spec.steps, needs_clean=True)


def _near(of: Problem, direction: Tensor, xi: float) -> Tensor:
    """A point `xi` away from the image. It may lie outside of the box: it is only asked about."""
    return of.ball.direction(direction).mul_(xi).add_(of.ball.centre)
