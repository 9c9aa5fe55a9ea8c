"""Questions: where they are answered, and how they are given up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.data.spec import DataSpec, Digits
from engine.desk import SUPERSEDED, Desk
from engine.events import Event, Progress
from engine.models import ModelCard, build, save_model
from engine.models.spec import MLP
from engine.questions import load
from engine.store import Workspace

PATIENCE = 30.0
PREVIEW: dict[str, Any] = {"kind": "preview_data"}
DESCRIBE: dict[str, Any] = {"kind": "describe_model"}


class Loads:
    """Stands in for `load`: each takes until it is let go, and says when it begins and ends."""

    def __init__(self) -> None:
        self.begun: queue.Queue[int] = queue.Queue()
        self.ended: queue.Queue[tuple[int, str]] = queue.Queue()
        self.may_end = threading.Event()
        self.threads: list[str] = []
        self._count = 0

    def __call__(self, spec: DataSpec, bench: Any) -> Generator[Event, None, Any]:
        self._count += 1
        number, how = self._count, "closed"
        self.threads.append(threading.current_thread().name)
        self.begun.put(number)
        try:
            while not self.may_end.wait(0.001):
                yield Progress(0, 0, "images")
            how = "done"
            return (yield from load(Digits(), bench))
        finally:
            self.ended.put((number, how))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads()
    monkeypatch.setattr("engine.questions.load", loads)
    return loads


class Answers:
    """What the desk says."""

    def __init__(self) -> None:
        self.all: queue.Queue[dict[str, Any]] = queue.Queue()
        self.woken = threading.Event()

    def say(self, what: str, payload: bytes = b"", **fields: Any) -> None:
        assert what == "answer"
        self.all.put(fields)

    def next(self) -> dict[str, Any]:
        return self.all.get(timeout=PATIENCE)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def desk(tmp_path: Path, answers: Answers) -> Iterator[Desk]:
    desk = Desk(Workspace(tmp_path), None, answers.say, answers.woken.set)
    desk.open()
    yield desk
    desk.close()
    desk.join(PATIENCE)
    assert "questions" not in {thread.name for thread in threading.enumerate()}


def test_a_newer_question_takes_the_place_of_one_under_way(
    desk: Desk, answers: Answers, loads: Loads
) -> None:
    desk.ask(1, PREVIEW)
    assert loads.begun.get(timeout=PATIENCE) == 1
    desk.ask(2, DESCRIBE)
    desk.ask(3, DESCRIBE)  # before the second has begun
    assert answers.next() == {"id": 2, "error": SUPERSEDED}
    desk.ask(4, PREVIEW)
    assert answers.next() == {"id": 1, "error": SUPERSEDED}
    assert loads.ended.get(timeout=PATIENCE) == (1, "closed")
    loads.may_end.set()
    assert answers.woken.wait(PATIENCE)
    desk.compute()
    replies = [answers.next(), answers.next()]
    assert {reply["id"]: "answer" in reply for reply in replies} == {3: True, 4: True}
    assert loads.begun.get_nowait() == 2
    assert loads.begun.get_nowait() == 3
    assert loads.begun.empty()
    assert set(loads.threads) == {"questions"}


def test_a_model_is_built_by_the_thread_that_computes_and_only_for_the_newest(
    desk: Desk, answers: Answers, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import questions

    builders: list[str] = []
    describe = questions.describe

    def watched(*arguments: Any, **options: Any) -> Any:
        builders.append(threading.current_thread().name)
        return describe(*arguments, **options)

    monkeypatch.setattr("engine.questions.describe", watched)
    loads.may_end.set()
    for number in (1, 2):
        answers.woken.clear()
        desk.ask(number, DESCRIBE)
        assert answers.woken.wait(PATIENCE)
    assert desk.ready
    assert answers.next() == {"id": 1, "error": SUPERSEDED}
    assert builders == []
    desk.compute()
    assert answers.next()["answer"]["parameters"] > 0
    assert builders == [threading.current_thread().name]
    assert not desk.ready


def test_a_drawn_picture_does_not_wait_for_a_download(
    desk: Desk, answers: Answers, loads: Loads, tmp_path: Path
) -> None:
    model = MLP(width=4)
    card = ModelCard(model=model, shape=(1, 2, 2), classes=("a", "b"))
    save_model(tmp_path / "m.safetensors", build(model, (1, 2, 2), 2), card)
    desk.ask(1, PREVIEW)
    loads.begun.get(timeout=PATIENCE)
    ref = str(tmp_path / "m.safetensors")
    desk.ask(2, {"kind": "predict", "model": ref, "image": [[0.0, 1.0], [0.5, 0.25]]})
    assert desk.ready
    before = torch.get_rng_state()
    desk.compute()
    assert torch.equal(torch.get_rng_state(), before)
    reply = answers.next()
    assert reply["id"] == 2
    assert reply["answer"]["label"] is None
    assert sum(reply["answer"]["probabilities"]) == pytest.approx(1.0)


def test_what_is_under_way_ends_with_the_desk(desk: Desk, answers: Answers, loads: Loads) -> None:
    desk.ask(1, PREVIEW)
    desk.ask(2, DESCRIBE)
    loads.begun.get(timeout=PATIENCE)
    desk.close()
    assert loads.ended.get(timeout=PATIENCE) == (1, "closed")
    assert loads.begun.empty()
    assert answers.all.empty()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"kind": "preview"}, "there is no question 'preview'"),
        ({"kind": "preview_data", "data": {"kind": "digit"}}, "there is no kind 'digit'"),
        ({"kind": "predict", "model": "absent", "image": 3}, "there is no run 'absent'"),
        ({"kind": "predict", "model": "absent"}, "image"),
    ],
)
def test_a_question_that_fails_is_answered_with_why(
    desk: Desk, answers: Answers, question: dict[str, Any], words: str
) -> None:
    desk.ask(1, question)
    desk.compute()
    reply = answers.next()
    assert reply["id"] == 1
    assert words in reply["error"]


class Slow:
    """Stands in for a long answer: so many steps, which say when they are taken."""

    def __init__(self, steps: int = 5) -> None:
        self.steps = steps
        self.taken: list[str] = []
        self.closed: list[str] = []

    def __call__(self, question: Any, workspace: Any, data_root: Any) -> Any:
        name = str(question["name"])
        yield from ()

        def finish() -> Generator[None, None, Any]:
            try:
                for _ in range(self.steps):
                    self.taken.append(name)
                    yield
            except GeneratorExit:
                self.closed.append(name)
                raise
            return {"name": name}, b""

        return finish


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    monkeypatch.setattr("engine.questions.prepare", slow)
    monkeypatch.setattr("engine.desk.SLICE", 0.0)
    return slow


def test_a_long_answer_is_worked_on_a_little_at_a_time(
    desk: Desk, answers: Answers, slow: Slow
) -> None:
    desk.ask(1, {"kind": "try_attack", "name": "a"})
    for turn in range(1, 6):
        answers.woken.clear()
        desk.compute()
        assert slow.taken == ["a"] * turn
        assert answers.woken.is_set() == desk.ready  # has itself called again
    desk.compute()
    assert answers.next() == {"id": 1, "answer": {"name": "a"}}
    assert not desk.ready


def test_what_nobody_waits_for_comes_last(desk: Desk, answers: Answers, slow: Slow) -> None:
    desk.ask(1, {"kind": "smallest_eps", "name": "patient"})
    desk.compute()
    assert slow.taken == ["patient"]
    desk.ask(2, {"kind": "try_attack", "name": "pressing"})
    while desk.ready:
        desk.compute()
    assert slow.taken == ["patient", *["pressing"] * 5, *["patient"] * 4]
    assert [answers.next()["id"], answers.next()["id"]] == [2, 1]


def test_a_long_answer_that_is_replaced_is_given_up(
    desk: Desk, answers: Answers, slow: Slow
) -> None:
    desk.ask(1, {"kind": "try_attack", "name": "old"})
    desk.compute()
    desk.ask(2, {"kind": "try_attack", "name": "new"})
    while desk.ready:
        desk.compute()
    assert slow.taken == ["old", *["new"] * 5]
    assert slow.closed == ["old"]
    assert answers.next() == {"id": 1, "error": SUPERSEDED}
    assert answers.next()["id"] == 2


def test_a_run_has_as_much_time_as_its_questions(
    desk: Desk, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def monotonic() -> float:
        return now[0]

    monkeypatch.setattr("engine.desk.time.monotonic", monotonic)
    original = slow.__call__

    def costly(*arguments: Any) -> Any:
        finish = yield from original(*arguments)

        def steps() -> Any:
            for _ in finish():
                now[0] += 1.0
                yield
            return {}, b""

        return steps

    monkeypatch.setattr("engine.questions.prepare", costly)
    desk.ask(1, {"kind": "try_attack", "name": "a"})
    desk.compute(sharing=True)
    assert len(slow.taken) == 1
    desk.compute(sharing=True)
    assert len(slow.taken) == 1, "the run has had no time yet"
    now[0] += 1.0
    desk.compute(sharing=True)
    assert len(slow.taken) == 2
    desk.compute()
    assert len(slow.taken) == 3, "nobody else is there"
