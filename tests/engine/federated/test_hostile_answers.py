"""Answers that make no sense, whatever they do to who decodes them: the client is rejected in
words, and the round goes on without it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import CrucibleError
from engine.events import Event, Note, Table
from engine.federated import secure
from engine.federated.conducting import Conductor
from engine.federated.flower import addressed
from engine.federated.learning import Fleet, Learnt, Lesson
from engine.federated.local import LocalGrid
from engine.federated.masking import TOTALS
from engine.federated.secure import MASKED, SECURE
from engine.federated.spec import ClientPrivacy, Federate, Scaffold, SecureAggregation
from tests.engine.federated.fleet import QUICK, changed, play, sha

# isort: split
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

Change = Callable[[Message], Any]
"""What is done to an answer. It may give another one."""


def tampered(monkeypatch: pytest.MonkeyPatch, kind: str, changes: Mapping[int, Change]) -> None:
    """Have the answers of some clients to messages of a kind be others than they are."""
    right = LocalGrid._answer

    def answer(self: LocalGrid, message: Message) -> tuple[Message, Context]:
        found, kept = right(self, message)
        change = changes.get(message.metadata.dst_node_id - 1)
        if change is None or message.metadata.message_type != kind:
            return found, kept
        other = change(found)
        return (other if isinstance(other, Message) else found), kept

    monkeypatch.setattr(LocalGrid, "_answer", answer)


def rows(events: list[Event]) -> dict[int, tuple[str, str]]:
    """State and reason of each client in the last round."""
    table = [event for event in events if isinstance(event, Table) and event.name == "clients"][-1]
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {row["client"]: (row["state"], row["reason"]) for row in found}


def without(monkeypatch: pytest.MonkeyPatch, *clients: int) -> None:
    """Have some clients never be picked."""
    right = Conductor.picked
    monkeypatch.setattr(
        Conductor,
        "picked",
        lambda self, number: [each for each in right(self, number) if each not in clients],
    )


# --- updates --------------------------------------------------------------------------------------


def _bytes(data: bytes, shape: tuple[int, ...] = (1,)) -> Change:
    """A first tensor whose numbers are these bytes."""

    def change(answer: Message) -> None:
        arrays = answer.content.array_records["arrays"]
        arrays[next(iter(arrays))] = Array("float32", shape, "numpy.ndarray", data)

    return change


def _header(count: int) -> bytes:
    """What a file of so many numbers begins with."""
    file = io.BytesIO()
    about: Any = {"descr": "<f4", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def _large(answer: Message) -> None:
    arrays = answer.content.array_records["arrays"]
    name = next(iter(arrays))
    arrays[name] = Array(np.full(arrays[name].shape, 1e300))


def _says(name: str, value: Any) -> Change:
    def change(answer: Message) -> None:
        answer.content.metric_records["metrics"][name] = value

    return change


def failed(answer: Message, code: int, reason: str) -> Message:
    """An error instead of an answer."""
    make: Any = Message
    found: Message = make(error=Error(code, reason), metadata=answer.metadata)
    return found


UPDATES: dict[str, tuple[Change, str, str]] = {
    "infinite images": (_says("num-examples", math.inf), "rejected", "it has inf images, and"),
    "nan images": (_says("num-examples", math.nan), "rejected", "it has nan images"),
    "loss": (_says("loss", 10**400), "rejected", "cannot be read: int too large"),
    "float64": (_large, "rejected", "is not finite"),
    "no bytes": (_bytes(b""), "rejected", "it cannot be read: No data left"),
    "zip": (_bytes(b"PK\x03\x04junkjunk"), "rejected", "it cannot be read: File is not a zip"),
    "header": (_bytes(_header(10**14)), "rejected", "it cannot be read: "),
    "shape": (_bytes(b"", shape=(10**30,)), "rejected", "it cannot be read: No data left"),
    "reason": (lambda answer: failed(answer, 1000, " \n"), "failed", "it did not say why"),
}


def test_an_answer_that_makes_no_sense_is_rejected_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these clients has its own; the model is as without them."""
    spec = changed(QUICK, clients=len(UPDATES) + 2, rounds=1)
    with monkeypatch.context() as patch:
        tampered(patch, "train", {i: change for i, (change, _, _) in enumerate(UPDATES.values())})
        events, summary = play(tmp_path, spec)
    assert summary["rejected"] == len(UPDATES)
    seen = rows(events)
    for client, (_, state, reason) in enumerate(UPDATES.values()):
        assert seen[client][0] == state
        assert reason in seen[client][1]
    told = " ".join(event.text for event in events if isinstance(event, Note))
    assert all(reason in told for _, _, reason in UPDATES.values())
    without(monkeypatch, *range(len(UPDATES)))
    assert sha(tmp_path, spec, "without") == summary["weights_sha256"]


def test_too_large_for_float32_is_rejected_also_where_noise_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(monkeypatch, "train", {2: _large})
    events, summary = play(
        tmp_path, changed(QUICK, rounds=1, privacy=ClientPrivacy(noise_multiplier=1.0, delta=0.01))
    )
    assert summary["rejected"] == 1
    assert "is not finite" in rows(events)[2][1]
    assert not any("not finite after" in e.text for e in events if isinstance(e, Note))


def test_a_control_variate_too_large_for_float32_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(answer: Message) -> None:
        control = answer.content.array_records["control"]
        name = next(iter(control))
        control[name] = Array(np.full(control[name].shape, 1e300))

    tampered(monkeypatch, "train", {2: large})
    events, summary = play(tmp_path, changed(QUICK, strategy=Scaffold(), rounds=1))
    assert summary["rejected"] == 1
    assert "the control variate of" in rows(events)[2][1]


# --- who is there, and how it does ----------------------------------------------------------------


def reply(node: int, content: dict[str, Any]) -> Message:
    about = Metadata(1, "", node, 1, "", "", 0.0, 1.0, "query")
    return addressed(RecordDict(content), about)


def conductor(clients: int) -> Conductor:
    return Conductor(changed(QUICK, clients=clients), 1, {"a": torch.zeros(2)}, frozenset())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"metrics": MetricRecord({"client": math.nan})},
        {"metrics": MetricRecord({"client": math.inf})},
        {"metrics": MetricRecord({"client": -1})},
        {"metrics": MetricRecord({"client": 0.5})},
        {"metrics": ConfigRecord({"client": "0"})},
    ],
    ids=["nothing", "nan", "inf", "below", "between", "text"],
)
def test_who_does_not_say_who_it_is_is_not_there(content: dict[str, Any]) -> None:
    right = [reply(node, {"metrics": MetricRecord({"client": node - 7})}) for node in (7, 8)]
    with pytest.raises(CrucibleError, match="1 of 3 clients are not there: 2"):
        conductor(3).met([*right, reply(9, content)])
    met = conductor(2)
    met.met([reply(9, content), *right])
    assert met.nodes == {0: 7, 1: 8}


def test_models_of_their_own_are_judged_by_answers_that_make_sense() -> None:
    said = [{"accuracy": value} for value in (0.25, math.nan, math.inf, -math.inf, 7.0, 0.75)]
    replies = [reply(node, {"metrics": MetricRecord(each)}) for node, each in enumerate(said, 2)]
    nothing = [reply(0, {}), failed(reply(1, {}), 1000, "it has no images")]
    found = conductor(2).aggregate_evaluate(1, [*nothing, *replies])
    assert found == MetricRecord({"accuracy": 0.5})


# --- under secure aggregation ---------------------------------------------------------------------


SECURED = changed(QUICK, rounds=1, secure_aggregation=SecureAggregation())


def _answers(name: str, value: Any) -> Change:
    """As many of these as there should be."""

    def change(answer: Message) -> None:
        record = answer.content.config_records[SECURE]
        record[name] = [value] * len(record[name])  # type: ignore[arg-type]

    return change


def _empty(answer: Message) -> None:
    answer.content = RecordDict()


@pytest.mark.parametrize(
    ("kind", "change", "state", "reason"),
    [
        ("query.keys", _empty, "rejected", "secure is missing"),
        ("query.shares", _answers("shares", 1), "rejected", "its shares are no bytes"),
        ("query.shares", _answers("shares", "x"), "rejected", "its shares are no bytes"),
        ("train", _empty, "rejected", "masked is missing"),
        # What it sends last says nothing of its update, which is in the sum.
        ("query.unmask", _answers("shares", "x" * 52), "kept", ""),
        ("query.unmask", _answers("clients", math.inf), "kept", ""),
        ("query.unmask", _empty, "kept", ""),
    ],
)
def test_a_sum_goes_on_without_who_makes_no_sense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    change: Change,
    state: str,
    reason: str,
) -> None:
    tampered(monkeypatch, kind, {2: change})
    events, summary = play(tmp_path, SECURED)
    assert "skipped" not in summary
    seen = rows(events)
    assert seen.pop(2) == (state, reason)
    assert set(seen.values()) == {("kept", "")}


def test_masked_numbers_that_cannot_be_read_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(answer: Message) -> None:
        arrays: ArrayRecord = answer.content.array_records[MASKED]
        arrays["words"] = Array("no type", (-1,), "numpy.ndarray", b"PK\x03\x04")

    tampered(monkeypatch, "train", {2: lie})
    events, summary = play(tmp_path, SECURED)
    assert summary["rejected"] == 1
    assert "it cannot be read" in rows(events)[2][1]


def test_the_superlink_may_answer_for_a_node_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error, whose source is no client."""

    def gone(answer: Message) -> Message:
        answer.metadata.__dict__["_src_node_id"] = 999
        return failed(answer, 3, "Node Unavailable")

    tampered(monkeypatch, "query.keys", {2: gone})
    events, summary = play(tmp_path, SECURED)
    assert "skipped" not in summary
    assert rows(events)[2][0] == "late"


def images_of(monkeypatch: pytest.MonkeyPatch, client: int, change: Callable[[int], int]) -> None:
    """Have a client put another number of images into the sum than it has."""
    right = secure.hidden

    def hidden(asked: ConfigRecord, state: RecordDict, update: Any, about: Any) -> ArrayRecord:
        found = right(asked, state, update, about)
        if state.config_records[SECURE]["client"] != client:
            return found
        longs = found["totals"].numpy()
        place, has = TOTALS.index("examples"), int(about["examples"])
        longs[place : place + 1] += np.uint64((change(has) - has) % 2**64)
        return ArrayRecord({"words": found["words"], "totals": Array(longs)})

    monkeypatch.setattr(secure, "hidden", hidden)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (lambda has: has - 1295, "they have 0 images, and their parts have 1295"),
        (lambda has: 10**9, r"they have 100000\d{4} images, and their parts have 1295"),
        (lambda has: has - 1294, "they have 1 images, and their parts have 1295"),
    ],
    ids=["none", "boast", "one"],
)
def test_a_sum_of_images_that_the_parts_do_not_have_skips_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: Callable[[int], int], words: str
) -> None:
    """None would be divided by; few make the step too long, many too short."""
    images_of(monkeypatch, 0, claim)
    with pytest.raises(CrucibleError, match=words):
        play(tmp_path, SECURED)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("private", [False, True])
def test_an_honest_client_hides_nothing_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, private: bool
) -> None:
    """The server could not see it, and would count it as zero, or as the largest number."""
    right = Fleet.learn

    def learn(self: Fleet, lesson: Lesson, state: Any) -> Learnt:
        found = right(self, lesson, state)
        if lesson.client == 2:
            next(iter(found.update.values())).view(-1)[0] = bad
        return found

    monkeypatch.setattr(Fleet, "learn", learn)
    privacy = ClientPrivacy(noise_multiplier=0.5, delta=0.01) if private else None
    spec: Federate = changed(SECURED, privacy=privacy)
    events, summary = play(tmp_path, spec)
    assert "skipped" not in summary
    seen = rows(events)
    assert seen[2][0] == "failed"
    assert "of the update is not finite" in seen[2][1]
    assert [state for state, _ in seen.values()].count("kept") == 4
    if private:
        assert summary["epsilon"] > 0
