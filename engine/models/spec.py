"""The models that can be asked for, and the task that brings in a model a person already has."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from engine.data.spec import DataSpec
from engine.errors import BadInput
from engine.task import OneOf, Spec, Steps, Task, param

if TYPE_CHECKING:
    from torch import nn

    from engine.bench import Bench

Norm = Literal["batch", "group", "none"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]


# --- what hides gradients -------------------------------------------------------------------------


class TransformSpec(Spec):
    """What is done to every image before the model sees it. Not a defence by itself: it hides the
    gradient, and whoever attacks straight through it breaks the model as before (Athalye, Carlini
    and Wagner 2018, section 4.1)."""

    kind: str


class BitDepth(TransformSpec):
    """Rounds every value to few grey levels. Not a defence by itself: it hides the gradient from
    an attack, and hardly moves the decision."""

    kind: Literal["bit_depth"] = "bit_depth"
    bits: int = param(
        3,
        "Bits",
        "Each channel keeps 2 to this power levels, 0 and 1 among them.",
        unit="bits",
        cite="Xu, Evans and Qi 2018, section III.A",
        ge=1,
        le=8,
    )


class JPEG(TransformSpec):
    """Compresses every image and opens it again, with colour at half the resolution (4:2:0). Not a
    defence by itself: it hides the gradient from an attack, and hardly moves the decision."""

    kind: Literal["jpeg"] = "jpeg"
    quality: int = param(
        75,
        "Quality",
        "libjpeg's, from 1, hardly an image, to 100.",
        cite="Dziugaite, Ghahramani and Roy 2016; Guo et al. 2018, section 4.1",
        ge=1,
        le=100,
    )


class Median(TransformSpec):
    """Replaces every pixel by the median of those around it. Not a defence by itself: it hides the
    gradient from an attack, and hardly moves the decision."""

    kind: Literal["median"] = "median"
    kernel: int = param(
        3,
        "Kernel",
        "Side of the square around each pixel, odd.",
        unit="px",
        cite="Xu, Evans and Qi 2018, section III.B",
        ge=3,
        le=31,
    )

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel: a square of {self.kernel} pixels has no middle; expected an odd number, "
                f"as {self.kernel - 1} or {self.kernel + 1}"
            )
        return self


def _activation_bits() -> Any:
    """The field that has activations rounded."""
    return param(
        0,
        "Activation bits",
        "Limits each hidden activation to [0, 1] and rounds it to 2 to this power levels; 0 is "
        "off. Not a defence by itself: it hides the gradient.",
        unit="bits",
        cite="Zhou et al. 2016, section 2.3",
        ge=0,
        le=8,
        advanced=True,
    )


# --- networks -------------------------------------------------------------------------------------


class NetworkSpec(Spec):
    """What a model file holds that is no classifier, as a generator of images."""

    kind: str

    @abstractmethod
    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images `shape` = (C, H, W) of `classes` classes (0: none are told
        apart), on the CPU; its weights are those of the file in the end. Raises BadInput where the
        architecture does not fit."""


# --- models ---------------------------------------------------------------------------------------


class ModelSpec(Spec):
    """A classifier: images float32 in [0, 1], (N, C, H, W), to logits (N, classes).

    Normalisation is its first layer, so that a perturbation is always measured in image units;
    only a transform comes before it.
    """

    kind: str
    transform: OneOf[TransformSpec] | None = param(
        None,
        "Input transform",
        "What is done to every image before the model sees it. Not a defence by itself: it hides "
        "the gradient.",
        advanced=True,
    )

    @property
    def normalised(self) -> bool:
        """Whether a training puts the statistics of its data into that layer; else it does
        nothing."""
        return True


class MLP(ModelSpec):
    """Fully connected layers over the flattened image."""

    kind: Literal["mlp"] = "mlp"
    projection: int = param(
        0,
        "Projection",
        "Begins with a fixed layer that keeps only so many principal directions of the training "
        "images, whitened; a private training pays for finding them. 0 is none.",
        cite="Abadi et al. 2016, section 4",
        ge=0,
        le=65536,
        advanced=True,
    )
    width: int = param(256, "Width", "Units of each hidden layer.", ge=1, le=65536)
    depth: int = param(2, "Depth", "Number of hidden layers.", ge=0, le=1000)
    norm: Literal["batch", "layer", "none"] = param(
        "none", "Normalisation", "After each hidden layer."
    )
    residual: bool = param(False, "Residual", "Adds each hidden layer's input to its output.")
    dropout: float = param(
        0.0, "Dropout", "Share of units silenced while training.", ge=0.0, lt=1.0
    )
    activation: Activation = param("relu", "Activation", "Non-linearity of the hidden layers.")
    init: Literal["default", "xavier", "he"] = param(
        "default",
        "Initialisation",
        "Of the weights: default is uniform within 1 / sqrt(inputs), as in PyTorch; xavier keeps "
        "the size of signals and gradients where the activation is steepest, he that of signals "
        "through ReLU. The last two begin with biases of 0.",
        cite="Glorot and Bengio 2010, section 4.2; He et al. 2015, section 2.2",
        advanced=True,
    )
    activation_bits: int = _activation_bits()


class CNN(ModelSpec):
    """Stages of 3 x 3 convolutions; the width doubles and the side halves from stage to stage."""

    kind: Literal["cnn"] = "cnn"
    width: int = param(16, "Width", "Channels of the first stage.", ge=1, le=4096)
    depth: int = param(2, "Depth", "Number of stages, each two convolutions.", ge=1, le=8)
    norm: Norm = param("batch", "Normalisation", "After each convolution.")
    residual: bool = param(False, "Residual", "Adds each stage's input to its output.")
    dropout: float = param(
        0.0, "Dropout", "Share of features silenced before the last layer.", ge=0.0, lt=1.0
    )
    activation: Activation = param("relu", "Activation", "Non-linearity after each convolution.")
    activation_bits: int = _activation_bits()


class Strided(ModelSpec):
    """4 x 4 convolutions that halve the image, then one hidden layer: as it stands, the MNIST
    network of Wong, Rice and Kolter (2020)."""

    kind: Literal["strided"] = "strided"
    channels: tuple[int, ...] = param(
        (16, 32), "Channels", "Of each convolution.", min_length=1, max_length=16
    )
    hidden: int = param(100, "Hidden units", "Of the layer before the last.", ge=1, le=65536)
    normalise: bool = param(
        False, "Normalise", "Begins with the mean and deviation of the data, as other models do."
    )
    activation_bits: int = _activation_bits()

    @property
    def normalised(self) -> bool:
        return self.normalise


class LeNet(ModelSpec):
    """Convolutions without padding, each followed by pooling, then fully connected layers: as it
    stands, the LeNet of Caffe, on which most results of smoothing on MNIST are published."""

    kind: Literal["lenet"] = "lenet"
    channels: tuple[int, ...] = param(
        (20, 50), "Channels", "Of each convolution; 6, 16 in LeNet-5.", min_length=1, max_length=16
    )
    kernels: tuple[int, ...] = param(
        (5,),
        "Kernels",
        "Side of each convolution, or one for all; 8, 4 in the private network of Papernot et al.",
        unit="px",
        cite="Papernot et al. 2021, table 1",
        min_length=1,
        max_length=16,
        advanced=True,
    )
    strides: tuple[int, ...] = param(
        (1,),
        "Strides",
        "Of each convolution, or one for all; 2 there.",
        unit="px",
        min_length=1,
        max_length=16,
        advanced=True,
    )
    padding: tuple[int, ...] = param(
        (0,),
        "Padding",
        "Zeros around what each convolution is given, or one for all; 2, 0 there.",
        unit="px",
        min_length=1,
        max_length=16,
        advanced=True,
    )
    pooling: int = param(
        2,
        "Pooling stride",
        "Places between the 2 x 2 squares of which the largest is kept; 1 there.",
        unit="px",
        ge=1,
        le=64,
        advanced=True,
    )
    hidden: tuple[int, ...] = param(
        (500,),
        "Hidden units",
        "Of each layer between the convolutions and the last one; 120, 84 in LeNet-5.",
        cite="LeCun et al. 1998, section II.B",
        max_length=16,
    )
    activation: Activation = param(
        "relu",
        "Activation",
        "Non-linearity after each layer but the last. A bounded one, such as tanh, keeps gradients "
        "short, which private training gains from.",
        cite="Papernot et al. 2021, section 3",
    )


class Scattering(ModelSpec):
    """What wavelets of several sizes and directions find in the image, which is fixed beforehand,
    then a small part that learns: as it stands, the linear classifier of Tramèr and Boneh (2021).

    With one, two or three scales images of 28 x 28 become 9, 81 or 217 maps, of 14, 7 or 3 places
    a side.
    """

    kind: Literal["scattering"] = "scattering"
    scales: int = param(
        2,
        "Scales",
        "Sizes of the wavelets, each twice the one before; every scale halves the maps.",
        cite="Bruna and Mallat 2013, section 2",
        ge=1,
        le=8,
    )
    angles: int = param(8, "Angles", "Directions of the wavelets.", ge=1, le=64)
    groups: int = param(
        27,
        "Groups",
        "Of so many groups of maps each is brought to a mean of 0 and a deviation of 1, image by "
        "image, so that it costs no privacy; 0 does not.",
        cite="Tramèr and Boneh 2021, section 2.2",
        ge=0,
        le=4096,
    )
    centre: bool = param(
        False,
        "Centre",
        "Takes away the mean of the maps over the training images, which no class differs in; a "
        "private training pays a little for finding it.",
        cite="Tramèr and Boneh 2021, section 2.2",
    )
    channels: tuple[int, ...] = param(
        (),
        "Channels",
        "Of 3 x 3 convolutions on the maps, of which the first takes every second place; 16, 32 in "
        "the convolutional network of the paper.",
        cite="Tramèr and Boneh 2021, section 3",
        max_length=16,
    )
    hidden: tuple[int, ...] = param(
        (), "Hidden units", "Of each layer before the last one; 32 there.", max_length=16
    )
    activation: Activation = param(
        "tanh", "Activation", "Non-linearity after each layer but the last."
    )

    @property
    def normalised(self) -> bool:
        return False


class ResNet18(ModelSpec):
    """torchvision's ResNet-18 with a stem for small images (3 x 3, stride 1, no pooling)."""

    kind: Literal["resnet18"] = "resnet18"
    stem: Literal["small", "imagenet"] = param(
        "small",
        "Stem",
        "small: 3 x 3, stride 1, no pooling; imagenet: the original 7 x 7, stride 2.",
    )


class RNN(ModelSpec):
    """A recurrent network that reads the image row by row."""

    kind: Literal["rnn"] = "rnn"
    cell: Literal["lstm", "gru"] = param("lstm", "Cell", "Kind of recurrent unit.")
    width: int = param(64, "Width", "Units of the hidden state.", ge=1, le=8192)
    depth: int = param(1, "Depth", "Stacked recurrent layers.", ge=1, le=16)
    dropout: float = param(
        0.0, "Dropout", "Between layers and before the last one.", ge=0.0, lt=1.0
    )


class Transformer(ModelSpec):
    """A small vision transformer (Dosovitskiy et al. 2021): patches, class token, pre-norm."""

    kind: Literal["transformer"] = "transformer"
    patch: int = param(
        4, "Patch", "Side of a patch; must divide the image's side.", unit="px", ge=1, le=64
    )
    width: int = param(64, "Width", "Size of a token; a multiple of the heads.", ge=1, le=4096)
    depth: int = param(4, "Depth", "Number of blocks.", ge=1, le=64)
    heads: int = param(4, "Heads", "Attention heads of a block.", ge=1, le=64)
    dropout: float = param(0.0, "Dropout", "In attention and feed-forward.", ge=0.0, lt=1.0)


class Module(ModelSpec):
    """Your own model: a function in a Python file that returns a torch.nn.Module.

    It is called with `input_shape=(C, H, W)` and `classes=N`, or without arguments if it takes
    none. The file runs with your rights, hence the explicit yes.
    """

    kind: Literal["module"] = "module"
    factory: str = param(
        ..., "Factory", "path/to/file.py:function", path="file", pattern=r"^.+\.py:[A-Za-z_]\w*$"
    )
    trust: bool = param(
        False,
        "Run this file",
        "The file's code runs with your rights: say yes only if you trust it.",
    )


class Import(Task):
    """Bring in a model you already have; from then on it is a model like any other."""

    title: ClassVar[str] = "Import"
    summary_help: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "share of the test images that the model gets right",
        "weights_sha256": "of the weights: equal where every bit is",
        "parameters": "numbers in the model",
        "classes": "their names, in the order of the outputs",
        "data_changed": "the model may have been trained on images that it is tested on now",
    }

    kind: Literal["import"] = "import"
    weights: str = param(
        ...,
        "Weights",
        "A safetensors file, or a .pt / .pth state dict, or an exported file.",
        path="file",
        min_length=1,
    )
    model: OneOf[ModelSpec] | None = param(
        None,
        "Model",
        "The architecture the weights belong to; a model file of ours says it itself.",
    )
    data: OneOf[DataSpec] | None = param(
        None,
        "Data",
        "What the model was made for; its accuracy is measured on the test split. A model file of "
        "ours says it itself.",
    )
    classes: tuple[str, ...] = param(
        (), "Class names", "In the order of the outputs; empty takes the data set's."
    )
    input_size: tuple[int, ...] = param(
        (), "Input size", "Channels, height, width; empty takes the data set's.", max_length=3
    )
    mean: tuple[float, ...] = param(
        (),
        "Mean",
        "Per-channel mean that the model's inputs were normalised with; empty if the "
        "weights hold it or none was used.",
    )
    std: tuple[float, ...] = param((), "Std. deviation", "Per channel, as for the mean.")

    def check(self, workspace: Path) -> None:
        from engine.models.card import has_card

        path = Path(os.path.expanduser(self.weights))  # noqa: PTH111 - cannot raise
        if not path.is_file():
            raise BadInput(
                f"there is no file {self.weights!r}; expected safetensors, a .pt or .pth state "
                "dict, or an exported model"
            )
        if path.suffix == ".age" or (self.model is not None and self.data is not None):
            return
        if has_card(path):
            return
        if self.model is None:
            raise BadInput(
                f"{path} does not say which architecture it belongs to; name it, as in "
                'model = {kind = "cnn", width = 16} or {kind = "module", factory = "file.py:make"}'
            )
        raise BadInput(
            f"{path} does not say what data its model is for; name it, as in "
            'data = {kind = "digits"}'
        )

    def run(self, bench: Bench) -> Steps:
        from engine.models.importing import run_import

        return run_import(self, bench)


class Transform(Task):
    """Put an input transform in front of a model that is there: a model of its own, with the same
    weights. It is not a defence by itself, which an evaluation of it shows."""

    title: ClassVar[str] = "Transform"
    summary_help: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "share of the test images that the model gets right behind the transform",
        "untransformed_accuracy": "the same without it",
        "weights_sha256": "of the weights: equal where every bit is",
        "data_changed": "the model may have been trained on images that it is tested on now",
    }

    kind: Literal["transform"] = "transform"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    transform: OneOf[TransformSpec] = param(
        BitDepth(), "Input transform", "Takes the place of one that the model has already."
    )

    def run(self, bench: Bench) -> Steps:
        from engine.models.transforming import run_transform

        return run_transform(self, bench)
