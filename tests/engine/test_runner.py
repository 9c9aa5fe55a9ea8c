"""The runner: how runs begin, pause, end, fail and go on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from engine.bench import Bench
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import (
    Change,
    Event,
    Failed,
    Finished,
    Note,
    Progress,
    Scalars,
    Started,
    Stopped,
)
from engine.files import atomic
from engine.runner import Runner
from engine.store import Run, Workspace
from engine.task import Adjustable, Steps, param


class Count(Adjustable):
    """Counts, as tests need it. Not found by the registry of the product: it is parsed here."""

    title: ClassVar[str] = "Count"

    kind: Literal["count_for_tests"] = "count_for_tests"
    to: int = param(5, "To", "Where it ends.")
    fault: str = param("", "Fault", "What goes wrong half way.")
    returns: bool = param(False, "Returns", "Whether it has partial results.")
    by: float = param(1.0, "By", "What it says.", ge=0.0, live=True)
    file: str = param("", "File", "What it saves.", path="save")
    progress: bool = param(False, "Progress", "Whether it says how far it is, too.")

    def run(self, bench: Bench) -> Steps:
        at = int(bench.resume.values["task"]["at"]) if bench.resume else 0
        try:
            while at < self.to:
                at += 1
                yield Scalars(at, {"count": bench.control("by", self.by, at)})
                if self.progress:
                    yield Progress(at, self.to, "steps")
                if at == self.to // 2:
                    _fail(self.fault)
                    bench.save_checkpoint(at, {}, {"at": at})
                if at == self.to - 1:
                    _fail(self.fault.removeprefix("late "))
        except Cancelled:
            if not self.returns:
                raise
        return {"at": at}


def _fail(fault: str) -> None:
    match fault:
        case "crucible":
            raise CrucibleError("explained")
        case "input":
            raise BadInput("not as it was written")
        case "bug":
            raise KeyError("unexplained")
        case "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")
        case "exit":
            raise SystemExit(3)
        case "disk":
            raise OSError(28, "No space left on device", "a file")


@pytest.fixture(autouse=True)
def parse_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.task import parse

    monkeypatch.setattr("engine.runner.parse_task", lambda values: parse(Count, values))


class Heard:
    """A listener that keeps what it hears, and may act on it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.act: Callable[[Event], None] = lambda event: None

    def __call__(self, run: Run, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append(event)
            self.act(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def setup(tmp_path: Path) -> tuple[Workspace, Heard, Runner]:
    workspace, heard = Workspace(tmp_path / "w"), Heard()
    return workspace, heard, Runner(workspace, heard)


Setup = tuple[Workspace, Heard, Runner]


def make(workspace: Workspace, **fields: Any) -> Run:
    return workspace.create({"kind": "count_for_tests", **fields}, name="count")


def test_a_run_begins_works_and_ends(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace)
    assert runner.run(run) == "done"
    assert isinstance(heard.events[0], Started)
    assert [event.step for event in heard.of(Scalars)] == [1, 2, 3, 4, 5]
    assert heard.events[-1] == Finished({"at": 5})
    info = run.info()
    assert (info.status, info.summary) == ("done", {"at": 5})
    assert info.environment["threads"] >= 1
    assert info.started <= info.ended
    assert run.lock.holder() is None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crucible", "explained"),
        ("bug", "KeyError: 'unexplained'"),
        ("memory", "out of memory. The run needs more than there is"),
    ],
)
def test_a_failure_is_explained_and_the_runner_lives_on(
    setup: Setup, fault: str, words: str
) -> None:
    workspace, heard, runner = setup
    run = make(workspace, fault=fault)
    assert runner.run(run) == "failed"
    assert words in run.info().error
    assert words in heard.of(Failed)[0].error
    assert run.scalars()["count"][0] == [1, 2]
    with pytest.raises(BadInput, match="is failed; start a new one"):
        runner.run(run)
    assert runner.run(make(workspace)) == "done"


def test_a_full_disk_only_interrupts(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, fault="disk")
    assert runner.run(run) == "interrupted"
    assert run.info().error == heard.of(Failed)[0].error == "the disk is full (a file)"
    assert isinstance(runner.failure, OSError)


def test_a_run_that_cannot_be_resumed_as_asked_can_be_asked_again(setup: Setup) -> None:
    workspace, heard, runner = setup
    done = make(workspace)
    runner.run(done)
    run = make(workspace, fault="input")
    run.set_state(status="interrupted", environment=done.info().environment)
    assert runner.run(run) == "interrupted"
    assert run.info().error == "not as it was written"
    assert isinstance(runner.failure, BadInput)


def test_code_that_leaves_the_program_only_ends_the_run(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, fault="exit")
    assert runner.run(run) == "failed"
    assert "sys.exit()" in run.info().error
    assert heard.of(Failed)
    assert runner.current is None
    assert "store" not in {thread.name for thread in threading.enumerate()}


def test_out_of_memory_half_way_only_interrupts(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, to=6, fault="late memory")
    assert runner.run(run) == "interrupted"
    assert "out of memory" in run.info().error


def test_a_run_at_its_end_when_it_is_cancelled_is_done(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace)

    class Late(Count):
        def run(self, bench: Bench) -> Steps:
            yield Scalars(1, {"count": 1.0})
            runner.cancel()
            return {"at": 1}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.runner.parse_task", lambda values: Late(kind="count_for_tests"))
        assert runner.run(run) == "done"
    assert run.info().summary == {"at": 1}


def test_what_fails_before_the_first_event_is_said(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, bench={"device": "cuda:99"})
    assert runner.run(run) == "failed"
    assert "there is no device 'cuda:99'" in heard.of(Failed)[0].error
    assert run.events()[-1][2] == heard.of(Failed)[0]


@pytest.mark.parametrize("returns", [True, False])
def test_cancel_takes_effect_at_the_next_yield(setup: Setup, returns: bool) -> None:
    workspace, heard, runner = setup
    heard.act = lambda event: runner.cancel() if isinstance(event, Scalars) else None
    run = make(workspace, to=100_000, returns=returns)
    assert runner.run(run) == "cancelled"
    assert 1 <= len(heard.of(Scalars)) < 100_000
    assert isinstance(heard.events[-1], Stopped)
    assert bool(run.info().summary) == returns
    assert not heard.of(Failed)


def test_an_interrupted_run_goes_on_from_its_checkpoint(setup: Setup) -> None:
    workspace, heard, runner = setup
    at = threading.Event()

    def act(event: Event) -> None:
        if isinstance(event, Scalars) and event.step >= 50 and not at.is_set():
            at.set()
            runner.interrupt()

    heard.act = act
    run = make(workspace, to=100_000)
    run.set_state(status="queued")
    status = runner.run(run)
    assert status == "interrupted"
    # No checkpoint yet: it begins again, and says everything again.
    heard.events.clear()
    small = make(workspace, to=40, fault="")
    heard.act = lambda e: runner.interrupt() if isinstance(e, Scalars) and e.step > 20 else None
    first = runner.run(small)
    heard.act = lambda event: None
    if first == "interrupted":
        heard.events.clear()
        assert runner.run(small) == "done"
        assert heard.of(Started)[0].step == 20
        assert [event.step for event in heard.of(Scalars)] == list(range(21, 41))
    assert small.scalars()["count"][0] == list(range(1, 41))


def test_a_paused_run_waits_and_steps_one_at_a_time(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, to=6)
    runner.pause()
    thread = started(runner, run)
    seen = threading.Condition()

    def act(event: Event) -> None:
        with seen:
            seen.notify_all()

    heard.act = act
    for expected in (1, 2, 3):
        runner.step()
        with seen:
            assert seen.wait_for(lambda n=expected: len(heard.of(Scalars)) == n, 10)
    assert not seen_more(seen, heard, 3)
    runner.set_control("by", 7.0)
    runner.go_on()
    thread.join(10)
    assert not thread.is_alive()
    assert run.scalars()["count"] == ([1, 2, 3, 4, 5, 6], [1, 1, 1, 7, 7, 7])
    assert heard.of(Change) == [Change("by", 7.0, 4)]


def test_a_step_is_one_step_also_of_a_task_that_says_progress_beside_it(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace, to=4, progress=True)
    runner.pause()
    thread = started(runner, run)
    for _ in range(3):
        runner.step()
    seen = threading.Condition()
    assert not seen_more(seen, heard, 3)
    assert len(heard.of(Scalars)) == 3
    runner.go_on()
    thread.join(10)


def test_a_recipe_repeats_what_a_person_changed(setup: Setup) -> None:
    workspace, _, runner = setup
    changes = [{"name": "by", "value": 2.0, "step": 6}, {"name": "by", "value": 7.0, "step": 4}]
    run = make(workspace, to=7, changes=changes)
    assert runner.run(run) == "done"
    assert run.scalars()["count"] == ([1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 7, 7, 2, 2])


def test_a_change_that_comes_after_the_end_is_told(setup: Setup) -> None:
    workspace, heard, runner = setup
    late = {"name": "by", "value": 3.0, "step": 40}
    assert runner.run(make(workspace, to=4, changes=[{**late, "step": 2}, late])) == "done"
    notes = [note.text for note in heard.of(Note) if note.level == "warning"]
    assert notes == ["by was to be 3 from step 40 on, but the run has 4 steps: it never was"]


def test_slow_motion_waits_between_steps_and_can_be_ended(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, heard, runner = setup
    waits: list[float | None] = []
    condition = runner._changed
    wait = condition.wait

    def waited(timeout: float | None = None) -> bool:
        waits.append(timeout)
        if len(heard.of(Scalars)) == 3:
            runner._pace = 0.0
        return wait(0.001)

    monkeypatch.setattr(condition, "wait", waited)
    run = make(workspace, to=6)
    bursts: list[bool] = []
    monkeypatch.setattr(runner, "_between", lambda: bursts.append(runner._pace > 0))

    def act(event: Event) -> None:
        if isinstance(event, Started):
            runner.pace(1000.0)

    heard.act = act
    assert runner.run(run) == "done"
    assert waits
    assert all(0 < each <= 1 / 1000 for each in waits if each is not None)
    assert run.scalars()["count"][0] == [1, 2, 3, 4, 5, 6]
    assert runner._pace == 0.0  # a run's own
    with pytest.raises(BadInput, match="0 or more"):
        runner.pace(-1.0)


def test_steps_that_were_not_taken_do_not_hold_up_a_pause(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, heard, runner = setup

    class Impatient(Count):
        def run(self, bench: Bench) -> Steps:
            for _ in range(5):
                runner.step()
            runner.go_on()
            yield Scalars(1, {"count": 1.0})
            runner.pause()
            for at in (2, 3, 4):
                yield Scalars(at, {"count": 1.0})
            return {}

    monkeypatch.setattr(
        "engine.runner.parse_task", lambda values: Impatient(kind="count_for_tests")
    )
    seen = threading.Condition()

    def act(event: Event) -> None:
        with seen:
            seen.notify_all()

    heard.act = act
    thread = started(runner, make(workspace))
    with seen:
        assert seen.wait_for(lambda: len(heard.of(Scalars)) >= 2, 10)
    assert not seen_more(seen, heard, 2)
    runner.cancel()
    thread.join(10)


def started(runner: Runner, run: Run) -> threading.Thread:
    thread = threading.Thread(target=runner.run, args=(run,), daemon=True)
    thread.start()
    while runner.current is None:
        threading.Event().wait(0.01)
    return thread


def seen_more(seen: threading.Condition, heard: Heard, count: int) -> bool:
    with seen:
        return seen.wait_for(lambda: len(heard.of(Scalars)) > count, 0.2)


def test_a_run_remembers_its_data_root(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For going on with it, and for runs that use its model; another that is named wins."""
    workspace, heard, _ = setup
    monkeypatch.chdir(tmp_path)
    roots: list[Path | None] = []

    class Look(Count):
        def run(self, bench: Bench) -> Steps:
            roots.append(bench.data_root)
            return super().run(bench)

    monkeypatch.setattr("engine.runner.parse_task", lambda values: Look(**values))

    def go(run: Run, root: Path | None = None) -> str:
        Runner(workspace, heard, data_root=root).run(run)
        return run.info().data_root

    def child(lineage: dict[str, str]) -> Run:
        return workspace.create({"kind": "count_for_tests"}, name="c", lineage=lineage)

    here, other = tmp_path / "数据 a", tmp_path / "b"
    here.mkdir()
    other.mkdir()
    first = make(workspace, fault="disk")
    assert go(first, Path("数据 a")) == str(here)
    assert first.info().status == "interrupted"
    assert go(first) == str(here)
    assert go(first, other) == str(other)
    assert go(first) == str(other)
    parent = make(workspace)
    assert go(parent, here) == str(here)
    attack = child({"model": parent.id})
    assert go(attack) == str(here)
    assert go(child({"model": attack.id})) == str(here)
    assert go(child({})) == ""
    queued = workspace.create({"kind": "count_for_tests"}, name="q", data_root=Path("b"))
    assert go(queued) == str(other)
    assert roots == [Path("数据 a"), here, other, other, here, here, here, None, other]


def test_cancel_reaches_a_paused_run(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace)
    runner.pause()
    thread = started(runner, run)
    runner.cancel()
    thread.join(10)
    assert run.info().status == "cancelled"
    assert not runner.paused


def test_what_happens_while_a_paused_run_answers_is_not_lost(setup: Setup) -> None:
    """Somebody pokes while `between` is at work, after it has looked."""
    workspace, _, _ = setup
    looked, poked = threading.Event(), threading.Event()
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        looked.set()
        assert poked.wait(10)
        if calls == 2:
            runner.cancel()

    runner = Runner(workspace, lambda run, events: None, between=between)
    runner.pause()
    run = make(workspace)
    thread = started(runner, run)
    assert looked.wait(10)
    runner.poke()
    poked.set()
    thread.join(10)
    assert run.info().status == "cancelled"


def test_what_depends_on_a_failure_is_skipped(setup: Setup) -> None:
    workspace, heard, runner = setup
    parent = make(workspace, fault="crucible")
    runner.run(parent)
    child = workspace.create({"kind": "count_for_tests"}, name="c", lineage={"model": parent.id})
    assert runner.run(child) == "skipped"
    assert "which is failed" in child.info().error
    assert not (child.folder / "metrics.db").exists()


def test_the_rest_of_a_recipe_does_not_go_on_with_half_a_model(setup: Setup) -> None:
    workspace, heard, runner = setup
    parent = workspace.create({"kind": "count_for_tests"}, name="p", recipe="r")
    heard.act = lambda event: runner.cancel()
    assert runner.run(parent) == "cancelled"
    heard.act = lambda event: None
    (parent.folder / "model.safetensors").touch()
    asked = {"spec": {"kind": "count_for_tests"}, "lineage": {"model": parent.id}}
    assert runner.run(workspace.create(**asked, name="rest", recipe="r")) == "skipped"
    assert runner.run(workspace.create(**asked, name="by hand")) == "done"


KILLED = """
import os, signal, sys
from engine.files import atomic
with atomic(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_half_written_is_removed(setup: Setup, tmp_path: Path) -> None:
    workspace, heard, runner = setup
    saved = tmp_path / "elsewhere" / "saved.age"
    run = make(workspace, file=str(saved))
    folders = (run.folder, run.folder / "checkpoints", saved.parent)
    for folder in folders:
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-c", KILLED, str(folder / "f")], check=False)
    left = [path for folder in folders for path in folder.glob(".*.part")]
    assert [path.read_bytes() for path in left] == [b"half"] * 3
    torn = run.folder / "images" / "now.part"
    theirs = saved.parent / ".theirs.part"
    for path in (torn, theirs):
        path.write_bytes(b"half")
    with atomic(saved) as file:  # as another run that goes on
        file.write(b"whole")
        assert runner.run(run) == "done"
    assert not any(path.exists() for path in (*left, torn))
    assert theirs.exists()
    assert saved.read_bytes() == b"whole"


def test_a_run_that_somebody_else_has_is_left_alone(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace)
    with pytest.raises(BadInput, match="is being run by process"):
        runner.run(Run(run.folder))
    assert runner.run(run) == "done"


def test_a_damaged_run_is_refused(setup: Setup) -> None:
    workspace, heard, runner = setup
    run = make(workspace)
    (run.folder / "run.json").write_text("{")
    with pytest.raises(BadInput, match=r"run\.json is missing or unreadable"):
        runner.run(run)
