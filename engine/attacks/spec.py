"""The attacks that can be asked for, and the task that runs one against a model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from engine.data.spec import DataSpec
from engine.task import OneOf, Spec, Steps, Task, param

if TYPE_CHECKING:
    from pathlib import Path

    from engine.attacks.fitted import Design
    from engine.attacks.method import Method
    from engine.bench import Bench


Norm: TypeAlias = Literal["linf", "l2", "l1", "l0", "free"]
"""How the size of a perturbation is measured. l0 counts the values that changed, each channel of a
pixel apart. `free` is bounded by the box alone: `eps` is then a strength, and sizes are Euclidean.
"""


def _norm(default: Any, cite: str = "") -> Any:
    """The field that says in which norm perturbations are measured."""
    return param(default, "Norm", "How the size of a perturbation is measured.", cite=cite)


class AttackSpec(Spec):
    """How adversarial examples are searched for. Sizes are in the units of the image, [0, 1].

    Every kind also has a `norm`, in which perturbations are measured.
    """

    kind: str
    norm: Norm = _norm(...)
    eps: float | None = param(
        ..., "Epsilon", "Radius of the ball: the largest perturbation allowed."
    )
    targeted: bool = param(
        False,
        "Targeted",
        "Aims at one class (the next one, unless targets are given) instead of any wrong one.",
    )
    max_queries: int | None = param(
        None,
        "Most queries",
        "Images that the model may be asked about for each sample; empty is as many as it takes.",
        ge=1,
        advanced=True,
    )
    max_seconds: float | None = param(
        None,
        "Most seconds",
        "Time after which the attack stops with what it has; the result then depends on the "
        "machine. Empty is as long as it takes.",
        gt=0.0,
        advanced=True,
    )

    through_transforms: bool = param(
        False,
        "Straight through",
        "Takes gradients through input transforms and rounded activations as if these were not "
        "there (BPDA). Without it such a model hides them.",
        cite="Athalye, Carlini and Wagner 2018, section 4.1",
        advanced=True,
    )

    sets_out: ClassVar[bool] = False
    """It sets out from images that break their sample already, if it is given any."""

    @abstractmethod
    def rounds(self) -> tuple[Method[Any], ...]:
        """What the driver runs for this spec, one after the other."""

    def climbs(self) -> bool:
        """Whether it asks for gradients."""
        return any(method.wants != "logits" for method in self.rounds())

    def lead(self) -> float:
        """By how much the winning logit must lead for a sample to count as broken."""
        return 0.0

    def advice(self, classes: int | None = None) -> str:
        """What makes it weaker than it looks, and what to change; empty if nothing is known to.
        classes: of the model, if known."""
        return ""


class FixedBudget(AttackSpec):
    """A search inside a ball of radius `eps`."""

    eps: float = param(
        0.3, "Epsilon", "Radius of the ball: the largest perturbation allowed.", ge=0.0, le=1000.0
    )


class MinimalNorm(AttackSpec):
    """A search for the smallest perturbation."""

    eps: float | None = param(
        None,
        "Epsilon",
        "Only perturbations up to this size count; empty counts all.",
        ge=0.0,
        le=1000.0,
    )


class FGSM(FixedBudget):
    """One step along the sign of the gradient."""

    kind: Literal["fgsm"] = "fgsm"
    norm: Literal["linf", "l2"] = _norm("linf")
    random_start: bool = param(
        False,
        "Random start",
        "Starts at a random point of the ball and steps by 1.25 epsilon instead of epsilon.",
        cite="Wong, Rice and Kolter 2020, section 4",
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.fgsm import fgsm

        return (fgsm(self),)


class PGD(FixedBudget):
    """Projected gradient descent with a random start."""

    kind: Literal["pgd"] = "pgd"
    norm: Literal["linf", "l2", "l1"] = _norm("linf")
    steps: int = param(40, "Steps", "Gradient steps of one restart.", ge=1, le=100_000)
    step_size: float = param(
        0.01, "Step size", "Length of one step in the attack's norm.", gt=0.0, le=1000.0
    )
    random_start: bool = param(True, "Random start", "Starts at a random point of the ball.")
    restarts: int = param(
        1, "Restarts", "Further starts for the samples that are still correct.", ge=1, le=1000
    )
    loss: Literal["cross_entropy", "margin"] = param(
        "cross_entropy",
        "Loss",
        "What is climbed; margin is the Carlini-Wagner difference of logits.",
    )
    sparsity: float = param(
        0.05,
        "Sparsity",
        "In l1: share of the values that the first step changes, those of the largest gradients; "
        "it shrinks to a tenth.",
        cite="Tramer and Boneh 2019, section 4.1",
        gt=0.0,
        le=1.0,
        advanced=True,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.pgd import pgd

        return (pgd(self),) * self.restarts

    def advice(self, classes: int | None = None) -> str:
        """Steps that together are shorter than the radius cannot use the ball. Usual is a step of
        2.5 * eps / steps (Madry et al. 2018, their code for l2)."""
        reach = self.steps * self.step_size
        if reach >= self.eps * (1 - 1e-9):  # 3 steps of .1 are not .3 in floating point
            return ""
        return (
            f"{self.steps} steps of {self.step_size:g} get at most {reach:g} away from their "
            f"start, less than epsilon, {self.eps:g}: the attack cannot use the whole ball, and "
            "the model may look more robust than it is. Take a step size of about "
            f"{2.5 * self.eps / self.steps:.2g} (2.5 x epsilon / steps), or more steps."
        )


class BIM(FixedBudget):
    """Projected gradient descent from the image itself (Kurakin et al. 2017)."""

    kind: Literal["bim"] = "bim"
    norm: Literal["linf", "l2"] = _norm("linf")
    steps: int = param(10, "Steps", "Gradient steps.", ge=1, le=100_000)
    step_size: float | None = param(
        None,
        "Step size",
        "Length of one step in the attack's norm; empty is epsilon / steps.",
        gt=0.0,
        le=1000.0,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.pgd import bim

        return (bim(self),)


class Momentum(FixedBudget):
    """Gradient steps along a rolling sum of gradients."""

    norm: Literal["linf", "l2"] = _norm("linf")
    steps: int = param(10, "Steps", "Gradient steps.", ge=1, le=100_000)
    step_size: float | None = param(
        None,
        "Step size",
        "Length of one step in the attack's norm; empty is epsilon / steps.",
        gt=0.0,
        le=1000.0,
    )
    decay: float = param(
        1.0,
        "Decay",
        "Share of the rolling sum of gradients that each step keeps; 0 is without momentum.",
        ge=0.0,
        le=10.0,
    )


class Diverse(Momentum):
    """Gradients of the image in a random size and place."""

    decay: float = param(
        0.0,
        "Decay",
        "Share of the rolling sum of gradients that each step keeps; 0 is without momentum.",
        ge=0.0,
        le=10.0,
    )
    diversity: float = param(
        0.5,
        "Diversity",
        "Probability with which a gradient is taken at a shrunk and shifted image.",
        cite="Xie et al. 2019, section 3.3",
        ge=0.0,
        le=1.0,
    )
    smallest: float = param(
        0.9,
        "Smallest size",
        "Share of its side that an image is shrunk to at most.",
        ge=0.1,
        le=1.0,
    )


class MIFGSM(Momentum):
    """Signed steps along a rolling sum of gradients, which transfers better (Dong et al. 2018)."""

    kind: Literal["mifgsm"] = "mifgsm"

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.momentum import mifgsm

        return (mifgsm(self),)


class NIFGSM(Momentum):
    """Momentum whose gradients are taken a step ahead (Nesterov; Lin et al. 2020)."""

    kind: Literal["nifgsm"] = "nifgsm"
    norm: Literal["linf"] = _norm("linf")

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.momentum import nifgsm

        return (nifgsm(self),)


class DIFGSM(Diverse):
    """Gradients of images in random sizes and places, which transfer better (Xie et al. 2019)."""

    kind: Literal["difgsm"] = "difgsm"

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.momentum import difgsm

        return (difgsm(self),)


class TIFGSM(Diverse):
    """Blurred gradients, as averaged over shifted images, which transfer better to defended models
    (Dong et al. 2019)."""

    kind: Literal["tifgsm"] = "tifgsm"
    kernel: int = param(
        15,
        "Kernel",
        "Side of the Gaussian with which a gradient is blurred; 1 is none.",
        unit="pixels",
        cite="Dong et al. 2019, section 3.3",
        ge=1,
        le=1001,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.momentum import tifgsm

        return (tifgsm(self),)


class Noise(FixedBudget):
    """Random noise, the best of several draws. It knows nothing of the model."""

    kind: Literal["noise"] = "noise"
    norm: Literal["free", "linf", "l2"] = param(
        "free",
        "Norm",
        "free leaves the noise as it is drawn, linf cuts it off at epsilon, l2 stretches it until "
        "it is that long.",
    )
    eps: float = param(
        0.3,
        "Epsilon",
        "How strong the noise is: its standard deviation if Gaussian, its half width if uniform, "
        "its length in l2.",
        ge=0.0,
        le=1000.0,
    )
    distribution: Literal["gaussian", "uniform"] = param(
        "gaussian", "Distribution", "What each value of the noise is drawn from."
    )
    repeats: int = param(10, "Repeats", "Draws for each sample.", ge=1, le=100_000)

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.noise import noise

        return (noise(self),)


class Shift(FixedBudget):
    """The same value added to every pixel, or taken from it. A negative control: whoever counts
    this as an attack measures nothing."""

    kind: Literal["shift"] = "shift"
    norm: Literal["linf"] = _norm("linf")

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.noise import shift

        return (shift(self),)


class Spatial(FixedBudget):
    """All rotations and translations of a grid (Engstrom et al. 2019)."""

    kind: Literal["spatial"] = "spatial"
    norm: Literal["free"] = param(
        "free", "Norm", "Nothing bounds the change; its Euclidean length is reported."
    )
    eps: float = param(
        1.0,
        "Strength",
        "How much of the largest rotation and translation the grid reaches to.",
        ge=0.0,
        le=10.0,
    )
    rotation: float = param(
        30.0, "Largest rotation", "Either way.", unit="degrees", ge=0.0, le=180.0
    )
    translation: float = param(
        3.0, "Largest translation", "In each of the four directions.", unit="pixels", ge=0.0, le=1e4
    )
    rotations: int = param(31, "Rotations", "How many angles are tried.", ge=1, le=10_000)
    translations: int = param(
        5, "Translations", "How many shifts are tried along each side.", ge=1, le=1000
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.spatial import spatial

        return (spatial(self),)


class KL(FixedBudget):
    """Gradient steps away from the clean prediction; needs no labels (Zhang et al. 2019)."""

    kind: Literal["kl"] = "kl"
    norm: Literal["linf", "l2"] = _norm("linf")
    steps: int = param(10, "Steps", "Gradient steps.", ge=1, le=100_000)
    step_size: float = param(
        0.01, "Step size", "Length of one step in the attack's norm.", gt=0.0, le=1000.0
    )
    noise: float = param(
        0.001,
        "Start noise",
        "Standard deviation of the normal noise that it starts with.",
        cite="Zhang et al. 2019, their code",
        gt=0.0,
        le=1.0,
        advanced=True,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.kl import kl

        return (kl(self),)


class VirtualAdversarial(FixedBudget):
    """One long step along which the prediction changes fastest; needs no labels (Miyato et al.
    2018)."""

    kind: Literal["vat"] = "vat"
    norm: Literal["l2"] = _norm("l2")
    eps: float = param(
        2.0, "Epsilon", "Radius of the ball: the largest perturbation allowed.", ge=0.0, le=1000.0
    )
    steps: int = param(
        1,
        "Power iterations",
        "Gradients that the direction is found with.",
        cite="Miyato et al. 2018, section 3.3",
        ge=1,
        le=1000,
    )
    xi: float = param(
        0.01,
        "Probe length",
        "How far from the image these gradients are taken; the paper's 1e-6 is lost in rounding.",
        gt=0.0,
        le=10.0,
        advanced=True,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.vat import virtual

        return (virtual(self),)


class DeepFool(MinimalNorm):
    """Steps to the nearest class boundary of the linearised model, until it is crossed."""

    kind: Literal["deepfool"] = "deepfool"
    norm: Literal["l2", "linf"] = _norm(
        "l2", cite="Moosavi-Dezfooli, Fawzi and Frossard 2016, algorithm 2"
    )
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

    def rounds(self) -> tuple[Method[Any], ...]:
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
    norm: Literal["l2"] = _norm("l2", cite="Carlini and Wagner 2017, section VI-A")
    step_size: float = param(0.01, "Step size", "Learning rate of Adam.", gt=0.0, le=1000.0)

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.carliniwagner import carliniwagner

        return (carliniwagner(self),)


class DDN(MinimalNorm):
    """Gradient steps on a sphere that shrinks where they succeed and grows where they fail."""

    kind: Literal["ddn"] = "ddn"
    norm: Literal["l2"] = _norm("l2", cite="Rony et al. 2019, algorithm 1")
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.ddn import ddn

        return (ddn(self),)


class FMN(MinimalNorm):
    """Gradient steps inside a ball that follows the boundary."""

    kind: Literal["fmn"] = "fmn"
    norm: Literal["l0", "l1", "l2", "linf"] = _norm("l2", cite="Pintor et al. 2021, algorithm 1")
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.fmn import fmn

        return (fmn(self),)


class EAD(ConstantSearch):
    """Minimises squared distance + beta x l1 distance + c x missing margin, and searches for c."""

    kind: Literal["ead"] = "ead"
    norm: Literal["l1"] = _norm("l1", cite="Chen et al. 2018, algorithm 1")
    step_size: float = param(
        0.01, "Step size", "Length of the first step; it falls to zero.", gt=0.0, le=1000.0
    )
    beta: float = param(0.01, "Beta", "Weight of the l1 distance.", ge=0.0, le=1000.0)
    decision: Literal["elastic", "l1"] = param(
        "elastic",
        "Decision rule",
        "Which example is the smallest: by squared distance + beta x l1 distance, or by l1 alone.",
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.ead import ead

        return (ead(self),)


class JSMA(MinimalNorm):
    """Changes the two values at a time that most help one class and hurt the others."""

    kind: Literal["jsma"] = "jsma"
    norm: Literal["l0"] = _norm("l0", cite="Papernot et al. 2016, algorithms 2 and 3")
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.jsma import jsma

        if self.targeted:
            return (jsma(self, None),)
        return tuple(jsma(self, rank) for rank in range(1, self.aims + 1))


class NES(FixedBudget):
    """Gradient steps along an estimate from losses at random points, in pairs."""

    kind: Literal["nes"] = "nes"
    norm: Literal["linf", "l2"] = _norm("linf", cite="Ilyas et al. 2018, algorithm 1")
    steps: int = param(100, "Steps", "Gradient steps.", ge=1, le=100_000)
    samples: int = param(
        50, "Points", "Points that a step is estimated from, two a direction.", ge=2, le=100_000
    )
    sigma: float = param(
        0.001, "Sigma", "Spread of the points around the image.", gt=0.0, le=1000.0
    )
    step_size: float = param(
        0.01, "Step size", "Length of one step in the attack's norm.", gt=0.0, le=1000.0
    )
    momentum: float = param(
        0.9, "Momentum", "Weight of the earlier estimates in the present one.", ge=0.0, lt=1.0
    )
    loss: Literal["margin", "cross_entropy"] = param(
        "margin",
        "Loss",
        "What is climbed; margin is the Carlini-Wagner difference of logits.",
    )
    points: int = param(
        20, "Points at once", "Points of a sample in one question.", ge=2, le=10_000, advanced=True
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.nes import nes

        return (nes(self),)


class SPSA(FixedBudget):
    """Adam along an estimate from losses at random corners of a small cube, in pairs."""

    kind: Literal["spsa"] = "spsa"
    norm: Literal["linf", "l2"] = _norm("linf", cite="Uesato et al. 2018, section 3.2")
    steps: int = param(100, "Steps", "Gradient steps.", ge=1, le=100_000)
    samples: int = param(
        128, "Points", "Points that a step is estimated from, two a direction.", ge=2, le=100_000
    )
    delta: float = param(
        0.01, "Delta", "How far each value is changed for an estimate.", gt=0.0, le=1000.0
    )
    step_size: float = param(0.01, "Step size", "Learning rate of Adam.", gt=0.0, le=1000.0)
    points: int = param(
        20, "Points at once", "Points of a sample in one question.", ge=2, le=10_000, advanced=True
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.spsa import spsa

        return (spsa(self),)


class Boundary(MinimalNorm):
    """Walks at random along the decision boundary towards the image; sees decisions alone."""

    sets_out: ClassVar[bool] = True

    kind: Literal["boundary"] = "boundary"
    norm: Literal["l2"] = _norm("l2", cite="Brendel, Rauber and Bethge 2018, section 3")
    steps: int = param(5000, "Steps", "Candidates that are tried.", ge=1, le=10_000_000)
    orthogonal_step: float = param(
        0.01,
        "Step around",
        "First step along the sphere, relative to the distance.",
        gt=0.0,
        le=10.0,
    )
    source_step: float = param(
        0.01, "Step inward", "First step towards the image, relative to the distance.", gt=0.0, lt=1
    )
    adaptation: float = param(
        1.5, "Adaptation", "What step sizes are multiplied or divided by.", gt=1.0, le=100.0
    )
    check: int = param(
        10,
        "Check every",
        "At every so manieth step the candidate on the sphere is asked about too.",
        ge=1,
        le=10_000,
        advanced=True,
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.boundary import boundary

        return (boundary(self),)


class HopSkipJump(MinimalNorm):
    """Jumps along the boundary's normal, estimated from decisions, and back to the boundary."""

    sets_out: ClassVar[bool] = True

    kind: Literal["hopskipjump"] = "hopskipjump"
    norm: Literal["l2", "linf"] = _norm("l2", cite="Chen, Jordan and Wainwright 2020, algorithm 2")
    iterations: int = param(25, "Iterations", "Estimates, each with a jump.", ge=1, le=10_000)
    first_queries: int = param(
        100,
        "First queries",
        "Points of the first estimate; the t-th takes sqrt(t) times as many, at most 10,000.",
        ge=1,
        le=100_000,
    )
    line_queries: int = param(
        20, "Line queries", "Questions of one line search.", ge=1, le=1000, advanced=True
    )
    points: int = param(
        20, "Points at once", "Points of a sample in one question.", ge=1, le=10_000, advanced=True
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.hopskipjump import hopskipjump

        return (hopskipjump(self),)


class APGD(FixedBudget):
    """Projected gradient ascent with momentum, which finds its step sizes itself."""

    kind: Literal["apgd"] = "apgd"
    norm: Literal["linf", "l2", "l1"] = _norm(
        "linf", cite="Croce and Hein 2020, section 3; for l1 Croce and Hein 2021"
    )
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.apgd import apgd

        return apgd(self)

    def advice(self, classes: int | None = None) -> str:
        targets = bool(self.targets) or self.targeted
        return _few_classes(classes, targets) if self.loss == "dlr" else ""


class FAB(MinimalNorm):
    """Steps onto the linearised boundary that stay near the clean image."""

    kind: Literal["fab"] = "fab"
    norm: Literal["linf", "l2", "l1"] = _norm(
        "linf", cite="Croce and Hein 2020, Minimally distorted adversarial examples, algorithm 1"
    )
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.fab import fab

        return fab(self)


class Square(FixedBudget):
    """Random search that recolours a square at a time; needs logits, but no gradients."""

    kind: Literal["square"] = "square"
    norm: Literal["linf", "l2", "l1"] = _norm(
        "linf", cite="Andriushchenko et al. 2020; for l1 Croce and Hein 2021"
    )
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.square import square

        return square(self)


class AutoAttack(FixedBudget):
    """APGD, FAB and Square one after the other, as published; the usual measure of robustness."""

    kind: Literal["autoattack"] = "autoattack"
    norm: Literal["linf", "l2", "l1"] = _norm("linf")
    version: Literal["standard", "plus", "rand"] = param(
        "standard",
        "Version",
        "standard: APGD, targeted APGD, targeted FAB, Square; plus: more restarts; rand: for "
        "models that draw at random.",
        cite="Croce and Hein 2020, section 6",
    )

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.autoattack import autoattack

        return autoattack(self)

    def advice(self, classes: int | None = None) -> str:
        return _few_classes(classes, self.version != "rand" or self.targeted)


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

    def rounds(self) -> tuple[Method[Any], ...]:
        """None before it is fitted: those of `engine.attacks.fitted.Fit` are run."""
        return ()

    def climbs(self) -> bool:
        return True

    @abstractmethod
    def design(self) -> Design:
        """What is fitted, and how."""


class Universal(Fitted):
    """One perturbation that is added to every image."""

    kind: Literal["universal"] = "universal"
    norm: Literal["linf", "l2"] = _norm("linf")
    eps: float = param(
        0.2, "Epsilon", "Radius of the ball: the largest perturbation allowed.", ge=0.0, le=1000.0
    )
    method: Literal["gradient", "deepfool"] = param(
        "gradient",
        "Method",
        "gradient climbs a loss over batches of images. deepfool goes from image to image, and "
        "adds the smallest change that breaks the next one.",
        cite="Shafahi et al. 2020, section 4; Moosavi-Dezfooli et al. 2017, algorithm 1",
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
        0.7,
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

    def design(self) -> Design:
        from engine.attacks.universal import universal

        return universal(self)


class Patch(Fitted):
    """A picture that is put over a part of every image, anywhere in it (Brown et al. 2017)."""

    kind: Literal["patch"] = "patch"
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

    def design(self) -> Design:
        from engine.attacks.patch import patch

        return patch(self)


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


class Attack(Task):
    """Search for adversarial examples against a model, on the first `samples` of a seeded
    permutation of the test split. Robust accuracy = still correct after the attack / all samples.
    """

    title: ClassVar[str] = "Attack"

    kind: Literal["attack"] = "attack"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    surrogate: str | None = param(
        None,
        "Surrogate",
        "Another run or file: examples are made against it, and the model is judged by them "
        "(transfer). Empty attacks the model itself.",
        reference=True,
        min_length=1,
    )
    attack: OneOf[AttackSpec] = param(PGD(), "Attack", "How adversarial examples are searched for.")
    data: OneOf[DataSpec] | None = param(
        None, "Data", "Another data set than the model was trained on.", advanced=True
    )
    samples: int = param(500, "Samples", "How many test images are attacked; 0 takes all.", ge=0)
    show: int = param(24, "Shown samples", "How many are shown and can be replayed.", ge=0, le=256)
    batch_size: int = param(
        500,
        "Batch size",
        "Samples attacked together; halved when memory runs out.",
        ge=1,
        advanced=True,
    )

    def run(self, bench: Bench) -> Steps:
        from engine.attacks.running import run_attack

        return run_attack(self, bench)


class ExportSet(Task):
    """Write the adversarial examples of an attack or an evaluation for other programs. PNG files
    are read back and judged by the model again: rounded to 8 bits, some may no longer fool it.
    """

    title: ClassVar[str] = "Export examples"

    kind: Literal["export_set"] = "export_set"
    source: str = param(
        ...,
        "Examples of",
        "The attack or evaluation whose adversarial examples are written, by name or id.",
        reference="examples",
        min_length=1,
    )
    form: Literal["png", "safetensors"] = param(
        "png",
        "Form",
        "A folder of PNG files with an index, or one safetensors file with the exact values.",
    )
    to: str = param(
        "",
        "To",
        "The new folder or file, in a recipe from the recipe's folder; empty puts it into the "
        "run's own. Nothing that exists is overwritten.",
        path="save",
    )

    def check(self, workspace: Path) -> None:
        from engine.attacks.exporting import check_set

        check_set(self, workspace)

    def run(self, bench: Bench) -> Steps:
        from engine.attacks.exporting import run_export_set

        return run_export_set(self, bench)
