"""FAB: steps onto the linearised boundary, drawn to the clean image, and back along the line to it
whenever the boundary is passed (Croce and Hein 2020, "Minimally distorted adversarial examples
with a fast adaptive boundary attack", algorithm 1). FAB-T looks at one other class at a time, which
takes one gradient a step where the whole Jacobian takes one for each class (Croce and Hein 2020,
"Reliable evaluation...", section 4).

It follows the authors' code (AutoAttack): without the final search of algorithm 1, with noise of
half the radius for restarts; and where a radius is given, who is broken inside it is done, and not
looked at again by the restarts and classes that follow. The projections onto hyperplane and box are
solved by Newton steps on their dual instead of by sorting, in a tenth of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.geometry import Ball, L1Ball, LinfBall, largest, mixed
from engine.attacks.goal import Goal
from engine.attacks.losses import margin, target_margin
from engine.attacks.method import Answer, Method, Problem, Want
from engine.attacks.spec import FAB, Norm
from engine.random import derive, normal, uniform

_NEWTON = {"linf": 5, "l2": 12}
"""Newton steps of a projection. They approach its dual's root from below, within float32's rounding
unless nearly all of the box is needed."""

_NOISE: dict[Norm, float] = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""Radii for the noise of restarts where none is given."""


class Walk(NamedTuple):
    """x: the point asked about, (N, C, H, W): for a gradient, or whether it has passed."""

    x: Tensor


def fab(spec: FAB, *, minimal: bool = True) -> tuple[Method[Walk], ...]:
    """One method for each restart, and each class aimed at. Without `minimal` a sample leaves at
    the first example inside its ball."""
    aims: list[int | None] = [None]
    if spec.targets and not spec.targeted:
        aims = [*range(1, spec.targets + 1)]
    return tuple(
        _fab(spec, aim, noisy=restart > 0, minimal=minimal)
        for aim in aims
        for restart in range(spec.restarts)
    )


def _fab(spec: FAB, aim: int | None, *, noisy: bool, minimal: bool) -> Method[Walk]:
    one = aim is not None or spec.targeted
    slopes: Want = "gradient" if one else "jacobian"

    def wants(number: int) -> Want:
        return "logits" if number % 2 else slopes

    def loss(at: Walk, logits: Tensor, goal: Goal) -> Tensor:
        return margin(at, logits, goal) if aim is None else target_margin(at, logits, goal)

    def start(of: Problem) -> Walk:
        return Walk(_noise(of, spec.norm) if noisy else of.ball.centre)

    def step(of: Problem, at: Walk, answer: Answer, number: int) -> Walk:
        if number % 2:
            passed = of.goal.reached(answer.logits)[:, None, None, None]
            back = (at.x - of.ball.centre).mul_(spec.beta).add_(of.ball.centre)
            return Walk(mixed(passed, back, at.x))
        value, slope = _boundary(of, answer, spec.norm, one)
        return Walk(_towards(of.ball, at.x, value, slope, spec))

    return Method(
        start,
        step,
        loss,
        steps=2 * spec.steps - 1,
        wants=wants,
        minimal=minimal,
        leaves=not minimal,
        settles=True,
        aim=aim,
        name="fab" if aim is None else "fab-t",
    )


def _noise(of: Problem, norm: Norm) -> Tensor:
    """A point half as far from the centre as the ball reaches, before it is cut off at the box."""
    seed, shape = derive(of.seed, "start"), of.ball.centre.shape[1:]
    if norm == "linf":
        away = 2 * uniform(seed, of.ids, shape) - 1
        away = away / largest(away)
    else:
        away = normal(seed, of.ids, shape)
        order = 1 if norm == "l1" else 2
        away = away / torch.linalg.vector_norm(away, order, dim=(1, 2, 3), keepdim=True)
    radius = torch.where(of.ball.eps.isinf(), _NOISE[norm], of.ball.eps)
    return of.ball.clip(away.mul_(radius / 2).add_(of.ball.centre))


def _boundary(of: Problem, answer: Answer, norm: Norm, one: bool) -> tuple[Tensor, Tensor]:
    """What the logits lack to the boundary, (N,), below zero before it, and the gradient of that,
    (N, C, H, W): of several boundaries, of the one that is nearest in the linearised model."""
    if one:
        return answer.loss, answer.gradient
    label = of.goal.labels[:, None]
    values = answer.logits - answer.logits.gather(1, label)
    at = torch.arange(len(of), device=label.device)
    slopes = answer.gradient - answer.gradient[at, of.goal.labels][:, None]
    flat = slopes.flatten(2)
    if norm == "linf":
        steepness = flat.abs().sum(2)
    elif norm == "l2":
        steepness = torch.linalg.vector_norm(flat, dim=2)
    else:
        steepness = flat.abs().amax(2)
    distance = (values.abs() / (steepness + 1e-12)).scatter(1, label, float("inf"))
    nearest = distance.argmin(1)
    return values[at, nearest], slopes[at, nearest]


def _towards(ball: Ball, x: Tensor, value: Tensor, slope: Tensor, spec: FAB) -> Tensor:
    """Between the projections of `x` and of the centre onto the hyperplane on which the linearised
    value is zero, nearer to the latter the nearer that is; both overshot (equations 6 and 9)."""
    slope = slope if ball.mask is None else slope * ball.mask
    points = torch.stack([x, ball.centre], 1).flatten(2)
    slope = slope.flatten(1)
    if not isinstance(ball, LinfBall):
        slope = slope.masked_fill(slope.abs() <= 1e-8, 0)
    value = torch.where(value.isfinite(), value, 0)
    there = value + ((points[:, 1] - points[:, 0]) * slope).sum(1)
    project = _project_l1 if isinstance(ball, L1Ball) else _project
    changes = project(points, torch.stack([value, there], 1), slope, isinstance(ball, LinfBall))
    if isinstance(ball, LinfBall):
        length = changes.abs().amax(2)
    else:
        length = torch.linalg.vector_norm(changes, 1 if isinstance(ball, L1Ball) else 2, dim=2)
    length.clamp_min_(1e-8)
    weight = (length[:, 0] / length.sum(1)).clamp_max(spec.alpha_max)[:, None]
    changes = changes.mul_(spec.eta).add_(points)
    return changes[:, 0].lerp(changes[:, 1], weight).clamp_(0, 1).view_as(x)


# --- projections onto a hyperplane inside the box -------------------------------------------------


def _project(points: Tensor, values: Tensor, slope: Tensor, equally: bool) -> Tensor:
    """The smallest changes, (N, P, D), of P points each that bring linear functions with these
    values there, (N, P), and this slope, (N, D), to zero inside the box; the largest of the right
    sign where the box does not reach that far.

    Value i changes by min(t * u_i, room_i), where room_i is how far the box lets it go and u_i is
    1 in linf (`equally`) and |slope_i| in l2. The least t >= 0 that suffices is the root of a
    concave, piecewise linear function, to which Newton's steps from 0 never go too far.
    """
    sign = _uphill(values, slope)
    room = _room(points, sign)
    size = slope.abs()[:, None]
    gain = size if equally else size**2
    wanted = values.abs()
    t = torch.zeros_like(wanted)
    moved = torch.zeros_like(points)
    free, part = torch.empty_like(points), torch.empty_like(points)
    for _ in range(_NEWTON["linf" if equally else "l2"]):
        torch.lt(moved, room, out=free)  # as numbers: a product with bools takes six times as long
        rise = free.mul_(gain).sum(2)
        missing = wanted - torch.mul(moved, size, out=part).sum(2)
        t = t + torch.where(rise > 0, missing / rise, 0).clamp_min_(0)
        reach = t[:, :, None] if equally else torch.mul(t[:, :, None], size, out=part)
        torch.minimum(reach, room, out=moved)
    beyond = wanted >= torch.mul(room, size, out=part).sum(2)
    return mixed(beyond[:, :, None], room, moved).mul_(sign)


def _project_l1(points: Tensor, values: Tensor, slope: Tensor, _: bool) -> Tensor:
    """The same in l1: the values with the steepest slope go as far as the box lets them, one after
    the other, until the rest is done by one of them."""
    sign = _uphill(values, slope)
    room = _room(points, sign)
    size, order = slope.abs()[:, None].sort(dim=2, descending=True)
    order = order.expand_as(room)
    room = room.gather(2, order)
    gain = size * room
    left = (values.abs()[:, :, None] - gain.cumsum(2) + gain).clamp_min_(0)
    moved = torch.minimum(left / size.clamp_min(torch.finfo(size.dtype).tiny), room)
    return torch.zeros_like(moved).scatter(2, order, moved).mul_(sign)


def _uphill(values: Tensor, slope: Tensor) -> Tensor:
    """Signs, (N, P, D), of the changes that bring the values to zero."""
    return slope.sign()[:, None] * values.sign().neg()[:, :, None]


def _room(points: Tensor, sign: Tensor) -> Tensor:
    """How far the box lets the points go, (N, P, D); nowhere, where the sign is zero."""
    end = torch.gt(sign, 0, out=torch.empty_like(points))
    return end.sub_(points).mul_(sign)
