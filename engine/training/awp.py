"""Adversarial weight perturbation (Wu, Xia and Wang 2020, algorithm 1).

Each step's gradient is taken where the weights are worst for its loss, within a share of each
layer's own length. As in the authors' code that place is one step of gradient ascent away, only
weights of two or more dimensions move, and a batch normalisation learns nothing from the ascent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def worst_weights(model: nn.Module, gamma: float, loss: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, every weight w of `model` that is trained is w + gamma |w| g / |g|, with g the
    gradient of `loss()`; afterwards it is exactly w again."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    learnt = [buffer.clone() for buffer in model.buffers()]
    slopes = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), learnt, strict=True):
            buffer.copy_(value)
        for weight, slope in zip(weights, slopes, strict=True):
            tiny = torch.finfo(weight.dtype).tiny
            weight.add_(slope * (gamma * weight.norm() / slope.norm().clamp_min(tiny)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
