"""The data sets that can be asked for."""

from __future__ import annotations

from typing import Literal

from engine.task import Spec, param


class SourceSpec(Spec):
    """What can be learnt from: labelled images, or the points of a plane."""

    kind: str


class DataSpec(SourceSpec):
    """A labelled image data set and how it is split.

    Splits are stratified by class and drawn from `split_seed`, which is part of the data set, not
    of the run: two runs with different seeds are still tested on the same images.
    """

    kind: str
    validation: float = param(
        0.1,
        "Validation share",
        "Share of the training images kept aside for early stopping and choosing the best epoch.",
        ge=0.0,
        lt=1.0,
    )
    split_seed: int = param(
        0,
        "Split seed",
        "Draws which images go into which split.",
        ge=0,
        le=2**63 - 1,
        advanced=True,
    )


class Digits(DataSpec):
    """scikit-learn's bundled 1,797 handwritten digits, 8 x 8 grey, 10 classes (UCI optdigits)."""

    kind: Literal["digits"] = "digits"
    size: int = param(
        8,
        "Image size",
        "Upsampled to this size (bilinear); 8 is the original.",
        unit="px",
        ge=8,
        le=256,
    )
    test: float = param(
        0.2, "Test share", "Share of the images that is only tested on.", gt=0.0, lt=1.0
    )


class MNIST(DataSpec):
    """60,000 + 10,000 handwritten digits, 28 x 28 grey, 10 classes."""

    kind: Literal["mnist"] = "mnist"
    limit: int = param(
        0, "Limit", "Use only the first so many training images of the split; 0 uses all.", ge=0
    )


class FashionMNIST(DataSpec):
    """60,000 + 10,000 articles of clothing, 28 x 28 grey, 10 classes."""

    kind: Literal["fashion_mnist"] = "fashion_mnist"
    limit: int = param(
        0, "Limit", "Use only the first so many training images of the split; 0 uses all.", ge=0
    )


class CIFAR10(DataSpec):
    """50,000 + 10,000 photographs, 32 x 32 colour, 10 classes."""

    kind: Literal["cifar10"] = "cifar10"
    limit: int = param(
        0, "Limit", "Use only the first so many training images of the split; 0 uses all.", ge=0
    )


class Folder(DataSpec):
    """Your own images: one folder a class, or a zip of such folders.

    Folders named `train` and `test` at the top are taken as the split; otherwise `test` says how
    much is kept for testing.
    """

    kind: Literal["folder"] = "folder"
    path: str = param(
        ..., "Folder or zip", "Holds one folder of images a class.", path="folder", min_length=1
    )
    size: int = param(
        32,
        "Image size",
        "Shorter side is resized to this, then the centre is cut out.",
        unit="px",
        ge=4,
        le=1024,
    )
    channels: Literal[1, 3] = param(3, "Channels", "1 for grey, 3 for colour.")
    test: float = param(
        0.2,
        "Test share",
        "Share kept for testing, where the folder has no split of its own.",
        gt=0.0,
        lt=1.0,
    )
    memory: int = param(
        0,
        "Memory budget",
        "Larger sets are streamed from disk; 0 takes a quarter of the free memory.",
        unit="MB",
        ge=0,
        advanced=True,
    )
