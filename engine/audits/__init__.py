"""Attacks on what was promised: who was a member, how large epsilon is at least, which images a
gradient shows, whether a model can be copied by asking it.

Each audit tells its story in a module of its name; what it is made of stands apart: `roc`, `scores`
and `shadows` (membership), `observing`, `matching` and `likeness` (inversion).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.audits.canaries import Bound, epsilon_lower_bound
    from engine.audits.likeness import psnr, ssim
    from engine.audits.roc import Curve, auc_interval, curve
    from engine.audits.scores import confidence
    from engine.audits.spec import Audit, AuditSpec, CanaryAudit, Extraction, Inversion, Membership

_HOME = {
    "Audit": "spec",
    "AuditSpec": "spec",
    "Bound": "canaries",
    "CanaryAudit": "spec",
    "Curve": "roc",
    "Extraction": "spec",
    "Inversion": "spec",
    "Membership": "spec",
    "auc_interval": "roc",
    "confidence": "scores",
    "curve": "roc",
    "epsilon_lower_bound": "canaries",
    "psnr": "likeness",
    "ssim": "likeness",
}

__all__ = [
    "Audit",
    "AuditSpec",
    "Bound",
    "CanaryAudit",
    "Curve",
    "Extraction",
    "Inversion",
    "Membership",
    "auc_interval",
    "confidence",
    "curve",
    "epsilon_lower_bound",
    "psnr",
    "ssim",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
