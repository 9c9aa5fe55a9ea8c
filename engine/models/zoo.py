"""The architectures: each from its spec, for images (C, H, W), to logits. Without normalisation.

Each function raises BadInput where the architecture does not fit the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.models.fitting import Centre, Projection
from engine.models.scattering import Scattering as Wavelets
from engine.models.spec import CNN, MLP, RNN, LeNet, ResNet18, Scattering, Strided, Transformer
from engine.models.transforms import Quantise

Shape = tuple[int, int, int]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def _activation(spec: MLP | CNN | Strided) -> nn.Module:
    layer = ACTIVATIONS["relu" if isinstance(spec, Strided) else spec.activation]()
    return nn.Sequential(layer, Quantise(spec.activation_bits)) if spec.activation_bits else layer


class Residual(nn.Module):
    """layers(x) + shortcut(x)."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.shortcut(x)
        return out


# --- mlp ------------------------------------------------------------------------------------------


GRID = 4
"""Places a side that a CNN keeps for its last layer: where something is matters, roughly."""


def mlp(spec: MLP, shape: Shape, classes: int) -> nn.Module:
    """Flatten, a projection where one is asked for, `depth` hidden layers of `width`, one linear
    layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(shape)
    if spec.projection:
        layers.append(Projection(size, spec.projection))
        size = spec.projection
    for _ in range(spec.depth):
        hidden = [nn.Linear(size, spec.width)]
        block = nn.Sequential(*hidden, *_mlp_norm(spec), _activation(spec))
        if spec.dropout:
            block.append(nn.Dropout(spec.dropout))
        layers.append(Residual(block) if spec.residual and size == spec.width else block)
        size = spec.width
    network = nn.Sequential(*layers, nn.Linear(size, classes))
    if spec.init != "default":
        for module in network.modules():
            if isinstance(module, nn.Linear):
                _initialise(module, spec)
    return network


STEEPEST = {"sigmoid": 0.25}
"""Slopes of activation functions where they are steepest, other than 1."""


def _initialise(layer: nn.Linear, spec: MLP) -> None:
    """Normal weights of variance 2 / (inputs + outputs) over the squared slope of the activation
    function (Glorot and Bengio 2010, equation 12, for one of slope 1), or of variance 2 / inputs
    (He et al. 2015, equation 10); biases 0."""
    if spec.init == "he":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(layer.weight, gain=1 / STEEPEST.get(spec.activation, 1.0))
    nn.init.zeros_(layer.bias)


def _mlp_norm(spec: MLP) -> list[nn.Module]:
    match spec.norm:
        case "batch":
            return [nn.BatchNorm1d(spec.width)]
        case "layer":
            return [nn.LayerNorm(spec.width)]
        case _:
            return []


# --- cnn ------------------------------------------------------------------------------------------


def cnn(spec: CNN, shape: Shape, classes: int) -> nn.Module:
    """`depth` stages of two 3 x 3 convolutions, averaged to 4 x 4, one linear layer.

    Each stage but the first begins with a stride of two. Nothing in it is non-deterministic on a
    GPU, as adaptive and max pooling are.
    """
    channels, height, width = shape
    stages: list[nn.Module] = []
    for i in range(spec.depth):
        out, stride = spec.width * 2**i, 2 if i else 1
        if min(height, width) < stride:
            raise BadInput(
                f"a cnn of depth {spec.depth} halves images of {shape[1]} x {shape[2]} below one "
                f"pixel; expected a depth of at most {i}. Lower the depth or enlarge the images."
            )
        height, width = -(-height // stride), -(-width // stride)
        stage = nn.Sequential(
            *_convolution(spec, channels, out, stride), *_convolution(spec, out, out, 1)
        )
        if spec.residual:
            fits = channels == out and stride == 1
            shortcut = None if fits else nn.Conv2d(channels, out, 1, stride, bias=False)
            stages.append(Residual(stage, shortcut))
        else:
            stages.append(stage)
        channels = out
    kernels, strides = zip(_window(height), _window(width), strict=True)
    head: list[nn.Module] = [nn.AvgPool2d(kernels, strides), nn.Flatten()]
    if spec.dropout:
        head.append(nn.Dropout(spec.dropout))
    features = channels * min(height, GRID) * min(width, GRID)
    return nn.Sequential(*stages, *head, nn.Linear(features, classes))


def _window(side: int) -> tuple[int, int]:
    """Kernel and stride of the pooling that leaves GRID places of `side`, or the fewer it has."""
    stride = max(side // GRID, 1)
    return side - (min(side, GRID) - 1) * stride, stride


def _convolution(spec: CNN, channels: int, out: int, stride: int) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, 3, stride, padding=1, bias=spec.norm == "none"),
    ]
    if spec.norm == "batch":
        layers.append(nn.BatchNorm2d(out))
    elif spec.norm == "group":
        layers.append(nn.GroupNorm(math.gcd(out, 8), out))
    return [*layers, _activation(spec)]


# --- strided --------------------------------------------------------------------------------------


def strided(spec: Strided, shape: Shape, classes: int) -> nn.Module:
    """4 x 4 convolutions of stride 2, flattened, one hidden layer, one linear layer; a ReLU after
    each but the last (Wong, Rice and Kolter 2020, their code for MNIST)."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    for i, out in enumerate(spec.channels):
        if out < 1:
            raise BadInput(f"a convolution has at least one channel, but one is to have {out}")
        height, width = height // 2, width // 2
        if not min(height, width):
            raise BadInput(
                f"{len(spec.channels)} convolutions halve images of {shape[1]} x {shape[2]} below "
                f"one pixel; expected at most {i}"
            )
        layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), _activation(spec)]
        channels = out
    hidden = nn.Linear(channels * height * width, spec.hidden)
    return nn.Sequential(
        *layers, nn.Flatten(), hidden, _activation(spec), nn.Linear(spec.hidden, classes)
    )


# --- lenet ----------------------------------------------------------------------------------------


def lenet(spec: LeNet, shape: Shape, classes: int) -> nn.Module:
    """Convolutions, each with an activation and thinned out by its maxima (LeCun et al. 1998, in
    the form of Caffe's example for MNIST), fully connected layers with an activation after each but
    the last."""
    channels, height, width = shape
    kernels, strides, padding = (
        _for_each(name, getattr(spec, name), len(spec.channels), least)
        for name, least in (("kernels", 1), ("strides", 1), ("padding", 0))
    )
    layers: list[nn.Module] = []
    for i, out in enumerate(spec.channels):
        if out < 1:
            raise BadInput(f"a convolution has at least one channel, but one is to have {out}")
        if min(height, width) + 2 * padding[i] >= kernels[i]:
            height, width = (
                ((side + 2 * padding[i] - kernels[i]) // strides[i] - 1) // spec.pooling + 1
                for side in (height, width)
            )
        else:
            height = width = 0
        if min(height, width) < 1:
            raise BadInput(
                f"{len(spec.channels)} convolutions of {_sides(spec.kernels)}, each followed by "
                f"pooling, leave nothing of images of {shape[1]} x {shape[2]}; expected at most {i}"
            )
        layers.append(nn.Conv2d(channels, out, kernels[i], strides[i], padding[i]))
        layers += [ACTIVATIONS[spec.activation](), nn.MaxPool2d(2, spec.pooling)]
        channels = out
    size = channels * height * width
    return nn.Sequential(
        *layers, nn.Flatten(), *_decided(size, spec.hidden, classes, spec.activation)
    )


def _for_each(name: str, values: tuple[int, ...], count: int, least: int) -> tuple[int, ...]:
    """One value for each of `count` convolutions."""
    if min(values) < least:
        raise BadInput(f"{name} are at least {least}, but one is to be {min(values)}")
    if len(values) not in (1, count):
        raise BadInput(
            f"{name} has {len(values)} values for {count} convolutions; expected one for all or "
            "one for each"
        )
    return values * count if len(values) == 1 else values


def _sides(kernels: tuple[int, ...]) -> str:
    return ", ".join(f"{side} x {side}" for side in kernels)


def _decided(
    size: int, hidden: tuple[int, ...], classes: int, activation: str
) -> Iterator[nn.Module]:
    """Fully connected layers from `size` features to logits."""
    for units in hidden:
        if units < 1:
            raise BadInput(f"a hidden layer has at least one unit, but one is to have {units}")
        yield nn.Linear(size, units)
        yield ACTIVATIONS[activation]()
        size = units
    yield nn.Linear(size, classes)


# --- scattering -----------------------------------------------------------------------------------


def scattering(spec: Scattering, shape: Shape, classes: int) -> nn.Module:
    """The scattering transform and a normalisation, both fixed, then 3 x 3 convolutions and fully
    connected layers with an activation after each but the last: without either a linear classifier,
    with channels (16, 32) and hidden (32,) the CNN of Tramèr and Boneh (2021, their code)."""
    wavelets = Wavelets(shape, spec.scales, spec.angles)
    channels, height, width = wavelets.shape
    layers: list[nn.Module] = [wavelets]
    if spec.groups:
        if channels % spec.groups:
            fitting = [str(n) for n in range(1, channels + 1) if channels % n == 0]
            raise BadInput(
                f"{spec.groups} groups do not divide {channels} maps; expected one of "
                f"{', '.join(fitting)}, or 0 for no normalisation"
            )
        layers.append(nn.GroupNorm(spec.groups, channels, affine=False))
    if spec.centre:
        if not spec.groups:
            raise BadInput(
                "without groups nothing limits how much one image moves the mean of the maps; set "
                "groups, or centre to false"
            )
        layers.append(Centre(wavelets.shape))
    for i, out in enumerate(spec.channels):
        if out < 1:
            raise BadInput(f"a convolution has at least one channel, but one is to have {out}")
        stride = 1 if i else 2
        layers += [nn.Conv2d(channels, out, 3, stride, 1), ACTIVATIONS[spec.activation]()]
        channels, height, width = out, -(-height // stride), -(-width // stride)
    size = channels * height * width
    return nn.Sequential(
        *layers, nn.Flatten(), *_decided(size, spec.hidden, classes, spec.activation)
    )


# --- resnet18 -------------------------------------------------------------------------------------


def resnet18(spec: ResNet18, shape: Shape, classes: int) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016) whose stem fits `shape`."""
    from torchvision.models import resnet18 as original

    model: nn.Module = original(num_classes=classes)
    side, stride = (3, 1) if spec.stem == "small" else (7, 2)
    stem = nn.Conv2d(shape[0], 64, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    if spec.stem == "small":
        model.maxpool = nn.Identity()
    return model


# --- rnn ------------------------------------------------------------------------------------------


def rnn(spec: RNN, shape: Shape, classes: int) -> nn.Module:
    """A recurrent network over the image's rows; the last state decides."""
    return RowReader(spec, shape, classes)


class RowReader(nn.Module):
    def __init__(self, spec: RNN, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, _, width = shape
        cell = nn.LSTM if spec.cell == "lstm" else nn.GRU
        self.cell = cell(
            channels * width,
            spec.width,
            spec.depth,
            batch_first=True,
            dropout=spec.dropout if spec.depth > 1 else 0.0,
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        # cuDNN's recurrent kernels have no backward in eval mode, which is how models are attacked.
        with torch.backends.cudnn.flags(enabled=self.training):
            states, _ = self.cell(rows)
        out: Tensor = self.head(self.dropout(states[:, -1]))
        return out


# --- transformer ----------------------------------------------------------------------------------


def transformer(spec: Transformer, shape: Shape, classes: int) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021)."""
    _, height, width = shape
    if height % spec.patch or width % spec.patch:
        common = math.gcd(height, width)
        fitting = [str(p) for p in range(1, min(common, 64) + 1) if common % p == 0]
        raise BadInput(
            f"patches of {spec.patch} do not divide images of {height} x {width}; "
            f"expected a patch of {', '.join(fitting)}"
        )
    if spec.width % spec.heads:
        raise BadInput(
            f"a token of {spec.width} cannot be shared by {spec.heads} heads; "
            "expected a width that is a multiple of the heads"
        )
    return VisionTransformer(spec, shape, classes)


class VisionTransformer(nn.Module):
    def __init__(self, spec: Transformer, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        tokens = (height // spec.patch) * (width // spec.patch) + 1
        self.patches = nn.Conv2d(channels, spec.width, spec.patch, spec.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.position = nn.Parameter(torch.zeros(1, tokens, spec.width))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.Sequential(*(_block(spec) for _ in range(spec.depth)))
        self.norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        tokens = self.blocks(self.dropout(tokens + self.position))
        out: Tensor = self.head(self.norm(tokens[:, 0]))
        return out


def _block(spec: Transformer) -> nn.Module:
    """Pre-norm: attention and a feed-forward of four times the width, each added to its input."""
    width = spec.width
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width), Attention(width, spec.heads, spec.dropout))),
        Residual(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Dropout(spec.dropout),
                nn.Linear(4 * width, width),
                nn.Dropout(spec.dropout),
            )
        ),
    )


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, T, width) (Vaswani et al. 2017, section 3.2).

    Written out, since the fused kernels have no second derivative.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.joint = nn.Linear(width, 3 * width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        joint = self.joint(x).view(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        mixed = self.dropout(scores.softmax(-1)) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(count, tokens, width))
        return out
