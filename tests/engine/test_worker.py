"""The engine process, over its pipe: every command, and every way of losing it."""

from __future__ import annotations

import io
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import frames
from engine.desk import SUPERSEDED
from engine.events import Images, Note, Progress, Scalars
from engine.store import Workspace
from engine.task import Task, parse_task
from engine.worker import Outbox, Worker

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
    embed = {"kind": "embed", "run": broken, "method": "tsne"}
    engine.send(do="ask", id=11, question=embed)
    engine.send(do="drop", kind="embed")  # nobody waits for it any more: it is not answered
    engine.send(do="ask", id=12, question={**embed, "method": "pca"})
    answer = engine.said("answer", id=12)["answer"]
    assert answer["count"] == answer["of"] == info.summary["samples"]
    assert 0 < sum(answer["shares"]) <= 1
    assert answer["layer"]

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
    engine.said("event", event="change", name="lr", value=0.5)
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


def test_a_live_value_that_is_none_is_refused(engine: Engine) -> None:
    engine.send(do="control", name="lr", value=0.5)
    assert "not under way" in engine.said("refused")["error"]
    engine.send(do="start", id=1, tasks=[LONG])
    run = engine.said("queued", id=1)["runs"][0]
    engine.said("scalars", run=run)
    for values, words in (
        ({"name": "lrr", "value": 0.5}, "there is no live value 'lrr'; did you mean 'lr'?"),
        ({"name": "lr", "value": 0.0}, "lr: must be above 0, but it is 0.0"),
        ({"name": "lr", "value": float("nan")}, "lr: must be a finite number"),
        ({"name": "lr", "value": 0.5, "run": "another"}, "not under way"),
    ):
        engine.send(do="control", **values)
        refused = engine.said("refused")
        assert words in refused["error"]
        assert refused["problems"] == []
    engine.send(do="control", name="lr", value=0.5, run=run)
    engine.said("event", run=run, event="change", name="lr")


QUESTIONS: list[dict[str, Any]] = [
    {"kind": "predict", "model": "calm", "image": 3},
    {"kind": "describe_model", "model": {"kind": "cnn", "dropout": 0.5}},
    {"kind": "preview_data", "data": {"kind": "digits", "size": 16}},
    {"kind": "predict", "model": "calm", "image": [[0.5] * 8] * 8},
]


def test_questions_change_no_weights(engine: Engine) -> None:
    """Dropout draws from the process's generator, which a model that is built seeds."""
    task = {**SHORT, "name": "calm", "epochs": 25}
    task["model"] = {"kind": "mlp", "width": 32, "dropout": 0.5}
    engine.send(do="start", id=1, tasks=[task])
    calm = engine.said("queued", id=1)["runs"][0]
    engine.said("status", run=calm, status="done")
    engine.send(do="start", id=2, tasks=[{**task, "name": "asked"}])
    asked = engine.said("queued", id=2)["runs"][0]
    engine.said("scalars", run=asked)
    for number, question in enumerate(QUESTIONS):
        engine.send(do="ask", id=number, question=question)
    number, answered = len(QUESTIONS), 0
    while True:
        message = engine.until(lambda m: m["say"] == "answer" or m.get("status") == "done")
        if message["say"] == "status":
            break
        answered += "answer" in message
        assert message.get("error", SUPERSEDED) == SUPERSEDED
        engine.send(do="ask", id=number, question=QUESTIONS[number % len(QUESTIONS)])
        number += 1
    assert answered > 0
    hashes = {engine.workspace.find(r).info().summary["weights_sha256"] for r in (calm, asked)}
    assert len(hashes) == 1


def test_a_question_under_way_stalls_neither_the_run_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed = threading.Event(), threading.Event()

    def forever(*_: object) -> Iterator[Progress]:
        begun.set()
        try:
            while True:
                yield Progress(0, 0, "bytes")
                closed.wait(0.001)
        finally:
            closed.set()

    ended = threading.Event()

    class Listening(Outbox):
        def say(self, what: str, payload: bytes = b"", **fields: Any) -> None:
            super().say(what, payload, **fields)
            if fields.get("status") == "done":
                ended.set()

    monkeypatch.setattr("engine.worker.GRACE", 1e6)
    monkeypatch.setattr("engine.questions.load", forever)
    worker = Worker(Workspace(tmp_path), Listening(), None, False)
    given, taken = os.pipe()
    with os.fdopen(given, "rb") as stream, os.fdopen(taken, "wb", buffering=0) as commands:
        reader = threading.Thread(target=worker.read_from, args=(stream,))
        working = threading.Thread(target=worker.work, daemon=True)
        for thread in (reader, working):
            thread.start()
        question = {"kind": "preview_data"}
        commands.write(frames.pack({"do": "ask", "id": 1, "question": question}))
        assert begun.wait(PATIENCE)
        commands.write(frames.pack({"do": "start", "id": 2, "tasks": [SHORT]}))
        assert ended.wait(PATIENCE)
        assert not closed.is_set()
        commands.close()
        reader.join(PATIENCE)
    working.join(PATIENCE)
    assert not working.is_alive()
    assert closed.is_set()
    assert "questions" not in {thread.name for thread in threading.enumerate()}


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


def test_what_waits_for_a_reader_is_bounded() -> None:
    outbox = Outbox()
    pixels = np.zeros((4, 8, 8, 1), np.uint8)
    for step in range(1000):
        outbox.events("r", [Images("now", pixels, (), step), Progress(step, 1000, "steps")])
        outbox.events("r", [Scalars(step, {"loss": 1.0})])
        outbox.say("health", memory=step, gpu=None)
    outbox.events("r", [Note("info", "the end")])
    outbox.close()
    sent = io.BytesIO()
    outbox.send_to(sent)
    sent.seek(0)
    messages = []
    while (frame := frames.read(sent)) is not None:
        messages.append(frame[0])
    assert [m.get("event", m["say"]) for m in messages] == [
        "images", "progress", "health", "scalars", "note",
    ]  # fmt: skip
    assert (messages[0]["step"], messages[1]["done"], messages[2]["memory"]) == (999, 999, 999)
    assert len(messages[3]["series"]["loss"][0]) == 1000


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_a_run_is_stopped_between_queue_and_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("engine.worker.GRACE", 1e6)
    given, taken = os.pipe()
    commands = os.fdopen(taken, "wb", buffering=0)
    worker = Worker(Workspace(tmp_path), Outbox(), None, False)

    def between(values: Mapping[str, Any]) -> Task:
        run = worker.workspace.runs()[0].id
        if how == "cancelled":
            commands.write(frames.pack({"do": "cancel", "run": run}))
        commands.close()  # which is the end of the window, if nothing was said before
        reader.join(PATIENCE)
        return parse_task(values)

    monkeypatch.setattr("engine.runner.parse_task", between)
    commands.write(frames.pack({"do": "start", "id": 1, "tasks": [LONG]}))
    with os.fdopen(given, "rb") as stream:
        reader = threading.Thread(target=worker.read_from, args=(stream,))
        reader.start()
        working = threading.Thread(target=worker.work, daemon=True)
        working.start()
        working.join(PATIENCE)
    assert not working.is_alive()
    assert worker.workspace.runs()[0].status in (how, "interrupted")


SIGNALLED = """
import os, signal, sys, threading
from pathlib import Path
from engine.store import Workspace
from engine.worker import Outbox, Worker, _when_terminated

outbox, closed = Outbox(), threading.Event()
worker = Worker(Workspace(Path(sys.argv[1])), outbox, None, False)
_when_terminated(lambda: (worker.close(), closed.set()))
with outbox._lock:
    reader = threading.Thread(target=worker._add, args=([], {}), daemon=True)
    reader.start()
    reader.join(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
os._exit(0 if closed.wait(20) else 1)
"""


def test_sigterm_waits_for_no_lock(tmp_path: Path) -> None:
    """It comes while the main thread is saying something, and the reader is about to."""
    code = [sys.executable, "-c", SIGNALLED, str(tmp_path)]
    subprocess.run(code, check=True, timeout=PATIENCE)


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
