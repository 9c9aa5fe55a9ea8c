"""What a model answers with: logits, or probabilities that a loss would take for logits."""

from __future__ import annotations

from torch import Tensor

PROBABILITIES = (
    "the model returns probabilities: all its outputs are 0 or more and add up to 1. Losses apply "
    "the softmax a second time, which flattens their gradients, so that an attack finds less than "
    "it could. Take the softmax off the model's end."
)


def adds_up_to_one(answers: Tensor) -> Tensor:
    """Whether an answer, (N, K), is a distribution over the classes up to rounding, bool (N,)."""
    rows = answers.float()
    inside = ((rows >= 0) & (rows <= 1 + 1e-6)).all(1)
    return inside & ((rows.sum(1) - 1).abs() <= 1e-3)
