"""APGD: steps with momentum whose length is halved where they stop to pay, without a step size to
choose (Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", algorithm 1; for l1 Croce and Hein 2021, "Mind the box", algorithm
1).

Where paper and authors' code (AutoAttack) differ it follows the code, which published figures come
from: checkpoints every 22, 19, 16, ... steps (of 100), never less than 6; the first step counts as
a rise of the loss if that is above 0; l2 pulls a point back along its ray and then cuts it off at
the box, where the paper projects onto both; the start has full length. Other than there, also the
first of the larger l1 radii begins with steps along a fifth of the values, not along as many as the
start happens to change: over 6,000 searches neither side broke more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.geometry import Ball, L1Ball, L2Ball, largest, mixed, strongest
from engine.attacks.losses import cross_entropy, dlr, target_cross_entropy, target_dlr
from engine.attacks.method import Answer, Loss, Method, Problem
from engine.attacks.spec import APGD
from engine.random import derive, normal, uniform


class Climb(NamedTuple):
    """x: the point asked about, (N, C, H, W), or (N, Q, C, H, W), Q times the same one.
    before: the point before. best: the one of largest loss so far, with its gradient `slope` and
    its loss `top`; `checked` is what that was at the last checkpoint. last: the loss before.
    rises: how often the loss rose since the checkpoint. halved: whether the length was halved at
    it. length: of a step, (N, 1, 1, 1). share, changed (l1): of all values, those that a step
    moves; how many the best point had changed at the last checkpoint. All (N,) but the images and
    the length."""

    x: Tensor
    before: Tensor
    best: Tensor
    slope: Tensor
    top: Tensor
    checked: Tensor
    last: Tensor
    rises: Tensor
    halved: Tensor
    length: Tensor
    share: Tensor
    changed: Tensor


def apgd(spec: APGD) -> tuple[Method[Climb], ...]:
    """One method for each restart, and each class aimed at."""
    if spec.targets and not spec.targeted:
        loss = target_dlr if spec.loss == "dlr" else target_cross_entropy
        aims: list[int | None] = [*range(1, spec.targets + 1)]
        name = "apgd-t"
    else:
        loss = dlr if spec.loss == "dlr" else cross_entropy
        aims = [None]
        name = "apgd-dlr" if spec.loss == "dlr" else "apgd-ce"
    return tuple(_apgd(spec, loss, aim, name) for aim in aims for _ in range(spec.restarts))


def _apgd(spec: APGD, loss: Loss, aim: int | None, name: str) -> Method[Climb]:
    phases = _phases(spec)
    steps = phases[-1].first + phases[-1].steps
    phase_at = {each.first + k: each for each in phases for k in range(each.steps + 1)}

    def start(of: Problem) -> Climb:
        inner = _scaled(of.ball, phases[0].radius)
        return _begin(inner, _random(inner, of), spec.eot_iter, anew=True)

    def step(of: Problem, at: Climb, answer: Answer, number: int) -> Climb:
        phase = phase_at[number]
        ball = _scaled(of.ball, phase.radius)
        done = number - phase.first
        x = at.x if spec.eot_iter == 1 else at.x[:, 0]
        slope, now = answer.gradient, answer.loss
        if spec.eot_iter > 1:  # as the authors' code: the mean gradient, the last loss
            slope, now = slope.mean(1), now[:, -1]
        if not done:
            at = at._replace(best=x, slope=slope, top=now, checked=now)
        else:
            better = now > at.top
            image = better[:, None, None, None]
            at = at._replace(
                best=mixed(image, x, at.best),
                slope=mixed(image, slope, at.slope),
                top=torch.where(better, now, at.top),
                rises=at.rises + (now > at.last),
                last=now,
            )
            if done == phase.steps:
                following = _scaled(of.ball, phase_at[number + 1].radius)
                return _begin(following, following.project(at.best), spec.eot_iter, anew=False)
            window = phase.checkpoints.get(done)
            if window is not None:
                check = _check_l1 if isinstance(ball, L1Ball) else _check
                at, x, slope = check(ball, at, x, slope, window * spec.rho)
        further = _step(ball, at, x, slope, 0.75 if done else 1.0)
        return at._replace(x=_repeated(further, spec.eot_iter), before=x)

    return Method(start, step, loss, steps, aim=aim, name=name)


# --- the schedule ---------------------------------------------------------------------------------


class _Phase(NamedTuple):
    """`steps` steps in a ball of `radius` times its own radius; its start is question `first`.
    checkpoints: after how many steps -> how many there were since the last one."""

    first: int
    steps: int
    radius: float
    checkpoints: dict[int, int]


def _phases(spec: APGD) -> list[_Phase]:
    """One, or (l1 with larger radii) those of 3, 2 and 1 times the radius with 30, 30 and 40 % of
    the steps, each from the best point of the one before (Croce and Hein 2021, section 3.3)."""
    if not spec.larger_radii or spec.norm != "l1":
        return [_Phase(0, spec.steps, 1.0, _checkpoints(spec, spec.steps))]
    third = math.ceil(0.3 * spec.steps)
    phases: list[_Phase] = []
    first = 0
    for steps, radius in ((third, 3.0), (third, 2.0), (max(1, spec.steps - 2 * third), 1.0)):
        phases.append(_Phase(first, steps, radius, _checkpoints(spec, steps)))
        first += steps + 1
    return phases


def _checkpoints(spec: APGD, steps: int) -> dict[int, int]:
    if spec.norm == "l1":
        window, shorter, least = max(int(0.04 * steps), 1), 0, 1
    else:
        window = max(int(0.22 * steps), 1)
        shorter, least = max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    checkpoints = {}
    at = window
    while at <= steps:
        checkpoints[at] = window
        window = max(window - shorter, least)
        at += window
    return checkpoints


def _check(
    _: Ball, at: Climb, x: Tensor, slope: Tensor, enough: float
) -> tuple[Climb, Tensor, Tensor]:
    """Halve the length where the loss rose in too few steps, or its maximum stands still since a
    checkpoint that did not halve; there the search goes on from the best point."""
    stuck = (at.rises <= enough) | (~at.halved & (at.checked >= at.top))
    image = stuck[:, None, None, None]
    length = torch.where(image, at.length / 2, at.length)
    rises = torch.zeros_like(at.rises)
    at = at._replace(checked=at.top, halved=stuck, length=length, rises=rises)
    return at, mixed(image, at.best, x), mixed(image, at.slope, slope)


def _check_l1(
    ball: Ball, at: Climb, x: Tensor, slope: Tensor, _: float
) -> tuple[Climb, Tensor, Tensor]:
    """Steps get shorter unless the best point has become sparser, which starts them anew; their
    share of moved values follows the best point's."""
    changed = _changed(ball, at.best)
    sparser = (changed / at.changed) < 0.95
    image = sparser[:, None, None, None]
    length = torch.where(image, ball.eps, at.length / 1.5)
    length = torch.minimum(torch.maximum(length, ball.eps / 10), ball.eps)
    share = changed / ball.centre[0].numel() / 1.5
    at = at._replace(length=length, share=share, changed=changed)
    return at, mixed(image, at.best, x), mixed(image, at.slope, slope)


# --- the geometry ---------------------------------------------------------------------------------


def _begin(ball: Ball, x: Tensor, repeats: int, *, anew: bool) -> Climb:
    """At the start of the first phase (`anew`) or a later one."""
    values = x[0].numel()
    none = x.new_zeros(len(x))
    changed = torch.full_like(none, float(values)) if anew else _changed(ball, x)
    share = torch.full_like(none, 0.2) if anew else changed / values / 1.5
    return Climb(
        x=_repeated(x, repeats),
        before=x,
        best=x,
        slope=x,
        top=none,
        checked=none,
        last=none,
        rises=none,
        halved=torch.ones_like(none, dtype=torch.bool),
        length=ball.eps * (1.0 if isinstance(ball, L1Ball) else 2.0),
        share=share,
        changed=changed,
    )


def _repeated(x: Tensor, times: int) -> Tensor:
    return x if times == 1 else x[:, None].expand(-1, times, -1, -1, -1)


def _scaled(ball: Ball, factor: float) -> Ball:
    return ball if factor == 1.0 else dataclasses.replace(ball, eps=ball.eps * factor)


def _random(ball: Ball, of: Problem) -> Tensor:
    """A start as far from the centre as the ball reaches."""
    seed, shape = derive(of.seed, "start"), ball.centre.shape[1:]
    if isinstance(ball, L1Ball):
        return ball.project(ball.centre + normal(seed, of.ids, shape))
    if isinstance(ball, L2Ball):
        away = ball.direction(normal(seed, of.ids, shape))
    else:
        away = 2 * uniform(seed, of.ids, shape) - 1
        away = away / largest(away)
    return _inside(ball, away.mul_(ball.eps).add_(ball.centre))


def _inside(ball: Ball, x: Tensor) -> Tensor:
    return ball.pull(x) if isinstance(ball, L2Ball) else ball.project(x)


def _step(ball: Ball, at: Climb, x: Tensor, slope: Tensor, weight: float) -> Tensor:
    """Up the slope, with momentum but in l1."""
    if isinstance(ball, L1Ball):
        slope = slope if ball.mask is None else slope * ball.mask
        return ball.project(_sparse(slope, at.share).mul_(at.length).add_(x))
    further = _inside(ball, ball.direction(slope).mul_(at.length).add_(x))
    if weight == 1.0:
        return further
    # x + weight * (further - x) + (1 - weight) * (x - before)
    further.mul_(weight).add_(x, alpha=2 * (1 - weight)).sub_(at.before, alpha=1 - weight)
    return _inside(ball, further)


def _sparse(slope: Tensor, share: Tensor) -> Tensor:
    """Signs of the `share`, (N,), of the values with the largest gradient, of length 1 in l1."""
    values = slope[0].numel()
    sign = strongest(slope, values - ((1 - share) * values).clamp(0, values - 1).long())
    return sign.div_(sign.abs().sum((1, 2, 3), keepdim=True) + 1e-10)


def _changed(ball: Ball, x: Tensor) -> Tensor:
    """How many values of `x` are not the centre's, (N,)."""
    return (x != ball.centre).flatten(1).sum(1).to(x.dtype)
