"""How far an evaluation is, within a batch too: honest, rising, and cheap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.attacks.driver import perturb
from engine.attacks.running import Chosen
from engine.attacks.spec import FAB, PGD, AttackSpec, AutoAttack, Square
from engine.bench import Bench
from engine.data import Dataset
from engine.data.split import ResidentSplit
from engine.events import Event, Progress, drain
from engine.robustness import certified, searching, sensitivity, smoothing
from engine.robustness.certified import Certified
from engine.robustness.corruptions import CORRUPTIONS, SEVERITIES
from engine.robustness.evaluating import subject_of
from engine.robustness.searching import Budget, Found, Subject, search
from engine.robustness.spec import Smoothing
from engine.screen import Pace, compose


class Near(nn.Module):
    """Sees four pixels; some of its samples can be broken."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x.flatten(1)[:, :4] + torch.tensor([1.5, 0.0, 0.0, 0.0])


def subject(folder: Path, model: nn.Module, batch_size: int = 100) -> Subject:
    """12 random images of 8 x 8, all of class 0 of 4."""
    images = torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    labels, device = torch.zeros(12, dtype=torch.int64), torch.device("cpu")
    rows = torch.arange(12)
    split = ResidentSplit(images.byte(), rows, labels, rows, device)
    data = Dataset(split, split, split, ("a", "b", "c", "d"), (1, 8, 8), "", ())
    chosen = Chosen(model.eval(), data, torch.arange(12), False)
    return drain(subject_of(chosen, Bench(folder, folder), batch_size))


class Counting(nn.Module):
    """Always right, whatever is done to the image; counts how often it is asked, and what that
    costs."""

    asked = cost = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        self.cost += 3 if x.requires_grad else 1
        logits = x.flatten(1)[:, :4] * 1e-3
        return logits + torch.tensor([9.0, 0.0, 0.0, 0.0])


@pytest.fixture(autouse=True)
def every_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is said after every question, not every 30 ms."""
    monkeypatch.setattr(searching, "PAUSE", -1.0)
    monkeypatch.setattr(smoothing, "PAUSE", -1.0)


@pytest.fixture
def on(tmp_path: Path) -> Subject:
    return subject(tmp_path, Counting())


def heard(steps: Iterator[Event], unit: str) -> list[Progress]:
    return [e for e in steps if isinstance(e, Progress) and e.unit == unit]


def test_within_a_batch_it_is_the_share_of_the_budget(on: Subject) -> None:
    """One batch of samples that withstand 10 steps. A question with a gradient is worth 3 of 31
    passes, the last one 1; and no sample is said to be done before all are."""
    spec = PGD(eps=0.1, steps=10, step_size=0.02)
    rows = torch.arange(len(on))
    said = heard(search(on, spec, rows, Found.nothing(on), seed=1, what="x"), "x")
    assert [p.done for p in said] == [0] * 11 + [len(on)]
    assert [p.fraction for p in said] == pytest.approx([3 * k / 31 for k in range(1, 11)] + [1, 1])


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize(
    "spec",
    [
        PGD(eps=0.2, steps=4, step_size=0.1, restarts=3),
        FAB(steps=5, restarts=2),
        Square(eps=0.2, steps=50),
    ],
)
def test_it_never_falls_and_comes_to_its_end(tmp_path: Path, spec: AttackSpec, size: int) -> None:
    on = subject(tmp_path, Near(), batch_size=size)
    rows = on.correct.nonzero().squeeze(1)
    shares = [
        p.fraction for p in heard(search(on, spec, rows, Found.nothing(on), seed=1, what="x"), "x")
    ]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) > 5


def test_a_budget_is_what_an_ensemble_pays(on: Subject) -> None:
    """AutoAttack up to its last stage, on a sample that withstands: of the passes that all of it
    takes (one with a gradient counting as three), so many are said to be spent as were seen. The
    last stage are 5,000 queries, less what is known already."""
    model = on.model
    assert isinstance(model, Counting)
    spec = AutoAttack(eps=0.1)
    budget, images, labels = Budget.of(spec, 4), *on.images(torch.arange(1))
    search = perturb(model, images, labels, spec, seed=1, ids=on.test.ids[:1])
    said, paid, begun = [], [], model.cost
    for now in search:
        if now.restart + 1 == len(spec.rounds()):
            break
        said.append(budget.spent(now))
        paid.append(model.cost - begun)
    assert len(said) == 4 * 101 + 3 * 200  # APGD, and aimed at the 3 other classes; FAB at them
    assert said == sorted(said)
    whole = paid[-1] + 5001
    assert said == pytest.approx([cost / whole for cost in paid], abs=1e-3)


def test_to_say_it_asks_the_model_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for pause in (-1.0, 1e9):
        monkeypatch.setattr(searching, "PAUSE", pause)
        model = Counting()
        on = subject(tmp_path, model)
        before = model.asked
        spec = PGD(eps=0.1, steps=10, step_size=0.02)
        for _ in search(on, spec, torch.arange(len(on)), Found.nothing(on), seed=1):
            pass
        asked.append(model.asked - before)
    assert asked[0] == asked[1]


def test_certifying_one_sample_is_seen_to_go_on(on: Subject) -> None:
    """100 and 900 draws of a sample, 100 at a time: ten words a sample, one tenth of it each."""
    spec = Smoothing(sigma=0.25, n0=100, n=900, batch_size=100, samples=2)
    found = Certified.nothing(spec, on)
    said = heard(certified.certify(on, spec.prover(on), found), "samples certified")
    assert [p.fraction for p in said[:11]] == pytest.approx([k / 20 for k in range(1, 11)] + [0.5])
    assert [p.done for p in said[:11]] == [0] * 10 + [1]
    shares = [p.fraction for p in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_corruptions_are_counted_as_one_whole(tmp_path: Path) -> None:
    on = subject(tmp_path, Counting(), batch_size=5)
    said = [e for e in sensitivity.corruptions(on) if isinstance(e, Progress)]
    assert {p.unit for p in said} == {"corruptions"}
    shares = [p.fraction for p in said]
    assert shares == sorted(shares)
    assert len(shares) > 2 * len(CORRUPTIONS) * SEVERITIES
    for steps, unit in (
        (sensitivity.input_noise(on), "kinds of noise"),
        (sensitivity.weight_noise(on), "draws of the weights"),
    ):
        told = [e for e in steps if isinstance(e, Progress)]
        assert {p.unit for p in told} == {unit}
        assert [p.fraction for p in told] == sorted(p.fraction for p in told)
        assert told[-1].fraction == 1.0


def test_the_line_of_a_terminal_moves_within_a_batch() -> None:
    """Twelve of 40 blocks' worth, though no sample is done; the time left follows from it."""
    pace = Pace()
    pace.rate(Progress(0, 500, "by autoattack", 0.0), 10.0)
    now = Progress(0, 500, "by autoattack", 0.3)
    rate = pace.rate(now, 40.0)
    assert rate == pytest.approx(5.0)  # 150 samples' worth in 30 s
    line = compose("judged", now, rate, {}, 100)
    assert "━" * 6 + "─" * 14 in line
    assert "0/500 by autoattack" in line
    assert "1:10 left" in line
    assert "5/s" in line
    slow = compose("judged", now, 0.034, {}, 100)
    assert "0.034/s" in slow
