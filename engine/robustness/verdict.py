"""What was required of a model, and whether it is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine.attacks.tally import wilson
from engine.robustness.spec import Require


class Standing(NamedTuple):
    """What an accuracy is: in words, and how many count of how many samples. doubts: what makes it
    doubtful; where: in which ball it is, as in "linf 0.1"; both in words."""

    words: str
    hits: int
    samples: int
    doubts: Sequence[str] = ()
    where: str = ""


def unmet_of(require: Require, standings: Mapping[str, Standing]) -> list[str]:
    """What is not as required, one sentence each. standings: of each accuracy by the name of its
    field; one that is missing is not required.

    Judged on the lower end of the interval: a fraction that was measured on few samples has to be
    larger. (A requirement of nothing is met by everything.)"""
    found = []
    for name, (words, hits, samples, doubts, where) in standings.items():
        text = getattr(require, name)
        if text is None:
            continue
        least = float(text.strip().removeprefix(">="))
        low, _ = wilson(hits, samples)
        asked = f"{words} >= {least:g} at {where}" if where else f"{words} >= {least:g}"
        share = f"{asked} is required; it is {hits / max(1, samples):.4f}"
        if low < least:
            found.append(f"{share} on {samples} samples, so at least {low:.4f}")
        elif doubts:
            found.append(f"{share}, but {', '.join(doubts)}")
    return found
