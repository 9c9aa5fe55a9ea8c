"""The ensemble AutoAttack, and its parts: APGD, FAB and Square."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import FixedBudget, MinimalNorm, Rounds, norm_field
from engine.task import param


class APGD(FixedBudget):
    """Projected gradient ascent with momentum, which finds its step sizes itself."""

    kind: Literal["apgd"] = "apgd"
    cite: ClassVar[str] = (
        "Croce and Hein 2020, Reliable evaluation, algorithm 1; in l1 Croce and Hein 2021, "
        "algorithm 1"
    )
    norm: Literal["linf", "l2", "l1"] = norm_field("linf")
    steps: int = param(100, "Steps", "Gradient steps of one restart.", ge=1, le=100_000)
    restarts: int = param(
        1, "Restarts", "Further starts for the samples that are still correct.", ge=1, le=1000
    )
    loss: Literal["cross_entropy", "dlr"] = param(
        "cross_entropy",
        "Loss",
        "What is climbed; dlr is the difference of logits ratio, which does not depend on their "
        "scale.",
    )
    targets: int = param(
        0,
        "Classes aimed at",
        "How many of the likeliest wrong classes the loss aims at, one after the other; 0 aims at "
        "none.",
        ge=0,
        le=100_000,
    )
    eot_iter: int = param(
        1,
        "Passes per step",
        "Passes whose gradients are averaged, for models that draw at random.",
        ge=1,
        le=10_000,
        advanced=True,
    )
    rho: float = param(
        0.75,
        "Rho",
        "Share of steps that have to raise the loss for the step size to stay.",
        ge=0.0,
        le=1.0,
        advanced=True,
    )
    larger_radii: bool = param(
        False,
        "Larger radii first",
        "In l1 the first 60 % of the steps are made in balls of 3 and 2 times the radius.",
        cite="Croce and Hein 2021, section 3.3",
        advanced=True,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.apgd import apgd

        return apgd(self)

    def advice(self, classes: int | None = None) -> str:
        targets = bool(self.targets) or self.targeted
        return _few_classes(classes, targets) if self.loss == "dlr" else ""


class FAB(MinimalNorm):
    """Steps onto the linearised boundary that stay near the clean image."""

    kind: Literal["fab"] = "fab"
    cite: ClassVar[str] = (
        "Croce and Hein 2020, Minimally distorted adversarial examples, algorithm 1"
    )
    norm: Literal["linf", "l2", "l1"] = norm_field("linf")
    steps: int = param(100, "Steps", "Gradient steps of one restart.", ge=1, le=100_000)
    restarts: int = param(
        1, "Restarts", "Searches for each sample; all but the first start at noise.", ge=1, le=1000
    )
    targets: int = param(
        0,
        "Classes aimed at",
        "How many of the likeliest wrong classes it goes to, one after the other; 0 goes to the "
        "nearest, at the price of a gradient for each class.",
        ge=0,
        le=100_000,
    )
    alpha_max: float = param(
        0.1,
        "Largest bias",
        "How much of a step may be drawn towards the clean image.",
        ge=0.0,
        le=1.0,
        advanced=True,
    )
    eta: float = param(
        1.05, "Overshoot", "Length of a step onto the boundary.", ge=1.0, le=10.0, advanced=True
    )
    beta: float = param(
        0.9,
        "Step back",
        "What is left of a perturbation that has passed the boundary.",
        gt=0.0,
        lt=1.0,
        advanced=True,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.fab import fab

        return fab(self)


class Square(FixedBudget):
    """Random search that recolours a square at a time; needs logits, but no gradients."""

    kind: Literal["square"] = "square"
    cite: ClassVar[str] = (
        "Andriushchenko et al. 2020, algorithms 1 to 3; in l1 Croce and Hein 2021, section 4"
    )
    norm: Literal["linf", "l2", "l1"] = norm_field("linf")
    steps: int = param(
        5000, "Steps", "Squares that are tried in one restart, a query each.", ge=1, le=10_000_000
    )
    restarts: int = param(
        1, "Restarts", "Further starts for the samples that are still correct.", ge=1, le=1000
    )
    share: float = param(
        0.8, "First size", "Share of the image that the first squares cover.", gt=0.0, le=1.0
    )
    rescale_schedule: bool = param(
        True,
        "Fit schedule to steps",
        "Squares shrink as they would in 10,000 steps; otherwise after fixed numbers of steps.",
        advanced=True,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.square import square

        return square(self)


class AutoAttack(FixedBudget):
    """APGD, FAB and Square one after the other, as published; the usual measure of robustness."""

    kind: Literal["autoattack"] = "autoattack"
    cite: ClassVar[str] = "Croce and Hein 2020, Reliable evaluation, section 6"
    norm: Literal["linf", "l2", "l1"] = norm_field("linf")
    version: Literal["standard", "plus", "rand"] = param(
        "standard",
        "Version",
        "standard: APGD, targeted APGD, targeted FAB, Square; plus: more restarts; rand: for "
        "models that draw at random.",
        cite="Croce and Hein 2020, section 6",
    )

    def rounds(self) -> Rounds:
        from engine.attacks.autoattack import autoattack

        return autoattack(self)

    def advice(self, classes: int | None = None) -> str:
        return _few_classes(classes, self.version != "rand" or self.targeted)


def _few_classes(classes: int | None, targets: bool) -> str:
    """What the DLR loss cannot do, which divides by a distance to the third largest logit and, with
    `targets`, to the fourth."""
    least = 4 if targets else 3
    if classes is None or classes >= least:
        return ""
    instead = "the logits' margin, not divided" if classes == 2 else "the third largest logit alone"
    return (
        f"The DLR loss needs {least} classes or more, and the model has {classes}: {instead}, "
        "is climbed in its place."
    )
