"""Attacks that see decisions alone."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import MinimalNorm, Rounds, norm_field
from engine.task import param


class Boundary(MinimalNorm):
    """Walks at random along the decision boundary towards the image; sees decisions alone."""

    sets_out: ClassVar[bool] = True

    kind: Literal["boundary"] = "boundary"
    cite: ClassVar[str] = "Brendel, Rauber and Bethge 2018, section 3"
    norm: Literal["l2"] = norm_field("l2")
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

    def rounds(self) -> Rounds:
        from engine.attacks.boundary import boundary

        return (boundary(self),)


class HopSkipJump(MinimalNorm):
    """Jumps along the boundary's normal, estimated from decisions, and back to the boundary."""

    sets_out: ClassVar[bool] = True

    kind: Literal["hopskipjump"] = "hopskipjump"
    cite: ClassVar[str] = "Chen, Jordan and Wainwright 2020, algorithm 2"
    norm: Literal["l2", "linf"] = norm_field("l2")
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

    def rounds(self) -> Rounds:
        from engine.attacks.hopskipjump import hopskipjump

        return (hopskipjump(self),)
