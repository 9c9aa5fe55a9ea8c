"""The model under attack, asked so that no trace is left.

Every question runs in eval mode, in float32 unless said otherwise, with grad mode as it needs it
and with random state of its own; whatever the caller had is back before the answer is returned,
also if the model raises. Gradients are taken of the input alone, so that parameters' `.grad` and
`requires_grad` are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.attacks.goal import Goal, Rows, finite
from engine.attacks.method import Answer, Method, Problem, Want
from engine.errors import BadInput, is_memory
from engine.models.transforms import masking
from engine.random import derive

_TOGETHER = 120_000
"""Values of the images that a CPU puts through the model together (153 of MNIST's): of more the
activations do not fit its caches, and their memory is given back to the system after each pass,
which clears it for the next (with 255 such images APGD takes a seventh longer, with 500 more)."""


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
    half as many, and so on. `through` takes gradients straight through what hides them
    (`engine.models.transforms`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int,
        device: torch.device,
        bf16: bool,
        through: bool = False,
    ) -> None:
        self._model = model
        self._device = device
        self._bf16 = bf16
        # A frozen ScriptModule has no modes.
        self._modules = [module for module in model.modules() if hasattr(module, "training")]
        self._hiding = masking(model) if through else []
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in self._modules)
        direct = device.type == "cpu" and torch.backends.mkldnn.is_available()
        self._direct: _Direct | nullcontext[None] = _Direct() if direct else nullcontext()
        # A model that draws (a noisy defence) draws from here, not from the caller's generators.
        self.random = _states(derive(seed, "model"), device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = Counts(0, 0, none, none)
        self.chunk: int | None = None
        self.rewrites: bool | None = None
        """Whether the model writes into what it is given; None before the first pass."""
        self.draws: bool | None = None
        """Whether a pass has drawn at random so far; None before the first."""

    def look(self, x: Tensor) -> Tensor:
        """Logits at `x`, float32 (N, K)."""
        logits: Tensor = self._chunked(len(x), lambda part: (self._look(x[part]),))[0]
        return logits

    def ask(self, method: Method[Any], of: Problem, at: Any, number: int, want: Want) -> Answer:
        """What the model says at `at.x`, (N, C, H, W) or (N, Q, C, H, W)."""
        if method.known is not None and self.draws is False:
            return self._ask_rest(method, of, at, *method.known(at))

        def asked(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            return self._ask(method, *_some(of, at, part), number, want)

        each = at.x.shape[1] if at.x.ndim == 5 else 1
        return Answer(*self._chunked(len(of), asked, each))

    def _ask_rest(
        self, method: Method[Any], of: Problem, at: Any, known: Tensor, logits: Tensor
    ) -> Answer:
        """The same, where `logits` hold the answer for the samples that are `known`."""
        rest = (~known).nonzero().squeeze(1)
        if len(rest) == len(of):
            logits = self.look(at.x)
        elif len(rest):
            logits = logits.index_copy(0, rest, self.look(at.x[rest]))
        slope = at.x.new_zeros(()).expand_as(at.x)
        return Answer(logits, method.loss(at, logits, of.goal), slope)

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
        with self.aside(grad=False, bf16=False):
            logits = _joined([self._logits(x.detach()[part]) for part in self._parts(x, 1)])
        self.counts.forward += len(x)
        self.counts.nan = self.counts.nan + (~finite(logits)).sum()
        return logits

    def _ask(
        self, method: Method[Any], of: Problem, at: Any, number: int, want: Want
    ) -> tuple[Tensor, Tensor, Tensor]:
        many = at.x.shape[:-3]
        x = at.x.flatten(0, -4)
        if want == "logits":
            logits = self._look(x)
            loss = method.loss(at, logits, _goals(of, many))
            slope = x.new_zeros(()).expand_as(x)
            return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)
        # Autograd takes no tensor that was made in inference mode.
        x = x.clone() if x.is_inference() else x.detach()
        each = len(x) // len(of)
        with self.aside(grad=True, bf16=self._bf16):
            answers = [
                self._climbed(
                    method,
                    *_some(of, at, slice(part.start // each, part.stop // each)),
                    x[part],
                    number,
                    want,
                )
                for part in self._parts(x, each)
            ]
        logits, loss, slope = map(_joined, zip(*answers, strict=True))
        steepest = slope.flatten(1).abs().amax(1)
        faulty = ~(finite(logits) & steepest.isfinite())
        self.counts.forward += len(x)
        self.counts.gradient += len(x)
        if not method.minimal:  # a loss that is met has none
            self.counts.zero = self.counts.zero + (steepest == 0).sum()
        self.counts.nan = self.counts.nan + faulty.sum()
        slope = slope.nan_to_num_(0.0, 0.0, 0.0)
        return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)

    def _climbed(
        self, method: Method[Any], of: Problem, at: Any, x: Tensor, number: int, want: Want
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss and slope at `x`, the points of the state `at` one after the other."""
        x = x.requires_grad_()
        goal = _goals(of, at.x.shape[:-3])
        with self._direct:  # backwards too, where a checkpoint of the model computes again
            logits = self._logits(x if method.view is None else method.view(of, x, number))
            loss = method.loss(at, logits, goal)
            outputs = logits
            if want == "jacobian" and method.outputs is not None:
                outputs = method.outputs(at, logits, goal)
            with self._alone():
                slope = _jacobian(outputs, x) if want == "jacobian" else _slopes(loss, x)
        return logits.detach(), loss.detach(), slope

    def _alone(self) -> AbstractContextManager[None]:
        direct = self._direct
        return direct.images_alone() if isinstance(direct, _Direct) else nullcontext()

    def _parts(self, x: Tensor, each: int) -> list[slice]:
        """Where to cut `x`, `each` images of a sample in a row, for the processor's caches."""
        most = len(x)
        if self._device.type == "cpu":
            most = max(1, _TOGETHER // (each * x[0].numel())) * each
        return [slice(k, min(k + most, len(x))) for k in range(0, len(x), most)]

    def _autocast(self, bf16: bool) -> torch.autocast | nullcontext[None]:
        """As asked, whatever the caller's; entering it takes time."""
        kind = self._device.type
        if not bf16 and not torch.is_autocast_enabled(kind):
            return nullcontext()
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16)

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._answer(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInput(
                f"The model must return logits of shape ({len(x)}, classes) for {len(x)} images, "
                f"but it returned {shape}. Wrap it in a module that returns its logits alone."
            )
        return logits.float()

    def _answer(self, x: Tensor) -> Any:
        """What the model returns. One that writes into its input gets a copy of it."""
        if self.rewrites is not False:
            copy = x.clone()
            before = copy._version
            answer = self._model(copy)
            # What is written through `.data` is not counted by torch.
            self.rewrites = self.rewrites or copy._version != before or not torch.equal(copy, x)
            return answer
        before = x._version
        answer = self._model(x)
        if x._version != before:
            raise BadInput(
                "The model wrote into the images that it was given, which it had not done before: "
                "what was asked is not what was answered. Have its forward work on a copy."
            )
        return answer

    @contextmanager
    def aside(self, *, grad: bool, bf16: bool) -> Iterator[None]:
        """Own modes and random state, for who asks the model itself; the caller's afterwards."""
        before = [module.training for module in self._modules]
        cuda = self._device.type == "cuda"
        # cuDNN differentiates recurrent layers in training mode only.
        plain = torch.backends.cudnn.flags(enabled=False) if cuda and self._recurrent else None
        opened = [part for part in self._hiding if grad and not part.straight_through]
        callers = _states(None, self._device)
        _restore(self.random, self._device)
        try:
            for module, training in zip(self._modules, before, strict=True):
                if training:
                    module.training = False
            for part in opened:
                part.straight_through = True
            with (
                torch.inference_mode(False),
                torch.set_grad_enabled(grad),
                self._autocast(bf16),
                plain or nullcontext(),
            ):
                yield
        finally:
            for module, training in zip(self._modules, before, strict=True):
                if module.training is not training:  # the model may switch modes itself
                    module.training = training
            for part in opened:
                del part.straight_through  # the class has it unset
            drawn, self.random = self.random, _states(None, self._device)
            self.draws = bool(self.draws) or not all(map(torch.equal, drawn, self.random))
            _restore(callers, self._device)


class _Direct(TorchFunctionMode):
    """Has the gradient of convolutions of few channels, as a model's first, taken without oneDNN:
    that takes 1.2 to 5 times as long with 1 to 4 channels (kernels of 3 to 7, 28 to 224 pixels).
    Under bf16 autocast it is taken in float32, which still makes a pass a third shorter.
    The function is called by its name, as a switch would be the whole process's."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            return _convolved(self, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    alone = False
    """Gradients of the images alone are taken: autograd does not tell a function that it could save
    itself those of parameters."""

    @contextmanager
    def images_alone(self) -> Iterator[None]:
        self.alone = True
        try:
            yield
        finally:
            self.alone = False


def _convolved(
    by: _Direct,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """torch.conv2d, whose gradient with respect to `input` may be taken another way."""
    plain = input.ndim == 4 and groups == 1 and not isinstance(padding, str)
    plain = plain and input.dtype == weight.dtype == torch.float32 and _pair(dilation) == (1, 1)
    if not (plain and input.requires_grad and input.shape[1] <= 4 and torch.is_grad_enabled()):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if torch.compiler.is_compiling() or fwAD._current_level >= 0:  # neither knows our function
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    leaf = weight.is_leaf and (bias is None or bias.is_leaf)
    out: Tensor = _WithoutOneDNN.apply(input, weight, bias, _pair(stride), _pair(padding), by, leaf)
    return out


def _pair(both: Any) -> tuple[int, int]:
    across, down = (both, both) if isinstance(both, int) else (*both, *both)[:2]
    return across, down


class _WithoutOneDNN(torch.autograd.Function):
    """torch.conv2d; the gradients of weight and bias, should the model itself ask for them, are
    torch's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        by: _Direct,
        leaf: bool,
    ) -> Tensor:
        return torch.conv2d(input, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.places, ctx.by, ctx.leaf = inputs[3:5], *inputs[5:]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        image, weight = ctx.saved_tensors
        stride, padding = ctx.places
        slope = slope.float()
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        if ctx.by.alone and ctx.leaf:
            of_weight = of_bias = False
        along = across = None
        if of_image:
            along = torch.ops.aten._slow_conv2d_backward.output_mask(
                slope, image, weight, weight.shape[2:], stride, padding, [True, False, False]
            )[0]
        if of_weight:
            across = torch.ops.aten.convolution_backward(
                *(slope, image, weight, None, stride, padding, (1, 1), False, (0, 0), 1),
                [False, True, False],
            )[1]
        of_it_all = slope.sum((0, 2, 3)) if of_bias else None
        return along, across, of_it_all, None, None, None, None


def rows(state: Any, keep: Rows) -> Any:
    """The samples at `keep` of a method's state."""
    return type(state)(*(part[keep] if isinstance(part, Tensor) else part for part in state))


def _some(of: Problem, at: Any, part: slice) -> tuple[Problem, Any]:
    """Problem and state of some samples."""
    return (of, at) if part == slice(0, len(of)) else (of[part], rows(at, part))


def _goals(of: Problem, many: Sequence[int]) -> Goal:
    """The goals of as many points, (N,) or (N, Q)."""
    if len(many) == 1:
        return of.goal
    return of.goal[torch.arange(len(of), device=of.ids.device).repeat_interleave(many[1])]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _slopes(loss: Tensor, x: Tensor) -> Tensor:
    """Gradient of each sample's loss at its image; zero where it does not depend on it."""
    if not loss.requires_grad:
        return torch.zeros_like(x)
    slope: Tensor = torch.autograd.grad(loss.sum(), x, allow_unused=True, materialize_grads=True)[0]
    # That of a sum is one value, expanded, into which nothing can be written.
    return slope.contiguous() if 0 in slope.stride() else slope


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
