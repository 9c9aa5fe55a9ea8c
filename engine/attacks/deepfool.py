"""DeepFool: the model is linearised, and the sample moved to the nearest class boundary of that;
again from there, until it is across (Moosavi-Dezfooli, Fawzi and Frossard 2016, algorithm 2; other
norms: section 3.3).

As in the authors' code, 1e-4 is added to each distance, the overshoot is part of the point at which
the model is asked, and only the most likely classes are looked at. As in adv-lib, each step is
overshot and clipped to the box. The paper is silent about targets: a targeted sample steps to the
boundary between its target and the strongest other class.

One thing is our own: a sample that is not across after half of the steps (robust models push it
into the sides of the box) passes over the values that cannot follow the gradient. All classes are
looked at in every step: to ask only for those whose boundaries were nearest a few steps ago would
halve the cost, but on a robust model the nearest one changes from step to step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import DeepFool


class Search(NamedTuple):
    """x: (N, C, H, W). rivals: int64 (N, R), the other classes that are looked at."""

    x: Tensor
    rivals: Tensor


def deepfool(spec: DeepFool) -> Method[Search]:
    """DeepFool as a method for the driver."""

    def start(of: Problem) -> Search:
        if of.goal.targeted:
            return Search(of.ball.centre, of.goal.labels[:, None])
        others = of.clean.scatter(1, of.goal.labels[:, None], float("-inf"))
        count = min(spec.classes, others.shape[1]) - 1
        return Search(of.ball.centre, others.topk(count, dim=1).indices)

    def step(of: Problem, at: Search, answer: Answer, number: int) -> Search:
        slopes = answer.gradient
        if of.ball.mask is not None:
            slopes = slopes * of.ball.mask[:, None]
        if number >= spec.steps // 2:
            x = at.x[:, None]
            at_side = ((slopes > 0) & (x >= 1)) | ((slopes < 0) & (x <= 0))
            slopes = slopes.masked_fill(at_side, 0)
        order = 2 if spec.norm == "l2" else 1  # the dual of the norm
        steepness = torch.linalg.vector_norm(slopes.flatten(2), order, dim=2).clamp_min(1e-6)
        lead = leads(at, answer.logits, of.goal).abs().nan_to_num(0.0, 0.0, 0.0)
        distance = (lead / steepness).add_(1e-4)
        each = torch.arange(len(of), device=distance.device)
        nearest = distance.argmin(1)
        length = distance[each, nearest] * (1 + spec.overshoot)
        along = slopes[each, nearest]
        if spec.norm == "l2":
            length = length / steepness[each, nearest]
        else:
            along = along.sign()
        return at._replace(x=of.ball.clip(at.x.addcmul(length.view(-1, 1, 1, 1), along)))

    return Method(
        start,
        step,
        margin,
        spec.steps,
        wants="jacobian",
        outputs=leads,
        needs_clean=True,
        minimal=True,
    )


def leads(at: Search, logits: Tensor, goal: Goal) -> Tensor:
    """The rivals' logits minus the label's, (N, R); targeted, the target's minus the largest other,
    (N, 1)."""
    if goal.targeted:
        return margin(at, logits, goal)[:, None]
    return logits.gather(1, at.rivals) - logits.gather(1, goal.labels[:, None])
