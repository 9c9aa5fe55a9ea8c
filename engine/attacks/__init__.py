"""Adversarial attacks: `attack` runs one, `perturb` is the same as a generator; specs say which.

What an attack is stands in one short file a family (`fgsm`, `pgd`); `geometry` knows the norms,
`driver` who is still attacked, `oracle` how a model is asked without leaving a trace.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.attacks.driver import attack, perturb
    from engine.attacks.fitted import Fit, fit
    from engine.attacks.result import AttackResult, Iteration
    from engine.attacks.spec import (
        APGD,
        BIM,
        DDN,
        DIFGSM,
        EAD,
        FAB,
        FGSM,
        FMN,
        JSMA,
        MIFGSM,
        NES,
        NIFGSM,
        PGD,
        SPSA,
        TIFGSM,
        Attack,
        AttackSpec,
        AutoAttack,
        Boundary,
        CarliniWagner,
        DeepFool,
        HopSkipJump,
        Noise,
        Patch,
        Shift,
        Spatial,
        Square,
        Universal,
        VirtualAdversarial,
    )

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
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PGD",
    "SPSA",
    "TIFGSM",
    "Attack",
    "AttackResult",
    "AttackSpec",
    "AutoAttack",
    "Boundary",
    "CarliniWagner",
    "DeepFool",
    "Fit",
    "HopSkipJump",
    "Iteration",
    "Noise",
    "Patch",
    "Shift",
    "Spatial",
    "Square",
    "Universal",
    "VirtualAdversarial",
    "attack",
    "fit",
    "perturb",
]

_HOME = {
    **dict.fromkeys(("attack", "perturb"), "driver"),
    **dict.fromkeys(("AttackResult", "Iteration"), "result"),
    **dict.fromkeys(("Fit", "fit"), "fitted"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'spec')}"), name)
