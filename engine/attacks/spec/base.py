"""What every attack can be asked for, and the two families of search: inside a ball, and for the
smallest perturbation."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import ValidationInfo, field_validator

from engine.task import Spec, param

if TYPE_CHECKING:
    from engine.attacks.method import Method
    from engine.bench import Bench


Rounds: TypeAlias = "tuple[Method[Any], ...]"
"""What the driver runs, one after the other."""

Norm: TypeAlias = Literal["linf", "l2", "l1", "l0", "free"]
"""How the size of a perturbation is measured. l0 counts the values that changed, each channel of a
pixel apart. `free` is bounded by the box alone: `eps` is then a strength, and sizes are Euclidean.
"""


def norm_field(default: Any) -> Any:
    """The field that says in which norm perturbations are measured."""
    return param(default, "Norm", "How the size of a perturbation is measured.")


RADIUS = (
    "Radius of the ball: the largest perturbation allowed, in the units of the image, which lies "
    "in [0, 1]: 8 of 255 grey levels are 0.0314."
)
"""What `eps` is, of an attack inside a ball."""


class AttackSpec(Spec):
    """How adversarial examples are searched for. Sizes are in the units of the image, [0, 1].

    Every kind also has a `norm`, in which perturbations are measured.
    """

    kind: str
    norm: Norm = norm_field(...)
    eps: float | None = param(..., "Epsilon", RADIUS)
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

    @field_validator("eps")
    @classmethod
    def _the_box_has_an_end(cls, eps: float | None, info: ValidationInfo) -> float | None:
        if eps is not None and eps > 1 and info.data.get("norm") == "linf":
            raise ValueError(
                "in linf it must be at most 1, since images lie in [0, 1] (8 of 255 grey levels "
                "are 0.0314)"
            )
        return eps

    def ready(self, bench: "Bench") -> Self:
        """The attack as a task runs it: with what it names, as another run's network, loaded. The
        same for most. Raises BadInput if that is not there."""
        return self

    @abstractmethod
    def rounds(self) -> Rounds:
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

    def oddity(self, shape: Sequence[int]) -> str:
        """What is odd about its radius for images of `shape`, (C, H, W); empty if nothing is."""
        if self.eps == 0:
            return (
                f"epsilon is 0: {self.kind} can change nothing, and every sample that is right "
                "stays right."
            )
        values = math.prod(shape)
        reach = {"l2": math.sqrt(values), "l1": values, "l0": values}.get(self.norm)
        if self.eps is None or reach is None or self.eps <= reach:
            return ""
        return (
            f"epsilon {self.eps:g} is more than any image can change: two images of {values} "
            f"values in [0, 1] are at most {reach:.4g} apart in {self.norm}."
        )


class FixedBudget(AttackSpec):
    """A search inside a ball of radius `eps`."""

    eps: float = param(0.3, "Epsilon", RADIUS, ge=0.0, le=1000.0)


class MinimalNorm(AttackSpec):
    """A search for the smallest perturbation."""

    eps: float | None = param(
        None,
        "Epsilon",
        "Only perturbations up to this size count, in the units of the image, which lies in "
        "[0, 1] (l0: how many values change); empty counts all.",
        ge=0.0,
        le=1000.0,
    )
