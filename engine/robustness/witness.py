"""A witness of attacks: keeps some of what they asked and were answered, to ask it again.

A model that remembers, counts or looks at its batch may do so where nobody can see it (in a
closure, in a global variable). What it cannot hide is that an image is then answered otherwise: in
another order, among other images, or by a copy of the model that was asked nothing before.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.attacks.oracle import Oracle
from engine.robustness.asking import apart, precision, same

PASSES = 64
"""Passes of which something is kept; each of those that were made is as likely as any other."""
IMAGES = 4
"""Images of each that are kept."""
MOST = 2**23
"""Values of images that are kept at most: 32 MiB."""


class Kept(NamedTuple):
    """Images, (M, C, H, W), and what was answered to them, (M, K)."""

    images: Tensor
    logits: Tensor


class Witness(nn.Module):
    """`model`, which it passes everything on to."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self._random = random.Random(seed)
        self._kept: list[Kept] = []
        self._passes = 0

    def forward(self, x: Tensor) -> Any:
        place = self._place(x)
        if place is None:
            return self.model(x)
        rows = self._random.sample(range(len(x)), min(IMAGES, len(x)))
        images = x.detach()[rows].clone()  # before the model can write into them
        answer = self.model(x)
        if isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) == len(x):
            kept = Kept(images, answer.detach()[rows].float())
            self._kept[place : place + 1] = [kept]
        return answer

    def _place(self, x: Tensor) -> int | None:
        """Where to keep something of this pass, if anything (algorithm R of Vitter 1985). Passes
        in lower precision are not what is asked again."""
        if not len(x) or torch.is_autocast_enabled(x.device.type):
            return None
        self._passes += 1
        most = max(1, min(PASSES, MOST // (IMAGES * x[0].numel())))
        if len(self._kept) < most:
            return len(self._kept)
        place = self._random.randrange(self._passes)
        return place if place < most else None

    @property
    def kept(self) -> Kept | None:
        """All that is kept, in another order; None if there is nothing."""
        if not self._kept:
            return None
        images, logits = (torch.cat(both) for both in zip(*self._kept, strict=True))
        order = list(range(len(images)))
        self._random.shuffle(order)
        return Kept(images[order], logits[order])


def otherwise(oracle: Oracle, model: nn.Module, kept: Kept) -> tuple[int, float]:
    """How many of the images that are kept `oracle` answers otherwise now, and by how much at
    most."""
    gaps = apart(oracle.look(kept.images), kept.logits)
    off = gaps > same(kept.logits, precision(model, kept.logits))
    return int(off.sum()), float(gaps.max())
