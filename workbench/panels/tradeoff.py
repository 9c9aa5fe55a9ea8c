"""What privacy costs: accuracy against epsilon, over the runs of a workspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QWidget

from engine.store import RunInfo
from workbench.i18n import mark, name_of, tr
from workbench.views.axes import Scale
from workbench.views.scatter import Dot, Level, ScatterCard

EMPTY = mark("A point for every private run that has ended, at its epsilon. Start one.")
ELSEWHERE = mark("No private run on this data has ended yet. Its point appears here.")


class TradeoffCard(ScatterCard):
    """A point for each private run, and the best one without privacy as a dashed line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(
            mark("Accuracy against epsilon"),
            Scale(mark("Epsilon of the run"), sign="ε "),
            Scale(mark("Test accuracy"), percent=True),
            EMPTY,
            parent,
        )

    def show_runs(
        self,
        runs: Sequence[tuple[RunInfo, str, str]],
        marked: str | None,
        data: Mapping[str, Any] | None,
    ) -> None:
        """Draw those `runs` (info, name, colour) that were trained on `data` (any, for None)."""
        about = {info.id: info for info, _, _ in runs}
        dots, plain, naive = [], [], []
        for info, name, color in runs:
            accuracy = info.summary.get("clean_accuracy")
            if info.kind != "train" or not isinstance(accuracy, int | float):
                continue
            if data is not None and data_of(info, about.get) != data:
                continue
            epsilon = info.summary.get("epsilon")
            if isinstance(epsilon, int | float) and math.isfinite(epsilon):
                dots.append(Dot(info.id, name, epsilon, accuracy, color, info.id == marked))
            elif not info.spec.get("privacy"):
                plain.append(accuracy)
            elif info.summary.get("guarantee") == "none":
                naive.append(accuracy)
        levels = []
        if plain:
            levels.append(Level(tr("without privacy"), max(plain), "muted"))
        if naive:
            levels.append(Level(tr("naive noise, no guarantee"), max(naive), "warning"))
        self.set_note(name_of(str(data.get("kind", ""))) if data else "")
        self.explain(ELSEWHERE if data else EMPTY)
        self.set_dots(dots, levels)


def data_of(info: RunInfo, find: Callable[[str], RunInfo | None]) -> Mapping[str, Any] | None:
    """The data set of a training, also where it is that of the run it started from; None if nobody
    here knows."""
    root = root_of(info, find)
    return identity(root.spec.get("data")) if root is not None else None


def root_of(info: RunInfo, find: Callable[[str], RunInfo | None]) -> RunInfo | None:
    """The run that says what data a training has: itself, or the one that it started from; None if
    that one is not known, or no training."""
    seen: RunInfo | None = info
    for _ in range(100):
        if seen is None or seen.kind != "train":
            return None
        if seen.spec.get("data") or not seen.spec.get("init"):
            return seen
        seen = find(seen.lineage.get("init", ""))
    return None


def identity(data: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What makes a data set that one and no other."""
    from engine.training.spec import DEFAULT_DATA

    known = data or {"kind": DEFAULT_DATA.kind}
    return {name: known[name] for name in ("kind", "path") if known.get(name)}
