"""Adam over the weights of one network (Kingma and Ba 2015, algorithm 1).

It is torch's own step, in its fused form where the device has one, and its state has the same
names. What differs is that lists of weights and state are made once and not at every step, which of
networks as small as those of the plane costs as much as the step itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from engine.training.optimizers import laid_out

EPSILON = 1e-8
"""As torch has it."""

STATE = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """The steps of `weights`, with decays `betas`."""

    def __init__(self, weights: Sequence[Tensor], betas: tuple[float, float]) -> None:
        self.weights, self.betas = list(weights), betas
        self.fused = all(w.device.type in ("cpu", "cuda") for w in self.weights)
        self._state: tuple[list[Tensor], ...] = (
            [torch.zeros((), device=w.device if self.fused else "cpu") for w in self.weights],
            [torch.zeros_like(w) for w in self.weights],
            [torch.zeros_like(w) for w in self.weights],
        )

    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """Take a step down `gradients`, one a weight; without one a weight stays, and its state."""
        lists: Sequence[list[Tensor]] = (self.weights, *self._state)
        known = [g for g in gradients if g is not None]
        if len(known) < len(self.weights):
            having = [i for i, g in enumerate(gradients) if g is not None]
            lists = [[each[i] for i in having] for each in lists]
        weights, steps, means, squares = lists
        for i, weight in enumerate(weights):
            known[i] = laid_out(known[i], weight)
        with torch.no_grad():
            adam(
                weights,
                known,
                means,
                squares,
                [],
                steps,
                fused=self.fused or None,
                foreach=False if self.fused else None,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """The state, by the place of the weight and the name that torch's has."""
        return {
            f"{place}.{name}": value
            for name, values in zip(STATE, self._state, strict=True)
            for place, value in enumerate(values)
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; a weight that had no step yet may be missing."""
        for name, value in self.tensors().items():
            if name in tensors:
                value.copy_(tensors[name])
            else:
                value.zero_()
