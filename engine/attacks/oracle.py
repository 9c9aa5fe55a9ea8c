"""The model under attack, asked so that no trace is left.

Every question runs in eval mode, in float32 unless said otherwise, with grad mode as it needs it
and with random state of its own; whatever the caller had is back before the answer is returned,
also if the model raises. Gradients are taken of the input alone, so that parameters' `.grad` and
`requires_grad` are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.attacks.goal import finite
from engine.attacks.method import Answer, Method, Problem, Want
from engine.errors import BadInput, is_memory
from engine.random import derive

_TOGETHER = 250
"""Images that a CPU looks at together: more do not fit its caches (a fifth slower with 1,000)."""


@dataclass(slots=True)
class Counts:
    """What the passes so far were: images put through the model, those of them whose gradient was
    taken, gradients that were zero, and answers with a NaN or Inf (in logits or gradient)."""

    forward: int
    gradient: int
    zero: Tensor
    nan: Tensor


class Oracle:
    """Asks `model`, and keeps count.

    `bf16` takes gradients under bf16 autocast; without a gradient it is always float32. `chunk` is
    how many images go through the model together: all of them, until memory runs out; from then on
    half as many, and so on.
    """

    def __init__(self, model: nn.Module, *, seed: int, device: torch.device, bf16: bool) -> None:
        self._model = model
        self._device = device
        self._bf16 = bf16
        self._modules = list(model.modules())
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in self._modules)
        self._direct = _direct(device, bf16)
        # A model that draws (a noisy defence) draws from here, not from the caller's generators.
        self.random = _states(derive(seed, "model"), device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = Counts(0, 0, none, none)
        self.chunk: int | None = None

    def look(self, x: Tensor) -> Tensor:
        """Logits at `x`, float32 (N, K)."""
        logits: Tensor = self._chunked(len(x), lambda part: (self._look(x[part]),))[0]
        return logits

    def ask(self, method: Method[Any], of: Problem, at: Any, number: int, want: Want) -> Answer:
        """What the model says at `at.x`, (N, C, H, W) or (N, Q, C, H, W)."""

        def asked(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            if part == slice(0, len(of)):
                return self._ask(method, of, at, number, want)
            keep = torch.arange(part.start, part.stop, device=of.ids.device)
            return self._ask(method, of[keep], rows(at, keep), number, want)

        each = at.x.shape[1] if at.x.ndim == 5 else 1
        return Answer(*self._chunked(len(of), asked, each))

    def _chunked(
        self, count: int, compute: Callable[[slice], tuple[Tensor, ...]], each: int = 1
    ) -> tuple[Tensor, ...]:
        """`compute` on consecutive parts of `count` samples with `each` images, joined; in smaller
        parts when memory runs out."""
        parts: list[tuple[Tensor, ...]] = []
        done = 0
        while done < count:
            size = count - done
            if self.chunk is not None:
                size = min(size, max(1, self.chunk // each))
            try:
                parts.append(compute(slice(done, done + size)))
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error) or size == 1:
                    raise
                self.chunk = size * each // 2
                continue
            done += size
        return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))

    def _look(self, x: Tensor) -> Tensor:
        most = _TOGETHER if self._device.type == "cpu" else len(x)
        with self._aside(grad=False, bf16=False):
            logits = torch.cat([self._logits(part) for part in x.detach().split(most)])
        self.counts.forward += len(x)
        self.counts.nan = self.counts.nan + (~finite(logits)).sum()
        return logits

    def _ask(
        self, method: Method[Any], of: Problem, at: Any, number: int, want: Want
    ) -> tuple[Tensor, Tensor, Tensor]:
        many = at.x.shape[:-3]
        goal = of.goal
        if len(many) == 2:
            goal = goal[torch.arange(len(of), device=of.ids.device).repeat_interleave(many[1])]
        x = at.x.flatten(0, -4)
        if want == "logits":
            logits = self._look(x)
            loss = method.loss(at, logits, goal)
            slope = x.new_zeros(()).expand_as(x)
            return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)
        with self._aside(grad=True, bf16=self._bf16):
            # Autograd takes no tensor that was made in inference mode.
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            with self._direct:
                logits = self._logits(x if method.view is None else method.view(of, x, number))
            loss = method.loss(at, logits, goal)
            if want == "jacobian":
                outputs = logits if method.outputs is None else method.outputs(at, logits, goal)
                slope = _jacobian(outputs, x)
            else:
                slope = _slopes(loss, x)
        steepest = slope.flatten(1).abs().amax(1)
        faulty = ~(finite(logits) & steepest.isfinite())
        self.counts.forward += len(x)
        self.counts.gradient += len(x)
        if not method.minimal:  # a loss that is met has none
            self.counts.zero = self.counts.zero + (steepest == 0).sum()
        self.counts.nan = self.counts.nan + faulty.sum()
        slope = slope.nan_to_num_(0.0, 0.0, 0.0)
        logits, loss = logits.detach(), loss.detach()
        return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)

    def _autocast(self, bf16: bool) -> torch.autocast | nullcontext[None]:
        """As asked, whatever the caller's; entering it takes time."""
        kind = self._device.type
        if not bf16 and not torch.is_autocast_enabled(kind):
            return nullcontext()
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16)

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
        _restore(self.random, self._device)
        try:
            for module in training:
                module.training = False
            with (
                torch.inference_mode(False),
                torch.set_grad_enabled(grad),
                self._autocast(bf16),
                plain or nullcontext(),
            ):
                yield
        finally:
            if isinstance(self._direct, _Direct):  # a backward pass may have failed inside of one
                _with_onednn()
            for module in training:
                module.training = True
            self.random = _states(None, self._device)
            _restore(callers, self._device)


class _Direct(TorchFunctionMode):
    """Has the gradient of convolutions of few channels, as a model's first, taken without oneDNN:
    that takes 1.2 to 5 times as long with 1 to 4 channels (kernels of 3 to 7, 28 to 224 pixels)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.conv2d and args and args[0].shape[1] <= 4 and out.grad_fn is not None:
            out.grad_fn.register_prehook(_without_onednn)
            out.grad_fn.register_hook(_with_onednn)
        return out


def _direct(device: torch.device, bf16: bool) -> TorchFunctionMode | nullcontext[None]:
    enabled = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    return _Direct() if device.type == "cpu" and enabled and not bf16 else nullcontext()


def _without_onednn(_: Any) -> None:
    torch._C._set_mkldnn_enabled(False)


def _with_onednn(*_: Any) -> None:
    torch._C._set_mkldnn_enabled(True)


def rows(state: Any, keep: Tensor) -> Any:
    """The samples at `keep`, int64 (M,), of a method's state."""
    return type(state)(*(part[keep] if isinstance(part, Tensor) else part for part in state))


def _slopes(loss: Tensor, x: Tensor) -> Tensor:
    """Gradient of each sample's loss at its image; zero where it does not depend on it."""
    if not loss.requires_grad:
        return torch.zeros_like(x)
    slope: Tensor = torch.autograd.grad(loss.sum(), x, allow_unused=True, materialize_grads=True)[0]
    return slope


def _jacobian(outputs: Tensor, x: Tensor) -> Tensor:
    """Gradients of all outputs, (N, R), as (N, R, C, H, W)."""
    if not outputs.requires_grad:
        return x.new_zeros((len(x), outputs.shape[1], *x.shape[1:]))
    last = outputs.shape[1] - 1
    totals = outputs.sum(0)
    return torch.stack(
        [
            torch.autograd.grad(
                total, x, retain_graph=k < last, allow_unused=True, materialize_grads=True
            )[0]
            for k, total in enumerate(totals)
        ],
        dim=1,
    )


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
