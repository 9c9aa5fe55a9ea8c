"""The evaluation that can be asked for, and the kinds of adversarial training.

Annotations are evaluated where they stand, as in `engine.attacks.spec`.
"""

from engine.robustness.spec.against import (
    MART,
    PGDAT,
    TRADES,
    UAT,
    VAT,
    AgainstAttack,
    Interpolated,
    Mixed,
    SemiSupervised,
    Weighted,
)
from engine.robustness.spec.certificate import Certificate, IntervalBounds, Smoothing
from engine.robustness.spec.direct import IBP, Fast, Free, GaussianNoise
from engine.robustness.spec.evaluate import Evaluate, Require
from engine.robustness.spec.stability import Stability

__all__ = [
    "IBP",
    "MART",
    "PGDAT",
    "TRADES",
    "UAT",
    "VAT",
    "AgainstAttack",
    "Certificate",
    "Evaluate",
    "Fast",
    "Free",
    "GaussianNoise",
    "Interpolated",
    "IntervalBounds",
    "Mixed",
    "Require",
    "SemiSupervised",
    "Smoothing",
    "Stability",
    "Weighted",
]
