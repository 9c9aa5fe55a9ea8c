"""The engine process, over its pipe: every command, and every way of losing it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import frames
from engine.store import Workspace

PATIENCE = 60.0
SHORT = {"kind": "train", "name": "plain", "epochs": 1, "model": {"kind": "mlp", "width": 8}}
LONG = {**SHORT, "name": "long", "epochs": 100_000}


class Engine:
    """The window's side of the pipe."""

    def __init__(self, workspace: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine", "worker", "--workspace", str(workspace), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.messages: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        self.heard: list[dict[str, Any]] = []
        self.workspace = Workspace(workspace)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while (frame := frames.read(self.process.stdout)) is not None:
            self.messages.put(frame)
        self.messages.put(None)

    def send(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(frames.pack(command))
        self.process.stdin.flush()

    def until(self, test: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while True:
            frame = self.messages.get(timeout=max(0.0, end - time.monotonic()))
            assert frame is not None, f"the engine is gone; it said {self.heard[-5:]}"
            self.heard.append(frame[0])
            if test(frame[0]):
                return frame[0]

    def said(self, what: str, **fields: Any) -> dict[str, Any]:
        return self.until(
            lambda m: m["say"] == what and all(m.get(k) == v for k, v in fields.items())
        )

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    started = Engine(tmp_path / "工作 区")
    yield started
    started.close()


def test_a_conversation(engine: Engine) -> None:
    hello = engine.said("hello")
    assert hello["protocol"] == 1
    assert hello["pid"] == engine.process.pid
    engine.send(do="hello", protocol=1)
    engine.send(do="ping", id=4)
    engine.said("pong", id=4)
    assert engine.said("ready")["kind"] in ("cpu", "cuda", "mps")
    assert engine.said("health")["memory"] > 10**7

    # A recipe: two runs, the second of the first.
    attack = {"kind": "attack", "name": "broken", "model": "plain", "samples": 20}
    attack["attack"] = {"kind": "pgd", "steps": 3}
    engine.send(do="start", id=1, tasks=[SHORT, attack])
    plain, broken = engine.said("queued", id=1)["runs"]
    engine.said("status", run=plain, status="running")
    engine.said("scalars", run=plain)
    engine.said("event", run=plain, event="finished")
    engine.said("status", run=plain, status="done")
    engine.said("event", run=broken, event="images", name="adversarial")
    engine.said("status", run=broken, status="done")
    engine.said("queue", running=None, runs=[])
    info = engine.workspace.find("broken").info()
    assert info.lineage == {"model": plain}
    assert 0 <= info.summary["robust_accuracy"] <= info.summary["clean_accuracy"] <= 1

    # Questions.
    engine.send(do="ask", id=5, question={"kind": "describe_model"})
    answer = engine.said("answer", id=5)["answer"]
    assert answer["parameters"] == sum(layer["parameters"] for layer in answer["layers"]) > 0
    engine.send(do="ask", id=6, question={"kind": "preview_data", "data": {"kind": "digits"}})
    answer = engine.said("answer", id=6)["answer"]
    assert sum(answer["counts"].values()) == 1797
    assert answer["pixels"] == [24, 8, 8, 1]
    engine.send(do="ask", id=7, question={"kind": "predict", "model": "plain", "image": 3})
    answer = engine.said("answer", id=7)["answer"]
    assert abs(sum(answer["probabilities"]) - 1) < 1e-5
    engine.send(do="ask", id=8, question={"kind": "predict", "model": "absent", "image": 3})
    assert "there is no run 'absent'" in engine.said("answer", id=8)["error"]

    # What cannot be done is refused, and nothing is lost by it.
    engine.send(do="start", id=2, tasks=[{"kind": "train", "epochz": 1, "name": "x"}])
    refused = engine.said("refused", id=2)
    assert refused["problems"][0][0] == ["x", "epochz"]
    engine.send(do="start", id=3, tasks=[{"kind": "attack", "model": "absent"}])
    assert "there is no run 'absent'" in engine.said("refused", id=3)["error"]
    engine.send(do="nonsense", id=9)
    assert "no command 'nonsense'" in engine.said("refused", id=9)["error"]
    engine.send(do="resume", id=10, run=plain)
    assert "has come to its end" in engine.said("refused", id=10)["error"]
    engine.send(do="hello", protocol=99)
    assert "install the same version" in engine.said("refused")["error"]
    engine.send(do="quit")
    assert engine.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_pause_step_control_reorder_and_cancel(engine: Engine) -> None:
    engine.send(do="start", id=1, tasks=[LONG])
    engine.send(do="start", id=2, tasks=[{**SHORT, "name": "b"}])
    engine.send(do="start", id=3, tasks=[{**SHORT, "name": "c"}])
    a = engine.said("queued", id=1)["runs"][0]
    b = engine.said("queued", id=2)["runs"][0]
    c = engine.said("queued", id=3)["runs"][0]
    engine.said("scalars", run=a)
    engine.send(do="pause")
    engine.said("queue", paused=True)
    engine.send(do="control", name="lr", value=0.5)
    engine.send(do="step")
    engine.until(lambda m: m["say"] == "event" and m.get("text") == "lr set to 0.5")
    engine.send(do="order", runs=[c, b])
    engine.said("queue", runs=[c, b])
    engine.send(do="cancel", run=b)
    engine.said("status", run=b, status="skipped")
    engine.send(do="continue")
    engine.said("queue", paused=False)
    engine.until(lambda m: m["say"] == "scalars" and m["series"]["train/lr"][1][-1] == 0.5)
    engine.send(do="cancel", run=a)
    engine.said("status", run=a, status="cancelled")
    engine.said("status", run=c, status="done")
    assert engine.workspace.find(a).scalars()["train/lr"][1][-1] == 0.5
    assert (engine.workspace.find(a).folder / "model.safetensors").is_file()


def test_a_window_that_goes_away_leaves_no_orphan_and_a_run_to_resume(engine: Engine) -> None:
    engine.send(do="start", id=1, tasks=[LONG])
    run = engine.said("queued", id=1)["runs"][0]
    engine.said("scalars", run=run)
    assert engine.process.stdin is not None
    engine.process.stdin.close()
    engine.process.wait(PATIENCE)
    info = engine.workspace.find(run).info()
    assert info.status == "interrupted"
    kept = max((engine.workspace.find(run).folder / "checkpoints").glob("*.safetensors"))
    step = int(kept.stem.split("-")[1])
    assert engine.workspace.find(run).scalars()["train/loss"][0] == list(range(1, step + 1))

    again = Engine(engine.workspace.root)
    try:
        again.send(do="resume", id=2, run=run)
        again.said("queued", id=2)
        assert again.until(lambda m: m.get("event") == "started")["step"] == step
        again.said("scalars", run=run)
    finally:
        again.close()
    assert engine.workspace.find(run).info().status == "interrupted"


def test_a_reader_that_is_stuck_stops_neither_run_nor_store(tmp_path: Path) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-m", "engine", "worker", "--workspace", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # never read
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert engine.stdin is not None
        # Each run says more than a pipe holds.
        tasks = [{**SHORT, "name": f"r{i}", "epochs": 30, "batch_size": 16} for i in range(2)]
        engine.stdin.write(frames.pack({"do": "start", "id": 1, "tasks": tasks}))
        engine.stdin.flush()
        workspace = Workspace(tmp_path)
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.2)):
            if [info.status for info in workspace.runs()] == ["done", "done"]:
                break
            pause.wait(0.2)
        assert [info.status for info in workspace.runs()] == ["done", "done"]
        assert len(workspace.find("r1").scalars()["train/loss"][0]) > 2000
    finally:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
        for stream in (engine.stdin, engine.stdout):
            if stream is not None:
                stream.close()


def test_a_library_that_prints_does_not_break_the_protocol(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "import os, torch\n"
        "def make(input_shape, classes):\n"
        "    print('hello from a library')\n"
        "    os.write(1, b'and from C')\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
    )
    engine = Engine(tmp_path / "w", "--trust-code")
    try:
        model = {"kind": "module", "factory": f"{noisy}:make", "trust": True}
        engine.send(do="start", id=1, tasks=[{**SHORT, "model": model}])
        run = engine.said("queued", id=1)["runs"][0]
        engine.said("status", run=run, status="done")
    finally:
        engine.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_engine_leaves_an_interrupted_run(engine: Engine, number: signal.Signals) -> None:
    engine.send(do="start", id=1, tasks=[LONG])
    run = engine.said("queued", id=1)["runs"][0]
    seen = engine.said("scalars", run=run)["series"]["train/loss"]
    os.kill(engine.process.pid, number)
    engine.process.wait(PATIENCE)
    kept = engine.workspace.find(run).scalars()["train/loss"]
    assert kept[0][: len(seen[0])] == seen[0]
    assert kept[1][: len(seen[1])] == seen[1]
    assert engine.workspace.find(run).info().status == "interrupted"


def test_an_allocation_that_fails_fails_the_run_only(engine: Engine) -> None:
    huge = {"kind": "mlp", "width": 65536, "depth": 1000}
    engine.send(do="start", id=1, tasks=[{**SHORT, "name": "huge", "model": huge}])
    run = engine.said("queued", id=1)["runs"][0]
    status = engine.until(lambda m: m["say"] == "status" and m["status"] in ("failed", "done"))
    assert status == {"say": "status", "run": run, "status": "failed"}
    assert "memory" in engine.workspace.find(run).info().error
    engine.send(do="start", id=2, tasks=[SHORT])
    engine.said("queued", id=2)
    engine.said("event", event="finished")
