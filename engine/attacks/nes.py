"""NES: projected gradient steps along a gradient that is estimated from losses at Gaussian points
in antithetic pairs (Ilyas, Engstrom, Athalye and Lin 2018, section 2.2 and algorithm 1).

As in the authors' code the estimates are averaged with a momentum, and what is asked about is not
cut off at the box. The paper's loss is the cross-entropy; ours is the margin unless told otherwise,
since in float32 the former is flat where a model is sure of itself.
"""

from __future__ import annotations

from torch import Tensor

from engine.attacks.estimates import Looking, estimating
from engine.attacks.losses import LOSSES
from engine.attacks.method import Method, Problem
from engine.attacks.spec import NES
from engine.random import derive, normal


def nes(spec: NES) -> Method[Looking]:
    """NES as a method for the driver."""

    def draw(of: Problem, step: int, part: int, count: int) -> Tensor:
        seed = derive(of.seed, "nes", step, part)
        return normal(seed, of.ids, (count, *of.ball.centre.shape[1:])).mul_(spec.sigma)

    def update(of: Problem, at: Looking, estimate: Tensor, _: int) -> Looking:
        gradient = spec.momentum * at.first + (1 - spec.momentum) * estimate
        return at._replace(at=of.ball.move(at.at, gradient, spec.step_size), first=gradient)

    return estimating(
        steps=spec.steps,
        pairs=spec.samples // 2,
        points=spec.points,
        draw=draw,
        update=update,
        loss=LOSSES[spec.loss],
    )
