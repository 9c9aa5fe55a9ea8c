"""Interval bound propagation: what a model can answer to any image of a box (Gowal et al. 2018,
section 3; Mirman, Gehr and Vechev 2018).

Layer by layer, the box is carried through: a linear layer maps its centre as it is and its radius
by the absolute weights, a monotone layer maps both of its ends. The bounds hold for every image of
the box, but are the looser the deeper a model is that was not trained for them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.errors import BadInput
from engine.models.normalise import Normalise

ALIASES = (nn.Identity, nn.Flatten, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU)
"""Layers that may hand on what they are given, or a view of it."""
LOWEST: dict[type[nn.Module], float] = {nn.GELU: -0.7517915246935645, nn.SiLU: -1.2784645427610738}
"""Where an activation that falls, then rises, is smallest."""
MONOTONE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.Tanh,
    nn.Sigmoid,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
)


class Interval(NamedTuple):
    """Every value lies between the two, tensors of one shape."""

    lower: Tensor
    upper: Tensor

    @property
    def centre(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2


Value: TypeAlias = Interval | Any


class Bounds:
    """A model, read once, to be asked for bounds with the weights that it then has.

    Raises BadInput if a part of it cannot be bounded.
    """

    def __init__(self, model: nn.Module) -> None:
        root = nn.Sequential(model)  # so that a model of one layer is a layer, too
        try:
            graph = _Tracer().trace(root)
        except Exception as error:
            raise BadInput(
                "this model's forward pass cannot be read layer by layer, which its bounds need "
                f"({error}). Take one made of layers, such as mlp, cnn, strided or lenet."
            ) from error
        self.graph = fx.GraphModule(root, graph)
        self.head = _head(self.graph)
        for node in self.graph.graph.nodes:
            if node.op == "call_module":
                _known(self.graph.get_submodule(node.target))
            elif node.op in ("call_function", "call_method") and node.target not in FUNCTIONS:
                raise _unknown(str(node.target))
            if node.op == "call_module" and (len(node.args) != 1 or node.kwargs):
                raise _unknown(f"{node.name}, which is not given one value by its place")
            if node.target is torch.add and node.kwargs:
                raise _unknown("torch.add with a factor")
            _harmless(self.graph, node)

    def logits(self, lower: Tensor, upper: Tensor) -> Interval:
        """Bounds of each logit, (N, K), for images between `lower` and `upper`, (N, C, H, W)."""
        found: Interval = _Walk(self.graph, None).run(Interval(lower, upper))
        return found

    def margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Lower bounds of logit[label] - logit[k], (N, K); 0 at the label itself. `labels` is int64
        (N,).

        A last linear layer is merged with the difference, which is tighter than the difference of
        its bounds (Gowal et al. 2018, section 3, "elision of the last layer").
        """
        if self.head is None:
            found = self.logits(lower, upper)
            margins = found.lower.gather(1, labels[:, None]) - found.upper
        else:
            before: Interval = _Walk(self.graph, self.head).run(Interval(lower, upper))
            last = self.graph.get_submodule(str(self.head.target))
            assert isinstance(last, nn.Linear)
            apart = last.weight[labels][:, None] - last.weight  # (N, K, D)
            margins = torch.einsum("nkd,nd->nk", apart, before.centre)
            margins = margins - torch.einsum("nkd,nd->nk", apart.abs(), before.radius)
            if last.bias is not None:
                margins = margins + last.bias[labels][:, None] - last.bias
        return margins.scatter(1, labels[:, None], 0.0)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Normalise) or super().is_leaf_module(module, name)


def _head(graph: fx.GraphModule) -> fx.Node | None:
    """The linear layer that the model ends with, where it is called last."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node) or last.op != "call_module":
        return None
    return last if type(graph.get_submodule(str(last.target))) is nn.Linear else None


class _Walk(fx.Interpreter):
    """Carries an interval through a model; `stop` is a call that hands on what it is given."""

    def __init__(self, graph: fx.GraphModule, stop: fx.Node | None) -> None:
        super().__init__(graph)
        self.stop = stop

    def run_node(self, n: fx.Node) -> Value:
        if n is self.stop:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)

    def call_module(self, target: Any, args: tuple[Value, ...], kwargs: dict[str, Any]) -> Value:
        (given,) = args
        return _through(self.fetch_attr(target), given)

    def call_function(self, target: Any, args: tuple[Value, ...], kwargs: dict[str, Any]) -> Value:
        return FUNCTIONS[target](*args, **kwargs)

    def call_method(self, target: Any, args: tuple[Value, ...], kwargs: dict[str, Any]) -> Value:
        return FUNCTIONS[target](*args, **kwargs)


def _through(layer: nn.Module, given: Interval) -> Interval:
    """The bounds of what `layer` answers."""
    match layer:
        case nn.Linear():
            return _around(layer(given.centre), F.linear(given.radius, layer.weight.abs()))
        case nn.Conv2d():
            radius = F.conv2d(
                given.radius,
                layer.weight.abs(),
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
            return _around(layer(given.centre), radius)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            assert layer.running_var is not None
            scale = (layer.running_var + layer.eps).rsqrt()
            scale = scale if layer.weight is None else scale * layer.weight.abs()
            shape = (-1, *[1] * (given.lower.ndim - 2))
            return _around(layer(given.centre), given.radius * scale.view(shape))
        case Normalise():
            return Interval(layer(given.lower), layer(given.upper))
        case nn.Dropout():
            kept = layer(torch.ones_like(given.lower))
            return Interval(given.lower * kept, given.upper * kept)
        case nn.GELU() | nn.SiLU():
            low = torch.full_like(given.lower, LOWEST[type(layer)])
            ends = layer(given.lower), layer(given.upper)
            return Interval(layer(low.clamp(given.lower, given.upper)), torch.maximum(*ends))
        case _:
            return Interval(layer(given.lower), layer(given.upper))


def _around(centre: Tensor, radius: Tensor) -> Interval:
    return Interval(centre - radius, centre + radius)


def _known(layer: nn.Module) -> None:
    """Raises BadInput unless bounds are known for `layer` as it is."""
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        raise _unknown(f"a hook on {type(layer).__name__}, or a forward pass of its own")
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
        if layer.running_var is None:
            raise _unknown("batch normalisation by the statistics of each batch")
        return
    if isinstance(layer, nn.AvgPool2d) and (layer.divisor_override or 1) < 0:
        raise _unknown("AvgPool2d with a divisor below 0")
    if isinstance(layer, Normalise) and not bool((layer.std > 0).all()):
        raise _unknown("a normalisation by a deviation that is not above 0")
    if isinstance(layer, nn.LeakyReLU) and layer.negative_slope < 0:
        raise _unknown("LeakyReLU with a negative slope below 0")
    if isinstance(layer, nn.ELU) and layer.alpha < 0:
        raise _unknown("ELU with an alpha below 0")
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        raise _unknown(f"a convolution padded by {layer.padding_mode}")
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        raise _unknown("GELU by an approximation")
    exact = (nn.Linear, nn.Conv2d, nn.GELU, nn.SiLU, nn.Dropout, Normalise, *MONOTONE)
    if type(layer) not in exact:
        raise _unknown(type(layer).__name__)


def _harmless(graph: fx.GraphModule, node: fx.Node) -> None:
    """Raises BadInput if `node` writes into a value that is used again: bounds are carried on as
    new ones, and would not know. (What is a view of the value, or it itself, counts as it.)"""
    layer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    asked = node.kwargs.get("inplace", len(node.args) > 1 and node.args[1])
    functional = node.target is F.relu and bool(asked)
    if not (getattr(layer, "inplace", False) or functional or node.target is operator.iadd):
        return
    value = node.args[0]
    while isinstance(value, fx.Node):
        if len(value.users) > 1 or value.op == "get_attr":
            raise _unknown(f"{node.name}, which writes into a value that is used again")
        passes = value.target in (torch.flatten, "flatten")
        if value.op == "call_module":
            passes = isinstance(graph.get_submodule(str(value.target)), ALIASES)
        value = value.args[0] if passes else None


def _unknown(what: str) -> BadInput:
    return BadInput(
        f"no bounds are known for a part of this model, {what}. Known are linear layers, "
        "convolutions, batch normalisation when it is not trained, pooling, dropout and monotone "
        "activations, joined by sums."
    )


def _sum(first: Value, second: Value) -> Interval:
    """Of two intervals, or of one and a number or tensor."""
    if not isinstance(first, Interval):
        first, second = second, first
    if isinstance(second, Interval):
        return Interval(first.lower + second.lower, first.upper + second.upper)
    return Interval(first.lower + second, first.upper + second)


def _relu(given: Interval, inplace: bool = False) -> Interval:
    return Interval(given.lower.relu(), given.upper.relu())


def _flat(given: Interval, *args: Any, **kwargs: Any) -> Interval:
    ends = (torch.flatten(end, *args, **kwargs) for end in given)
    return Interval(*ends)


FUNCTIONS: dict[Any, Callable[..., Value]] = {
    "flatten": _flat,
    "relu": _relu,
    F.relu: _relu,
    operator.add: _sum,
    operator.iadd: _sum,
    torch.add: _sum,
    torch.flatten: _flat,
    torch.relu: _relu,
}
