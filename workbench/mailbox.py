"""Where the engine thread leaves what arrives often, and the window's timer takes it.

Scalars are collected, of everything that replaces itself (pictures, tables, progress) only the
newest is kept: a window that is slow, or was hidden, has little to catch up with.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from engine.events import (
    Array,
    Change,
    Event,
    Failed,
    Finished,
    Images,
    Note,
    Progress,
    Saved,
    Scalars,
    Started,
    Stopped,
    Table,
)

Series: TypeAlias = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Series by name: steps and values."""

BACKLOG = 200_000
"""Points of one series that wait at most. Beyond it the oldest go; the store has them all."""


@dataclass(slots=True)
class News:
    """What one run has said since the last look."""

    scalars: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """Series by name: steps and values, in order of arrival."""
    images: dict[str, Images] = field(default_factory=dict)
    """The newest of each name."""
    arrays: dict[str, Array] = field(default_factory=dict)
    """The newest of each name."""
    tables: dict[str, Table] = field(default_factory=dict)
    progress: Progress | None = None
    notes: list[Note] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    started: Started | None = None
    ended: Finished | Stopped | Failed | None = None
    missed: bool = False
    """Scalars were dropped: read the run's series from the store."""

    def add(self, event: Event) -> None:
        match event:
            case Scalars():
                self.extend({name: ([event.step], [v]) for name, v in event.values.items()})
            case Images():
                self.images[event.name] = event
            case Array():
                self.arrays[event.name] = event
            case Table():
                self.tables[event.name] = event
            case Progress():
                self.progress = event
            case Note():
                self.notes.append(event)
            case Change():
                self.notes.append(event.note())
            case Saved():
                self.saved.append(event)
            case Started():
                self.started = event
            case Finished() | Stopped() | Failed():
                self.ended = event

    def extend(self, series: Series) -> None:
        for name, (steps, values) in series.items():
            known = self.scalars.setdefault(name, ([], []))
            known[0].extend(steps)
            known[1].extend(values)
            if len(known[0]) > BACKLOG:
                del known[0][: -BACKLOG // 2], known[1][: -BACKLOG // 2]
                self.missed = True


class Mailbox:
    """Filled by one thread, emptied by another; neither waits for longer than an append."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news: dict[str, News] = {}

    def put(self, run: str, event: Event) -> None:
        """Leave what `run` said."""
        with self._lock:
            self._news.setdefault(run, News()).add(event)

    def put_series(self, run: str, series: Series) -> None:
        """Leave many points at once, as the engine gathers them."""
        with self._lock:
            self._news.setdefault(run, News()).extend(series)

    def miss(self, run: str) -> None:
        """Note that points of `run` were left out: the store has them."""
        with self._lock:
            self._news.setdefault(run, News()).missed = True

    def drain(self) -> dict[str, News]:
        """Take what has been left, by run; empty if there is nothing."""
        with self._lock:
            taken, self._news = self._news, {}
        return taken
