"""EAD: accelerated proximal gradient steps on squared distance + beta * l1 distance + c * missing
margin (Chen et al. 2018, algorithm 1, in its FISTA form). `constants` looks for c.

As in the authors' code and Foolbox, values that are within beta of the clean ones are set to these
whatever the step size; that falls as a square root. The gradient is taken at a point ahead of the
one that is judged, so a step is two questions, of which one needs no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.constants import after_step, capped, each, first_search, next_search
from engine.attacks.geometry import Ball
from engine.attacks.method import Answer, Method, Problem, Want
from engine.attacks.spec import EAD


class Search(NamedTuple):
    """(N, C, H, W) are x; `here`, the point that is judged; and `ahead`, where the gradient is
    taken. ends: bool (N,), this search ends with this step. The others belong to the search for the
    constant."""

    x: Tensor
    here: Tensor
    ahead: Tensor
    ends: Tensor
    constant: Tensor
    low: Tensor
    high: Tensor
    steps: Tensor
    searches: Tensor
    found: Tensor
    limit: Tensor


def ead(spec: EAD) -> Method[Search]:
    """EAD as a method for the driver."""

    def start(of: Problem) -> Search:
        clean, going_on = of.ball.centre, torch.zeros_like(of.ids, dtype=torch.bool)
        return Search(clean, clean, clean, going_on, **first_search(spec, of.ids))

    def step(of: Problem, at: Search, answer: Answer, number: int) -> Search:
        return judged(of, at, answer) if number % 2 else moved(of, at, answer)

    def moved(of: Problem, at: Search, answer: Answer) -> Search:
        """Asked `ahead`: takes the step."""
        change = at.ahead - of.ball.centre
        done = at.steps
        at, ends = after_step(spec, at, change.flatten(1).square().sum(1), answer)
        length = spec.step_size * (1 - done / spec.steps).sqrt()
        down = change.mul_(2).addcmul_(each(at.constant), answer.gradient, value=-1)
        here = _shrunk(of.ball, at.ahead - of.ball.masked(down).mul_(each(length)), spec.beta)
        ahead = here + (here - at.here).mul_(each(done / (done + 3)))
        return at._replace(x=here, here=here, ahead=ahead, ends=ends)

    def judged(of: Problem, at: Search, answer: Answer) -> Search:
        """Asked `here`: ends the search where it is time to."""
        at = at._replace(found=at.found | of.goal.reached(answer.logits))
        again = each(at.ends)
        here = torch.where(again, of.ball.centre, at.here)
        ahead = torch.where(again, of.ball.centre, at.ahead)
        return next_search(spec, at, at.ends)._replace(x=ahead, here=here, ahead=ahead)

    def wants(number: int) -> Want:
        return "logits" if number % 2 else "gradient"

    def elastic(ball: Ball, x: Tensor) -> Tensor:
        return spec.beta * ball.size(x) + (x - ball.centre).double().flatten(1).square().sum(1)

    return Method(
        start,
        step,
        capped(spec),
        2 * spec.steps * spec.searches - 1,
        wants=wants,
        minimal=True,
        leaves=False,
        measure=elastic if spec.decision == "elastic" else None,
        done=lambda at: at.searches == spec.searches,
    )


def _shrunk(ball: Ball, x: Tensor, by: float) -> Tensor:
    """Each value, brought nearer to the clean one by `by`, but not past it, and into the box (the
    paper's equation 6)."""
    change = x - ball.centre
    nearer = change.abs().sub_(by).clamp_min_(0).copysign_(change)
    # As a sum, which would round, only where something is left.
    return ball.clip(torch.where(nearer == 0, ball.centre, x - change.sign().mul_(by)))
