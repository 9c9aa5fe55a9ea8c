"""The fixed part of a model, computed once: where nothing of it learns and images are not changed,
every epoch would compute the same again."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.data import Dataset, Split
from engine.models.building import physical_memory
from engine.models.scattering import Scattering

TOGETHER = 64
"""Images that are computed between two looks at the clock. Always the same, so that a resumed run
has the same features, bit for bit."""

SHARE = 4
"""Features are kept that take less than 1 / SHARE of the memory: of the machine's, not of what is
free of it, so that it is the same when the run is resumed."""


class Remembered(Split):
    """A split whose images are what the fixed part of a model makes of them."""

    def __init__(self, split: Split, front: nn.Module) -> None:
        shape = _shape(front, split)
        super().__init__(split.labels, split.ids, shape, split.device)
        self._split, self._front = split, front
        self._features: Tensor | None = None

    def fill(self) -> Generator[int, None, None]:
        """Compute them all; yields how many are done."""
        features = torch.empty(len(self), *self.shape, device=self.device)
        done = 0
        for part, images, _ in self._split.batches(torch.arange(len(self)), TOGETHER):
            with torch.no_grad():
                features[done : done + len(part)] = self._front(images)
            done += len(part)
            yield done
        self._features = features

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self._features is None:  # asked for before
            images, labels = self._split.batch(index)
            with torch.no_grad():
                return self._front(images), labels
        index = index.to(self.device, non_blocking=True)
        return self._features.index_select(0, index), self.labels.index_select(0, index)


def remembered(data: Dataset, model: nn.Module) -> Dataset | None:
    """`data` as the learning part of `model` (`learning_part`) is to be given it, training and
    validation split not yet computed; None where no part of it is worth it, or there is no room."""
    parts = _divided(model)
    if parts is None:
        return None
    front, _ = parts
    train, validation = Remembered(data.train, front), data.validation
    if len(validation):
        validation = Remembered(validation, front)
    values = math.prod(train.shape) * (len(train) + len(validation))
    if SHARE * 4 * values > _memory(train.device):
        return None
    return replace(data, train=train, validation=validation)


def learning_part(model: nn.Module) -> nn.Module:
    """What is behind the fixed part of a model: the same layers, under the same names."""
    parts = _divided(model)
    return model if parts is None else parts[1]


def _divided(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """A model of the zoo that begins with a scattering transform: all up to it and the
    normalisation of what it finds, and the layers behind them."""
    layers = OrderedDict(model.named_children())
    body = layers.pop("body", None)
    if not isinstance(body, nn.Sequential) or not isinstance(body[0], Scattering):
        return None
    inside = list(body.named_children())
    fixed = 2 if isinstance(body[1], nn.GroupNorm) and not body[1].affine else 1
    front = nn.Sequential(*layers.values(), *(layer for _, layer in inside[:fixed]))
    rest = nn.Sequential(OrderedDict(inside[fixed:]))
    return front, nn.Sequential(OrderedDict(body=rest))


def _shape(front: nn.Module, split: Split) -> tuple[int, int, int]:
    with torch.no_grad():
        _, *shape = front(torch.zeros(1, *split.shape, device=split.device)).shape
    channels, height, width = shape
    return channels, height, width


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()
