"""Attacks that see no gradient: NES, SPSA, Boundary and HopSkipJump, against distances that are
known exactly, and plain readings of their papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import NES, SPSA, AttackSpec, Boundary, HopSkipJump, attack, perturb
from engine.attacks.boundary import SEARCH
from engine.attacks.decisions import TRIALS
from engine.attacks.hopskipjump import questions
from engine.errors import BadInput
from engine.random import derive, normal
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels

DECISIONS: list[AttackSpec] = [
    Boundary(steps=60, check=4),
    HopSkipJump(iterations=3, first_queries=30),
    HopSkipJump(norm="linf", iterations=3, first_queries=30),
]
ESTIMATES: list[AttackSpec] = [
    NES(eps=0.1, steps=6, samples=20, step_size=0.03),
    SPSA(eps=0.1, steps=6, samples=20, step_size=0.03),
]


def near_the_middle(count: int = 30) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, and grey images that are broken long before the box is in the way."""
    x = 0.5 + (images(count) - 0.5) * 0.2
    model = Linear()
    return model, x, right_labels(model, x)


class Blind(nn.Module):
    """Says the class and nothing more, in its own scale."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * 7.0 - 3.0


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        HopSkipJump(iterations=20, first_queries=150),
        HopSkipJump(norm="linf", iterations=20, first_queries=150),
        Boundary(steps=1200),
    ],
    ids=["hopskipjump-l2", "hopskipjump-linf", "boundary-l2"],
)
def test_the_distance_to_a_plane(spec: AttackSpec) -> None:
    model, x, y = near_the_middle()
    result = attack(model, x, y, spec)
    assert result.success.all()
    weight = model.weight.detach()
    dual = weight.norm() if spec.norm == "l2" else weight.abs().sum()
    least = ((x.flatten(1) @ weight).abs() / dual).double()
    ratio = result.norm / least
    assert float(ratio.min()) >= 1 - 1e-5
    assert float(ratio.median()) < (1.06 if spec.norm == "l2" else 1.25)


@pytest.mark.parametrize("spec", DECISIONS)
def test_nothing_but_the_class_is_used(spec: AttackSpec) -> None:
    model, x = conv(), images(24)
    y = right_labels(model, x)
    seeing, blind = attack(model, x, y, spec), attack(Blind(model), x, y, spec)
    assert torch.equal(seeing.adversarial, blind.adversarial)
    assert torch.equal(seeing.queries, blind.queries)


@pytest.mark.parametrize("spec", DECISIONS)
def test_starts_are_what_a_target_is_reached_from(spec: AttackSpec) -> None:
    """One class that no noise is taken for, and an image of it to set out from."""
    model, x = near_the_middle()[0], 0.5 + 0.1 * (images(30) - 0.5)
    bias = nn.Sequential(model, Lean(-8.0))
    y = right_labels(bias, x)
    assert (y == 1).all()
    start = (model.weight.view(1, 1, 6, 6) > 0).float().expand(30, 1, 6, 6)
    targeted = spec.model_copy(update={"targeted": True})
    targets = torch.zeros_like(y)
    assert (bias(start).argmax(1) == 0).all()
    nothing = attack(bias, x, y, targeted, targets=targets)
    assert not nothing.success.any()
    assert (nothing.queries == TRIALS).all()
    assert nothing.finished.all()
    result = attack(bias, x, y, targeted, targets=targets, starts=start)
    assert result.success.all()
    assert (result.norm < (start - x).flatten(1).norm(dim=1) * 0.8).all()


class Lean(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor) -> Tensor:
        return logits + torch.tensor([self.by, 0.0])


def test_starts_that_do_not_fit() -> None:
    model, x = conv(), images(4)
    y = right_labels(model, x)
    for starts in (x[:2], x + 2):
        with pytest.raises(BadInput, match="starts must"):
            attack(model, x, y, Boundary(steps=2), starts=starts)


def test_queries_are_counted_as_they_are_asked() -> None:
    model, x = conv(), images(10)
    y = right_labels(model, x)
    sizes: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    for spec in (*DECISIONS, *ESTIMATES):
        sizes.clear()
        result = attack(model, x, y, spec)
        assert sum(sizes) == result.forward_evaluations
        confirming = int(result.success.sum())
        rest = sum(sizes) - 10 - confirming  # 10 clean ones
        if spec in DECISIONS:
            assert int(result.queries.sum()) == rest
        else:  # a point that is not inside of the ball, or not confirmed, costs one more
            assert rest - 30 <= int(result.queries.sum()) <= rest


def test_plans() -> None:
    spec = HopSkipJump(iterations=3, first_queries=30, line_queries=5, points=20)
    plan = questions(spec)
    counts = [sum(q.points for q in plan if (q.phase, q.turn) == ("around", t)) for t in (1, 2, 3)]
    assert counts == [30, 42, 51]
    assert all(question.points <= 20 for question in plan)
    method = spec.rounds()[0]
    assert method.steps == len(plan) - 1 == 1 + 5 + (2 + 5) + (3 + 5) + (3 + 5) - 1
    assert Boundary(steps=7).rounds()[0].steps == SEARCH + 7


def test_a_walk_only_comes_nearer() -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    last = torch.full((20,), torch.inf)
    search = perturb(model, x, y, DECISIONS[0], seed=0, ids=torch.arange(20))
    for now in search:
        size = (now.adversarial - x).flatten(1).norm(dim=1)
        size = torch.where(now.success, size, torch.inf)
        assert (size <= last * (1 + 1e-6)).all()
        last = size
    assert last.isfinite().float().mean() > 0.7  # no noise is adversarial for some


# --- estimates ------------------------------------------------------------------------------------


def test_nes_is_what_the_paper_says() -> None:
    """One sample, plainly: algorithm 1 with the momentum of the authors' code."""
    model, x = conv(), images(6)
    y = right_labels(model, x)
    spec = NES(eps=0.02, steps=4, samples=8, sigma=0.01, step_size=0.006, points=8)
    result = attack(model, x, y, spec)
    seed = derive(0, "restart", 0)
    for i in (~result.success).nonzero().squeeze(1).tolist():
        ids, here, average = torch.tensor([i]), x[i].clone(), torch.zeros_like(x[i])
        for step in range(4):
            total = torch.zeros_like(here)
            draws = normal(derive(seed, "nes", step, 0), ids, (4, *here.shape))[0]
            for draw in draws:
                up, down = (loss(model, here + s * 0.01 * draw, y[i]) for s in (1, -1))
                total += (up - down) * draw
            average = 0.9 * average + 0.1 * total
            here = here + 0.006 * average.sign()
            here = here.clamp(x[i] - 0.02, x[i] + 0.02).clamp(0, 1)
        torch.testing.assert_close(result.adversarial[i], here, atol=1e-6, rtol=0)


def loss(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model(x[None])[0]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return others.max() - logits[label]


@pytest.mark.parametrize("spec", ESTIMATES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_estimate_finds_what_there_is(spec: Any, norm: str) -> None:
    """On a linear model the best point of the ball is known."""
    model, x, y = near_the_middle()
    weight = model.weight.detach()
    dual = weight.norm() if norm == "l2" else weight.abs().sum()
    least = (x.flatten(1) @ weight).abs() / dual
    steps = {"norm": norm, "steps": 60, "samples": 60, "step_size": 0.05}
    eps = (least * 1.3).double()
    assert attack(model, x, y, spec.model_copy(update=steps), eps=eps).success.all()
    eps = (least * 0.99).double()
    assert not attack(model, x, y, spec.model_copy(update=steps), eps=eps).success.any()


def test_the_size_of_a_question_changes_the_draws_alone() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    broken = []
    for points in (2, 7, 64):
        spec = NES(eps=0.06, steps=10, samples=30, step_size=0.02, points=points)
        result = attack(model, x, y, spec)
        assert int(result.queries.max()) == 10 * 31 + 1  # of a sample that holds out
        broken.append(int(result.success.sum()))
    assert max(broken) - min(broken) <= 3


def test_targets_of_estimates() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    targets = (y + 2) % CLASSES
    spec = SPSA(eps=0.4, steps=30, samples=30, targeted=True, step_size=0.05)
    result = attack(model, x, y, spec, targets=targets)
    assert result.success.float().mean() > 0.7
    assert (
        right_labels(model, result.adversarial)[result.success] == targets[result.success]
    ).all()
