"""FMN: gradient steps inside a ball whose radius follows the boundary. It shrinks by a share where
the last point was across; before a sample was ever across it is the distance to the boundary of the
linearised model, afterwards it grows by a share where the point was not (Pintor et al. 2021,
algorithm 1; its section 2 for the projections).

As in the authors' code and adv-lib: the step, along the gradient in l2 whatever the norm, goes by a
cosine from `step_size` to a hundredth of it, the share from `gamma` to .001; the ball is projected
onto first and the box second; in l2 the perturbation is brought to the radius, not only inside.

One thing differs: the estimated distance to the boundary is added to the last radius, not to the
last size. The box takes from the size what the radius had given, so that theirs can approach a
boundary for ever and never be across: on a standard MNIST model 29 % of samples, here none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.geometry import ORDERS
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import FMN

_TINY = 1e-12
_LAST_SHARE = 0.001
_NEWTON_STEPS = 12
"""Of the projection onto the l1 ball, which seldom needs more than eight."""


class Radius(NamedTuple):
    """x: (N, C, H, W). radius: (N,), of the ball for the next point. best: (N,), smallest size that
    was across, the box's farthest corner before. found: bool (N,), whether any was. farthest:
    (N,), size of that corner."""

    x: Tensor
    radius: Tensor
    best: Tensor
    found: Tensor
    farthest: Tensor


def fmn(spec: FMN) -> Method[Radius]:
    """FMN as a method for the driver."""
    order = ORDERS[spec.norm]
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}.get(order, 0.0)

    def start(of: Problem) -> Radius:
        clean = of.ball.centre
        farthest = _size(torch.maximum(clean, 1 - clean), order)
        radius = torch.full_like(farthest, math.inf if order else 1)
        return Radius(clean, radius, farthest, torch.zeros_like(of.ids, dtype=torch.bool), farthest)

    def step(of: Problem, at: Radius, answer: Answer, number: int) -> Radius:
        cosine = (1 + math.cos(math.pi * number / spec.steps)) / 2
        length = spec.step_size * (0.01 + 0.99 * cosine)
        share = _LAST_SHARE + (spec.gamma - _LAST_SHARE) * cosine
        slope = answer.gradient if of.ball.mask is None else answer.gradient * of.ball.mask

        change = at.x - of.ball.centre
        size = _size(change, order)
        across = of.goal.reached(answer.logits)
        found = at.found | across
        best = torch.where(across, torch.minimum(size, at.best), at.best)
        if order:
            shrunk = torch.minimum(at.radius * (1 - share), best)
            missing = answer.loss.abs().nan_to_num(0.0, 0.0, 0.0)
            away = missing / _size(slope, dual).clamp_min(_TINY)
            # The box takes from the size what the radius had given.
            last = torch.where(at.radius.isinf(), size, torch.maximum(size, at.radius))
            further = last * (1 + _LAST_SHARE) + away  # no one stays right on the boundary
            grown = torch.where(found, at.radius * (1 + share), further)
        else:
            fewer = torch.minimum(at.radius - 1, (at.radius * (1 - share)).floor())
            shrunk = torch.minimum(fewer, best).clamp_min(0)
            grown = torch.maximum(at.radius + 1, (at.radius * (1 + share)).floor())
        radius = torch.minimum(torch.where(across, shrunk, grown), at.farthest)

        scale = (length / _size(slope, 2).clamp_min(_TINY)).view(-1, 1, 1, 1)
        change = _PROJECTIONS[order](change.addcmul_(scale, slope).flatten(1), radius[:, None])
        x = of.ball.clip(change.view_as(at.x).add_(of.ball.centre))
        return Radius(x, radius, best, found, at.farthest)

    return Method(start, step, margin, spec.steps, minimal=True, leaves=False)


def _size(x: Tensor, order: float) -> Tensor:
    """(N,)"""
    flat = x.flatten(1)
    if order == math.inf:  # ten times as fast as torch's norm
        return flat.abs().amax(1)
    size: Tensor = torch.linalg.vector_norm(flat, order, dim=1)
    return size


# Each takes changes, (N, D), and radii, (N, 1), and may overwrite the changes.


def _onto_l0(change: Tensor, radius: Tensor) -> Tensor:
    size = change.abs()
    count = radius.long().clamp_min(1)
    largest = size.topk(int(count.max()), dim=1).values
    return change.masked_fill_(size < largest.gather(1, count - 1), 0)


def _onto_l1(change: Tensor, radius: Tensor) -> Tensor:
    """Shrinks all values by the threshold at which they sum to the radius, found by Newton's
    method, which comes from below and ends exactly (Michelot 1986)."""
    size = change.abs()
    threshold = torch.zeros_like(radius)
    for _ in range(_NEWTON_STEPS):
        above = (size > threshold).to(size)
        total, count = (above * size).sum(1, keepdim=True), above.sum(1, keepdim=True)
        threshold = ((total - radius) / count.clamp_min(1)).clamp_min_(0)
    return size.sub_(threshold).clamp_min_(0).copysign_(change)


def _onto_l2(change: Tensor, radius: Tensor) -> Tensor:
    return change.mul_(radius / _size(change, 2)[:, None].clamp_min(_TINY))


def _onto_linf(change: Tensor, radius: Tensor) -> Tensor:
    return change.clamp_(-radius, radius)


_PROJECTIONS = {0.0: _onto_l0, 1.0: _onto_l1, 2.0: _onto_l2, math.inf: _onto_linf}
