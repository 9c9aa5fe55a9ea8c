"""The store thread of a run: what a run says is on the disk before anyone hears of it."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from engine import frames
from engine.errors import CrucibleError, StorageError
from engine.events import Event, Note, Picture, Progress, to_message
from engine.store.metrics import MetricsWriter
from engine.store.workspace import Run

PERIOD = 0.033
"""Seconds between two commits while there is something to write, at least."""

COMMIT_SHARE = 250
"""Commits may take one in so many CPU seconds: what a run says is gathered for longer where they
are dear."""

LONGEST = 0.1
"""Seconds that nothing waits for longer, however dear a commit."""

BACKLOG = 20_000
"""Events that may wait for the disk; a run that says more waits for it too."""

KEPT_IMAGES = 64 * 2**20
"""Bytes of replayable pictures that one run may store."""


class RunWriter:
    """Commits events in groups, then hands each group to `listener` (in the store thread).

    A reader that is stuck must not be called from `listener`: hand over and return.
    """

    def __init__(self, run: Run, listener: Callable[[Sequence[Event]], None]) -> None:
        self._run = run
        self._listener = listener
        self._pending: deque[Event] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._flushed = threading.Condition()
        self._put = self._committed = 0
        self._error: BaseException | None = None
        self._images: dict[str, BinaryIO] = {}
        self._kept = 0
        self._ready = threading.Event()
        self._restart: int | None = None
        self._thread = threading.Thread(target=self._work, name="store")

    def start(self, truncate_after: int | None = None) -> None:
        """Open the record; drop what was written after step `truncate_after` (-1: everything).

        Raises StorageError if it cannot be written."""
        self._restart = truncate_after
        self._thread.start()
        self._ready.wait()
        self.check()

    def put(self, event: Event) -> None:
        """Queue an event. Raises StorageError if an earlier one could not be written."""
        self.check()
        if len(self._pending) > BACKLOG:
            self.flush()
        self._pending.append(event)
        self._put += 1
        self._wake.set()

    def flush(self) -> None:
        """Return when everything put so far is on the disk. Raises StorageError."""
        target = self._put
        self._hurry.set()
        self._wake.set()
        with self._flushed:
            self._flushed.wait_for(lambda: self._committed >= target or self._error is not None)
        self.check()

    @property
    def failed(self) -> bool:
        """Whether something could not be written; nothing after it is."""
        return self._error is not None

    def check(self) -> None:
        if self._error is None:
            return
        if not isinstance(self._error, sqlite3.Error | OSError):
            raise CrucibleError(f"what the run said could not be recorded: {self._error!r}") from (
                self._error
            )
        raise StorageError(
            f"the run's record in {self._run.folder} could not be written: "
            f"{explain(self._error)}. What was shown until then is kept; "
            "make room and resume the run."
        )

    def close(self) -> None:
        """Write what is left and close the record. Does not raise."""
        self._closing = True
        self._hurry.set()
        self._wake.set()
        if self._thread.ident is None:  # what failed came before the first event
            self._thread.start()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._loop()
        except Exception as error:  # also of a listener, or an event that is no JSON: who waits
            self._error = error  # for a flush must be told
        finally:
            self._ready.set()
            for file in self._images.values():
                with contextlib.suppress(OSError):
                    file.close()
            with self._flushed:
                self._flushed.notify_all()

    def _loop(self) -> None:
        database = MetricsWriter(self._run.database)
        pause = PERIOD
        try:
            if self._restart is not None:
                database.truncate(self._restart)
                for path in (self._run.folder / "images").glob("*.frames"):
                    self._kept += _keep_until(path, self._restart)
            self._ready.set()
            while True:
                closing = self._closing
                events = [self._pending.popleft() for _ in range(len(self._pending))]
                if events:
                    begun = time.thread_time()
                    self._commit(database, events)
                    cost = time.thread_time() - begun
                    pause = min(max(PERIOD, COMMIT_SHARE * cost), LONGEST)
                elif closing:
                    return
                if not closing:
                    self._wake.wait()
                    self._wake.clear()
                    # Let a group gather, one commit for all of it, unless somebody waits for it.
                    self._hurry.wait(pause)
                    self._hurry.clear()
        finally:
            database.close()

    def _commit(self, database: MetricsWriter, events: list[Event]) -> None:
        pictures = [event for event in events if isinstance(event, Picture)]
        rest = [event for event in events if not isinstance(event, Picture | Progress)]
        for picture in pictures:
            self._store(picture)
        for file in self._images.values():
            file.flush()
        if rest:
            database.commit(rest)
        with self._flushed:
            self._committed += len(events)
            self._flushed.notify_all()
        self._listener(events)

    def _store(self, picture: Picture) -> None:
        message, payload = to_message(picture)
        frame = frames.pack(message, payload)
        if picture.keep:
            if self._kept + len(frame) > KEPT_IMAGES:
                if self._kept <= KEPT_IMAGES:
                    self._kept = KEPT_IMAGES + 1
                    text = (
                        "The picture budget of the run is spent: later iterations are not stored."
                    )
                    self._pending.append(Note("warning", text))
                    self._committed -= 1  # one more to come; `_put` is the other thread's
                    self._wake.set()
                return
            self._kept += len(frame)
            self._file(picture.name).write(frame)
        elif picture.name not in self._images:  # what is kept is not overwritten
            # By a rename, so that a reader (or a kill) never meets half of one and half of another.
            path = self._run.image_file(picture.name)
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(frame)
            part.replace(path)

    def _file(self, name: str) -> BinaryIO:
        if name not in self._images:
            path = self._run.image_file(name)
            path.parent.mkdir(exist_ok=True)
            self._images[name] = path.open("ab")
        return self._images[name]


def _keep_until(path: Path, step: int) -> int:
    """Cut a picture file after its last whole frame of a step up to `step`; bytes that are left."""
    end = 0
    with contextlib.suppress(frames.BadFrame), path.open("rb") as file:
        while (frame := frames.read(file)) is not None and frame[0].get("step", 0) <= step:
            end = file.tell()
    if end:
        os.truncate(path, end)
    else:
        path.unlink()
    return end


def explain(error: BaseException) -> str:
    """An error of the operating system or of SQLite, in words."""
    text = str(error).lower()
    if "full" in text or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return "the disk is full"
    if "disk i/o error" in text or (isinstance(error, OSError) and error.errno == errno.EFBIG):
        return "the disk is full, a size limit was reached, or the disk failed"
    if "readonly" in text or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "the folder is read-only"
    return str(error)
