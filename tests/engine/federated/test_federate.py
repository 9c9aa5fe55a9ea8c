"""A federation: the rounds of the papers, whatever the threads; it goes on where it was, and says
who did what."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import perturb
from engine.attacks.spec import PGD
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Saved, Scalars, Table, drain, to_message
from engine.federated import apps
from engine.federated.checking import least
from engine.federated.conducting import Conductor
from engine.federated.federating import run_federate
from engine.federated.federation import Federation
from engine.federated.flower import record, tensors
from engine.federated.learning import Fleet, Learnt, Lesson, exchanged, statistics_of, tensors_of
from engine.federated.local import LocalGrid
from engine.federated.preparing import Prepared, fleet_of, portable, prepared
from engine.federated.spec import (
    Backdoor,
    Capture,
    Dirichlet,
    FedAdam,
    FedAvg,
    FedBN,
    Federate,
    FedProx,
    FreeRider,
    Int8,
    Local,
    MultiKrum,
    Scaffold,
    Scaled,
    SignFlip,
    TopK,
    TrimmedMean,
)
from engine.models import build, channel_statistics, load_model, weights_sha256
from engine.models.spec import CNN, MLP
from engine.random import derive
from engine.robustness.spec import PGDAT
from engine.store import Workspace
from engine.task import parse_task
from engine.training.spec import SGD
from tests.engine.federated.fleet import (
    QUICK,
    SEED,
    SMALL,
    changed,
    cut_short,
    digits,
    new_bench,
    play,
    sha,
)
from tests.engine.federated.test_ray import running, within

# isort: split
from flwr.app import Message, RecordDict


def notes(events: Iterable[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def last(events: Iterable[Event], name: str) -> list[dict[str, Any]]:
    """The rows of the newest table of this name."""
    table = [event for event in events if isinstance(event, Table) and event.name == name][-1]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


# --- the rounds are those of the papers -----------------------------------------------------------


def by_hand(tmp_path: Path, spec: Federate, mu: float = 0.0) -> dict[str, Tensor]:
    """FedAvg as McMahan et al. write it, in float64 where clients are averaged."""
    data = digits(tmp_path)
    mean, std = channel_statistics(data.train)
    made = {"mean": mean, "std": std, "generator_seed": derive(SEED, "model")}
    server = build(spec.model or SMALL, data.shape, 10, **made)
    parts = drain(prepared(spec, new_bench(tmp_path, "parts"))).parts
    for number in range(1, spec.rounds + 1):
        total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in server.named_parameters()}
        for client, part in enumerate(parts):
            model = build(spec.model or SMALL, data.shape, 10, **made).train()
            model.load_state_dict(server.state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=spec.optimizer.lr)
            seed = derive(SEED, "round", number, "client", client)
            for epoch in range(spec.epochs):
                draw = torch.Generator().manual_seed(derive(seed, "order", epoch))
                for places in torch.randperm(len(part), generator=draw).split(spec.batch_size):
                    images, labels = data.train.batch(part[places])
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(images), labels)
                    pairs = zip(model.parameters(), server.parameters(), strict=True)
                    away = sum((p - s.detach()).square().sum() for p, s in pairs)
                    (loss + mu / 2 * away).backward()
                    optimizer.step()
            for name, parameter in model.named_parameters():
                total[name] += parameter.detach().double() * len(part)
        count = sum(map(len, parts))
        with torch.no_grad():
            for name, parameter in server.named_parameters():
                parameter.copy_(total[name] / count)
    return {name: parameter.detach() for name, parameter in server.named_parameters()}


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_the_rounds_are_those_of_the_paper(tmp_path: Path, mu: float) -> None:
    strategy = FedProx(mu=mu) if mu else FedAvg()
    spec = changed(
        QUICK, strategy=strategy, partition=Dirichlet(alpha=0.5), epochs=2, rounds=2, batch_size=16
    )
    play(tmp_path, spec)
    found = dict(load_model("a", new_bench(tmp_path, "b")).module.named_parameters())
    for name, expected in by_hand(tmp_path, spec, mu).items():
        assert (found[name] - expected).abs().max() < 2e-6, name


def test_scaffold_moves_as_its_paper_says(tmp_path: Path) -> None:
    """Algorithm 1, option II, written out: clients' and server's control variates, two rounds of
    some of the clients each."""
    spec = changed(
        QUICK, strategy=Scaffold(server_lr=0.8), rounds=3, fraction=0.6, batch_size=32, epochs=2
    )
    play(tmp_path, spec)
    found = dict(load_model("a", new_bench(tmp_path, "b")).module.named_parameters())
    data = digits(tmp_path)
    made = drain(prepared(spec, new_bench(tmp_path, "parts")))
    server, lr = made.model, spec.optimizer.lr
    conductor = Conductor(spec, SEED, dict(server.named_parameters()), frozenset())
    c = [torch.zeros_like(p) for p in server.parameters()]
    own = [[torch.zeros_like(p) for p in c] for _ in range(5)]
    for number in (1, 2, 3):
        moved, shifted = [], []
        picked = conductor.picked(number)
        assert len(picked) == 3
        for client in picked:
            x = [p.detach().clone() for p in server.parameters()]
            y = [p.clone().requires_grad_() for p in x]
            part, steps = made.parts[client], 0
            seed = derive(SEED, "round", number, "client", client)
            for epoch in range(2):
                draw = torch.Generator().manual_seed(derive(seed, "order", epoch))
                for places in torch.randperm(len(part), generator=draw).split(32):
                    images, labels = data.train.batch(part[places])
                    named = {n: v for (n, _), v in zip(server.named_parameters(), y, strict=True)}
                    loss = F.cross_entropy(
                        torch.func.functional_call(server, named, (images,)), labels
                    )
                    gradients = torch.autograd.grad(loss, y)
                    with torch.no_grad():
                        for i, g in enumerate(gradients):
                            y[i] -= lr * (g - own[client][i] + c[i])
                    steps += 1
            new = [
                ci - cs + (a - b.detach()) / (steps * lr)
                for ci, cs, a, b in zip(own[client], c, x, y, strict=True)
            ]
            moved.append([b.detach() - a for a, b in zip(x, y, strict=True)])
            shifted.append([n - o for n, o in zip(new, own[client], strict=True)])
            own[client] = new
        with torch.no_grad():
            for i, p in enumerate(server.parameters()):
                p += 0.8 * torch.stack([m[i] for m in moved]).mean(0)
                c[i] = c[i] + 3 / 5 * torch.stack([s[i] for s in shifted]).mean(0)
    for name, expected in server.named_parameters():
        assert (found[name] - expected).abs().max() < 2e-5, name


def test_it_learns_digits_and_says_how(tmp_path: Path) -> None:
    spec = Federate(seed=SEED, rounds=4, model=CNN(width=8, norm="group"))
    events, summary = play(tmp_path, spec)
    assert summary["accuracy"] == summary["clean_accuracy"] > 0.85
    assert summary["rounds"] == 4
    sent = 4 * summary["parameters"] * 10 * 4
    assert summary["bytes_up"] == summary["bytes_down"] == sent
    partition = last(events, "partition")
    assert sum(sum(v for k, v in row.items() if k != "client") for row in partition) == 1295
    clients = last(events, "clients")
    assert [row["client"] for row in clients] == list(range(10))
    assert {row["state"] for row in clients} == {"kept"}
    rounds = last(events, "rounds")
    assert [row["round"] for row in rounds] == [1, 2, 3, 4]
    assert rounds[-1]["states"] == "k" * 10
    assert rounds[-1]["accuracy"] == summary["accuracy"]
    scalars = {e.step: e.values for e in events if isinstance(e, Scalars)}
    assert scalars[4]["global/accuracy"] == summary["accuracy"]
    courses = [scalars[number]["global/accuracy"] for number in range(1, 5)]
    assert summary["best_accuracy"] == max(courses)
    assert summary["best_round"] == 1 + courses.index(max(courses))
    assert scalars[4]["client/3/norm"] == clients[3]["norm"]
    loaded = load_model("a", new_bench(tmp_path, "b"))
    assert weights_sha256(loaded.module.state_dict()) == summary["weights_sha256"]
    assert loaded.card.training["kind"] == "federate"
    assert loaded.card.learnt


def test_it_says_who_is_at_work_and_who_is_hostile(tmp_path: Path) -> None:
    hostile = (SignFlip(count=2), FreeRider(clients=(1,)))
    spec = Federate(seed=SEED, rounds=2, fraction=0.4, hostile=hostile, model=CNN(width=4))
    events, _ = play(tmp_path, spec)
    rows = last(events, "hostile")
    assert sorted(row["kind"] for row in rows) == ["free_rider", "sign_flip", "sign_flip"]
    assert {"client": 1, "kind": "free_rider"} in rows
    tables = [e for e in events if isinstance(e, Table) and e.name in ("picked", "clients")]
    assert [table.name for table in tables] == ["picked", "clients"] * 2
    for number, (picked, clients) in enumerate(zip(tables[::2], tables[1::2], strict=True), 1):
        assert [row[0] for row in picked.rows] == [number] * 4
        assert [row[1] for row in picked.rows] == [row[0] for row in clients.rows]


# --- nothing depends on the threads ---------------------------------------------------------------

VARIED = {
    "plain": QUICK,
    "dropout": changed(QUICK, model=CNN(width=4, norm="group", dropout=0.3)),
    "batch norm": changed(QUICK, model=CNN(width=4), optimizer=SGD(lr=0.05, momentum=0.5)),
    "scaffold": changed(QUICK, strategy=Scaffold(), fraction=0.7, rounds=3),
    "fedbn": changed(QUICK, model=CNN(width=4), strategy=FedBN()),
    "fedadam": changed(QUICK, strategy=FedAdam(), drop_out=0.2, stragglers=0.5, rounds=3),
    "topk": changed(QUICK, compression=TopK(share=0.1), rounds=3),
    "int8": changed(QUICK, compression=Int8(), hostile=(Scaled(clients=(1,)),)),
    "attacked": changed(
        QUICK, rounds=1, batch_size=128,
        adversarial=PGDAT(attack=PGD(eps=0.1, steps=2, step_size=0.05)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIED)
def test_the_number_of_threads_does_not_matter(tmp_path: Path, name: str) -> None:
    spec = VARIED[name]
    one, two, three = (
        sha(tmp_path, changed(spec, grid=Local(threads=n)), str(n)) for n in (1, 2, 3)
    )
    assert one == two == three


def test_nothing_of_the_process_is_changed_at_any_yield(tmp_path: Path) -> None:
    """A model that drops out draws from torch's global generator, in threads."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    threads = torch.get_num_threads()
    steps = run_federate(VARIED["dropout"], new_bench(tmp_path))
    for _ in steps:
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == threads


class Wire(LocalGrid):
    """Messages go through Flower's own bytes, as between machines."""

    live = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return super().push_messages([_through_bytes(message) for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [_through_bytes(message) for message in super().pull_messages(message_ids)]


def _through_bytes(message: Message) -> Message:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    if message.has_error():
        return message
    content: RecordDict = message.content
    objects = {name: found.deflate() for name, found in get_all_nested_objects(content).items()}
    found: Any = inflate_object_from_contents(content.object_id, objects)
    message.content = found
    return message


@pytest.mark.parametrize("name", ["plain", "scaffold", "fedbn", "topk"])
def test_messages_may_be_bytes(tmp_path: Path, name: str) -> None:
    """The apps as another process runs them: the task from the run's configuration, every message
    through Flower's serialisation. The weights are the same, bit for bit."""
    spec = VARIED[name]
    here = sha(tmp_path, spec, "here")
    bench = new_bench(tmp_path, "there")
    made = drain(prepared(spec, bench))
    federation = Federation(spec, bench, made)
    task = json.dumps({"spec": spec.to_dict()})
    grid = Wire(apps.client, spec.clients, {apps.TASK: task}, 2)
    try:
        drain(federation.play(grid))
    finally:
        grid.close()
    assert weights_sha256(made.model.state_dict()) == here


def test_flowers_own_loop_plays_the_same_rounds(tmp_path: Path) -> None:
    """`Strategy.start` of Flower, with our strategy, on our grid."""
    spec = VARIED["scaffold"]
    here = sha(tmp_path, spec, "here")
    bench = new_bench(tmp_path, "there")
    made = drain(prepared(spec, bench))
    fleet = fleet_of(spec, bench, made)
    apps.share("test", fleet)
    grid = LocalGrid(apps.client, spec.clients, {apps.FLEET: "test"}, 2)
    own = tensors_of(made.model)
    like = {name: own[name] for name in exchanged(made.model, spec)}
    conductor = Conductor(spec, SEED, like, frozenset(statistics_of(made.model)))
    try:
        result = conductor.start(grid, record(like, live=True), num_rounds=spec.rounds)
    finally:
        grid.close()
        apps.forget("test")
    with torch.no_grad():
        for name, tensor in tensors(result.arrays).items():
            own[name].copy_(tensor)
    assert weights_sha256(made.model.state_dict()) == here


# --- stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "dropout", "scaffold", "fedbn", "fedadam", "topk"])
def test_it_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    spec = changed(VARIED[name], rounds=4)
    whole, expected = play(tmp_path, spec, "whole")
    bench = new_bench(tmp_path, "cut")
    steps = run_federate(spec, bench)
    for event in steps:
        if isinstance(event, Scalars) and event.step == 2:
            break
    next(steps)
    with pytest.raises(StopIteration) as end:
        while True:
            steps.throw(Cancelled())
    assert end.value.value["rounds"] in (1, 2)
    again = new_bench(tmp_path, "cut")
    checkpoint = again.checkpoints.latest()
    assert checkpoint is not None
    again.restore(checkpoint)
    events, found = [], None
    steps = run_federate(spec, again)
    while found is None:
        try:
            events.append(next(steps))
        except StopIteration as end_:
            found = end_.value
    assert found == expected
    assert [row["states"] for row in last(events, "rounds")] == [
        row["states"] for row in last(whole, "rounds")
    ]


def after_the_last_round(event: Event) -> bool:
    return isinstance(event, Progress) and event.unit == "rounds" and event.done == event.total


def test_resumed_after_the_last_round_it_tells_the_same(tmp_path: Path) -> None:
    spec = changed(QUICK, rounds=1, hostile=(Backdoor(clients=(1,), target=0),))
    _, whole = play(tmp_path, spec, "whole")
    assert "attack_success_rate" in whole
    assert drain(run_federate(spec, cut_short(tmp_path, spec, after_the_last_round))) == whole


def test_resumed_after_the_last_round_it_says_why_the_last_was_skipped(tmp_path: Path) -> None:
    spec = changed(QUICK, clients=2, drop_out=0.999999, rounds=1)
    again = cut_short(tmp_path, spec, after_the_last_round)
    with pytest.raises(CrucibleError, match="skipped, as no client sent an update that could be"):
        drain(run_federate(spec, again))


def test_a_cancel_keeps_the_last_global_model_and_ends_the_clients(tmp_path: Path) -> None:
    spec = changed(QUICK, rounds=50, epochs=50)
    others = set(threading.enumerate())  # among them late clients of runs that are over

    def clients() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "client"]

    steps = run_federate(spec, new_bench(tmp_path))
    after = 0
    for event in steps:
        after += isinstance(event, Scalars) or bool(after)
        if after > 6:
            break
    assert set(clients()) - others
    with pytest.raises(StopIteration) as end:
        steps.throw(Cancelled())
        while True:
            next(steps)
    summary = end.value.value
    assert summary["rounds"] == 1
    assert within(15.0, lambda: not set(clients()) - others)
    one = sha(tmp_path, changed(spec, rounds=1), "one")
    assert summary["weights_sha256"] == one


def test_a_resume_with_other_data_is_refused(tmp_path: Path) -> None:
    bench = new_bench(tmp_path)
    steps = run_federate(QUICK, bench)
    while not isinstance(next(steps), Scalars):
        pass
    with pytest.raises(StopIteration):
        while True:
            steps.throw(Cancelled())
    again = new_bench(tmp_path)
    checkpoint = again.checkpoints.latest()
    assert checkpoint is not None
    again.restore(checkpoint)
    with pytest.raises(BadInput, match="data has changed"):
        drain(run_federate(changed(QUICK, data=Digits(split_seed=5)), again))


# --- clients that fail ----------------------------------------------------------------------------


def with_client(monkeypatch: pytest.MonkeyPatch, number: int, change: Any) -> None:
    """Have one client's training go through `change`."""
    right = Fleet.learn

    def learn(self: Fleet, lesson: Lesson, state: Any) -> Learnt:
        if lesson.client == number:
            return change(lambda: right(self, lesson, state))
        return right(self, lesson, state)

    monkeypatch.setattr(Fleet, "learn", learn)


def _nan(train: Any) -> Learnt:
    learnt = train()
    next(iter(learnt.update.values())).view(-1)[0] = math.nan
    return learnt


def _reshaped(train: Any) -> Learnt:
    learnt = train()
    name = next(iter(learnt.update))
    learnt.update[name] = learnt.update[name].flatten()
    return learnt


def _cut(train: Any) -> Learnt:
    learnt = train()
    learnt.update.popitem()
    return learnt


def _boasting(train: Any) -> Learnt:
    learnt = train()
    learnt.examples *= 1000
    return learnt


def _raising(train: Any) -> Learnt:
    raise ValueError("the disk is full")


def _leaving(train: Any) -> Learnt:
    sys.exit("no time for this")


@pytest.mark.parametrize(
    ("change", "state", "why"),
    [
        (_nan, "rejected", "is not finite"),
        (_reshaped, "rejected", "has the shape"),
        (_cut, "rejected", "is missing"),
        (_boasting, "rejected", "it says that it has 259000 images, and its part has 259"),
        (_raising, "failed", "the disk is full"),
        (_leaving, "failed", "no time for this"),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_what_is_no_update_is_rejected_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, state: str, why: str, live: bool
) -> None:
    if not live:
        monkeypatch.setattr("engine.federated.local.LocalGrid", Wire)
    with_client(monkeypatch, 2, change)
    events, summary = play(tmp_path, QUICK)
    assert summary["rejected"] == 2
    assert any("client 2" in text and why in text for text in notes(events))
    rows = {row["client"]: row for row in last(events, "clients")}
    assert rows[2]["state"] == state
    assert why in rows[2]["reason"]
    assert last(events, "rounds")[-1]["states"] == f"kk{state[0]}kk"
    # The others' rounds are as if the client had not been asked.
    right = Conductor.picked
    monkeypatch.setattr(
        Conductor, "picked", lambda self, number: [c for c in right(self, number) if c != 2]
    )
    assert sha(tmp_path, QUICK, "without") == summary["weights_sha256"]


def test_a_client_that_never_answers_is_late_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()

    def silent(train: Any) -> Learnt:
        forever.wait(60)
        return train()

    with_client(monkeypatch, 1, silent)
    try:
        events, summary = play(tmp_path, changed(QUICK, timeout=4.0))
    finally:
        forever.set()
    assert summary["dropped"] == summary["rounds"] == 2
    assert any("client 1 did not answer in time" in text for text in notes(events))
    assert last(events, "rounds")[-1]["states"] == "klkkk"


def test_all_dropped_skips_the_round_and_keeps_the_model(tmp_path: Path) -> None:
    spec = changed(QUICK, clients=2, drop_out=0.5, rounds=6)
    events, summary = play(tmp_path, spec)
    rows = last(events, "rounds")
    skipped = [row for row in rows if row["skipped"]]
    assert 0 < len(skipped) < 6
    assert summary["skipped"] == len(skipped)
    for row in skipped:
        assert set(row["states"]) <= {"d", "."}
        before = rows[row["round"] - 2]["accuracy"] if row["round"] > 1 else row["accuracy"]
        assert row["accuracy"] == before
    assert any("is skipped, and the model kept" in text for text in notes(events))


def test_all_rounds_skipped_is_a_failure(tmp_path: Path) -> None:
    spec = changed(QUICK, clients=2, drop_out=0.999999, rounds=2)
    with pytest.raises(CrucibleError, match="nothing came of any"):
        play(tmp_path, spec)


# --- the rest -------------------------------------------------------------------------------------


def test_fedbn_leaves_batch_norm_where_it_is(tmp_path: Path) -> None:
    spec = VARIED["fedbn"]
    bench = new_bench(tmp_path)
    made = drain(prepared(spec, bench))
    names = exchanged(made.model, spec)
    layers = [m for m in made.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers
    assert len(names) == len(list(made.model.parameters())) - 2 * len(layers)
    events, summary = play(tmp_path, spec)
    assert 0 < summary["client_accuracy"] <= 1
    after = load_model("a", new_bench(tmp_path, "b")).module
    for module in after.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))


def test_compression_sends_what_is_counted(tmp_path: Path) -> None:
    _, whole = play(tmp_path, QUICK, "whole")
    _, top = play(tmp_path, changed(QUICK, compression=TopK(share=0.05)), "top")
    _, small = play(tmp_path, changed(QUICK, compression=Int8()), "small")
    count = whole["parameters"]
    assert whole["bytes_up"] == 2 * 5 * 4 * count
    assert top["bytes_up"] == 2 * 5 * 8 * math.ceil(0.05 * count)
    tensors_ = sum(1 for _ in build(SMALL, (1, 8, 8), 10).parameters())
    assert small["bytes_up"] == 2 * 5 * (count + 4 * tensors_)
    assert top["bytes_down"] == small["bytes_down"] == whole["bytes_down"]


def test_hostile_clients_hurt_the_mean_and_not_multikrum(tmp_path: Path) -> None:
    spec = Federate(
        seed=SEED, clients=10, rounds=6, model=CNN(width=8, norm="group"),
        optimizer=SGD(lr=0.1, momentum=0.0),
    )  # fmt: skip
    hostile = (Scaled(clients=(2, 7), factor=-5.0),)
    _, clean = play(tmp_path, spec, "clean")
    _, hurt = play(tmp_path, changed(spec, hostile=hostile), "hurt")
    events, saved = play(
        tmp_path, changed(spec, hostile=hostile, strategy=MultiKrum(hostile=2)), "saved"
    )
    assert hurt["accuracy"] < 0.5 < clean["accuracy"] - 0.2
    assert hurt["best_accuracy"] > hurt["accuracy"]
    assert hurt["best_round"] < hurt["rounds"]
    assert saved["accuracy"] > clean["accuracy"] - 0.1
    rows = {row["client"]: row for row in last(events, "clients")}
    assert rows[2]["state"] == rows[7]["state"] == "set aside"
    assert rows[2]["hostile"] == "scaled"
    assert rows[2]["cosine"] < 0 or rows[2]["norm"] > 3 * rows[0]["norm"]
    honest = [row for number, row in rows.items() if number not in (2, 7)]
    middle = sum(row["x"] for row in honest) / len(honest)
    spread = max(abs(row["x"] - middle) for row in honest)
    assert all(abs(rows[number]["x"] - middle) > 3 * spread for number in (2, 7))


def test_a_backdoor_is_measured(tmp_path: Path) -> None:
    spec = Federate(seed=SEED, rounds=4, clients=5, model=CNN(width=8, norm="group"))
    trigger = Backdoor(clients=(0, 1), target=3, share=0.5, boost=2.0)
    _, summary = play(tmp_path, changed(spec, hostile=(trigger,)))
    assert summary["attack_success_rate"] > 0.8
    assert summary["accuracy"] > 0.7


def test_a_captured_update_is_what_the_client_sent(tmp_path: Path) -> None:
    spec = changed(QUICK, rounds=1, clients=1, capture=Capture(rounds=(1,), clients=(0,)))
    events, _ = play(tmp_path, spec)
    saved = next(e for e in events if isinstance(e, Saved) and "update" in e.name)
    path = tmp_path / "runs" / "a" / saved.path
    after = load_model("a", new_bench(tmp_path, "b")).module.state_dict()
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["epochs"] == "1"
        for name in after:
            before = file.get_tensor(f"before.{name}")
            if f"update.{name}" in file.keys():  # noqa: SIM118
                before = before + file.get_tensor(f"update.{name}")
            assert torch.allclose(after[name], before, atol=1e-6), name
        assert len(file.get_tensor("places")) == 1295


def test_stragglers_do_less_and_are_counted(tmp_path: Path) -> None:
    events, _ = play(tmp_path, changed(QUICK, stragglers=0.5, clients=8, rounds=1))
    shares = [row["share"] for row in last(events, "clients")]
    assert any(share < 1 for share in shares)
    assert any(share == 1 for share in shares)


def test_poisson_sampling_takes_each_client_by_its_own_coin(tmp_path: Path) -> None:
    spec = changed(QUICK, clients=200, fraction=0.3, sampling="poisson")
    conductor = Conductor(spec, SEED, {}, frozenset())
    sizes = [len(conductor.picked(number)) for number in range(1, 101)]
    mean = sum(sizes) / len(sizes)
    spread = (sum((s - mean) ** 2 for s in sizes) / 99) ** 0.5
    assert abs(mean - 60) < 3
    assert 4 < spread < 9  # sqrt(200 * .3 * .7) is 6.5
    fixed = Conductor(changed(spec, sampling="fixed"), SEED, {}, frozenset())
    assert {len(fixed.picked(number)) for number in range(1, 20)} == {60}
    assert fixed.picked(1) != fixed.picked(2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"clients": 2000}, "2000 clients and only 1295 training images"),
        ({"strategy": {"kind": "krum", "hostile": 4}}, "at least 11 in a round; here there are 10"),
        ({"strategy": {"kind": "bulyan", "hostile": 2}}, "at least 11 in a round"),
        ({"strategy": {"kind": "multikrum", "hostile": 2, "keep": 9}}, "may keep 6 of 10"),
        ({"strategy": {"kind": "scaffold"}, "optimizer": {"kind": "adamw"}}, "plain steps"),
        ({"strategy": {"kind": "fedbn"}, "model": {"kind": "mlp"}}, "this model has none"),
        ({"hostile": [{"kind": "backdoor", "patch": 8}]}, "expected at most 7"),
        ({"hostile": [{"kind": "label_flip", "target": 10}]}, "there is no class 10"),
        ({"partition": {"kind": "natural"}}, "does not say who its images are from"),
        ({"drop_out": 1.0}, "leaves no client"),
        ({"strategy": {"kind": "trimmed_mean", "beta": 0.05}}, "cuts nothing off 10 updates"),
        ({"capture": {"rounds": [11]}}, "there is no round 11; expected 1 to 10"),
        ({"bench": {"compile": True}}, "not for a federation"),
        ({"privacy": {}, "strategy": {"kind": "krum"}}, "noisy means"),
        ({"privacy": {}}, "batch normalisation's running statistics"),
        ({"model": {"kind": "mlp", "projection": 10}}, "which a federation does not compute"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    spec = parse_task({"kind": "federate", **values})
    with pytest.raises(BadInput, match=words):
        drain(spec.run(new_bench(tmp_path)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hostile": [{"kind": "scaled", "clients": [10]}]}, "there is no client 10"),
        (
            {"hostile": [{"kind": "scaled", "clients": [1, 2]}, {"kind": "scaled", "count": 9}]},
            "hostile.1 wants 9 clients, and 8 of 10 are left",
        ),
        ({"capture": {"clients": [-1]}}, "there is no client -1"),
        ({"privacy": {}, "sampling": "fixed"}, "Poisson sampling only"),
    ],
)
def test_what_makes_no_sense_does_not_validate(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_task({"kind": "federate", **values})


def test_the_time_of_answers_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first client answers last."""
    straight = sha(tmp_path, QUICK, "straight")

    def slow(train: Any) -> Learnt:
        time.sleep(0.05)
        return train()

    with_client(monkeypatch, 0, slow)
    assert sha(tmp_path, QUICK, "slow") == straight


def test_it_can_start_from_a_run_here_and_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its architecture, data and normalisation are those of the run, whose name means nothing to a
    process elsewhere."""
    other = changed(QUICK, data=Digits(split_seed=1), rounds=1)
    _, first = play(tmp_path, other, "first")
    file = str(tmp_path / "runs" / "first" / "model.safetensors")
    spec = changed(QUICK, init=file, model=None, data=None, rounds=1)
    _, second = play(tmp_path, spec, "second")
    assert second["parameters"] == first["parameters"]
    assert second["accuracy"] > first["accuracy"]
    bench = new_bench(tmp_path, "there")
    made = drain(prepared(spec, bench))
    assert made.data_spec == Digits(split_seed=1)
    with torch.no_grad():
        made.model.get_submodule("normalise").mean += 0.1  # type: ignore[operator]
    here, there = (Federation(spec, new_bench(tmp_path, n), copied(made)) for n in ("h", "t"))
    fleet = fleet_of(spec, bench, here.made)
    apps.share("here", fleet)
    task = json.dumps({"spec": portable(spec, made).to_dict()})
    grids = [
        LocalGrid(apps.client, spec.clients, {apps.FLEET: "here"}, 2),
        Wire(apps.client, spec.clients, {apps.TASK: task}, 2),
    ]
    for federation, grid in zip((here, there), grids, strict=True):
        drain(federation.play(grid))
        grid.close()
    apps.forget("here")
    one, two = (weights_sha256(f.made.model.state_dict()) for f in (here, there))
    assert one == two


def copied(made: Prepared) -> Prepared:
    return dataclasses.replace(made, model=copy.deepcopy(made.model))


def test_the_learning_rate_can_be_changed_while_it_runs(tmp_path: Path) -> None:
    bench = new_bench(tmp_path)
    steps = run_federate(changed(QUICK, rounds=3), bench)
    said = []
    for event in steps:
        if isinstance(event, Scalars):
            said.append(event.values["round/lr"])
            if event.step == 1:
                bench.change("lr", 0.125)
    assert said == [0.5, 0.125, 0.125]
    again = play(tmp_path, changed(QUICK, lr_decay=0.5, rounds=3), "b")[0]
    assert [e.values["round/lr"] for e in again if isinstance(e, Scalars)] == [0.5, 0.25, 0.125]


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of a round; `engine resume` ends with the same weights, and what is
    attacked is its model."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
        [[task]]
        name = "fed"
        kind = "federate"
        seed = 5
        model = {kind = "mlp", width = 32, dropout = 0.2}
        clients = 6
        rounds = 40
        epochs = 3
        strategy = {kind = "fedadam"}
        compression = {kind = "topk", share = 0.2}
        """
    )
    command = [sys.executable, "-m", "engine", "run", str(recipe), "--json", "--workspace"]
    whole = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, check=True)
    assert whole.returncode == 0
    killed = subprocess.Popen([*command, str(tmp_path / "cut")], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    checkpoints = tmp_path / "cut" / "runs"
    for line in killed.stdout:
        if '"scalars"' in line and list(checkpoints.glob("*/checkpoints/*.safetensors")):
            break
    killed.kill()
    killed.wait()
    killed.stdout.close()
    workspace = Workspace(tmp_path / "cut")
    done = subprocess.run(
        [sys.executable, "-m", "engine", "resume", "fed", "--workspace", str(tmp_path / "cut")],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = workspace.find("fed").info().summary
    assert found == Workspace(tmp_path / "whole").find("fed").info().summary


def test_a_model_that_was_blown_up_is_told_of_in_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One enormous update, and nothing is finite any more; what is said is JSON all the same."""

    def enormous(train: Any) -> Learnt:
        learnt = train()
        learnt.update = {n: torch.full_like(t, 3e38) for n, t in learnt.update.items()}
        return learnt

    with_client(monkeypatch, 0, enormous)
    events, summary = play(tmp_path, changed(QUICK, rounds=3))
    for event in events:
        json.dumps(to_message(event)[0], allow_nan=False)
    json.dumps(summary, allow_nan=False)
    assert summary["rounds"] == 3
    assert summary["rejected"] > 0
    assert "test_loss" not in summary
    assert sum("answers are not finite after round 1" in text for text in notes(events)) == 1
    assert sum("the updates of clients 1, 2, 3, 4" in text for text in notes(events)) == 2


def test_a_trimmed_mean_that_would_cut_nothing_skips_the_round(tmp_path: Path) -> None:
    """A fifth of four updates is none: it would be FedAvg, and one enormous update all of it."""
    spec = changed(
        QUICK, rounds=8, drop_out=0.3, strategy=TrimmedMean(beta=0.2),
        hostile=(Scaled(clients=(0,), factor=-1000.0),),
    )  # fmt: skip
    events, summary = play(tmp_path, spec)
    rows = last(events, "rounds")
    assert {row["states"].count("k") for row in rows} > {5}
    for row in rows:
        few = row["states"].count("k") < 5
        assert row["skipped"] == (
            f"trimmed_mean needs 5 updates, and there were {row['states'].count('k')}"
            if few
            else ""
        )
    assert summary["skipped"] == sum("d" in row["states"] for row in rows)
    clean = play(tmp_path, changed(spec, hostile=()), "clean")[1]
    assert summary["accuracy"] > clean["accuracy"] - 0.2


@pytest.mark.parametrize("beta", [0.01, 0.05, 0.07, 0.1, 0.15, 0.2, 0.29, 0.3, 1 / 3, 0.4, 0.49])
def test_a_trimmed_mean_knows_how_many_it_needs(beta: float) -> None:
    """As many as Flower's needs to cut one at each end."""
    from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

    need = least(changed(QUICK, strategy=TrimmedMean(beta=beta)))
    for count in range(1, 120):
        values = np.zeros(count)
        values[0] = 1.0
        assert (trim_mean(values, beta) == 0.0) == (count >= need)


def test_clients_train_against_what_attacks_them(tmp_path: Path) -> None:
    """The model that comes of it holds against an attack that a plain one does not."""
    attack = PGD(eps=0.15, steps=5, step_size=0.05)
    plain = changed(
        QUICK, rounds=5, epochs=6, batch_size=64, model=MLP(width=128, depth=1),
        optimizer=SGD(lr=0.3, momentum=0.0),
    )  # fmt: skip
    hardened = changed(plain, adversarial=PGDAT(attack=attack))
    data = digits(tmp_path).test
    _, images, labels = next(iter(data.batches(torch.arange(len(data)), len(data))))

    def robust(spec: Federate, name: str) -> tuple[float, float]:
        """Accuracy on the test images, and on what the attack makes of them."""
        play(tmp_path, spec, name)
        model = load_model(name, new_bench(tmp_path, f"{name}-look")).module.eval()
        found = drain(perturb(model, images, labels, attack, seed=1, ids=data.ids))
        return tuple(
            float((model(x).argmax(1) == labels).float().mean())
            for x in (images, found.adversarial)
        )  # type: ignore[return-value]

    (clean, broken), (still, held) = robust(plain, "plain"), robust(hardened, "hardened")
    assert clean > 0.9
    assert still > 0.85
    assert held > broken + 0.15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_cancel_ends_all_that_the_run_had_begun(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a round of clients that would train for hours: the engine answers,
    hands over what it has, and is gone with all that it has started."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
        [[task]]
        name = "fed"
        kind = "federate"
        seed = 5
        model = {kind = "mlp", width = 32}
        clients = 4
        rounds = 3
        epochs = 10000
        timeout = 100000.0
        """
    )
    mark = f"CRUCIBLE_MARK={tmp_path.name}"
    name, _, value = mark.partition("=")
    command = [sys.executable, "-m", "engine", "run", str(recipe), "--json", "--workspace"]
    engine = subprocess.Popen(
        [*command, str(tmp_path / "w")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, name: value},
    )
    assert engine.stdout is not None
    for line in engine.stdout:
        if '"unit": "clients"' in line:
            break
    assert running(mark)
    engine.send_signal(signal.SIGINT)
    assert within(15.0, lambda: running(mark) == [])
    said = engine.stdout.read()
    engine.stdout.close()
    assert engine.wait() == 130
    assert '"event": "stopped"' in said
    assert Workspace(tmp_path / "w").find("fed").info().status == "cancelled"
