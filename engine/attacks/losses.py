"""What an attack climbs: losses that rise as a sample gets closer to being broken, per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), classes (N,)) -> how far each sample is from its class, (N,)."""


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """-log softmax at the class, >= 0."""
    return F.cross_entropy(logits, classes, reduction="none")


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """Largest other logit minus the class's; > 0 where the class loses (Carlini and Wagner 2017,
    section IV-A, loss f6 without its limit)."""
    own = logits.gather(1, classes[:, None])
    others = logits.scatter(1, classes[:, None], float("-inf"))
    return others.amax(1) - own[:, 0]


LOSSES: dict[Literal["cross_entropy", "margin"], Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}
