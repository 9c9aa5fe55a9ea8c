"""What a model is made of, before anything is trained: layers, parameters, operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.building import build, outline
from engine.models.spec import ModelSpec, Module
from engine.models.zoo import Attention

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """One layer: where it is, what it is, and what it costs for one image.

    `output` is the shape of its result without the batch; `parameters` counts its own, each once
    where layers share them; `flops` are multiplications and additions, two for each product that
    is summed, of convolutions, linear and recurrent layers and attention. Everything else
    (normalisation, activations, pooling, biases) is left out, as is usual.
    """

    name: str
    type: str
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The layers in the order in which they run, and the sums over them."""

    layers: tuple[LayerDescription, ...]
    parameters: int
    trainable: int
    flops: int


def describe(
    spec: ModelSpec, shape: Shape, classes: int, *, trust: bool = False
) -> ModelDescription:
    """The description of the model that `build` makes of the same arguments, and raises as it does.

    Nothing is allocated or computed for the architectures of the zoo; a person's own module is
    built and run on one image.
    """
    if isinstance(spec, Module):
        model = build(spec, shape, classes, trust=trust)
    else:
        model = outline(spec, shape, classes)
    return describe_module(model.eval(), shape)


def describe_module(model: nn.Module, shape: Shape) -> ModelDescription:
    """The description of a model that is there, for images `shape` = (C, H, W).

    It is run once, on one image, in the mode and on the device it is in.
    """
    order: dict[str, tuple[str, tuple[int, ...], int]] = {}
    handles = []

    def watch(name: str, layer: nn.Module) -> None:
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            result = output[0] if isinstance(output, tuple) else output
            before = order.pop(name, ("", (), 0))[2]
            order[name] = (
                type(layer).__name__,
                tuple(result.shape[1:]),
                before + _flops(layer, inputs, result),
            )

        handles.append(layer.register_forward_hook(note))

    for name, layer in model.named_modules():
        if _is_layer(layer) and not isinstance(layer, nn.Identity):
            watch(name, layer)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape, device=device))
    finally:
        for handle in handles:
            handle.remove()

    counted: set[int] = set()
    own = {name: _own_parameters(layer, counted) for name, layer in model.named_modules()}
    layers = tuple(
        LayerDescription(name or type(model).__name__, kind, output, own.get(name, 0), flops)
        for name, (kind, output, flops) in order.items()
    )
    parameters = list(model.parameters())
    return ModelDescription(
        layers=layers,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops=sum(layer.flops for layer in layers),
    )


def _is_layer(module: nn.Module) -> bool:
    """Whether it does something itself, rather than only through its parts."""
    owns = next(module.parameters(recurse=False), None) is not None
    return owns or not any(module.children()) or isinstance(module, Attention)


def _own_parameters(layer: nn.Module, counted: set[int]) -> int:
    fresh = {id(p): p.numel() for p in layer.parameters(recurse=not any(layer.children()))}
    if isinstance(layer, nn.MultiheadAttention):
        fresh = {id(p): p.numel() for p in layer.parameters()}
    own = sum(size for key, size in fresh.items() if key not in counted)
    counted.update(fresh)
    return own


# --- counting, for one image ----------------------------------------------------------------------


def _flops(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> int:
    for kind, count in _COUNTS.items():
        if isinstance(layer, kind):
            return 2 * count(layer, inputs, output)
    return 0


def _convolution(layer: Any, _: tuple[Any, ...], output: Tensor) -> int:
    products = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return int(output.numel() * products)


def _transposed(layer: Any, inputs: tuple[Any, ...], _: Tensor) -> int:
    products = layer.out_channels // layer.groups * math.prod(layer.kernel_size)
    return int(inputs[0].numel() * products)


def _linear(layer: Any, _: tuple[Any, ...], output: Tensor) -> int:
    return int(output.numel() * layer.in_features)


def _recurrent(layer: Any, inputs: tuple[Any, ...], _: Tensor) -> int:
    """Each step multiplies every matrix of every layer and direction once."""
    steps = inputs[0].numel() // layer.input_size
    matrices = (p for name, p in layer.named_parameters() if name.startswith("weight"))
    return int(steps * sum(p.numel() for p in matrices))


def _attention(layer: Attention, inputs: tuple[Any, ...], _: Tensor) -> int:
    """Scores and their mixture; the projections are layers of their own."""
    _, tokens, width = inputs[0].shape
    return int(2 * tokens * tokens * width)


def _multihead(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> int:
    """torch's own, which runs its projections inside: four of them, scores and mixture."""
    query, key = inputs[0], inputs[1]
    width = layer.embed_dim
    queries, keys = query.numel() // width, key.numel() // layer.kdim
    projections = queries * 2 * width * width + keys * width * (layer.kdim + layer.vdim)
    return int(projections + 2 * queries * keys * width)


_COUNTS: dict[Any, Callable[[Any, tuple[Any, ...], Tensor], int]] = {
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d): _transposed,
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): _convolution,
    nn.Linear: _linear,
    (nn.LSTM, nn.GRU, nn.RNN): _recurrent,
    nn.MultiheadAttention: _multihead,
    Attention: _attention,
}
