"""One workspace, open: its book of runs, its engine process, and what is asked of both.

The window draws what the session says and asks it for what a person wants; it never talks to the
engine or the store itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QFile, QObject, QTimer, Signal

from engine.errors import CrucibleError
from engine.events import Change
from engine.store import OPEN, Lock, Run, RunInfo, Workspace
from workbench.engine_thread import EngineThread
from workbench.i18n import tr
from workbench.refusals import error_text, holder_text
from workbench.runs.book import ENDED, Book
from workbench.runs.record import Record, load, load_more
from workbench.runs.watch import Watch
from workbench.words import note_text

LOOK_MS = 350
"""How often the store is looked at for what other processes do."""
PATIENCE_MS = 5000
"""How long a cancel may take before "Stop now" is offered."""


class Session(QObject):
    """Emits what happened; its methods are what a person can do."""

    ready = Signal(str)
    """The engine can compute; the device in words."""
    lost = Signal(str)
    """The engine process is gone; why."""
    ended = Signal(str, str)
    """Run id and its last status."""
    began = Signal(str)
    """A run is under way now (id)."""
    refused = Signal(str, list)
    """What was asked for cannot be done: why, and each faulty field's path and text."""
    news = Signal(str, object)
    """A run that is watched said something: its id, News."""
    reloaded = Signal(str)
    """A run's record must be read again (it was resumed, or it ended)."""
    line = Signal(float, str, str, str)
    """For the log: unix time, level, source, text."""
    health = Signal(object, object)
    """Memory of the engine process and of its GPU, bytes or None."""
    changed = Signal()
    """Busy, paused, ready or read-only changed."""
    stuck = Signal(str)
    """A cancel has not taken effect within a few seconds; run id."""

    def __init__(self, root: Path, data_root: Path | None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.workspace = Workspace(root)
        self.data_root = data_root
        self.book = Book(self)
        self.holder: str | None = None
        """Who else holds this workspace; None while we do."""
        self.device = ""
        self.pid: int | None = None
        self.current: str | None = None
        """Id of the run that our engine works on."""
        self.paused = False
        self._gone = False
        """The engine process has ended, and no other has been started."""
        self.silent = False
        """The engine has not answered for some seconds: it is inside a long step, or stuck."""
        self._lock: Lock = self.workspace.window_lock()
        self._watch = Watch(self.workspace.folder)
        self._thread: EngineThread | None = None
        self._watched: dict[str, Record] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._id = 0
        self._asked: dict[int, Callable[[list[str]], None]] = {}
        self._cancelling: str | None = None
        self._impatience = QTimer(self, singleShot=True, interval=PATIENCE_MS)
        self._impatience.timeout.connect(self._patience_ended)
        self._looking = QTimer(self, interval=LOOK_MS)
        self._looking.timeout.connect(self.look)

    # --- opening and closing

    def open(self) -> None:
        """Take the workspace if nobody has it, and read its runs."""
        try:
            held = self._lock.acquire()
        except OSError:
            held, self.holder = False, tr("nobody: the folder cannot be written to")
        if not held and self.holder is None:
            self.holder = self._lock.holder() or tr("another window")
        infos, _ = self._watch.look()
        self.book.fill(infos)
        self._looking.start()
        self.changed.emit()

    @property
    def read_only(self) -> bool:
        return self.holder is not None

    def start_engine(self) -> None:
        """Start the engine process, unless we may only look."""
        if self.read_only or self._thread is not None:
            return
        self._thread = EngineThread(self.workspace.root, self, data_root=self.data_root)
        self._thread.said.connect(self._heard)
        self._thread.lost.connect(self._engine_lost)
        self._thread.log.connect(self._logged)
        self._thread.silent.connect(self._silence)
        self._thread.start()

    def restart_engine(self) -> None:
        """A new engine process in the place of one that is gone."""
        self._gone = False
        if self._thread is None:
            self.start_engine()
        else:
            self._thread.restart()
        self.changed.emit()

    def close(self) -> None:
        """Cancel, end the engine process and give the workspace free. Returns when that is done."""
        self._looking.stop()
        self._impatience.stop()
        if self._thread is not None:
            self._thread.stop(PATIENCE_MS / 500 if self.busy else 2.0)
            self._thread = None
        self._lock.release()

    # --- state

    @property
    def alive(self) -> bool:
        return self.pid is not None

    @property
    def busy(self) -> bool:
        """Whether our engine works on something, or something waits for it."""
        return self.current is not None or bool(self.book.queue)

    def record(self, run_id: str) -> Record:
        """Everything the store has of a run; from now on its news are told."""
        record = self.stored(run_id)
        self._watched = {
            run_id: record,
            **{k: v for k, v in self._watched.items() if k == self.current},
        }
        self._sizes[run_id] = {}
        return record

    def known_record(self, run_id: str | None) -> Record | None:
        """The record of a run that is watched."""
        return self._watched.get(run_id) if run_id else None

    def stored(self, run_id: str) -> Record:
        """What the store has of a run now, without watching it."""
        try:
            return load(self.run(run_id))
        except (OSError, CrucibleError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
            self._say("error", run_id, tr("It cannot be read: {error}", error=error))
            return Record()

    def run(self, run_id: str) -> Run:
        return Run(self.workspace.folder / run_id)

    # --- what a person can do

    def start(
        self,
        tasks: Sequence[Mapping[str, Any]],
        *,
        secrets: Mapping[str, str] | None = None,
        folder: Path | None = None,
        then: Callable[[list[str]], None] | None = None,
    ) -> None:
        """Ask for `tasks`, in order. `folder` is what their paths are relative to. `then` gets the
        ids of the runs."""
        self._wake()
        self._id += 1
        if then is not None:
            self._asked[self._id] = then
        message: dict[str, Any] = {
            "do": "start",
            "id": self._id,
            "tasks": [dict(task) for task in tasks],
            "secrets": dict(secrets or {}),
            "folder": None if folder is None else str(folder),
        }
        self._send(message)

    def _wake(self) -> None:
        """Start a new engine if there is none, for what is asked of it next."""
        if self._gone and not self.read_only:
            self.restart_engine()

    def resume(self, run_id: str) -> None:
        self._wake()
        self._id += 1
        self._send({"do": "resume", "run": run_id, "id": self._id})

    def cancel(self, run_id: str | None = None) -> None:
        """Cancel a run (the one under way by default), or take it from the queue."""
        run_id = run_id or self.current
        if run_id is None:
            return
        self._send({"do": "cancel", "run": run_id})
        if run_id == self.current:
            self._cancelling = run_id
            self._impatience.start()
            self.changed.emit()

    def cancel_all(self) -> None:
        for run_id in list(self.book.queue):
            self._send({"do": "cancel", "run": run_id})
        self.cancel()

    def stop_now(self) -> None:
        """End the engine process: for a cancel that does not take effect. `lost` follows."""
        if self._thread is not None:
            self._thread.kill()

    @property
    def cancelling(self) -> bool:
        return self._cancelling is not None

    def pause(self, on: bool) -> None:
        self._send({"do": "pause" if on else "continue"})

    def step(self) -> None:
        """One more scalar or progress event of a paused run."""
        if not self.paused:
            self._send({"do": "pause"})
        self._send({"do": "step"})

    def changes(self, run_id: str) -> list[Change]:
        """What a person changed while a run went."""
        events = (event for _, _, event in self.run(run_id).events())
        return [event for event in events if isinstance(event, Change)]

    def pace(self, steps_per_second: float) -> None:
        """Slow motion of the run under way; 0 is as fast as it goes."""
        self._send({"do": "pace", "steps_per_second": steps_per_second})

    def order(self, ids: Sequence[str]) -> None:
        self._send({"do": "order", "runs": list(ids)})

    def control(self, name: str, value: float) -> None:
        """Set a live value of the run under way, and of no other that may have begun meanwhile."""
        self._send({"do": "control", "run": self.current, "name": name, "value": value})

    def ask(
        self, question: Mapping[str, Any], answer: Callable[[dict[str, Any], bytes], None]
    ) -> None:
        """Put a question to the engine; `answer` gets its answer unless a newer one replaced it."""
        if self._thread is not None and self.alive:
            self._thread.ask(dict(question), answer)
        else:
            answer({"error": tr("the engine is not running")}, b"")

    def drop(self, kind: str) -> None:
        """Give up the question of this kind that is open; it is not answered."""
        if self._thread is not None:
            self._thread.drop(kind)

    def rename(self, run_id: str, name: str) -> None:
        self._about(run_id, lambda run: run.rename(name))

    def set_note(self, run_id: str, text: str) -> None:
        self._about(run_id, lambda run: run.set_note(text))

    def _about(self, run_id: str, change: Callable[[Run], None]) -> None:
        run = self.run(run_id)
        try:
            change(run)
        except OSError as error:
            self._say("error", tr("Run"), tr("This could not be written: {error}", error=error))
            return
        self._watch.forget(run_id)
        self.look()

    def trash(self, run_id: str) -> bool:
        """Move a run's folder to the system's trash; whether that was possible."""
        info = self.book.info(run_id)
        if info is None or info.status in ("queued", "running"):
            return False
        if not QFile.moveToTrash(str(self.workspace.folder / run_id)):
            return False
        self._watched.pop(run_id, None)
        self.book.remove(run_id)
        self.look()
        return True

    # --- what is heard

    def drain(self) -> None:
        """Tell the news of the watched runs. Called 30 times a second by the window."""
        if self._thread is None:
            return
        for run_id, news in self._thread.mailbox.drain().items():
            if news.progress is not None:
                self.book.set_progress(run_id, news.progress)
            for note in news.notes:
                self._say(note.level, self.book.name(run_id), note_text(note.text))
            record = self._watched.get(run_id)
            if record is None:
                continue
            if news.missed or (news.started is not None and news.started.step > 0):
                self.reloaded.emit(run_id)  # the store knows what we do not
            else:
                self.news.emit(run_id, record.add(news))

    def look(self) -> None:
        """See what other processes did in the workspace."""
        infos, different = self._watch.look()
        if different:
            self.book.fill(self._merged(infos))
        for run_id, record in list(self._watched.items()):
            info = self.book.info(run_id)
            if info is None or run_id == self.current or info.status != "running":
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, sqlite3.Error):
                fresh = load_more(self.run(run_id), record, self._sizes.setdefault(run_id, {}))
                if fresh.progress is not None:
                    self.book.set_progress(run_id, fresh.progress)
                self.news.emit(run_id, fresh)

    def _merged(self, infos: list[RunInfo]) -> list[RunInfo]:
        """The store's view. Ends of other processes' runs are noticed here."""
        for info in infos:
            known = self.book.info(info.id)
            if known is None or known.status == info.status or info.id == self.current:
                continue
            if info.status in ENDED and known.status == "running":
                QTimer.singleShot(0, self, lambda i=info: self._settled(i.id, i.status))
        return infos

    def _settled(self, run_id: str, status: str) -> None:
        self.reloaded.emit(run_id)
        self.ended.emit(run_id, status)

    def _heard(self, message: dict[str, Any]) -> None:
        match message.get("say"):
            case "hello":
                self.pid = message.get("pid")
                self.changed.emit()
            case "ready":
                self.device = str(message.get("device", ""))
                self.ready.emit(self.device)
                self.changed.emit()
            case "status":
                self._status(str(message["run"]), str(message["status"]))
            case "queue":
                self._queue(message)
            case "queued":
                self.look()
                ids = [str(run_id) for run_id in message.get("runs", ())]
                then = self._asked.pop(int(message.get("id", 0)), None)
                if then is not None:
                    then(ids)
            case "refused":
                self._asked.pop(int(message.get("id", 0)), None)
                problems = [(tuple(path), text) for path, text in message.get("problems", ())]
                self.refused.emit(str(message.get("error", "")), problems)
            case "health":
                self.health.emit(message.get("memory"), message.get("gpu"))

    def _queue(self, message: Mapping[str, Any]) -> None:
        self.current = message.get("running")
        self.paused = bool(message.get("paused"))
        if self.current is None or self.current != self._cancelling:
            self._cancelling = None
            self._impatience.stop()
        self.book.set_queue([str(run_id) for run_id in message.get("runs", ())])
        self.changed.emit()

    def _status(self, run_id: str, status: str) -> None:
        if status in ENDED:
            self.drain()
        self._watch.forget(run_id)
        self.look()
        self.book.set_status(run_id, status)
        if status == "running":
            self.current = run_id
            self.began.emit(run_id)
        elif status in ENDED:
            if self.current == run_id:
                self.current = None
            if self._cancelling == run_id:
                self._cancelling = None
                self._impatience.stop()
            info = self.book.info(run_id)
            if info is not None and status == "failed":
                self._say("error", info.name, error_text(info.error))
            self.reloaded.emit(run_id)
            self.ended.emit(run_id, status)
        self.changed.emit()

    def _engine_lost(self, cause: str) -> None:
        self.pid, self.current, self.paused, self._cancelling = None, None, False, None
        self._gone = True
        self.silent = False
        self._impatience.stop()
        self.book.set_queue([])
        self.look()
        self.changed.emit()
        self.lost.emit(cause)

    def _silence(self, silent: bool) -> None:
        self.silent = silent
        self.changed.emit()

    def _patience_ended(self) -> None:
        if self._cancelling is not None:
            self.stuck.emit(self._cancelling)

    def _logged(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                self._say("info", "engine", line)

    def _say(self, level: str, source: str, text: str) -> None:
        self.line.emit(time.time(), level, source, text)

    def _send(self, message: dict[str, Any]) -> None:
        if self._thread is not None:
            self._thread.send(message)
        else:
            who = holder_text(self.holder or "")
            self.refused.emit(
                tr("this workspace is open in another window ({holder})", holder=who), []
            )

    def can_resume(self, info: RunInfo) -> bool:
        return (
            not self.read_only and info.status in OPEN and info.status not in ("queued", "running")
        )
