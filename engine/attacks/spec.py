"""The attacks that can be asked for, and the task that runs one against a model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from engine.data.spec import DataSpec
from engine.task import OneOf, Spec, Steps, Task, param

if TYPE_CHECKING:
    from engine.attacks.method import Method
    from engine.bench import Bench


Norm: TypeAlias = Literal["linf", "l2"]
"""How the size of a perturbation is measured."""


class AttackSpec(Spec):
    """How adversarial examples are searched for. Sizes are in the units of the image, [0, 1].

    Every kind also has a `norm`, in which perturbations are measured.
    """

    kind: str
    norm: Norm
    eps: float | None
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

    @abstractmethod
    def rounds(self) -> tuple[Method[Any], ...]:
        """What the driver runs for this spec, one after the other."""

    def advice(self) -> str:
        """What makes it weaker than it looks, and what to change; empty if nothing is known to."""
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
    norm: Literal["linf", "l2"] = param(
        "linf", "Norm", "How the size of a perturbation is measured."
    )
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
    norm: Literal["linf", "l2"] = param(
        "linf", "Norm", "How the size of a perturbation is measured."
    )
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

    def rounds(self) -> tuple[Method[Any], ...]:
        from engine.attacks.pgd import pgd

        return (pgd(self),) * self.restarts

    def advice(self) -> str:
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


class Attack(Task):
    """Search for adversarial examples against a model, on the first `samples` of a seeded
    permutation of the test split. Robust accuracy = still correct after the attack / all samples.
    """

    title: ClassVar[str] = "Attack"

    kind: Literal["attack"] = "attack"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
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
