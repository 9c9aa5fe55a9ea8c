"""Proofs of how far an image can be moved."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from engine.attacks.spec import Norm
from engine.task import Spec, param

if TYPE_CHECKING:
    from engine.robustness.certified import Prover
    from engine.robustness.searching import Subject


class Certificate(Spec):
    """A proof of how far an image can be moved without the answer changing."""

    kind: str
    norm: ClassVar[Norm]
    """In which its radii are measured."""
    of_the_model: ClassVar[bool] = True
    """Whether it is about the model as it is, not another classifier that is made of it."""

    samples: int = param(
        100,
        "Certified samples",
        "How many of the evaluation's images are certified, the first of its random order; 0 takes "
        "all.",
        ge=0,
    )
    radii: tuple[float, ...] = param(
        ..., "Radii", "Where certified accuracy is reported, and the classifier attacked."
    )
    steps: int = param(
        20,
        "Steps",
        "Of the attacks on what was certified: one inside every radius that was proved, to "
        "contradict it, and one at each radius above. 0 is none.",
        ge=0,
        le=100_000,
    )

    @field_validator("radii")
    @classmethod
    def _radii_are_sizes(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if any(radius < 0 for radius in radii):
            raise ValueError("a radius must be at least 0")
        return radii

    @abstractmethod
    def prover(self, on: "Subject") -> "Prover":
        """What certifies a subject. Raises BadInput if its model cannot be certified."""


class Smoothing(Certificate):
    """Randomised smoothing: certifies the class that the model gives most often to the image with
    Gaussian noise."""

    kind: Literal["smoothing"] = "smoothing"
    cite: ClassVar[str] = "Cohen, Rosenfeld and Kolter 2019, section 3.2"
    norm: ClassVar[Norm] = "l2"
    of_the_model: ClassVar[bool] = False
    sigma: float = param(
        0.5,
        "Sigma",
        "Standard deviation of the noise in image units: the one that the model was trained with.",
        gt=0.0,
        le=100.0,
    )
    n0: int = param(
        100, "Draws of the guess", "Which class is certified is guessed from so many.", ge=1
    )
    n: int = param(
        100_000,
        "Draws",
        "Passes of the model for each sample, from which the class's probability is bounded. More "
        "prove larger radii.",
        ge=1,
        le=1_000_000_000,
    )
    alpha: float = param(
        0.001,
        "Alpha",
        "Probability with which the certificate of a sample may be wrong.",
        gt=0.0,
        lt=1.0,
    )
    radii: tuple[float, ...] = param(
        (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
        "Radii",
        "Where certified accuracy is reported, and the classifier attacked.",
    )
    draws: int = param(
        16,
        "Draws of the attack",
        "Over so many the probabilities are averaged whose gradient the attack follows.",
        cite="Salman et al. 2019, section 2.2",
        ge=1,
        le=10_000,
        advanced=True,
    )
    votes: int = param(
        1000,
        "Votes",
        "Fresh draws that decide what the smoothed classifier says of a point that an attack "
        "found, or that it abstains.",
        ge=1,
        le=1_000_000_000,
        advanced=True,
    )
    batch_size: int = param(
        250,
        "Batch size",
        "Draws that go through the model together; a GPU takes thousands.",
        ge=1,
        le=1_000_000,
        advanced=True,
    )

    def prover(self, on: "Subject") -> "Prover":
        from engine.robustness.smoothing import SmoothingProver

        return SmoothingProver(self, on)


class IntervalBounds(Certificate):
    """Interval bound propagation: proves that no image of the ball is answered otherwise. It proves
    little of a model that was not trained for it."""

    kind: Literal["ibp"] = "ibp"
    cite: ClassVar[str] = "Gowal et al. 2018, section 3; Mirman, Gehr and Vechev 2018"
    norm: ClassVar[Norm] = "linf"
    samples: int = param(
        0,
        "Certified samples",
        "How many of the evaluation's images are certified, the first of its random order; 0 takes "
        "all.",
        ge=0,
    )
    radii: tuple[float, ...] = param(
        (0.1, 0.2, 0.3), "Radii", "Where certified accuracy is reported, and the model attacked."
    )

    def prover(self, on: "Subject") -> "Prover":
        from engine.robustness.ibp import IntervalProver

        return IntervalProver(self, on)
