"""AutoAttack: APGD, FAB and Square one after the other, each on the samples that are left (Croce
and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", section 6; iterations, restarts and order of the authors' code).
"""

from __future__ import annotations

from typing import Any

from engine.attacks.apgd import apgd
from engine.attacks.fab import fab
from engine.attacks.method import Method
from engine.attacks.spec import APGD, FAB, AutoAttack, Square
from engine.attacks.square import square


def autoattack(spec: AutoAttack) -> tuple[Method[Any], ...]:
    """The methods of all stages, in order."""
    common: dict[str, Any] = {"norm": spec.norm, "eps": spec.eps, "targeted": spec.targeted}
    if spec.version == "rand":
        return (
            *apgd(APGD(**common, loss="cross_entropy", eot_iter=20)),
            *apgd(APGD(**common, loss="dlr", eot_iter=20)),
        )
    queries = square(Square(**common, steps=5000, rescale_schedule=False))
    boundary = fab(FAB(**common, targets=9), minimal=False)
    if spec.version == "standard":
        sparse = spec.norm == "l1"
        return (
            *apgd(APGD(**common, restarts=5 if sparse else 1, larger_radii=sparse)),
            *apgd(APGD(**common, loss="dlr", targets=5 if sparse else 9, larger_radii=sparse)),
            *boundary,
            *queries,
        )
    return (
        *apgd(APGD(**common, restarts=5)),
        *apgd(APGD(**common, loss="dlr", restarts=5)),
        *fab(FAB(**common, restarts=5), minimal=False),
        *queries,
        *apgd(APGD(**common, loss="dlr", targets=9)),
        *boundary,
    )
