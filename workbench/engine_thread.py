"""The thread that owns the engine process: commands in, what it says out.

`EngineThread.run` waits on the process's output, its log, its end (a pidfd: a forked grandchild
may keep the pipe open long after) and on the window's commands, all at once. Rare messages become
signals, frequent ones go to the mailbox. The window never touches the pipe itself: a process that
does not read cannot hold it up. Written for POSIX, where pipes can be waited on.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import io
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PySide6.QtCore import QObject, QThread, Signal, Slot

import engine
from engine import frames
from engine.events import from_message
from workbench.i18n import mark, tr
from workbench.mailbox import Mailbox

PROTOCOL = 1
"""The version of the protocol that this window speaks."""

PING = 1.0
"""Seconds between two questions whether the engine still answers."""

SILENCE = 5.0
"""Seconds without an answer after which the engine counts as silent."""

PATIENCE = 10.0
"""Seconds that the engine has to write its checkpoint and leave when it is told to."""

_CHUNK = 1 << 20
_SIGNALS = {
    signal.SIGKILL: mark("The engine was killed (out of memory?)."),
    signal.SIGSEGV: mark("The engine crashed: segmentation fault. Its stack is in the log."),
    signal.SIGBUS: mark("The engine crashed: bus error. Its stack is in the log."),
    signal.SIGFPE: mark("The engine crashed: arithmetic error. Its stack is in the log."),
    signal.SIGILL: mark("The engine crashed: this processor lacks an instruction it uses."),
    signal.SIGABRT: mark("The engine aborted. The reason is in the log."),
    signal.SIGTERM: mark("The engine was asked to end by another program (SIGTERM)."),
    signal.SIGHUP: mark("The engine's terminal was closed (SIGHUP)."),
}

Answer: TypeAlias = Callable[[dict[str, Any], bytes], None]
"""Called in the window's thread with the answer ({"error": text} if none) and its bytes."""


class EngineThread(QThread):
    """One engine process after another; `start()` starts the first, `restart()` the next.

    `command` is what starts the engine, if it is not this Python's: for a remote machine
    `("ssh", "host", "engine", "worker", "--workspace", "...")`.
    """

    said = Signal(dict)
    """A rare message: hello, ready, queue, queued, refused, status, health."""
    lost = Signal(str)
    """The engine is gone without having been told to; why, in words."""
    log = Signal(str)
    """Whole lines of the engine's log."""
    silent = Signal(bool)
    """True when the engine has not answered for SILENCE seconds, False when it does again."""
    _answered = Signal(int, dict, bytes)

    def __init__(
        self,
        workspace: Path,
        parent: QObject | None = None,
        *,
        data_root: Path | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        super().__init__(parent)
        self.mailbox = Mailbox()
        self.pid: int | None = None
        self._command = tuple(command or _local_command(workspace, data_root))
        self._outgoing: deque[bytes] = deque()
        self._questions: dict[int, tuple[str, Answer]] = {}
        self._last_question = 0
        self._patience: float | None = None
        self._ready = False
        self._lock = threading.Lock()
        self._alarm: int | None = None
        self._answered.connect(self._deliver)
        self.lost.connect(self._give_up_questions)
        if parent is not None:
            parent.destroyed.connect(self._stop_in_time)

    # --- called by the window ---------------------------------------------------------------

    def start(self) -> None:  # type: ignore[override]
        """Start the engine process; returns at once."""
        atexit.register(self._stop_in_time)
        super().start()

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a command to the engine; returns at once. It waits for an engine that starts."""
        self._outgoing.append(frames.pack(message))
        self._notify()

    def ask(self, question: Mapping[str, Any], answer: Answer) -> None:
        """Ask the engine something; `answer` is called with its answer. A newer question of the
        same kind replaces an older one, which then is not answered."""
        kind = str(question["kind"])
        for number in [n for n, (of, _) in self._questions.items() if of == kind]:
            del self._questions[number]
        self._last_question += 1
        self._questions[self._last_question] = (kind, answer)
        self.send({"do": "ask", "id": self._last_question, "question": dict(question)})

    def drop(self, kind: str) -> None:
        """Give up the question of this kind; it is not answered any more."""
        for number in [n for n, (of, _) in self._questions.items() if of == kind]:
            del self._questions[number]
            self.send({"do": "drop", "kind": kind})

    def restart(self) -> None:
        """End the engine if it is there, and start another."""
        self.stop()
        self._patience = None
        self._outgoing.clear()
        self.start()

    def stop(self, patience: float = PATIENCE) -> None:
        """Tell the engine to leave, wait `patience` seconds, kill it, wait for this thread."""
        atexit.unregister(self._stop_in_time)
        if self.isRunning():
            self._patience = patience
            self._notify()
            self.wait()

    @Slot()
    def _stop_in_time(self) -> None:
        # A running QThread that is deleted aborts the process: it is stopped before that, when its
        # parent goes and when the interpreter ends.
        self.stop()

    def kill(self) -> None:
        """End the engine process at once; `lost` follows."""
        if self.pid is not None:
            _kill_group(self.pid)

    def _notify(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            # A full pipe holds calls that have not been heard yet: one more would add nothing.
            if self._alarm is not None:
                os.write(self._alarm, b"!")

    def _deliver(self, number: int, answer: dict[str, Any], payload: bytes) -> None:
        known = self._questions.pop(number, None)
        if known is not None:
            known[1](answer, payload)

    def _give_up_questions(self, cause: str) -> None:
        for number in list(self._questions):
            self._deliver(number, {"error": cause}, b"")

    # --- the thread ---------------------------------------------------------------------------

    def run(self) -> None:
        try:
            cause = self._serve()
        except Exception:
            self.log.emit(traceback.format_exc().rstrip())
            cause = tr("The window lost its connection to the engine. The reason is in the log.")
        if cause:
            self.lost.emit(cause)

    def _serve(self) -> str:
        """One engine process from start to end; why it ended, or nothing if it was told to."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=_environment(),
            )
        except OSError as error:
            return tr("The engine could not be started: {error}", error=error)
        self.pid = process.pid
        self._ready = False
        wake, alarm = _pipe()
        link = _Link(process, wake)
        with self._lock:
            self._alarm = alarm
        try:
            self._converse(link)
        finally:
            with self._lock:
                self._alarm = None
            self.pid = None
            _kill_group(process.pid)
            process.wait()
            link.close()
            os.close(wake)
            os.close(alarm)
        if link.fault:
            return link.fault
        return "" if self._patience is not None else _cause(process.returncode)

    def _converse(self, link: _Link) -> None:
        """Until the process has ended, or must be ended."""
        link.write(frames.pack({"do": "hello", "protocol": PROTOCOL}))
        greeted = leaving = False
        asked_at: float | None = None
        next_ping = time.monotonic() + PING
        deadline = float("inf")
        is_silent = False
        while True:
            now = time.monotonic()
            if self._patience is not None and not leaving:
                # Before it is ready it runs nothing, hence has nothing to bring to an end.
                leaving, deadline = True, now + (self._patience if self._ready else 0.0)
                link.write(frames.pack({"do": "quit"}))
                link.finish_writing()
            elif link.output_ended and deadline == float("inf"):
                deadline = now + SILENCE
            if now >= deadline:
                return
            while greeted and not leaving and self._outgoing:
                link.write(self._outgoing.popleft())
            if greeted and not leaving and asked_at is None and now >= next_ping:
                asked_at, next_ping = now, now + PING
                link.write(frames.pack({"do": "ping", "id": int(now * 1000)}))
            if asked_at is not None and not is_silent and now - asked_at > SILENCE:
                is_silent = True
                self.silent.emit(True)
            ended = False
            for event in link.wait(min(PING, deadline - now)):
                ended = ended or event == "ended"
            if ended:
                link.read_rest()
            for lines in link.log_lines(all_of_it=ended):
                self.log.emit(lines)
            try:
                for message, payload in link.messages():
                    say = message.get("say")
                    if not greeted:
                        link.fault = _check_hello(message)
                        if link.fault:
                            return
                        greeted = True
                    if say == "pong":
                        asked_at = None
                        if is_silent:
                            is_silent = False
                            self.silent.emit(False)
                    else:
                        self._sort(message, payload)
            except frames.BadFrame as error:
                link.fault = tr(
                    "What came from the engine is not its protocol: {error}. "
                    "Is the command right: {command}?",
                    error=error,
                    command=" ".join(self._command),
                )
                return
            if ended:
                return

    def _sort(self, message: dict[str, Any], payload: bytes) -> None:
        match message.pop("say", None):
            case "event":
                run = message.pop("run")
                try:
                    self.mailbox.put(run, from_message(message, payload))
                except (KeyError, TypeError, ValueError) as error:
                    self.log.emit(f"event of {run} not understood: {error!r}")
            case "scalars":
                self.mailbox.put_series(message["run"], message["series"])
            case "missed":
                self.mailbox.miss(message["run"])
            case "answer":
                answer = message.get("answer")
                if answer is None:
                    answer = {"error": message.get("error", "")}
                self._answered.emit(message["id"], answer, payload)
            case say:
                self._ready = self._ready or say == "ready"
                self.said.emit({"say": say, **message})


class _Link:
    """The pipes of one process, all non-blocking, and what waits in them."""

    def __init__(self, process: subprocess.Popen[bytes], wake: int) -> None:
        self.fault = ""
        self.output_ended = False
        pipes: list[Any] = [process.stdin, process.stdout, process.stderr]
        self._input, self._output, self._errors = pipes
        self._wake = wake
        self._unsent: deque[memoryview] = deque()
        self._finish = False
        self._frames = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = ""
        self._selector = selectors.DefaultSelector()
        for stream in pipes:
            os.set_blocking(stream.fileno(), False)
        self._selector.register(self._output, selectors.EVENT_READ, "output")
        self._selector.register(self._errors, selectors.EVENT_READ, "errors")
        self._end = _end_of(process)
        self._selector.register(self._end, selectors.EVENT_READ, "ended")
        self._selector.register(wake, selectors.EVENT_READ, "wake")

    def wait(self, seconds: float) -> list[str]:
        """Move what can be moved, waiting for it if need be; the names of what happened."""
        happened = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            happened.append(key.data)
            if key.data == "output":
                self._read_output()
            elif key.data == "errors":
                self._read_errors()
            elif key.data == "input":
                self._flush()
            elif key.data == "wake":
                _drain(self._wake)
        return happened

    def write(self, data: bytes) -> None:
        if not self._input.closed and not self._finish:
            self._unsent.append(memoryview(data))
            self._flush()

    def finish_writing(self) -> None:
        """Close the pipe when everything has been written: the other side reads its end."""
        self._finish = True
        self._flush()

    def _flush(self) -> None:
        if self._input.closed:
            return
        try:
            while self._unsent:
                written = self._input.write(self._unsent[0])
                if not written:
                    break
                rest = self._unsent.popleft()[written:]
                if rest:
                    self._unsent.appendleft(rest)
        except OSError:
            self._unsent.clear()
            self._finish = True
        waiting = self._input.fileno() in self._selector.get_map()
        if self._unsent and not waiting:
            self._selector.register(self._input, selectors.EVENT_WRITE, "input")
        elif not self._unsent and waiting:
            self._selector.unregister(self._input)
        if self._finish and not self._unsent:
            self._input.close()

    def _read_output(self) -> bool:
        data = _read(self._output)
        if data:
            self._frames += data
        elif data == b"" and not self.output_ended:
            self.output_ended = True
            self._selector.unregister(self._output)
        return bool(data)

    def _read_errors(self) -> bool:
        data = _read(self._errors)
        if data:
            self._lines += self._decoder.decode(data)
        elif data == b"" and self._errors.fileno() in self._selector.get_map():
            self._selector.unregister(self._errors)
        return bool(data)

    def read_rest(self) -> None:
        """What a process that has ended left in its pipes. A grandchild that still writes must
        not hold us up: at most what a pipe holds."""
        for read in (self._read_output, self._read_errors):
            for _ in range(4):
                if not read():
                    break

    def messages(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that are complete. Raises BadFrame."""
        start = 0
        try:
            while (size := frames.size_of(self._frames[start : start + 8])) is not None:
                if len(self._frames) - start < size:
                    break
                with memoryview(self._frames) as view, view[start : start + size] as part:
                    frame = frames.read(io.BytesIO(part))
                start += size
                if frame is not None:
                    yield frame
        finally:
            del self._frames[:start]

    def log_lines(self, all_of_it: bool) -> Iterator[str]:
        whole, newline, rest = self._lines.rpartition("\n")
        if all_of_it and rest:
            whole, rest = f"{whole}{newline}{rest}", ""
        self._lines = rest
        if whole:
            yield whole

    def close(self) -> None:
        self._selector.close()
        os.close(self._end)
        for stream in (self._input, self._output, self._errors):
            with contextlib.suppress(OSError):
                stream.close()


def _local_command(workspace: Path, data_root: Path | None) -> list[str]:
    # -P: a folder called `engine` where the window was started must not take ours' place.
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", "engine", "worker"]
    command += ["--workspace", str(workspace)]
    return command + (["--data-root", str(data_root)] if data_root else [])


def _environment() -> dict[str, str]:
    """This process's, in which the engine that belongs to this window is found first."""
    home = str(Path(engine.__file__).resolve().parent.parent)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _check_hello(message: Mapping[str, Any]) -> str:
    """What is wrong with the first message, or nothing."""
    if message.get("say") != "hello":
        return tr("What was started is not Crucible's engine: it did not say hello.")
    if message.get("protocol") != PROTOCOL:
        return tr(
            "The engine (version {version}) speaks protocol {theirs}, this window speaks {ours}. "
            "Install the same version of Crucible on both sides.",
            version=message.get("version", "?"),
            theirs=message.get("protocol"),
            ours=PROTOCOL,
        )
    return ""


def _cause(code: int) -> str:
    if code < 0:
        try:
            number = signal.Signals(-code)
        except ValueError:
            return tr("The engine was ended by signal {number}.", number=-code)
        text = _SIGNALS.get(number)
        return tr(text) if text else tr("The engine was ended by {name}.", name=number.name)
    if code == 0:
        return tr("The engine ended by itself.")
    return tr("The engine ended with exit code {code}. The reason is in the log.", code=code)


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """A descriptor that becomes readable when the process has ended."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # A kernel before 5.3, or a sandbox that forbids it.
            return os.pidfd_open(process.pid)
    ended, end = os.pipe()

    def wait() -> None:
        process.wait()
        os.close(end)

    threading.Thread(target=wait, name="engine-end", daemon=True).start()
    return ended


def _kill_group(pid: int) -> None:
    """End the process and everything it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _read(stream: Any) -> bytes | None:
    """What is there: nothing at its end, None if it is not there yet."""
    try:
        return os.read(stream.fileno(), _CHUNK)
    except BlockingIOError:
        return None
    except (OSError, EOFError):
        return b""
