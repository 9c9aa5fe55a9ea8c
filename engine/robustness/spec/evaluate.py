"""The evaluation that can be asked for."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.attacks.spec import APGD, PGD, AttackSpec, MinimalNorm
from engine.attacks.spec.task import SAMPLES, SHOWN, TOGETHER
from engine.data.spec import DataSpec
from engine.robustness.spec.certificate import Certificate
from engine.task import OneOf, Spec, Steps, Task, param

if TYPE_CHECKING:
    from engine.bench import Bench


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
    samples: int = SAMPLES
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
    show: int = SHOWN
    batch_size: int = TOGETHER

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

    def run(self, bench: "Bench") -> Steps:
        from engine.robustness.evaluating import run_evaluate

        return run_evaluate(self, bench)
