"""Gradient steps inside a ball, plain and along a rolling sum of gradients."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import FixedBudget, Rounds, norm_field
from engine.task import param


class FGSM(FixedBudget):
    """One step along the sign of the gradient."""

    kind: Literal["fgsm"] = "fgsm"
    cite: ClassVar[str] = "Goodfellow, Shlens and Szegedy 2015, section 4"
    norm: Literal["linf", "l2"] = norm_field("linf")
    random_start: bool = param(
        False,
        "Random start",
        "Starts at a random point of the ball and steps by 1.25 epsilon instead of epsilon.",
        cite="Wong, Rice and Kolter 2020, section 4",
    )

    def rounds(self) -> Rounds:
        from engine.attacks.fgsm import fgsm

        return (fgsm(self),)


class PGD(FixedBudget):
    """Projected gradient descent with a random start."""

    kind: Literal["pgd"] = "pgd"
    cite: ClassVar[str] = "Madry et al. 2018, section 2.1; in l1 Tramer and Boneh 2019, section 4.1"
    norm: Literal["linf", "l2", "l1"] = norm_field("linf")
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

    def rounds(self) -> Rounds:
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
    """Projected gradient descent from the image itself."""

    kind: Literal["bim"] = "bim"
    cite: ClassVar[str] = "Kurakin, Goodfellow and Bengio 2017, section 2.2"
    norm: Literal["linf", "l2"] = norm_field("linf")
    steps: int = param(10, "Steps", "Gradient steps.", ge=1, le=100_000)
    step_size: float | None = param(
        None,
        "Step size",
        "Length of one step in the attack's norm; empty is epsilon / steps.",
        gt=0.0,
        le=1000.0,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.pgd import bim

        return (bim(self),)


class Momentum(FixedBudget):
    """Gradient steps along a rolling sum of gradients."""

    norm: Literal["linf", "l2"] = norm_field("linf")
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
    """Signed steps along a rolling sum of gradients, which transfers better."""

    kind: Literal["mifgsm"] = "mifgsm"
    cite: ClassVar[str] = "Dong et al. 2018, algorithm 1"

    def rounds(self) -> Rounds:
        from engine.attacks.momentum import mifgsm

        return (mifgsm(self),)


class NIFGSM(Momentum):
    """Momentum whose gradients are taken a step ahead."""

    kind: Literal["nifgsm"] = "nifgsm"
    cite: ClassVar[str] = "Lin et al. 2020, algorithm 1"
    norm: Literal["linf"] = norm_field("linf")

    def rounds(self) -> Rounds:
        from engine.attacks.momentum import nifgsm

        return (nifgsm(self),)


class DIFGSM(Diverse):
    """Gradients of images in random sizes and places, which transfer better."""

    kind: Literal["difgsm"] = "difgsm"
    cite: ClassVar[str] = "Xie et al. 2019, algorithm 1"

    def rounds(self) -> Rounds:
        from engine.attacks.momentum import difgsm

        return (difgsm(self),)


class TIFGSM(Diverse):
    """Blurred gradients, as averaged over shifted images, which transfer better to defended
    models."""

    kind: Literal["tifgsm"] = "tifgsm"
    cite: ClassVar[str] = "Dong et al. 2019, equations 7 and 8"
    kernel: int = param(
        15,
        "Kernel",
        "Side of the Gaussian with which a gradient is blurred; 1 is none.",
        unit="pixels",
        cite="Dong et al. 2019, section 3.3",
        ge=1,
        le=1001,
    )

    def rounds(self) -> Rounds:
        from engine.attacks.momentum import tifgsm

        return (tifgsm(self),)
