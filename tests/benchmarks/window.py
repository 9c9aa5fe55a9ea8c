"""What the open window costs the engine, and what the engine costs the window.

*Cost of the window*: two engine processes train the same digits CNN. One belongs to a real window
(offscreen, 1440 x 900, showing the live view of its run), in a process of its own; the messages of
the other are read and dropped. They take turns, a slice of a second and a half each, the others
stopped by SIGSTOP. Compared are images per CPU second of the engine process; those per wall second
stand beside them, and mean something on a machine that does nothing else.

*Heartbeat*: the lateness of a precise 8 ms timer in the window, while the engine trains, against
its lateness while the engine is stopped (SIGSTOP) and the mail it had sent is delivered again at
the same pace, so that the window redraws the same. In turn too, the first beats of each left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import frames
from engine.store import Run
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 0.95
BEAT_TARGET = 6.0
SLICE = 1.5
SLICES = 12
BEAT_MS = 8
BEAT_SLICE_MS = 8000
BEAT_SLICES = 4
SETTLE_MS = 1000
WARM_STEPS = 200
TASK: dict[str, Any] = {
    "name": "benchmark",
    "kind": "train",
    "seed": 7,
    "data": {"kind": "digits"},
    "model": {"kind": "cnn"},
    "epochs": 100_000,
    "bench": {"device": "cpu", "threads": 1},
}
IMAGES = 64
"""Of a step."""


def main(data_root: Path | None = None) -> list[Row]:
    """The two rows."""
    with tempfile.TemporaryDirectory() as folder:
        return [_cost(Path(folder)), _heartbeat(Path(folder))]


# --- what the window costs the engine ------------------------------------------------------------


def _cost(folder: Path) -> Row:
    with _worker(folder / "alone") as alone, _window(folder / "seen", "show") as (child, hello):
        _signal(signal.SIGSTOP, alone[0])
        seen = int(hello["worker"]), Run(Path(hello["run"]))
        _signal(signal.SIGSTOP, seen[0], child.pid)
        sides = {"alone": (alone, (alone[0],)), "window": (seen, (seen[0], child.pid))}
        wall: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        drawn = 0.0
        for turn in range(SLICES):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                (pid, run), group = sides[name]
                steps, seconds, began = _last_step(run), _cpu(pid), time.perf_counter()
                before = _cpu(child.pid)
                _signal(signal.SIGCONT, *group)
                time.sleep(SLICE)
                _signal(signal.SIGSTOP, *group)
                lasted = time.perf_counter() - began
                images = IMAGES * (_last_step(run) - steps)
                wall[name].append(images / lasted)
                cpu[name].append(images / (_cpu(pid) - seconds))
                drawn += _cpu(child.pid) - before
        _signal(signal.SIGCONT, alone[0], seen[0], child.pid)
    kept = ratios(cpu["window"], cpu["alone"])
    by_wall = ratios(wall["window"], wall["alone"])
    rates = [statistics.median(cpu[name]) for name in ("window", "alone")]
    return Row(
        "training images/s with the window open and drawing, against without",
        f">= {TARGET}",
        spread(kept),
        statistics.median(kept) >= TARGET,
        f"{rates[0]:,.0f} and {rates[1]:,.0f} images per CPU second of the engine process; by wall "
        f"time {spread(by_wall)}; the window takes {100 * drawn / (SLICE * SLICES):.0f} % of a "
        "core",
    )


@contextmanager
def _worker(workspace: Path) -> Iterator[tuple[int, Run]]:
    """An engine process that trains and is only listened to: its pid and its run."""
    command = [sys.executable, "-P", "-m", "engine", "worker", "--workspace", str(workspace)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(frames.pack({"do": "hello", "protocol": 1}))
        process.stdin.write(frames.pack({"do": "start", "id": 1, "tasks": [TASK]}))
        process.stdin.flush()
        messages = iter(lambda: frames.read(process.stdout), None)
        queued = next(message for message, _ in messages if message["say"] == "queued")
        run = Run(workspace / "runs" / queued["runs"][0])
        for message, _ in messages:
            if message["say"] == "scalars" and _newest(message["series"]) > WARM_STEPS:
                break
        threading.Thread(target=lambda: list(messages), daemon=True).start()
        yield process.pid, run
    finally:
        process.kill()
        process.wait()


@contextmanager
def _window(workspace: Path, mode: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process with a window that trains, and the first thing that it says."""
    command = [sys.executable, "-m", "tests.benchmarks.window", mode, str(workspace)]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()  # its engine process reads the end of its input and leaves
        process.wait()


def _signal(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _last_step(run: Run) -> int:
    return run.scalars()["train/loss"][0][-1]


def _newest(series: dict[str, Any]) -> int:
    return max((steps[-1] for steps, _ in series.values()), default=0)


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    nanoseconds = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            nanoseconds += int(path.read_text().split()[0])
    return nanoseconds / 1e9


# --- what the engine costs the window ------------------------------------------------------------


def _heartbeat(folder: Path) -> Row:
    with _window(folder / "beats", "heartbeat") as (_, found):
        live, control = found["live"], found["control"]
    beyond = [a - b for a, b in zip(live, control, strict=True)]
    return Row(
        "window heartbeat while training: p99 beyond the control without an engine",
        f"<= {BEAT_TARGET:g} ms",
        f"{spread(beyond, 1)} ms",
        statistics.median(beyond) <= BEAT_TARGET,
        f"p99 lateness of an 8 ms timer: {spread(live, 1)} ms training, "
        f"{spread(control, 1)} ms control; {found['points']:,} points drawn",
    )


# --- the process with the window -----------------------------------------------------------------


def _be_window(mode: str, workspace: Path) -> None:
    from workbench import app as program
    from workbench.settings import Settings
    from workbench.window import Window

    app = program.make_app()
    program.dress(app, Settings(theme="light", language="en"), program.arguments([]))
    window = Window(workspace, Settings(path=workspace.parent / "window.json"))
    window.resize(1440, 900)
    watcher = Watcher(window, app.quit) if mode == "heartbeat" else None
    window.painted.connect(window.begin)
    window.loaded.connect(lambda: window.do._start([TASK], from_form=False))

    def look() -> None:
        record = window.session.known_record(window.shown) if window.ready else None
        if record is None or record.last_step < WARM_STEPS:
            return
        looking.stop()
        if watcher is not None:
            watcher.begin()
        else:
            run = window.session.run(window.shown).folder
            print(json.dumps({"worker": window.session.pid, "run": str(run)}), flush=True)

    from PySide6.QtCore import QTimer

    looking = QTimer(window, interval=100)
    looking.timeout.connect(look)
    looking.start()
    window.show()
    app.exec()


class Watcher:
    """Measures the heartbeat of a window, live and with the engine stopped, in turn."""

    def __init__(self, window: Any, done: Callable[[], None]) -> None:
        from PySide6.QtCore import QElapsedTimer, Qt, QTimer

        self.window = window
        self.done = done
        self.found: dict[str, list[float]] = {"live": [], "control": []}
        self._late: list[float] = []
        self._clock = QElapsedTimer()
        self._beat = QTimer(window, interval=BEAT_MS)
        self._beat.setTimerType(Qt.TimerType.PreciseTimer)
        self._beat.timeout.connect(self._beats)
        self._mail: list[tuple[float, dict[str, Any]]] = []
        self._later = lambda ms, call: QTimer.singleShot(ms, window, call)
        self._enough = threading.Event()

    def begin(self) -> None:
        """Measure, say what was found, leave."""
        self.run_id = self.window.shown
        self.box = self.window.session._thread.mailbox
        put = self.box.put_series

        def noted(run: str, series: Any) -> None:
            self._mail.append((time.perf_counter(), dict(series)))
            put(run, series)

        self._put = put
        self.box.put_series = noted
        self._live()

    def _live(self) -> None:
        os.kill(self.window.session.pid, signal.SIGCONT)
        self.window.session.reloaded.emit(self.run_id)
        self._mail.clear()
        self._later(SETTLE_MS, self._count)
        self._later(SETTLE_MS + BEAT_SLICE_MS, self._live_over)

    def _live_over(self) -> None:
        self.found["live"].append(self._p99())
        os.kill(self.window.session.pid, signal.SIGSTOP)
        recorded, self._mail = self._mail, []
        series = [s for _, mail in recorded for s, _ in mail.values()]
        shift = max(steps[-1] for steps in series) - min(steps[0] for steps in series) + 1
        again = [
            (
                when - recorded[0][0],
                {n: ([s + shift for s in steps], v) for n, (steps, v) in m.items()},
            )
            for when, m in recorded
        ]
        self.window.session.reloaded.emit(self.run_id)
        self._enough.clear()
        threading.Thread(target=self._deliver, args=(again,)).start()
        self._later(SETTLE_MS, self._count)
        self._later(SETTLE_MS + BEAT_SLICE_MS, self._control_over)

    def _deliver(self, mail: list[tuple[float, dict[str, Any]]]) -> None:
        """The mail of the live part once more, its steps shifted so that they are news; from a
        thread, as the engine's comes."""
        began = time.perf_counter()
        for when, series in mail:
            if self._enough.wait(max(0.0, when - (time.perf_counter() - began))):
                return
            self._put(self.run_id, series)

    def _control_over(self) -> None:
        self.found["control"].append(self._p99())
        self._enough.set()
        if len(self.found["control"]) < BEAT_SLICES:
            self._live()
            return
        record = self.window.session.known_record(self.run_id)
        points = sum(len(steps) for steps, _ in record.scalars.values())
        os.kill(self.window.session.pid, signal.SIGCONT)  # we are killed as soon as we are heard
        print(json.dumps({**self.found, "points": points}), flush=True)
        self.done()

    def _count(self) -> None:
        self._late.clear()
        self._clock.start()
        self._beat.start()

    def _beats(self) -> None:
        self._late.append(max(0.0, self._clock.nsecsElapsed() / 1e6 - BEAT_MS))
        self._clock.restart()

    def _p99(self) -> float:
        """Milliseconds."""
        self._beat.stop()
        return sorted(self._late)[int(0.99 * len(self._late))]


if __name__ == "__main__":
    _be_window(sys.argv[1], Path(sys.argv[2]))
