"""Training against perturbations without an attack: by one gradient, by bounds, by noise."""

from typing import TYPE_CHECKING, ClassVar, Literal

from engine.attacks.spec import Norm
from engine.attacks.spec.base import RADIUS
from engine.task import param
from engine.training.spec import AdversarialTraining, Watch

if TYPE_CHECKING:
    from engine.training.defence import Defence, Setting


class IBP(AdversarialTraining):
    """Training on the worst logits that interval bounds allow, which can then be proved."""

    kind: Literal["ibp"] = "ibp"
    cite: ClassVar[str] = "Gowal et al. 2018, section 3"
    eps: float = param(
        0.4,
        "Epsilon",
        "Radius of the ball in linf; somewhat larger than the one that is to be proved.",
        cite="Gowal et al. 2018, section 5",
        ge=0.0,
        le=1.0,
    )
    begin: float = param(
        1.0, "Begin", "Epochs on the clean loss alone.", unit="epochs", ge=0.0, le=1_000_000.0
    )
    eps_ramp: float = param(
        10.0,
        "Epsilon ramp",
        "Epochs over which epsilon rises from zero and the share of the clean loss falls from one.",
        unit="epochs",
        ge=0.0,
        le=1_000_000.0,
    )
    clean_share: float = param(
        0.5, "Clean share", "Of the clean loss in the end; the rest is the bounds'.", ge=0.0, le=1.0
    )

    def risen(self, epoch: float) -> float:
        return super().risen(epoch - self.begin) if epoch >= self.begin else 0.0

    def budget(self) -> tuple[Norm, float]:
        return "linf", self.eps

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.ibp import IBPDefence

        return IBPDefence(self, setting)


class OneStep(AdversarialTraining):
    """Training on examples that cost one gradient."""

    eps: float = param(0.3, "Epsilon", RADIUS, ge=0.0, le=1.0)
    watch: Watch = param(
        Watch(),
        "Watch",
        "Stops a run whose robustness collapses, and keeps the best epoch's model.",
        advanced=True,
    )

    def budget(self) -> tuple[Norm, float]:
        return "linf", self.eps


class Fast(OneStep):
    """One signed gradient step from a random start."""

    kind: Literal["fast"] = "fast"
    cite: ClassVar[str] = "Wong, Rice and Kolter 2020, algorithm 3"
    alpha: float = param(
        0.375,
        "Step size",
        "Length of the step, usually 1.25 epsilon.",
        cite="Wong, Rice and Kolter 2020, section 4",
        gt=0.0,
        le=1000.0,
    )
    keep: bool = param(
        False,
        "Keep perturbations",
        "From the second epoch on the step starts where the image's last one ended. Takes a "
        "smaller step, such as 0.4 epsilon, and a byte of memory for each value of the training "
        "images.",
        cite="Zheng et al. 2020",
    )

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.onestep import FastDefence

        return FastDefence(self, setting)


class Free(OneStep):
    """Several steps on each batch; the gradient of each moves weights and perturbation alike."""

    kind: Literal["free_at"] = "free_at"
    cite: ClassVar[str] = "Shafahi et al. 2019, algorithm 1"
    replays: int = param(
        8,
        "Replays",
        "Steps on each batch. An epoch takes so many times as long: give the run that many times "
        "fewer epochs.",
        cite="Shafahi et al. 2019, section 4",
        ge=1,
        le=1000,
    )

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.onestep import FreeDefence

        return FreeDefence(self, setting)


class GaussianNoise(AdversarialTraining):
    """Gaussian noise on every image, for a smoothed classifier."""

    kind: Literal["gaussian"] = "gaussian"
    cite: ClassVar[str] = "Cohen, Rosenfeld and Kolter 2019, section 3.3"
    sigma: float = param(
        0.5,
        "Sigma",
        "Standard deviation of the noise in image units, as the certificate will take it. Unlike "
        "that of the augmentation it is not cut off at black and white.",
        gt=0.0,
        le=100.0,
    )
    draws: int = param(
        1, "Draws", "Noisy copies of each image in a step, each with its own noise.", ge=1, le=1000
    )

    def budget(self) -> tuple[Norm, float]:
        return "l2", self.sigma

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.noisy import NoisyDefence

        return NoisyDefence(self, setting)
