"""The family of what an audit can try."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from engine.task import Spec, Steps

if TYPE_CHECKING:
    from engine.audits.spec.task import Audit
    from engine.bench import Bench


class AuditSpec(Spec):
    """One way to find out what a model, or its training, gives away."""

    kind: str

    @abstractmethod
    def perform(self, task: "Audit", bench: "Bench") -> Steps:
        """Carry it out. Raises BadInput if it does not fit the run that is audited."""
