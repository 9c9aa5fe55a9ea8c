"""The book of runs: what the window knows of every run of its workspace.

It is filled from the store and kept up to date by whoever hears of a change. Views read it and
listen to its signals; nobody else holds a list of runs.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace

from PySide6.QtCore import QObject, Signal

from engine.events import Progress
from engine.store import RunInfo
from workbench.i18n import mark, tr

SERIES = 8
"""Colours there are for runs."""

GLYPHS = {
    "queued": "…",
    "running": "▶",
    "done": "✓",
    "rejected": "✕",
    "failed": "✕",
    "cancelled": "■",
    "interrupted": "!",
    "skipped": "–",
    "damaged": "?",
}
WORDS = {
    "queued": mark("queued"),
    "running": mark("running"),
    "done": mark("done"),
    "rejected": mark("rejected"),
    "failed": mark("failed"),
    "cancelled": mark("cancelled"),
    "interrupted": mark("interrupted"),
    "skipped": mark("skipped"),
    "damaged": mark("damaged"),
}
ENDED = ("done", "rejected", "failed", "cancelled", "interrupted", "skipped", "damaged")


MAKES_MODELS = ("train", "federate", "import", "transform")
"""Kinds of tasks that bring forth a model."""
MAKES_GENERATORS = ("gan", "autoencoder", "advgan")
"""Kinds whose model makes images, and says no classes."""
MAKES_EXAMPLES = ("attack", "evaluate")
"""Those that bring forth adversarial examples."""


WANTED = {
    ("assess", "model"): MAKES_GENERATORS,
    ("export", "model"): (*MAKES_MODELS, *MAKES_GENERATORS),
}
"""Kinds whose runs a field of a task may name, where they are not those of classifiers."""


def has_model(info: RunInfo) -> bool:
    """Whether a run has brought forth a model."""
    if info.status != "done":
        return False
    makes = (*MAKES_MODELS, *MAKES_GENERATORS)
    return info.kind in makes or any(a.get("name") == "model" for a in info.artifacts)


def has_classifier(info: RunInfo) -> bool:
    """Whether it has brought forth a model that says classes."""
    return has_model(info) and info.kind not in MAKES_GENERATORS


def has_generator(info: RunInfo) -> bool:
    """Whether it has brought forth a model that makes images or points."""
    return has_model(info) and info.kind in MAKES_GENERATORS


def counts_as(info: RunInfo) -> str:
    """The kind by which a field that names a run may want it: what has brought forth a classifier,
    as the audit that copies one, is as good as a training."""
    return "train" if has_classifier(info) else info.kind


def word_of(status: str) -> str:
    """A status in the person's language."""
    return tr(WORDS.get(status, status))


@dataclass
class Rate:
    """How fast a run goes, smoothed over its last seconds."""

    done: int = 0
    total: int = 0
    unit: str = ""
    fraction: float = 0.0
    within: bool = False
    """More is known than how many are done: many are under way at a time."""
    per_second: float = 0.0
    _since: float = 0.0
    _from: float = 0.0
    _reached: float = 0.0
    """What is done, with its share of what is under way."""

    def update(self, progress: Progress, now: float) -> None:
        reached = progress.fraction * progress.total if progress.total else progress.done
        if progress.unit != self.unit or reached < self._reached or not self._since:
            self.per_second, self._since, self._from = 0.0, now, reached
        self.done, self.total, self.unit = progress.done, progress.total, progress.unit
        self.fraction, self._reached = progress.fraction, reached
        self.within = progress.share is not None
        elapsed = now - self._since
        if elapsed >= 0.5:
            measured = (reached - self._from) / elapsed
            weight = 0.4 if self.per_second else 1.0
            self.per_second += weight * (measured - self.per_second)
            self._since, self._from = now, reached

    @property
    def seconds_left(self) -> float | None:
        if not self.total or not self.per_second:
            return None
        return max(0.0, self.total - self._reached) / self.per_second


class Book(QObject):
    """Every run by its id, in memory."""

    listed = Signal()
    """Runs came or went, or their order changed."""
    changed = Signal(str)
    """One run's status, name, note or progress changed."""
    drawn = Signal()
    """Which runs are compared, or the colour of one, changed."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._infos: dict[str, RunInfo] = {}
        self._rates: dict[str, Rate] = {}
        self._colors: dict[str, int] = {}
        self.queue: list[str] = []
        """Ids of the runs that wait in this window's engine, the next one first."""
        self.compared: list[str] = []
        """Ids of the runs that are drawn together."""

    # --- reading

    def infos(self) -> list[RunInfo]:
        """The newest first; what waits and what runs stands above what has ended."""
        waiting = [self._infos[i] for i in reversed(self.queue) if i in self._infos]
        rest = sorted(
            (info for run_id, info in self._infos.items() if run_id not in self.queue),
            key=lambda info: (info.status == "running", info.id),
            reverse=True,
        )
        return waiting + rest

    def info(self, run_id: str) -> RunInfo | None:
        return self._infos.get(run_id)

    def rate(self, run_id: str) -> Rate | None:
        return self._rates.get(run_id)

    def name(self, run_id: str) -> str:
        """What a person calls the run; the id where it is unknown."""
        info = self._infos.get(run_id)
        return info.name if info else run_id

    def named(self, info: RunInfo) -> RunInfo:
        """`info` with names in the place of ids where its spec refers to other runs."""
        from engine.task import with_references  # imports pydantic: not before the first paint

        known = {field: self.name(run_id) for field, run_id in info.lineage.items()}
        return replace(info, spec=with_references(info.spec, known)) if known else info

    def newest(self, kind: str) -> RunInfo | None:
        found = [info for info in self._infos.values() if info.kind == kind]
        return max(found, key=lambda info: info.id, default=None)

    def running(self) -> RunInfo | None:
        return next((i for i in self._infos.values() if i.status == "running"), None)

    # --- writing

    def fill(self, infos: list[RunInfo]) -> None:
        """What the store says now. Emits only what is different."""
        before = self._infos
        self._infos = {info.id: info for info in infos}
        self.compared = [run_id for run_id in self.compared if run_id in self._infos]
        if before.keys() != self._infos.keys():
            self.listed.emit()
        else:
            for run_id, info in self._infos.items():
                if info != before[run_id]:
                    self._changed(before[run_id], info)

    def put(self, info: RunInfo) -> None:
        """A run as it is now."""
        before = self._infos.get(info.id)
        if before == info:
            return
        self._infos[info.id] = info
        if before is None:
            self.listed.emit()
        else:
            self._changed(before, info)

    def set_status(self, run_id: str, status: str) -> None:
        info = self._infos.get(run_id)
        if info and info.status != status:
            self.put(replace(info, status=status))  # type: ignore[arg-type]

    def _changed(self, before: RunInfo, info: RunInfo) -> None:
        if info.status in ENDED:
            self._rates.pop(info.id, None)
        if (before.status, before.name) != (info.status, info.name):
            self.listed.emit()
        self.changed.emit(info.id)

    def remove(self, run_id: str) -> None:
        if self._infos.pop(run_id, None):
            self.compared = [other for other in self.compared if other != run_id]
            self.listed.emit()

    def set_queue(self, ids: list[str]) -> None:
        if ids != self.queue:
            self.queue = list(ids)
            self.listed.emit()

    def set_progress(self, run_id: str, progress: Progress) -> None:
        info = self._infos.get(run_id)
        if info is not None and info.status not in ENDED:
            self._rates.setdefault(run_id, Rate()).update(progress, time.monotonic())
            self.changed.emit(run_id)

    # --- what is drawn, and in which colour

    def color_index(self, run_id: str) -> int:
        """The run's place among the series colours: by turns in the order in which the runs were
        made, so that every window gives it the same one; while this one is open it stays."""
        if run_id not in self._colors:
            earlier = sum(other < run_id for other in self._infos)
            self._colors[run_id] = earlier % SERIES
        return self._colors[run_id]

    def label(self, run_id: str) -> str:
        """The run's name, and the end of its id where others have that name too."""
        name = self.name(run_id)
        alike = sum(info.name == name for info in self._infos.values())
        return f"{name} · {run_id[-4:]}" if alike > 1 else name

    def labels(self) -> dict[str, str]:
        """Those of all runs, by id."""
        alike = Counter(info.name for info in self._infos.values())
        return {
            run_id: f"{info.name} · {run_id[-4:]}" if alike[info.name] > 1 else info.name
            for run_id, info in self._infos.items()
        }

    def compare(self, run_id: str, on: bool) -> None:
        if on and run_id not in self.compared:
            self.compared.append(run_id)
        elif not on and run_id in self.compared:
            self.compared.remove(run_id)
        else:
            return
        self.drawn.emit()

    def compare_only(self, ids: list[str]) -> None:
        if ids != self.compared:
            self.compared = list(ids)
            self.drawn.emit()
