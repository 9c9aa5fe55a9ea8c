"""The evaluation that can be asked for."""

import math
from collections.abc import Mapping
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
SHARE = 'a share of 1 as in ">= 0.5"'
"""The same in words."""


class Require(Spec):
    """What a model must reach, as in ">= 0.85"; judged on the lower end of the 95 % interval.
    Certified accuracy is that of the classifier that is certified, on the samples that are."""

    clean_accuracy: str | None = param(
        None,
        "Clean accuracy",
        "The least that counts as good, as in >= 0.97; empty asks for nothing.",
        pattern=LEAST,
        form=SHARE,
    )
    robust_accuracy: str | None = param(
        None,
        "Robust accuracy",
        "The least that counts as good, as in >= 0.85; empty asks for nothing.",
        pattern=LEAST,
        form=SHARE,
    )
    certified_accuracy: str | None = param(
        None,
        "Certified accuracy",
        "The least share of the certified samples that must be right and proved, as in >= 0.9; "
        "empty asks for nothing.",
        pattern=LEAST,
        form=SHARE,
    )
    certified_radius: float | None = param(
        None,
        "Certified radius",
        "Where certified accuracy is judged, in the norm of the certificate; empty is the largest "
        "of its radii.",
        ge=0.0,
    )
    despite_flags: bool = param(
        False,
        "Despite flags",
        "Whether a robust accuracy that the checks doubt is good enough.",
        advanced=True,
    )

    @model_validator(mode="after")
    def _a_radius_is_of_something(self) -> Self:
        if self.certified_radius is not None and self.certified_accuracy is None:
            raise ValueError(
                "certified_radius says where certified accuracy is judged, and none is required: "
                'give certified_accuracy too, as in ">= 0.9", or leave the radius out'
            )
        return self


class Evaluate(Task):
    """Judge a model: clean and robust accuracy against several attacks, over all radii, under
    corruptions and noise, and whether the evaluation itself can be believed.
    """

    title: ClassVar[str] = "Evaluate"
    summary_help: ClassVar[Mapping[str, str]] = {
        "unmet": "what was required and is not so; the run is rejected then",
        "clean_accuracy": "share of the samples that the model gets right",
        "clean_accuracy_interval": "where that lies with 95 % confidence",
        "robust_accuracy": "share that it gets right after every attack, and after what the curve "
        "and the checks found inside the attacks' radius: the worst case of each sample",
        "robust_accuracy_interval": "where that lies with 95 % confidence",
        "interval": "how intervals were computed",
        "robust_accuracy_by_attack": "after each attack and all before it; with `every`, after it "
        "alone",
        "by_attack": "which of the two that is",
        "flags": "reasons to doubt the robust accuracy (`engine describe flags`)",
        "samples": "how many there were",
        "correct": "how many of them were right before",
        "broken": "how many of those were broken",
        "max_norm": "the largest perturbation, by norm",
        "mean_queries": "images that the model was asked about for a sample, of all attacks",
        "broken_by_curve": "how many of them the curve alone broke, inside the attacks' radius",
        "broken_by_checks": "how many of them the checks alone broke, inside the attacks' radius; "
        "they attack the first samples only (`checked`)",
        "curve_points": "radii at which robust accuracy is known",
        "curve_gradient_evaluations": "images of which a gradient was taken for that",
        "curve_runs": "what it cost, in whole runs of PGD",
        "corruption_accuracy": "mean accuracy over corruptions and severities",
        "certified_accuracy": "share of the certified samples that are right and proved, by radius",
        "certified_accuracy_interval": "where that lies with 95 % confidence",
        "certified_robust_accuracy": "share that the classifier that was certified gets right "
        "after an attack, by radius",
        "certified_samples": "how many samples were certified",
        "abstentions": "how many of them the classifier gave no answer for",
        "contradictions": "proofs that an attack refuted; they fail the run",
        "certified_seconds": "that the proofs took",
        "seconds": "that the attacks took",
        "forward_evaluations": "images that went through the model",
        "gradient_evaluations": "images of which a gradient was taken",
        "nan_count": "answers of the model that held a NaN or Inf",
        "unchecked": "what the checks could not tell, and why",
        "data_changed": "the model may have been trained on images that it is tested on now",
        "partial": "the evaluation was stopped: robust accuracy is an upper bound",
    }

    kind: Literal["evaluate"] = "evaluate"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    attacks: tuple[OneOf[AttackSpec], ...] = param(
        (PGD(), APGD(), APGD(loss="dlr")),
        "Attacks",
        "One after the other, each on the samples that are still correct: the robust accuracy that "
        "is told of each is what is left after it and all before it, unless every attack is run on "
        "all. Of a targeted attack only samples that reach the class aimed at count as broken.",
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
        "Attacks every correct sample with every attack, so that they can be compared: the robust "
        "accuracy of each is then its own.",
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
        "How many samples the checks of the evaluation attack in other ways, in every norm of its "
        "attacks that they know (linf, l2, l1); 0 leaves these out.",
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

    @model_validator(mode="after")
    def _something_can_change(self) -> Self:
        if not any(r and a.eps != 0 for a, r in zip(self.attacks, self.radii(), strict=True)):
            raise ValueError(
                "attacks: with an epsilon of 0 none of them can change anything, and the robust "
                "accuracy would be the clean one; give at least one an eps above 0"
            )
        return self

    @model_validator(mode="after")
    def _what_is_required_is_certified(self) -> Self:
        if self.require is None or self.require.certified_accuracy is None:
            return self
        if self.certify is None:
            raise ValueError(
                "require: nothing proves a certified accuracy; give certify, of the kind ibp or "
                "smoothing, or leave certified_accuracy out"
            )
        if self.require.certified_radius is None and not self.certify.radii:
            raise ValueError(
                "require: at which radius certified accuracy is judged is not said; give "
                "certified_radius, or the certificate some radii"
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

    def certificate(self) -> Certificate | None:
        """The certificate, with the radius that is required among its own."""
        radius = None if self.require is None else self.require.certified_radius
        if self.certify is None or not radius or radius in self.certify.radii:
            return self.certify
        return self.certify.model_copy(update={"radii": (*self.certify.radii, radius)})

    def run(self, bench: "Bench") -> Steps:
        from engine.robustness.evaluating import run_evaluate

        return run_evaluate(self, bench)
