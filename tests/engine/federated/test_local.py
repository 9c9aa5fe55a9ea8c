"""The grid in this process: what a client keeps, and how its threads end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Cancelled
from engine.events import Progress, drain
from engine.federated import apps
from engine.federated.federating import run_federate
from engine.federated.federation import Federation
from engine.federated.learning import Fleet, Learnt, Lesson, Stopped
from engine.federated.local import WAIT, LocalGrid
from engine.federated.preparing import fleet_of, prepared
from engine.federated.spec import ClientPrivacy, Deployment, Federate, GridSpec, Local, Ray, TopK
from tests.engine.federated.fleet import QUICK, changed, new_bench

# isort: split
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

PATIENCE = 30.0
"""Seconds after which a test that waits has failed."""


class Counting:
    """Clients that count their answers, and give the next one when they may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.at_work = threading.Event()
        self.app = ClientApp()
        self.app.query()(self._answer)

    def _answer(self, message: Message, context: Context) -> Message:
        before = context.state.config_records.get("count")
        count = int(str(before["is"])) + 1 if before is not None else 1
        context.state["count"] = ConfigRecord({"is": count})
        self.at_work.set()
        assert self.may.wait(PATIENCE)
        return Message(RecordDict({"count": ConfigRecord({"is": count})}), reply_to=message)


@pytest.fixture
def counting() -> Iterator[Counting]:
    found = Counting()
    yield found
    found.may.set()


def asked(grid: LocalGrid, node: int = 1) -> list[str]:
    return list(grid.push_messages([grid.create_message(RecordDict(), "query", node, "0")]))


def answer(grid: LocalGrid, ids: list[str]) -> int:
    """What the client says its count is."""
    for _ in range(round(PATIENCE / WAIT)):
        for found in grid.pull_messages(ids):
            return int(str(found.content.config_records["count"]["is"]))
    raise AssertionError("no answer")


def played(tmp_path: Path, spec: Federate, kind: type[LocalGrid]) -> tuple[Federation, LocalGrid]:
    """A federation that was played on a grid of one thread."""
    bench = new_bench(tmp_path)
    made = drain(prepared(spec, bench))
    federation = Federation(spec, bench, made)
    apps.share("test", fleet_of(spec, bench, made))
    grid = kind(apps.client, spec.clients, {apps.FLEET: "test"}, 1)
    try:
        drain(federation.play(grid))
    finally:
        grid.close()
        apps.forget("test")
    return federation, grid


def test_a_client_keeps_what_it_learnt_for_an_answer_that_was_taken(counting: Counting) -> None:
    grid = LocalGrid(counting.app, 1, {}, 1)
    counting.may.set()
    assert [answer(grid, asked(grid)) for _ in range(3)] == [1, 2, 3]
    grid.close()


def test_a_late_client_keeps_nothing_when_it_gets_through_after_all(counting: Counting) -> None:
    grid = LocalGrid(counting.app, 1, {}, 1)
    before = set(threading.enumerate())
    ids = asked(grid)
    (late,) = set(threading.enumerate()) - before
    assert counting.at_work.wait(PATIENCE)
    grid.give_up(ids)
    counting.may.set()
    late.join(PATIENCE)
    assert answer(grid, asked(grid)) == 1
    grid.close()


def test_a_client_whose_answer_was_there_and_not_taken_keeps_nothing(counting: Counting) -> None:
    grid = LocalGrid(counting.app, 2, {}, 1)
    counting.may.set()
    first, second = asked(grid, 1), asked(grid, 2)
    answer(grid, second)  # there is one thread: the first answer is there as well
    grid.give_up(first)
    assert grid.pull_messages(first) == []
    assert answer(grid, asked(grid, 1)) == 1
    grid.close()


def test_a_client_keeps_nothing_of_an_update_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as little as one that came late, and changes as little of what comes after."""
    right = Fleet.learn

    def learn(self: Fleet, lesson: Lesson, state: Any) -> Learnt:
        learnt = right(self, lesson, state)
        if lesson.client == 1:
            next(iter(learnt.update.values())).view(-1)[0] = math.inf
        return learnt

    monkeypatch.setattr(Fleet, "learn", learn)
    spec = changed(QUICK, rounds=1, compression=TopK(share=0.1))
    _, grid = played(tmp_path, spec, LocalGrid)
    kept = {node - 1: "memory" in context.state for node, context in grid.contexts.items()}
    assert kept == {0: True, 1: False, 2: True, 3: True, 4: True}


# --- one client that is slow ----------------------------------------------------------------------


class Elsewhere(LocalGrid):
    """As far as a federation sees, its clients are in other processes."""

    live = False


@pytest.mark.parametrize(
    ("where", "grid", "states"),
    [
        (Local(), LocalGrid, "kkkkk"),
        (Ray(), Elsewhere, "kkkkk"),
        (Deployment(superlink="127.0.0.1:9093"), Elsewhere, "lllll"),
    ],
    ids=["local", "ray", "deployment"],
)
def test_with_privacy_a_slow_client_makes_no_others_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: GridSpec, grid: Any, states: str
) -> None:
    """One thread: the others wait for the first. Elsewhere it is theirs not to, and there is a
    deadline."""
    slow = threading.Event()
    right = Fleet.learn

    def learn(self: Fleet, lesson: Lesson, state: Any) -> Learnt:
        if lesson.client == 0:
            slow.wait(2.5)
        return right(self, lesson, state)

    monkeypatch.setattr(Fleet, "learn", learn)
    privacy = ClientPrivacy(noise_multiplier=1.0, delta=0.01)
    spec = changed(QUICK, rounds=1, privacy=privacy, timeout=2.0, grid=where)
    try:
        federation, _ = played(tmp_path, spec, grid)
    finally:
        slow.set()
    assert federation.conductor.round.timeline(spec.clients) == states


# --- the end --------------------------------------------------------------------------------------


def test_a_cancel_does_not_wait_for_a_client_in_the_middle_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = threading.Event()

    def learn(self: Fleet, lesson: Lesson, state: Any) -> Learnt:
        step.wait(PATIENCE)
        raise Stopped

    monkeypatch.setattr(Fleet, "learn", learn)
    others = set(threading.enumerate())
    steps = run_federate(QUICK, new_bench(tmp_path))
    for event in steps:
        if isinstance(event, Progress) and event.unit == "clients":
            break
    left = set(threading.enumerate()) - others
    assert len(left) == 2
    begun = time.monotonic()
    try:
        with pytest.raises(StopIteration) as end:
            steps.throw(Cancelled())
            while True:
                next(steps)
        assert end.value.value["rounds"] == 0
        assert time.monotonic() - begun < 5.0
    finally:
        step.set()
    for thread in left:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_who_is_left_when_a_grid_ends_gets_no_turn_any_more(counting: Counting) -> None:
    """It would change torch's global generator while somebody else draws from it."""
    grid = LocalGrid(counting.app, 1, {}, 1)
    ends = []

    def wait() -> None:
        try:
            with grid.turns:
                ends.append("had its turn")
        except Stopped:
            ends.append("was stopped")

    grid.push_messages([])  # who asks has the turn
    waiting = threading.Thread(target=wait)
    waiting.start()
    grid.close()
    waiting.join(PATIENCE)
    wait()
    assert ends == ["was stopped"] * 2
