"""FGSM: one step of full length along the gradient's sign (Goodfellow, Shlens and Szegedy 2015,
section 4); with a random start and a step of 1.25 eps, as Wong, Rice and Kolter 2020, section 4.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.geometry import Ball
from engine.attacks.losses import cross_entropy
from engine.attacks.method import Method, Point
from engine.attacks.spec import FGSM


def fgsm(spec: FGSM) -> Method[Point]:
    """FGSM as a method for the driver. In l2 the step goes along the gradient itself."""

    def start(ball: Ball, seed: int, ids: Tensor) -> Point:
        return Point(ball.random(seed, ids) if spec.random_start else ball.centre)

    def step(ball: Ball, at: Point, gradient: Tensor) -> Point:
        length = ball.eps * (1.25 if spec.random_start else 1.0)
        return Point(ball.move(at.x, gradient, length))

    return Method(start, step, loss=cross_entropy, steps=1)
