"""What an attack climbs: losses that rise as a sample gets closer to being broken, per sample."""

from __future__ import annotations

from typing import Any, Literal

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
    classes = goal.classes(logits.shape[1])
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], float("-inf"))
    loss = others.amax(1) - own[:, 0]
    return -loss if goal.targeted else loss


LOSSES: dict[Literal["cross_entropy", "margin"], Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}
