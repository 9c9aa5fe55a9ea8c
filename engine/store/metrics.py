"""`metrics.db`: the durable record of a run's scalars and notable events, in SQLite.

One writer (the run's store thread) in WAL mode with synchronous=FULL; any number of readers with
short transactions. A closed run is checkpointed and set to journal_mode=DELETE, so that read-only
media open. Torch-free and numpy-free.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from engine.events import Change, Event, Scalars, from_message, to_message

_SCHEMA = """
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS scalars (
    name INTEGER NOT NULL, step INTEGER NOT NULL, value REAL, PRIMARY KEY (name, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, step INTEGER NOT NULL,
    body TEXT NOT NULL
);
"""

Series = dict[str, tuple[list[int], list[float]]]


class MetricsWriter:
    """The writing side. Used by one thread, which also makes it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._names = dict(self._db.execute("SELECT name, id FROM names"))
        self._step = 0

    def commit(self, events: Iterable[Event]) -> None:
        """Write all of `events` in one transaction; on the disk when this returns.

        A scalar that was written before is replaced. Raises sqlite3.Error, with nothing of this
        batch written.
        """
        known, step = dict(self._names), self._step
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO scalars VALUES (?, ?, ?)", self._rows(events)
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._names, self._step = known, step
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _rows(self, events: Iterable[Event]) -> Iterator[tuple[int, int, float]]:
        for event in events:
            if isinstance(event, Scalars):
                self._step = event.step
                for name, value in event.values.items():
                    yield self._name(name), event.step, value
            else:
                body = json.dumps(to_message(event)[0], ensure_ascii=False)
                # What a person changed is no part of what a resumed run says again.
                step = -1 if isinstance(event, Change) else self._step
                self._db.execute(
                    "INSERT INTO events (time, step, body) VALUES (?, ?, ?)",
                    (time.time(), step, body),
                )

    def _name(self, name: str) -> int:
        if name not in self._names:
            cursor = self._db.execute("INSERT INTO names (name) VALUES (?)", (name,))
            self._names[name] = cursor.lastrowid or 0
        key: int = self._names[name]
        return key

    def truncate(self, step: int) -> None:
        """Drop what was written after `step`: the run goes on from there and says it again. What a
        person changed stays, for the run to repeat it."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM scalars WHERE step > ?", (step,))
        self._db.execute("DELETE FROM events WHERE step > ?", (step,))
        self._db.execute("COMMIT")
        self._step = step

    def close(self) -> None:
        """Leave one plain file, readable from read-only media (if no reader is in the way)."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()


def read_scalars(path: Path, after: Mapping[str, int] | None = None) -> Series:
    """Every series as (steps, values), in order of steps; of a series in `after` only what comes
    after that step. Empty if there is no record yet."""
    series: Series = {}
    with _reading(path) as db:
        if db is None:
            return series
        for key, name in db.execute("SELECT id, name FROM names ORDER BY id").fetchall():
            least = (after or {}).get(name, -(2**63))
            rows = db.execute(
                "SELECT step, value FROM scalars WHERE name = ? AND step > ? ORDER BY step",
                (key, least),
            ).fetchall()
            if rows:
                # SQLite has no NaN: it stores NULL.
                steps = [row[0] for row in rows]
                series[name] = steps, [float("nan") if v is None else v for _, v in rows]
    return series


def read_events(path: Path, after: int = 0) -> list[tuple[int, float, Event]]:
    """(sequence number, unix time, event) of everything but scalars and pictures, after `after`."""
    with _reading(path) as db:
        if db is None:
            return []
        rows = db.execute(
            "SELECT seq, time, body FROM events WHERE seq > ? ORDER BY seq", (after,)
        ).fetchall()
    return [(seq, when, from_message(json.loads(body))) for seq, when, body in rows]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A short read-only connection; None while the record does not exist or has no tables yet."""
    if not path.exists():
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            db = _open(path)
        except sqlite3.OperationalError:
            # A WAL left by a killed run, on read-only media: only a copy can be opened.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for part in path.parent.glob(path.name + "*"):
                shutil.copyfile(part, folder / part.name)
            db = sqlite3.connect(folder / path.name)
        stack.callback(db.close)
        tables = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
        yield db if tables >= 3 else None


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2.0)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db
