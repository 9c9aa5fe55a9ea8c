"""Real processes and real pipes: a small worker is written by each test and broken on purpose."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from PySide6.QtCore import QObject

from engine.events import Finished
from workbench import engine_thread
from workbench.engine_thread import EngineThread

PRELUDE = """
import os, signal, subprocess, sys, threading, time
from engine import frames
out = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
def say(message, payload=b""):
    data = memoryview(frames.pack(message, payload))
    while data:
        data = data[out.write(data):]
def hear():
    frame = frames.read(sys.stdin.buffer)
    if frame is None:
        sys.exit(0)
    return frame[0]
def scalars(step):
    values = {"train/loss": 1.0}
    say({"say": "event", "run": "r1", "event": "scalars", "step": step, "values": values})
def hello(protocol=1):
    assert hear() == {"do": "hello", "protocol": 1}
    say({"say": "hello", "protocol": protocol, "version": "0.1.0", "pid": os.getpid()})
"""

SERVE = """
say({"say": "ready", "device": "none", "kind": "cpu"})
while True:
    command = hear()
    match command["do"]:
        case "quit": break
        case "ping": say({"say": "pong", "id": command["id"]})
        case "ask":
            say({"say": "answer", "id": command["id"], "answer": command["question"]}, b"xyz")
        case _: say({"say": "queued", **command})
"""


@pytest.fixture
def engine(qtbot, tmp_path):
    """Starts a worker made of the given lines; every one is stopped at the end."""
    threads = []

    def start(*parts: str) -> EngineThread:
        file = tmp_path / "worker.py"
        file.write_text(PRELUDE + "\n".join(map(textwrap.dedent, parts)))
        thread = EngineThread(tmp_path, command=[sys.executable, "-X", "faulthandler", str(file)])
        thread.messages = []
        thread.lines = []
        record(thread.said, thread.messages)
        record(thread.log, thread.lines)
        threads.append(thread)
        thread.start()
        return thread

    recorders = []

    def record(signal_, into):
        recorder = Recorder(into)
        signal_.connect(recorder.take)
        recorders.append(recorder)

    yield start
    for thread in threads:
        thread.stop(1.0)
        assert thread.isFinished()


class Recorder(QObject):
    def __init__(self, into):
        super().__init__()
        self.into = into

    def take(self, what):
        self.into.append(what)


def said(thread, kind):
    return [m for m in thread.messages if m["say"] == kind]


def until_said(qtbot, thread, kind):
    qtbot.waitUntil(lambda: bool(said(thread, kind)), timeout=10_000)
    return said(thread, kind)[0]


def lost(qtbot, thread):
    with qtbot.waitSignal(thread.lost, timeout=15_000) as blocker:
        pass
    return blocker.args[0]


def gone(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    # What is left of an orphan until somebody reaps it.
    return status.rpartition(")")[2].split()[0] == "Z"


def test_conversation(qtbot, engine):
    thread = engine("hello()", "for i in range(5): scalars(i)", SERVE)
    assert until_said(qtbot, thread, "hello")["version"] == "0.1.0"
    thread.send({"do": "start", "id": 3, "tasks": []})
    assert until_said(qtbot, thread, "queued")["id"] == 3
    steps = thread.mailbox.drain()["r1"].scalars["train/loss"][0]
    assert steps == [0, 1, 2, 3, 4]

    answers = []
    thread.ask({"kind": "describe_model", "n": 1}, lambda *a: pytest.fail("replaced, yet answered"))
    thread.ask({"kind": "describe_model", "n": 2}, lambda *a: answers.append(a))
    qtbot.waitUntil(lambda: bool(answers), timeout=5000)
    assert answers == [({"kind": "describe_model", "n": 2}, b"xyz")]

    until_said(qtbot, thread, "ready")
    pid = thread.pid
    with qtbot.assertNotEmitted(thread.lost):
        thread.stop()
    assert gone(pid)


def test_commands_before_the_engine_is_there_wait_for_it(qtbot, engine):
    thread = engine("hello()", SERVE)
    thread.send({"do": "order", "runs": ["a"]})
    assert until_said(qtbot, thread, "queued")["runs"] == ["a"]


def test_killed(qtbot, engine):
    thread = engine("hello()", SERVE)
    until_said(qtbot, thread, "hello")
    os.kill(thread.pid, signal.SIGKILL)
    assert "killed" in lost(qtbot, thread)
    assert thread.pid is None
    thread.messages.clear()
    thread.restart()
    until_said(qtbot, thread, "hello")


def test_segfault_leaves_its_stack_in_the_log(qtbot, engine):
    thread = engine("hello()", "import ctypes", "ctypes.string_at(0)")
    assert "segmentation fault" in lost(qtbot, thread)
    assert "Segmentation fault" in "\n".join(thread.lines)
    assert "worker.py" in "\n".join(thread.lines)


def test_exit_code_and_traceback(qtbot, engine):
    thread = engine("hello()", "raise RuntimeError('no more')")
    assert "exit code 1" in lost(qtbot, thread)
    assert "RuntimeError: no more" in "\n".join(thread.lines)


def test_out_of_memory_is_told(qtbot, engine):
    thread = engine("hello()", "bytearray(1 << 60)")
    assert "exit code 1" in lost(qtbot, thread)
    assert "MemoryError" in "\n".join(thread.lines)


def test_no_such_program(qtbot, tmp_path):
    thread = EngineThread(tmp_path, command=["/no/such/program"])
    with qtbot.waitSignal(thread.lost) as blocker:
        thread.start()
    assert "could not be started" in blocker.args[0]
    thread.stop()


@pytest.mark.parametrize(
    "noise", ["print('Welcome to host', flush=True)", "os.write(1, b'x' * 3000)"]
)
def test_noise_instead_of_frames(qtbot, tmp_path, noise):
    code = f"import os, sys\n{noise}\nsys.stdin.read()"
    thread = EngineThread(tmp_path, command=[sys.executable, "-c", code])
    with qtbot.waitSignal(thread.lost, timeout=10_000) as blocker:
        thread.start()
    assert "not its protocol" in blocker.args[0]
    thread.stop()


def test_another_version(qtbot, engine):
    thread = engine("hello(protocol=2)", SERVE)
    text = lost(qtbot, thread)
    assert "protocol 2" in text
    assert "speaks 1" in text


def test_print_in_the_engine_is_log(qtbot, engine):
    thread = engine("hello()", "print('a library says\\nsomething 中文', flush=True)", SERVE)
    qtbot.waitUntil(lambda: "something 中文" in "\n".join(thread.lines), timeout=10_000)


def test_grandchild_that_keeps_the_pipe_does_not_hide_the_end(qtbot, engine, tmp_path):
    child = "import time; time.sleep(600)"
    thread = engine(
        "hello()",
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=out, stderr=2)",
        "say({'say': 'status', 'run': 'r1', 'status': str(child.pid)})",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert "killed" in lost(qtbot, thread)
    child_pid = int(until_said(qtbot, thread, "status")["status"])
    qtbot.waitUntil(lambda: gone(child_pid), timeout=5000)


def test_end_is_noticed_without_pidfds(qtbot, engine, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    thread = engine("hello()", SERVE)
    until_said(qtbot, thread, "hello")
    os.kill(thread.pid, signal.SIGSEGV)
    assert "segmentation fault" in lost(qtbot, thread)


def test_closed_output_ends_the_engine(qtbot, engine, monkeypatch):
    monkeypatch.setattr(engine_thread, "SILENCE", 0.2)
    thread = engine("hello()", "out.close()", "os.close(1)", "threading.Event().wait()")
    assert lost(qtbot, thread)


def test_flood_of_scalars(qtbot, engine):
    thread = engine("hello()", "for i in range(100_000): scalars(i)", SERVE)
    count = 0

    def all_there():
        nonlocal count
        for news in thread.mailbox.drain().values():
            count += len(news.scalars["train/loss"][0])
        return count == 100_000

    qtbot.waitUntil(all_there, timeout=60_000)


def test_big_pictures(qtbot, engine):
    thread = engine(
        "hello()",
        "pixels = bytes(range(256)) * (3 * 1024 * 16)",
        """
        for i in range(4):
            say({'say': 'event', 'run': 'r1', 'event': 'images', 'name': 'clean', 'step': i,
                 'captions': [], 'shape': [16, 512, 512, 3]}, pixels)
        """,
        "say({'say': 'ready'})",
        SERVE,
    )
    until_said(qtbot, thread, "ready")
    newest = thread.mailbox.drain()["r1"].images["clean"]
    assert newest.step == 3
    assert newest.pixels.shape == (16, 512, 512, 3)
    assert newest.pixels[0, 0, 1, 0] == 3


def test_event_that_is_none_is_logged_not_fatal(qtbot, engine):
    thread = engine("hello()", "say({'say': 'event', 'run': 'r1', 'event': 'dance'})", SERVE)
    qtbot.waitUntil(lambda: "not understood" in "\n".join(thread.lines), timeout=10_000)
    thread.send({"do": "pause"})
    until_said(qtbot, thread, "queued")


def test_engine_that_does_not_read_never_holds_up_the_window(qtbot, engine, monkeypatch):
    monkeypatch.setattr(engine_thread, "PING", 0.05)
    monkeypatch.setattr(engine_thread, "SILENCE", 0.3)
    thread = engine("hello()", "threading.Event().wait()")
    until_said(qtbot, thread, "hello")
    with qtbot.waitSignal(thread.silent, timeout=10_000) as blocker:
        for _ in range(100):
            thread.send({"do": "control", "name": "x" * 10_000, "value": 1})
    assert blocker.args == [True]
    thread.stop(0.2)
    assert thread.isFinished()


def test_silence_ends_with_the_next_answer(qtbot, engine, monkeypatch):
    monkeypatch.setattr(engine_thread, "PING", 0.05)
    monkeypatch.setattr(engine_thread, "SILENCE", 0.2)
    thread = engine("hello()", "threading.Event().wait(1.0)", SERVE)
    with qtbot.waitSignals([thread.silent, thread.silent], timeout=10_000, order="strict"):
        pass


def test_engine_that_does_not_leave_is_killed(qtbot, engine):
    thread = engine("hello()", "say({'say': 'ready'})", "while True: threading.Event().wait(9)")
    until_said(qtbot, thread, "ready")
    pid = thread.pid
    thread.stop(0.1)
    assert gone(pid)


def test_engine_that_is_not_ready_has_nothing_to_wait_for(qtbot, engine):
    thread = engine("hello()", "threading.Event().wait()")
    until_said(qtbot, thread, "hello")
    began = time.monotonic()
    thread.stop(60)
    assert time.monotonic() - began < 30


def test_engine_is_given_the_time_to_finish(qtbot, engine, tmp_path):
    thread = engine(
        "hello()",
        SERVE,
        "threading.Event().wait(0.3)",
        f"open({str(tmp_path / 'checkpoint')!r}, 'w').write('whole')",
    )
    until_said(qtbot, thread, "ready")
    thread.stop(60)
    assert (tmp_path / "checkpoint").read_text() == "whole"


def test_questions_of_a_lost_engine_are_answered_with_the_cause(qtbot, engine):
    thread = engine("hello()", "threading.Event().wait()")
    until_said(qtbot, thread, "hello")
    answers = []
    thread.ask({"kind": "predict"}, lambda *a: answers.append(a))
    thread.kill()
    qtbot.waitUntil(lambda: bool(answers), timeout=5000)
    assert "killed" in answers[0][0]["error"]


def test_a_question_that_is_dropped_is_not_answered(qtbot, engine):
    thread = engine(
        "hello()", SERVE.replace('say({"say": "answer"', 'hear(), say({"say": "answer"')
    )
    until_said(qtbot, thread, "ready")
    answers = []
    thread.ask({"kind": "embed"}, lambda *a: answers.append(a))
    thread.drop("embed")  # which the engine reads, and answers all the same
    thread.drop("predict")  # nobody asked: nothing is sent
    thread.ask({"kind": "predict"}, lambda *a: answers.append(a))
    thread.send({"do": "order"})
    qtbot.waitUntil(lambda: bool(answers), timeout=5000)
    assert [answer["kind"] for answer, _ in answers] == ["predict"]


def test_fault_in_the_thread_is_told(qtbot, engine, monkeypatch):
    monkeypatch.setattr(engine_thread, "_Link", None)
    thread = engine("hello()", SERVE)
    assert "lost its connection" in lost(qtbot, thread)
    qtbot.waitUntil(lambda: "Traceback" in "\n".join(thread.lines), timeout=5000)


def test_parent_that_goes_takes_the_engine_with_it(qtbot, tmp_path):
    """In a process of its own: what is tested is that it does not abort."""
    worker = tmp_path / "worker.py"
    worker.write_text(PRELUDE + "hello()\n" + SERVE)
    program = f"""
import sys
from pathlib import Path
from PySide6.QtCore import QCoreApplication, QEventLoop, QObject
from workbench.engine_thread import EngineThread
app = QCoreApplication([])
def start(parent):
    thread = EngineThread(Path("."), parent, command=[sys.executable, {str(worker)!r}])
    loop = QEventLoop()
    thread.said.connect(loop.quit)
    thread.start()
    loop.exec()
    return thread
parent = QObject()
start(parent)
del parent
orphan = start(None)
print("alive", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "alive"


# --- the real engine ------------------------------------------------------------------------------


@pytest.fixture
def real(qtbot, tmp_path):
    thread = EngineThread(tmp_path / "工作区 with space")
    recorder, lines = Recorder([]), Recorder([])
    thread.said.connect(recorder.take)
    thread.log.connect(lines.take)
    thread.messages, thread.lines = recorder.into, lines.into
    thread.start()
    yield thread
    thread.stop()
    assert thread.isFinished()


def test_real_engine_trains_and_is_heard(qtbot, real):
    task = {"kind": "train", "name": "plain", "epochs": 2, "data": {"kind": "digits"}}
    real.send({"do": "start", "id": 1, "tasks": [task], "secrets": {}, "folder": None})
    points = []
    ended = []

    def over():
        for news in real.mailbox.drain().values():
            points.extend(news.scalars.get("train/loss", ([], []))[0])
            if news.ended is not None:
                ended.append(news.ended)
        return bool(ended)

    qtbot.waitUntil(over, timeout=120_000)
    assert isinstance(ended[0], Finished), (ended, real.lines)
    assert points == sorted(points)
    assert len(points) > 10
    assert [m["status"] for m in said(real, "status")][:2] == ["queued", "running"]
    qtbot.waitUntil(lambda: said(real, "status")[-1]["status"] == "done", timeout=5000)


def test_real_engine_refuses_with_the_place_of_the_fault(qtbot, real):
    task = {"kind": "train", "name": "x", "epochs": 0}
    real.send({"do": "start", "id": 9, "tasks": [task], "secrets": {}, "folder": None})
    qtbot.waitUntil(lambda: bool(said(real, "refused")), timeout=60_000)
    refused = said(real, "refused")[0]
    assert refused["id"] == 9
    assert refused["problems"][0][0] == ["x", "epochs"]


def test_real_engine_answers_while_it_imports_torch(qtbot, real):
    qtbot.waitUntil(lambda: bool(said(real, "hello")), timeout=60_000)
    assert said(real, "hello")[0]["pid"] == real.pid
    os.kill(real.pid, signal.SIGSEGV)
    text = lost(qtbot, real)
    assert "segmentation fault" in text
    assert any("Segmentation fault" in line for line in real.lines)
