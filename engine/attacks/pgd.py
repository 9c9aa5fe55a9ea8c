"""PGD: gradient steps of a fixed length, each projected back into the ball (Madry et al. 2018,
section 2.1)."""

from __future__ import annotations

from engine.attacks.losses import LOSSES
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.spec import PGD


def pgd(spec: PGD) -> Method[Point]:
    """PGD as a method for the driver."""

    def start(of: Problem) -> Point:
        return Point(of.ball.random(of.seed, of.ids) if spec.random_start else of.ball.centre)

    def step(of: Problem, at: Point, answer: Answer, _: int) -> Point:
        return Point(of.ball.move(at.x, answer.gradient, spec.step_size))

    return Method(start, step, LOSSES[spec.loss], spec.steps)
