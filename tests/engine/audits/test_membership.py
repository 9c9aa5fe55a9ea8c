"""Membership inference: its scores against loops, its shadows against the training loop, and what
it says of models that leak everything and nothing."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from scipy.stats import norm

from engine.audits.roc import curve
from engine.audits.scores import confidence, loss_of, scores
from engine.audits.shadows import (
    Recipe,
    Shadows,
    can_batch,
    plan,
    quicker_together,
    train_shadows,
)
from engine.audits.spec import Audit, Membership
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.data.split import resident
from engine.data.splitting import Rows
from engine.errors import SpecError
from engine.events import Event, Images, Note, Progress, Scalars, drain
from engine.models import ModelCard, build, save_model
from engine.models.spec import CNN, MLP, RNN, ModelSpec, Strided, Transformer
from engine.task import BenchSpec, parse_task
from engine.training.spec import SGD, AugmentationSpec, ClipSpec, Cosine, Train
from tests.engine.audits.conftest import House

DATA = Digits(test=0.4)
SMALL = MLP(width=32, depth=1)


def new_bench(folder: Path, seed: int = 0) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, folder, seed=seed, spec=BenchSpec(device="cpu", threads=1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found: Dataset = drain(load(DATA, new_bench(tmp_path_factory.mktemp("digits"))))
    return found


# --- scores ---------------------------------------------------------------------------------------


def test_the_log_odds_are_those_of_the_probability_also_where_it_rounds_to_one() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 7, generator=draw, dtype=torch.float64)
    labels = torch.randint(7, (50,), generator=draw)
    p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    found = confidence(logits, labels)
    assert torch.allclose(found, (p / (1 - p)).log(), rtol=1e-9)
    assert torch.allclose(loss_of(found), F.cross_entropy(logits, labels, reduction="none"))
    sure = torch.tensor([[100.0, 0.0, 0.0], [900.0, 0.0, 0.0], [math.inf, 0.0, 0.0]])
    odds = confidence(sure, torch.zeros(3, dtype=torch.int64))
    assert odds[0] == pytest.approx(100 - math.log(2))
    assert odds.isfinite().all()


@pytest.mark.parametrize("variance", ["own", "shared"])
def test_scores_are_those_of_the_papers_sample_by_sample(variance: str) -> None:
    draw = torch.Generator().manual_seed(1)
    shadows = torch.randn(10, 30, generator=draw, dtype=torch.float64) * 2 + 5
    target = torch.randn(30, generator=draw, dtype=torch.float64) * 3 + 5
    included = torch.zeros(10, 30, dtype=torch.bool)
    for n in range(30):
        included[torch.randperm(10, generator=draw)[:5], n] = True
    found = scores(
        ("loss", "calibrated", "lira_offline", "lira"), target, shadows, included, variance
    )
    own = {True: [], False: []}
    for n in range(30):
        for inside in (True, False):
            own[inside].append(shadows[included[:, n] == inside, n].numpy())
    pooled = {
        inside: math.sqrt(sum(((v - v.mean()) ** 2).sum() for v in each) / (30 * 4))
        for inside, each in own.items()
    }
    for n in range(30):
        x = float(target[n])
        density = {}
        for inside in (True, False):
            values = own[inside][n]
            spread = values.std(ddof=1) if variance == "own" else pooled[inside]
            density[inside] = norm.logpdf(x, values.mean(), spread)
            if not inside:
                z = norm.ppf(norm.cdf(x, values.mean(), spread))
                if abs(z) < 5:
                    assert float(found["lira_offline"][n]) == pytest.approx(z, abs=1e-6)
        assert float(found["lira"][n]) == pytest.approx(density[True] - density[False])
        losses = [math.log1p(math.exp(-v)) for v in own[False][n]]
        assert float(found["loss"][n]) == pytest.approx(-math.log1p(math.exp(-x)))
        assert float(found["calibrated"][n]) == pytest.approx(
            sum(losses) / 5 - math.log1p(math.exp(-x))
        )


def test_the_likelihood_ratio_tells_what_it_is_made_to_tell() -> None:
    """Models that saw a sample say 2 more of it, on scales that differ by sample: the loss cannot
    tell who is a member, the ratio can."""
    draw = torch.Generator().manual_seed(2)
    hard = 6 * torch.randn(400, generator=draw, dtype=torch.float64)
    included = torch.rand(16, 400, generator=draw) < 0.5
    noise = torch.randn(17, 400, generator=draw, dtype=torch.float64)
    shadows = hard + 2 * included + 0.7 * noise[:16]
    member = torch.arange(400) < 200
    target = hard + 2 * member + 0.7 * noise[16]
    found = scores(("loss", "lira_offline", "lira"), target, shadows, included, "auto")
    areas = {name: curve(score, member).auc for name, score in found.items()}
    assert areas["loss"] < 0.65
    assert areas["lira"] > 0.95
    assert areas["lira_offline"] > 0.9


# --- shadows --------------------------------------------------------------------------------------


def test_every_image_is_in_half_of_the_shadows_and_sets_are_as_large_as_the_models(
    data: Dataset,
) -> None:
    train = len(data.train)
    targets = torch.cat([torch.arange(100), train + torch.arange(100)])
    drawn = plan(data, targets, 6, seed=3)
    assert drawn.included.sum(0).tolist() == [3] * 200
    assert drawn.included.sum(1).tolist() == [100] * 6
    for own, rows in zip(drawn.included, drawn.rows, strict=True):
        assert len(rows) == len(rows.unique()) == train
        inside = torch.isin(targets, rows)
        assert torch.equal(inside, own)
    images, labels = drawn.pool.batch(torch.tensor([train + 2, 0, train, 5]))
    for k, (split, place) in enumerate(
        [(data.test, 2), (data.train, 0), (data.test, 0), (data.train, 5)]
    ):
        image, label = split.batch(torch.tensor([place]))
        assert torch.equal(images[k], image[0])
        assert labels[k] == label[0]
    assert torch.equal(plan(data, targets, 6, seed=3).rows, drawn.rows)


RICH = Train(
    optimizer=SGD(lr=0.05, weight_decay=1e-3),
    schedule=Cosine(warmup=0.5),
    epochs=2,
    batch_size=100,
    l1=1e-5,
    label_smoothing=0.05,
    clip=ClipSpec(value=0.2, norm=0.7),
    augmentation=AugmentationSpec(crop=1, noise=0.02),
    ema=0.9,
)


@pytest.mark.parametrize(
    "model",
    [
        SMALL,
        MLP(width=16, depth=2, norm="layer", residual=True),
        CNN(width=4, depth=2, norm="group"),
        Strided(channels=(4, 8), hidden=16, normalise=True),
        Transformer(width=16, depth=1, heads=2),
    ],
    ids=lambda m: m.kind,
)
def test_one_graph_trains_the_models_that_the_training_loop_trains(
    data: Dataset, model: ModelSpec, tmp_path: Path
) -> None:
    """Step by step the same: weights and answers agree up to rounding."""
    targets = torch.cat([torch.arange(60), len(data.train) + torch.arange(60)])
    drawn = plan(data, targets, 4, seed=0)
    recipe = Recipe(RICH, model, data)
    assert can_batch(recipe)
    both = []
    for how in ("batched", "one_by_one"):
        found = Shadows()
        events: list[Event] = []
        for event in train_shadows(recipe, drawn, new_bench(tmp_path / how), how, found):
            events.append(event)
        assert all(isinstance(event, Progress) for event in events)
        both.append(torch.stack(found.confidences))
        assert not (tmp_path / how / "shadow").exists()
    assert torch.allclose(both[0], both[1], atol=2e-3)
    assert (both[0][0] - both[0][1]).abs().max() > 0.05  # they are models of their own


def test_what_cannot_be_batched_is_trained_one_by_one(data: Dataset, tmp_path: Path) -> None:
    assert not can_batch(Recipe(Train(), CNN(norm="batch"), data))
    assert not can_batch(Recipe(Train(), RNN(), data))
    assert not can_batch(Recipe(Train(bench=BenchSpec(precision="bf16")), SMALL, data))
    targets = torch.cat([torch.arange(30), len(data.train) + torch.arange(30)])
    drawn = plan(data, targets, 2, seed=0)
    found = Shadows()
    recipe = Recipe(Train(epochs=2), CNN(width=4, depth=1), data)
    drain(train_shadows(recipe, drawn, new_bench(tmp_path), "batched", found))
    assert len(found) == 2
    assert min(found.accuracies) > 0.5


def test_a_heavy_convolution_is_not_batched_on_a_cpu(data: Dataset, tmp_path: Path) -> None:
    bench = new_bench(tmp_path)
    assert quicker_together(Recipe(Train(), SMALL, data), bench)
    assert quicker_together(Recipe(Train(), CNN(width=8, norm="none"), data), bench)
    assert not quicker_together(
        Recipe(Train(batch_size=512), CNN(width=16, norm="none"), data), bench
    )


# --- the audit ------------------------------------------------------------------------------------


def random_labels(data: Dataset, count: int) -> Dataset:
    """`count` training and as many test images, whose labels say nothing."""
    images = torch.cat([data.train.batch(torch.arange(len(data.train)))[0]])
    images = images[: 2 * count].mul(255).round().to(torch.uint8)
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2 * count,), generator=draw)
    none = torch.empty(0, dtype=torch.int64)
    rows = Rows(torch.arange(count), none, torch.arange(count, 2 * count))
    return resident(images, labels, data.classes, rows, torch.device("cpu"))


def test_a_model_that_learnt_random_labels_by_heart_gives_its_members_away(
    house: House, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = random_labels(data, 150)

    def give(*_: Any) -> Generator[Event, None, Dataset]:
        yield from ()
        return own

    monkeypatch.setattr("engine.training.loop.load", give)
    monkeypatch.setattr("engine.audits.auditing.load", give)
    model = MLP(width=128, depth=2)
    made = house.run("victim", Train(model=model, epochs=60, batch_size=32, seed=1))
    assert made.status == "done"
    audit = Audit(model="victim", audit=Membership(samples=0, shadows=8))
    found = house.run("audit", audit)
    assert found.status == "done", found.error
    areas = found.summary["auc_by_method"]
    assert min(areas.values()) > 0.85
    assert areas["lira"] > 0.99
    assert found.summary["auc_interval"][0] > 0.95
    assert found.summary["method"] == "lira"
    assert found.summary["tpr_at_fpr_0.01"] > 0.8
    assert (found.summary["members"], found.summary["others"]) == (150, 150)
    assert found.summary["shadow_accuracy"] == pytest.approx(0.1, abs=0.06)
    table = found.table("membership")
    assert [row[0] for row in table.rows] == ["loss", "calibrated", "lira_offline", "lira"]
    roc = found.table("roc")
    assert {row[0] for row in roc.rows} == set(areas)
    counts = [row for row in found.table("scores").rows if row[0] == "lira"]
    assert sum(row[3] for row in counts) == sum(row[4] for row in counts) == 150
    (shown,) = [e for e in found.events if isinstance(e, Images)]
    assert shown.name == "exposed"
    assert len(shown.pixels) == 24
    assert any(isinstance(e, Scalars) for e in found.events)
    kept = safetensors.torch.load_file(found.folder / "membership.safetensors")
    again = curve(kept["score.lira"], kept["member"]).auc
    assert again == pytest.approx(found.summary["auc"])
    assert kept["shadow_included"].sum(0).tolist() == [4] * 300


def test_a_model_that_saw_neither_split_tells_nothing(house: House, data: Dataset) -> None:
    """Untrained, or by the loss alone, which needs no shadows and no word on its training."""
    model = build(SMALL, data.shape, 10, generator_seed=5)
    card = ModelCard(model=SMALL, data=DATA, shape=data.shape, classes=data.classes)
    path = house.workspace.root / "fresh.safetensors"
    save_model(path, model, card)
    found = house.run("audit", Audit(model=str(path), audit=Membership(method=("loss",))))
    assert found.status == "done"
    low, high = found.summary["auc_interval"]
    assert low <= 0.5 <= high
    assert high - low < 0.1
    refused = house.run("refused", Audit(model=str(path), audit=Membership()))
    assert refused.status == "failed"
    assert 'method = ["loss"]' in refused.error


def test_a_cancel_keeps_the_shadows_that_are_there(house: House) -> None:
    house.run("victim", Train(model=CNN(width=4, depth=1), data=DATA, epochs=1))

    def watch(runner: Any, events: Any) -> None:
        if any(isinstance(e, Progress) and e.done >= 5 for e in events):
            runner.cancel()

    spec = Membership(samples=50, shadows=200)
    found = house.run("audit", Audit(model="victim", audit=spec), watch)
    assert found.status == "cancelled"
    assert found.summary["partial"] is True
    assert 5 <= found.summary["shadows"] < 200
    assert set(found.summary["auc_by_method"]) == set(spec.method)
    assert any(isinstance(e, Note) and "stopped after" in e.text for e in found.events)
    early = house.run("early", Audit(model="victim", audit=spec), lambda r, e: r.cancel())
    assert early.status == "cancelled"
    assert set(early.summary.get("auc_by_method", {"loss": 0})) == {"loss"}


def test_the_same_seed_gives_the_same_figures(house: House) -> None:
    house.run("victim", Train(model=SMALL, data=DATA, epochs=2))
    audit = Audit(model="victim", audit=Membership(samples=60, shadows=4))
    first, second = (house.run(name, audit).summary for name in ("a", "b"))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_what_does_not_fit_is_refused_in_words() -> None:
    for values, words in (
        ({"shadows": 7}, "take 6 or 8"),
        ({"method": ["loss", "loss"]}, "each method is run once"),
        ({"variance": "own", "shadows": 4}, "6 shadows or more"),
        ({"method": []}, "at least 1"),
        ({"method": ["lara"]}, "did you mean 'lira'"),
    ):
        with pytest.raises(SpecError, match=words):
            parse_task({"kind": "audit", "model": "m", "audit": {"kind": "membership", **values}})
    with pytest.raises(SpecError, match="one of membership, canaries, extraction, inversion"):
        parse_task({"kind": "audit", "model": "m", "audit": {}})


def test_too_few_images_are_refused(house: House) -> None:
    house.run("victim", Train(model=SMALL, data=Digits(test=0.005), epochs=1))
    found = house.run("audit", Audit(model="victim", audit=Membership()))
    assert found.status == "failed"
    assert "at least 20 of each" in found.error
