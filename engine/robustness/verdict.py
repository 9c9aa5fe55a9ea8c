"""What was required of a model, and whether it is so."""

from __future__ import annotations

from engine.attacks.tally import wilson
from engine.robustness.spec import Require

WORDS = {"clean_accuracy": "clean accuracy", "robust_accuracy": "robust accuracy"}


def unmet_of(require: Require, hits: dict[str, int], samples: int, flags: list[str]) -> list[str]:
    """What is not as required, one sentence each. `hits`: of each accuracy, how many of `samples`
    count; `flags`: titles of what makes the robust accuracy doubtful.

    Judged on the lower end of the interval: a fraction that was measured on few samples has to be
    larger. (A requirement of nothing is met by everything.)"""
    found = []
    for name, words in WORDS.items():
        text = getattr(require, name)
        if text is None:
            continue
        least = float(text.strip().removeprefix(">="))
        low, _ = wilson(hits[name], samples)
        if low < least:
            found.append(
                f"{words} >= {least:g} is required; it is {hits[name] / max(1, samples):.4f} on "
                f"{samples} samples, so at least {low:.4f}"
            )
        elif name == "robust_accuracy" and flags and not require.despite_flags:
            found.append(
                f"{words} >= {least:g} is required; it is {hits[name] / max(1, samples):.4f}, but "
                f"the checks doubt that: {', '.join(flags)}"
            )
    return found
