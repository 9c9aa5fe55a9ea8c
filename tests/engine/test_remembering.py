"""The fixed part of a model is computed once, and nothing else changes by that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.errors import Cancelled
from engine.events import Event, Scalars
from engine.models import build, load_model
from engine.models.scattering import Scattering as Wavelets
from engine.models.spec import CNN, Scattering
from engine.privacy.spec import DPSGD
from engine.task import BenchSpec
from engine.training import remembering
from engine.training.loop import run_train
from engine.training.remembering import Remembered, learning_part, remembered
from engine.training.spec import SGD, AugmentationSpec, Train

Drain = Callable[..., tuple[list[Event], Any]]
SPEC = Train(model=Scattering(centre=True), optimizer=SGD(lr=0.05), epochs=3, seed=3, ema=0.9)


def a_bench(tmp_path: Path, name: str = "a") -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, tmp_path, seed=3, spec=BenchSpec(device="cpu", threads=1))


@pytest.fixture
def digits(tmp_path: Path, drain: Drain) -> Dataset:
    data: Dataset = drain(load(Digits(), a_bench(tmp_path, "data")))[1]
    return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the transform is given."""
    seen: list[int] = []
    true = Wavelets.forward

    def forward(self: Wavelets, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return true(self, images)

    monkeypatch.setattr(Wavelets, "forward", forward)
    return seen


@pytest.mark.parametrize("private", [False, True])
def test_a_run_is_the_same_as_without_but_each_image_is_transformed_once(
    tmp_path: Path,
    drain: Drain,
    digits: Dataset,
    counted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    private: bool,
) -> None:
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=0.1) if private else None
    spec = SPEC.model_copy(update={"privacy": privacy})
    _, once = drain(run_train(spec, a_bench(tmp_path, "once")))
    every = len(digits.train) + len(digits.validation) + len(digits.test)
    assert sum(counted) < every + 50  # a few to know shapes by
    counted.clear()
    monkeypatch.setattr(remembering, "SHARE", 10**12)
    _, again = drain(run_train(spec, a_bench(tmp_path, "again")))
    assert sum(counted) > 3 * len(digits.train)
    models = (load_model(name, a_bench(tmp_path, "b")).module for name in ("once", "again"))
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    for key in ("clean_accuracy", "validation_accuracy"):
        assert once[key] == pytest.approx(again[key], abs=0.005)
    assert once["clean_accuracy"] > (0.5 if private else 0.9)


def test_a_run_that_goes_on_ends_with_the_same_weights(tmp_path: Path, drain: Drain) -> None:
    _, whole = drain(run_train(SPEC, a_bench(tmp_path, "whole")))
    bench = a_bench(tmp_path, "cut")
    steps = run_train(SPEC, bench)
    for event in steps:
        if isinstance(event, Scalars) and "train/loss" in event.values and event.step >= 12:
            break
    with pytest.raises(StopIteration):
        steps.throw(Cancelled())
        while True:
            next(steps)
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    again = a_bench(tmp_path, "cut")
    again.restore(checkpoint)
    _, resumed = drain(run_train(SPEC, again))
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_what_changes_with_the_epoch_is_not_remembered(
    tmp_path: Path, drain: Drain, digits: Dataset, counted: list[int]
) -> None:
    spec = SPEC.model_copy(update={"augmentation": AugmentationSpec(crop=1), "epochs": 2})
    drain(run_train(spec, a_bench(tmp_path)))
    assert sum(counted) > 2 * len(digits.train)


def test_features_and_the_part_behind_them_are_the_model(digits: Dataset) -> None:
    spec = Scattering(channels=(4,), hidden=(5,))
    model = build(spec, digits.shape, 10).eval()
    found = remembered(digits, model)
    assert found is not None
    split, places = found.train, torch.tensor([5, 0, 130])
    assert isinstance(split, Remembered)
    rest = learning_part(model)
    names = dict(model.named_parameters())
    assert all(names[name] is p for name, p in rest.named_parameters())
    with torch.no_grad():
        expected = model(digits.train.batch(places)[0])
        torch.testing.assert_close(rest(split.batch(places)[0]), expected)  # not computed yet
        assert list(split.fill())[-1] == len(split)
        features, labels = split.batch(places)
        torch.testing.assert_close(rest(features), expected)
    assert torch.equal(labels, digits.train.labels[places])
    assert split.batch(places[:0])[0].shape == (0, 81, 2, 2)
    with pytest.raises(IndexError):
        split.batch(torch.tensor([len(split)]))


def test_models_without_such_a_part_and_too_many_features_are_left_alone(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(CNN(), digits.shape, 10)
    assert remembered(digits, model) is None
    assert learning_part(model) is model
    values = 81 * 4 * (len(digits.train) + len(digits.validation))
    for memory, fits in ((16 * values, True), (16 * values - 1, False)):
        monkeypatch.setattr(remembering, "physical_memory", lambda size=memory: float(size))
        found = remembered(digits, build(Scattering(), digits.shape, 10))
        assert (found is not None) == fits
