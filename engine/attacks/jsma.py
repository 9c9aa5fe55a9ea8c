"""JSMA: of all pairs of values, the one whose change most raises a class's logit and lowers the sum
of the others' is changed by theta; and again (Papernot et al. 2016, algorithms 2 and 3).

As in the paper, a value stays in the search until it is at the end of the box (or a hundredth from
it, as in torchattacks), and at most gamma * values / 2 pairs are changed, rounded up. Logits are
looked at, not probabilities, as in CleverHans and torchattacks.

The paper has targets only. Without one, a sample aims at each of its most likely other classes in a
round of its own; any wrong class will do, and the fewest changes are kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import JSMA
from engine.errors import BadInput

_END = 0.01


class Search(NamedTuple):
    """x: (N, C, H, W). stuck: bool (N,), no pair is left that helps."""

    x: Tensor
    stuck: Tensor


def jsma(spec: JSMA, aim: int | None) -> Method[Search]:
    """JSMA as a method for the driver; `aim` is the rank of the class that is aimed at, None the
    target."""
    if not spec.theta:
        raise BadInput("theta must not be 0, or nothing changes. 1 or -1 is usual.")
    sign = 1.0 if spec.theta > 0 else -1.0

    def start(of: Problem) -> Search:
        return Search(of.ball.centre, torch.zeros_like(of.ids, dtype=torch.bool))

    def step(of: Problem, at: Search, answer: Answer, number: int) -> Search:
        x = at.x.flatten(1)
        room = x < 1 - _END if sign > 0 else x > _END
        if of.ball.mask is not None:
            room = room & of.ball.mask.flatten(1)
        gain, loss = (answer.gradient * sign).flatten(2).unbind(1)
        pair, helps = best_pair(gain, -loss, room)
        changed = x.scatter_add(1, pair, x.new_full(pair.shape, spec.theta)).clamp_(0, 1)
        most = math.ceil(spec.gamma * x.shape[1] / 2)
        last = torch.full_like(helps, number >= most)
        x = torch.where(helps[:, None], changed, x)
        return Search(x.view_as(at.x), ~helps | last)

    return Method(
        start,
        step,
        margin,
        spec.steps,
        wants="jacobian",
        outputs=_class_and_others,
        needs_clean=aim is not None,
        minimal=True,
        done=lambda at: at.stuck,
        aim=aim,
    )


def _class_and_others(at: Search, logits: Tensor, goal: Goal) -> Tensor:
    """The logit of the class aimed at, and the sum of the others, (N, 2)."""
    aimed = goal.targets if goal.targets is not None else goal.classes(logits.shape[1])
    own = logits.gather(1, aimed[:, None])
    return torch.cat([own, logits.sum(1, keepdim=True) - own], dim=1)


def best_pair(first: Tensor, second: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Of all pairs p != q of the places in `room`, bool (N, D), for which first[p] + first[q] and
    second[p] + second[q] are above zero, the one with the largest product of the two.

    Returns the places, int64 (N, 2), and whether there is such a pair, bool (N,).

    Not all D * D pairs are tried. A place that two others equal or beat in both values can be
    replaced by one of these in any pair, so places beaten by one other at most are enough.
    """
    first, order = first.masked_fill(~room, float("-inf")).sort(dim=1, descending=True)
    second = second.masked_fill(~room, float("-inf")).gather(1, order)
    # From left to right, `best` and `runner` are the two largest of `second` so far.
    best = second.cummax(1).values
    before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=float("-inf"))
    runner = torch.minimum(second, before).cummax(1).values
    runner = torch.nn.functional.pad(runner[:, :-1], (1, 0), value=float("-inf"))
    able = (second > runner).to(torch.uint8)
    few = able.topk(max(2, int(able.sum(1).max())), dim=1).indices
    first, second, order = first.gather(1, few), second.gather(1, few), order.gather(1, few)

    gain = first[:, :, None] + first[:, None]
    loss = second[:, :, None] + second[:, None]
    score = torch.where((gain > 0) & (loss > 0), gain * loss, 0)
    score.diagonal(dim1=1, dim2=2).zero_()
    top, place = score.flatten(1).max(1)
    count = few.shape[1]
    return order.gather(1, torch.stack([place // count, place % count], dim=1)), top > 0
