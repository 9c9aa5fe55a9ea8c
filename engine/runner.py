"""Runs one run after another: pulls the task, keeps the record, says how it ended.

The runner alone emits Started, Finished, Stopped and Failed. It belongs to one thread; `cancel`,
`pause`, `step` and the like may be called from any other.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import (
    BadInput,
    Cancelled,
    CrucibleError,
    LostError,
    StorageError,
    UnavailableError,
    is_memory,
)
from engine.events import (
    Change,
    Event,
    Failed,
    Finished,
    Note,
    Progress,
    Saved,
    Scalars,
    Started,
    Stopped,
)
from engine.files import FULL, remove_leftovers
from engine.store import OVER, Run, RunInfo, Status, Workspace
from engine.store.workspace import EXAMPLES
from engine.store.writer import RunWriter, explain
from engine.task import Task, check_live, extra_of, parse_task

if TYPE_CHECKING:
    from engine.bench import Bench

log = logging.getLogger(__name__)

Listener = Callable[[Run, Sequence[Event]], None]
"""Hears what a run said, after it is on the disk. Called in the store thread, or in the runner's;
must return soon."""


class Runner:
    """Executes runs of one workspace, one at a time."""

    def __init__(
        self,
        workspace: Workspace,
        listener: Listener,
        *,
        data_root: Path | None = None,
        trust_code: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """`data_root` is where data sets lie; without it, where the run was started with them (or
        the run that its model comes from). `between` is called between two steps, and while paused:
        questions are answered there."""
        self.workspace = workspace
        self.failure: Exception | None = None
        """What the last run came to grief over."""
        self._listener = listener
        self._data_root = data_root
        self._trust_code = trust_code
        self._between = between
        self._changed = threading.Condition()
        self._current: Run | None = None
        self._task: Task | None = None
        self._stop: Status | None = None
        self._paused = self._poked = False
        self._steps = 0
        self._pace = self._due = 0.0
        self._controls: dict[str, float] = {}

    # --- from any thread ------------------------------------------------------------------------

    @property
    def current(self) -> Run | None:
        return self._current

    @property
    def paused(self) -> bool:
        return self._paused

    def cancel(self) -> None:
        """Stop the current run at its next yield, with what it has."""
        self._ask(stop="cancelled")

    def interrupt(self) -> None:
        """Stop the current run at its next yield, to be resumed later."""
        self._ask(stop="interrupted")

    def pause(self) -> None:
        self._ask(paused=True)

    def go_on(self) -> None:
        self._ask(paused=False)

    def step(self) -> None:
        """Go on until the next scalars (of what says none: progress), then pause."""
        with self._changed:
            self._paused = True
            self._steps += 1
            self._changed.notify_all()

    def pace(self, steps_per_second: float) -> None:
        """Slow motion: so many times a second, at most, until the next scalars (of what says none:
        progress), for as long as the current run lasts; 0 is as fast as it goes.

        Raises BadInput for a number below 0, or none."""
        if not 0 <= steps_per_second < math.inf:
            raise BadInput(f"{steps_per_second} steps a second cannot be; expected 0 or more")
        with self._changed:
            self._pace, self._due = steps_per_second, 0.0
            self._changed.notify_all()

    def set_control(self, name: str, value: float, run: str | None = None) -> None:
        """Change a live value of the current run (`run`, if it is named), from its next step on.

        Raises BadInput if nothing runs, or its task has no such value, or not in this range."""
        with self._changed:
            if self._current is None or self._task is None or run not in (None, self._current.id):
                raise BadInput(f"{name} cannot be set: the run is not under way")
            check_live(self._task, name, value)
            self._controls[name] = value
            self._poked = True
            self._changed.notify_all()

    def poke(self) -> None:
        """Have `between` called (again) while the run is paused."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def _ask(self, stop: Status | None = None, paused: bool | None = None) -> None:
        with self._changed:
            if stop is not None and self._current is not None:
                self._stop = stop
            if paused is not None:
                self._paused = paused
                self._steps = 0
            self._changed.notify_all()

    # --- running ----------------------------------------------------------------------------------

    def run(self, run: Run, *, secrets: Mapping[str, str] | None = None) -> Status:
        """Run it, or go on with it where it was interrupted; how it ended.

        Raises BadInput if another process has it, or if it has come to its own end already.
        """
        info = run.info()
        if info.status == "damaged":
            raise BadInput(f"run {run.id} cannot be run: {info.error}")
        if not run.lock.acquire():
            raise BadInput(f"run {info.name!r} ({run.id}) is being run by {run.lock.holder()}")
        try:
            if info.status in OVER:
                raise BadInput(
                    f"run {info.name!r} ({run.id}) is {info.status}; start a new one instead"
                )
            before = unfinished_input(self.workspace, info)
            if before is not None:
                field, parent = before
                missing = (
                    f"{field} comes from run {parent.name!r} ({parent.id}), "
                    f"which is {parent.status}"
                )
                self._end(run, "skipped", [], error=missing)
                return "skipped"
            task = parse_task(info.spec)
            _clear_away(run, task)
            return self._run(run, task, secrets or {})
        finally:
            run.lock.release()

    def skip(self, run: Run, why: str) -> None:
        """Give a queued run up."""
        self._end(run, "skipped", [], error=why)
        run.lock.release()

    def _run(self, run: Run, task: Task, secrets: Mapping[str, str]) -> Status:
        writer = RunWriter(run, lambda events: self._listener(run, events))
        artifacts: list[Mapping[str, Any]] = []
        self._stop = None
        self._steps = 0
        with self._changed:
            self._controls = {}
            self._current, self._task = run, task
        self.failure = None
        begun = bool(run.info().environment)
        end: Event
        status: Status
        try:
            status, end = self._pull(run, task, secrets, writer, artifacts)
        except (Exception, SystemExit) as raised:
            error = raised if isinstance(raised, Exception) else CrucibleError(_LEFT)
            status, end = _failure(error)
            self.failure = error
            # As over a passphrase that was not given again, or a network that is down now.
            if isinstance(error, BadInput | UnavailableError) and begun:
                status = "interrupted"
            if is_memory(error) and self._has_checkpoint(run):  # as of a GPU that others use too
                status = "interrupted"
        except BaseException:
            writer.close()  # its thread would keep the process alive
            raise
        finally:
            with self._changed:
                self._current = self._task = None
                self._paused = False
                self._pace = 0.0
        with contextlib.suppress(CrucibleError):
            writer.put(end)
        writer.close()
        if writer.failed:  # not on the disk, but a person has to know
            self._listener(run, [end])
        self._end(run, status, artifacts, end)
        return status

    def _pull(
        self,
        run: Run,
        task: Task,
        secrets: Mapping[str, str],
        writer: RunWriter,
        artifacts: list[Mapping[str, Any]],
    ) -> tuple[Status, Event]:
        from engine.bench import Bench

        before = run.info()
        spec = task.bench
        if before.environment:  # resumed: on the same device, with the same threads
            recorded = {k: before.environment[k] for k in ("device", "threads")}
            spec = spec.model_copy(update=recorded)
        data_root = self._data_root or self.workspace.data_root_of(before)
        bench = Bench(
            run.folder,
            self.workspace.root,
            seed=task.seed,
            spec=spec,
            data_root=data_root,
            secrets=secrets,
            trust_code=self._trust_code,
            flush=writer.flush,
        )
        checkpoint = bench.checkpoints.latest()
        step = -1
        if checkpoint is not None:
            bench.restore(checkpoint)
            step = checkpoint.step
        run.set_state(
            status="running",
            started=before.started or _now(),
            environment=bench.environment,
            data_root=str(data_root.absolute()) if data_root else "",
            error="",
            summary={},
            artifacts=[],
        )
        writer.start(truncate_after=step)
        for planned in sorted(getattr(task, "changes", ()), key=lambda change: change.step):
            bench.take_up(Change(planned.name, planned.value, planned.step))
        for _, _, event in run.events():
            if isinstance(event, Change):
                bench.take_up(event)
        writer.put(Started(bench.environment, max(step, 0)))
        if (
            before.environment
            and before.environment.get("versions") != bench.environment["versions"]
        ):
            writer.put(Note("warning", _versions_differ(before.environment, bench.environment)))
        if before.environment and checkpoint is None:
            writer.put(Note("info", "there is no checkpoint to go on from: it begins again"))
        steps = task.run(bench)
        told = False
        followed = False  # scalars were said, and the progress that belongs to them was not yet
        try:
            while True:
                if self._wait(bench, writer) and not told:
                    told = True
                    event = steps.throw(Cancelled())
                else:
                    event = next(steps)
                writer.put(event)
                if isinstance(event, Saved):
                    artifacts.append(
                        {
                            "name": event.name,
                            "path": event.path,
                            "size": event.size,
                            "sha256": event.sha256,
                        }
                    )
                progress = isinstance(event, Progress)
                if isinstance(event, Scalars) or (progress and not followed):
                    self._stepped(bench)
                followed = isinstance(event, Scalars) or (followed and not progress)
        except StopIteration as returned:
            summary: Mapping[str, Any] = returned.value or {}
        except Cancelled:
            summary = {}
        if not told:
            for late, taken in bench.too_late():
                writer.put(
                    Note(
                        "warning",
                        f"{late.name} was to be {late.value:g} from step {late.step} on, but the "
                        f"run has {taken} steps: it never was",
                    )
                )
        writer.flush()
        if told and self._stop is not None:  # else it had come to its end before it could be told
            return self._stop, Stopped(summary)
        return "rejected" if summary.get("unmet") else "done", Finished(summary)

    def _stepped(self, bench: Bench) -> None:
        if bench.single_step:
            with self._changed:
                self._steps = max(0, self._steps - 1)
                if self._pace:
                    self._due = time.monotonic() + 1 / self._pace

    def _has_checkpoint(self, run: Run) -> bool:
        return any((run.folder / "checkpoints").glob("*.safetensors"))

    def _wait(self, bench: Bench, writer: RunWriter) -> bool:
        """Between two steps: answer, wait while paused, take up changes. True if to be stopped."""
        self._poked = False
        self._between()
        self._take_up(bench, writer)
        with self._changed:
            while self._stop is None and (held := self._held()):
                if not self._poked:  # while `between` was at work
                    self._changed.wait(None if held == math.inf else held)
                self._poked = False
                self._changed.release()
                try:
                    self._between()
                    self._take_up(bench, writer)
                finally:
                    self._changed.acquire()
            bench.single_step = self._paused or self._pace > 0
            return self._stop is not None

    def _held(self) -> float:
        """Seconds to wait before the next step; infinite while paused."""
        if self._paused:
            return 0.0 if self._steps else math.inf
        return max(0.0, self._due - time.monotonic()) if self._pace else 0.0

    def _take_up(self, bench: Bench, writer: RunWriter) -> None:
        """Let live values hold from the next step on, which is on the disk before that."""
        with self._changed:
            changed, self._controls = self._controls, {}
        for name, value in changed.items():
            writer.put(bench.change(name, value))
        if changed:
            writer.flush()

    def _end(
        self,
        run: Run,
        status: Status,
        artifacts: Sequence[Mapping[str, Any]],
        end: Event | None = None,
        error: str = "",
    ) -> None:
        values: dict[str, Any] = {"status": status, "ended": _now(), "error": error}
        if isinstance(end, Finished | Stopped):
            values["summary"] = dict(end.summary)
        if isinstance(end, Failed):
            values.update(error=end.error, details=end.details)
            log.error("run %s failed: %s\n%s", run.id, end.error, end.details)
        try:
            run.set_state(artifacts=list(artifacts), **values)
        except CrucibleError as failure:  # the disk that the run failed on
            log.error("run %s: %s could not be recorded: %s", run.id, status, failure)
        self._listener(run, [])


def unfinished_input(workspace: Workspace, info: RunInfo) -> tuple[str, RunInfo] | None:
    """What a run waits for: the field that names it, and the run of its lineage that did not come
    to its end."""
    for field, parent in info.lineage.items():
        folder = workspace.folder / parent
        before = Run(folder).info()
        # A cancelled run keeps its model, and a person may use it. The rest of its recipe is
        # about the whole one, which resuming it still makes.
        same = info.recipe is not None and before.recipe == info.recipe
        made = any((folder / name).is_file() for name in ("model.safetensors", EXAMPLES))
        if before.status not in ("done", "rejected") and (same or not made):
            return field, before
    return None


def _clear_away(run: Run, task: Task) -> None:
    """Remove what a process that was killed left half written: in the folder of the run, which is
    locked by us, and beside the files that it saves."""
    saved = [
        getattr(task, name)
        for name, field in type(task).model_fields.items()
        if extra_of(field).get("path") == "save" and getattr(task, name)
    ]
    beside: list[Path] = []
    for path in saved:
        with contextlib.suppress(RuntimeError):  # nobody of that name: the task itself will say so
            beside.append(Path(path).expanduser().parent)
    for folder in (run.folder, run.folder / "checkpoints", *beside):
        remove_leftovers(folder)
    for part in (run.folder / "images").glob("*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def _failure(error: Exception) -> tuple[Status, Event]:
    """How a run ends that came to grief over `error`, and what is said of it."""
    if isinstance(error, StorageError | LostError):
        return "interrupted", Failed(str(error))
    if isinstance(error, CrucibleError):
        return "failed", Failed(str(error))
    if isinstance(error, OSError):
        text = f"{explain(error)} ({error.filename})" if error.filename else explain(error)
        full = error.errno in FULL
        return "interrupted" if full else "failed", Failed(text, traceback.format_exc())
    text = _MEMORY if is_memory(error) else f"{type(error).__name__}: {error}"
    return "failed", Failed(text, traceback.format_exc())


_LEFT = (
    "code that the run called asked to leave the program (as sys.exit() does), which only ends the "
    "run. A model's own file must not do that."
)
_MEMORY = (
    "out of memory. The run needs more than there is: a smaller batch size, model or data set "
    "will do, or another device."
)


def _versions_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    then = ", ".join(f"{k} {v}" for k, v in before.get("versions", {}).items())
    here = ", ".join(f"{k} {v}" for k, v in now["versions"].items())
    return f"begun with {then}, resumed with {here}: the result may differ in its last bits"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
