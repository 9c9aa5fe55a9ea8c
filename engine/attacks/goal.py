"""What counts as broken: any wrong class, or one target class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from engine.errors import BadInput

Rows: TypeAlias = Tensor | slice
"""Which samples: int64 (M,), or those from here to there, of which nothing is copied."""


@dataclass(frozen=True, slots=True)
class Goal:
    """labels: int64 (N,). targeted: only the target class counts as broken, else any wrong one.
    targets: int64 (N,); None is, if `targeted`, the class after the label (modulo their number).
    Without `targeted` they are what a loss aims at, and nothing more. top: the largest label or
    target, known without asking the device. lead: by how much, in logits, a class must win for a
    sample to be broken."""

    labels: Tensor
    targets: Tensor | None
    targeted: bool
    top: int
    lead: float = 0.0

    def __getitem__(self, keep: Rows) -> Goal:
        """The goal of the samples at `keep`."""
        targets = None if self.targets is None else self.targets[keep]
        return replace(self, labels=self.labels[keep], targets=targets)

    def classes(self, count: int) -> Tensor:
        """The classes to leave or, targeted, to reach; int64 (N,), of a model with `count`.

        Raises BadInput if a label or target is no class of the model.
        """
        if count < 2:
            raise BadInput(f"The model has {count} output; an attack needs logits of 2 or more.")
        if self.top >= count:
            raise BadInput(
                f"Labels and targets must lie in 0 to {count - 1}, the classes of the model, "
                f"but one is {self.top}. Check that the data set is the model's."
            )
        if not self.targeted:
            return self.labels
        return (self.labels + 1) % count if self.targets is None else self.targets

    def aimed(self, clean: Tensor, rank: int) -> Goal:
        """The same goal with the class of the `rank`-th largest of the logits `clean`, (N, K), the
        label left out, for a loss to aim at. A targeted goal stays what it is.

        Where there are fewer classes than ranks it is the last of them."""
        if self.targeted:
            return self
        others = clean.scatter(1, self.labels[:, None], float("-inf"))
        best = others.topk(min(rank, clean.shape[1] - 1), dim=1).indices
        return replace(self, targets=best[:, -1])

    def correct(self, logits: Tensor) -> Tensor:
        """Whether the model is right, bool (N,)."""
        return predicted(logits) == self.labels

    def reached(self, logits: Tensor) -> Tensor:
        """Whether a sample is broken, bool (N,). Logits that are not numbers break nothing."""
        if self.lead:
            # Raised by the lead, the label must still lose; lowered by it, the target still win.
            wanted = self.classes(logits.shape[1])[:, None]
            lead = -self.lead if self.targeted else self.lead
            logits = logits.scatter_add(1, wanted, torch.full_like(logits[:, :1], lead))
        top = logits.argmax(1)
        wrong = top == self.classes(logits.shape[1]) if self.targeted else top != self.labels
        return wrong if numbers(logits) else wrong & finite(logits)


def predicted(logits: Tensor) -> Tensor:
    """The class with the largest logit, int64 (N,); -1 where a logit is not a finite number."""
    top = logits.argmax(1)
    return top if numbers(logits) else torch.where(finite(logits), top, -1)


def numbers(values: Tensor) -> bool:
    """Whether all values are known to be finite, which is cheap to see on a CPU: their sum is. Of a
    GPU nothing is asked, and of a sum that overflows nothing is known: see for yourself then."""
    return values.device.type == "cpu" and math.isfinite(values.sum().item())


def finite(logits: Tensor) -> Tensor:
    """Whether all logits of a sample are finite, bool (N,)."""
    return logits.isfinite().all(1)
