"""What a layer is, and what is said of its weights and of what it gives on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

QUANTITIES = (
    "gradient_norm",
    "update_ratio",
    "weight_norm",
    "spectral_norm",
    "activation_mean",
    "activation_variance",
    "saturation",
    "dead",
)
"""What is said of a layer, in this order:

gradient_norm: length of the gradient of its parameters, as backward left it, before any clipping.
update_ratio: length of what the step added to them / their length before it.
weight_norm: their length before the step.
spectral_norm: the most that its linear part stretches any input: an upper bound of its Lipschitz
    constant, found by power iteration, which comes from below.
activation_mean, activation_variance: over the batch, of what the layer gives on: behind its
    activation function if it has one.
saturation: share of those values where the activation function passes on (almost) no gradient.
dead: share of units for which that is so in the whole batch.

What does not apply, as the saturation of a layer without activation function, is NaN.
"""
OF_ACTIVATIONS = QUANTITIES[4:]
VALUES = 2**18
"""Activations of one layer that are looked at, at most: of more the first samples of the batch."""

_LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_CONVOLUTIONS = _LINEAR[1:]
_OTHERS = (nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of a model with a matrix of weights; all parameters inside it are its own."""

    name: str
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]

    @property
    def units(self) -> int:
        """The dimension of what it gives on that tells its units apart."""
        return 1 if isinstance(getattr(self.module, "layer", self.module), _CONVOLUTIONS) else -1


def layers_of(model: nn.Module) -> list[Layer]:
    """Every linear, convolutional, recurrent or attention layer of `model`, and whatever else has a
    `weight` of two dimensions or more; in the order in which they are registered. Of layers inside
    each other the outermost counts. Normalisation, whose weights are vectors, is none."""
    found: list[Layer] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{layer.name}.") for layer in found):
            continue
        if isinstance(module, (*_LINEAR, *_OTHERS)) or _has_matrix(module):
            found.append(Layer(name, module, tuple(module.parameters())))
    return found


def _has_matrix(module: nn.Module) -> bool:
    """Whether it has a `weight` that is a matrix: its own, or what a property makes of its own."""
    if not any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False)):
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() >= 2


# --- activation functions -------------------------------------------------------------------------


def _nothing(y: Tensor) -> Tensor:
    return torch.zeros_like(y, dtype=torch.bool)


FLAT: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: lambda y: y <= 0,
    nn.ReLU6: lambda y: (y <= 0) | (y >= 6),
    nn.LeakyReLU: _nothing,
    nn.ELU: lambda y: y < -0.95,
    nn.GELU: lambda y: (y <= 0) & (y > -0.0041),  # left of -3
    nn.SiLU: lambda y: (y <= 0) & (y > -0.0336),  # left of -5
    nn.Tanh: lambda y: y.abs() > 0.95,
    nn.Sigmoid: lambda y: (y - 0.5).abs() > 0.475,
}
"""Where an activation function is (almost) flat, told by its values: exactly for those of ReLU's
kind; within 2.5 % of the range's ends for those with two; of GELU and SiLU left of where their
slope stays below .013 and .027. (Just left of zero they take the same values: a share of a
hundredth or less.)"""


def activation_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Where the activation function `module` is flat; None if it is none."""
    return FLAT.get(type(module))


def sampled(y: Tensor) -> Tensor:
    """The part of a batch that is looked at."""
    each = max(y.numel() // max(len(y), 1), 1)
    return y[: max(VALUES // each, 1)]


def facts(y: Tensor, units: int, flat: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
    """activation_mean, activation_variance, saturation and dead of `y`, which has a batch in front
    and its units in dimension `units`; four float32 scalars."""
    values = sampled(y.detach())
    if values.dtype != torch.float32:
        values = values.float()
    variance, mean = torch.var_mean(values, correction=0)
    if flat is None:
        nan = torch.full_like(mean, float("nan"))
        return [mean, variance, nan, nan]
    mask = flat(values)
    if units == 1 and mask.dim() > 2:  # then places come last: one pass over what lies together
        stuck = mask.flatten(2).sum(2, dtype=torch.float32).sum(0)
    else:
        stuck = mask.flatten(0, -2).sum(0, dtype=torch.float32)
    whole = mask.numel() // max(stuck.numel(), 1)
    dead = (stuck == whole).float().mean()
    return [mean, variance, stuck.sum() / max(mask.numel(), 1), dead]
