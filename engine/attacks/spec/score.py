"""Attacks that see scores alone; Square stands in `autoattack`."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import FixedBudget, Rounds, norm_field
from engine.task import param


class NES(FixedBudget):
    """Gradient steps along an estimate from losses at random points, in pairs."""

    kind: Literal["nes"] = "nes"
    cite: ClassVar[str] = "Ilyas, Engstrom, Athalye and Lin 2018, section 2.2 and algorithm 1"
    norm: Literal["linf", "l2"] = norm_field("linf")
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

    def rounds(self) -> Rounds:
        from engine.attacks.nes import nes

        return (nes(self),)


class SPSA(FixedBudget):
    """Adam along an estimate from losses at random corners of a small cube, in pairs."""

    kind: Literal["spsa"] = "spsa"
    cite: ClassVar[str] = (
        "Uesato, O'Donoghue, van den Oord and Kohli 2018, section 3.2 and appendix A"
    )
    norm: Literal["linf", "l2"] = norm_field("linf")
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

    def rounds(self) -> Rounds:
        from engine.attacks.spsa import spsa

        return (spsa(self),)
