"""The attacks that can be asked for, and the task that runs one against a model.

The window imports this when it starts. So annotations here are evaluated where they stand: pydantic
would compile each of those that `from __future__ import annotations` leaves as text.
"""

# Forms and help list the kinds in the order in which they are imported here.
# isort: off
from engine.attacks.spec.base import AttackSpec, FixedBudget, MinimalNorm, Norm
from engine.attacks.spec.gradient import (
    FGSM,
    PGD,
    BIM,
    Momentum,
    Diverse,
    MIFGSM,
    NIFGSM,
    DIFGSM,
    TIFGSM,
)
from engine.attacks.spec.unguided import Noise, Shift, Spatial
from engine.attacks.spec.unlabelled import KL, VirtualAdversarial
from engine.attacks.spec.minimal import DeepFool, ConstantSearch, CarliniWagner, DDN, FMN, EAD, JSMA
from engine.attacks.spec.score import NES, SPSA
from engine.attacks.spec.decision import Boundary, HopSkipJump
from engine.attacks.spec.autoattack import APGD, FAB, Square, AutoAttack
from engine.attacks.spec.fitted import Fitted, Universal, Patch
from engine.attacks.spec.task import Attack, ExportSet

# isort: on

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "DIFGSM",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "KL",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PGD",
    "SPSA",
    "TIFGSM",
    "Attack",
    "AttackSpec",
    "AutoAttack",
    "Boundary",
    "CarliniWagner",
    "ConstantSearch",
    "DeepFool",
    "Diverse",
    "ExportSet",
    "Fitted",
    "FixedBudget",
    "HopSkipJump",
    "MinimalNorm",
    "Momentum",
    "Noise",
    "Norm",
    "Patch",
    "Shift",
    "Spatial",
    "Square",
    "Universal",
    "VirtualAdversarial",
]
