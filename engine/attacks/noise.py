"""Perturbations that know nothing of the model: random noise, the best of several draws, and one
value added everywhere. What they break any attack breaks; they are there to be compared with.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.spec import Noise, Shift
from engine.random import derive, normal, uniform


def noise(spec: Noise) -> Method[Point]:
    """Noise as a method for the driver; a step is a draw. In l2 a draw is stretched until, cut off
    at the box, it has the full size (Rauber and Bethge 2020, "Fast differentiable clipping-aware
    normalization and rescaling")."""

    def drawn(of: Problem, number: int) -> Point:
        shape = of.ball.centre.shape[1:]
        seed = derive(of.seed, "noise", number)
        if spec.distribution == "gaussian":
            draws = normal(seed, of.ids, shape)
        else:
            draws = 2 * uniform(seed, of.ids, shape) - 1
        if spec.norm == "l2":
            draws = 10 * of.ball.direction(draws)
        return Point(of.ball.project(of.ball.centre + of.ball.eps * draws))

    def step(of: Problem, _: Point, __: Answer, number: int) -> Point:
        return drawn(of, number + 1)

    return Method(lambda of: drawn(of, 0), step, margin, spec.repeats - 1, wants="logits")


def shift(_: Shift) -> Method[Point]:
    """The same value added to every pixel, then taken from it, as a method for the driver."""

    def shifted(of: Problem, by: Tensor) -> Point:
        return Point(of.ball.project(of.ball.centre + by))

    def step(of: Problem, _: Point, __: Answer, ___: int) -> Point:
        return shifted(of, -of.ball.eps)

    return Method(lambda of: shifted(of, of.ball.eps), step, margin, 1, wants="logits")
