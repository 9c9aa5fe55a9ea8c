"""Runs on disk: a workspace is a folder of runs, a run is a folder that nobody overwrites.

`run.json` says what was asked for and is written once. `state.json` says how it went and is
replaced as a whole, by the process that holds the run's lock. `about.json` holds what a person
calls it. Torch-free and numpy-free.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

from engine import frames
from engine.errors import BadInput, CrucibleError, StorageError
from engine.events import Array, Event, Images, Picture, from_message
from engine.files import FULL, atomic
from engine.store import metrics

Status = Literal[
    "queued",
    "running",
    "done",
    "rejected",
    "failed",
    "cancelled",
    "interrupted",
    "skipped",
    "damaged",
]
"""`rejected` came to its end as `done` does, with a result that is not what was required of it."""
OPEN: tuple[Status, ...] = ("queued", "running", "interrupted", "cancelled", "skipped")
"""What can be resumed (or is under way): everything that did not come to its own end."""
EXAMPLES = "adversarial.safetensors"
"""The file in a run's folder that holds the adversarial examples it found."""
ATTACKING = ("attack", "evaluate")
"""Kinds of tasks that keep them."""
OVER: tuple[Status, ...] = ("done", "rejected", "failed")
"""What has come to its own end."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run, without its metrics. Times are UTC, ISO 8601."""

    id: str
    name: str
    kind: str
    status: Status
    created: str
    spec: Mapping[str, Any]
    lineage: Mapping[str, str] = field(default_factory=dict)
    recipe: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    details: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    data_root: str = ""
    artifacts: tuple[Mapping[str, Any], ...] = ()
    started: str = ""
    ended: str = ""
    note: str = ""


class Lock:
    """An exclusive lock on a file, held while the process lives; it names its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Whether it is held by us now. Raises OSError where the folder cannot be written to."""
        if self._file is not None:
            return True
        file = self.path.open("a+", encoding="utf-8")
        # Whoever looks whether it is held holds it for an instant: that is no refusal.
        patience = threading.Event()
        if not any(_lock(file) or patience.wait(_GLANCE) for _ in range(_GLANCES)):
            file.close()
            return False
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> str | None:
        """Who holds it ("process 123 on host"), or None if nobody does."""
        if self._file is not None:
            return f"process {os.getpid()} on {socket.gethostname()}"
        try:
            with self.path.open("r+", encoding="utf-8") as file:
                if _lock(file, shared=True):
                    return None
                file.seek(0)
                who = json.loads(file.read() or "{}")
        except (OSError, ValueError):
            return None
        return f"process {who.get('pid', '?')} on {who.get('host', '?')}"


_GLANCE, _GLANCES = 0.005, 20
"""Seconds between two attempts to get a lock, and how many there are."""


def _lock(file: IO[str], shared: bool = False) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            file.seek(2**30)  # beyond the text, which others may read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX  # those who only look share it
        fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.lock = Lock(folder / "lock")

    @property
    def database(self) -> Path:
        return self.folder / "metrics.db"

    def info(self) -> RunInfo:
        """What is known of it now; status "damaged" if its own record cannot be read."""
        run = _read(self.folder / "run.json")
        state = self._state()
        about = {
            k: v for k, v in (_read(self.folder / "about.json") or {}).items() if type(v) is str
        }
        if run is None or not _is_whole(run):
            return RunInfo(
                self.id, self.id, "", "damaged", "", {}, error="run.json is missing or unreadable"
            )
        status: Status = state.get("status", "queued")
        if status in ("queued", "running") and self.lock.holder() is None:
            # It may have ended between the two looks.
            state = self._state()
            status = state.get("status", "queued")
            if status in ("queued", "running"):
                status = "interrupted"
        return RunInfo(
            id=self.id,
            name=about.get("name", run["name"]),
            kind=run["spec"].get("kind", ""),
            status=status,
            created=run["created"],
            spec=run["spec"],
            lineage=run["lineage"],
            recipe=run["recipe"],
            summary=state.get("summary", {}),
            error=state.get("error", ""),
            details=state.get("details", ""),
            environment=state.get("environment", {}),
            data_root=state.get("data_root", ""),
            artifacts=tuple(state.get("artifacts", ())),
            started=state.get("started", ""),
            ended=state.get("ended", ""),
            note=about.get("note", ""),
        )

    def _state(self) -> dict[str, Any]:
        """What state.json holds, without what is not of its kind: another program's, or a fault."""
        known = _read(self.folder / "state.json") or {}
        kinds = {"summary": dict, "environment": dict, "artifacts": list}
        whole = {k: v for k, v in known.items() if isinstance(v, kinds.get(k, str))}
        if not all(isinstance(artifact, dict) for artifact in whole.get("artifacts", ())):
            del whole["artifacts"]
        return whole

    def scalars(self, after: Mapping[str, int] | None = None) -> metrics.Series:
        """Every series as (steps, values); of a series in `after` only what comes after it."""
        return metrics.read_scalars(self.database, after)

    def events(self, after: int = 0) -> list[tuple[int, float, Event]]:
        """(sequence number, unix time, event) of notes, tables, artifacts and progress."""
        return metrics.read_events(self.database, after)

    def image_names(self) -> list[str]:
        """The names of what was stored to be drawn: pictures, and arrays."""
        return sorted(path.stem for path in (self.folder / "images").glob("*.frames"))

    def images(self, name: str) -> list[Images]:
        """The stored pictures of one name, in order of their steps."""
        return [picture for picture in self.pictures(name) if isinstance(picture, Images)]

    def arrays(self, name: str) -> list[Array]:
        """The stored numbers of one name, in order of their steps."""
        return [picture for picture in self.pictures(name) if isinstance(picture, Array)]

    def pictures(self, name: str) -> list[Picture]:
        """What was stored under one name to be drawn, in order of its steps."""
        found: dict[int, Picture] = {}
        torn = (
            FileNotFoundError,
            frames.BadFrame,
        )  # what is whole before a torn frame still counts
        with contextlib.suppress(*torn), self.image_file(name).open("rb") as stream:
            while (frame := frames.read(stream)) is not None:
                event = from_message(*frame)
                if isinstance(event, Picture):
                    found[event.step] = event
        return [found[step] for step in sorted(found)]

    def image_file(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.frames"

    def examples_file(self) -> Path:
        """The adversarial examples that an attack or an evaluation kept. Raises BadInput if there
        are none (yet)."""
        info, path = self.info(), self.folder / EXAMPLES
        if path.is_file():
            return path
        if info.kind not in ATTACKING:
            raise BadInput(
                f"run {info.name!r} ({self.id}) has no adversarial examples: a task of kind "
                f"{info.kind!r} makes none"
            )
        raise BadInput(
            f"run {info.name!r} ({self.id}) has no adversarial examples: it is {info.status}. They "
            "are written when it is over, also if it is cancelled."
        )

    def rename(self, name: str) -> None:
        self._about(name=name)

    def set_note(self, text: str) -> None:
        self._about(note=text)

    def _about(self, **values: str) -> None:
        _write(self.folder / "about.json", {**(_read(self.folder / "about.json") or {}), **values})

    def discard(self) -> None:
        """Remove a run that was only just made, and never begun."""
        self.lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def set_state(self, **values: Any) -> None:
        """Change what is known of how it went; only the holder of its lock does."""
        path = self.folder / "state.json"
        _write(path, {**(_read(path) or {}), **values})


class Workspace:
    """A folder of runs, and of what belongs to them (keys, logs, trash).

    Raises BadInput if `root` cannot be used as one.
    """

    def __init__(self, root: Path, create: bool = True) -> None:
        self.root = Path(root).expanduser().absolute()
        self._newest = datetime.min.replace(tzinfo=UTC)
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"{self.root} cannot be used as a workspace: {error.strerror}. "
                "Choose a folder that you may write to with --workspace."
            ) from None

    @property
    def folder(self) -> Path:
        return self.root / "runs"

    def runs(self) -> list[RunInfo]:
        """Every run, the newest first."""
        return [Run(path).info() for path in self._folders()]

    def _folders(self) -> list[Path]:
        try:
            entries = [entry for entry in os.scandir(self.folder) if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BadInput(
                f"{self.root} cannot be read as a workspace: {error.strerror}. "
                "Choose another folder with --workspace."
            ) from None
        return [Path(entry.path) for entry in sorted(entries, key=lambda e: e.name, reverse=True)]

    def find(self, ref: str) -> Run:
        """The run that `ref` means: an id, the newest of that name, or a unique prefix of an id.

        Raises BadInput if there is none, or more than one.
        """
        if ref in (path.name for path in self._folders()):
            return Run(self.folder / ref)
        infos = self.runs()
        for info in infos:
            if info.name == ref:
                return Run(self.folder / info.id)
        matches = [info.id for info in infos if ref and info.id.startswith(ref)]
        if len(matches) == 1:
            return Run(self.folder / matches[0])
        if matches:
            raise BadInput(f"{ref!r} is the beginning of {len(matches)} runs: {_some(matches, 4)}")
        names = list(dict.fromkeys(info.name for info in infos))
        close = difflib.get_close_matches(ref, names, n=3)
        names = [*close, *(name for name in names if name not in close)]
        there = f" There are: {_some(names, 8)}." if names else " It holds no runs yet."
        raise BadInput(f"there is no run {ref!r} in {self.root}.{there}")

    def create(
        self,
        spec: Mapping[str, Any],
        *,
        name: str,
        lineage: Mapping[str, str] | None = None,
        recipe: str | None = None,
        data_root: Path | None = None,
    ) -> Run:
        """A new run, queued and locked by this process. `data_root` is noted for whoever goes on
        with it. Raises BadInput or StorageError, with nothing left of it, if it cannot be written.
        """
        self._newest = max(datetime.now(UTC), self._newest + timedelta(milliseconds=1))
        stamp = self._newest.strftime("%Y%m%d-%H%M%S") + f"{self._newest.microsecond // 1000:03d}"
        run = Run(self.folder / f"{stamp}-{secrets.token_hex(2)}")
        while run.folder.exists():  # another process's, of the same millisecond
            run = Run(self.folder / f"{stamp}-{secrets.token_hex(2)}")
        try:
            (run.folder / "images").mkdir(parents=True)
            run.lock.acquire()
            run.set_state(status="queued", data_root=str(data_root.absolute()) if data_root else "")
            _write(
                run.folder / "run.json",
                {
                    "id": run.id,
                    "name": name,
                    "spec": dict(spec),
                    "lineage": dict(lineage or {}),
                    "recipe": recipe,
                    "created": self._newest.isoformat(timespec="milliseconds"),
                },
            )
        except OSError as error:
            run.discard()
            raise (StorageError if error.errno in FULL else BadInput)(
                f"no run can be written to {self.folder}: {error.strerror}. "
                "Make room, or choose another folder with --workspace."
            ) from None
        except CrucibleError:
            run.discard()
            raise
        return run

    def data_root_of(self, info: RunInfo) -> Path | None:
        """Where the data of a run lay, else that of what it came from; None where nobody said, or
        it is there no more."""
        parents = (Run(self.folder / parent).info() for parent in info.lineage.values())
        roots = (Path(each.data_root) for each in (info, *parents) if each.data_root)
        return next((root for root in roots if root.is_dir()), None)

    def model_file(self, ref: str) -> Path:
        """The model of the run `ref`. Raises BadInput if that run has none (yet)."""
        run = self.find(ref)
        path = run.folder / "model.safetensors"
        if not path.is_file():
            info = run.info()
            if info.status in ("done", "rejected"):
                raise BadInput(
                    f"run {info.name!r} ({run.id}) has no model: "
                    f"a task of kind {info.kind!r} makes none"
                )
            raise BadInput(f"run {info.name!r} ({run.id}) has no model: it is {info.status}")
        return path

    def window_lock(self) -> Lock:
        """What the one window that may write holds."""
        return Lock(self.root / "window.lock")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _is_whole(run: Mapping[str, Any]) -> bool:
    """Whether a run.json holds what `create` writes."""
    kinds = {"name": str, "created": str, "spec": dict, "lineage": dict}
    return "recipe" in run and all(isinstance(run.get(key), kind) for key, kind in kinds.items())


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with atomic(path) as file:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        # What is no UTF-8, as a file's name may be, becomes JSON's own escape.
        file.write(text.encode("utf-8", "backslashreplace"))


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
