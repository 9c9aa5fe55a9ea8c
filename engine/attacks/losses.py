"""What an attack climbs: losses that rise as a sample gets closer to being broken, per sample."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.goal import Goal
from engine.attacks.method import Loss


def cross_entropy(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """-log softmax at the label, or log softmax at the target class."""
    loss = F.cross_entropy(logits, goal.classes(logits.shape[1]), reduction="none")
    return -loss if goal.targeted else loss


def margin(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """Largest other logit minus the label's, > 0 where the label loses; targeted, the target's
    minus the largest other (Carlini and Wagner 2017, section IV-A, loss f6 without its limit)."""
    classes = goal.classes(logits.shape[1]).unsqueeze(1)
    others = logits.scatter(1, classes, float("-inf")).amax(1, keepdim=True)
    loss = (others - logits.gather(1, classes)).squeeze(1)
    return -loss if goal.targeted else loss


def dlr(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """The margin, divided by the distance from the largest to the third largest logit, so that it
    does not depend on the scale of the logits (Croce and Hein 2020, "Reliable evaluation...",
    section 3.2); of a targeted goal, `target_dlr`. With two classes it is the margin alone."""
    if goal.targeted:
        return target_dlr(_, logits, goal)
    top = logits.topk(min(3, logits.shape[1])).values
    loss = margin(_, logits, goal)
    return loss / (top[:, 0] - top[:, 2] + 1e-12) if top.shape[1] > 2 else loss


def target_dlr(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """Target's logit minus the label's, divided by the distance from the largest to the mean of the
    third and fourth largest logits (as `dlr`, section 3.2). With three classes it is divided by the
    distance to the third, with two not at all."""
    loss = target_margin(_, logits, goal)
    top = logits.topk(min(4, logits.shape[1])).values
    return loss / (top[:, 0] - top[:, 2:].mean(1) + 1e-12) if top.shape[1] > 2 else loss


def target_cross_entropy(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """log softmax at the target, whether or not reaching it is the goal."""
    return -F.cross_entropy(logits, aimed_at(logits, goal), reduction="none")


def target_margin(_: Any, logits: Tensor, goal: Goal) -> Tensor:
    """Target's logit minus the label's."""
    classes = torch.stack([aimed_at(logits, goal), goal.labels], 1)
    both = logits.gather(1, classes)
    return both[:, 0] - both[:, 1]


def aimed_at(logits: Tensor, goal: Goal) -> Tensor:
    """The classes that a loss aims at, int64 (N,): the targets, or the class after the label."""
    if goal.targets is None:
        return (goal.labels + 1) % logits.shape[1]
    return goal.targets


LOSSES: dict[Literal["cross_entropy", "margin"], Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}
