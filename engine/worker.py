"""The engine process: commands come in on standard input, events go out on standard output.

Both are streams of `engine.frames`. Five threads: the main one computes; the reader takes commands
(and answers a ping even inside a long step); each run's store thread writes the record; the one of
`engine.desk` loads the data that questions are about; the sender writes to the pipe and may be
stuck for as long as it likes. The end of the input means: checkpoint, mark the run interrupted,
leave.

Commands (`do`): hello, start, resume, cancel, pause, continue, step, order, control, ask, drop,
ping, quit. Messages (`say`): hello, ready, queued, refused, queue, status, event, scalars, missed,
answer, pong, health. `tests/engine/test_worker.py` shows each of them.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine import frames
from engine.desk import Desk
from engine.errors import BadInput, CrucibleError, SpecError
from engine.events import Event, Picture, Progress, Scalars, to_message
from engine.models.spec import Module
from engine.models.trust import remember
from engine.recipe import enqueue, entries, rest_of
from engine.runner import Runner
from engine.store import OVER, Run, Workspace

log = logging.getLogger("engine")

PROTOCOL = 1
BACKLOG = 50_000
"""Scalar values that wait for a reader; what is beyond, the window reads from the store."""

GRACE = 8.0
"""Seconds after the end of the input until a run that does not yield is cut off."""


class Outbox:
    """What waits to be sent. Scalars are gathered; of the pictures of one name, of a run's progress
    and of the engine's health only the newest waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._messages: dict[object, tuple[Mapping[str, Any], bytes]] = {}
        self._scalars: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        self._waiting = 0
        self._missed: set[str] = set()
        self.closed = False

    def say(self, what: str, payload: bytes = b"", **fields: Any) -> None:
        with self._lock:
            self._line_up(what if what == "health" else None, {"say": what, **fields}, payload)
        self._wake.set()

    def events(self, run: str, events: Sequence[Event]) -> None:
        with self._lock:
            for event in events:
                if isinstance(event, Scalars):
                    self._scalar(run, event)
                    continue
                name = event.name if isinstance(event, Picture) else ""
                newest = (run, type(event), name) if isinstance(event, Picture | Progress) else None
                body, payload = to_message(event)
                self._line_up(newest, {"say": "event", "run": run, **body}, payload)
        self._wake.set()

    def _line_up(self, newest: object, message: Mapping[str, Any], payload: bytes) -> None:
        """Put a message at the end of the line, in place of an older one that is the same `newest`;
        without that, behind the scalars that came before it."""
        if newest is None:
            self._gathered()
        key = newest or object()
        self._messages.pop(key, None)
        self._messages[key] = message, payload

    def _scalar(self, run: str, event: Scalars) -> None:
        if self._waiting > BACKLOG:
            self._missed.add(run)
            return
        series = self._scalars.setdefault(run, {})
        for name, value in event.values.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(event.step)
            values.append(value)
            self._waiting += 1

    def _gathered(self) -> None:
        """Put what was gathered into the line, before something that comes after it."""
        for run, series in self._scalars.items():
            self._messages[object()] = {"say": "scalars", "run": run, "series": series}, b""
        self._scalars = {}

    def send_to(self, stream: BinaryIO) -> None:
        """Send until closed and empty, at most 30 times a second. Raises OSError when nobody
        listens any more."""
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                closed = self.closed
                self._gathered()
                batch, self._messages = list(self._messages.values()), {}
                for run in self._missed:
                    batch.append(({"say": "missed", "run": run}, b""))
                self._missed = set()
                self._waiting = 0
            for message, payload in batch:
                stream.write(frames.pack(message, payload))
            stream.flush()
            if closed:
                return
            threading.Event().wait(0.03)

    def close(self) -> None:
        self.closed = True
        self._wake.set()


class Worker:
    """Takes commands, keeps the queue, runs it."""

    def __init__(
        self, workspace: Workspace, outbox: Outbox, data_root: Path | None, trust_code: bool
    ) -> None:
        self.workspace = workspace
        self.out = outbox
        self.runner = Runner(
            workspace,
            lambda run, events: self.out.events(run.id, events),
            data_root=data_root,
            trust_code=trust_code,
            between=self._between,
        )
        self._data_root = data_root
        self._queue: list[Run] = []
        self._secrets: dict[str, Mapping[str, str]] = {}
        self._changed = threading.Condition()
        self._desk = Desk(workspace, data_root, outbox.say, self._wake)
        self._closing = False
        self._begun = ""
        self._unwanted = ""

    # --- the reader's thread ----------------------------------------------------------------------

    def read_from(self, stream: BinaryIO) -> None:
        """Take commands until the input ends."""
        try:
            while (frame := frames.read(stream)) is not None:
                try:
                    self._take(frame[0])
                except SpecError as error:
                    problems = [[list(p.path), p.text] for p in error.problems]
                    self._refuse(frame[0], str(error), problems)
                except (CrucibleError, OSError) as error:
                    self._refuse(frame[0], str(error))
                except (KeyError, TypeError, ValueError) as error:
                    self._refuse(frame[0], f"not a command: {type(error).__name__}: {error}")
        except (OSError, frames.BadFrame) as error:
            log.error("the window's commands cannot be read: %s", error)
        self.close()

    def _refuse(self, command: Mapping[str, Any], text: str, problems: Sequence[Any] = ()) -> None:
        self.out.say("refused", id=command.get("id"), error=text, problems=problems)

    def _take(self, command: Mapping[str, Any]) -> None:
        match command["do"]:
            case "hello":
                if command["protocol"] != PROTOCOL:
                    raise BadInput(
                        f"the window speaks protocol {command['protocol']}, this engine "
                        f"{PROTOCOL}; install the same version of Crucible on both sides"
                    )
            case "ping":
                self.out.say("pong", id=command["id"])
            case "start":
                self._start(command)
            case "resume":
                self._resume(command)
            case "cancel":
                self._cancel(command["run"])
            case "pause":
                self.runner.pause()
                self._say_queue()
            case "continue":
                self.runner.go_on()
                self._say_queue()
            case "step":
                self.runner.step()
                self._say_queue()
            case "pace":
                self.runner.pace(float(command["steps_per_second"]))
            case "order":
                with self._changed:
                    place = {run: i for i, run in enumerate(command["runs"])}
                    self._queue.sort(key=lambda run: place.get(run.id, len(place)))
                self._say_queue()
            case "control":
                run, name = command.get("run"), command["name"]
                self.runner.set_control(name, float(command["value"]), run)
            case "ask":
                self._desk.ask(command["id"], command["question"])
            case "drop":
                self._desk.drop(command["kind"])
            case "quit":
                self.close()
            case unknown:
                raise BadInput(f"this engine has no command {unknown!r}")

    def _start(self, command: Mapping[str, Any]) -> None:
        folder = command.get("folder")
        recipe = entries({"task": command["tasks"]}, base=Path(folder) if folder else None)
        for model in (getattr(entry.task, "model", None) for entry in recipe):
            if isinstance(model, Module) and model.trust:  # the window asked, or its form says so
                remember(model)
        label = f"{time.time():.3f}" if len(recipe) > 1 else None
        runs = enqueue(self.workspace, recipe, label=label, data_root=self._data_root)
        self._add(runs, command)

    def _resume(self, command: Mapping[str, Any]) -> None:
        runs = rest_of(self.workspace, self.workspace.find(command["run"]))
        if runs[0].info().status in OVER:
            raise BadInput(f"run {runs[0].id} has come to its end; start a new one instead")
        for run in runs:
            if not run.lock.acquire():
                raise BadInput(f"run {run.id} is being run by {run.lock.holder()}")
            run.set_state(status="queued")
        self._add(runs, command)

    def _add(self, runs: Sequence[Run], command: Mapping[str, Any]) -> None:
        with self._changed:
            self._queue.extend(runs)
            for run in runs:
                self._secrets[run.id] = command.get("secrets", {})
            self.out.say("queued", id=command.get("id"), runs=[run.id for run in runs])
            for run in runs:
                self.out.say("status", run=run.id, status="queued")
            self._say_queue()
            self._changed.notify_all()

    def _cancel(self, ref: str) -> None:
        with self._changed:
            if self._begun == ref:
                self._unwanted = ref
                self.runner.poke()
                return
            waiting = [run for run in self._queue if run.id == ref]
            self._queue = [run for run in self._queue if run.id != ref]
            self._secrets.pop(ref, None)
        for run in waiting:
            self.runner.skip(run, "removed from the queue")
            self.out.say("status", run=run.id, status="skipped")
        self._say_queue()

    def close(self) -> None:
        """Interrupt what runs and leave, soon."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._desk.close()
        self.runner.interrupt()
        watchdog = threading.Timer(GRACE, _cut_off)
        watchdog.daemon = True
        watchdog.start()

    def _wake(self) -> None:
        """Have the main thread look at the desk: it is idle, or works, or waits in a pause."""
        with self._changed:
            self._changed.notify_all()
        self.runner.poke()

    # --- the main thread --------------------------------------------------------------------------

    def work(self) -> None:
        """Run what is queued, answer what is asked, until closed."""
        self._desk.open()
        answered = False  # a long answer does not keep a run waiting
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._desk.ready or self._closing)
                if self._closing:
                    break
                due = self._queue and (answered or not self._desk.ready)
                run = self._queue.pop(0) if due else None
                self._begun, self._unwanted = (run.id if run is not None else ""), ""
            answered = run is None
            if run is None:
                self._desk.compute()
                continue
            self._say_queue(run)
            self.out.say("status", run=run.id, status="running")
            try:
                status = self.runner.run(run, secrets=self._secrets.pop(run.id, {}))
            except CrucibleError as error:
                status = run.info().status
                self.out.say("refused", id=None, error=str(error), problems=[])
            with self._changed:
                self._begun = ""
            self.out.say("status", run=run.id, status=status)
            self._say_queue()
        self._desk.join(1.0)

    def _say_queue(self, running: Run | None = None) -> None:
        current = running or self.runner.current
        self.out.say(
            "queue",
            running=current.id if current is not None else None,
            runs=[run.id for run in self._queue],
            paused=self.runner.paused,
        )

    def _between(self) -> None:
        """Between two steps of a run: what was asked of it since it left the queue, and questions.

        The main thread looks, so that nobody has to hit the moment between queue and first step.
        """
        with self._changed:
            closing, unwanted = self._closing, self._unwanted == self._begun
        if closing:
            self.runner.interrupt()
        elif unwanted:
            self.runner.cancel()
        self._desk.compute(sharing=not self.runner.paused)


def _cut_off() -> None:
    log.error("the run did not yield within %g s after the window had gone: cut off", GRACE)
    _leave(1)


def _leave(code: int) -> NoReturn:
    """End the process. Worker processes of a run (data loaders and the like) share our process
    group and end with us, where it is ours alone."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGTERM)  # which we ourselves only note
    sys.stderr.flush()
    os._exit(code)  # the reader still waits on standard input, which the interpreter aborts over


def _when_terminated(act: Callable[[], None]) -> None:
    """Call `act` in a thread on SIGTERM. A handler would run in the main thread: inside of whatever
    lock that holds, and only after the step that it computes."""
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach())

    def wait() -> None:
        heard.recv(1)
        act()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: None)


def main(workspace: Path, data_root: Path | None = None, trust_code: bool = False) -> NoReturn:
    """Be the engine process until the input ends."""
    faulthandler.enable(sys.stderr)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    log.setLevel(logging.INFO)  # of libraries only what goes wrong
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nobody's print may break the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    outbox = Outbox()
    outbox.say("hello", protocol=PROTOCOL, version=version("crucible-workbench"), pid=os.getpid())
    sender = threading.Thread(target=_send, args=(outbox, protocol), name="sender", daemon=True)
    sender.start()
    worker = Worker(Workspace(workspace), outbox, data_root, trust_code)
    _when_terminated(worker.close)
    reader = threading.Thread(
        target=worker.read_from, args=(sys.stdin.buffer,), name="reader", daemon=True
    )
    reader.start()

    from engine.device import describe_device, resolve_device

    device = resolve_device("auto")
    outbox.say("ready", device=describe_device(device), kind=device.type)
    health = threading.Thread(target=_health, args=(outbox, device), name="health", daemon=True)
    health.start()

    import torch._dynamo  # noqa: F401 - ahead of need: the first optimiser imports it, for seconds

    import engine.questions  # noqa: F401 - ahead of need, and before a second thread imports

    worker.work()
    outbox.close()
    sender.join(1.0)
    _leave(0)


def _send(outbox: Outbox, protocol: BinaryIO) -> None:
    try:
        outbox.send_to(protocol)
    except OSError as error:
        log.error("nobody reads what the engine says: %s", error)


def _health(outbox: Outbox, device: Any) -> None:
    while not outbox.closed:
        outbox.say("health", memory=_resident(), gpu=_gpu(device))
        threading.Event().wait(1.0)


def _resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")


def _gpu(device: Any) -> int | None:
    import torch

    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None
