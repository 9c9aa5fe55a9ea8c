"""Privacy of clients: one client moves what is released by one clipping norm, whatever happens; the
accountant's figure; Flower's wrappers, which this room does without."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from engine.data.spec import Digits
from engine.errors import BadInput
from engine.events import Note, Scalars, Table, drain
from engine.federated.apps import conduct
from engine.federated.federating import run_federate
from engine.federated.federation import Federation
from engine.federated.noising import LEDGER, ClientNoise, Exhausted, norm_of
from engine.federated.preparing import prepared
from engine.federated.spec import (
    AdaptiveClipping,
    ClientPrivacy,
    Deployment,
    FedAdam,
    Federate,
    Local,
    Ray,
)
from engine.models import load_model
from engine.models.card import read_card
from engine.privacy import epsilon, total
from engine.privacy.ledger import Charge, Source, read_charges
from engine.training.spec import SGD
from tests.engine.federated.fleet import SMALL, changed, cut_short, new_bench, play, sha

# isort: split
from flwr.serverapp import Grid

Update = dict[str, Tensor]
PRIVATE = Federate(
    seed=3,
    model=SMALL,
    clients=30,
    rounds=3,
    fraction=0.4,
    optimizer=SGD(lr=0.5, momentum=0.0),
    privacy=ClientPrivacy(noise_multiplier=1.2, max_update_norm=0.5),
    grid=Local(threads=2),
)


def noise_of(tmp_path: Path, name: str = "n", **values: Any) -> ClientNoise:
    privacy = ClientPrivacy(**{"noise_multiplier": 1e-6, "max_update_norm": 2.0, **values})
    spec = changed(PRIVATE, privacy=privacy, clients=20, fraction=0.5, rounds=10_000)
    return ClientNoise(spec, new_bench(tmp_path, name))


def some(count: int, length: float = 10.0) -> list[Update]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (6,), "b": (2, 3)}
    return [
        {name: length * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        for _ in range(count)
    ]


LIKE = {"a": torch.zeros(6), "b": torch.zeros(2, 3)}


@pytest.mark.parametrize("there", [1, 4, 15])
def test_one_client_moves_the_sum_by_one_norm_at_most(tmp_path: Path, there: int) -> None:
    """However many others answered: what is divided by is the number expected, 10 here."""
    updates = some(there)
    with_it, clipped = noise_of(tmp_path, "with").mean(updates, LIKE, 1)
    without, _ = noise_of(tmp_path, "without").mean(updates[:-1], LIKE, 1)
    moved = norm_of({name: 10 * (with_it[name] - without[name]) for name in LIKE})
    assert moved == pytest.approx(2.0, rel=1e-4)
    assert clipped == [True] * there


def test_the_largest_update_that_there_is_is_clipped_too(tmp_path: Path) -> None:
    """Its share is too small a number for float32."""
    like = {"a": torch.zeros(200_000)}
    huge = {"a": torch.full((200_000,), 3.3e38)}
    found, _ = noise_of(tmp_path, max_update_norm=1e-4).mean([huge], like, 1)
    assert norm_of(found) * 10 == pytest.approx(1e-4, rel=0.01)


def test_a_small_update_is_left_as_it_is(tmp_path: Path) -> None:
    updates = some(3, length=0.01)
    found, clipped = noise_of(tmp_path).mean(updates, LIKE, 1)
    for name in LIKE:
        expected = sum(update[name] for update in updates) / 10
        assert torch.allclose(found[name], expected, atol=1e-5)
    assert clipped == [False] * 3


def test_a_round_taken_again_with_other_clients_has_other_noise(tmp_path: Path) -> None:
    """Else the difference of the two would be an update without any."""
    noise = noise_of(tmp_path)
    first, _ = noise.mean([], LIKE, 1, [0, 2])
    same, _ = noise.mean([], LIKE, 1, [2, 0])
    other, _ = noise.mean([], LIKE, 1, [0])
    for name in LIKE:
        assert torch.equal(first[name], same[name])
        assert not torch.equal(first[name], other[name])


def test_a_round_taken_again_otherwise_is_charged_again(tmp_path: Path) -> None:
    """From one model the same clients are drawn, so that two releases are like one with noise
    smaller by the root of 2; from another model others are."""
    model, other = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    noise = noise_of(tmp_path, noise_multiplier=1.2)
    (charge,) = plain = (Charge(1.2, 0.5),)
    drawn = noise.picked(1, model)
    noise.mean([], LIKE, 1, [0, 2])  # and is killed
    again = noise_of(tmp_path, noise_multiplier=1.2)
    assert again.picked(1, model) == drawn
    again.mean([], LIKE, 1, [2, 0])
    assert again.ledger.charged() == plain
    assert again.spent() == pytest.approx(total(plain, 1e-5))
    late = noise_of(tmp_path, noise_multiplier=1.2)
    assert late.picked(1, model) == drawn
    late.mean([], LIKE, 1, [0])
    louder = dataclasses.replace(charge, noise_multiplier=1.2 / math.sqrt(2))
    assert set(late.ledger.charged()) == {charge, louder}
    assert late.spent() == pytest.approx(total((charge, louder), 1e-5))
    assert late.spent() > epsilon(1.2 / math.sqrt(2), 0.5, 1, 1e-5)
    moved = noise_of(tmp_path, noise_multiplier=1.2)
    assert moved.picked(1, other) != drawn
    moved.mean([], LIKE, 1, [0, 2])
    assert moved.spent() == pytest.approx(total((charge, charge, louder), 1e-5))


def test_a_target_holds_for_rounds_that_are_taken_again(tmp_path: Path) -> None:
    target = epsilon(1.2, 0.5, 2, 1e-5) + 0.01
    values = {"noise_multiplier": 1.2, "epsilon": target}
    noise = noise_of(tmp_path, **values)
    assert noise.rounds == 2
    noise.mean([], LIKE, 1, [0])
    noise.mean([], LIKE, 2, [0])  # and is killed
    again = noise_of(tmp_path, **values)
    again.mean([], LIKE, 1, [0])
    assert again.rounds == 2
    again = noise_of(tmp_path, **values)
    with pytest.raises(Exhausted, match=r"is used up.*went otherwise.*ends before round 1"):
        again.mean([], LIKE, 1, [0, 1])
    assert again.spent() <= target


def test_a_target_holds_where_the_rounds_after_one_are_others(tmp_path: Path) -> None:
    """Whose clients answered otherwise the first time: it led to another model."""
    start, model, other = ({"w": torch.full((3,), value)} for value in (0.0, 1.0, 2.0))
    twice = Charge(1.2 / math.sqrt(2), 0.5)
    target = total((Charge(1.2, 0.5, 2), twice), 1e-5) + 1e-3
    values = {"noise_multiplier": 1.2, "epsilon": target}
    noise = noise_of(tmp_path, **values)
    for number, begun in enumerate((start, model), 1):
        noise.picked(number, begun)
        noise.mean([], LIKE, number, [0])
    again = noise_of(tmp_path, **values)
    again.picked(1, start)
    again.mean([], LIKE, 1, [0, 1])
    assert again.spent() == total((Charge(1.2, 0.5, 2), twice), 1e-5)  # with the round that is lost
    with pytest.raises(Exhausted, match="ends before round 2"):
        again.picked(2, other)
    assert again.picked(2, model) == noise.picked(2, model)  # which has been paid for


def test_a_run_whose_budget_ends_early_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def afford(self: ClientNoise, charge: Charge, number: int, source: Source) -> None:
        if number > 2:
            raise Exhausted(1.0, number)

    monkeypatch.setattr(ClientNoise, "_afford", afford)
    monkeypatch.setattr("engine.federated.federation.salt_of", lambda *_: "")
    two = sha(tmp_path, changed(PRIVATE, rounds=2), "two")
    events, summary = play(tmp_path, changed(PRIVATE, rounds=5), "early")
    assert summary["rounds"] == 2
    assert summary["weights_sha256"] == two
    assert summary["epsilon"] == pytest.approx(epsilon(1.2, 0.4, 2, 1e-5))
    notes = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
    assert notes == [str(Exhausted(1.0, 3))]


def test_the_noise_is_as_strong_as_it_says(tmp_path: Path) -> None:
    noise = noise_of(tmp_path, noise_multiplier=3.0)
    like = {"a": torch.zeros(200_000)}
    found, _ = noise.mean([], like, 1)
    assert float(found["a"].std()) == pytest.approx(3.0 * 2.0 / 10, rel=0.01)
    again, _ = noise.mean([], like, 2)
    assert abs(float(torch.corrcoef(torch.stack([found["a"], again["a"]]))[0, 1])) < 0.01
    same, _ = noise_of(tmp_path, "other", noise_multiplier=3.0).mean([], like, 1)
    assert torch.equal(same["a"], found["a"])


def test_adaptive_clipping_finds_the_quantile(tmp_path: Path) -> None:
    """Norms are 1 to 20; three quarters of them are below 15."""
    noise = noise_of(
        tmp_path,
        noise_multiplier=0.5,
        max_update_norm=0.1,
        adaptive=AdaptiveClipping(quantile=0.75, lr=0.2, count_noise=0.05),
    )
    noise.expected = 20.0
    updates = [{"a": torch.zeros(6), "b": torch.full((2, 3), n / 6**0.5)} for n in range(1, 21)]
    clips = []
    for number in range(1, 161):
        noise.mean(updates, LIKE, number)
        clips.append(noise.clip)
    assert 12 < float(np.mean(clips[80:])) < 18


def test_adaptive_clipping_pays_for_its_count(tmp_path: Path) -> None:
    """Theorem 1 of Andrew et al. 2021: z^-2 is the sum's and the count's together."""
    adaptive = AdaptiveClipping(count_noise=0.2)
    noise = noise_of(tmp_path, noise_multiplier=1.1, adaptive=adaptive)
    assert noise.count_noise == pytest.approx(2.0)
    assert noise.sum_noise**-2 + (2 * noise.count_noise) ** -2 == pytest.approx(1.1**-2)
    with pytest.raises(BadInput, match="count of clipped gradients spends more"):
        noise_of(tmp_path, "b", noise_multiplier=9.0, adaptive=AdaptiveClipping(count_noise=0.05))


def test_a_private_run_says_what_it_spent(tmp_path: Path) -> None:
    events, summary = play(tmp_path, PRIVATE)
    expected = epsilon(1.2, 0.4, 3, 1e-5)
    assert summary["epsilon"] == pytest.approx(expected)
    assert summary["epsilon_rdp"] == pytest.approx(epsilon(1.2, 0.4, 3, 1e-5, "rdp"))
    assert summary["delta"] == 1e-5
    spent = {
        e.step: e.values["privacy/epsilon"]
        for e in events
        if isinstance(e, Scalars) and "privacy/epsilon" in e.values
    }
    assert spent == {n: pytest.approx(epsilon(1.2, 0.4, n, 1e-5)) for n in (1, 2, 3)}
    table = [e for e in events if isinstance(e, Table) and e.name == "clients"][-1]
    column = table.columns.index("epsilon")
    assert {row[column] for row in table.rows} == {spent[3]}
    assert len({len(e.rows) for e in events if isinstance(e, Table) and e.name == "clients"}) > 1
    charges = read_charges(tmp_path / "runs" / "a" / LEDGER)
    assert [(c.noise_multiplier, c.sample_rate, c.steps) for c in charges] == [(1.2, 0.4, 3)]


def test_the_charge_is_on_disk_before_the_noise_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    right = torch.randn

    def look(*args: Any, **more: Any) -> Tensor:
        path = tmp_path / "runs" / "a" / LEDGER
        seen.append(sum(charge.steps for charge in read_charges(path)))
        return right(*args, **more)

    monkeypatch.setattr("engine.federated.noising.torch.randn", look)
    play(tmp_path, PRIVATE)
    assert all(steps >= number for number, steps in enumerate(seen, 1))
    assert len(seen) >= 3


def test_a_target_ends_the_run_in_time(tmp_path: Path) -> None:
    one = epsilon(1.2, 0.4, 2, 1e-5)
    privacy = ClientPrivacy(noise_multiplier=1.2, epsilon=one + 0.01)
    events, summary = play(tmp_path, changed(PRIVATE, privacy=privacy, rounds=50))
    assert summary["rounds"] == 2
    assert summary["epsilon"] <= one + 0.01
    assert any(
        "the target is reached after 2 of 50 rounds" in e.text
        for e in events
        if isinstance(e, Note)
    )
    found = play(tmp_path, changed(PRIVATE, privacy=ClientPrivacy(epsilon=4.0)), "b")[1]
    assert found["rounds"] == 3
    assert 3.9 < found["epsilon"] <= 4.0
    hopeless = ClientPrivacy(noise_multiplier=0.5, epsilon=0.1)
    with pytest.raises(BadInput, match="exceeded by a single round"):
        play(tmp_path, changed(PRIVATE, privacy=hopeless), "c")


@pytest.mark.parametrize("strategy", [None, FedAdam()])
def test_a_private_run_goes_on_with_the_same_budget(tmp_path: Path, strategy: Any) -> None:
    spec = changed(PRIVATE, rounds=4)
    if strategy is not None:
        adaptive = ClientPrivacy(noise_multiplier=1.2, adaptive=AdaptiveClipping(count_noise=0.3))
        spec = changed(spec, strategy=strategy, privacy=adaptive)
    _, expected = play(tmp_path, spec, "whole")
    again = cut_short(tmp_path, spec, lambda e: isinstance(e, Scalars) and e.step == 3)
    found: dict[str, Any] = drain(run_federate(spec, again))
    assert found == expected


def test_a_private_card_says_nothing_else_of_the_clients(tmp_path: Path) -> None:
    """Neither their images' statistics, sketch or hash, nor the seed, nor who was drawn."""
    events, summary = play(tmp_path, changed(PRIVATE, drop_out=0.2))
    card = read_card(tmp_path / "runs" / "a" / "model.safetensors")
    assert (card.data_fingerprint, card.learnt) == ("", ())
    assert "seed" not in card.training
    assert card.training["rounds"] == 3
    assert summary["dropped"] > 0
    assert summary.keys() - card.metrics.keys() == {
        "bytes_up",
        "bytes_down",
        "dropped",
        "weights_sha256",
    }
    state = safetensors.torch.load_file(tmp_path / "runs" / "a" / "model.safetensors")
    assert float(state["normalise.mean"].abs().max()) == 0.0
    assert float((state["normalise.std"] - 1).abs().max()) == 0.0
    # In the workspace it is still known what was trained on.
    assert load_model("a", new_bench(tmp_path, "b")).card.learnt
    said = [event.text for event in events if isinstance(event, Note)]
    assert any("come from the seed" in text for text in said)
    assert summary["noise_source"] == "seed"
    plain = play(tmp_path, changed(PRIVATE, privacy=None, rounds=1), "plain")
    open_card = read_card(tmp_path / "runs" / "plain" / "model.safetensors")
    assert open_card.learnt
    assert open_card.data_fingerprint
    assert "seed" in open_card.training
    assert open_card.metrics["bytes_up"] == plain[1]["bytes_up"]


def test_two_runs_of_a_seed_do_not_share_their_noise(tmp_path: Path) -> None:
    """Else one model could be subtracted from the other. However many threads there are, it is the
    same run."""

    def draws(name: str, spec: Federate) -> tuple[Any, float]:
        bench = new_bench(tmp_path, name)
        noise = Federation(spec, bench, drain(prepared(spec, bench))).conductor.noise
        assert noise is not None
        return noise.picked(1), float(noise.random.normal("clients", 1, 1))

    one = draws("one", PRIVATE)
    assert draws("threads", changed(PRIVATE, grid=Local(threads=1))) == one
    for name, values in (
        ("rate", {"optimizer": SGD(lr=0.4, momentum=0.0)}),
        ("data", {"data": Digits(validation=0.3)}),
    ):
        picked, drawn = draws(name, changed(PRIVATE, **values))
        assert picked != one[0]
        assert drawn != one[1]


@pytest.mark.parametrize("grid", [Ray(), Deployment()])
def test_noise_from_the_seed_is_for_the_local_grid(tmp_path: Path, grid: Any) -> None:
    """Elsewhere a run that was cut short draws it again, on other sums."""
    spec = changed(PRIVATE, grid=grid)
    with pytest.raises(BadInput, match="privacy.secure = true"):
        spec.check(tmp_path)
    changed(spec, privacy=ClientPrivacy(secure=True)).check(tmp_path)
    # Flower's own command line plays any task on a grid of its own.
    with pytest.raises(BadInput, match="privacy.secure = true"):
        next(conduct({"spec": PRIVATE.to_dict()}, tmp_path, cast("Grid", None)))


def test_a_run_that_is_killed_loses_a_round_and_no_more(tmp_path: Path) -> None:
    """With noise that cannot be repeated, and until the budget is used up, as is then said."""
    target = epsilon(1.2, 0.4, 3, 1e-5) + 0.01
    privacy = ClientPrivacy(noise_multiplier=1.2, epsilon=target, secure=True)
    spec = changed(PRIVATE, privacy=privacy, rounds=50)
    for left in (3, 2, 1):
        noise = ClientNoise(spec, new_bench(tmp_path))
        assert noise.rounds == left
        noise.mean([], LIKE, 1)  # and is killed before its first checkpoint
        assert noise.spent() <= target
    with pytest.raises(BadInput, match="is used up: it allows 3 rounds.*cut short after 3"):
        ClientNoise(spec, new_bench(tmp_path))


def test_secure_noise_cannot_be_repeated(tmp_path: Path) -> None:
    privacy = ClientPrivacy(noise_multiplier=1.2, secure=True)
    spec = changed(PRIVATE, privacy=privacy, rounds=1)
    one, two = (play(tmp_path, spec, name)[1]["weights_sha256"] for name in "ab")
    assert one != two


def test_a_round_without_clients_is_noise_all_the_same(tmp_path: Path) -> None:
    """That nobody was drawn is not to be seen."""
    spec = changed(PRIVATE, clients=2, fraction=0.01, rounds=2)
    events, summary = play(tmp_path, spec)
    assert "skipped" not in summary
    rows = [e for e in events if isinstance(e, Table) and e.name == "rounds"][-1].rows
    assert rows[0][2] == 0


def test_flowers_adaptive_norm_runs_away_from_its_quantile() -> None:
    """Why its wrappers are not used: where all are clipped, the norm should grow, and shrinks."""
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideAdaptiveClipping, FedAvg
    from flwr.supercore.differential_privacy import adaptive_clip_inputs_inplace

    wrapper = DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=0.0, num_sampled_clients=10, initial_clipping_norm=1.0
    )
    clipped = sum(
        adaptive_clip_inputs_inplace([np.full(4, 50.0)], wrapper.clipping_norm) for _ in range(10)
    )
    assert clipped == 10
    wrapper._geometric_update(clipped / 10)
    assert wrapper.clipping_norm == pytest.approx(math.exp(-0.1))


def test_flowers_fixed_clipping_weights_clients_by_their_images() -> None:
    """One client with most of the images moves its mean by nearly a whole norm; the noise that is
    added is made for a tenth of one."""
    from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
    from flwr.supercore.differential_privacy import compute_stdv

    def mean(first: float) -> float:
        wrapper = DifferentialPrivacyServerSideFixedClipping(
            FedAvg(), noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=10
        )
        wrapper.current_arrays = ArrayRecord({"a": Array(np.zeros(1))})
        make: Any = Message
        replies = []
        for client in range(10):
            update = first if client == 0 else 1e-9  # it divides by a zero
            content = RecordDict(
                {
                    "arrays": ArrayRecord({"a": Array(np.full(1, update))}),
                    "metrics": MetricRecord({"num-examples": 991 if client == 0 else 1}),
                }
            )
            about = Metadata(1, "", client + 2, 1, "", "", 0.0, 1.0, "train")
            replies.append(make(content=content, metadata=about))
        arrays, _ = wrapper.aggregate_train(1, replies)
        assert arrays is not None
        return float(arrays["a"].numpy()[0])

    assert mean(1.0) - mean(1e-9) == pytest.approx(0.991)
    assert compute_stdv(1.0, 1.0, 10) == pytest.approx(0.1)


def test_the_count_of_a_round_taken_again_with_other_clients_has_other_noise(
    tmp_path: Path,
) -> None:
    """Else the two clipping norms would tell by how many the count differs."""
    noise = noise_of(tmp_path, noise_multiplier=1.1, adaptive=AdaptiveClipping(count_noise=0.2))
    begun, clips = noise.clip, []
    for clients in ([0, 2], [2, 0], [0]):
        noise.clip = begun
        noise.mean([], LIKE, 1, clients)
        clips.append(noise.clip)
    assert clips[0] == clips[1] != clips[2]


def test_what_canaries_saw_of_a_round_that_is_undone_is_forgotten(tmp_path: Path) -> None:
    privacy = ClientPrivacy(noise_multiplier=1.0, canaries=4)
    noise = ClientNoise(changed(PRIVATE, privacy=privacy), new_bench(tmp_path), parameters=12)
    noise.picked(1)
    noise.mean([], LIKE, 1)
    before, held = noise.tensors(), {n: t.clone() for n, t in noise.tensors().items()}
    noise.picked(2)
    noise.mean([], LIKE, 2)
    assert not torch.equal(noise.tensors()["canaries.score"], held["canaries.score"])
    noise.restore(before)
    for name, tensor in noise.tensors().items():
        assert torch.equal(tensor, held[name]), name
