"""PGD: gradient steps of a fixed length, each projected back into the ball (Madry et al. 2018,
section 2.1)."""

from __future__ import annotations

from torch import Tensor

from engine.attacks.geometry import Ball
from engine.attacks.losses import LOSSES
from engine.attacks.method import Method, Point
from engine.attacks.spec import PGD


def pgd(spec: PGD) -> Method[Point]:
    """PGD as a method for the driver."""

    def start(ball: Ball, seed: int, ids: Tensor) -> Point:
        return Point(ball.random(seed, ids) if spec.random_start else ball.centre)

    def step(ball: Ball, at: Point, gradient: Tensor) -> Point:
        return Point(ball.move(at.x, gradient, spec.step_size))

    return Method(start, step, LOSSES[spec.loss], spec.steps, spec.restarts)
