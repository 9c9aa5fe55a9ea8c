"""Training a part of a model: chosen layers, or low-rank adapters beside the frozen ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BadInput
from engine.training.spec import Adapters


class Adapted(nn.Module):
    """A frozen linear layer or convolution whose weight is corrected by up @ down, of rank `rank`
    (Hu et al. 2022, section 4.1); of a convolution, whose weight is (out, in, height, width), over
    all but its first dimension at once."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layer = layer
        out, features = layer.weight.flatten(1).shape
        rank = min(rank, out, features)
        down = torch.empty(rank, features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down.to(layer.weight))
        self.up = nn.Parameter(layer.weight.new_zeros(out, rank))

    @property
    def weight(self) -> Tensor:
        return self.layer.weight + (self.up @ self.down).view_as(self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.weight, self.bias)
        out: Tensor = self.layer._conv_forward(x, self.weight, self.bias)
        return out


def adapt(
    model: nn.Module, trainable: Sequence[str], adapters: Adapters | None, seed: int
) -> nn.Module:
    """`model`, in which only the layers named by `trainable` and the adapters learn; everything
    does if neither is given.

    A pattern (as of file names: `*` is anything) means a layer with all inside it, or a single
    parameter. Raises BadInput where one means nothing.
    """
    if not trainable and adapters is None:
        return model
    names = [name for name, _ in model.named_parameters()]
    learning = {name for pattern in trainable for name in _meant(pattern, names)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    if adapters is None:
        return model
    layers = [name for name, _ in _adaptable(model)]
    if not layers:
        raise BadInput(
            "adapters stand beside linear layers and convolutions, and this model has none; "
            "name the layers that learn in trainable instead"
        )
    chosen = {name for pattern in adapters.layers or ("*",) for name in _meant(pattern, layers)}
    generator = torch.Generator().manual_seed(seed)
    for name, layer in list(_adaptable(model)):
        if name in chosen:
            _put(model, name, Adapted(layer, adapters.rank, generator))
    return model


def frozen_statistics(model: nn.Module) -> list[nn.Module]:
    """The batch normalisations that do not learn: their running statistics stay, too."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.affine
        and not any(p.requires_grad for p in module.parameters())
    ]


def merged(model: nn.Module) -> nn.Module:
    """`model` with its adapters added to their weights: an ordinary one. Itself if it has none."""
    if not any(isinstance(module, Adapted) for module in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Adapted):
            with torch.no_grad():
                module.layer.weight.copy_(module.weight)
            _put(plain, name, module.layer)
    return plain


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Their subclasses may do something else with their weight."""
    for name, module in model.named_modules():
        if type(module) in (nn.Linear, nn.Conv2d):
            assert isinstance(module, nn.Linear | nn.Conv2d)
            yield name, module


def _meant(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that `pattern` means: its own, or what lies inside of a layer of this name."""
    found = [name for name in names if any(fnmatchcase(n, pattern) for n in _ancestors(name))]
    if not found:
        raise BadInput(
            f"no layer is called {pattern!r}; this model has {', '.join(names)}. A pattern may "
            "name a whole part of it, as in 'body.4', or stand for several, as in 'body.*.weight'"
        )
    return found


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
