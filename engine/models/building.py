"""From the description of a model to the model, freshly initialised."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from engine.errors import BadInput
from engine.models import zoo
from engine.models.normalise import Normalise
from engine.models.spec import (
    CNN,
    MLP,
    RNN,
    LeNet,
    ModelSpec,
    Module,
    ResNet18,
    Scattering,
    Strided,
    Transformer,
)
from engine.models.transforms import transform

Shape = tuple[int, int, int]


def build(
    spec: ModelSpec,
    shape: Shape,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    generator_seed: int = 0,
    trust: bool = False,
) -> nn.Module:
    """A model for images `shape` = (C, H, W), float32 in [0, 1], to logits (N, `classes`).

    Its first layer normalises with `mean` and `std`, one value a channel (0 and 1 unless given);
    the network itself is its `body`. Where the spec asks for one, a transform comes before. It is
    on the CPU, in train mode. The initial weights depend on `generator_seed` alone, and global
    random state is left as it was. A `module` spec runs the person's file, only with `trust`.
    Raises BadInput where the architecture or the transform does not fit.
    """
    if classes < 2:
        raise BadInput(f"a classifier needs at least two classes; there is {classes}")
    mean = _per_channel("mean", mean, shape[0], 0.0)
    std = _per_channel("std", std, shape[0], 1.0)
    if min(std) <= 0:
        raise BadInput(f"std must be above 0 in every channel, but it is {tuple(std)}")
    if not isinstance(spec, Module):
        _check_memory(spec, outline(spec, shape, classes))
    with seeded(generator_seed):
        return _assemble(spec, shape, _body(spec, shape, classes, trust), mean, std)


def outline(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    """A model of the zoo without memory or values: all its layers, on torch's meta device."""
    with torch.device("meta"):
        body = _body(spec, shape, classes, trust=False)
        return _assemble(spec, shape, body, [0.0] * shape[0], [1.0] * shape[0])


def _assemble(
    spec: ModelSpec, shape: Shape, body: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """The layers by name. A transform has no weights: with and without it they are the same."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if spec.transform is not None:
        layers["transform"] = transform(spec.transform, shape)
    layers["normalise"] = Normalise(mean, std)
    layers["body"] = body
    return nn.Sequential(layers)


def _check_memory(spec: ModelSpec, outlined: nn.Module) -> None:
    """The system grants more memory than there is, and kills who uses it: refuse before."""
    needed = sum(p.numel() * p.element_size() for p in outlined.parameters())
    there = physical_memory()
    if needed > there:
        raise BadInput(
            f"a {spec.kind} of this size does not fit into memory: its weights alone take "
            f"{needed / 2**30:.0f} GB, this machine has {there / 2**30:.0f}. Lower its width or "
            "depth."
        )


def physical_memory() -> float:
    """Bytes; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return math.inf


def _body(spec: ModelSpec, shape: Shape, classes: int, trust: bool) -> nn.Module:
    match spec:
        case MLP():
            return zoo.mlp(spec, shape, classes)
        case CNN():
            return zoo.cnn(spec, shape, classes)
        case Strided():
            return zoo.strided(spec, shape, classes)
        case LeNet():
            return zoo.lenet(spec, shape, classes)
        case Scattering():
            return zoo.scattering(spec, shape, classes)
        case ResNet18():
            return zoo.resnet18(spec, shape, classes)
        case RNN():
            return zoo.rnn(spec, shape, classes)
        case Transformer():
            return zoo.transformer(spec, shape, classes)
        case Module():
            from engine.models.module import call_factory

            return call_factory(spec, shape, classes, trust)
        case _:
            raise BadInput(f"there is no way to build a model of kind {spec.kind!r}")


def _per_channel(
    name: str, values: Sequence[float] | None, channels: int, default: float
) -> Sequence[float]:
    if values is None:
        return [default] * channels
    if len(values) != channels:
        raise BadInput(f"{name} has {len(values)} values for images of {channels} channels")
    return values


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global CPU random states seeded inside, and put back after: initialisers draw from them."""
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
