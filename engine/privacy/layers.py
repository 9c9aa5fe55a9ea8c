"""Per-sample gradients of layers from what book-keeping has: what a layer was given, and the slope
of the losses at what it returned (Bu et al. 2023, "Differentially Private Optimization on Large
Model at Small Cost", sections 2 and 3).

A `Use` is one call of one layer on N samples. It knows the squared norm of each sample's gradient
of the weight and of the bias, and the weighted sum over samples, each by the cheapest of three
ways: *ghost* (the norm from products between positions, never the gradient itself), *kept* (each
sample's gradient once, for norm and sum alike) and *passing* (each sample's gradient for the norm,
one product of the whole batch for the sum).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

Way: TypeAlias = Literal["ghost", "kept", "passing"]

KEPT = 1 << 24
"""Numbers that the samples' gradients of one layer may take in memory together."""

BLOCK = 1 << 19
"""Numbers that are worked on at a time, to stay in the processor's caches."""

TOUCH = 8
"""What it costs to write and read a number of a gradient, in multiplications."""

CANCELLED = 1e-2
"""Share of the terms' size below which a ghost norm has lost too many digits."""

PER_SAMPLE = ("taken", "slope", "_kept", "_weights", "_biases")
"""What a use holds of each sample."""


def blocks(count: int, size: int) -> Iterator[slice]:
    """Consecutive parts of `count` samples, of which each takes `size` numbers."""
    many = max(1, BLOCK // max(1, size))
    return (slice(k, min(k + many, count)) for k in range(0, count, many))


def cheapest(count: int, positions: int, inputs: int, outputs: int, groups: int = 1) -> Way:
    """How the norms and sum of a product are had: `count` samples, each with as many `positions`,
    from `inputs` to `outputs` numbers in each of the `groups`."""
    size = groups * inputs * outputs
    product = positions * size
    ghost = groups * positions**2 * (inputs + outputs + TOUCH) + product
    passing = 2 * product + TOUCH * size
    kept = product + TOUCH * size if count * size <= KEPT else math.inf
    if kept <= min(ghost, passing):
        return "kept"
    return "ghost" if ghost < passing else "passing"


class Use(ABC):
    """One call of a layer on N samples. `weight` and `bias` are what it was called with, a
    parameter or computed from some, or None where nothing of it learns. `slope` is set once the
    losses are differentiated; it has the shape of what the layer returned."""

    slope: Tensor
    _biases: Tensor | None = None

    def __init__(self, weight: Tensor | None, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias
        self.edge: GradientEdge | Tensor

    def returned(self, out: Tensor) -> Tensor:
        """Remember where `out` stands in the graph, whatever is written into it later."""
        self.edge = get_gradient_edge(out)
        return out

    def take(self, slope: Tensor) -> None:
        """The slope of the losses, in the precision of what learns."""
        self.slope = slope.to(self.values()[0].dtype)

    def drop(self, samples: Tensor) -> None:
        """Have the gradients of some samples, (N,) of bool, be nought."""
        for name, held in list(vars(self).items()):
            if name in PER_SAMPLE and isinstance(held, Tensor) and held.is_floating_point():
                rows = samples.view(-1, *(1,) * (held.ndim - 1))
                setattr(self, name, held.masked_fill(rows, 0))

    def values(self) -> list[Tensor]:
        """Those of weight and bias that learn."""
        return [value for value in (self.weight, self.bias) if value is not None]

    def signature(self) -> tuple[Any, ...]:
        """What the same call has in common on any number of samples."""
        return type(self).__name__, *(tuple(value.shape) for value in self.values())

    def each(self, value: Tensor, part: slice) -> Tensor:
        """The gradients of some samples, (n, *shape)."""
        return self.weight_each(part) if value is self.weight else self.bias_each(part)

    def squares(self, value: Tensor) -> Tensor:
        """The squared norm of each sample's gradient, (N,)."""
        return self.weight_squares() if value is self.weight else self.bias_squares()

    def total(self, value: Tensor, scale: Tensor) -> Tensor:
        """The sum of all samples' gradients, each times its `scale`, (N,)."""
        return self.weight_total(scale) if value is self.weight else self.bias_total(scale)

    @abstractmethod
    def weight_each(self, part: slice) -> Tensor: ...

    @abstractmethod
    def weight_squares(self) -> Tensor: ...

    @abstractmethod
    def weight_total(self, scale: Tensor) -> Tensor: ...

    @abstractmethod
    def bias_each(self, part: slice) -> Tensor: ...

    def bias_squares(self) -> Tensor:
        self._biases = self.bias_each(slice(None))
        return _squares(self._biases)

    def bias_total(self, scale: Tensor) -> Tensor:
        return _weighted(
            scale, self.bias_each(slice(None)) if self._biases is None else self._biases
        )


class Small(Use):
    """A layer with few numbers: each sample's gradient is kept."""

    _weights: Tensor | None = None

    def weight_squares(self) -> Tensor:
        self._weights = self.weight_each(slice(None))
        return _squares(self._weights)

    def weight_total(self, scale: Tensor) -> Tensor:
        each = self.weight_each(slice(None)) if self._weights is None else self._weights
        return _weighted(scale, each)


class Product(Use):
    """A layer that multiplies its weight, (groups * O, ...), with `positions` vectors of each
    sample. `way` is chosen once for norms and sum."""

    def __init__(self, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._kept: Tensor | None = None

    @abstractmethod
    def way(self) -> Way: ...

    @abstractmethod
    def ghost(self, part: slice) -> tuple[Tensor, Tensor]:
        """The squared norms of some samples without their gradients, and the size of the terms that
        they are the sums of."""

    @abstractmethod
    def whole(self, scale: Tensor) -> Tensor:
        """The weighted sum as one product of the whole batch."""

    @abstractmethod
    def size(self) -> int:
        """Numbers that a sample takes while its gradient, or the ghost of it, is computed."""

    def weight_squares(self) -> Tensor:
        assert self.weight is not None
        count, way = len(self.slope), self.way()
        squares = self.slope.new_zeros(count)
        if way == "kept":
            self._kept = self.slope.new_empty(count, *self.weight.shape)
        for part in blocks(count, self.size()):
            if way == "ghost":
                squares[part] = self._exact(part, *self.ghost(part))
            else:
                into = None if self._kept is None else self._kept[part]
                squares[part] = _squares(self.weight_each(part, into))
        return squares

    def _exact(self, part: slice, squares: Tensor, terms: Tensor) -> Tensor:
        """The ghosts' squares, those in which nearly all cancels from the gradients themselves."""
        lost = (squares < CANCELLED * terms).nonzero().flatten().tolist()
        for k in lost:
            at = part.start + k
            squares[k] = _squares(self.weight_each(slice(at, at + 1)))[0]
        return squares

    def weight_total(self, scale: Tensor) -> Tensor:
        if self._kept is None:
            return self.whole(scale)
        return _weighted(scale, self._kept)

    @abstractmethod
    def weight_each(self, part: slice, into: Tensor | None = None) -> Tensor: ...


class Linear(Product):
    """x @ weight.T + bias, of x (N, ..., D) to (N, ..., O)."""

    def __init__(self, taken: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.taken = taken.detach()

    @classmethod
    def joined(cls, uses: Sequence[Linear]) -> Linear:
        """Several calls with the same weight and bias as one on more positions."""
        if len(uses) == 1:
            return uses[0]
        first = uses[0]
        one = cls(torch.cat([use._rows(use.taken) for use in uses], 1), first.weight, first.bias)
        one.slope = torch.cat([use._rows(use.slope) for use in uses], 1)
        return one

    def take(self, slope: Tensor) -> None:
        super().take(slope)
        self.taken = self.taken.to(self.slope.dtype)

    @staticmethod
    def _rows(tensor: Tensor) -> Tensor:
        """As (N, T, ...)."""
        return tensor.flatten(1, -2) if tensor.ndim > 2 else tensor[:, None]

    def way(self) -> Way:
        count, *middle, outputs = self.slope.shape
        return cheapest(count, math.prod(middle), self.taken.shape[-1], outputs)

    def size(self) -> int:
        _, *middle, outputs = self.slope.shape
        inputs, positions = self.taken.shape[-1], math.prod(middle)
        ghost = 2 * positions**2 + positions * (inputs + outputs)
        return ghost if self.way() == "ghost" else inputs * outputs

    def ghost(self, part: slice) -> tuple[Tensor, Tensor]:
        taken, slope = self._rows(self.taken[part]), self._rows(self.slope[part])
        if taken.shape[1] == 1:
            squares = _squares(taken) * _squares(slope)
            return squares, squares
        products = (taken @ taken.mT).mul_(slope @ slope.mT)
        return products.sum((1, 2)), products.abs_().sum((1, 2))

    def weight_each(self, part: slice, into: Tensor | None = None) -> Tensor:
        slope, taken = self._rows(self.slope[part]), self._rows(self.taken[part])
        return torch.matmul(slope.mT, taken, out=into)

    def whole(self, scale: Tensor) -> Tensor:
        taken, slope = _scaled(self._rows(self.taken), self._rows(self.slope), scale)
        return slope.flatten(0, 1).mT @ taken.flatten(0, 1)

    def bias_each(self, part: slice) -> Tensor:
        rows = self._rows(self.slope[part])
        return rows[:, 0] if rows.shape[1] == 1 else rows.sum(1)


class Convolution(Product):
    """Of images (N, C, ...) in any number of dimensions, `padding` on both sides of each."""

    def __init__(
        self,
        taken: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> None:
        super().__init__(weight, bias)
        self.taken = taken.detach()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.dilation, self.groups = dilation, groups

    def take(self, slope: Tensor) -> None:
        super().take(slope)
        self.taken = self.taken.to(self.slope.dtype)

    def _sizes(self) -> tuple[int, int, int]:
        """Positions, and inputs and outputs of a group."""
        count, outputs, *places = self.slope.shape
        inputs = self.taken.shape[1] // self.groups * math.prod(self.kernel)
        return math.prod(places), inputs, outputs // self.groups

    def way(self) -> Way:
        positions, inputs, outputs = self._sizes()
        return cheapest(len(self.slope), positions, inputs, outputs, self.groups)

    def size(self) -> int:
        positions, inputs, outputs = self._sizes()
        products = 2 * positions**2 if self.way() == "ghost" else inputs * outputs
        return self.groups * (positions * inputs + products)

    def _windows(self, part: slice) -> Tensor:
        """What each position was computed from, (n, groups, inputs, positions)."""
        taken = self.taken[part]
        if any(self.padding):
            taken = F.pad(taken, [side for size in reversed(self.padding) for side in (size, size)])
        taken = taken.contiguous()
        across = taken.stride()[2:]
        windows = taken.as_strided(
            (*taken.shape[:2], *self.kernel, *self.slope.shape[2:]),
            (
                *taken.stride()[:2],
                *(size * step for size, step in zip(across, self.dilation, strict=True)),
                *(size * step for size, step in zip(across, self.stride, strict=True)),
            ),
            taken.storage_offset(),
        )
        positions, inputs, _ = self._sizes()
        return windows.reshape(len(taken), self.groups, inputs, positions)

    def _slopes(self, part: slice) -> Tensor:
        """(n, groups, outputs, positions)."""
        slope = self.slope[part].flatten(2)
        return slope.view(len(slope), self.groups, -1, slope.shape[2])

    def ghost(self, part: slice) -> tuple[Tensor, Tensor]:
        windows, slopes = self._windows(part), self._slopes(part)
        products = (windows.mT @ windows).mul_(slopes.mT @ slopes)
        return products.sum((1, 2, 3)), products.abs_().sum((1, 2, 3))

    def weight_each(self, part: slice, into: Tensor | None = None) -> Tensor:
        assert self.weight is not None
        windows, slopes = self._windows(part), self._slopes(part)
        shape = len(windows), *self.weight.shape
        if self.groups == 1:
            flat = None if into is None else into.flatten(2)
            return torch.bmm(slopes[:, 0], windows[:, 0].mT, out=flat).view(shape)
        found = (slopes @ windows.mT).view(shape)
        return found if into is None else into.copy_(found)

    def whole(self, scale: Tensor) -> Tensor:
        assert self.weight is not None
        taken, slope = _scaled(self.taken, self.slope, scale)
        sides = self.stride, self.padding, self.dilation, False, [0] * len(self.kernel)
        found: Tensor = torch.ops.aten.convolution_backward(
            *(slope, taken, self.weight.detach().to(slope.dtype), None, *sides, self.groups),
            [False, True, False],
        )[1]
        return found

    def bias_each(self, part: slice) -> Tensor:
        return self.slope[part].flatten(2).sum(2)


class Embedding(Small):
    """Rows of the weight by their numbers, (N, ...) to (N, ..., D). The gradient of the row
    `padding` is none."""

    def __init__(self, taken: Tensor, weight: Tensor, padding: int | None) -> None:
        super().__init__(weight, None)
        self.taken = taken
        self.padding = padding

    def take(self, slope: Tensor) -> None:
        super().take(slope)
        if self.padding is not None:
            own = self.padding % len(self.values()[0])
            self.slope = self.slope.masked_fill((self.taken == own)[..., None], 0)

    def _flat(self, part: slice) -> tuple[Tensor, Tensor]:
        """Rows and slopes, both a line for each number looked up."""
        return self.taken[part].flatten(), self.slope[part].flatten(0, -2)

    def weight_each(self, part: slice) -> Tensor:
        rows, slopes = self._flat(part)
        count, (many, width) = len(self.taken[part]), self.values()[0].shape
        owner = torch.arange(count, device=rows.device)
        owner = owner.repeat_interleave(len(rows) // max(1, count))
        each = slopes.new_zeros(count * many, width).index_add_(0, owner * many + rows, slopes)
        return each.view(count, many, width)

    def weight_squares(self) -> Tensor:
        rows, slopes = self._flat(slice(None))
        count, many = len(self.taken), len(self.values()[0])
        if not len(rows):
            return slopes.new_zeros(count)
        owner = torch.arange(count, device=rows.device).repeat_interleave(len(rows) // count)
        which, place = torch.unique(owner * many + rows, return_inverse=True)
        sums = slopes.new_zeros(len(which), slopes.shape[1]).index_add_(0, place, slopes)
        return slopes.new_zeros(count).index_add_(0, which // many, _squares(sums))

    def weight_total(self, scale: Tensor) -> Tensor:
        rows, slopes = self._flat(slice(None))
        weighted = slopes * scale.repeat_interleave(len(rows) // max(1, len(scale)))[:, None]
        return torch.zeros_like(self.values()[0]).index_add_(0, rows, weighted)

    def bias_each(self, part: slice) -> Tensor:
        raise AssertionError("an embedding has no bias")


class Affine(Small):
    """Scale and shift of what `normalise` made of the input: layer, group, instance and RMS
    normalisation. `dims` are those, but for the samples', that the weight does not have."""

    def __init__(
        self,
        taken: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        dims: tuple[int, ...],
        normalise: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(weight, bias)
        self.taken = taken.detach()
        self.dims = dims
        self.normalise = normalise

    def weight_each(self, part: slice) -> Tensor:
        slope, taken = self.slope[part], self.taken[part].to(self.slope.dtype)
        size = math.prod(slope.shape[1:])
        each = [
            self._over(self.normalise(taken[few]).mul_(slope[few]))
            for few in blocks(len(slope), 2 * size)
        ]
        return torch.cat(each) if each else self._over(slope)

    def bias_each(self, part: slice) -> Tensor:
        return self._over(self.slope[part])

    def _over(self, tensor: Tensor) -> Tensor:
        return tensor.sum(self.dims) if self.dims else tensor


class Direct(Small):
    """Values that every sample got a copy of: the slope at a copy is the sample's gradient."""

    def __init__(self, weight: Tensor, copies: Tensor) -> None:
        super().__init__(weight, None)
        self.edge = copies

    def weight_each(self, part: slice) -> Tensor:
        slope = self.slope[part]
        return slope.reshape(len(slope), *self.values()[0].shape)

    def bias_each(self, part: slice) -> Tensor:
        raise AssertionError("there is but one value")


def _squares(tensor: Tensor) -> Tensor:
    """The squared norm of each row, (N,)."""
    squares: Tensor = torch.linalg.vector_norm(numbers_of(tensor), dim=1).square()
    return squares


def numbers_of(each: Tensor) -> Tensor:
    """(N, *shape) as (N, numbers), also where the shape is that of a single number."""
    return each[:, None].flatten(1)


def _weighted(scale: Tensor, each: Tensor) -> Tensor:
    """The sum of gradients (N, *shape), each times its scale."""
    return torch.mv(numbers_of(each).t(), scale).view(each.shape[1:])


def _scaled(taken: Tensor, slope: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Both, the smaller of them times the samples' scale."""
    if taken.numel() < slope.numel():
        return taken * scale.view(-1, *(1,) * (taken.ndim - 1)), slope
    return taken, slope * scale.view(-1, *(1,) * (slope.ndim - 1))
