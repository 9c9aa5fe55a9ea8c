"""Training: it learns, it is repeatable, it goes on where it was, and it says what it does."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.attacks.spec import FGSM, PGD
from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Change, Event, Note, Progress, Saved, Scalars, Table
from engine.files import sha256_of
from engine.models import build, channel_statistics, load_model, read_card, weights_sha256
from engine.models.spec import CNN, MLP, ResNet18
from engine.random import derive
from engine.robustness.spec import Mixed
from engine.runner import Runner
from engine.store import Checkpoint, Workspace
from engine.task import BenchSpec
from engine.training.augmentation import augment
from engine.training.loop import run_train
from engine.training.optimizers import lr_factor, make_optimizer
from engine.training.spec import (
    SGD,
    Adam,
    AdamW,
    AugmentationSpec,
    ClipSpec,
    Constant,
    Cosine,
    EarlyStopping,
    OneCycle,
    Step,
    Train,
)

Drain = Callable[..., tuple[list[Event], Any]]
SMALL = MLP(width=16, depth=1)
QUICK = Train(model=SMALL, epochs=2, seed=3)


def new_bench(tmp_path: Path, name: str, seed: int = 3, **options: Any) -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = BenchSpec(device="cpu", threads=1, **options)
    return Bench(folder, tmp_path, seed=seed, spec=spec)


def train(tmp_path: Path, drain: Drain, spec: Train, name: str = "a") -> dict[str, Any]:
    summary: dict[str, Any] = drain(run_train(spec, new_bench(tmp_path, name, spec.seed)))[1]
    return summary


def test_a_small_cnn_learns_digits_and_says_how(tmp_path: Path, drain: Drain) -> None:
    spec = Train(seed=7, model=CNN(width=8), epochs=4)
    events, summary = drain(run_train(spec, new_bench(tmp_path, "a", 7)))
    assert summary["clean_accuracy"] > 0.93
    assert summary["epochs"] == 4
    scalars = [e for e in events if isinstance(e, Scalars)]
    names = {name for e in scalars for name in e.values}
    assert names == {
        "train/loss", "train/accuracy", "train/lr", "train/gradient_norm",
        "train/images_per_second", "validation/loss", "validation/accuracy",
    }  # fmt: skip
    steps = [e.step for e in scalars if "train/loss" in e.values]
    assert steps == list(range(1, summary["steps"] + 1))
    progress = [e for e in events if isinstance(e, Progress) and e.unit == "steps"]
    assert progress[-1].done == progress[-1].total == summary["steps"]
    table = next(e for e in events if isinstance(e, Table))
    assert sum(row[3] for row in table.rows) == summary["parameters"]

    loaded = load_model("a", new_bench(tmp_path, "b"))
    assert loaded.card.weights_sha256 == summary["weights_sha256"]
    assert weights_sha256(loaded.module.state_dict()) == summary["weights_sha256"]
    assert loaded.card.metrics["clean_accuracy"] == summary["clean_accuracy"]
    assert loaded.card.training["epochs"] == 4


def test_the_loop_is_the_textbook_one(tmp_path: Path, drain: Drain, bench: Bench) -> None:
    """The same weights, bit for bit, as a loop anyone would write with the same draws."""
    summary = train(tmp_path, drain, QUICK)
    _, data = drain(load(Digits(), bench))
    mean, std = channel_statistics(data.train)
    model = build(
        SMALL, data.shape, 10, mean=mean, std=std, generator_seed=derive(3, "model")
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive(3, "order", epoch))
        order = torch.randperm(len(data.train), generator=generator)
        for part in order.split(64):
            images, labels = data.train.batch(part)
            if len(labels) < 2:
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    assert weights_sha256(model.state_dict()) == summary["weights_sha256"]


EVERYTHING = Train(
    seed=11,
    model=CNN(width=4, dropout=0.3),
    optimizer=AdamW(lr=3e-3),
    schedule=Cosine(warmup=0.5),
    epochs=6,
    l1=1e-6,
    label_smoothing=0.1,
    clip=ClipSpec(norm=2.0, value=0.5),
    augmentation=AugmentationSpec(crop=1, flip=True, noise=0.02),
    ema=0.9,
    early_stopping=EarlyStopping(patience=4),
)

HARDENED = Train(
    seed=5,
    model=CNN(width=4, norm="group", dropout=0.2),
    optimizer=SGD(lr=0.05, nesterov=True),
    schedule=OneCycle(),
    epochs=2,
    batch_size=256,
    adversarial=Mixed(attack=PGD(eps=0.1, steps=2, step_size=0.05)),
)


@pytest.mark.parametrize("spec", [EVERYTHING, HARDENED], ids=["everything", "hardened"])
def test_the_same_spec_gives_the_same_weights(tmp_path: Path, drain: Drain, spec: Train) -> None:
    first = train(tmp_path, drain, spec, "a")
    torch.rand(7)  # what others do with the global generator has no influence
    second = train(tmp_path, drain, spec, "b")
    other = train(tmp_path, drain, spec.model_copy(update={"seed": 12}), "c")
    assert first["weights_sha256"] == second["weights_sha256"] != other["weights_sha256"]


@pytest.mark.parametrize("spec", [EVERYTHING, HARDENED], ids=["everything", "hardened"])
def test_stopped_at_any_yield_it_goes_on_to_the_same_weights(
    tmp_path: Path, drain: Drain, spec: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.bench.BURST", 0.0)  # a yield after every step
    monkeypatch.setattr("engine.models.evaluating.PAUSE", -1.0)  # and within each validation
    events, whole = drain(run_train(spec, new_bench(tmp_path, "whole", spec.seed)))
    n = len(events)
    judging = [i for i, e in enumerate(events) if isinstance(e, Progress) and e.unit == "images"]
    stops = {1, 7, n // 3, n // 2, n // 2 + 1, n - 3, judging[2] + 1, judging[-2] + 1}
    for number, stop in enumerate(sorted(stops)):
        name = f"cut{number}"
        heard = pull(run_train(spec, new_bench(tmp_path, name, spec.seed)), stop)
        bench = new_bench(tmp_path, name, spec.seed)
        checkpoint = bench.checkpoints.latest()
        assert (checkpoint is None) == (stop == 1)  # before the first step there is nothing to keep
        if checkpoint is not None:
            bench.restore(checkpoint)
            heard = [e for e in heard if not isinstance(e, Scalars) or e.step <= checkpoint.step]
        rest, summary = drain(run_train(spec, bench))
        assert summary["weights_sha256"] == whole["weights_sha256"], stop
        said = [
            e.step for e in [*heard, *rest] if isinstance(e, Scalars) and "train/loss" in e.values
        ]
        assert said == list(range(1, summary["steps"] + 1)), stop


def pull(steps: Any, count: int) -> list[Event]:
    """Take `count` events, then cancel, and take what is still said."""
    heard = [next(steps) for _ in range(count)]
    try:
        heard.append(steps.throw(Cancelled()))
        while True:
            heard.append(next(steps))
    except (StopIteration, Cancelled):
        return heard


def test_kill_9_at_any_step_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[[task]]\nname = "a"\nkind = "train"\nseed = 3\nepochs = 40\nema = 0.9\n'
        'model = {kind = "cnn", width = 4, dropout = 0.3}\nbench = {threads = 1, device = "cpu"}\n'
        'schedule = {kind = "cosine", warmup = 1.0}\nearly_stopping = {patience = 50}\n'
        "augmentation = {crop = 1, noise = 0.05}\n"
    )

    def engine(*arguments: str, kill_at: int | None = None) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", *arguments, "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if kill_at is not None and event["event"] == "scalars" and event["step"] >= kill_at:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (0 if kill_at is None else -signal.SIGKILL)

    def summary(workspace: Path) -> dict[str, Any]:
        info = Workspace(workspace).find("a").info()
        assert info.status == "done"
        return dict(info.summary)

    engine("run", str(recipe), "--workspace", str(tmp_path / "whole"))
    cut = tmp_path / "cut"
    engine("run", str(recipe), "--workspace", str(cut), kill_at=100)
    assert Workspace(cut).find("a").info().status == "interrupted"
    engine("resume", "a", "--workspace", str(cut), kill_at=500)
    engine("resume", "a", "--workspace", str(cut))
    whole = summary(tmp_path / "whole")
    assert summary(cut) == whole
    rows = Workspace(cut).find("a").scalars()
    expected = Workspace(tmp_path / "whole").find("a").scalars()
    for name in ("train/loss", "train/accuracy", "validation/accuracy"):
        assert rows[name] == expected[name]


def test_nothing_is_held_across_a_yield(tmp_path: Path) -> None:
    steps = run_train(HARDENED, new_bench(tmp_path, "a", 5))
    before = torch.get_rng_state()
    model: nn.Module | None = None
    for _ in steps:
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert torch.equal(torch.get_rng_state(), before)
        frame = steps.gi_frame
        trainer = frame.f_locals.get("trainer") if frame else None
        if trainer is not None:
            model = trainer.model
            assert not any(module.training for module in model.modules())
    assert model is not None


def test_early_stopping_keeps_the_best(tmp_path: Path, drain: Drain) -> None:
    spec = QUICK.model_copy(
        update={
            "epochs": 200,
            "optimizer": SGD(lr=0.3),
            "early_stopping": EarlyStopping(patience=2),
        }
    )
    events, summary = drain(run_train(spec, new_bench(tmp_path, "a")))
    accuracies = [
        e.values["validation/accuracy"]
        for e in events
        if isinstance(e, Scalars) and "validation/accuracy" in e.values
    ]
    assert len(accuracies) == summary["epochs"] < 200
    assert summary["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert summary["epochs"] == summary["best_epoch"] + 2


def test_the_average_is_the_average(tmp_path: Path, drain: Drain) -> None:
    plain = train(tmp_path, drain, QUICK, "plain")
    averaged = train(tmp_path, drain, QUICK.model_copy(update={"ema": 0.9}), "ema")
    assert plain["weights_sha256"] != averaged["weights_sha256"]
    assert abs(plain["clean_accuracy"] - averaged["clean_accuracy"]) < 0.2


def test_a_loss_that_is_no_number_stops_the_run_at_once(tmp_path: Path, drain: Drain) -> None:
    spec = QUICK.model_copy(update={"optimizer": SGD(lr=1000.0, weight_decay=10.0), "epochs": 50})
    steps = run_train(spec, new_bench(tmp_path, "a"))
    with pytest.raises(CrucibleError, match=r"not a finite number at step \d+; it begins in layer"):
        drain(steps)
    assert not (tmp_path / "runs" / "a" / "model.safetensors").exists()


def test_weights_that_overflow_in_the_last_step_are_no_result(tmp_path: Path, drain: Drain) -> None:
    beyond = SGD(lr=1.0).model_copy(update={"lr": 1e38})  # one step, whose own loss is still fine
    spec = QUICK.model_copy(update={"optimizer": beyond, "epochs": 1, "batch_size": 1295})
    with pytest.raises(CrucibleError, match="not a finite number"):
        drain(run_train(spec, new_bench(tmp_path, "a")))
    assert not (tmp_path / "runs" / "a" / "model.safetensors").exists()


def test_a_cancel_in_the_final_test_keeps_the_model(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.models.evaluating.PAUSE", -1.0)
    events, whole = drain(run_train(QUICK, new_bench(tmp_path, "whole")))
    last = max(i for i, e in enumerate(events) if isinstance(e, Progress) and e.unit == "images")
    pull(run_train(QUICK, new_bench(tmp_path, "cut")), last + 1)
    assert (
        load_model("cut", new_bench(tmp_path, "b")).card.weights_sha256 == whole["weights_sha256"]
    )


def test_clipping_limits_the_step(tmp_path: Path, drain: Drain) -> None:
    spec = QUICK.model_copy(
        update={"optimizer": SGD(lr=1.0, momentum=0.0), "clip": ClipSpec(norm=1e-3), "epochs": 1}
    )
    events, summary = drain(run_train(spec, new_bench(tmp_path, "a")))
    start = build(SMALL, (1, 8, 8), 10, generator_seed=derive(3, "model")).state_dict()
    end = load_model("a", new_bench(tmp_path, "b")).module.state_dict()
    moved = math.sqrt(
        sum(float((end[n] - t).square().sum()) for n, t in start.items() if "norm" not in n)
    )
    assert 0 < moved <= 1e-3 * summary["steps"] * 1.001
    norms = [e.values for e in events if isinstance(e, Scalars) and "train/loss" in e.values]
    assert all("train/gradient_norm" in values for values in norms)


def test_a_resumed_run_repeats_its_live_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, also long after the checkpoint that it goes on from."""
    monkeypatch.setattr("engine.bench.BURST", 0.0)
    monkeypatch.setattr(
        "engine.training.loop.Trainer._checkpoint_if_due",
        lambda self, least=None: self.at.step % 10 == 0 and self.checkpoint(),
    )
    workspace = Workspace(tmp_path)

    def run(changes: dict[int, float], kills: tuple[int, ...] = ()) -> tuple[str, Any, list[Event]]:
        """Of a run that is looked at again and again: when what is set, and it is killed."""
        run = workspace.create(QUICK.to_dict(), name="live")
        looks = 0

        def between() -> None:
            nonlocal looks
            looks += 1
            if looks in changes:
                runner.set_control("lr", changes[looks])
            if looks in kills:
                raise KeyboardInterrupt

        runner = Runner(workspace, lambda *_: None, between=between)
        for _ in kills:
            with pytest.raises(KeyboardInterrupt):
                runner.run(run)
        assert runner.run(run) == "done"
        made = [event for *_, event in run.events() if isinstance(event, Change)]
        card = read_card(run.folder / "model.safetensors")
        held = {(c.name, c.value, c.step) for c in made}  # but those that were thought better of
        assert {(c["name"], c["value"], c["step"]) for c in card.training["changes"]} <= held
        assert bool(card.training["changes"]) == bool(made)
        return run.info().summary["weights_sha256"], run.scalars()["train/lr"], made

    changes = {30: 0.01, 31: 0.02, 61: 5e-4}
    _, (steps, rates), made = run(changes)
    assert [change.value for change in made] == [0.01, 0.02, 5e-4]
    assert made[0].step <= made[1].step < made[2].step < len(steps)
    assert rates[made[2].step - 2 : made[2].step] == [0.02, 5e-4]
    for kills in ((32,), (62,), (75,), (40, 43)):
        before = {look: value for look, value in changes.items() if look < kills[0]}
        assert run(before, kills) == run(before)


def test_a_cancelled_run_keeps_its_model(tmp_path: Path) -> None:
    steps = run_train(QUICK.model_copy(update={"epochs": 1000}), new_bench(tmp_path, "a"))
    heard = pull(steps, 60)
    card = load_model("a", new_bench(tmp_path, "b")).card
    assert card.metrics["steps"] > 0
    assert [event.path for event in heard if isinstance(event, Saved)] == ["model.safetensors"]


def test_a_cancelled_run_lists_its_model(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    runner = Runner(
        workspace,
        lambda run, events: None,
        between=lambda: runner.cancel() if next(waits, None) is None else None,
    )
    waits = iter(range(60))
    run = workspace.create(QUICK.model_copy(update={"epochs": 1000}).to_dict(), name="cut")
    assert runner.run(run) == "cancelled"
    info = run.info()
    (model,) = info.artifacts
    assert (model["name"], model["path"]) == ("model", "model.safetensors")
    assert model["sha256"] == sha256_of(run.folder / "model.safetensors")
    assert (
        info.summary["weights_sha256"]
        == load_model("cut", new_bench(tmp_path, "b")).card.weights_sha256
    )


def test_a_cancel_at_the_last_word_keeps_the_whole_summary(tmp_path: Path, drain: Drain) -> None:
    _, whole = drain(run_train(QUICK, new_bench(tmp_path, "whole")))
    steps = run_train(QUICK, new_bench(tmp_path, "cut"))
    while not isinstance(next(steps), Saved):
        pass
    with pytest.raises(StopIteration) as end:
        steps.throw(Cancelled())
    assert end.value.value == whole


@pytest.mark.parametrize(("steps", "warned"), [(1, True), (2, False)])
def test_a_weak_attack_is_told_once(tmp_path: Path, drain: Drain, steps: int, warned: bool) -> None:
    attack = PGD(norm="l2", eps=2.0, steps=steps, step_size=1.0)
    spec = QUICK.model_copy(update={"adversarial": Mixed(attack=attack), "epochs": 1})
    first = pull(run_train(spec, new_bench(tmp_path, "a")), 40)
    bench = new_bench(tmp_path, "a")
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    bench.restore(checkpoint)
    rest, _ = drain(run_train(spec, bench))
    said = [e.text for e in [*first, *rest] if isinstance(e, Note) and e.level == "warning"]
    assert said == ([f"adversarial training: {attack.advice()}"] if warned else [])


# --- starting from another model ------------------------------------------------------------------


def test_init_starts_from_the_weights_and_inherits_data_and_model(
    tmp_path: Path, drain: Drain
) -> None:
    first = QUICK.model_copy(update={"data": Digits(size=12), "epochs": 8})
    one = train(tmp_path, drain, first, "one")
    again = Train(init="one", epochs=1, seed=4, optimizer=SGD(lr=1e-6))
    two = train(tmp_path, drain, again, "two")
    card = load_model("two", new_bench(tmp_path, "b")).card
    assert (card.model, card.data) == (SMALL, Digits(size=12))
    assert abs(one["clean_accuracy"] - two["clean_accuracy"]) < 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": CNN(width=4)}, "do not fit the model"),
        ({"data": Digits(size=10)}, r"takes images \(1, 8, 8\) of 10 classes; the data has"),
    ],
)
def test_init_that_does_not_fit_is_refused(
    tmp_path: Path, drain: Drain, change: dict[str, Any], words: str
) -> None:
    train(tmp_path, drain, QUICK, "one")
    with pytest.raises(BadInput, match=words):
        train(tmp_path, drain, Train(init="one", **change), "two")


def test_early_stopping_needs_a_validation_split(tmp_path: Path, drain: Drain) -> None:
    spec = Train(data=Digits(validation=0.0), early_stopping=EarlyStopping())
    with pytest.raises(BadInput, match="needs a validation split"):
        train(tmp_path, drain, spec)


def test_adversarial_training_makes_a_difference(tmp_path: Path, drain: Drain) -> None:
    from engine.attacks import attack

    base = Train(seed=1, model=CNN(width=8), epochs=6)
    train(tmp_path, drain, base, "plain")
    defence = Mixed(attack=FGSM(eps=0.15, random_start=True))
    train(tmp_path, drain, base.model_copy(update={"adversarial": defence}), "hard")
    bench = new_bench(tmp_path, "b")
    _, data = drain(load(Digits(), bench))
    images, labels = data.test.batch(torch.arange(200))
    spec = PGD(eps=0.15, steps=10, step_size=0.03)
    robust = [
        attack(load_model(name, bench).module, images, labels, spec).robust_accuracy
        for name in ("plain", "hard")
    ]
    assert robust[0] + 0.2 < robust[1]


@pytest.mark.parametrize("rest", [1, 2])
def test_a_rest_of_one_image_harms_no_batch_norm(tmp_path: Path, drain: Drain, rest: int) -> None:
    _, data = drain(load(Digits(), new_bench(tmp_path, "d")))
    count = len(data.train)
    size = next(s for s in range(100, count) if count % s == rest)
    spec = Train(model=CNN(width=2, depth=1), epochs=1, batch_size=size)
    assert train(tmp_path, drain, spec)["steps"] == count // size + (rest > 1)


# --- the parts ------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert [lr_factor(Constant(), e, 10) for e in (0, 5, 9.9)] == [1, 1, 1]
    assert [lr_factor(Step(every=3, factor=0.1), e, 10) for e in (0, 2.9, 3, 6)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert lr_factor(Cosine(floor=0.2), 0, 10) == 1
    assert lr_factor(Cosine(floor=0.2), 5, 10) == pytest.approx(0.6)
    assert lr_factor(Cosine(floor=0.2), 10, 10) == pytest.approx(0.2)
    assert lr_factor(Constant(warmup=2), 1, 10) == 0.5
    assert 0 < lr_factor(Constant(warmup=2), 0, 10) < 0.01


@pytest.mark.parametrize("epochs", [1, 10])
def test_one_cycle_is_torchs(epochs: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    total = 1000  # torch counts from 0 to total - 1, hence the small difference
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total + 1)
    for step in range(total + 1):
        mine = lr_factor(OneCycle(), step / total * epochs, epochs)
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"], abs=0.003), step
        optimizer.step()
        if step < total:
            theirs.step()


@pytest.mark.parametrize("spec", [SGD(lr=0.1), SGD(lr=0.1, nesterov=True), Adam(), AdamW()])
def test_optimisers_take_the_specs_values(spec: Any) -> None:
    optimizer = make_optimizer(spec, [nn.Parameter(torch.zeros(1))], torch.device("cpu"))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (spec.lr, spec.weight_decay)
    for ours, theirs in (("momentum", "momentum"), ("nesterov", "nesterov")):
        if hasattr(spec, ours):
            assert group[theirs] == getattr(spec, ours)
    if hasattr(spec, "beta1"):
        assert group["betas"] == (spec.beta1, spec.beta2)


POLICIES = ["none", "auto_augment", "rand_augment", "trivial_augment"]


@pytest.mark.parametrize("policy", POLICIES)
def test_augmentation_belongs_to_the_sample(policy: Any) -> None:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(100, 112)
    spec = AugmentationSpec(crop=2, flip=True, noise=0.05, policy=policy)
    before = torch.get_rng_state()
    whole = augment(images, ids, spec, seed=9)
    assert torch.equal(torch.get_rng_state(), before)
    picked = torch.tensor([7, 2, 11])
    assert torch.equal(augment(images[picked], ids[picked], spec, seed=9), whole[picked])
    assert not torch.equal(augment(images, ids, spec, seed=10), whole)
    assert whole.shape == images.shape
    assert whole.dtype == torch.float32
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_crop_shifts_and_flip_mirrors() -> None:
    images = torch.zeros(200, 1, 7, 7)
    images[:, 0, 3, 2] = 1
    moved = augment(images, torch.arange(200), AugmentationSpec(crop=2), seed=1)
    places = {tuple(p[1:].tolist()) for p in moved[:, 0].nonzero()}
    assert places == {(y, x) for y in range(1, 6) for x in range(0, 5)}
    mirrored = augment(images, torch.arange(200), AugmentationSpec(flip=True), seed=1)
    share = float(mirrored[:, 0, 3, 4].mean())
    assert 0.38 < share < 0.62
    assert float((mirrored[:, 0, 3, 2] + mirrored[:, 0, 3, 4]).min()) == 1


def test_options_of_the_bench_train_too(tmp_path: Path, drain: Drain) -> None:
    bench = new_bench(tmp_path, "a", precision="bf16", channels_last=True)
    _, summary = drain(run_train(Train(model=CNN(width=4), epochs=3), bench))
    assert summary["clean_accuracy"] > 0.7
    loaded = load_model("a", new_bench(tmp_path, "b"))
    assert all(p.dtype == torch.float32 for p in loaded.module.parameters())


def test_resnet_takes_small_images(tmp_path: Path, drain: Drain) -> None:
    spec = Train(model=ResNet18(), data=Digits(size=16, test=0.9), epochs=1, batch_size=128)
    assert train(tmp_path, drain, spec)["parameters"] > 11_000_000


def test_batch_norm_refuses_batches_of_one(tmp_path: Path, drain: Drain) -> None:
    with pytest.raises(BadInput, match="at least 2 images"):
        train(tmp_path, drain, Train(model=CNN(width=2), batch_size=1))


def test_a_checkpoint_of_another_shape_of_run_is_not_taken(tmp_path: Path, drain: Drain) -> None:
    pull(run_train(QUICK, new_bench(tmp_path, "a")), 30)
    bench = new_bench(tmp_path, "a")
    checkpoint = bench.checkpoints.latest()
    assert isinstance(checkpoint, Checkpoint)
    bench.restore(replace(checkpoint, tensors={"model.nonsense": torch.zeros(1)}))
    with pytest.raises(RuntimeError, match="nonsense"):
        drain(run_train(QUICK, bench))


def test_the_note_of_a_resume_names_the_step(tmp_path: Path, drain: Drain) -> None:
    pull(run_train(QUICK, new_bench(tmp_path, "a")), 30)
    bench = new_bench(tmp_path, "a")
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    bench.restore(checkpoint)
    events, _ = drain(run_train(QUICK, bench))
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any(f"resumed at step {checkpoint.step}" in text for text in notes)
