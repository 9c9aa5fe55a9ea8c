"""The search for the constant c of attacks that minimise distance + c * missing margin: tenfold
until it succeeds, then bisection (Carlini and Wagner 2017, section VI-A; Chen et al. 2018, section
3).

As in the authors' codes, the last of ten or more searches repeats the smallest constant that
succeeded; and a search that has not gained a ten-thousandth in a tenth of its steps is given up.
They look at the sum over the batch for that; here each sample has searches of its own, as theirs in
a batch of one: it goes on to its next constant at once, and leaves after its last.

The state of such an attack has these fields, each (N,): `constant`; `low` and `high`, the largest
that failed and the smallest that succeeded; `steps` in this search and `searches` done; `found`,
whether this one has succeeded; `limit`, what the objective must get under by its next check.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Loss
from engine.attacks.spec import ConstantSearch

S = TypeVar("S", bound=Any)

_UNBOUNDED = 1e10


def first_search(spec: ConstantSearch, ids: Tensor) -> dict[str, Tensor]:
    """Those fields at the start, for the samples `ids`, (N,)."""
    one = torch.ones_like(ids, dtype=torch.float32)
    none = torch.zeros_like(ids)
    return {
        "constant": one * spec.constant,
        "low": one * 0,
        "high": one * _UNBOUNDED,
        "steps": none,
        "searches": none,
        "found": none.bool(),
        "limit": one * math.inf,
    }


def capped(spec: ConstantSearch) -> Loss:
    """The margin, up to the confidence asked for."""

    def loss(at: Any, logits: Tensor, goal: Goal) -> Tensor:
        return margin(at, logits, goal).clamp_max(spec.confidence)

    return loss


def after_step(spec: ConstantSearch, at: S, distance: Tensor, answer: Answer) -> tuple[S, Tensor]:
    """One more step counted, at whose beginning the squared distance was `distance`, (N,); and
    whether it ends the search, bool (N,)."""
    at = at._replace(steps=at.steps + 1)
    ends = at.steps == spec.steps
    if not spec.abort_early:
        return at, ends
    objective = distance + at.constant * (spec.confidence - answer.loss)
    check = (at.steps - 1) % math.ceil(spec.steps / 10) == 0
    ends = ends | (check & (objective > 0.9999 * at.limit))
    return at._replace(limit=torch.where(check, objective, at.limit)), ends


def next_search(spec: ConstantSearch, at: S, ends: Tensor) -> S:
    """Where `ends`, bool (N,), at the beginning of the next search."""
    high = torch.where(ends & at.found, torch.minimum(at.high, at.constant), at.high)
    low = torch.where(ends & ~at.found, torch.maximum(at.low, at.constant), at.low)
    searches = at.searches + ends
    constant = torch.where(high < _UNBOUNDED, (low + high) / 2, at.constant * 10)
    if spec.searches >= 10:
        constant = torch.where(searches == spec.searches - 1, high, constant)
    again: S = at._replace(
        constant=torch.where(ends, constant, at.constant),
        low=low,
        high=high,
        steps=at.steps.masked_fill(ends, 0),
        searches=searches,
        found=at.found & ~ends,
        limit=at.limit.masked_fill(ends, math.inf),
    )
    return again


def each(x: Tensor) -> Tensor:
    """What is known of each sample, (N,), to be put beside images: (N, 1, 1, 1)."""
    return x.view(-1, 1, 1, 1)
