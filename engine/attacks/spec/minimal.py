"""Searches for the smallest perturbation by gradients; FAB stands in `autoattack`."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import MinimalNorm, Rounds, norm_field
from engine.task import param


class DeepFool(MinimalNorm):
    """Steps to the nearest class boundary of the linearised model, until it is crossed."""

    kind: Literal["deepfool"] = "deepfool"
    cite: ClassVar[str] = (
        "Moosavi-Dezfooli, Fawzi and Frossard 2016, algorithm 2; in linf section 3.3"
    )
    norm: Literal["l2", "linf"] = norm_field("l2")
    steps: int = param(100, "Steps", "Steps at most; few samples need ten.", ge=1, le=100_000)
    overshoot: float = param(
        0.02, "Overshoot", "How much further than the estimated boundary it goes.", ge=0.0, le=10.0
    )
    classes: int = param(
        10,
        "Classes",
        "How many of the most likely classes are looked at, the true one among them.",
        ge=2,
        le=100_000,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.deepfool import deepfool

        return (deepfool(self),)


class ConstantSearch(MinimalNorm):
    """A search for the smallest perturbation that weighs its size against the margin by a constant
    c, found by bisection for each sample."""

    steps: int = param(1000, "Steps", "Most steps for one constant.", ge=1, le=100_000)
    searches: int = param(
        9, "Search steps", "How many constants c are tried for a sample.", ge=1, le=100
    )
    constant: float = param(
        0.001, "First constant", "The weight c that the search begins with.", gt=0.0, le=1e9
    )
    confidence: float = param(
        0.0,
        "Confidence",
        "By how much the winning logit must lead; an example that wins by less does not count.",
        ge=0.0,
        le=1e6,
    )
    abort_early: bool = param(
        True,
        "Abort early",
        "Goes on to the next constant when a tenth of the steps has brought no progress.",
        advanced=True,
    )

    def lead(self) -> float:
        return self.confidence


class CarliniWagner(ConstantSearch):
    """Minimises squared distance + c x missing margin by Adam, and searches for the best c."""

    kind: Literal["carliniwagner"] = "carliniwagner"
    cite: ClassVar[str] = "Carlini and Wagner 2017, sections V-B and VI-A"
    norm: Literal["l2"] = norm_field("l2")
    step_size: float = param(0.01, "Step size", "Learning rate of Adam.", gt=0.0, le=1000.0)

    def rounds(self) -> Rounds:
        from engine.attacks.carliniwagner import carliniwagner

        return (carliniwagner(self),)


class DDN(MinimalNorm):
    """Gradient steps on a sphere that shrinks where they succeed and grows where they fail."""

    kind: Literal["ddn"] = "ddn"
    cite: ClassVar[str] = "Rony et al. 2019, algorithm 1"
    norm: Literal["l2"] = norm_field("l2")
    steps: int = param(100, "Steps", "Gradient steps.", ge=1, le=100_000)
    gamma: float = param(
        0.05, "Gamma", "Share by which the radius changes in a step.", gt=0.0, lt=1.0
    )
    first_radius: float = param(1.0, "First radius", "Radius at the start.", gt=0.0, le=1000.0)
    levels: int | None = param(
        None,
        "Levels",
        "Values are rounded to so many levels, 256 for images of 8 bits; empty does not round.",
        ge=2,
        le=65536,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.ddn import ddn

        return (ddn(self),)


class FMN(MinimalNorm):
    """Gradient steps inside a ball that follows the boundary."""

    kind: Literal["fmn"] = "fmn"
    cite: ClassVar[str] = "Pintor et al. 2021, algorithm 1"
    norm: Literal["l0", "l1", "l2", "linf"] = norm_field("l2")
    steps: int = param(100, "Steps", "Gradient steps.", ge=1, le=100_000)
    step_size: float = param(
        1.0,
        "Step size",
        "Length of the first step, in l2; the last is a hundredth of it.",
        gt=0.0,
        le=1000.0,
    )
    gamma: float = param(
        0.05, "Gamma", "Share by which the radius changes in a step.", gt=0.0, lt=1.0
    )

    def rounds(self) -> Rounds:
        from engine.attacks.fmn import fmn

        return (fmn(self),)


class EAD(ConstantSearch):
    """Minimises squared distance + beta x l1 distance + c x missing margin, and searches for c."""

    kind: Literal["ead"] = "ead"
    cite: ClassVar[str] = "Chen et al. 2018, algorithm 1"
    norm: Literal["l1"] = norm_field("l1")
    step_size: float = param(
        0.01, "Step size", "Length of the first step; it falls to zero.", gt=0.0, le=1000.0
    )
    beta: float = param(0.01, "Beta", "Weight of the l1 distance.", ge=0.0, le=1000.0)
    decision: Literal["elastic", "l1"] = param(
        "elastic",
        "Decision rule",
        "Which example is the smallest: by squared distance + beta x l1 distance, or by l1 alone.",
    )

    def rounds(self) -> Rounds:
        from engine.attacks.ead import ead

        return (ead(self),)


class JSMA(MinimalNorm):
    """Changes the two values at a time that most help one class and hurt the others."""

    kind: Literal["jsma"] = "jsma"
    cite: ClassVar[str] = "Papernot et al. 2016, algorithms 2 and 3"
    norm: Literal["l0"] = norm_field("l0")
    theta: float = param(
        1.0, "Theta", "By how much a value changes; negative darkens.", ge=-1.0, le=1.0
    )
    gamma: float = param(0.1, "Gamma", "Share of the values that may change.", gt=0.0, le=1.0)
    steps: int = param(
        1000, "Steps", "Most pairs of values that are changed.", ge=1, le=100_000, advanced=True
    )
    aims: int = param(
        3,
        "Aims",
        "How many classes an untargeted attack aims at, the most likely ones first.",
        ge=1,
        le=1000,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.jsma import jsma

        if self.targeted:
            return (jsma(self, None),)
        return tuple(jsma(self, rank) for rank in range(1, self.aims + 1))
