"""Seeing every use that a model makes of what it learns, while it computes.

A torch function mode is asked before each function of torch that the model calls, in whatever form
it calls it. A layer of the kinds in `engine.privacy.layers` is computed with its weight cut off the
graph and written down as a `Use`; layers that torch computes in one piece are computed in parts
(`engine.privacy.unfused`); a value that is added to, or multiplied with, what belongs to samples is
replaced by one copy for each of them. What is computed of parameters alone (a low-rank correction,
a weight's norm) stays in the graph and is differentiated later. Any other use leaves the parameter
reachable from the losses, which shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engine.privacy.layers import Affine, Convolution, Direct, Embedding, Linear, Use
from engine.privacy.pooling import max_pool2d
from engine.privacy.unfused import UNFUSED


class Recording(TorchFunctionMode):
    """The uses of `parameters` in one forward pass of `count` samples, in their order."""

    def __init__(self, parameters: Iterable[Tensor], count: int) -> None:
        super().__init__()
        self.count = count
        self.uses: list[Use] = []
        self._learning = {id(p): p for p in parameters}
        """By id, and held, so that no id is given away: what is computed of parameters alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in QUICKER:
            return QUICKER[func](*args, **kwargs)
        found = [a for a in _tensors((*args, *kwargs.values())) if id(a) in self._learning]
        if not found:
            return func(*args, **kwargs)
        layer = LAYERS.get(func)
        if layer is not None:
            use = layer(self, *args, **kwargs)
            if use is not None:
                return use
        elif func in UNFUSED:
            with self:
                answer = UNFUSED[func](*args, **kwargs)
            if answer is not None:
                return answer
        elif func in ELEMENTWISE:
            args = self._copied(args)
        elif func in REPEATING:
            copies = self._repeated(func, args, kwargs)
            if copies is not None:
                return copies
        return self._passed_on(func, args, kwargs)

    # --- what learns ------------------------------------------------------------------------------

    def learns(self, value: Tensor | None) -> Tensor | None:
        """`value`, if it is a parameter that learns, or computed from such alone."""
        return value if value is not None and id(value) in self._learning else None

    def fits(self, taken: Any, dims: int = 2) -> bool:
        """Whether a layer's input has the samples in front, and at least so many dimensions."""
        return isinstance(taken, Tensor) and taken.ndim >= dims and len(taken) == self.count

    def cut(self, value: Any) -> Any:
        """`value` off its graph, but needing a gradient, so that what is computed with it does;
        none is ever taken of it."""
        return value if self.learns(value) is None else value.detach().requires_grad_()

    def write(self, use: Use, out: Tensor) -> Tensor:
        self.uses.append(use)
        return use.returned(out)

    def _passed_on(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The function as it is; what it makes of parameters alone is known from now on."""
        given = list(_tensors((*args, *kwargs.values())))
        alone = all(id(a) in self._learning or not a.requires_grad for a in given)
        learning = any(id(a) in self._learning for a in given)
        out = func(*args, **kwargs)
        for tensor in _tensors((out,)):
            if alone and learning and tensor.requires_grad:
                self._learning[id(tensor)] = tensor
            elif not alone and not tensor.is_leaf:  # written into, it is no longer theirs alone
                self._learning.pop(id(tensor), None)
        return out

    # --- values that meet samples -----------------------------------------------------------------

    def _copied(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of an elementwise function, with copies where a value is broadcast over
        samples."""
        data = [a for a in args if isinstance(a, Tensor) and self.learns(a) is None]
        wide = max((a.ndim for a in data if a.requires_grad), default=0)
        if not any(self.fits(a, 1) and a.ndim == wide for a in data):
            return args
        return tuple(self._copies(a, wide) if isinstance(a, Tensor) else a for a in args)

    def _copies(self, value: Tensor, wide: int) -> Tensor:
        """A copy of `value` for each sample in a tensor of `wide` dimensions; itself where it has
        no room for that, or does not learn."""
        alike = value.ndim < wide or (value.ndim == wide and len(value) == 1)
        if self.learns(value) is None or not alike:
            return value
        one = value.detach()[(None,) * (wide - value.ndim)]
        copies = one.expand(self.count, *one.shape[1:]).requires_grad_()
        self.uses.append(Direct(value, copies))
        return copies

    def _repeated(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Tensor | None:
        """A value that is written out for each sample, as a class token is."""
        value = args[0]
        if self.learns(value) is None:
            return None
        shape = func(value.detach(), *args[1:], **kwargs).shape
        if not shape or shape[0] != self.count or len(shape) < value.ndim:
            return None
        one = value.shape if len(shape) == value.ndim else (1, *value.shape)
        if (
            len(shape) != len(one)
            or one[0] != 1
            or (func is Tensor.repeat and shape[1:] != one[1:])
        ):
            return None
        return self._copies(value, len(shape)).expand(shape)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among arguments, one and two levels deep."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


# --- layers ---------------------------------------------------------------------------------------


def _linear(by: Recording, input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not by.fits(input):
        return None
    out = F.linear(input, by.cut(weight), by.cut(bias))
    return by.write(Linear(input, by.learns(weight), by.learns(bias)), out)


def _matmul(by: Recording, input: Any, other: Any) -> Any:
    """x @ W is a linear layer of W.T."""
    if by.learns(other) is None or other.ndim != 2 or not by.fits(input):
        return None
    with by:
        turned = other.t()
    return _linear(by, input, turned)


def _convolution(spatial: int) -> Callable[..., Any]:
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[spatial - 1]

    def convolved(
        by: Recording,
        input: Any,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if not by.fits(input, 2 + spatial):
            return None
        kernel = tuple(weight.shape[2:])
        stride, dilation = _sides(stride, spatial), _sides(dilation, spatial)
        taken = input
        if padding == "same":
            reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            uneven = [side for r in reversed(reach) for side in (0, r % 2)]
            taken = F.pad(input, uneven) if any(uneven) else input
            padding = tuple(r // 2 for r in reach)
        padding = (0,) * spatial if padding == "valid" else _sides(padding, spatial)
        out = function(taken, by.cut(weight), by.cut(bias), stride, padding, dilation, groups)
        learning = by.learns(weight), by.learns(bias)
        use = Convolution(taken, *learning, kernel, stride, padding, dilation, groups)
        return by.write(use, out)

    return convolved


def _sides(value: int | Sequence[int], spatial: int) -> tuple[int, ...]:
    """One number a dimension."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    return sides * spatial if len(sides) == 1 else sides


def _embedding(
    by: Recording,
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if not by.fits(input, 1) or max_norm is not None or scale_grad_by_freq:
        return None
    return by.write(Embedding(input, weight, padding_idx), F.embedding(input, by.cut(weight)))


def _layer_norm(
    by: Recording,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    shape = list(normalized_shape)
    if not by.fits(input, 1 + len(shape)):
        return None
    out = F.layer_norm(input, shape, by.cut(weight), by.cut(bias), eps)
    dims = tuple(range(1, input.ndim - len(shape)))

    def plain(taken: Tensor) -> Tensor:
        return F.layer_norm(taken, shape, eps=eps)

    return by.write(Affine(input, by.learns(weight), by.learns(bias), dims, plain), out)


def _rms_norm(
    by: Recording,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    shape = list(normalized_shape)
    if not by.fits(input, 1 + len(shape)):
        return None
    out = F.rms_norm(input, shape, by.cut(weight), eps)
    dims = tuple(range(1, input.ndim - len(shape)))

    def plain(taken: Tensor) -> Tensor:
        return F.rms_norm(taken, shape, None, eps)

    return by.write(Affine(input, by.learns(weight), None, dims, plain), out)


def _group_norm(
    by: Recording,
    input: Any,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if not by.fits(input):
        return None
    out = F.group_norm(input, num_groups, by.cut(weight), by.cut(bias), eps)
    dims = tuple(range(2, input.ndim))

    def plain(taken: Tensor) -> Tensor:
        return F.group_norm(taken, num_groups, eps=eps)

    return by.write(Affine(input, by.learns(weight), by.learns(bias), dims, plain), out)


def _instance_norm(
    by: Recording,
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if running_mean is not None or not use_input_stats or not by.fits(input, 3):
        return None
    return _group_norm(by, input, input.shape[1], weight, bias, eps)


LAYERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    torch.conv1d: _convolution(1),
    torch.conv2d: _convolution(2),
    torch.conv3d: _convolution(3),
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}
"""What is returned in their place, or None where it is no case for book-keeping."""

QUICKER: dict[Any, Callable[..., Any]] = {
    F.max_pool2d: max_pool2d,
    torch.max_pool2d: max_pool2d,
}
"""The same, computed sooner."""

ELEMENTWISE = {
    *(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, torch.where),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.true_divide, Tensor.where),
    *(Tensor.add_, Tensor.sub_, Tensor.mul_, Tensor.div_),
    *(Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.__sub__, Tensor.__rsub__),
    *(Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.__truediv__, Tensor.__rtruediv__),
    *(torch.maximum, torch.minimum, Tensor.maximum, Tensor.minimum),
}

REPEATING = {Tensor.expand, Tensor.expand_as, Tensor.repeat, Tensor.broadcast_to}
REPEATING.add(torch.broadcast_to)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast: sums and norms of gradients are as precise as what learns."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield
