"""One perturbation for many images: a universal one, and a patch."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from engine.attacks.spec.base import RADIUS, AttackSpec, Rounds, norm_field
from engine.task import param

if TYPE_CHECKING:
    from engine.attacks.fitted import Design


class Fitted(AttackSpec):
    """One perturbation for many images, fitted to training images before it is judged on others
    (`engine.attacks.fitted`)."""

    targeted: bool = param(
        False, "Targeted", "Aims at one class for all images, instead of any wrong one."
    )
    target: int = param(
        0, "Target class", "Number of the class that a targeted attack aims at.", ge=0
    )
    train_samples: int = param(
        2000,
        "Training images",
        "How many it is fitted to, of the training split; 0 takes all.",
        ge=0,
    )
    epochs: int = param(10, "Epochs", "Passes over the training images.", ge=1, le=100_000)
    fit_batch: int = param(
        100, "Batch size", "Training images a step, at most.", ge=1, le=100_000, advanced=True
    )

    def rounds(self) -> Rounds:
        """None before it is fitted: those of `engine.attacks.fitted.Fit` are run."""
        return ()

    def climbs(self) -> bool:
        return True

    @abstractmethod
    def design(self) -> "Design":
        """What is fitted, and how."""


class Universal(Fitted):
    """One perturbation that is added to every image."""

    kind: Literal["universal"] = "universal"
    cite: ClassVar[str] = (
        "Shafahi et al. 2020, section 4; Moosavi-Dezfooli et al. 2017, algorithm 1"
    )
    norm: Literal["linf", "l2"] = norm_field("linf")
    eps: float = param(0.2, "Epsilon", RADIUS, ge=0.0, le=1000.0)
    method: Literal["gradient", "deepfool"] = param(
        "gradient",
        "Method",
        "gradient climbs a loss over batches of images. deepfool goes from image to image, and "
        "adds the smallest change that breaks the next one.",
    )
    step_size: float | None = param(
        None,
        "Step size",
        "Length of the first step by gradient, in the attack's norm; empty is a tenth of epsilon. "
        "Steps shrink to none.",
        gt=0.0,
        le=1000.0,
        advanced=True,
    )
    clip: float = param(
        1.2,
        "Clipped loss",
        "An image whose loss is above it has no more say in a step by gradient.",
        cite="Shafahi et al. 2020, section 4.1",
        gt=0.0,
        le=1e6,
        advanced=True,
    )
    delta: float = param(
        0.2,
        "Left over",
        "deepfool stops when no larger share of the training images is left unbroken.",
        cite="Moosavi-Dezfooli et al. 2017, section 2",
        ge=0.0,
        lt=1.0,
        advanced=True,
    )
    fit_batch: int = param(
        50, "Batch size", "Training images a step, at most.", ge=1, le=100_000, advanced=True
    )

    def design(self) -> "Design":
        from engine.attacks.universal import universal

        return universal(self)


class Patch(Fitted):
    """A picture that is put over a part of every image, anywhere in it."""

    kind: Literal["patch"] = "patch"
    cite: ClassVar[str] = "Brown et al. 2017, section 2"
    norm: Literal["free"] = param(
        "free", "Norm", "Nothing bounds the change of a value; its Euclidean length is reported."
    )
    eps: float = param(
        0.1,
        "Area",
        "Share of the image that the patch covers at its largest.",
        ge=0.0,
        le=1.0,
    )
    shape: Literal["circle", "box"] = param(
        "circle", "Shape", "Outline of the patch; a box is square."
    )
    place: Literal["anywhere", "centre", "top_left", "top_right", "bottom_left", "bottom_right"] = (
        param("anywhere", "Place", "Where it lies; anywhere is another place on each image.")
    )
    rotation: float = param(
        22.5,
        "Largest rotation",
        "Either way; it is turned by another angle on each image.",
        unit="degrees",
        ge=0.0,
        le=180.0,
    )
    smallest: float = param(
        1.0,
        "Smallest size",
        "Share of its side that the patch is shrunk to at most, another one on each image.",
        ge=0.1,
        le=1.0,
    )
    step_size: float = param(
        0.1,
        "Step size",
        "Length of the first step of a value. Steps shrink to none.",
        gt=0.0,
        le=1.0,
        advanced=True,
    )
    clip: float = param(
        0.7,
        "Clipped loss",
        "An image whose loss is above it has no more say in a step by gradient.",
        gt=0.0,
        le=1e6,
        advanced=True,
    )

    def design(self) -> "Design":
        from engine.attacks.patch import patch

        return patch(self)
