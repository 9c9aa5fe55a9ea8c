"""Generators and critics, from their specs; several networks side by side where `seeds` > 1.

Inside, samples are in units in which the data reaches from -1 to 1: a pair is trained there, by
`Generator.made` and `Critic`. Only what a generator hands out, `Generator.forward`, is in units of
the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BadInput
from engine.generative.layers import (
    BatchNorm,
    Dropout,
    Flatten,
    Unflatten,
    Waves,
    activation,
    conv,
    doubling,
    from_maps,
    initialise,
    linear,
    spectral,
    stacked,
    to_maps,
)
from engine.generative.spec.base import Condition, CriticSpec, GeneratorSpec
from engine.generative.spec.networks import (
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPGenerator,
    ResidualCritic,
    ResidualGenerator,
)

Shape: TypeAlias = tuple[int, int, int]
POINT: Shape = (1, 1, 2)
"""The shape of a point of the plane: an image of one channel, one row and two columns. In training
a point is dense, (..., 2)."""


class Generator(nn.Module):
    """Latents, and classes where it is told them, to samples."""

    centre: Tensor
    unit: Tensor

    def __init__(self, body: nn.Module, shape: Shape, classes: int, seeds: int, maps: bool) -> None:
        """`body` gives maps, or dense values."""
        super().__init__()
        self.body = body
        self.shape, self.classes, self.seeds, self.maps = shape, classes, seeds, maps
        self.bounded = shape != POINT
        # Of images it is fixed; points are told theirs by `fit`.
        self.register_buffer("centre", torch.full((2,), 0.5))
        self.register_buffer("unit", torch.full((2,), 0.5))

    def fit(self, centre: Tensor, unit: float) -> None:
        """Take over the units of a set of points."""
        self.centre.copy_(centre)
        self.unit.fill_(unit)

    def made(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples in units of the network: latents (S, B, width), of one network (B, width), to
        (S, B, C, H, W) or (S, B, 2). Labels are int64 (S, B)."""
        if self.classes:
            if labels is None:
                raise BadInput("the generator is conditional: say of which class each sample is")
            latents = torch.cat([latents, F.one_hot(labels, self.classes).to(latents.dtype)], -1)
        values: Tensor = self.body(latents)
        if self.maps:
            values = from_maps(values, self.seeds)
        elif self.bounded:
            values = values.unflatten(-1, self.shape)
        return values.tanh() if self.bounded else values

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples in units of the data, (..., C, H, W), of latents (..., width)."""
        made = self.made(latents, labels)
        if self.bounded:
            return made.add(1).mul(0.5)
        placed: Tensor = (made * self.unit + self.centre).unflatten(-1, self.shape)
        return placed


class Critic(nn.Module):
    """Samples in units of the network, and classes where it is told them, to one number each."""

    def __init__(
        self,
        body: nn.Module,
        features: int,
        shape: Shape,
        classes: int,
        condition: Condition,
        seeds: int,
        maps: bool,
        normed: Callable[[nn.Module], nn.Module],
    ) -> None:
        super().__init__()
        self.body = body
        self.head = normed(linear(seeds, features, 1))
        self.classes = classes if condition != "none" else 0
        self.told = self.classes if condition == "concatenation" else 0
        self.directions = (
            normed(linear(seeds, self.classes, features, bias=False))
            if condition == "projection"
            else None
        )
        self.shape, self.seeds, self.maps = shape, seeds, maps

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """(S, B, C, H, W) or (S, B, 2), and labels (S, B), to (S, B); of one network without S."""
        told = None
        if self.classes:
            if labels is None:
                raise BadInput("the critic is conditional: say of which class each sample is")
            told = F.one_hot(labels, self.classes).to(samples.dtype)
        if self.maps:
            if self.told and told is not None:
                planes = told[..., None, None].expand(*told.shape, *self.shape[1:])
                samples = torch.cat([samples, planes], -3)
            features = self.body(to_maps(samples, self.seeds))
        else:
            if self.shape != POINT:
                samples = samples.flatten(-3)
            if self.told and told is not None:
                samples = torch.cat([samples, told], -1)
            features = self.body(samples)
        out: Tensor = self.head(features)[..., 0]
        if self.directions is not None:
            out = out + (self.directions(told) * features).sum(-1)
        return out

    @property
    def mixes(self) -> bool:
        """Whether the output of a sample depends on those beside it in its batch."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())


def make_generator(
    spec: GeneratorSpec, shape: Shape, width: int, classes: int, seeds: int = 1
) -> Generator:
    """A generator of samples `shape` from `width` numbers, told one of `classes` (0: none).

    Initial weights are drawn from the global generator. Raises BadInput where it does not fit.
    """
    if width < 1:
        raise BadInput("the latent size is 0: a generator needs at least one number to start from")
    inputs = width + classes
    match spec:
        case MLPGenerator():
            body = _dense(spec, inputs, math.prod(shape), seeds)
        case DCGANGenerator():
            body = _dcgan_generator(spec, inputs, shape, seeds)
        case ResidualGenerator():
            body = _residual_generator(spec, inputs, shape, seeds)
        case _:
            raise BadInput(f"there is no way to build a generator of kind {spec.kind!r}")
    return Generator(body, shape, classes, seeds, maps=not isinstance(spec, MLPGenerator))


def make_critic(
    spec: CriticSpec, shape: Shape, classes: int, condition: Condition, seeds: int = 1
) -> Critic:
    """A critic of samples `shape`, told one of `classes` as `condition` says.

    Initial weights are drawn from the global generator. Raises BadInput where it does not fit.
    """
    told = classes if condition == "concatenation" else 0
    normed = partial(spectral, seeds=seeds) if getattr(spec, "spectral_norm", False) else _as_is
    match spec:
        case MLPCritic():
            inputs = (math.prod(shape) + told) * (1 + 2 * spec.frequencies)
            features = spec.width if spec.depth else inputs
            body: nn.Module = _dense_critic(spec, inputs, seeds, normed)
        case DCGANCritic():
            body, features = _dcgan_critic(spec, shape, told, seeds, normed)
        case ResidualCritic():
            body, features = _residual_critic(spec, shape, told, seeds, normed)
        case _:
            raise BadInput(f"there is no way to build a critic of kind {spec.kind!r}")
    maps = not isinstance(spec, MLPCritic)
    critic = Critic(body, features, shape, classes, condition, seeds, maps, normed)
    if isinstance(spec, DCGANCritic) and seeds == 1 and not spec.spectral_norm:
        initialise(critic)
    return critic


Network = Generator | Critic


def side_by_side(networks: list[Network], empty: Network) -> Network:
    """Single networks as one: `empty` is stacked, and filled. One network is left as it is."""
    if len(networks) == 1:
        return networks[0]
    states: list[Mapping[str, Tensor]] = [network.state_dict() for network in networks]
    empty.load_state_dict(stacked(states, empty.state_dict()))
    return empty


def _as_is(layer: nn.Module) -> nn.Module:
    return layer


# --- dense ----------------------------------------------------------------------------------------


def _dense(spec: MLPGenerator, inputs: int, outputs: int, seeds: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(spec.depth):
        layers.append(linear(seeds, inputs, spec.width))
        if spec.norm == "batch":
            layers.append(BatchNorm(seeds, spec.width))
        layers.append(activation(spec.activation))
        inputs = spec.width
    return nn.Sequential(*layers, linear(seeds, inputs, outputs))


def _dense_critic(
    spec: MLPCritic, inputs: int, seeds: int, normed: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    layers: list[nn.Module] = [Waves(spec.frequencies)] if spec.frequencies else []
    for _ in range(spec.depth):
        layers += [normed(linear(seeds, inputs, spec.width)), activation(spec.activation)]
        layers += _dropout(seeds, spec.dropout, maps=False)
        inputs = spec.width
    return nn.Sequential(*layers)


def _dropout(seeds: int, share: float, maps: bool) -> Iterable[nn.Module]:
    return [Dropout(seeds, share, maps)] if share else []


# --- DCGAN ----------------------------------------------------------------------------------------


def _first_side(shape: Shape, strides: int, what: str) -> tuple[int, int]:
    """What is left of an image that is halved so often. Raises BadInput if nothing whole is."""
    _, height, width = shape
    if shape == POINT:
        raise BadInput(f"a convolutional {what} is for images, and points are not; choose mlp")
    by = 2**strides
    if height % by or width % by or min(height, width) < 2 * by:
        most = 0
        while not (height % 2 ** (most + 1) or width % 2 ** (most + 1)) and min(
            height, width
        ) >= 2 ** (most + 2):
            most += 1
        way = f"set strides to at most {most}" if most else "choose mlp, or resize the images"
        raise BadInput(
            f"images of {height} x {width} are too small for a {what} of {strides} strides: its "
            f"smallest maps must be at least 2 x 2 and the side divisible by {by}; {way}"
        )
    return height // by, width // by


def _dcgan_generator(spec: DCGANGenerator, inputs: int, shape: Shape, seeds: int) -> nn.Module:
    height, width = _first_side(shape, spec.strides, "generator")
    channels = spec.width * 2 ** (spec.strides - 1)
    first = (channels, height, width)
    layers: list[nn.Module] = [linear(seeds, inputs, math.prod(first)), Unflatten(seeds, first)]
    layers += _normed_maps(spec.norm, seeds * channels, spec.activation)
    for _ in range(spec.strides - 1):
        layers.append(doubling(seeds, channels, channels // 2))
        channels //= 2
        layers += _normed_maps(spec.norm, seeds * channels, spec.activation)
    layers.append(doubling(seeds, channels, shape[0]))
    body = nn.Sequential(*layers)
    if seeds == 1:
        initialise(body)
    return body


def _normed_maps(norm: str, channels: int, kind: str) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.BatchNorm2d(channels)] if norm == "batch" else []
    return [*layers, activation(kind)]


def _dcgan_critic(
    spec: DCGANCritic,
    shape: Shape,
    told: int,
    seeds: int,
    normed: Callable[[nn.Module], nn.Module],
) -> tuple[nn.Module, int]:
    channels, height, width = shape
    if shape == POINT:
        raise BadInput("a convolutional critic is for images, and points are not; choose mlp")
    if min(height, width) < 2**spec.strides:
        raise BadInput(
            f"images of {height} x {width} are too small for a critic of {spec.strides} strides, "
            f"which needs at least {2**spec.strides} a side; set strides to at most "
            f"{min(height, width).bit_length() - 1}"
        )
    channels += told
    layers: list[nn.Module] = []
    for place in range(spec.strides):
        outputs = spec.width * 2**place
        layers.append(normed(conv(seeds, channels, outputs, spec.kernel, 2)))
        if spec.norm == "batch" and place:
            layers.append(nn.BatchNorm2d(seeds * outputs))
        layers.append(activation(spec.activation))
        layers += _dropout(seeds, spec.dropout, maps=True)
        channels = outputs
        odd = spec.kernel % 2
        height, width = (height + odd) // 2, (width + odd) // 2
    return nn.Sequential(*layers, Flatten(seeds)), channels * height * width


# --- residual -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a straight way."""

    def __init__(
        self,
        seeds: int,
        inputs: int,
        outputs: int,
        kind: str,
        norm: str = "none",
        normed: Callable[[nn.Module], nn.Module] = _as_is,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        last = conv(seeds, outputs, outputs, 3)
        if norm == "none" and normed is _as_is:  # the straight way alone, at the beginning
            nn.init.zeros_(last.weight)
        self.around = nn.Sequential(
            *_normed_maps(norm, seeds * inputs, kind),
            normed(conv(seeds, inputs, outputs, 3)),
            *_normed_maps(norm, seeds * outputs, kind),
            *_dropout(seeds, dropout, maps=True),
            normed(last),
        )
        self.straight = (
            nn.Identity() if inputs == outputs else normed(conv(seeds, inputs, outputs, 1))
        )

    def forward(self, maps: Tensor) -> Tensor:
        both: Tensor = self.straight(maps) + self.around(maps)
        return both


def _residual_generator(
    spec: ResidualGenerator, inputs: int, shape: Shape, seeds: int
) -> nn.Module:
    height, width = _first_side(shape, spec.strides, "generator")
    channels = spec.width * 2**spec.strides
    first = (channels, height, width)
    layers: list[nn.Module] = [linear(seeds, inputs, math.prod(first)), Unflatten(seeds, first)]
    for _ in range(spec.strides):
        layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        for place in range(spec.blocks):
            outputs = channels // 2 if place == 0 else channels
            layers.append(Block(seeds, channels, outputs, spec.activation, spec.norm))
            channels = outputs
    layers += _normed_maps(spec.norm, seeds * channels, spec.activation)
    layers.append(conv(seeds, channels, shape[0], 3))
    return nn.Sequential(*layers)


def _residual_critic(
    spec: ResidualCritic,
    shape: Shape,
    told: int,
    seeds: int,
    normed: Callable[[nn.Module], nn.Module],
) -> tuple[nn.Module, int]:
    height, width = _first_side(shape, spec.strides, "critic")
    channels = spec.width
    layers: list[nn.Module] = [normed(conv(seeds, shape[0] + told, channels, 3))]
    for _ in range(spec.strides):
        for place in range(spec.blocks):
            outputs = 2 * channels if place == 0 else channels
            layers.append(
                Block(
                    seeds,
                    channels,
                    outputs,
                    spec.activation,
                    normed=normed,
                    dropout=spec.dropout,
                )
            )
            channels = outputs
        layers.append(nn.AvgPool2d(2))
    return (
        nn.Sequential(*layers, activation(spec.activation), Flatten(seeds)),
        channels * height * width,
    )
