"""The audits that can be asked for.

Annotations are evaluated where they stand, as in `engine.attacks.spec`.
"""

from engine.audits.spec.base import AuditSpec
from engine.audits.spec.canaries import CanaryAudit
from engine.audits.spec.extraction import Extraction
from engine.audits.spec.inversion import Inversion
from engine.audits.spec.membership import Membership
from engine.audits.spec.task import Audit

__all__ = ["Audit", "AuditSpec", "CanaryAudit", "Extraction", "Inversion", "Membership"]
