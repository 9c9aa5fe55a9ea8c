"""The boundary attack: a random walk along the decision boundary, ever closer to the clean image
(Brendel, Rauber and Bethge 2018, section 3).

As in the authors' code (Foolbox): a candidate is a step at random along the sphere around the clean
image, and one towards it; both step sizes follow from how often candidates are adversarial, those
on the sphere alone (asked about at every `check`-th step) and whole ones. There all samples share a
direction, one is drawn for each here; whole candidates count in all steps and not only in those of
a check, and the windows are shorter (30 and 100 steps against 300 and 1000), so that step sizes
adapt within a few hundred queries. The first point is taken to the boundary by a binary search.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.decisions import (
    Line,
    begun,
    broken,
    decision,
    halved,
    length,
    middle,
    point,
    trials,
    within,
)
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import Boundary
from engine.random import derive, normal

SEARCH = 10
"""Questions of the first binary search."""

WINDOWS = 10, 30
"""Candidates on the sphere, and whole ones, that a success rate is taken of."""

CONVERGED = 1e-7
"""A step towards the clean image, relative to the distance, at which the walk is over."""


class Walk(NamedTuple):
    """at: the nearest adversarial point so far. (far, low, high): the first `Line`. around, inward:
    (N,), step sizes relative to the distance. spherical, whole: (N, window), the last successes,
    NaN where there were fewer since the step size was changed. over: bool (N,), nothing is left to
    be done."""

    x: Tensor
    at: Tensor
    far: Tensor
    low: Tensor
    high: Tensor
    around: Tensor
    inward: Tensor
    spherical: Tensor
    whole: Tensor
    over: Tensor


def boundary(spec: Boundary) -> Method[Walk]:
    """The boundary attack as a method for the driver."""

    def start(of: Problem) -> Walk:
        image = of.ball.centre
        one = image.new_ones(len(of))
        return Walk(
            x=trials(of),
            at=image,
            far=image,
            low=0 * one,
            high=one,
            around=spec.orthogonal_step * one,
            inward=spec.source_step * one,
            spherical=image.new_full((len(of), WINDOWS[0]), float("nan")),
            whole=image.new_full((len(of), WINDOWS[1]), float("nan")),
            over=one < 0,
        )

    def step(of: Problem, at: Walk, answer: Answer, number: int) -> Walk:
        hit = broken(of, answer)
        following = number + 1
        if number == 0:
            line, none = begun(of, at.x, answer, "l2")
            at = at._replace(**line._asdict(), over=none)
        elif number <= SEARCH:
            line = halved(Line(at.far, at.low, at.high), hit)
            at = at._replace(low=line.low, high=line.high)
            at = at._replace(at=point(of, line, line.high, "l2"))
        else:
            at = _adapted(_moved(of, at, hit), hit, spec.adaptation)
        if following <= SEARCH:
            line = Line(at.far, at.low, at.high)
            return at._replace(x=point(of, line, middle(line), "l2"))
        whole, spherical = _candidates(of, at, following)
        check = (following - SEARCH) % spec.check == 0
        return at._replace(x=torch.stack([whole, spherical], dim=1) if check else whole)

    steps = SEARCH + spec.steps
    return Method(
        start,
        step,
        decision,
        steps,
        wants="logits",
        minimal=True,
        leaves=False,
        done=lambda at: at.over,
    )


def _candidates(of: Problem, at: Walk, number: int) -> tuple[Tensor, Tensor]:
    """A step along the sphere and towards the clean image, and the former alone."""
    centre = of.ball.centre
    out = at.at - centre
    away = _wide(length(out, "l2")).clamp_min(1e-12)
    draws = normal(derive(of.seed, "walk", number), of.ids, centre.shape[1:])
    if of.ball.mask is not None:
        draws = draws * of.ball.mask
    draws = draws - out * ((draws * out).sum((1, 2, 3), keepdim=True) / away**2)
    draws = draws * (_wide(at.around) * away / _wide(length(draws, "l2")).clamp_min(1e-12))
    spherical = within(of, centre + (out + draws) / (1 + _wide(at.around) ** 2).sqrt())
    now = spherical - centre
    # Cutting off at the box has left the sphere; the step inward is from its radius.
    size = _wide(length(now, "l2")).clamp_min(1e-12)
    shorter = (_wide(at.inward) * away + size - away).clamp_min(0) / size
    return within(of, spherical - shorter * now), spherical


def _moved(of: Problem, at: Walk, hit: Tensor) -> Walk:
    """At the candidate, if it is adversarial and nearer."""
    candidate, done = (at.x, hit) if hit.ndim == 1 else (at.x[:, 0], hit[:, 0])
    centre = of.ball.centre
    nearer = length(candidate - centre, "l2") < length(at.at - centre, "l2")
    return at._replace(at=candidate.where(_wide(done & nearer), at.at))


def _adapted(at: Walk, hit: Tensor, factor: float) -> Walk:
    """Step sizes by the success rates: around half of the candidates on the sphere should be
    adversarial, and between a tenth and a quarter of the whole ones."""
    around, inward, spherical = at.around, at.inward, at.spherical
    whole = _pushed(at.whole, hit if hit.ndim == 1 else hit[:, 0])
    if hit.ndim == 2:
        spherical = _pushed(spherical, hit[:, 1])
        change, spherical = _change(spherical, 0.2, 0.5, factor)
        around, inward = around * change, inward * change
    change, whole = _change(whole, 0.1, 0.25, factor)
    inward = inward * change
    over = at.over | (inward < CONVERGED)
    return at._replace(around=around, inward=inward, spherical=spherical, whole=whole, over=over)


def _pushed(window: Tensor, hit: Tensor) -> Tensor:
    return torch.cat([window[:, 1:], hit[:, None].float()], dim=1)


def _change(window: Tensor, low: float, high: float, factor: float) -> tuple[Tensor, Tensor]:
    """What a step size is multiplied with, (N,), and the window, emptied where it is changed. A
    mean of NaN, of a window that is not full, changes nothing."""
    rate = window.mean(1)
    more, less = rate > high, rate < low
    change = torch.ones_like(rate).masked_fill(more, factor).masked_fill(less, 1 / factor)
    return change, window.masked_fill((more | less)[:, None], float("nan"))


def _wide(number: Tensor) -> Tensor:
    return number.view(-1, 1, 1, 1)
