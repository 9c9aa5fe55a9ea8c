"""Defences, and evaluations that are hard to fool.

`evaluating` tells the story of an evaluation; what it is made of stands apart: `searching` (an
attack over all samples), `curve`, `lies` (checks of the evaluation itself, with `asking`, `slopes`
and `witness`; what they say is in `flags`), `corruptions`, `sensitivity`, `verdict` and
`reporting`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.robustness.corruptions import CORRUPTIONS, corrupt
    from engine.robustness.flags import FLAGS, Flag
    from engine.robustness.spec import Evaluate, Require
    from engine.robustness.statistics import mcnemar

_HOME = {
    "CORRUPTIONS": "corruptions",
    "FLAGS": "flags",
    "Evaluate": "spec",
    "Flag": "flags",
    "Require": "spec",
    "corrupt": "corruptions",
    "mcnemar": "statistics",
}

__all__ = [
    "CORRUPTIONS",
    "FLAGS",
    "Evaluate",
    "Flag",
    "Require",
    "corrupt",
    "mcnemar",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
