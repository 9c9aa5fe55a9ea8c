"""What every benchmark returns, and how two ways of doing the same are compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `met` is None where nothing is asked for, or nothing was measured."""

    what: str
    target: str
    figure: str
    met: bool | None = None
    detail: str = ""


def skipped(what: str, target: str) -> Row:
    """The row of a measurement that needs MNIST where there is none."""
    return Row(what, target, "skipped: no data root")


def in_turn(
    ways: Mapping[str, Callable[[], float]], repeats: int, warm: bool = True
) -> dict[str, list[float]]:
    """What each way returns, `repeats` times: A B, B A, A B, ... so that a slow spell of the
    machine hits all of them alike. `warm` calls each once before, unmeasured."""
    if warm:
        for way in ways.values():
            way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            found[name].append(ways[name]())
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of what was measured in the same turn."""
    return [a / b for a, b in zip(over, under, strict=True)]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, smallest and largest, as in "0.981 (0.975 to 0.990)"."""
    low, high = min(values), max(values)
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
