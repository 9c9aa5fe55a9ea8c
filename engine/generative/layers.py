"""Layers that hold the weights of several networks, so that they learn side by side in one graph.

With one network, `seeds` = 1, they are torch's own layers. With S > 1 dense values are (S, B, F),
and maps are (B, S * C, H, W), network after network; weights are those of the single networks, one
after the other along their first dimension, with the same names in the state dict. So `stacked` and
`unstacked` are a matter of shapes, and what belongs to one network of S is `of_each(tensor, S)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Of leaky ReLU, as in DCGAN."""


# --- one state dict of many, and back -------------------------------------------------------------


def of_each(tensor: Tensor, seeds: int) -> Tensor:
    """A stacked tensor as (S, numbers of one network)."""
    return tensor.reshape(seeds, -1)


def stacked(
    states: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state dict of the stacked network `like` that holds those of single networks. What is not
    of one network but of all (a count, the units of the data) is that of the first."""
    return {
        name: torch.stack([state[name] for state in states]).reshape(tensor.shape)
        if tensor.shape != states[0][name].shape
        else states[0][name].clone()
        for name, tensor in like.items()
    }


def unstacked(
    state: Mapping[str, Tensor], seeds: int, index: int, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state dict of one of the S networks in `state`; `like` is that of a single network."""
    return {
        name: of_each(tensor, seeds)[index].reshape(like[name].shape).clone()
        if tensor.shape != like[name].shape
        else tensor.clone()
        for name, tensor in state.items()
    }


# --- shapes ---------------------------------------------------------------------------------------


def to_maps(values: Tensor, seeds: int) -> Tensor:
    """Images (S, B, C, H, W), of one network (B, C, H, W), as maps (B, S * C, H, W)."""
    return values if seeds == 1 else values.transpose(0, 1).flatten(1, 2)


def from_maps(maps: Tensor, seeds: int) -> Tensor:
    """Maps (B, S * C, H, W) as images (S, B, C, H, W)."""
    return maps if seeds == 1 else maps.unflatten(1, (seeds, -1)).transpose(0, 1)


# --- layers ---------------------------------------------------------------------------------------


class StackedLinear(nn.Module):
    """S fully connected layers: (S, B, F) to (S, B, G)."""

    def __init__(self, seeds: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.seeds = seeds
        self.weight = nn.Parameter(torch.empty(seeds * outputs, inputs))
        self.bias = nn.Parameter(torch.empty(seeds * outputs)) if bias else None

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (self.seeds, -1)).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(values, weight)
        return torch.baddbmm(self.bias.view(self.seeds, 1, -1), values, weight)


def linear(seeds: int, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    """A fully connected layer of each network."""
    if seeds == 1:
        return nn.Linear(inputs, outputs, bias)
    return StackedLinear(seeds, inputs, outputs, bias)


def conv(seeds: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of each network; it keeps the side, or divides it by the stride."""
    padding = (kernel - stride + 1) // 2 if kernel % 2 == 0 else kernel // 2
    return nn.Conv2d(seeds * inputs, seeds * outputs, kernel, stride, padding, groups=seeds)


class StackedDoubling(nn.Module):
    """S transposed 4 x 4 convolutions of stride 2. (torch keeps their weights by input channel,
    which is the first dimension here too.)"""

    def __init__(self, seeds: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.seeds = seeds
        self.weight = nn.Parameter(torch.empty(seeds * inputs, outputs, 4, 4))
        self.bias = nn.Parameter(torch.empty(seeds * outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, self.weight, self.bias, 2, 1, groups=self.seeds)


def doubling(seeds: int, inputs: int, outputs: int) -> nn.Module:
    """A transposed 4 x 4 convolution of each network, which doubles the side."""
    if seeds == 1:
        return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    return StackedDoubling(seeds, inputs, outputs)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of dense values, (S, B, F), over the batch of each network."""

    def __init__(self, seeds: int, features: int) -> None:
        super().__init__(seeds * features)
        self.seeds = seeds

    def forward(self, values: Tensor) -> Tensor:
        if self.seeds == 1:
            return super().forward(values)
        flat: Tensor = super().forward(values.transpose(0, 1).flatten(1))
        shown: Tensor = flat.unflatten(1, (self.seeds, -1)).transpose(0, 1)
        return shown


class Dropout(nn.Module):
    """Silences a share of the values while training. Its draws come from one generator a network
    (`draw_from`), so that a network's do not depend on the others beside it."""

    def __init__(self, seeds: int, share: float, maps: bool) -> None:
        super().__init__()
        self.seeds, self.share, self.maps = seeds, share, maps
        self.generators: Sequence[torch.Generator] = ()

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        shape = values.shape
        if self.seeds > 1:
            one = shape[1] // self.seeds
            shape = torch.Size((shape[0], one, *shape[2:])) if self.maps else shape[1:]
        draws = [torch.rand(shape, generator=each) for each in self.generators]
        if self.seeds == 1:
            drawn = draws[0]
        else:
            drawn = torch.cat(draws, 1) if self.maps else torch.stack(draws)
        kept = (drawn.to(values.device) >= self.share).to(values.dtype)
        shown: Tensor = values * kept.div_(1 - self.share)
        return shown


def draw_from(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Let all dropout in `network` draw from these, one a network."""
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.generators = generators


class SpectralNorm(nn.Module):
    """Divides the weights of each network by an estimate of their largest singular value (Miyato et
    al. 2018, algorithm 1): one power iteration at each use while training."""

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, seeds: int) -> None:
        super().__init__()
        self.seeds = seeds
        rows = weight.detach().reshape(seeds, weight.shape[0] // seeds, -1)
        self.register_buffer("left", F.normalize(torch.randn(rows.shape[:2]), dim=1))
        self.register_buffer("right", F.normalize(torch.randn(rows.shape[0], rows.shape[2]), dim=1))

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.reshape(self.seeds, weight.shape[0] // self.seeds, -1)
        if self.training:
            with torch.no_grad():
                right = F.normalize(torch.bmm(self.left[:, None], rows)[:, 0], dim=1)
                left = F.normalize(torch.bmm(rows, right[:, :, None])[:, :, 0], dim=1)
                self.left.copy_(left)
                self.right.copy_(right)
        # Copies: what the graph holds must not change with the next iteration.
        left, right = self.left.clone(), self.right.clone()
        sigma = torch.bmm(left[:, None], torch.bmm(rows, right[:, :, None]))
        return (rows / sigma).reshape(weight.shape)


def spectral(layer: nn.Module, seeds: int) -> nn.Module:
    """A layer whose weights have a largest singular value of 1, each network's."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    nn.utils.parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, seeds))
    return layer


class Flatten(nn.Module):
    """Maps (B, S * C, H, W) to dense values (S, B, C * H * W)."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.seeds = seeds

    def forward(self, maps: Tensor) -> Tensor:
        return from_maps(maps, self.seeds).flatten(-3)


class Unflatten(nn.Module):
    """Dense values (S, B, C * H * W) to maps (B, S * C, H, W)."""

    def __init__(self, seeds: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.seeds, self.shape = seeds, shape

    def forward(self, values: Tensor) -> Tensor:
        return to_maps(values.unflatten(-1, self.shape), self.seeds)


class Waves(nn.Module):
    """Sines and cosines of each value beside it, (..., F) to (..., F * (1 + 2 * frequencies)), of
    frequencies that double."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        rates = torch.pi * 2.0 ** torch.arange(frequencies)
        self.register_buffer("rates", rates, persistent=False)
        self.rates: Tensor

    def forward(self, values: Tensor) -> Tensor:
        turned = (values[..., None] * self.rates).flatten(-2)
        return torch.cat([values, turned.sin(), turned.cos()], -1)


def activation(kind: str) -> nn.Module:
    """A non-linearity by its name in the spec."""
    match kind:
        case "relu":
            return nn.ReLU()
        case "leaky_relu":
            return nn.LeakyReLU(SLOPE)
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case "softplus":
            return nn.Softplus()
    raise ValueError(kind)


def initialise(network: nn.Module) -> None:
    """Fill the layers of a single network as DCGAN does: weights N(0, .02), gains of normalisation
    N(1, .02) (Radford, Metz and Chintala 2016, section 4, and their code)."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
