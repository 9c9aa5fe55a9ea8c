"""Training on what an attack finds."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.attacks.spec import KL, PGD, AttackSpec, Fitted, Norm, VirtualAdversarial
from engine.task import OneOf, param
from engine.training.spec import AdversarialTraining

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.training.defence import Defence, Setting


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
    def _each_batch_has_examples_of_its_own(self) -> Self:
        for attack in (self.attack, *self.mixture):
            if isinstance(attack, Fitted):
                raise ValueError(
                    f"{attack.kind} has one perturbation for all images, which is fitted to a "
                    "model as it is; a training changes it with every step. Train against an "
                    "attack on single images, such as pgd, and evaluate with this one"
                )
        return self

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

    def ready(self, bench: "Bench") -> Self:
        mixture = tuple(attack.ready(bench) for attack in self.mixture)
        return self.model_copy(update={"attack": self.attack.ready(bench), "mixture": mixture})

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
    """Loss = clean + weight * adversarial."""

    kind: Literal["mixed"] = "mixed"
    cite: ClassVar[str] = "Goodfellow, Shlens and Szegedy 2015, section 6"

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.examples import MixedDefence

        return MixedDefence(self, setting)


class PGDAT(AgainstAttack):
    """Adversarial examples in place of the images."""

    kind: Literal["pgd_at"] = "pgd_at"
    cite: ClassVar[str] = "Madry et al. 2018, section 2"

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.examples import AdversarialOnly

        return AdversarialOnly(self, setting)


class TRADES(Weighted):
    """Clean loss + weight * divergence between clean and perturbed prediction."""

    kind: Literal["trades"] = "trades"
    cite: ClassVar[str] = "Zhang et al. 2019, equation 5"
    attack: OneOf[AttackSpec] = param(
        KL(steps=10, step_size=0.075), "Attack", "Makes the adversarial examples of each batch."
    )
    weight: float = param(
        6.0, "Beta", "Weight of the divergence; their 1 / lambda.", ge=0.0, le=1000.0
    )

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.trades import TradesDefence

        return TradesDefence(self, setting)


class MART(Weighted):
    """Boosted adversarial loss + weight * divergence, which counts most where the clean image is
    misclassified."""

    kind: Literal["mart"] = "mart"
    cite: ClassVar[str] = "Wang et al. 2020, equation 11"
    weight: float = param(5.0, "Lambda", "Weight of the divergence.", ge=0.0, le=1000.0)

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.trades import MartDefence

        return MartDefence(self, setting)


class Interpolated(Weighted):
    """Half the loss on blends of images, half on blends of their adversarial examples."""

    kind: Literal["interpolated"] = "interpolated"
    cite: ClassVar[str] = "Lamb et al. 2019, algorithm 1"
    mixup: float = param(
        1.0,
        "Mixup",
        "Both parameters of the beta distribution that blends are drawn from; 1 is uniform.",
        gt=0.0,
        le=100.0,
    )

    def defence(self, setting: "Setting") -> "Defence":
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
    labels."""

    kind: Literal["vat"] = "vat"
    cite: ClassVar[str] = "Miyato et al. 2018, section 3"
    attack: OneOf[AttackSpec] = param(
        VirtualAdversarial(), "Attack", "Makes the adversarial examples of each batch."
    )
    weight: float = param(
        1.0, "Weight", "Of the divergence beside the clean loss.", ge=0.0, le=1000.0
    )

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.unlabelled import VatDefence

        return VatDefence(self, setting)


class UAT(SemiSupervised):
    """Adversarial training on unlabelled images: stable predictions, or the labels that the model
    it starts from gives."""

    kind: Literal["uat"] = "uat"
    cite: ClassVar[str] = "Alayrac et al. 2019, section 3"
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

    def defence(self, setting: "Setting") -> "Defence":
        from engine.robustness.unlabelled import UatDefence

        return UatDefence(self, setting)
