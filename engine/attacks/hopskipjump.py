"""HopSkipJump: the gradient at the decision boundary, estimated from decisions alone (Chen, Jordan
and Wainwright 2020, algorithm 2).

As in the authors' code: the first estimate looks .1 around, the later ones distance / pixels; the
directions counted are what is left of them inside the box; their mean is subtracted unless all
decisions agree; the step starts at distance / sqrt(iteration). All samples get the same number of
questions of each kind: a line search has `line_queries` of them, first for halving the step and
the rest for a binary search, which in the authors' code ends at a threshold. Where no step is short
enough, the sample stays where it is and estimates anew.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

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
from engine.attacks.spec import HopSkipJump
from engine.random import derive, normal, uniform

Norm = Literal["linf", "l2"]


class Question(NamedTuple):
    """One of the plan. turn: the iteration, from 1; 0 is the way to the boundary. part: its place
    among those of its phase and turn. points: how many of each sample are asked about."""

    phase: Literal["trials", "line", "around"]
    turn: int
    part: int = 0
    points: int = 1


class Hop(NamedTuple):
    """at: the point at the boundary, on the adversarial side.

    jumped: bool (N,), whether a step away from it was short enough; until then the step of
    `length`, (N,), along `along`, (N, C, H, W), is tried. From then on (far, low, high) are the
    `Line` from the clean image to where it led.
    weighted, directions: sums over the directions asked about, with and without their votes, 1 or
    -1; votes: sum of those, (N,). over: bool (N,), there was no adversarial point to begin with.
    """

    x: Tensor
    at: Tensor
    far: Tensor
    low: Tensor
    high: Tensor
    jumped: Tensor
    length: Tensor
    along: Tensor
    weighted: Tensor
    directions: Tensor
    votes: Tensor
    over: Tensor


def hopskipjump(spec: HopSkipJump) -> Method[Hop]:
    """HopSkipJump as a method for the driver."""
    plan = questions(spec)
    norm = spec.norm

    def start(of: Problem) -> Hop:
        image = of.ball.centre
        number = image.new_zeros(len(of))
        never = number < 0
        line = Line(image, number, number + 1)
        return Hop(
            trials(of), image, *line, ~never, number, image, image, image, number, over=never
        )

    def step(of: Problem, at: Hop, answer: Answer, number: int) -> Hop:
        asked, following = plan[number], plan[number + 1]
        hit = broken(of, answer)
        if asked.phase == "trials":
            line, none = begun(of, at.x, answer, norm)
            at = at._replace(**line._asdict(), over=none)
        elif asked.phase == "line":
            at = _searched(at, hit)
            if following.phase == "around":
                nearest = point(of, _line(at), at.high, norm)
                at = at._replace(at=nearest.where(_wide(at.jumped), at.at))
        else:
            at = _counted(at, hit, _radius(of, at, asked.turn, norm), asked.part)
            if following.phase == "line":
                at = _turned(of, at, asked.turn, _count(spec, asked.turn), norm)
        if following.phase == "around":
            return at._replace(x=_around(of, at, following, norm))
        tried = within(of, at.at + _wide(at.length) * at.along)
        half = point(of, _line(at), middle(_line(at)), norm)
        return at._replace(x=half.where(_wide(at.jumped), tried))

    return Method(
        start,
        step,
        decision,
        len(plan) - 1,
        wants="logits",
        minimal=True,
        leaves=False,
        done=lambda at: at.over,
    )


def questions(spec: HopSkipJump) -> list[Question]:
    """All that is asked, in order."""
    search = range(spec.line_queries)
    plan = [Question("trials", 0), *(Question("line", 0, part) for part in search)]
    for turn in range(1, spec.iterations + 1):
        count = _count(spec, turn)
        for part, begin in enumerate(range(0, count, spec.points)):
            plan.append(Question("around", turn, part, min(spec.points, count - begin)))
        plan += [Question("line", turn, part) for part in search]
    return plan


def _count(spec: HopSkipJump, turn: int) -> int:
    """Directions that are asked about in an iteration."""
    return min(int(spec.first_queries * math.sqrt(turn)), max(spec.first_queries, 10_000))


# --- the gradient ---------------------------------------------------------------------------------


def _radius(of: Problem, at: Hop, turn: int, norm: Norm) -> Tensor:
    """How far around the point decisions are asked for, (N, 1, 1, 1, 1)."""
    away = length(at.at - of.ball.centre, norm) / of.ball.centre[0].numel()
    return (torch.full_like(away, 0.1) if turn == 1 else away).view(-1, 1, 1, 1, 1)


def _around(of: Problem, at: Hop, question: Question, norm: Norm) -> Tensor:
    """Random points at one distance, (N, Q, C, H, W)."""
    seed = derive(of.seed, "around", question.turn, question.part)
    shape = question.points, *at.at.shape[1:]
    draws = normal(seed, of.ids, shape) if norm == "l2" else 2 * uniform(seed, of.ids, shape) - 1
    if of.ball.mask is not None:
        draws = draws * of.ball.mask[:, None]
    size = torch.linalg.vector_norm(draws, 2, dim=(2, 3, 4), keepdim=True).clamp_min_(1e-12)
    draws = draws.mul_(_radius(of, at, question.turn, norm) / size)
    return draws.add_(at.at[:, None]).clamp_(0, 1)


def _counted(at: Hop, hit: Tensor, radius: Tensor, part: int) -> Hop:
    """Take up the decisions `hit`, bool (N, Q), about the points around."""
    vote = 2 * hit.float() - 1
    directions = (at.x - at.at[:, None]) / radius.clamp_min(1e-12)
    weighted = (directions * vote.view(*vote.shape, 1, 1, 1)).sum(1)
    sums = weighted, directions.sum(1), vote.sum(1)
    if part:
        sums = at.weighted + sums[0], at.directions + sums[1], at.votes + sums[2]
    return at._replace(weighted=sums[0], directions=sums[1], votes=sums[2])


def _turned(of: Problem, at: Hop, turn: int, count: int, norm: Norm) -> Hop:
    """Ready to step along the gradient that `count` decisions point to."""
    agreed = at.votes.abs() == count
    mean = torch.where(agreed, 0.0, at.votes / count)
    gradient = at.weighted - _wide(mean) * at.directions
    along = gradient / _wide(length(gradient, "l2")).clamp_min(1e-12)
    return at._replace(
        along=along if norm == "l2" else along.sign(),
        length=length(at.at - of.ball.centre, norm) / math.sqrt(turn),
        jumped=torch.zeros_like(at.jumped),
        low=torch.zeros_like(at.low),
        high=torch.ones_like(at.high),
    )


def _searched(at: Hop, hit: Tensor) -> Hop:
    """One question further on the line, or towards a step that is short enough."""
    landed = hit & ~at.jumped
    line = halved(_line(at), hit)
    return at._replace(
        far=at.x.where(_wide(landed), at.far),
        low=line.low.where(at.jumped, at.low),
        high=line.high.where(at.jumped, at.high),
        jumped=at.jumped | hit,
        length=torch.where(at.jumped | hit, at.length, at.length / 2),
    )


def _line(at: Hop) -> Line:
    return Line(at.far, at.low, at.high)


def _wide(number: Tensor) -> Tensor:
    return number.view(-1, 1, 1, 1)
