"""What one run has said so far, in memory: read from the store, then kept up to date."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.events import Array, Images, Note, Picture, Progress, Saved, Table
from workbench.mailbox import News

if TYPE_CHECKING:
    from engine.store import Run

Series = dict[str, tuple[list[int], list[float]]]


@dataclass
class Record:
    """Everything a view needs to draw one run. `frames` and `courses` are the stored pictures and
    arrays for replay."""

    scalars: Series = field(default_factory=dict)
    images: dict[str, Images] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[tuple[float, Note]] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    progress: Progress | None = None
    frames: dict[str, list[Images]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    courses: dict[str, list[Array]] = field(default_factory=dict)
    sequence: int = 0
    """Of the last event that was read from the store."""

    @property
    def last_step(self) -> int:
        """The last step of any series; 0 before the first."""
        return max((steps[-1] for steps, _ in self.scalars.values() if steps), default=0)

    def last(self, name: str) -> float | None:
        """The newest value of a series."""
        series = self.scalars.get(name)
        return series[1][-1] if series and series[1] else None

    def add(self, news: News, when: float | None = None) -> News:
        """Take in `news`; what of it was new (a pipe and a store may say the same twice).

        `when` is the unix time of its notes, now by default.
        """
        fresh = News(
            images={n: i for n, i in news.images.items() if _is_newer(i, self.images)},
            arrays={n: a for n, a in news.arrays.items() if _is_newer(a, self.arrays)},
            tables=news.tables,
            notes=news.notes,
            saved=news.saved,
            progress=news.progress,
            started=news.started,
            ended=news.ended,
        )
        for name, (steps, values) in news.scalars.items():
            known_steps, known_values = self.scalars.setdefault(name, ([], []))
            start = bisect_right(steps, known_steps[-1]) if known_steps else 0
            if start < len(steps):
                fresh.scalars[name] = steps[start:], values[start:]
                known_steps.extend(steps[start:])
                known_values.extend(values[start:])
        self.images.update(fresh.images)
        self.arrays.update(fresh.arrays)
        self.tables.update(fresh.tables)
        self.notes.extend((when or time.time(), note) for note in fresh.notes)
        self.saved.extend(fresh.saved)
        self.progress = fresh.progress or self.progress
        return fresh


def _is_newer(picture: Picture, among: Mapping[str, Picture]) -> bool:
    known = among.get(picture.name)
    return known is None or picture.step >= known.step


def load(run: Run) -> Record:
    """What the store holds of a run, with the pictures that can be replayed."""
    record = Record()
    load_more(run, record, {})
    return record


def load_more(run: Run, record: Record, sizes: dict[str, int]) -> News:
    """Add to `record` what the store has beyond it; what was new.

    `sizes` remembers how much of which picture file was read, and is changed.
    """
    after = {name: steps[-1] for name, (steps, _) in record.scalars.items() if steps}
    fresh = record.add(News(scalars=run.scalars(after)))
    for sequence, when, event in run.events(record.sequence):
        record.sequence = sequence
        one = News()
        one.add(event)
        record.add(one, when)
        fresh.add(event)
    _add_pictures(run, record, sizes, fresh)
    return fresh


def _add_pictures(run: Run, record: Record, sizes: dict[str, int], fresh: News) -> None:
    for name in run.image_names():
        size = run.image_file(name).stat().st_size
        if sizes.get(name) == size:
            continue
        sizes[name] = size
        kept = run.pictures(name)
        if images := [each for each in kept if isinstance(each, Images)]:
            record.frames[name] = images
            fresh.images[name] = record.images[name] = images[-1]
        if arrays := [each for each in kept if isinstance(each, Array)]:
            record.courses[name] = arrays
            fresh.arrays[name] = record.arrays[name] = arrays[-1]
