"""DP-SGD inside training: the textbook's steps, the accountant's budget, nothing told past it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from engine.attacks.spec import PGD
from engine.bench import Bench
from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled
from engine.events import Change, Event, Note, Scalars, Table
from engine.models import build, load_model, read_card
from engine.models.spec import CNN, MLP, BitDepth, Module, Transform
from engine.models.transforming import run_transform
from engine.privacy.accounting import epsilon, total
from engine.privacy.clipping import Clipper
from engine.privacy.dpsgd import LEDGER, DPSGDMechanism
from engine.privacy.ledger import Charge, Ledger, read_charges
from engine.privacy.noise import Draws, SeededDraws, SystemDraws
from engine.privacy.spec import DPSGD, Naive
from engine.random import derive
from engine.robustness.spec import Mixed
from engine.store import Checkpoint
from engine.task import BenchSpec
from engine.training.loop import run_train, salt_of
from engine.training.mechanism import PrivateSetting
from engine.training.spec import SGD, Adam, ClipSpec, Train

Drain = Callable[..., tuple[list[Event], Any]]
SMALL = MLP(width=16, depth=1, activation="tanh")
PRIVATE = Train(
    model=SMALL,
    epochs=3,
    seed=3,
    batch_size=100,
    optimizer=SGD(lr=1.0, momentum=0.0),
    privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=0.5),
)


def a_bench(
    tmp_path: Path, name: str = "a", seed: int = 3, *, channels_last: bool = False
) -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = BenchSpec(device="cpu", threads=1, channels_last=channels_last)
    return Bench(folder, tmp_path, seed=seed, spec=spec)


def with_privacy(**values: Any) -> Train:
    return PRIVATE.model_copy(update={"privacy": DPSGD(**values)})


def notes(events: list[Event], level: str) -> str:
    return "\n".join(e.text for e in events if isinstance(e, Note) and e.level == level)


# --- the steps ------------------------------------------------------------------------------------


def test_it_is_the_algorithm_of_the_paper(tmp_path: Path, drain: Drain) -> None:
    """Sample, one gradient an image, clip, sum, noise, divide: by a loop over images."""
    drain(run_train(PRIVATE, a_bench(tmp_path)))
    trained = load_model("a", a_bench(tmp_path, "b")).module
    _, data = drain(load(Digits(), a_bench(tmp_path, "b")))
    model = build(SMALL, data.shape, 10, generator_seed=derive(3, "model"))
    count, parameters = len(data.train), list(model.parameters())
    salt = a_bench(tmp_path, "c").lineage(salt_of(PRIVATE, data.fingerprint, model))
    rate = 100 / count
    for step in range(3 * round(count / 100)):
        draws = torch.Generator().manual_seed(derive(3, "privacy", salt, "sampling", step))
        chosen = torch.rand(count, generator=draws, dtype=torch.float64) < rate
        total = [torch.zeros_like(p) for p in parameters]
        for place in chosen.nonzero().flatten():
            images, labels = data.train.batch(place.view(1))
            loss = nn.functional.cross_entropy(model(images), labels)
            gradient = torch.autograd.grad(loss, parameters)
            norm = torch.cat([g.flatten() for g in gradient]).norm()
            for sum_, part in zip(total, gradient, strict=True):
                sum_ += part * min(1.0, 0.5 / float(norm))
        draws = torch.Generator().manual_seed(derive(3, "privacy", salt, "noise", step))
        noise = torch.randn(sum(p.numel() for p in parameters), generator=draws)
        parts = noise.split([p.numel() for p in parameters])
        with torch.no_grad():
            for p, sum_, part in zip(parameters, total, parts, strict=True):
                p -= 1.0 * (sum_ + 1.0 * 0.5 * part.view_as(p)) / 100
    for ours, textbook in zip(trained.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, textbook, rtol=1e-4, atol=1e-5)


def test_each_layer_has_its_share_of_the_norm_where_asked(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise of nothing, no layer moves further than its share of each image's norm."""
    moved = steps_of(
        tmp_path, drain, monkeypatch, with_privacy(clipping="per_layer", max_grad_norm=0.1)
    )
    layers = len(moved[0])
    for step in moved:
        for length, images in step:
            assert length <= images * 0.1 / math.sqrt(layers) * 1.001


def steps_of(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch, spec: Train
) -> list[list[tuple[float, int]]]:
    """Of each step, for each group of weights, the length of the sum of clipped gradients and the
    number of images in it."""
    without_noise(monkeypatch)
    found = []
    true = DPSGDMechanism.gradients

    def watched(self: DPSGDMechanism, batch: Any) -> Any:
        outcome = true(self, batch)
        sums: dict[str, float] = {}
        for name, p in self.setting.model.named_parameters():
            assert p.grad is not None
            layer = name.rsplit(".", 1)[0]
            sums[layer] = sums.get(layer, 0.0) + float(p.grad.square().sum()) * 100**2
        found.append([(math.sqrt(s), len(batch.images)) for s in sums.values()])
        return outcome

    monkeypatch.setattr(DPSGDMechanism, "gradients", watched)
    drain(run_train(spec, a_bench(tmp_path)))
    return found


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cheats: its noise is quietly zero."""
    true = SeededDraws.normal

    def nothing(self: SeededDraws, purpose: str, step: int, count: int) -> Any:
        return true(self, purpose, step, count) * 0

    monkeypatch.setattr(SeededDraws, "normal", nothing)


def test_the_adaptive_norm_finds_the_quantile(tmp_path: Path, drain: Drain) -> None:
    spec = with_privacy(noise_multiplier=0.5, clipping="adaptive", max_grad_norm=50.0, clip_lr=0.5)
    events, _ = drain(run_train(spec, a_bench(tmp_path)))
    values = [e.values for e in events if isinstance(e, Scalars)]
    clipped = [v["privacy/clipped"] for v in values if "privacy/clipped" in v]
    norms = [v["privacy/max_grad_norm"] for v in values if "privacy/max_grad_norm" in v]
    assert clipped[0] == 0.0
    assert norms[-1] < norms[0] / 5
    assert 0.3 < sum(clipped[-8:]) / 8 < 0.7  # asked for: half


def test_an_adaptive_norm_is_paid_for_with_more_noise(tmp_path: Path, drain: Drain) -> None:
    bench = a_bench(tmp_path)
    _, data = drain(load(Digits(), bench))
    spec = with_privacy(noise_multiplier=1.0, clipping="adaptive", count_noise=0.05)
    model = build(SMALL, data.shape, 10)
    setting = PrivateSetting(bench, bench.folder, model, data.train, 100, 1, 10, 0.0)
    assert isinstance(spec.privacy, DPSGD)
    mechanism = DPSGDMechanism(spec.privacy, setting)
    # Andrew et al. 2021, theorem 1, with a count noise of .05 x 100
    assert mechanism.gradient_noise == pytest.approx((1.0**-2 - (2 * 5.0) ** -2) ** -0.5)


def test_no_image_may_be_drawn(tmp_path: Path, drain: Drain) -> None:
    spec = PRIVATE.model_copy(update={"batch_size": 3, "epochs": 1, "model": MLP(width=4, depth=1)})
    events, summary = drain(run_train(spec, a_bench(tmp_path)))
    told = [e.step for e in events if isinstance(e, Scalars) and "train/loss" in e.values]
    assert len(told) < summary["steps"]  # a batch of 3 on average is empty in 5 % of the steps
    assert summary["epsilon"] > 0


# --- the budget -----------------------------------------------------------------------------------


def test_what_it_says_is_what_the_accountant_says(tmp_path: Path, drain: Drain) -> None:
    events, summary = drain(run_train(PRIVATE, a_bench(tmp_path)))
    _, data = drain(load(Digits(), a_bench(tmp_path, "b")))
    rate = 100 / len(data.train)
    assert summary["sample_rate"] == rate
    assert summary["epsilon"] == epsilon(1.0, rate, summary["steps"], 1e-5)
    assert summary["epsilon_rdp"] == epsilon(1.0, rate, summary["steps"], 1e-5, accountant="rdp")
    assert summary["epsilon"] < summary["epsilon_rdp"]
    assert summary["epsilon_prv"] == pytest.approx(summary["epsilon"], rel=0.02)
    told = [
        (e.step, e.values["privacy/epsilon"])
        for e in events
        if isinstance(e, Scalars) and "privacy/epsilon" in e.values
    ]
    assert told[-1][0] == summary["steps"]
    for step, value in told[:: max(1, len(told) // 4)]:
        assert value == pytest.approx(epsilon(1.0, rate, step, 1e-5), rel=1e-3)
    assert [v for _, v in told] == sorted(v for _, v in told)
    budget = next(e for e in events if isinstance(e, Table) and e.name == "budget")
    assert budget.rows[-1][0] == summary["steps"]


def test_a_target_is_met_by_the_noise_that_is_found(tmp_path: Path, drain: Drain) -> None:
    _, summary = drain(run_train(with_privacy(epsilon=2.0), a_bench(tmp_path)))
    assert 1.9 < summary["epsilon"] <= 2.0
    assert summary["epochs"] == 3


def test_with_a_given_noise_the_run_stops_before_the_target(tmp_path: Path, drain: Drain) -> None:
    spec = with_privacy(epsilon=2.0, noise_multiplier=1.0)
    events, summary = drain(run_train(spec, a_bench(tmp_path)))
    steps, rate = summary["steps"], summary["sample_rate"]
    assert steps < 3 * round(1 / rate)
    assert epsilon(1.0, rate, steps, 1e-5) <= 2.0 < epsilon(1.0, rate, steps + 1, 1e-5)
    assert "the target is reached" in notes(events, "info")


def test_a_target_that_one_step_exceeds_is_refused(tmp_path: Path, drain: Drain) -> None:
    with pytest.raises(BadInput, match=r"single step.*more.*noise"):
        drain(run_train(with_privacy(epsilon=0.01, noise_multiplier=0.3), a_bench(tmp_path)))


def test_a_delta_that_promises_nothing_is_said(tmp_path: Path, drain: Drain) -> None:
    events, _ = drain(run_train(with_privacy(noise_multiplier=1.0, delta=0.01), a_bench(tmp_path)))
    assert "delta 0.01 is not below" in notes(events, "warning")


@pytest.mark.parametrize("kind", ["flat", "adaptive", "gradient", "sample"])
def test_a_cancelled_run_goes_on_with_the_same_weights_and_budget(
    tmp_path: Path, drain: Drain, kind: str
) -> None:
    values: dict[str, Any] = {"noise_multiplier": 1.0}
    values |= (
        {"canaries": 30, "canary": kind} if kind in ("gradient", "sample") else {"clipping": kind}
    )
    spec = with_privacy(**values)
    _, whole = drain(run_train(spec, a_bench(tmp_path, "whole")))
    bench = a_bench(tmp_path, "cut")
    steps = run_train(spec, bench)
    for event in steps:
        if isinstance(event, Scalars) and event.values.get("train/loss") and event.step >= 12:
            break
    with pytest.raises(StopIteration) as end:
        event = steps.throw(Cancelled())
        while True:
            event = next(steps)
    assert end.value.value["epsilon"] <= whole["epsilon"]
    checkpoint = bench.checkpoints.latest()
    assert isinstance(checkpoint, Checkpoint)
    again = a_bench(tmp_path, "cut")
    again.restore(checkpoint)
    _, resumed = drain(run_train(spec, again))
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["epsilon"] == whole["epsilon"]
    if kind in ("gradient", "sample"):
        one, other = (
            safetensors.torch.load_file(tmp_path / "runs" / name / "canaries.safetensors")
            for name in ("whole", "cut")
        )
        assert torch.equal(one["included"], other["included"])
        assert torch.equal(one["score"], other["score"])


# --- nothing past it ------------------------------------------------------------------------------


def test_the_model_says_nothing_else_of_its_images(tmp_path: Path, drain: Drain) -> None:
    """Neither their statistics, nor a sketch or hash of them, nor the seed of the noise."""
    spec = with_privacy(noise_multiplier=1.0).model_copy(
        update={"model": CNN(width=4, norm="none")}
    )
    drain(run_train(spec, a_bench(tmp_path)))
    card = read_card(tmp_path / "runs" / "a" / "model.safetensors")
    assert (card.data_fingerprint, card.learnt) == ("", ())
    assert "seed" not in card.training
    state = safetensors.torch.load_file(tmp_path / "runs" / "a" / "model.safetensors")
    normal = build(CNN(width=4, norm="none"), card.shape, 10)  # no statistics given
    for name, buffer in normal.named_buffers():
        assert torch.equal(state[name], buffer), name
    # In the workspace it is still known what was trained on; what is made of it does not tell.
    assert load_model("a", a_bench(tmp_path, "b")).card.learnt
    made = a_bench(tmp_path, "c")
    drain(run_transform(Transform(model="a", transform=BitDepth(bits=4)), made))
    of_made = read_card(made.folder / "model.safetensors")
    assert (of_made.data_fingerprint, of_made.learnt) == ("", ())
    assert load_model("c", a_bench(tmp_path, "b")).card.learnt


def test_what_a_start_knows_is_said_to_be_left_out(tmp_path: Path, drain: Drain) -> None:
    spec = Train(model=SMALL, epochs=1, seed=3)
    drain(run_train(spec, a_bench(tmp_path, "open")))
    tuned = PRIVATE.model_copy(update={"init": "open", "model": None, "epochs": 1})
    events, summary = drain(run_train(tuned, a_bench(tmp_path, "tuned")))
    assert "not trained privately" in notes(events, "warning")
    assert summary["epsilon_leaves_out"] == "open"
    again = tuned.model_copy(update={"init": "tuned"})
    events, _ = drain(run_train(again, a_bench(tmp_path, "again")))
    assert f"spent an epsilon of {summary['epsilon']:.3g}" in notes(events, "warning")


def test_another_run_of_the_seed_draws_other_noise(tmp_path: Path, drain: Drain) -> None:
    """Or the difference of two models would tell what no epsilon covers."""
    _, data = drain(load(Digits(), a_bench(tmp_path, "b")))
    model, other = (build(SMALL, data.shape, 10, generator_seed=seed) for seed in (1, 2))
    salts = {
        salt_of(PRIVATE, data.fingerprint, model),
        salt_of(PRIVATE, "of other images", model),
        salt_of(PRIVATE, data.fingerprint, other),
        salt_of(with_privacy(noise_multiplier=1.0, max_grad_norm=0.4), data.fingerprint, model),
    }
    bench = a_bench(tmp_path)
    assert len({float(SeededDraws(bench, salt).normal("noise", 0, 1)) for salt in salts}) == 4


FACTORY = """
from torch import nn

def make(input_shape, classes):
    return nn.Sequential(nn.Flatten(), Inner(), nn.Linear(16, classes))

class Inner(nn.Linear):
    def __init__(self):
        super().__init__(64, 16)

    def forward(self, x):
        return super().forward(x).ACTIVATION()
"""


def test_a_model_whose_code_was_changed_draws_other_noise(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its weights, its layers' names and what is asked for be the same."""
    drawn: list[torch.Tensor] = []
    normal = SeededDraws.normal

    def kept(self: SeededDraws, purpose: str, step: int, count: int) -> torch.Tensor:
        noise = normal(self, purpose, step, count)
        if (purpose, step) == ("noise", 0):
            drawn.append(noise.clone())
        return noise

    monkeypatch.setattr(SeededDraws, "normal", kept)
    file = tmp_path / "mine.py"
    model = Module(factory=f"{file}:make", trust=True)
    spec = PRIVATE.model_copy(update={"model": model, "epochs": 1})
    for name, activation in (("a", "tanh"), ("b", "tanh"), ("c", "relu")):
        file.write_text(FACTORY.replace("ACTIVATION", activation))
        bench = a_bench(tmp_path, name)
        bench.trust_code = True
        drain(run_train(spec, bench))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- steps that are taken again -------------------------------------------------------------------


@dataclasses.dataclass
class Killed:
    """A run that was killed after a checkpoint, and what noise was drawn by it and those after."""

    bench: Bench
    checkpoint: Checkpoint
    drawn: set[tuple[int, float]]


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Killed:
    drawn: set[tuple[int, float]] = set()
    normal = SeededDraws.normal

    def kept(self: SeededDraws, purpose: str, step: int, count: int) -> torch.Tensor:
        noise = normal(self, purpose, step, count)
        if purpose == "noise":
            drawn.add((step, float(noise[0])))
        return noise

    monkeypatch.setattr(SeededDraws, "normal", kept)
    bench = a_bench(tmp_path)
    bench.checkpoint_due = lambda least=None: bench.checkpoints.latest() is None  # type: ignore[method-assign]
    steps = run_train(LONG, bench)
    for event in steps:
        if isinstance(event, Scalars) and event.step > 50:
            break
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    assert checkpoint.step < 40
    again = a_bench(tmp_path)
    again.restore(checkpoint)
    return Killed(again, checkpoint, drawn)


LONG = PRIVATE.model_copy(update={"epochs": 6})


def test_the_same_steps_taken_again_cost_nothing(killed: Killed, drain: Drain) -> None:
    _, summary = drain(run_train(LONG, killed.bench))
    assert len(killed.drawn) == summary["steps"]
    (charge,) = read_charges(killed.bench.folder / LEDGER)
    assert charge.steps == summary["steps"]


@pytest.mark.parametrize("when", ["before", "later"])
def test_steps_taken_again_otherwise_are_charged_again(
    killed: Killed, drain: Drain, when: str
) -> None:
    """With another learning rate: the noise is another one, so it is another release."""
    bench = killed.bench
    change = Change("lr", 0.5, killed.checkpoint.step + 2)
    if when == "before":
        bench.take_up(change)
    events, steps = [], run_train(LONG, bench)
    while True:
        try:
            events.append(event := next(steps))
        except StopIteration as end:
            summary = end.value
            break
        if when == "later" and isinstance(event, Scalars) and change not in bench.changes:
            bench.take_up(Change("lr", 0.5, event.step + 2))
            change = bench.changes[0]
    (charge,) = read_charges(bench.folder / LEDGER)
    assert len(killed.drawn) > summary["steps"]
    assert charge.steps >= len(killed.drawn)
    assert summary["epsilon"] == pytest.approx(total((charge,), 1e-5), rel=1e-9)
    budget = [e for e in events if isinstance(e, Table) and e.name == "budget"][-1]
    assert budget.rows[-1][1] == pytest.approx(summary["epsilon"], rel=1e-3)


def test_what_comes_back_does_not_make_the_steps_the_same_again(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model's code that is changed, and changed back: the run has another state by then."""
    drawn: list[dict[int, float]] = []
    normal = SeededDraws.normal

    def kept(self: SeededDraws, purpose: str, step: int, count: int) -> torch.Tensor:
        found = normal(self, purpose, step, count)
        drawn[-1][step] = float(found[0])
        return found

    monkeypatch.setattr(SeededDraws, "normal", kept)
    for code, least, last in (("A", 10, 40), ("B", 20, 30), ("A", 99, 99)):
        monkeypatch.setattr("engine.training.loop.salt_of", lambda *_, code=code: code)
        drawn.append({})
        bench = a_bench(tmp_path)
        bench.single_step = True  # to look after every step
        before = bench.checkpoints.latest()
        if before is not None:
            bench.restore(before)

        def due(seconds: object = None, bench: Bench = bench, least: int = least) -> bool:
            newest = bench.checkpoints.latest()
            return max(drawn[-1]) >= least and (newest is None or newest.step < least)

        bench.checkpoint_due = due  # type: ignore[method-assign]
        for event in run_train(LONG, bench):
            if isinstance(event, Scalars) and event.step > last:
                break  # killed
    first, other, back = drawn
    assert min(back) >= 20 > min(other) >= 10
    assert max(first) > max(other) > min(back)
    for one, two in ((first, other), (first, back), (other, back)):
        assert not {*one.items()} & {*two.items()}
    (charge,) = read_charges(tmp_path / "runs" / "a" / LEDGER)
    assert charge.steps >= sum(map(len, drawn))


def test_a_run_that_is_computed_otherwise_draws_other_noise(tmp_path: Path) -> None:
    """Or two of them would tell each other's: they are rounded otherwise, and drift apart."""
    plain = a_bench(tmp_path)
    assert plain.lineage("s") == a_bench(tmp_path, "b").lineage("s") != plain.lineage("t")
    assert a_bench(tmp_path, "c", channels_last=True).lineage("s") != plain.lineage("s")
    other = a_bench(tmp_path, "d")
    other.environment["instructions"] = "others"
    assert other.lineage("s") != plain.lineage("s")
    other.environment = {**plain.environment, "platform": "a newer kernel"}
    assert other.lineage("s") == plain.lineage("s")


@pytest.mark.parametrize("when", ["before", "later"])
def test_a_target_holds_for_all_that_was_drawn(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    spec = LONG.model_copy(update={"privacy": DPSGD(epsilon=2.0, max_grad_norm=0.5)})
    bench = a_bench(tmp_path)
    bench.checkpoint_due = lambda least=None: bench.checkpoints.latest() is None  # type: ignore[method-assign]
    steps = run_train(spec, bench)
    for event in steps:
        if isinstance(event, Scalars) and event.step > 50:
            break
    del steps
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    again = a_bench(tmp_path)
    again.restore(checkpoint)
    if when == "before":
        again.take_up(Change("lr", 0.5, checkpoint.step + 1))
    steps = run_train(spec, again)
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            summary = end.value
            break
        if when == "later" and isinstance(event, Scalars) and not again.changes:
            again.take_up(Change("lr", 0.5, event.step + 1))
    charges = read_charges(again.folder / LEDGER)
    assert 1.9 < total(charges, 1e-5) <= 2.0
    assert summary["epsilon"] == pytest.approx(total(charges, 1e-5), rel=1e-9)
    assert summary["steps"] < 78


def test_a_step_is_in_the_ledger_before_its_noise_is_drawn(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = SeededDraws.normal
    path = tmp_path / "runs" / "a" / LEDGER
    seen = []

    def looked(self: SeededDraws, purpose: str, step: int, count: int) -> torch.Tensor:
        seen.append(sum(charge.steps for charge in read_charges(path)) > step)
        return normal(self, purpose, step, count)

    monkeypatch.setattr(SeededDraws, "normal", looked)
    drain(run_train(LONG, a_bench(tmp_path)))
    assert len(seen) == 78
    assert all(seen)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.5, momentum=0.0), Adam(lr=1e-2)])
def test_the_memory_layout_does_not_change_the_steps(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch, optimizer: Any
) -> None:
    """Were the noise the same, which it is not where anything differs. The optimisers' fused steps
    go through memory, whatever way a gradient lies in it. (A pooling that rounding decides
    otherwise moves weights by up to .001, scrambled steps by .02 and more.)
    """
    spec = with_privacy(noise_multiplier=1.0).model_copy(
        update={"model": CNN(width=8, norm="group"), "optimizer": optimizer, "epochs": 1}
    )
    monkeypatch.setattr(Bench, "lineage", lambda self, decides: decides)
    found = []
    for channels_last in (False, True):
        name = str(channels_last)
        drain(run_train(spec, a_bench(tmp_path, name, channels_last=channels_last)))
        path = tmp_path / "runs" / name / "model.safetensors"
        found.append(safetensors.torch.load_file(path))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=4e-3, rtol=0)


def test_from_a_change_on_a_run_draws_other_noise(tmp_path: Path) -> None:
    """So long as nothing is changed the sums are the same too, and so may the noise be."""
    plain, changed = a_bench(tmp_path), a_bench(tmp_path)
    changed.take_up(Change("lr", 0.5, 4))
    same = [
        float(SeededDraws(plain, "s").normal("noise", step, 1))
        == float(SeededDraws(changed, "s").normal("noise", step, 1))
        for step in range(7)
    ]
    assert same == [True] * 4 + [False] * 3


class Peeking(nn.Module):
    """Takes the mean of the batch off, without a slope."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.last(flat - flat.mean(0).detach()) if self.training else self.last(flat)


def test_a_model_that_mixes_its_samples_behind_a_detach_is_refused() -> None:
    clipper = Clipper(Peeking().train())
    with pytest.raises(BadInput, match="part in each other's logits"):
        clipper.check(torch.rand(8, 1, 8, 8))


def test_a_run_that_is_cut_short_again_and_again_never_spends_more_than_its_target(
    tmp_path: Path, drain: Drain
) -> None:
    """With secure noise all that was reserved is gone, the statistic of the first layer too."""
    spec = with_privacy(epsilon=2.0, secure=True, statistic_noise=8.0).model_copy(
        update={"model": MLP(width=16, depth=1, projection=8)}
    )
    for _ in range(2):  # killed: nothing is settled, and there is no checkpoint
        steps = run_train(spec, a_bench(tmp_path))
        for event in steps:
            if isinstance(event, Scalars) and event.values.get("train/loss"):
                break
        del steps
    _, summary = drain(run_train(spec, a_bench(tmp_path)))
    assert 1.0 < summary["epsilon"] <= 2.0
    assert summary["steps"] > 0


def test_a_budget_that_is_used_up_is_said(tmp_path: Path, drain: Drain) -> None:
    bench = a_bench(tmp_path)
    _, data = drain(load(Digits(), bench))
    spec = with_privacy(epsilon=2.0, noise_multiplier=1.0, secure=True)
    rate = 100 / len(data.train)
    used = Ledger(bench.folder / LEDGER, secure=True)
    used.reserve(Charge(1.0, rate), 64)
    with pytest.raises(BadInput, match=r"is used up.*Start a new run"):
        drain(run_train(spec, bench))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adversarial": Mixed(attack=PGD())}, "adversarial training and privacy"),
        ({"clip": ClipSpec(norm=1.0)}, "clipping of its own"),
        ({"model": CNN(width=4, norm="batch")}, 'norm.*"group"'),
    ],
)
def test_what_looks_past_the_clipping_is_refused(
    tmp_path: Path, drain: Drain, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        drain(run_train(PRIVATE.model_copy(update=change), a_bench(tmp_path)))


def test_lower_precision_is_refused(tmp_path: Path, drain: Drain) -> None:
    bench = a_bench(tmp_path)
    bench.spec = BenchSpec(device="cpu", threads=1, precision="bf16")
    with pytest.raises(BadInput, match="bf16 and privacy"):
        drain(run_train(PRIVATE, bench))


def test_naive_noise_promises_nothing_and_says_so(tmp_path: Path, drain: Drain) -> None:
    spec = PRIVATE.model_copy(update={"privacy": Naive(noise=0.01)})
    events, summary = drain(run_train(spec, a_bench(tmp_path)))
    assert summary["guarantee"] == "none"
    assert not any(name.startswith("epsilon") for name in summary)
    assert "no guarantee" in notes(events, "warning")
    assert summary["clean_accuracy"] > 0.5


def test_secure_noise_is_never_the_same(tmp_path: Path, drain: Drain) -> None:
    spec = with_privacy(noise_multiplier=1.0, secure=True)
    hashes = set()
    for name in ("a", "b"):
        events, summary = drain(run_train(spec, a_bench(tmp_path, name)))
        hashes.add(summary["weights_sha256"])
        assert summary["noise_source"] == "system"
        assert "knows or guesses" not in notes(events, "info")
    assert len(hashes) == 2


@pytest.mark.parametrize("source", ["seed", "system"])
def test_draws_are_what_they_are_called(bench: Bench, source: str) -> None:
    draws: Draws = SeededDraws(bench) if source == "seed" else SystemDraws(bench.device)
    assert draws.source == source
    normal = draws.normal("noise", 0, 200_001)
    assert normal.dtype == torch.float32
    assert len(normal) == 200_001
    assert abs(float(normal.mean())) < 0.012  # 5 standard errors
    assert abs(float(normal.std()) - 1) < 0.008
    assert abs(float((normal.abs() > 1.96).float().mean()) - 0.05) < 0.0025
    uniform = draws.uniform("sampling", 0, 200_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.0033
    sizes = torch.tensor([len(draws.chosen(step, 1000, 0.05)) for step in range(400)]).double()
    assert abs(float(sizes.mean()) - 50) < 1.8  # Binomial(1000, .05): deviation 6.9
    assert 5.6 < float(sizes.std()) < 8.2
    assert not torch.equal(draws.chosen(0, 1000, 0.5), draws.chosen(1, 1000, 0.5))


# --- canaries -------------------------------------------------------------------------------------


def canaries_of(tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    path = tmp_path / "runs" / "a" / "canaries.safetensors"
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    return tensors["included"], tensors["score"], about


def test_gradient_canaries_are_seen_where_there_is_no_noise(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_noise(monkeypatch)
    spec = with_privacy(noise_multiplier=1.0, canaries=400)
    drain(run_train(spec, a_bench(tmp_path)))
    included, score, about = canaries_of(tmp_path)
    assert 150 < int(included.sum()) < 250
    # An included one is in 3 steps on average, each with a length of one clipping norm.
    assert float(score[included].mean() - score[~included].mean()) == pytest.approx(3, abs=1)
    assert about["kind"] == "gradient"
    assert about["noise_multiplier"] == 1.0


def test_sample_canaries_that_are_out_are_in_no_step(
    tmp_path: Path, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: list[Any] = []
    true = DPSGDMechanism.gradients

    def watched(self: DPSGDMechanism, batch: Any) -> Any:
        stepped.append((self, batch))
        return true(self, batch)

    monkeypatch.setattr(DPSGDMechanism, "gradients", watched)
    spec = with_privacy(noise_multiplier=1.0, canaries=200, canary="sample")
    drain(run_train(spec, a_bench(tmp_path)))
    included, score, _ = canaries_of(tmp_path)
    mechanism = stepped[0][0]
    where = mechanism.canaries.where
    drawn = torch.cat([batch.places for _, batch in stepped])
    labels = torch.cat([batch.labels for _, batch in stepped])
    assert not torch.isin(where[~included], drawn).any()
    assert torch.isin(where[included], drawn).float().mean() > 0.8
    right = mechanism.setting.train.labels[drawn]
    wrong = torch.isin(drawn, where)
    assert (labels[wrong] != right[wrong]).all()
    assert torch.equal(labels[~wrong], right[~wrong])
    assert len(score) == 200


def test_more_canaries_than_there_is_room_for_are_refused(tmp_path: Path, drain: Drain) -> None:
    with pytest.raises(BadInput, match="parameters that learn"):
        drain(run_train(with_privacy(noise_multiplier=1.0, canaries=900_000), a_bench(tmp_path)))
    with pytest.raises(BadInput, match="training images"):
        drain(
            run_train(
                with_privacy(noise_multiplier=1.0, canaries=9_000, canary="sample"),
                a_bench(tmp_path, "b"),
            )
        )
