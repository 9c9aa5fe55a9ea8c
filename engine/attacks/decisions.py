"""What attacks share that see nothing but the predicted class: a first point that is adversarial,
and the way from it towards the clean image, up to where the class changes.

Points are asked about in lockstep. Which question comes when is a plan, the same for all samples;
what it is about depends on a sample's own answers alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.method import Answer, Problem
from engine.attacks.spec import Norm
from engine.random import derive, uniform

TRIALS = 20
"""Noise images among which a first adversarial point is looked for."""


class Line(NamedTuple):
    """Points from the clean image to `far`, which breaks the sample: the one at `high` does too,
    the one at `low` does not. `low`, `high`: (N,) in [0, 1]; far: (N, C, H, W)."""

    far: Tensor
    low: Tensor
    high: Tensor


def decision(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """The loss that these attacks climb: 1 where a sample is broken, else 0."""
    return goal.reached(logits).float()


def broken(of: Problem, answer: Answer) -> Tensor:
    """Which points broke their sample, bool (N,), or (N, Q) of several points a sample."""
    logits = answer.logits
    if logits.ndim == 2:
        return of.goal.reached(logits)
    each = torch.arange(len(logits), device=logits.device).repeat_interleave(logits.shape[1])
    return of.goal[each].reached(logits.flatten(0, 1)).view(logits.shape[:2])


def trials(of: Problem) -> Tensor:
    """Images that may be adversarial, (N, Q, C, H, W): the problem's own starts, if there are any,
    and uniform noise, as bright as can be and darker and darker: one class takes all of the first
    in many a model."""
    centre = of.ball.centre
    noise = uniform(derive(of.seed, "trials"), of.ids, (TRIALS, *centre.shape[1:]))
    bright = torch.linspace(1, 0.1, TRIALS, device=centre.device).view(1, -1, 1, 1, 1)
    noise = noise * bright
    if of.starts is not None:
        noise = torch.cat([of.starts[:, None], noise], dim=1)
    return within(of, noise)


def begun(of: Problem, x: Tensor, answer: Answer, norm: Norm) -> tuple[Line, Tensor]:
    """The line to the nearest of the trials `x` that broke its sample; and of whom there is none,
    bool (N,)."""
    hit = broken(of, answer)
    sizes = length((x - of.ball.centre[:, None]).flatten(0, 1), norm).view(hit.shape)
    nearest = torch.where(hit, sizes, float("inf")).argmin(1)
    far = x[torch.arange(len(x), device=x.device), nearest]
    return Line(far, far.new_zeros(len(far)), far.new_ones(len(far))), ~hit.any(1)


def middle(line: Line) -> Tensor:
    """The place on the line to ask about next, (N,)."""
    return (line.low + line.high) / 2


def halved(line: Line, hit: Tensor) -> Line:
    """The line after its middle was seen to break its sample or not, bool (N,)."""
    half = middle(line)
    return Line(line.far, torch.where(hit, line.low, half), torch.where(hit, half, line.high))


def point(of: Problem, line: Line, place: Tensor, norm: Norm) -> Tensor:
    """The image at `place`, (N,), of the line: in l2 the change is shortened, in linf it is cut
    off at that share of its largest entry."""
    centre, place = of.ball.centre, place.view(-1, 1, 1, 1)
    if norm == "l2":
        return centre.lerp(line.far, place).clamp_(0, 1)
    change = line.far - centre
    cut = change.abs().amax((1, 2, 3), keepdim=True) * place
    return torch.where(place < 1, centre + change.clamp(-cut, cut), line.far).clamp_(0, 1)


def within(of: Problem, x: Tensor) -> Tensor:
    """`x`, (N, ...) or (N, Q, ...), cut off at the box, and left clean outside of the mask."""
    x = x.clamp(0, 1)
    mask, centre = of.ball.mask, of.ball.centre
    if mask is None:
        return x
    return x.where(mask, centre) if x.ndim == 4 else x.where(mask[:, None], centre[:, None])


def length(change: Tensor, norm: Norm) -> Tensor:
    """The size of each change, (N, C, H, W), as (N,)."""
    if norm == "linf":
        return change.abs().amax((1, 2, 3))
    size: Tensor = torch.linalg.vector_norm(change, 2, dim=(1, 2, 3))
    return size
