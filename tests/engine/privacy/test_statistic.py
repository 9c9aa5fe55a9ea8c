"""What a private model is told of its images before the first step: once, with noise, and paid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled
from engine.events import Event, Progress, Scalars, Table
from engine.models import build, load_model
from engine.models.fitting import Centre, Projection, fitted_layer, principal, statistic_of
from engine.models.spec import MLP, Scattering
from engine.privacy.accounting import (
    curve,
    epsilon,
    noise_multiplier,
    steps_within,
    total,
)
from engine.privacy.clipping import Clipper
from engine.privacy.ledger import Charge, Ledger, read_charges
from engine.privacy.spec import DPSGD, Naive
from engine.random import derive
from engine.task import BenchSpec
from engine.training.loop import run_train, salt_of
from engine.training.remembering import learning_part
from engine.training.spec import SGD, Train

Drain = Callable[..., tuple[list[Event], Any]]
PLAIN = Train(
    model=MLP(projection=12, width=20, depth=1),
    epochs=3,
    seed=3,
    batch_size=100,
    ema=0.9,
    optimizer=SGD(lr=0.5, momentum=0.0),
)


def a_bench(tmp_path: Path, name: str = "a") -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, tmp_path, seed=3, spec=BenchSpec(device="cpu", threads=1))


def private(**values: Any) -> Train:
    return PLAIN.model_copy(update={"privacy": DPSGD(**values)})


def directions(tmp_path: Path, name: str = "a") -> torch.Tensor:
    part = fitted_layer(load_model(name, a_bench(tmp_path, "b")).module)
    assert isinstance(part, Projection)
    return part.weight


def exact(tmp_path: Path, drain: Drain) -> tuple[torch.Tensor, int]:
    """The moments of the training images as they are, without normalisation; how many."""
    data = drain(load(Digits(), a_bench(tmp_path, "b")))[1]
    model = build(PLAIN.model, data.shape, 10)
    return drain(statistic_of(model, data.train))[1], len(data.train)


def test_the_noised_moments_decide_and_are_in_the_budget(tmp_path: Path, drain: Drain) -> None:
    spec = private(noise_multiplier=1.0, statistic_noise=6.0)
    events, summary = drain(run_train(spec, a_bench(tmp_path)))
    found, count = exact(tmp_path, drain)
    data = drain(load(Digits(), a_bench(tmp_path, "b")))[1]
    start = build(spec.model, data.shape, 10, generator_seed=derive(3, "model"))
    salt = a_bench(tmp_path, "c").lineage(salt_of(spec, data.fingerprint, start))
    draws = torch.Generator().manual_seed(derive(3, "privacy", salt, "statistic", 0))
    noise = torch.randn(64 * 64, generator=draws).view(64, 64).double()
    for row in range(64):
        for column in range(64):
            found[row, column] += 6.0 * (noise[row, column] + noise[column, row]) / 2
    torch.testing.assert_close(directions(tmp_path), principal(found, 12), rtol=1e-4, atol=1e-5)
    assert set(read_charges(tmp_path / "runs" / "a" / "privacy.jsonl")) == {
        Charge(6.0, 1.0, 1), Charge(1.0, 100 / count, summary["steps"])
    }  # fmt: skip
    charges = (Charge(6.0, 1.0), Charge(1.0, 100 / count, summary["steps"]))
    assert summary["epsilon"] == pytest.approx(total(charges, 1e-5), rel=1e-6)
    assert summary["epsilon"] > epsilon(1.0, 100 / count, summary["steps"], 1e-5)
    (budget,) = (e for e in events if isinstance(e, Table) and e.name == "budget")
    assert budget.rows[-1][1] == pytest.approx(summary["epsilon"], rel=1e-6)
    assert all(row[1] > total(charges[:1], 1e-5) for row in budget.rows)


def test_a_target_is_met_with_it(tmp_path: Path, drain: Drain) -> None:
    _, summary = drain(run_train(private(epsilon=2.0, statistic_noise=6.0), a_bench(tmp_path)))
    assert 1.99 < summary["epsilon"] <= 2.0
    _, without = drain(
        run_train(
            private(epsilon=2.0).model_copy(update={"model": MLP(width=20, depth=1)}),
            a_bench(tmp_path, "without"),
        )
    )
    assert summary["noise_multiplier"] > without["noise_multiplier"]
    with pytest.raises(BadInput, match="cannot be reached"):
        drain(run_train(private(epsilon=0.5, statistic_noise=6.0), a_bench(tmp_path, "c")))


def test_the_mean_of_scattering_is_told_in_the_same_way(tmp_path: Path, drain: Drain) -> None:
    spec = private(noise_multiplier=1.0, statistic_noise=6.0).model_copy(
        update={"model": Scattering(centre=True), "epochs": 1}
    )
    _, summary = drain(run_train(spec, a_bench(tmp_path)))
    layer = fitted_layer(load_model("a", a_bench(tmp_path, "b")).module)
    assert isinstance(layer, Centre)
    data = drain(load(Digits(), a_bench(tmp_path, "b")))[1]
    count, model = len(data.train), build(Scattering(centre=True), data.shape, 10)
    found = drain(statistic_of(model, data.train))[1]
    start = build(spec.model, data.shape, 10, generator_seed=derive(3, "model"))
    salt = a_bench(tmp_path, "c").lineage(salt_of(spec, data.fingerprint, start))
    draws = torch.Generator().manual_seed(derive(3, "privacy", salt, "statistic", 0))
    noise = torch.randn(324, generator=draws).view(81, 2, 2)
    expected = (found + 6.0 * noise) * 18 / count
    torch.testing.assert_close(layer.mean, expected.float(), rtol=1e-4, atol=1e-5)
    charges = (Charge(6.0, 1.0), Charge(1.0, 100 / count, summary["steps"]))
    assert summary["epsilon"] == pytest.approx(total(charges, 1e-5), rel=1e-6)
    clipper = Clipper(learning_part(model))
    clipper.check(torch.rand(3, 81, 2, 2))
    assert clipper.method == "book-keeping"


@pytest.mark.parametrize("privacy", [None, Naive()])
def test_without_a_promise_directions_are_exact(
    tmp_path: Path, drain: Drain, privacy: Naive | None
) -> None:
    drain(run_train(PLAIN.model_copy(update={"privacy": privacy}), a_bench(tmp_path)))
    module = load_model("a", a_bench(tmp_path, "b")).module
    data = drain(load(Digits(), a_bench(tmp_path, "b")))[1]
    images = module.normalise(data.train.batch(torch.arange(len(data.train)))[0])
    units = torch.nn.functional.normalize(images.flatten(1).double())
    theirs = torch.linalg.svd(units).Vh[:12]
    found = directions(tmp_path).double()
    torch.testing.assert_close((units @ found.T).square().mean(0), torch.ones(12).double())
    cosines = (found / found.norm(dim=1, keepdim=True) * theirs).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(12).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("secure", [False, True])
def test_a_run_that_goes_on_does_not_tell_again(tmp_path: Path, drain: Drain, secure: bool) -> None:
    spec = private(noise_multiplier=1.0, statistic_noise=6.0, secure=secure)
    _, whole = drain(run_train(spec, a_bench(tmp_path, "whole")))
    bench = a_bench(tmp_path, "cut")
    steps = run_train(spec, bench)
    for event in steps:
        if isinstance(event, Scalars) and "train/loss" in event.values and event.step >= 12:
            break
    cancel(steps)
    before = directions(tmp_path, "cut")
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    again = a_bench(tmp_path, "cut")
    again.restore(checkpoint)
    _, resumed = drain(run_train(spec, again))
    assert torch.equal(directions(tmp_path, "cut"), before)
    charges = read_charges(tmp_path / "runs" / "cut" / "privacy.jsonl")
    assert charges[0] == Charge(6.0, 1.0, 1)
    assert resumed["epsilon"] == whole["epsilon"]
    if not secure:
        assert resumed["weights_sha256"] == whole["weights_sha256"]


def cancel(steps: Any) -> None:
    with pytest.raises(StopIteration):
        steps.throw(Cancelled())
        while True:
            next(steps)


def test_a_run_cancelled_before_they_are_known_has_nothing_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.bench.BURST", 0.0)
    bench = a_bench(tmp_path)
    steps = run_train(private(noise_multiplier=1.0), bench)
    for event in steps:
        if isinstance(event, Progress) and event.unit == "images":
            break
    cancel(steps)
    assert bench.checkpoints.latest() is None


def test_a_model_that_is_trained_on_keeps_its_directions(tmp_path: Path, drain: Drain) -> None:
    drain(run_train(PLAIN, a_bench(tmp_path)))
    spec = Train(init="a", epochs=1, privacy=DPSGD(noise_multiplier=1.0))
    drain(run_train(spec, a_bench(tmp_path, "on")))
    assert torch.equal(directions(tmp_path, "on"), directions(tmp_path))
    charges = read_charges(tmp_path / "runs" / "on" / "privacy.jsonl")
    assert {charge.noise_multiplier for charge in charges} == {1.0}


# --- what was spent before, in the accountant -----------------------------------------------------


def test_what_was_spent_before_is_part_of_every_answer() -> None:
    before, rate, steps = (Charge(7.0, 1.0),), 0.02, 400
    noise = noise_multiplier(2.0, rate, steps, 1e-5, before=before)
    charge = Charge(noise, rate, steps)
    assert 1.999 < total((*before, charge), 1e-5) <= 2.0
    assert noise > noise_multiplier(2.0, rate, steps, 1e-5)
    assert noise_multiplier(2.0, rate, steps, 1e-5, before=()) == noise_multiplier(
        2.0, rate, steps, 1e-5
    )
    within = steps_within(2.0, noise, rate, 1e-5, before=before)
    assert steps <= within < steps + 5
    found = curve(noise, rate, steps, 1e-5, points=4, before=before)
    for step, pld, rdp in zip(*found, strict=True):
        spent = (*before, Charge(noise, rate, step))
        assert pld == pytest.approx(total(spent, 1e-5), rel=3e-4)
        assert rdp == pytest.approx(total(spent, 1e-5, "rdp"), rel=1e-9)
    with pytest.raises(BadInput, match="or spend less before"):
        noise_multiplier(0.4, rate, steps, 1e-5, before=before)
    assert steps_within(0.4, noise, rate, 1e-5, before=before) == 0


def test_steps_that_are_taken_again_are_counted_beside_other_releases(tmp_path: Path) -> None:
    """Resumed after its fourth step of ten, six of them were for nothing, whatever was told before
    the first."""
    told, step = Charge(6.0, 1.0), Charge(1.0, 0.1)
    with Ledger(tmp_path / "l", secure=True) as ledger:
        ledger.reserve(told, 1, last=1)
        for number in range(2, 12):
            ledger.reserve(step, number, last=11)
    again = Ledger(tmp_path / "l", fresh=False, step=5, secure=True)
    assert again.repeated(step) == 6
