"""Layers that are fixed by one statistic of the training images before the first step, and the
statistic: a sum over images to which each adds a tensor of length 1 at most, so that noise in
proportion to 1 keeps single images private.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Generator

import torch
from torch import Tensor, nn

from engine.data import Split
from engine.errors import BadInput

BATCH = 500

LEAST_LENGTH = 1e-6
"""A vector that is shorter than this points nowhere, and counts as zero."""

LEAST_SHARE = 1e-4
"""Of all moments: a direction that has less is not stretched any further."""


class Fitted(nn.Module):
    """A layer that never learns by gradients, but is told a statistic of what it is given."""

    @abstractmethod
    def statistic(self, inputs: Tensor) -> Tensor:
        """Of a batch: the sum over its samples of tensors of an L2 norm of at most 1, float64."""

    @abstractmethod
    def fit(self, statistic: Tensor, count: int) -> None:
        """Take up the statistic of `count` samples, which may have noise on it."""


class Projection(nn.Linear, Fitted):
    """Vectors (N, D) to (N, K): their products with K directions, brought to the length sqrt(K).

    The directions are random ones, orthonormal, until they are fitted: then they are the principal
    ones of vectors of unit length, each as long as makes their mean square along it 1.
    """

    def __init__(self, size: int, directions: int) -> None:
        """Raises BadInput for more directions than there are."""
        if directions > size:
            raise BadInput(
                f"images of {size} values have no {directions} principal directions; expected a "
                f"projection of at most {size}"
            )
        super().__init__(size, directions, bias=False)
        nn.init.orthogonal_(self.weight)
        self.weight.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        found = nn.functional.normalize(super().forward(input), eps=LEAST_LENGTH)
        return found * math.sqrt(self.out_features)

    def statistic(self, inputs: Tensor) -> Tensor:
        """Second moments (D, D): of each vector, at unit length, the outer product with itself."""
        units = nn.functional.normalize(inputs, eps=LEAST_LENGTH)
        return (units.T @ units).double()

    def fit(self, statistic: Tensor, count: int) -> None:
        with torch.no_grad():
            self.weight.copy_(principal(statistic, self.out_features))


class Centre(Fitted):
    """Maps (N, C, H, W) of groups that have mean 0 and deviation 1 each (`nn.GroupNorm`) less their
    mean over the training images, which is zero until it is fitted."""

    mean: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))

    def forward(self, maps: Tensor) -> Tensor:
        return maps - self.mean

    def statistic(self, inputs: Tensor) -> Tensor:
        """The sum (C, H, W) of the maps over the most that their length can be."""
        longest = inputs.flatten(1).norm(dim=1).clamp_min(self._longest)
        found: Tensor = (inputs / longest.view(-1, 1, 1, 1)).double().sum(0)
        return found

    def fit(self, statistic: Tensor, count: int) -> None:
        self.mean.copy_(statistic * (self._longest / count))

    @property
    def _longest(self) -> float:
        return math.sqrt(self.mean.numel())


def fitted_layer(model: nn.Module) -> Fitted | None:
    """The layer of `model` that is to be told a statistic, if there is one."""
    return next((part for part in model.modules() if isinstance(part, Fitted)), None)


def statistic_of(model: nn.Module, split: Split) -> Generator[int, None, Tensor]:
    """The statistic that the fitted layer of `model` asks for, of a split. Yields how many images
    are done."""
    layer = fitted_layer(model)
    assert layer is not None
    *before, body = model.children()
    inside = itertools.takewhile(lambda part: part is not layer, body.children())
    front = nn.Sequential(*before, *inside)
    total = torch.zeros((), dtype=torch.float64, device=split.device)
    done = 0
    for _, images, _ in split.batches(torch.arange(len(split)), BATCH):
        with torch.no_grad():
            total = total + layer.statistic(front(images))
        done += len(images)
        yield done
    return total


def principal(moments: Tensor, count: int) -> Tensor:
    """The `count` directions (rows, orthogonal) in which the moments (D, D) of vectors of unit
    length are largest, float32 (count, D). Each is so long that the mean square of the vectors
    along it is 1, and points to where its largest component is above 0.

    Nothing but the moments is looked at: where noise made them private, so is this. What is not
    symmetric in them is noise.
    """
    values, vectors = torch.linalg.eigh((moments + moments.T) / 2)
    found = vectors[:, -count:].flip(1).T
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    shares = (values[-count:].flip(0) / moments.trace()).clamp_min(LEAST_SHARE)
    scaled: Tensor = found * largest.sign() / shares.sqrt()[:, None]
    return scaled.float().contiguous()
