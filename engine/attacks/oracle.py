"""The model under attack, asked so that no trace is left.

Every question runs in eval mode, in float32 unless said otherwise, with grad mode as it needs it
and with random state of its own; whatever the caller had is back before the answer is returned,
also if the model raises. Gradients are taken of the input alone, so that parameters' `.grad` and
`requires_grad` are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.attacks.geometry import largest
from engine.attacks.goal import Goal, finite
from engine.attacks.losses import Loss
from engine.errors import BadInput
from engine.random import derive


class Answer(NamedTuple):
    """logits: float32 (N, K), detached. loss: (N,), larger is nearer to the goal. gradient: of the
    loss with respect to the input, finite, (N, C, H, W); zero if it was not asked for."""

    logits: Tensor
    loss: Tensor
    gradient: Tensor


@dataclass(slots=True)
class Counts:
    """What the passes so far were: images put through the model, those of them whose gradient was
    taken, gradients that were zero, and answers with a NaN or Inf (in logits or gradient)."""

    forward: int
    gradient: int
    zero: Tensor
    nan: Tensor


class Oracle:
    """Asks `model` about the `loss` of an attack.

    `bf16` takes gradients under bf16 autocast; without a gradient it is always float32.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, *, seed: int, device: torch.device, bf16: bool
    ) -> None:
        self._model = model
        self._loss = loss
        self._device = device
        self._bf16 = bf16
        self._modules = list(model.modules())
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in self._modules)
        # A model that draws (a noisy defence) draws from here, not from the caller's generators.
        self._random = _states(derive(seed, "model"), device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = Counts(0, 0, none, none)

    def look(self, x: Tensor) -> Tensor:
        """Logits at `x`, float32 (N, K)."""
        with self._aside(grad=False, bf16=False):
            logits = self._logits(x.detach())
        self.counts.forward += len(x)
        self.counts.nan = self.counts.nan + (~finite(logits)).sum()
        return logits

    def ask(self, x: Tensor, goal: Goal, *, gradient: bool) -> Answer:
        """Logits and loss at `x`, and the gradient along which the loss rises."""
        if not gradient:
            logits = self.look(x)
            return Answer(logits, self._rising(logits, goal), x.new_zeros(()).expand_as(x))
        with self._aside(grad=True, bf16=self._bf16):
            # Autograd takes no tensor that was made in inference mode.
            asked = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            logits = self._logits(asked)
            loss = self._rising(logits, goal)
            slope = (
                torch.autograd.grad(loss.sum(), asked, allow_unused=True, materialize_grads=True)[0]
                if loss.requires_grad
                else torch.zeros_like(asked)
            )
        steepest = largest(slope).flatten()
        faulty = ~(finite(logits) & steepest.isfinite())
        self.counts.forward += len(x)
        self.counts.gradient += len(x)
        self.counts.zero = self.counts.zero + (steepest == 0).sum()
        self.counts.nan = self.counts.nan + faulty.sum()
        return Answer(logits.detach(), loss.detach(), slope.nan_to_num_(0.0, 0.0, 0.0))

    def _rising(self, logits: Tensor, goal: Goal) -> Tensor:
        classes = goal.classes(logits.shape[1])
        loss = self._loss(logits, classes.clone() if classes.is_inference() else classes)
        return -loss if goal.targeted else loss

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInput(
                f"The model must return logits of shape ({len(x)}, classes) for {len(x)} images, "
                f"but it returned {shape}. Wrap it in a module that returns its logits alone."
            )
        return logits.float()

    @contextmanager
    def _aside(self, *, grad: bool, bf16: bool) -> Iterator[None]:
        """Own modes and random state, the caller's afterwards."""
        training = [module for module in self._modules if module.training]
        cuda = self._device.type == "cuda"
        # cuDNN differentiates recurrent layers in training mode only.
        plain = torch.backends.cudnn.flags(enabled=False) if cuda and self._recurrent else None
        callers = _states(None, self._device)
        _restore(self._random, self._device)
        try:
            for module in training:
                module.training = False
            with (
                torch.inference_mode(False),
                torch.set_grad_enabled(grad),
                torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16),
                plain or nullcontext(),
            ):
                yield
        finally:
            for module in training:
                module.training = True
            self._random = _states(None, self._device)
            _restore(callers, self._device)


def _states(seed: int | None, device: torch.device) -> list[Tensor]:
    """torch's random states of CPU and `device`: those of now, or fresh ones from `seed`."""
    if seed is None:
        now = [torch.get_rng_state()]
        return [*now, torch.cuda.get_rng_state(device)] if device.type == "cuda" else now
    fresh = [torch.Generator().manual_seed(seed).get_state()]
    if device.type == "cuda":
        fresh.append(torch.Generator(device).manual_seed(seed).get_state())
    return fresh


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
