"""Generators and critics."""

from typing import Literal

from engine.generative.spec.base import CriticSpec, GeneratorSpec
from engine.task import param

Activation = Literal["relu", "leaky_relu", "silu", "tanh", "softplus"]


def _spectral() -> bool:
    chosen: bool = param(
        False,
        "Spectral norm",
        "Divides each layer's weights by their largest singular value, so that no layer stretches "
        "anything.",
        cite="Miyato et al. 2018, section 2.1",
    )
    return chosen


def _dropout() -> float:
    share: float = param(
        0.0, "Dropout", "Share of a layer's outputs silenced while training.", ge=0.0, lt=1.0
    )
    return share


# --- generators -----------------------------------------------------------------------------------


class MLPGenerator(GeneratorSpec):
    """Fully connected layers. Without hidden layers it is the source material's, one dense layer
    from 100 numbers to 784 pixels."""

    kind: Literal["mlp"] = "mlp"
    width: int = param(64, "Width", "Units of each hidden layer.", ge=1, le=65536)
    depth: int = param(2, "Depth", "Number of hidden layers.", ge=0, le=100)
    norm: Literal["batch", "none"] = param("none", "Normalisation", "After each hidden layer.")
    activation: Activation = param("leaky_relu", "Activation", "Of the hidden layers.")


class DCGANGenerator(GeneratorSpec):
    """One dense layer, then transposed 4 x 4 convolutions that double the side and halve the
    channels, with batch normalisation in between (Radford, Metz and Chintala 2016)."""

    kind: Literal["dcgan"] = "dcgan"
    width: int = param(32, "Width", "Channels before the last layer.", ge=1, le=4096)
    strides: int = param(
        2,
        "Strides",
        "How often the side is doubled; the image's side must be divisible by 2 to this power.",
        ge=1,
        le=8,
    )
    norm: Literal["batch", "none"] = param("batch", "Normalisation", "After each layer.")
    activation: Activation = param("relu", "Activation", "Of the hidden layers.")


class ResidualGenerator(GeneratorSpec):
    """Blocks of two 3 x 3 convolutions beside a straight way, with doubling of the side before
    every stage. Without normalisation each block begins as the straight way alone, as in R3GAN
    (Huang et al. 2024, section 4)."""

    kind: Literal["residual"] = "residual"
    width: int = param(32, "Width", "Channels of the last stage.", ge=1, le=4096)
    strides: int = param(
        2,
        "Strides",
        "How often the side is doubled; the image's side must be divisible by 2 to this power.",
        ge=1,
        le=8,
    )
    blocks: int = param(1, "Blocks", "Of each stage.", ge=1, le=16)
    norm: Literal["batch", "none"] = param("none", "Normalisation", "Before each convolution.")
    activation: Activation = param("leaky_relu", "Activation", "Before each convolution.")


# --- critics --------------------------------------------------------------------------------------


class MLPCritic(CriticSpec):
    """Fully connected layers over the flattened sample."""

    kind: Literal["mlp"] = "mlp"
    width: int = param(64, "Width", "Units of each hidden layer.", ge=1, le=65536)
    depth: int = param(2, "Depth", "Number of hidden layers.", ge=0, le=100)
    activation: Activation = param("leaky_relu", "Activation", "Of the hidden layers.")
    frequencies: int = param(
        0,
        "Frequencies",
        "It is shown sines and cosines of each coordinate beside it, of so many frequencies that "
        "double, from one wave between -1 and 1 on, and so sees finer things.",
        cite="Tancik et al. 2020, section 4",
        ge=0,
        le=16,
    )
    dropout: float = _dropout()
    spectral_norm: bool = _spectral()


class DCGANCritic(CriticSpec):
    """Convolutions of stride 2 that halve the side and double the channels, with batch
    normalisation after all but the first (Radford, Metz and Chintala 2016). With a kernel of 5,
    width 64, dropout .3 and no normalisation it is the source material's."""

    kind: Literal["dcgan"] = "dcgan"
    width: int = param(32, "Width", "Channels of the first layer.", ge=1, le=4096)
    strides: int = param(
        2,
        "Strides",
        "How often the side is halved; the image must be at least 2 to this power a side.",
        ge=1,
        le=8,
    )
    kernel: Literal[4, 5] = param(4, "Kernel", "Side of each convolution.", unit="px")
    norm: Literal["batch", "none"] = param("batch", "Normalisation", "After all but the first.")
    activation: Activation = param("leaky_relu", "Activation", "Of the hidden layers.")
    dropout: float = _dropout()
    spectral_norm: bool = _spectral()


class ResidualCritic(CriticSpec):
    """Blocks of two 3 x 3 convolutions beside a straight way, with halving of the side after every
    stage; no normalisation, and each block begins as the straight way alone, as in R3GAN (Huang et
    al. 2024, section 4)."""

    kind: Literal["residual"] = "residual"
    width: int = param(32, "Width", "Channels of the first stage.", ge=1, le=4096)
    strides: int = param(
        2,
        "Strides",
        "How often the side is halved; the image's side must be divisible by 2 to this power.",
        ge=1,
        le=8,
    )
    blocks: int = param(1, "Blocks", "Of each stage.", ge=1, le=16)
    activation: Activation = param("leaky_relu", "Activation", "Before each convolution.")
    dropout: float = _dropout()
    spectral_norm: bool = _spectral()
