"""The evaluation that can be asked for, and the kinds of adversarial training."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from engine.attacks.spec import APGD, KL, PGD, AttackSpec, MinimalNorm, Norm, VirtualAdversarial
from engine.data.spec import DataSpec
from engine.task import OneOf, Spec, Steps, Task, param
from engine.training.spec import AdversarialTraining, Watch

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.robustness.certified import Prover
    from engine.robustness.searching import Subject
    from engine.training.defence import Defence, Setting

LEAST = r"^\s*>=\s*(0(\.\d+)?|1(\.0+)?|\.\d+)\s*$"
"""A lower bound of a fraction, as in ">= 0.85"."""


class Require(Spec):
    """What a model must reach, as in ">= 0.85"; judged on the lower end of the 95 % interval."""

    clean_accuracy: str | None = param(
        None,
        "Clean accuracy",
        "The least that counts as good, as in >= 0.97; empty asks for nothing.",
        pattern=LEAST,
    )
    robust_accuracy: str | None = param(
        None,
        "Robust accuracy",
        "The least that counts as good, as in >= 0.85; empty asks for nothing.",
        pattern=LEAST,
    )
    despite_flags: bool = param(
        False,
        "Despite flags",
        "Whether a robust accuracy that the checks doubt is good enough.",
        advanced=True,
    )


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
    def prover(self, on: Subject) -> Prover:
        """What certifies a subject. Raises BadInput if its model cannot be certified."""


class Smoothing(Certificate):
    """Randomised smoothing: certifies the class that the model gives most often to the image with
    Gaussian noise (Cohen, Rosenfeld and Kolter 2019)."""

    kind: Literal["smoothing"] = "smoothing"
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

    def prover(self, on: Subject) -> Prover:
        from engine.robustness.smoothing import SmoothingProver

        return SmoothingProver(self, on)


class IntervalBounds(Certificate):
    """Interval bound propagation: proves that no image of the ball is answered otherwise. It proves
    little of a model that was not trained for it (Gowal et al. 2018)."""

    kind: Literal["ibp"] = "ibp"
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

    def prover(self, on: Subject) -> Prover:
        from engine.robustness.ibp import IntervalProver

        return IntervalProver(self, on)


class Evaluate(Task):
    """Judge a model: clean and robust accuracy against several attacks, over all radii, under
    corruptions and noise, and whether the evaluation itself can be believed.
    """

    title: ClassVar[str] = "Evaluate"

    kind: Literal["evaluate"] = "evaluate"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    attacks: tuple[OneOf[AttackSpec], ...] = param(
        (PGD(), APGD(), APGD(loss="dlr")),
        "Attacks",
        "One after the other, each on the samples that are still correct.",
        min_length=1,
        max_length=32,
    )
    require: Require | None = param(
        None, "Requirement", "What the model must reach; if it does not, the run is rejected."
    )
    data: OneOf[DataSpec] | None = param(
        None, "Data", "Another data set than the model was trained on.", advanced=True
    )
    samples: int = param(500, "Samples", "How many test images are attacked; 0 takes all.", ge=0)
    every: bool = param(
        False,
        "Every attack on all",
        "Attacks every sample with every attack, so that they can be compared.",
    )
    through_transforms: bool = param(
        True,
        "Straight through",
        "Where the model hides its gradients by a transform or rounded activations, every attack "
        "by gradients is run once more straight through these (BPDA).",
        cite="Athalye, Carlini and Wagner 2018, section 4.1",
        advanced=True,
    )
    curve: int = param(
        20,
        "Curve points",
        "Radii at which robust accuracy is known, evenly spaced; 0 leaves the curve out.",
        ge=0,
        le=200,
    )
    checked: int = param(
        200,
        "Checked samples",
        "How many samples the checks of the evaluation attack in other ways; 0 leaves these out.",
        ge=0,
        le=10_000,
    )
    queries: int = param(
        500,
        "Queries of the check",
        "Images that the check without gradients may ask about for each sample.",
        ge=10,
        advanced=True,
    )
    corruptions: bool = param(
        True,
        "Corruptions",
        "Accuracy under everyday corruptions of the images, in five severities.",
        cite="Hendrycks and Dietterich 2019",
    )
    noise: bool = param(
        True, "Noise", "Accuracy under noise of the images and noise of the weights."
    )
    certify: OneOf[Certificate] | None = param(
        None,
        "Certificate",
        "Proves how far images can be moved, and attacks what was proved: a contradiction fails "
        "the run.",
    )
    also: tuple[str, ...] = param(
        (),
        "Other seeds",
        "Runs of the same recipe, by name or id: how far they agree.",
        reference=True,
        advanced=True,
    )
    show: int = param(24, "Shown samples", "How many are shown and can be replayed.", ge=0, le=256)
    batch_size: int = param(
        500,
        "Batch size",
        "Samples attacked together; halved when memory runs out.",
        ge=1,
        advanced=True,
    )

    @model_validator(mode="after")
    def _every_attack_has_a_radius(self) -> Self:
        for attack, radius in zip(self.attacks, self.radii(), strict=True):
            if isinstance(attack, MinimalNorm) and radius == math.inf:
                raise ValueError(
                    f"attacks: {attack.kind} looks for the smallest perturbation, and breaks every "
                    "model at some size; say with eps at which one it counts, or add an attack "
                    f"with an eps in the same norm, {attack.norm}"
                )
        return self

    def radii(self) -> tuple[float, ...]:
        """The radius at which each attack is judged: its own; of a search for the smallest
        perturbation without one, the largest of those that attacks of its norm have; else, and in
        the norm free, where eps is a strength and bounds no size, none, which is infinite."""
        known: dict[str, float] = {}
        bounded = [a.eps is not None and a.norm != "free" for a in self.attacks]
        for attack, bound in zip(self.attacks, bounded, strict=True):
            if bound:
                known[attack.norm] = max(attack.eps or 0.0, known.get(attack.norm, 0.0))
        return tuple(
            attack.eps or 0.0 if bound else known.get(attack.norm, math.inf)
            for attack, bound in zip(self.attacks, bounded, strict=True)
        )

    def run(self, bench: Bench) -> Steps:
        from engine.robustness.evaluating import run_evaluate

        return run_evaluate(self, bench)


# --- adversarial training -------------------------------------------------------------------------


class AgainstAttack(AdversarialTraining):
    """Training on the adversarial examples that an attack finds."""

    attack: OneOf[AttackSpec] = param(
        PGD(steps=7, step_size=0.1), "Attack", "Makes the adversarial examples of each batch."
    )
    mixture: tuple[OneOf[AttackSpec], ...] = param(
        (),
        "Further attacks",
        "Each step draws one of them all; for a model that is to withstand several.",
        max_length=32,
        advanced=True,
    )
    shares: tuple[float, ...] = param(
        (),
        "Shares",
        "How often the attack and each further one is drawn, in this order; empty is equal.",
        advanced=True,
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        expected = 1 + len(self.mixture)
        if self.shares and len(self.shares) != expected:
            raise ValueError(
                f"there are {expected} attacks, and {len(self.shares)} shares; expected one each"
            )
        if self.shares and (min(self.shares) < 0 or not sum(self.shares)):
            raise ValueError("shares must be 0 or more, and one of them above 0")
        return self

    def budget(self) -> tuple[Norm, float]:
        return self.attack.norm, self.attack.eps or 0.0

    def advice(self) -> str:
        return " ".join(filter(None, (a.advice() for a in (self.attack, *self.mixture))))


class Weighted(AgainstAttack):
    """A loss of two parts."""

    weight: float = param(
        1.0, "Weight", "Of the adversarial loss beside the clean one.", ge=0.0, le=1000.0
    )
    weight_ramp: float = param(
        0.0,
        "Weight ramp",
        "Epochs over which the weight rises from zero; 0 is off.",
        unit="epochs",
        ge=0.0,
        le=1_000_000.0,
        advanced=True,
    )

    def weight_at(self, epoch: float) -> float:
        """The weight at a place of the run."""
        return self.weight * min(1.0, epoch / self.weight_ramp) if self.weight_ramp else self.weight


class Mixed(Weighted):
    """Loss = clean + weight * adversarial (Goodfellow et al. 2015, section 6)."""

    kind: Literal["mixed"] = "mixed"

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.examples import MixedDefence

        return MixedDefence(self, setting)


class PGDAT(AgainstAttack):
    """Adversarial examples in place of the images (Madry et al. 2018, section 2)."""

    kind: Literal["pgd_at"] = "pgd_at"

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.examples import AdversarialOnly

        return AdversarialOnly(self, setting)


class TRADES(Weighted):
    """Clean loss + weight * divergence between clean and perturbed prediction (Zhang et al. 2019,
    equation 5)."""

    kind: Literal["trades"] = "trades"
    attack: OneOf[AttackSpec] = param(
        KL(steps=10, step_size=0.075), "Attack", "Makes the adversarial examples of each batch."
    )
    weight: float = param(
        6.0, "Beta", "Weight of the divergence; their 1 / lambda.", ge=0.0, le=1000.0
    )

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.trades import TradesDefence

        return TradesDefence(self, setting)


class MART(Weighted):
    """Boosted adversarial loss + weight * divergence, which counts most where the clean image is
    misclassified (Wang et al. 2020, equation 11)."""

    kind: Literal["mart"] = "mart"
    weight: float = param(5.0, "Lambda", "Weight of the divergence.", ge=0.0, le=1000.0)

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.trades import MartDefence

        return MartDefence(self, setting)


class Interpolated(Weighted):
    """Half the loss on blends of images, half on blends of their adversarial examples (Lamb et al.
    2019, algorithm 1)."""

    kind: Literal["interpolated"] = "interpolated"
    mixup: float = param(
        1.0,
        "Mixup",
        "Both parameters of the beta distribution that blends are drawn from; 1 is uniform.",
        gt=0.0,
        le=100.0,
    )

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.examples import InterpolatedDefence

        return InterpolatedDefence(self, setting)


class SemiSupervised(Weighted):
    """Learns from labels where there are some, and from stability everywhere."""

    labelled: float = param(
        1.0,
        "Labelled share",
        "Share of the training images whose labels are used.",
        gt=0.0,
        le=1.0,
    )


class VAT(SemiSupervised):
    """Clean loss + weight * divergence along the virtual adversarial direction, which needs no
    labels (Miyato et al. 2018, section 3)."""

    kind: Literal["vat"] = "vat"
    attack: OneOf[AttackSpec] = param(
        VirtualAdversarial(), "Attack", "Makes the adversarial examples of each batch."
    )
    weight: float = param(
        1.0, "Weight", "Of the divergence beside the clean loss.", ge=0.0, le=1000.0
    )

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.unlabelled import VatDefence

        return VatDefence(self, setting)


class UAT(SemiSupervised):
    """Adversarial training on unlabelled images: stable predictions, or the labels that the model
    it starts from gives (Alayrac et al. 2019, section 3)."""

    kind: Literal["uat"] = "uat"
    attack: OneOf[AttackSpec] = param(
        KL(steps=10, step_size=0.075), "Attack", "Makes the adversarial examples of each batch."
    )
    targets: Literal["online", "fixed", "both"] = param(
        "online",
        "Targets",
        "online: the model's own clean predictions (UAT-OT). fixed: classes given once by the "
        "model that the run starts from (UAT-FT). both: their sum (UAT++).",
    )
    weight: float = param(
        5.0, "Weight", "Of the part without labels beside the clean loss.", ge=0.0, le=1000.0
    )

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.unlabelled import UatDefence

        return UatDefence(self, setting)


class IBP(AdversarialTraining):
    """Training on the worst logits that interval bounds allow, which can then be proved (Gowal et
    al. 2018)."""

    kind: Literal["ibp"] = "ibp"
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

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.ibp import IBPDefence

        return IBPDefence(self, setting)


class OneStep(AdversarialTraining):
    """Training on examples that cost one gradient."""

    eps: float = param(
        0.3, "Epsilon", "Radius of the ball: the largest perturbation allowed.", ge=0.0, le=1000.0
    )
    watch: Watch = param(
        Watch(),
        "Watch",
        "Stops a run whose robustness collapses, and keeps the best epoch's model.",
        advanced=True,
    )

    def budget(self) -> tuple[Norm, float]:
        return "linf", self.eps


class Fast(OneStep):
    """One signed gradient step from a random start (Wong, Rice and Kolter 2020, algorithm 3)."""

    kind: Literal["fast"] = "fast"
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

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.onestep import FastDefence

        return FastDefence(self, setting)


class Free(OneStep):
    """Several steps on each batch; the gradient of each moves weights and perturbation alike
    (Shafahi et al. 2019, algorithm 1)."""

    kind: Literal["free_at"] = "free_at"
    replays: int = param(
        8,
        "Replays",
        "Steps on each batch. An epoch takes so many times as long: give the run that many times "
        "fewer epochs.",
        cite="Shafahi et al. 2019, section 4",
        ge=1,
        le=1000,
    )

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.onestep import FreeDefence

        return FreeDefence(self, setting)


class GaussianNoise(AdversarialTraining):
    """Gaussian noise on every image, for a smoothed classifier (Cohen, Rosenfeld and Kolter 2019,
    section 3.3)."""

    kind: Literal["gaussian"] = "gaussian"
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

    def defence(self, setting: Setting) -> Defence:
        from engine.robustness.noisy import NoisyDefence

        return NoisyDefence(self, setting)
