"""PGD: gradient steps of a fixed length, each projected back into the ball (Madry et al. 2018,
section 2.1), and BIM, the same from the image itself (Kurakin, Goodfellow and Bengio 2017,
section 2.2).

The steepest step in l1 changes a single value, which takes too many of them; as in SLIDE (Tramer
and Boneh 2019, section 4.1) a step goes along the signs of a share of the gradient's entries, the
largest, of values that can still move. The share shrinks to a tenth on the way (Croce and Hein
2021, section 4.2, adapt it as well), since no fixed one did well on both nets that were tried.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.geometry import L1Ball
from engine.attacks.losses import LOSSES, cross_entropy
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.spec import BIM, PGD


def pgd(spec: PGD) -> Method[Point]:
    """PGD as a method for the driver."""

    def start(of: Problem) -> Point:
        return Point(of.ball.random(of.seed, of.ids) if spec.random_start else of.ball.centre)

    def step(of: Problem, at: Point, answer: Answer, number: int) -> Point:
        if isinstance(of.ball, L1Ball):
            share = spec.sparsity * 10 ** (-number / spec.steps)
            along = of.ball.spread(at.x, answer.gradient, share)
            return Point(of.ball.project(along.mul_(spec.step_size).add_(at.x)))
        return Point(of.ball.move(at.x, answer.gradient, spec.step_size))

    return Method(start, step, LOSSES[spec.loss], spec.steps)


def bim(spec: BIM) -> Method[Point]:
    """BIM as a method for the driver."""

    def step(of: Problem, at: Point, answer: Answer, _: int) -> Point:
        return Point(of.ball.move(at.x, answer.gradient, each_step(of, spec.step_size, spec.steps)))

    return Method(lambda of: Point(of.ball.centre), step, cross_entropy, spec.steps)


def each_step(of: Problem, size: float | None, steps: int) -> float | Tensor:
    """The length of a step: `size`, or an even share of each sample's radius, (N, 1, 1, 1)."""
    return of.ball.eps / steps if size is None else size
