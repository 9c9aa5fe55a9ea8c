"""The model under attack, asked so that no trace is left.

Every question runs in eval mode, in float32 unless said otherwise, with grad mode as it needs it
and with random state of its own; whatever the caller had is back before the answer is returned,
also if the model raises. (numpy's and Python's generators are looked after in the first pass, and
later if that used them.) Gradients are taken of the input alone, so that parameters' `.grad` and
`requires_grad` are never touched.

What follows an answer is a dozen small operations. On a CPU it is decided by numbers that Python
has (`goal.numbers`) which of them are needed; of a GPU, which would have to be waited for, nothing
is asked, and all are done.
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

from engine.attacks.elsewhere import Elsewhere
from engine.attacks.goal import Goal, Rows, finite, numbers
from engine.attacks.method import Answer, Method, Problem, Want
from engine.errors import BadInput, is_memory
from engine.models.transforms import masking
from engine.random import derive

_TOGETHER = 120_000
"""Values of the images that a CPU puts through the model together (153 of MNIST's): of more the
activations do not fit its caches, and their memory is given back to the system after each pass,
which clears it for the next (with 255 such images APGD takes a seventh longer, with 500 more)."""


_AS_IT_IS = nullcontext()
"""Entering any other context takes time."""


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
    (`engine.models.transforms`). `elsewhere` gives the model numpy's and Python's generators of its
    own too; a training, which has its own, does without.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int,
        device: torch.device,
        bf16: bool,
        through: bool = False,
        elsewhere: bool = True,
    ) -> None:
        self._model = model
        self._device = device
        self._bf16 = bf16
        # A frozen ScriptModule has no modes.
        self._modules = [module for module in model.modules() if hasattr(module, "training")]
        self._hiding = masking(model) if through else []
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in self._modules)
        direct = device.type == "cpu" and torch.backends.mkldnn.is_available()
        self._direct = _Direct() if direct else None
        # A model that draws (a noisy defence) draws from here, not from the caller's generators.
        self.random = _states(derive(seed, "model"), device)
        self._elsewhere = Elsewhere(derive(seed, "elsewhere")) if elsewhere else None
        none = torch.zeros((), dtype=torch.int64, device=device)
        self.counts = Counts(0, 0, none, none)
        self._zero = torch.zeros((), device=device)
        self.chunk: int | None = None
        self.rewrites: bool | None = None
        """Whether the model writes into what it is given; None before the first pass."""
        self.draws: bool | None = None
        """Whether a pass has drawn at random so far; None before the first."""
        self._kind: torch.dtype | None = None
        """What images are converted to for a model that takes none in float32."""

    def look(self, x: Tensor) -> Tensor:
        """Logits at `x`, float32 (N, K)."""
        logits: Tensor = self._chunked(x.shape[0], lambda part: (self._look(x[part]),))[0]
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
        unknown = rest.shape[0]
        if unknown == known.shape[0]:
            logits = self.look(at.x)
        elif unknown:
            logits = logits.index_copy(0, rest, self.look(at.x[rest]))
        return Answer(logits, method.loss(at, logits, of.goal), self._zero.expand_as(at.x))

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
        x = x.detach()
        with self.aside(grad=False, bf16=False):
            logits = _joined([self._logits(part) for part in self._parts(x, 1)])
        self.counts.forward += x.shape[0]
        if not numbers(logits):
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
            slope = self._zero.expand_as(x)
            return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)
        # Autograd takes no tensor that was made in inference mode.
        x = x.clone() if x.is_inference() else x.detach()
        count = x.shape[0]
        each = count // len(of)
        with self.aside(grad=True, bf16=self._bf16):
            begin, answers = 0, []
            for part in self._parts(x, each):
                end = begin + part.shape[0] // each
                some = _some(of, at, slice(begin, end))
                answers.append(self._climbed(method, *some, part, number, want))
                begin = end
        logits, loss, slope = map(_joined, zip(*answers, strict=True))
        self.counts.forward += count
        self.counts.gradient += count
        slope = self._checked(logits, slope, method.minimal)
        if len(many) == 1:
            return logits, loss, slope
        return logits.unflatten(0, many), loss.unflatten(0, many), slope.unflatten(0, many)

    def _checked(self, logits: Tensor, slope: Tensor, minimal: bool) -> Tensor:
        """The slope, without what is no number in it; counts that, and where it is zero."""
        steepest = slope.flatten(1).abs().amax(1)
        if numbers(logits) and numbers(steepest):
            if not minimal and not steepest.amin().item():
                self.counts.zero = self.counts.zero + (steepest == 0).sum()
            return slope
        if not minimal:  # a loss that is met has none
            self.counts.zero = self.counts.zero + (steepest == 0).sum()
        faulty = ~(finite(logits) & steepest.isfinite())
        self.counts.nan = self.counts.nan + faulty.sum()
        return slope.nan_to_num_(0.0, 0.0, 0.0)

    def _climbed(
        self, method: Method[Any], of: Problem, at: Any, x: Tensor, number: int, want: Want
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss and slope at `x`, the points of the state `at` one after the other."""
        x = x.requires_grad_()
        goal = _goals(of, at.x.shape[:-3])
        direct: AbstractContextManager[Any] = self._direct or nullcontext()
        with direct:
            logits = self._logits(x if method.view is None else method.view(of, x, number))
        loss = method.loss(at, logits, goal)
        outputs = logits
        if want == "jacobian" and method.outputs is not None:
            outputs = method.outputs(at, logits, goal)
        with direct:  # where a checkpoint of the model computes again
            if self._direct is not None:
                self._direct.alone = True
            try:
                slope = _jacobian(outputs, x) if want == "jacobian" else _slopes(loss, x)
            finally:
                if self._direct is not None:
                    self._direct.alone = False
        if self._direct is not None and not self._direct.used:
            self._direct = None  # it looks at every call of torch
        return logits.detach(), loss.detach(), slope

    def _parts(self, x: Tensor, each: int) -> Sequence[Tensor]:
        """`x`, cut into parts for the processor's caches; `each` images of a sample in a row."""
        if self._device.type != "cpu":
            return (x,)
        most = max(1, _TOGETHER // (each * x.shape[1:].numel())) * each
        return (x,) if x.shape[0] <= most else x.split(most)

    def _autocast(self, bf16: bool) -> torch.autocast | nullcontext[None]:
        """As asked, whatever the caller's."""
        kind = self._device.type
        if not bf16 and not torch.is_autocast_enabled(kind):
            return _AS_IT_IS
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16)

    def _logits(self, x: Tensor) -> Tensor:
        if self.rewrites is None and self._kind is None:
            logits = self._first_answer(x)
        else:
            logits = self._answer(x if self._kind is None else x.to(self._kind))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInput(
                f"The model must return logits of shape ({len(x)}, classes) for {len(x)} images, "
                f"but it returned {shape}. Wrap it in a module that returns its logits alone."
            )
        return _rounded(logits) if logits.dtype == torch.float64 else logits.float()

    def _first_answer(self, x: Tensor) -> Any:
        """What the model returns, also if it takes no images in float32: then they are converted to
        what it computes with. One that converts them itself knows better how."""
        try:
            return self._answer(x)
        except RuntimeError as error:
            kinds = _kinds(self._model) - {torch.float32}
            if not kinds or is_memory(error):
                raise
            self._kind, why = min(kinds, key=str), error
        try:
            return self._answer(x.to(self._kind))
        except RuntimeError as error:
            if is_memory(error) or str(error) == str(why):
                raise
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            raise BadInput(
                f"The model computes in {names}, and takes images neither in float32 ({why}) nor "
                f"in {str(self._kind).removeprefix('torch.')} ({error}). Convert all of it to one, "
                "as by model.float()."
            ) from error

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
        elsewhere = self._elsewhere
        if elsewhere is not None:
            elsewhere.enter()
        callers = _states(None, self._device)
        _restore(self.random, self._device)
        try:
            if True in before:
                for module in self._modules:
                    module.training = False
            for part in opened:
                part.straight_through = True
            with (
                torch.inference_mode(False) if torch.is_inference_mode_enabled() else _AS_IT_IS,
                _AS_IT_IS if torch.is_grad_enabled() is grad else torch.set_grad_enabled(grad),
                self._autocast(bf16),
                plain or _AS_IT_IS,
            ):
                yield
        finally:
            if [module.training for module in self._modules] != before:
                # Only where it differs, which is quicker; the model may switch modes itself.
                for module, training in zip(self._modules, before, strict=True):
                    if module.training is not training:
                        module.training = training
            for part in opened:
                del part.straight_through  # the class has it unset
            drawn, self.random = self.random, _states(None, self._device)
            self.draws = bool(self.draws) or not all(map(torch.equal, drawn, self.random))
            _restore(callers, self._device)
            if elsewhere is not None:
                elsewhere.leave()
                self.draws |= elsewhere.used
                if not elsewhere.used:
                    self._elsewhere = None


class _Direct(TorchFunctionMode):
    """Has the gradient of convolutions of few channels, as a model's first, taken without oneDNN:
    that takes 1.2 to 5 times as long with 1 to 4 channels (kernels of 3 to 7, 28 to 224 pixels).
    Under bf16 autocast it is taken in float32, which still makes a pass a third shorter.
    The function is called by its name, as a switch would be the whole process's."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            self.used = True
            return _convolved(self, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    used = False
    """There was a convolution."""
    alone = False
    """Gradients of the images alone are taken: autograd does not tell a function that it could save
    itself those of parameters."""


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


def _kinds(model: nn.Module) -> set[torch.dtype]:
    """What a model computes with: of the numbers among its parameters and buffers."""
    tensors = (*model.parameters(), *model.buffers())
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def _rounded(logits: Tensor) -> Tensor:
    """float64 logits, (N, K), in float32, where the same class is ahead: of two that float32 does
    not tell apart the larger one is raised by the least that it does."""
    found = logits.float()
    top = logits.argmax(1, keepdim=True)
    behind = found.argmax(1, keepdim=True) != top
    if not bool(behind.any()):
        return found
    most = found.detach().amax(1, keepdim=True)
    more = torch.nextafter(most, torch.full_like(most, float("inf"))) - most
    return found.scatter_add(1, top, more * behind)


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
