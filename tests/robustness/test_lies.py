from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import PGD
from engine.attacks.running import Chosen
from engine.data import Dataset
from engine.data.split import ResidentSplit
from engine.events import Note, Table, drain
from engine.models import build
from engine.models.normalise import Normalise
from engine.models.spec import CNN, Transformer
from engine.robustness import evaluating, lies
from engine.robustness.flags import FLAGS, Flag
from engine.robustness.searching import Found
from engine.robustness.spec import Evaluate
from engine.robustness.statistics import DISCORDANT, at_least, mcnemar
from engine.task import Summary
from tests.robustness.masked import (
    DECEITFUL,
    MASKED,
    Counting,
    CountingAside,
    Net,
    Wrapped,
    hooked,
)
from tests.robustness.test_evaluate import pull, tables
from tests.robustness.zoo import bench_in, subject, train


def flags_of(
    model: nn.Module, data: Dataset, folder: Path, *, attack: bool, norm: str = "linf"
) -> dict[str, Flag]:
    on = subject(model, data, bench_in(folder), 100)
    found = drain(lies.look_at(on))
    if attack:
        eps = {"linf": 0.15, "l2": 0.7, "l1": 3.0}[norm]
        found += drain(lies.compare(on, norm, eps, None, 100, 300))  # type: ignore[arg-type]
    return {flag.name: flag for flag in found}


@pytest.mark.parametrize("name", MASKED)
def test_every_masked_defence_is_found_out(
    name: str, net: Net, data: Dataset, tmp_path: Path
) -> None:
    make, reason = MASKED[name]
    flags = flags_of(make(net), data, tmp_path, attack=reason == "saturated_loss")
    assert reason in flags, list(flags)
    assert flags[reason].evidence
    assert flags[reason].meaning is FLAGS[reason]


def evaluated(
    make: Callable[[], nn.Module],
    data: Dataset,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    **values: object,
) -> tuple[Summary, list[object]]:
    """The summary and the events of a whole evaluation of what `make` makes, also as a copy."""
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    samples = int(values.get("samples", 100))  # type: ignore[call-overload]

    def choose(*_: object) -> object:
        yield from ()
        return Chosen(make().eval(), data, order[:samples], False)

    monkeypatch.setattr(evaluating, "choose", choose)
    monkeypatch.setattr(evaluating, "_fresh", lambda *_: lambda: make().eval())
    quick = {"samples": samples, "curve": 0, "corruptions": False, "noise": False}
    spec = {"attacks": (PGD(eps=0.1, steps=20, step_size=0.02),), "checked": 60, "queries": 60}
    steps = evaluating.run_evaluate(Evaluate(model="m", **quick | spec | values), bench_in(folder))
    events, summary = pull(steps)
    return summary, list(events)


@pytest.mark.parametrize("name", DECEITFUL)
def test_what_shows_in_a_whole_evaluation_alone_is_found_out(
    name: str, net: Net, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason = DECEITFUL[name]
    summary, _ = evaluated(lambda: make(copy.deepcopy(net)), data, tmp_path, monkeypatch)
    assert reason in summary["flags"]


@pytest.mark.parametrize("name", ["quantised activations", "reversed", "JPEG"])
def test_attacks_without_gradients_beat_those_that_have_none(
    name: str, net: Net, data: Dataset, tmp_path: Path
) -> None:
    flags = flags_of(MASKED[name][0](net), data, tmp_path, attack=True)
    assert {"black_box_wins", "unbounded_fails"} <= flags.keys()
    p = flags["black_box_wins"].p
    assert p is not None
    assert p < 0.01


class Recurrent(nn.Module):
    """Reads an image row by row, and keeps what it has made of it, as many do to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.count = self.cell(x[:, 0])[0], len(x)
        return self.head(self.seen[:, -1])


HEALTHY: dict[str, Callable[[Dataset], nn.Module]] = {
    "convolutional": lambda data: train(Net(), data),
    "batch norm": lambda data: train(Net(nn.BatchNorm2d(16)), data),
    "adversarially trained": lambda data: train(Net(), data, epochs=25, eps=0.15),
    "tanh": lambda data: train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)), data
    ),
    "recurrent": lambda data: train(Recurrent(), data, epochs=10),
    "residual": lambda data: train(
        build(CNN(width=8, depth=1, norm="batch", residual=True), data.shape, 10), data, epochs=6
    ),
    "trained long": lambda data: train(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        data,
        epochs=30,
    ),
    "log of probabilities": lambda data: nn.Sequential(train(Net(), data), nn.LogSoftmax(1)),
    "linear": lambda data: train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data),
    "transformer": lambda data: train(
        build(Transformer(width=16, depth=1), data.shape, 10), data, epochs=6
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_against_a_healthy_model(name: str, data: Dataset, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = HEALTHY[name](data)
    for norm in ("linf", "l2", "l1"):
        found = flags_of(model, data, tmp_path, attack=True, norm=norm)
        assert not found, [(flag.name, flag.evidence) for flag in found.values()]


class Precise(nn.Module):
    """Computes with other numbers."""

    def __init__(self, net: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.net, self.kind = copy.deepcopy(net).to(kind), kind

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.kind))


class Frozen(Net):
    """Batch norm that stays in eval mode while the rest trains, as in fine-tuning."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self


class Root(torch.autograd.Function):
    """The square root's slope at a black corner: no number, there alone."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        slope = slope.clone()
        slope[:, :, 0, 0] = float("nan")
        return slope


HARMLESS: dict[str, Callable[[Net], nn.Module]] = {
    "counting": Counting,
    "counting aside": CountingAside,
    "double": lambda net: Precise(net, torch.float64),
    "half": lambda net: Precise(net, torch.float16),
    "bfloat16": lambda net: Precise(net, torch.bfloat16),
    "no slope in a corner": lambda net: Wrapped(net, lambda x: Root.apply(x)),
    "left in train mode": lambda net: nn.Sequential(net, nn.Dropout(0.5)).train(),
    "shifted logits": lambda net: Wrapped(net, after=lambda y: y + 100),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_and_harmless_is_not_flagged(
    name: str, net: Net, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, _ = evaluated(lambda: HARMLESS[name](copy.deepcopy(net)), data, tmp_path, monkeypatch)
    assert summary["flags"] == []
    assert "unchecked" not in summary
    assert 0.2 < summary["robust_accuracy"] < 0.8


def of_two(data: Dataset) -> Dataset:
    """Small digits or large ones."""
    splits = {}
    for name in ("train", "test"):
        split = copy.copy(getattr(data, name))
        split.labels = (split.labels > 4).long()
        splits[name] = split
    return dataclasses.replace(data, classes=("small", "large"), **splits)


def of_three_colours(data: Dataset) -> Dataset:
    splits = {}
    for name in ("train", "test"):
        split = getattr(data, name)
        rows = torch.arange(len(split))
        pixels = (split.batch(rows)[0] * torch.tensor([255.0, 128.0, 200.0]).view(3, 1, 1)).byte()
        splits[name] = ResidentSplit(pixels, rows, split.labels, split.ids, torch.device("cpu"))
    return dataclasses.replace(data, shape=(3, 8, 8), **splits)


def wide(channels: int, classes: int, norm: nn.Module | None = None) -> Net:
    net = Net(norm)
    net.first, net.head = nn.Conv2d(channels, 16, 3, padding=1), nn.Linear(512, classes)
    return net


def frozen() -> Net:
    net = Frozen(nn.BatchNorm2d(16))
    net.norm.running_mean.fill_(0.3)
    return net


OTHERS: dict[str, tuple[Callable[[Dataset], Dataset], Callable[[], nn.Module]]] = {
    "two classes": (of_two, lambda: wide(1, 2)),
    "three channels": (of_three_colours, lambda: wide(3, 10)),
    "own normalisation": (
        of_three_colours,
        lambda: nn.Sequential(Normalise((0.3, 0.2, 0.3), (0.3, 0.1, 0.2)), wide(3, 10)),
    ),
    "frozen batch norm": (lambda data: data, frozen),
}


@pytest.mark.parametrize("name", OTHERS)
def test_healthy_models_of_other_kinds_are_not_flagged(
    name: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, make = OTHERS[name]
    changed = change(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = train(make(), changed)
    summary, _ = evaluated(lambda: model.train(), changed, tmp_path, monkeypatch)
    assert summary["clean_accuracy"] > 0.85
    assert summary["flags"] == []


def test_the_share_that_misbehaves_is_judged_by_the_exact_binomial_test() -> None:
    # scipy.stats.binomtest(k, n, .03, alternative="greater").pvalue
    assert at_least(0, 128, 0.03) == 1.0
    assert at_least(9, 128, 0.03) == pytest.approx(0.0154088)
    assert at_least(10, 128, 0.03) == pytest.approx(0.00540622)
    assert at_least(2, 2, 0.03) == pytest.approx(0.0009)
    assert at_least(5, 5, 1.0) == 1.0


def test_a_few_samples_may_be_odd(net: Net, data: Dataset, tmp_path: Path) -> None:
    """Gradients that are turned round at 4 of the 128 images that are looked at are no trick."""
    on = subject(net, data, bench_in(tmp_path), 150)
    odd = on.images(on.correct.nonzero().squeeze(1)[:4])[0].flatten(1)

    def turned(x: Tensor) -> Tensor:
        among = torch.cdist(x.detach().flatten(1), odd).amin(1) < 0.05
        return hooked(lambda slope: torch.where(among[:, None, None, None], -slope, slope))(x)

    on.model = Wrapped(net, turned)
    assert drain(lies.look_at(on)) == []
    odd = on.images(on.correct.nonzero().squeeze(1)[:12])[0].flatten(1)
    (flag,) = drain(lies.look_at(on))
    assert flag.name == "wrong_gradients"
    assert flag.p is not None
    assert flag.p < 0.01
    assert "12 changed" in flag.evidence


def said(events: list[object]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.level == "warning"]


def test_what_few_samples_cannot_tell_is_said(
    net: Net, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, **values: object) -> tuple[Summary, list[object]]:
        return evaluated(lambda: net, data, tmp_path / name, monkeypatch, **values)

    enough, events = run("enough")
    assert "unchecked" not in enough
    assert "unchecked" not in tables(events)  # type: ignore[arg-type]
    none, events = run("none", checked=0)
    share = none["robust_accuracy"] / none["clean_accuracy"]
    needed = math.ceil(DISCORDANT / share)
    (text,) = none["unchecked"]
    left, right = none["correct"] - none["broken"], none["correct"]
    assert text == (
        "No samples were to be checked (checked = 0), so attacks were neither compared with each "
        "other nor tried without bounds, and these flags cannot be raised: saturated_loss, "
        "one_step_wins, not_converged, restarts_win, black_box_wins, unbounded_fails, "
        f"weak_attacks. Two attacks have to differ on 8 samples that withstand, as {left} of "
        f"{right} do: {needed} are needed."
    )
    assert said(events) == [text]
    (table,) = (e for e in events if isinstance(e, Table) and e.name == "unchecked")
    assert table.rows == ((text,),)
    report = json.loads((tmp_path / "none" / "report.json").read_text())
    assert report["unchecked"] == [text]
    assert report["flags"] == []
    fallen, _ = run("fallen", checked=0, attacks=(PGD(eps=1.0, step_size=0.1),))
    assert fallen["robust_accuracy"] == 0  # then there is nobody to compare attacks on
    assert fallen["unchecked"][0].endswith("unbounded_fails, weak_attacks.")
    few, _ = run("few", checked=10)
    (text,) = few["unchecked"]
    assert text.startswith("Too few samples to compare attacks: ")
    assert text.endswith(
        f"differ on {DISCORDANT} for p < .01. As {left} of {right} withstand the evaluation, "
        f"{needed} are needed."
    )
    least, _ = run("least", samples=9)
    assert len(least["unchecked"]) == 2
    assert least["unchecked"][0].startswith("Too few samples to find a trick")


def test_checks_that_were_stopped_are_not_passed(
    net: Net, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.arange(40)

    def choose(*_: object) -> object:
        yield from ()
        return Chosen(net, data, order, False)

    monkeypatch.setattr(evaluating, "choose", choose)
    monkeypatch.setattr(evaluating, "_fresh", lambda *_: lambda: net)
    spec = Evaluate(model="m", samples=40, curve=0, corruptions=False, noise=False)
    _, summary = pull(evaluating.run_evaluate(spec, bench_in(tmp_path)), 8)
    assert summary["partial"]
    assert summary["unchecked"] == ["The evaluation was stopped: its checks are incomplete."]


def test_gradients_that_drown_in_rounding_are_not_called_right(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    unsaid: list[str] = []
    on = subject(Wrapped(net, after=lambda y: y + 1e7), data, bench_in(tmp_path), 60)
    assert drain(lies.look_at(on, unsaid=unsaid)) == []
    assert len(unsaid) == 2
    assert all("drowns in rounding" in text for text in unsaid)


def test_a_witness_changes_nothing(net: Net, data: Dataset, tmp_path: Path) -> None:
    on = subject(net, data, bench_in(tmp_path), 60)
    witness = on.witness
    assert witness is not None
    images, _ = on.images(torch.arange(60))
    for _ in range(300):
        assert torch.equal(witness(images), net(images))
    kept = witness.kept
    assert kept is not None
    assert kept.images.shape == (256, 1, 8, 8)
    assert torch.allclose(net(kept.images), kept.logits, atol=1e-5)
    assert not kept.logits.requires_grad


def test_an_evaluation_whose_attacks_found_nothing_is_flagged(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 60)
    flags = drain(lies.compare(on, "linf", 0.15, Found.nothing(on), 60, 50))
    assert [flag.name for flag in flags] == ["weak_attacks"]


def test_checks_leave_no_trace(net: Net, data: Dataset, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state, run = torch.get_rng_state(), torch.autograd._engine_run_backward
    flags_of(net.train(), data, tmp_path, attack=False)
    net.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.autograd._engine_run_backward is run
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # scipy.stats.binomtest(1, 10).pvalue, (0, 8), (3, 20)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(0.021484375)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(0, 8) == pytest.approx(0.0078125)
    assert mcnemar(3, 17) == pytest.approx(0.002576828)
    assert mcnemar(5, 5) == 1.0
    assert math.isclose(mcnemar(0, 2000), 0.0, abs_tol=1e-300)


def test_what_the_evaluation_found_counts_as_found_with_gradients(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    """Attacks of the checks leave out whom the evaluation has broken; the black box does not."""
    on = subject(MASKED["reversed"][0](net), data, bench_in(tmp_path), 60)
    evaluated = Found.nothing(on)
    alone = {flag.name for flag in drain(lies.compare(on, "linf", 0.15, evaluated, 60, 200))}
    assert "black_box_wins" in alone
    evaluated.success, evaluated.norm = on.correct.clone(), torch.full((len(on),), 0.1).double()
    flags = drain(lies.compare(on, "linf", 0.15, evaluated, 60, 200))
    assert "black_box_wins" not in {flag.name for flag in flags}


def test_models_that_tell_apart_what_follows_are_known_at_the_end(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    on = subject(net, data, bench_in(tmp_path), 40)
    worst = Found.nothing(on)
    worst.attacked, worst.queries = on.correct.clone(), on.correct.long()
    assert lies.look_back(on, worst, []) == []
    worst.attacked[on.correct.nonzero()[:2]] = False
    worst.queries[on.correct.nonzero()[2]] = 0
    on.clean = on.clean + 1
    flags = {flag.name: flag.evidence for flag in lies.look_back(on, worst, [])}
    assert flags.keys() == {"changes_itself", "not_attacked"}
    assert flags["not_attacked"].startswith("3 samples")
    known = [Flag("randomised_output", "")]
    assert [flag.name for flag in lies.look_back(on, worst, known)] == ["not_attacked"]


def test_small_logits_are_no_probabilities(net: Net, data: Dataset, tmp_path: Path) -> None:
    assert not flags_of(Wrapped(net, after=lambda y: y * 1e-12), data, tmp_path, attack=False)
