"""FGSM: one step of full length along the gradient's sign (Goodfellow, Shlens and Szegedy 2015,
section 4); with a random start and a step of 1.25 eps, as Wong, Rice and Kolter 2020, section 4.
"""

from __future__ import annotations

from engine.attacks.losses import cross_entropy
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.spec import FGSM


def fgsm(spec: FGSM) -> Method[Point]:
    """FGSM as a method for the driver. In l2 the step goes along the gradient itself."""

    def start(of: Problem) -> Point:
        return Point(of.ball.random(of.seed, of.ids) if spec.random_start else of.ball.centre)

    def step(of: Problem, at: Point, answer: Answer, _: int) -> Point:
        length = of.ball.eps * (1.25 if spec.random_start else 1.0)
        return Point(of.ball.move(at.x, answer.gradient, length))

    return Method(start, step, loss=cross_entropy, steps=1)
