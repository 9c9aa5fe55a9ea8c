"""Gradients estimated from losses at pairs of points on either side of an image, for attacks that
see logits and no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.method import Answer, Loss, Method, Problem

Draw = Callable[[Problem, int, int, int], Tensor]
"""(problem, number of the step, part of it, Q) -> directions to look along, (N, Q, C, H, W)."""


class Looking(NamedTuple):
    """at: the image, (N, C, H, W); asked about first of all the points of a step. total: sum over
    the pairs of this step so far. first, second: what the update remembers."""

    x: Tensor
    at: Tensor
    total: Tensor
    first: Tensor
    second: Tensor


Update = Callable[[Problem, Looking, Tensor, int], Looking]
"""(problem, state, estimated gradient, number of the step) -> state, moved."""


def estimating(
    *, steps: int, pairs: int, points: int, draw: Draw, update: Update, loss: Loss
) -> Method[Looking]:
    """A search by estimated gradients: `pairs` pairs of points a step, at + d and at - d, asked
    about in several questions of at most `points` points. What the estimate is divided by is left
    to `update`."""
    most = max(1, points // 2)
    sizes = [min(most, pairs - begin) for begin in range(0, pairs, most)]

    def start(of: Problem) -> Looking:
        image = of.ball.centre
        nothing = torch.zeros_like(image)
        return asked(of, Looking(image, image, nothing, nothing, nothing), 0)

    def step(of: Problem, at: Looking, answer: Answer, number: int) -> Looking:
        count = at.x.shape[1] // 2
        plus, minus = answer.loss[:, -2 * count :].chunk(2, dim=1)
        change = at.x[:, -2 * count : -count] - at.at[:, None]
        # Where the model says no numbers, it says nothing.
        rise = (plus - minus).nan_to_num(0.0, 0.0, 0.0).view(-1, count, 1, 1, 1)
        total = at.total + (change * rise).sum(1)
        turn, part = divmod(number, len(sizes))
        if part + 1 < len(sizes):
            return asked(of, at._replace(total=total), number + 1)
        at = update(of, at, total / pairs, turn)
        return asked(of, at._replace(total=torch.zeros_like(total)), number + 1)

    def asked(of: Problem, at: Looking, number: int) -> Looking:
        turn, part = divmod(number, len(sizes))
        if turn == steps:
            return at._replace(x=at.at)
        change = draw(of, turn, part, sizes[part])
        if of.ball.mask is not None:
            change = change * of.ball.mask[:, None]
        here = at.at[:, None]
        both = [here + change, here - change]
        return at._replace(x=torch.cat(both if part else [here, *both], dim=1))

    return Method(start, step, loss, steps * len(sizes), wants="logits")
