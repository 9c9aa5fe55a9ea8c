"""DDN: gradient steps whose direction and norm are decoupled. The norm of the perturbation is set
to a radius that shrinks by a share where the last point was across the boundary and grows where it
was not (Rony et al. 2019, algorithm 1).

As in the authors' code and adv-lib: the step goes from 1 to .01 by a cosine, and the radius is
bounded by the farthest corner of the box. Where the gradient is zero the direction is random.

Unlike there, values are rounded to 256 levels in each step only if `levels` asks for it. Rounding
undoes every change of less than half a level, as those of the last, short steps are: a robust MNIST
net was broken at 83 % of the samples in place of 99 %, by larger perturbations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.geometry import length_of
from engine.attacks.losses import cross_entropy
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import DDN
from engine.random import derive, normal

_TINY = 1e-12


class Sphere(NamedTuple):
    """x: (N, C, H, W). radius, corner: (N, 1, 1, 1), of the next point, and largest possible."""

    x: Tensor
    radius: Tensor
    corner: Tensor


def ddn(spec: DDN) -> Method[Sphere]:
    """DDN as a method for the driver."""

    def start(of: Problem) -> Sphere:
        clean = of.ball.centre
        corner = length_of(torch.maximum(clean, 1 - clean))
        return Sphere(clean, torch.full_like(corner, spec.first_radius), corner)

    def step(of: Problem, at: Sphere, answer: Answer, number: int) -> Sphere:
        across = of.goal.reached(answer.logits).view(-1, 1, 1, 1)
        radius = at.radius * torch.where(across, 1 - spec.gamma, 1 + spec.gamma)
        radius = torch.minimum(radius, at.corner)
        along = answer.gradient if of.ball.mask is None else answer.gradient * of.ball.mask
        length = length_of(along)
        flat = (length < _TINY).flatten().nonzero().squeeze(1)
        along = along / length.clamp_min(_TINY)
        if flat.shape[0]:
            seed = derive(of.seed, "direction", number)
            along[flat] = normal(seed, of.ids[flat], along.shape[1:])
        share = 0.01 + 0.99 * (1 + math.cos(math.pi * number / spec.steps)) / 2
        change = along.mul_(share).add_(at.x).sub_(of.ball.centre)
        change *= radius / length_of(change).clamp_min(_TINY)
        x = of.ball.clip(change.add_(of.ball.centre))
        if spec.levels is not None:
            # What the mask keeps is not rounded.
            x = of.ball.clip(x.mul_(spec.levels - 1).round_().div_(spec.levels - 1))
        return Sphere(x, radius, at.corner)

    return Method(start, step, cross_entropy, spec.steps, minimal=True, leaves=False)
