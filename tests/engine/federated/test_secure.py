"""Secure aggregation: the sum comes out, and nothing else does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import BadInput, CrucibleError
from engine.events import Note, Scalars, Table
from engine.federated import apps, secure
from engine.federated.local import LocalGrid
from engine.federated.masking import (
    TOTALS,
    Scale,
    Sum,
    clipped,
    counted_totals,
    mask,
    real_totals,
)
from engine.federated.noising import norm_of
from engine.federated.secure import SECURE, SecureSum
from engine.federated.spec import (
    AdaptiveClipping,
    Capture,
    ClientPrivacy,
    Federate,
    FedYogi,
    Int8,
    MultiKrum,
    Scaffold,
    SecureAggregation,
)
from engine.models import load_model
from engine.training.spec import SGD
from tests.engine.federated.fleet import QUICK, changed, new_bench, play, sha

# isort: split
from flwr.app import ConfigRecord, Message, RecordDict

LIKE = {"weight": torch.zeros(7, 5), "bias": torch.zeros(11)}
WORDS = 46
ABOUT = {"examples": 10, "steps": 4, "loss": 0.5, "accuracy": 0.25}


def updates(count: int, size: float = 1.0) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(7)
    return [
        {name: torch.randn(like.shape, generator=draw) * size for name, like in LIKE.items()}
        for _ in range(count)
    ]


class Round:
    """A round by hand: clients with their states, and a server; any of them may go silent."""

    def __init__(
        self, sent: list[dict[str, Tensor]], spec: SecureAggregation | None = None
    ) -> None:
        self.sent = sent
        self.states = [RecordDict() for _ in sent]
        self.server = SecureSum(spec or SecureAggregation(), 5, LIKE, 10)
        self.clients = list(range(len(sent)))
        self.masked: dict[int, RecordDict] = {}

    def keys(self, silent: tuple[int, ...] = ()) -> Round:
        for client, asked in self.server.keys(1, self.clients, None).items():
            if client not in silent:
                self.server.keyed(client, secure.keys(asked, self.states[client]))
        return self

    def shares(self, silent: tuple[int, ...] = ()) -> Round:
        for client, asked in self.server.shares().items():
            if client not in silent:
                self.server.shared(client, secure.shares(asked, self.states[client]))
        return self

    def train(self, silent: tuple[int, ...] = (), examples: int = 10) -> Round:
        about = {**ABOUT, "examples": examples}
        for client, asked in self.server.train().items():
            if client not in silent:
                found = secure.hidden(asked, self.states[client], self.sent[client], about)
                self.masked[client] = RecordDict({secure.MASKED: found})
                self.server.masked(client, self.masked[client])
        return self

    def unmask(self, silent: tuple[int, ...] = ()) -> Round:
        for client, asked in self.server.unmask().items():
            if client not in silent:
                self.server.unmasked(client, secure.unmask(asked, self.states[client]))
        return self


def plain(sent: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([u[name].double() for u in sent]).sum(0) for name in LIKE}


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in other)


# --- the sum is right -----------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [0, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_sum_is_the_plain_one_to_half_a_step_a_client(count: int, neighbours: int) -> None:
    sent = updates(count)
    there = Round(sent, SecureAggregation(neighbours=neighbours))
    total, about = there.keys().shares().train().unmask().server.total()
    step = there.server.scale.step
    assert step == pytest.approx(8.0 * count / 2**31, rel=1e-6)
    assert farthest(total, plain(sent)) <= count * step / 2
    assert about["examples"] == 10 * count
    assert about["loss"] == pytest.approx(0.5, abs=1e-6)
    assert about["accuracy"] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("neighbours", [0, 6])
def test_clients_may_go_at_any_time(neighbours: int) -> None:
    """One before it has shared, one that its neighbours have masks with, one before the end."""
    sent = updates(10)
    there = Round(sent, SecureAggregation(threshold=0.55, neighbours=neighbours))
    there.keys(silent=(1,)).shares().train(silent=(4,)).unmask(silent=(7,))
    total, about = there.server.total()
    stayed = [update for client, update in enumerate(sent) if client not in (1, 4)]
    assert farthest(total, plain(stayed)) <= 10 * there.server.scale.step
    assert about["examples"] == 80


@pytest.mark.parametrize("stage", ["shares", "train", "unmask"])
def test_with_too_few_the_sum_stays_hidden(stage: str) -> None:
    gone = (0, 1, 2)
    there = Round(updates(5)).keys()  # 4 of 5 must stay
    with pytest.raises(BadInput, match="needs 4 clients to stay .* there were 2: the sum stays"):
        for step in ("shares", "train", "unmask"):
            getattr(there, step)(silent=gone if step == stage else ())
        there.server.total()


def test_a_secret_that_is_none_leaves_the_sum_hidden() -> None:
    """Of a client that has shared it, and then goes."""
    there = Round(updates(5)).keys()
    mine = there.states[4].config_records[SECURE]
    there.states[4][SECURE] = ConfigRecord({**mine, "sk1": b"no key"})
    there.shares().train(silent=(4,)).unmask()
    with pytest.raises(BadInput, match="client 4's shares are not those of a key"):
        there.server.total()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_client_hides_nothing_that_is_not_finite(bad: float, clip: float | None) -> None:
    sent = updates(2)
    sent[0]["bias"][3] = bad
    there = Round(sent).keys().shares()
    there.server.clip = clip
    with pytest.raises(BadInput, match="bias of the update is not finite"):
        there.train()


def test_weights_are_shares_of_the_heaviest_client() -> None:
    sent = updates(3)
    total, about = Round(sent).keys().shares().train(examples=5).unmask().server.total()
    assert farthest(total, {n: t / 2 for n, t in plain(sent).items()}) < 1e-7
    assert about["examples"] == 15


def test_what_is_too_large_is_cut_off_and_counted() -> None:
    sent = updates(2)
    sent[0]["bias"][3] = 1e9
    total, about = Round(sent).keys().shares().train().unmask().server.total()
    assert about["cut"] == 1
    assert float(total["bias"][3]) == pytest.approx(8.0 + float(sent[1]["bias"][3]), abs=1e-6)


# --- and nothing else is seen ---------------------------------------------------------------------


def test_what_the_server_gets_of_a_client_says_nothing_of_its_update() -> None:
    """The same update twice is sent as two things that have nothing to do with each other; and what
    is sent is spread evenly over all numbers, whatever it hides."""
    like = {"weight": torch.zeros(20_000)}
    zeros = [{"weight": torch.zeros(20_000)} for _ in range(2)]
    seen: list[Any] = []
    for _ in range(2):
        there = Round(zeros)
        there.server = SecureSum(SecureAggregation(), 5, like, 10)
        there.keys().shares().train()
        seen.append(np.asarray(there.masked[0].array_records[secure.MASKED]["words"].numpy()))
    one, other = (words.astype(np.float64) / 2**32 for words in seen)
    counts, _ = np.histogram(one, bins=20, range=(0.0, 1.0))
    chi = float(((counts - 1000.0) ** 2 / 1000.0).sum())
    assert chi < 52.4  # one in 100,000 for 19 degrees of freedom
    assert abs(float(np.corrcoef(one, other)[0, 1])) < 5 / math.sqrt(20_000)
    # Sums of some are as good as drawn, too.
    assert int((seen[0] == seen[1]).sum()) < 5


def test_no_part_of_the_clients_gives_the_server_a_sum() -> None:
    """With the masks of all but one taken off, that one's pairwise masks are still there."""
    sent = updates(4)
    there = Round(sent).keys().shares().train().unmask()
    for client in (1, 2, 3):
        one = there.server.parties[client].masked
        assert one is not None
        alone = Sum(one.words, one.longs)
        alone.take_off(there.server._secret(client))
        found = there.server.scale.real(alone.words, LIKE)
        assert farthest(found, sent[client]) > 1.0


def test_a_client_never_gives_both_shares_of_another() -> None:
    there = Round(updates(4)).keys().shares().train()
    asked = there.server.unmask()[0]
    both = ConfigRecord({**asked, "gone": [1]})
    with pytest.raises(BadInput, match="secrets that it is not to have"):
        secure.unmask(both, there.states[0])
    secure.unmask(asked, there.states[0])
    swapped = ConfigRecord({**asked, "active": [0, 2, 3], "gone": [1]})
    with pytest.raises(BadInput, match="out of step"):
        secure.unmask(swapped, there.states[0])
    assert set(there.states[0].config_records[SECURE]) == {"stage", "round"}


def test_a_client_trusts_no_server_with_its_secret() -> None:
    there = Round(updates(4)).keys()
    asked = dict(there.server.shares()[0])
    few = ConfigRecord({**asked, "threshold": 2})
    with pytest.raises(BadInput, match="does not keep a secret"):
        secure.shares(few, there.states[0])
    pk1 = list(asked["pk1"])  # type: ignore[arg-type]
    other = ConfigRecord({**asked, "pk1": [pk1[1], pk1[0], *pk1[2:]]})
    with pytest.raises(BadInput, match="another key"):
        secure.shares(other, there.states[0])
    same = ConfigRecord({**asked, "pk1": [pk1[0], pk1[2], pk1[2], pk1[3]]})
    with pytest.raises(BadInput, match="same key"):
        secure.shares(same, there.states[0])
    there.shares()
    train = dict(there.server.train()[0])
    lonely = ConfigRecord({**train, "clients": [1], "shares": train["shares"][:1]})  # type: ignore
    with pytest.raises(BadInput, match="too few clients are left"):
        secure.hidden(lonely, there.states[0], there.sent[0], ABOUT)
    boxes = train["shares"]
    crossed = ConfigRecord({**train, "shares": [boxes[1], boxes[0], boxes[2]]})  # type: ignore
    with pytest.raises(Exception):  # noqa: B017 - it does not even decrypt
        secure.hidden(crossed, there.states[0], there.sent[0], ABOUT)


def test_masks_follow_from_the_whole_secret() -> None:
    """Flower's generator folds 32 bytes into 32 bits: these two secrets it cannot tell apart."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    one, other = bytes(range(32)), bytes([*range(4, 8), *range(4), *range(8, 32)])
    theirs = [pseudo_rand_gen(secret, 2**32, [(8,)])[0] for secret in (one, other)]
    assert (theirs[0] == theirs[1]).all()
    (words, longs), (others, _) = mask(one, 8), mask(other, 8)
    assert not (words == others).any()
    assert words.dtype == np.uint32
    assert longs.shape == (len(TOTALS),)
    again, _ = mask(one, 8)
    assert (words == again).all()


@pytest.mark.parametrize("norm", [1e-3, 1.0, 3.0])
def test_what_is_clipped_is_no_longer_than_it_may_be_also_when_rounded(norm: float) -> None:
    for update in updates(5, 3.0):
        scale = Scale(norm, 1000)
        found, was = clipped(update, norm, scale)
        assert was
        words, cut = scale.counted(found, 1.0)
        assert not cut
        assert norm_of(scale.real(words, LIKE)) <= norm
        assert norm_of(scale.real(words, LIKE)) > 0.999 * norm


def test_totals_of_a_client_that_has_blown_up_stay_in_range() -> None:
    found = counted_totals({**ABOUT, "loss": math.nan, "clipped": 0, "cut": 0})
    assert real_totals(found)["loss"] == 1000.0


# --- in a federation ------------------------------------------------------------------------------


SECURED = changed(QUICK, secure_aggregation=SecureAggregation())


def weights(tmp_path: Path, name: str) -> dict[str, Tensor]:
    bench = new_bench(tmp_path, "look")
    loaded = load_model(str(tmp_path / "runs" / name / "model.safetensors"), bench)
    return loaded.module.state_dict()


@pytest.mark.parametrize("values", [{}, {"strategy": FedYogi(server_lr=0.1)}], ids=["avg", "yogi"])
def test_a_federation_learns_the_same_with_it(tmp_path: Path, values: dict[str, Any]) -> None:
    _, without = play(tmp_path, changed(QUICK, **values), "plain")
    events, summary = play(tmp_path, changed(SECURED, **values), "secured")
    assert summary["accuracy"] == pytest.approx(without["accuracy"], abs=0.01)
    one, other = weights(tmp_path, "plain"), weights(tmp_path, "secured")
    assert farthest(other, one) < (1e-6 if not values else 1e-3)
    curves = [event for event in events if isinstance(event, Scalars)]
    assert 0.0 < curves[0].values["round/accuracy"] < 1.0
    assert not [name for event in curves for name in event.values if name.startswith("client/")]
    rows = [e for e in events if isinstance(e, Table) and e.name == "clients"][-1]
    states = [dict(zip(rows.columns, row, strict=True)) for row in rows.rows]
    assert [row["state"] for row in states] == ["kept"] * 5
    assert {row["norm"] for row in states} == {None}


def test_it_gives_the_same_model_again_though_its_masks_are_others(tmp_path: Path) -> None:
    assert sha(tmp_path, SECURED, "one") == sha(tmp_path, SECURED, "two")


def test_no_message_holds_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every client learnt is looked for in every answer that it gives."""
    learnt: list[Tensor] = []
    answers: list[Message] = []
    learn = apps.Fleet.learn
    answer = LocalGrid._answer

    def learns(self: Any, lesson: Any, state: Any) -> Any:
        found = learn(self, lesson, state)
        learnt.append(torch.cat([t.flatten() for t in found.update.values()]))
        return found

    def answers_(self: LocalGrid, message: Message) -> Any:
        found = answer(self, message)
        answers.append(found[0])
        return found

    monkeypatch.setattr(apps.Fleet, "learn", learns)
    monkeypatch.setattr(LocalGrid, "_answer", answers_)
    play(tmp_path, changed(SECURED, rounds=1))
    assert len(learnt) == 5
    trained = [reply for reply in answers if reply.metadata.message_type == "train"]
    assert len(trained) == 5
    for reply in trained:
        assert set(reply.content) == {secure.MASKED}  # neither loss nor number of images
        words = reply.content.array_records[secure.MASKED]["words"].numpy()
        sent = torch.from_numpy(words.view(np.int32).astype(np.float64))
        for update in learnt:
            both = torch.stack([sent, update.double()])
            assert abs(float(torch.corrcoef(both)[0, 1])) < 0.25


def test_who_drops_out_is_left_out_of_the_sum(tmp_path: Path) -> None:
    values = {"drop_out": 0.15, "rounds": 4, "clients": 8, "seed": 1}
    _, one = play(tmp_path, changed(QUICK, **values), "plain")
    spec = changed(SECURED, **values, secure_aggregation=SecureAggregation(threshold=0.51))
    events, other = play(tmp_path, spec, "secured")
    assert other["dropped"] == one["dropped"] > 0
    assert "skipped" not in other
    assert farthest(weights(tmp_path, "secured"), weights(tmp_path, "plain")) < 1e-5


def test_too_few_that_stay_skip_the_round_in_words(tmp_path: Path) -> None:
    spec = changed(SECURED, drop_out=0.9, rounds=1)
    with pytest.raises(CrucibleError, match="needs 4 clients to stay to the end of the round"):
        play(tmp_path, spec)


def test_private_clients_clip_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise is added to the same sum as where the server clips, whose arithmetic is
    another one. One round: the next begins from a model that is rounded otherwise, and another
    model's noise is another."""
    monkeypatch.setattr("engine.federated.federation.salt_of", lambda *_: "")
    privacy = ClientPrivacy(noise_multiplier=0.5, max_update_norm=0.3, delta=0.01)
    values = {"privacy": privacy, "rounds": 1}
    _, one = play(tmp_path, changed(QUICK, **values), "plain")
    events, other = play(tmp_path, changed(SECURED, **values), "secured")
    assert other["epsilon"] == one["epsilon"]
    assert farthest(weights(tmp_path, "secured"), weights(tmp_path, "plain")) < 1e-5
    shares = [e.values["privacy/clipped"] for e in events if isinstance(e, Scalars)]
    assert max(shares) > 0.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"strategy": MultiKrum(hostile=1)}, "multikrum needs to see single updates"),
        (
            {"strategy": Scaffold(), "optimizer": SGD(lr=0.1, momentum=0.0)},
            "scaffold needs to see single updates and what comes with them",
        ),
        ({"compression": Int8()}, "int8 saves nothing under secure aggregation"),
        ({"capture": Capture()}, "capture keeps what single clients sent"),
        ({"privacy": ClientPrivacy(), "fraction": 0.5}, "Set fraction = 1"),
        (
            {"privacy": ClientPrivacy(adaptive=AdaptiveClipping())},
            "moves the count that adaptive clipping follows by more",
        ),
        ({"fraction": 0.2}, "sum of a single update hides nothing"),
    ],
)
def test_what_needs_single_updates_is_refused(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    spec: Federate = changed(SECURED, **values)
    with pytest.raises(BadInput, match=words):
        spec.check(tmp_path)


def test_a_masked_answer_of_another_form_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = LocalGrid._answer

    def shortened(self: LocalGrid, message: Message) -> Any:
        found, kept = answer(self, message)
        if found.metadata.message_type == "train" and message.metadata.dst_node_id == 3:
            arrays = found.content.array_records[secure.MASKED]
            arrays["words"] = type(arrays["words"])(arrays["words"].numpy()[:-1])
        return found, kept

    monkeypatch.setattr(LocalGrid, "_answer", shortened)
    events, summary = play(tmp_path, changed(SECURED, rounds=1))
    assert summary["rejected"] == 1
    told = [event.text for event in events if isinstance(event, Note)]
    assert any("client 2" in text and "masked numbers" in text for text in told)
