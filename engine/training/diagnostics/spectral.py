"""How much a layer can stretch its input: the largest singular value of its linear part, found by
power iteration on the operator itself and its transpose (Miyato et al. 2018, appendix A, but for
convolutions not on the reshaped kernel, which is neither a bound nor near one)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.training.diagnostics.layers import Layer

FIRST = 6
"""Iterations on a vector that knows nothing yet."""


class Stretch:
    """The power iteration of one layer for inputs of one shape; its vector is carried over, so that
    an iteration a look follows weights that change slowly.

    What it says is a lower end that rises to the singular value: after k iterations it lacks about
    a share (second / first) ** (4 k) of what it lacked at first.
    """

    def __init__(self, layer: Layer, vector: Tensor, fresh: bool = False) -> None:
        """`vector` is where it goes on; `fresh` says that it knows nothing yet."""
        self.layer = layer
        self.vector = vector.to(layer.parameters[0].device)
        self.fresh = fresh

    @classmethod
    def begin(cls, layer: Layer, shape: torch.Size, generator: torch.Generator) -> Stretch:
        """`shape`: of one input, without the batch."""
        start = torch.randn((1, *_of_one(layer.module, shape)), generator=generator)
        return cls(layer, start / start.norm(), fresh=True)

    def look(self, iterations: int) -> Tensor:
        """The singular value after so many iterations more (at least FIRST at the beginning)."""
        number = max(iterations, FIRST) if self.fresh else iterations
        self.fresh = False
        with torch.no_grad(), _still(self.layer.module):
            both_ways = linear_part(self.layer.module)
            assert both_ways is not None
            for _ in range(number):
                image, back = both_ways(self.vector)
                size: Tensor = torch.linalg.vector_norm(image)
                # A matrix of zeros has no direction: the vector stays.
                length = torch.linalg.vector_norm(back)
                self.vector = torch.where(length > 0, back / length, self.vector)
        return size


Both: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A linear map applied to a batch, and its transpose applied to that."""


def linear_part(module: nn.Module) -> Both | None:
    """The layer without its bias, there and back; None if it is not linear."""
    inner = getattr(module, "layer", module)  # of an adapter, which has the weight
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach()
    if isinstance(inner, nn.Linear):
        return _by_matrix(weight)
    if isinstance(inner, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _by_gradient(lambda x: inner._conv_forward(x, weight, None))
    if isinstance(inner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
        turned: Any = convolve[weight.dim() - 2]
        how = (inner.stride, inner.padding, inner.output_padding, inner.groups, inner.dilation)
        return _by_gradient(lambda x: turned(x, weight, None, *how))
    return None


def _by_matrix(weight: Tensor) -> Both:
    def both_ways(vector: Tensor) -> tuple[Tensor, Tensor]:
        image = vector @ weight.T
        return image, image @ weight

    return both_ways


def _by_gradient(operator: Callable[[Tensor], Tensor]) -> Both:
    def both_ways(vector: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = vector.detach().requires_grad_()
            image = operator(x)
        (back,) = torch.autograd.grad(image, x, image.detach())
        return image.detach(), back

    return both_ways


def _of_one(module: nn.Module, shape: torch.Size) -> torch.Size:
    """Of tokens or places in front of a linear layer's features one is enough."""
    inner = getattr(module, "layer", module)
    return shape[-1:] if isinstance(inner, nn.Linear) else shape


@contextlib.contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Inside, what computes the weight (as spectral normalisation does, with a power iteration of
    its own) does not learn from being looked at."""
    table = getattr(module, "parametrizations", None)
    learning = [part for part in table.modules() if part.training] if table is not None else []
    for part in learning:
        part.training = False
    try:
        yield
    finally:
        for part in learning:
            part.training = True
