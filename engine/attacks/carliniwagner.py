"""Carlini and Wagner's attack in l2: Adam on squared distance + c * missing margin, in a space
whose tanh is the image (Carlini and Wagner 2017, sections V-B and VI-A). `constants` looks for c.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.constants import after_step, capped, each, first_search, next_search
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import CarliniWagner

_MOMENTUM, _SCALING = 0.9, 0.999  # Adam's betas


class Search(NamedTuple):
    """(N, C, H, W) are x; `w`, with x = (tanh(w) + 1) / 2, and its value at the clean image; and
    Adam's two averages. The others belong to the search for the constant."""

    x: Tensor
    w: Tensor
    origin: Tensor
    mean: Tensor
    square: Tensor
    constant: Tensor
    low: Tensor
    high: Tensor
    steps: Tensor
    searches: Tensor
    found: Tensor
    limit: Tensor


def carliniwagner(spec: CarliniWagner) -> Method[Search]:
    """Carlini and Wagner's attack as a method for the driver. One search asks `steps` questions."""

    def start(of: Problem) -> Search:
        # The edge of the box is infinitely far away for w.
        origin = (of.ball.centre * 2 - 1).mul_(1 - 1e-6).atanh_()
        none = torch.zeros_like(origin)
        constant = first_search(spec, of.ids)
        return Search(
            _image(of, origin), w=origin, origin=origin, mean=none, square=none, **constant
        )

    def step(of: Problem, at: Search, answer: Answer, _: int) -> Search:
        change = at.x - of.ball.centre
        at = at._replace(found=at.found | of.goal.reached(answer.logits))
        at, ends = after_step(spec, at, change.flatten(1).square().sum(1), answer)
        down = change.mul_(2).addcmul_(each(at.constant), answer.gradient, value=-1)
        down.mul_((1 - at.x).mul_(at.x).mul_(2))  # dx/dw
        at = _restarted(_adam(spec, at, of.ball.masked(down)), each(ends))
        return next_search(spec, at, ends)._replace(x=_image(of, at.w))

    return Method(
        start,
        step,
        capped(spec),
        spec.steps * spec.searches - 1,
        minimal=True,
        leaves=False,
        done=lambda at: at.searches == spec.searches,
    )


def _adam(spec: CarliniWagner, at: Search, down: Tensor) -> Search:
    """One step of Adam against the slope `down` (Kingma and Ba 2015, algorithm 1)."""
    mean = torch.lerp(down, at.mean, _MOMENTUM)
    square = (at.square * _SCALING).addcmul_(down, down, value=1 - _SCALING)
    spread = (square / each(1 - _SCALING**at.steps)).sqrt_().add_(1e-8)
    size = spec.step_size / (1 - _MOMENTUM**at.steps)
    return at._replace(w=at.w - mean.div(spread).mul_(each(size)), mean=mean, square=square)


def _restarted(at: Search, ends: Tensor) -> Search:
    """At the clean image where `ends`, bool (N, 1, 1, 1)."""
    return at._replace(
        w=torch.where(ends, at.origin, at.w),
        mean=at.mean.masked_fill(ends, 0),
        square=at.square.masked_fill(ends, 0),
    )


def _image(of: Problem, w: Tensor) -> Tensor:
    return of.ball.clip(w.tanh().add_(1).div_(2))
