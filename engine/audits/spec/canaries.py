"""A lower bound of epsilon, from one run."""

from typing import TYPE_CHECKING, ClassVar, Literal

from engine.audits.spec.base import AuditSpec
from engine.audits.spec.task import Audit
from engine.task import Steps, param

if TYPE_CHECKING:
    from engine.bench import Bench


class CanaryAudit(AuditSpec):
    """Guesses which canaries a private training had among its members. Whoever is right more often
    than its epsilon allows has shown that epsilon to be wrong. The run must have been trained with
    `privacy.canaries`."""

    kind: Literal["canaries"] = "canaries"
    cite: ClassVar[str] = "Steinke, Nasr and Jagielski 2023, theorem 5.2 and appendix D"
    confidence: float = param(
        0.999,
        "Confidence",
        "How sure the lower bound is to hold.",
        gt=0.5,
        lt=1.0,
    )
    guesses: int = param(
        0,
        "Guesses",
        "Canaries that are guessed to be in or out, those with the most extreme scores; of the "
        "others nothing is said. 0 lets the scores decide, without a look at who was in.",
        cite="Steinke, Nasr and Jagielski 2023, section 5.3",
        ge=0,
        le=1_000_000,
        advanced=True,
    )

    def perform(self, task: Audit, bench: "Bench") -> Steps:
        from engine.audits.canaries import run_canaries

        return run_canaries(task, self, bench)
