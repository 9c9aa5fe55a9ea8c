"""Robust accuracy over the radius: many points for the price of few searches.

A sample broken at one radius is broken at every larger one, so all that is to be known of a sample
is the smallest radius of the grid at which it breaks, and the curve falls by construction. One
search per sample looks for it: PGD inside the largest ball; as soon as it has broken the sample it
goes on from there inside the next ball that is smaller than what it found, and it ends when as many
steps as a search has have passed without success. No sample takes more than `MOST` times as many.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.attacks.geometry import ball
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import FixedBudget, Norm
from engine.events import Event
from engine.robustness.searching import Cost, Found, Subject, search

STEPS = 40
"""Of one search."""
MOST = 3
"""What a sample may cost at most, in searches."""
BEYOND = 4 / 3
"""The largest radius of the curve, in those that the attacks are allowed."""
PACE = 2.5
"""Length of all steps of a search together, in radii (Madry et al. 2018, their code for l2)."""


class Descent(NamedTuple):
    """x: (N, C, H, W). place: int64 (N,), of the present radius in the grid. since: int64 (N,),
    steps since the radius last shrank."""

    x: Tensor
    place: Tensor
    since: Tensor


class Sweep(FixedBudget):
    """PGD that descends a grid of radii, spaced evenly up to `eps`. (Without a `kind` of its own it
    is none of the attacks that can be asked for.)"""

    points: int

    def rounds(self) -> tuple[Method[Any], ...]:
        spacing = self.eps / self.points

        def start(of: Problem) -> Descent:
            place = (of.ball.eps.flatten().double() / spacing).round().long() - 1
            return Descent(of.ball.random(of.seed, of.ids), place, torch.zeros_like(place))

        def step(of: Problem, at: Descent, answer: Answer, _: int) -> Descent:
            # Of no sample the radius grows: a point may be smaller than its ball.
            size = of.ball.size(at.x).double()
            below = (size / spacing).ceil().long() - 2
            broken = of.goal.reached(answer.logits) & (below < at.place)
            place = torch.where(broken, below, at.place)
            radius = (place + 1).clamp_min(0).to(torch.float64) * spacing
            along = of.ball.direction(answer.gradient)
            along *= (radius * (PACE / STEPS)).to(along.dtype).view(-1, 1, 1, 1)
            x = ball(self.norm, of.ball.centre, radius, of.ball.mask).project(along.add_(at.x))
            return Descent(x, place, torch.where(broken, 0, at.since + 1))

        def done(at: Descent) -> Tensor:
            return (at.place < 0) | (at.since >= STEPS)

        return (Method(start, step, margin, MOST * STEPS, minimal=True, leaves=False, done=done),)


@dataclass(frozen=True, slots=True)
class Curve:
    """radii: ascending. first: int64 (N,), place in `radii` of the smallest one at which a sample
    breaks, their number where none does; -1 for samples that are wrong when clean. runs: what it
    cost, in whole searches of every correct sample."""

    radii: tuple[float, ...]
    first: Tensor
    cost: Cost
    runs: float

    def lowered(self, known: Tensor) -> Curve:
        """With perturbations of these sizes known too, float64 (N,)."""
        ladder = torch.tensor(self.radii, dtype=torch.float64)
        return replace(self, first=torch.minimum(self.first, torch.searchsorted(ladder, known)))

    def robust(self, place: int) -> int:
        """How many samples stay correct at the radius at `place`."""
        return int((self.first > place).sum())


def grid(largest: float, points: int, norm: Norm) -> tuple[float, ...]:
    """`points` radii up to `BEYOND` times `largest`, of which it is one if their number is a
    multiple of four; in linf none is above 1, where the whole box is inside."""
    top = largest * BEYOND
    if norm == "linf" and top > 1:
        top = 1.0
    radii = (top * k / points for k in range(1, points + 1))
    # Not beside it by a rounding: whoever breaks at `largest` breaks there in the curve too.
    return tuple(largest if math.isclose(each, largest) else each for each in radii)


def trace(
    on: Subject,
    radii: tuple[float, ...],
    norm: Norm,
    known: Tensor,
    *,
    found: Found | None = None,
    through: bool = True,
) -> Generator[Event, None, Curve]:
    """The curve of `on` over `radii`. known: float64 (N,), sizes of perturbations that are known to
    break a sample, infinite where none is: it is only looked for smaller ones. found: gathers what
    breaks a sample, also if it is cancelled. through: straight through what hides gradients."""
    ladder = torch.tensor(radii, dtype=torch.float64)
    first = torch.searchsorted(ladder, known)
    rows = (on.correct & (first > 0)).nonzero().squeeze(1)
    found = found or Found.nothing(on)
    spec = Sweep(
        kind="sweep",
        norm=norm,
        eps=radii[-1],
        points=len(radii),
        through_transforms=through,
    )
    eps = ladder[(first[rows] - 1)]
    seed = on.bench.derive("curve")
    yield from search(on, spec, rows, found, seed=seed, eps=eps, what="samples")
    first = torch.searchsorted(ladder, torch.minimum(known, found.norm))
    first[~on.correct] = -1
    whole = max(1, int(on.correct.sum())) * STEPS
    return Curve(radii, first, found.cost, found.cost.gradient / whole)
