"""Gradient steps away from the clean prediction, which need no labels."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import RADIUS, FixedBudget, Rounds, norm_field
from engine.task import param


class KL(FixedBudget):
    """Gradient steps away from the clean prediction; needs no labels."""

    kind: Literal["kl"] = "kl"
    cite: ClassVar[str] = "Zhang et al. 2019, algorithm 1"
    norm: Literal["linf", "l2"] = norm_field("linf")
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

    def rounds(self) -> Rounds:
        from engine.attacks.kl import kl

        return (kl(self),)


class VirtualAdversarial(FixedBudget):
    """One long step along which the prediction changes fastest; needs no labels."""

    kind: Literal["vat"] = "vat"
    cite: ClassVar[str] = "Miyato et al. 2018, section 3.3 and algorithm 1"
    norm: Literal["l2"] = norm_field("l2")
    eps: float = param(2.0, "Epsilon", RADIUS, ge=0.0, le=1000.0)
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

    def rounds(self) -> Rounds:
        from engine.attacks.vat import virtual

        return (virtual(self),)
