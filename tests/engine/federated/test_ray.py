"""The grid ray, and what keeps processes beside the engine from outliving it."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from engine.errors import BadInput, Cancelled, CrucibleError, LostError
from engine.events import Event, Progress, Saved, Scalars, Table
from engine.federated.federating import run_federate
from engine.federated.keeping import Kept
from engine.federated.relaying import relayed, tell, with_files
from engine.federated.spec import Capture, Ray
from engine.models.card import LEARNT
from tests.engine.federated.fleet import QUICK, changed, new_bench, play

LINUX = sys.platform.startswith("linux")
needs_linux = pytest.mark.skipif(not LINUX, reason="adopts processes on Linux only")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not there")


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def running(mark: str) -> list[str]:
    """The processes whose command, or environment, names `mark`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            about = (folder / "environ").read_bytes()
        except OSError:
            continue
        if command and mark.encode() in command + about and int(folder.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


# --- the guard ------------------------------------------------------------------------------------

# A command as Ray is one: it leaves a grandchild behind that has made a session of its own.
UNRULY = """
import subprocess, sys
subprocess.Popen(["setsid", "sleep", "321"])
subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 321; sleep 321"], start_new_session=True)
print("begun", flush=True)
for line in sys.stdin:
    if line.strip() == "leave":
        break
    print("heard", line.strip(), flush=True)
"""


@needs_linux
@pytest.mark.parametrize("how", ["ends", "is not wanted", "is stopped"])
def test_nothing_is_left_of_a_command(how: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mark = f"CRUCIBLE_MARK={tmp_path.name}"
    name, _, value = mark.partition("=")
    kept = Kept([sys.executable, "-c", UNRULY], env={name: value}, remove=scratch)
    assert kept.next(30.0) == "begun"
    kept.say("hello")
    assert kept.next(30.0) == "heard hello"
    assert len(running(mark)) >= 4
    match how:
        case "ends":
            kept.say("leave")
        case "is not wanted":
            kept.end()
        case "is stopped":
            kept.process.send_signal(signal.SIGTERM)
    assert kept.wait(15.0)
    assert running(mark) == []
    assert not scratch.exists()
    kept.end()
    while kept.next(5.0) is not None:
        pass


@needs_linux
def test_nothing_is_left_when_the_engine_is_killed(tmp_path: Path) -> None:
    mark = f"CRUCIBLE_MARK={tmp_path.name}"
    name, _, value = mark.partition("=")
    engine = (
        "import sys\n"
        "from engine.federated.keeping import Kept\n"
        f"kept = Kept([sys.executable, '-c', {UNRULY!r}], env={{{name!r}: {value!r}}})\n"
        "print(kept.next(30.0), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", engine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert running(mark)
        os.killpg(process.pid, signal.SIGKILL)
    assert within(15.0, lambda: running(mark) == [])


def test_what_a_command_complains_of_is_kept() -> None:
    script = "import sys; sys.stderr.write('no such thing\\n'); sys.exit(3)"
    kept = Kept([sys.executable, "-c", script])
    assert kept.next(30.0) is None
    assert kept.wait(15.0)
    assert kept.process.returncode == 3
    assert kept.complaints == ["no such thing"]
    kept.end()


# --- what the server says -------------------------------------------------------------------------


class Lines:
    """A server whose lines are there already."""

    def __init__(self, *lines: str | None, cancels: bool = True) -> None:
        self.lines = list(lines)
        self.cancels = cancels
        self.cancelled = 0
        self.stops_after = self.waited = 0

    def next(self, seconds: float) -> str | None:
        if not self.lines:
            raise queue.Empty
        return self.lines.pop(0)

    def cancel(self) -> bool:
        self.cancelled += 1
        return self.cancels

    def stopping(self, seconds: float) -> bool:
        self.waited += 1
        return self.waited <= self.stops_after

    def explain(self) -> CrucibleError:
        return LostError("it is gone")


def pulled(steps: Any) -> tuple[list[Event], Any]:
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def told(tmp_path: Path, *events: Event) -> list[str]:
    """The lines of a task that says these events."""

    def steps() -> Any:
        yield from events
        return {"accuracy": 0.5}

    lines: list[str] = []
    tell(steps(), with_files(lambda body: lines.append(json.dumps(body)), tmp_path))
    return lines


def test_events_and_files_come_as_they_were(tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "updates").mkdir(parents=True)
    content = os.urandom(100_000)
    (there / "updates" / "one.safetensors").write_bytes(content)
    (there / "model.safetensors").write_bytes(b"")
    (there / LEARNT).write_text("of a private run")
    said = [
        Scalars(1, {"global/accuracy": 0.5}),
        Table("rounds", ("round", "skipped"), ((1, ""),)),
        Saved("update", "updates/one.safetensors", 100_000, "0"),
        Saved("nothing", "model.safetensors", 0, "0"),
    ]
    bench = new_bench(tmp_path)
    events, summary = pulled(relayed(Lines(*told(there, *said)), bench, "nodes"))
    assert events == said
    assert summary == {"accuracy": 0.5}
    assert (bench.folder / "updates" / "one.safetensors").read_bytes() == content
    assert (bench.folder / "model.safetensors").read_bytes() == b""
    assert (bench.folder / LEARNT).read_text() == "of a private run"


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (['{"failed": "no", "exit_code": 2}'], BadInput, "^no$"),
        (['{"failed": "no", "exit_code": 1}'], CrucibleError, "^no$"),
        ([None], LostError, "it is gone"),
        (['{"event": "nonsense"}'], CrucibleError, "of another version"),
        (
            ['{"event":"saved","name":"m","path":"model.safetensors","size":1,"sha256":""}'],
            CrucibleError,
            "did not arrive",
        ),
    ],
)
def test_what_goes_wrong_at_the_server_is_said_here(
    tmp_path: Path, lines: list[str | None], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        pulled(relayed(Lines(*lines), new_bench(tmp_path), "nodes"))


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "run.json",
        "deployment.json",
        "privacy.jsonl",
        "updates/../run.json",
        "updates/..",
        "updates/a/b.safetensors",
        "model.safetensors/",
    ],
)
def test_a_server_writes_nothing_but_what_it_is_to_send(tmp_path: Path, name: str) -> None:
    bench = new_bench(tmp_path)
    (bench.folder / "run.json").write_text("ours")
    piece = {"file": name, "data": base64.b64encode(b"theirs").decode(), "first": True}
    saved = {"event": "saved", "name": "m", "path": name, "size": 1, "sha256": ""}
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    for line in (piece, saved):
        with pytest.raises(CrucibleError, match="a file that is not its to write"):
            pulled(relayed(Lines(json.dumps(line), None), bench, "nodes"))
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_noise_in_the_log_is_passed_over(tmp_path: Path) -> None:
    lines = Lines("not json", "[1]", '{"summary": {"rounds": 1}}')
    events, summary = pulled(relayed(lines, new_bench(tmp_path), "nodes"))
    assert set(events) <= {Progress(0, 0, "nodes")}
    assert summary == {"rounds": 1}


def test_a_cancel_hands_over_what_the_server_has(tmp_path: Path) -> None:
    source = Lines('{"event": "note", "level": "info", "text": "here"}')
    steps = relayed(source, new_bench(tmp_path), "nodes")
    next(steps)
    source.lines = ['{"summary": {"rounds": 3}}']
    with pytest.raises(StopIteration) as end:
        steps.throw(Cancelled())
    assert end.value.value == {"rounds": 3}
    assert source.cancelled == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_cancel_that_gives_nothing_is_a_cancel_at_once(tmp_path: Path, begun: bool) -> None:
    source = Lines(cancels=not begun)
    if begun:
        source.lines = ['{"event": "note", "level": "info", "text": "here"}']
    steps = relayed(source, new_bench(tmp_path), "nodes")
    next(steps)
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert source.cancelled == 1


def test_a_cancel_is_over_when_the_server_is_stopped(tmp_path: Path) -> None:
    """Until then the run says what it said."""
    source = Lines('{"event": "progress", "done": 2, "total": 9, "unit": "rounds"}', cancels=False)
    source.stops_after = 2
    steps = relayed(source, new_bench(tmp_path), "nodes")
    shown = next(steps)
    assert [steps.throw(Cancelled()), next(steps)] == [shown, shown]
    with pytest.raises(Cancelled):
        next(steps)
    assert source.cancelled == 1


# --- Ray ------------------------------------------------------------------------------------------


def test_without_ray_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install .*federated-ray"):
        next(run_federate(changed(QUICK, grid=Ray()), new_bench(tmp_path)))


def sent(folder: Path) -> dict[str, dict[str, Any]]:
    """What each client sent in the first round."""
    paths = sorted((folder / "updates").glob("*.safetensors"))
    return {path.name: safetensors.torch.load_file(path) for path in paths}


@needs_ray
@pytest.mark.timeout(600)
def test_ray_gives_the_same_first_round_and_leaves_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """One start of Ray for all of it: the first round is that of the local grid, a cancel in a
    later one hands over a model, and then nothing of Ray is left."""
    both = {"clients": 3, "capture": Capture(rounds=(1,), clients=(0, 1, 2))}
    local, _ = play(tmp_path, changed(QUICK, **both, rounds=1), "local")
    bench = new_bench(tmp_path, "ray")
    steps = run_federate(changed(QUICK, **both, rounds=100_000, grid=Ray(processes=1)), bench)
    events: list[Event] = []
    while not events or not is_over(events[-1], 2):
        events.append(next(steps))
    begun = time.monotonic()
    with pytest.raises(StopIteration) as end:
        steps.throw(Cancelled())
        while True:
            next(steps)
    shown = time.monotonic() - begun
    summary = end.value.value
    assert summary["rounds"] >= 2
    assert (bench.folder / "model.safetensors").is_file()
    assert within(15.0, lambda: running(str(bench.folder)) == [] and raylets() == [])
    first = next(event for event in events if isinstance(event, Scalars))
    expected = next(event for event in local if isinstance(event, Scalars))
    for name, value in expected.values.items():
        if name != "round/seconds":
            assert first.values[name] == pytest.approx(value, abs=1e-6), name
    here, there = sent(tmp_path / "runs" / "local"), sent(bench.folder)
    assert len(here) == 3
    assert here.keys() == there.keys()
    for name, tensors in here.items():
        for key, tensor in tensors.items():
            assert float((tensor.double() - there[name][key].double()).abs().max()) < 1e-6
    record_property("seconds until the cancel is shown", shown)


def is_over(event: Event, rounds: int) -> bool:
    return isinstance(event, Progress) and event.unit == "rounds" and event.done >= rounds


def raylets() -> list[str]:
    """Ray's processes that belong to a scratch folder of ours."""
    return [line for line in running("crucible-") if "ray" in line and "/crucible-" in line]
