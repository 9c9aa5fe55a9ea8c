"""What the driver does for every family: masks, budgets, several points a question, the smallest
perturbation, and going on in another process. Seen through small methods of the tests' own."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import PGD, AttackResult, Iteration, attack, perturb
from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.spec import AttackSpec, MinimalNorm
from engine.errors import BadInput, Cancelled
from engine.random import uniform
from engine.task import param
from tests.attacks.models import CLASSES, conv, images, right_labels

STEPS = 12


class Walk(NamedTuple):
    x: Tensor
    length: Tensor


class Walker(MinimalNorm):
    """Walks uphill, back where it was broken, with ever shorter steps."""

    kind: Literal["walker"] = "walker"
    norm: Literal["linf", "l2"] = "l2"
    stops: bool = False
    again: int = 1

    def rounds(self) -> tuple[Method[Any], ...]:
        def start(of: Problem) -> Walk:
            noise = uniform(of.seed, of.ids, of.ball.centre.shape[1:]) - 0.5
            return Walk(of.ball.project(of.ball.centre + 0.1 * noise), _half(of))

        def step(of: Problem, at: Walk, answer: Answer, number: int) -> Walk:
            back = of.goal.reached(answer.logits)[:, None, None, None]
            further = of.ball.move(at.x, answer.gradient, at.length)
            return Walk(torch.where(back, at.x.lerp(of.ball.centre, 0.2), further), at.length * 0.9)

        return (Method(start, step, margin, STEPS, minimal=True, leaves=self.stops),) * self.again


class Cloud(AttackSpec):
    """Asks about five random points of the ball at a time."""

    kind: Literal["cloud"] = "cloud"
    norm: Literal["linf", "l2"] = "linf"
    eps: float = param(0.4, "Epsilon", "Radius of the ball.")

    def rounds(self) -> tuple[Method[Any], ...]:
        def draw(of: Problem, number: int) -> Point:
            draws = uniform(of.seed + number, of.ids, (5, *of.ball.centre.shape[1:]))
            away = (draws - 0.5).sign() * of.ball.eps[:, None]
            return Point((of.ball.centre[:, None] + away).clamp(0, 1))

        return (
            Method(
                lambda of: draw(of, 0),
                lambda of, at, answer, number: draw(of, number + 1),
                margin,
                steps=6,
                wants="logits",
            ),
        )


def setting(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, images, and labels that it gets right but for one."""
    model, x = conv(), images(count)
    y = right_labels(model, x)
    y[-1] = (y[-1] + 1) % CLASSES
    return model, x, y


def _half(of: Problem) -> Tensor:
    return torch.full((len(of), 1, 1, 1), 0.5)


def everything(result: AttackResult) -> list[Tensor]:
    return [
        *(result.adversarial, result.success, result.norm, result.iterations, result.queries),
        *(result.correct, result.predictions, result.finished),
    ]


SPECS = [PGD(eps=0.06, steps=5, step_size=0.02, restarts=2), Walker(), Walker(again=2), Cloud()]


# --- the smallest perturbation --------------------------------------------------------------------


def test_the_smallest_of_all_that_broke_is_kept() -> None:
    model, x, y = setting(40)
    best = torch.full((40,), torch.inf, dtype=torch.float64)
    search = perturb(model, x, y, Walker(), seed=1, ids=torch.arange(40))
    while True:
        try:
            now = next(search)
        except StopIteration as end:
            result: AttackResult = end.value
            break
        broken = now.logits.argmax(1) != y[now.active]
        size = (now.points - x[now.active]).double().flatten(1).norm(dim=1)
        size = torch.where(broken, size, torch.inf)
        best[now.active] = torch.minimum(best[now.active], size)
    assert result.success[result.correct].all()
    torch.testing.assert_close(result.norm[result.success], best[result.success])
    with torch.no_grad():
        predictions = model(result.adversarial).argmax(1)
    assert torch.equal(predictions, result.predictions)
    assert (predictions[result.success] != y[result.success]).all()
    assert int(result.zero_gradients) == 0


def test_a_second_round_only_makes_them_smaller() -> None:
    model, x, y = setting(40)
    once, twice = (attack(model, x, y, Walker(again=n)) for n in (1, 2))
    assert (twice.norm <= once.norm).all()
    assert (twice.norm < once.norm).any()


def test_a_method_that_stops_is_asked_no_more() -> None:
    model, x, y = setting(40)
    stopped, all_the_way = (attack(model, x, y, Walker(stops=s)) for s in (True, False))
    assert stopped.forward_evaluations < all_the_way.forward_evaluations
    assert (stopped.norm >= all_the_way.norm).all()


def test_only_what_is_small_enough_counts() -> None:
    model, x, y = setting(40)
    free = attack(model, x, y, Walker())
    limit = free.norm[free.success].median().item()
    bound = attack(model, x, y, Walker(eps=limit))
    assert 0 < int(bound.success.sum()) < int(free.success.sum())
    assert (bound.norm[bound.success] <= limit).all()


# --- several points a question --------------------------------------------------------------------


def test_any_of_several_points_breaks_a_sample() -> None:
    model, x, y = setting(40)
    result = attack(model, x, y, Cloud())
    assert result.success.any()
    with torch.no_grad():
        predictions = model(result.adversarial).argmax(1)
    assert (predictions[result.success] != y[result.success]).all()
    assert (result.queries[result.correct] % 5 == 0).all()
    assert result.gradient_evaluations == 0


# --- masks and budgets ----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [PGD(eps=0.3), PGD(norm="l2", eps=1.5), Walker()])
def test_nothing_changes_outside_of_the_mask(spec: AttackSpec) -> None:
    model, x, y = setting(40)
    mask = torch.zeros(1, 1, *x.shape[2:])
    mask[..., : x.shape[3] // 2] = 1
    result = attack(model, x, y, spec, mask=mask)
    assert torch.equal(result.adversarial[..., x.shape[3] // 2 :], x[..., x.shape[3] // 2 :])
    assert result.success.any()
    everywhere = attack(model, x, y, spec, mask=torch.ones_like(x, dtype=torch.bool))
    assert torch.equal(everywhere.adversarial, attack(model, x, y, spec).adversarial)


def test_a_mask_that_does_not_fit() -> None:
    model, x, y = setting(4)
    for mask in (torch.ones(3, 5), torch.full((1, 1, 1, 1), 0.5)):
        with pytest.raises(BadInput, match="mask must"):
            attack(model, x, y, PGD(), mask=mask)


@pytest.mark.parametrize("spec", SPECS)
def test_no_sample_gets_more_queries_than_allowed(spec: AttackSpec) -> None:
    model, x, y = setting(40)
    few = attack(model, x, y, spec.model_copy(update={"max_queries": 5}))
    many = attack(model, x, y, spec)
    assert int(few.queries.max()) == 5
    assert few.finished.all()
    assert (few.success <= many.success).all()


def test_time_that_is_up_leaves_the_rest_undecided() -> None:
    model, x, y = setting(40)
    result = attack(model, x, y, PGD(eps=0.01, steps=100_000, max_seconds=0.05))
    assert not result.finished[result.correct & ~result.success].any()
    assert int(result.iterations.max()) < 100_000


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("noisy", [False, True])
def test_a_search_goes_on_from_any_snapshot(spec: AttackSpec, noisy: bool) -> None:
    model, x, y = setting(20)
    if noisy:
        model = nn.Sequential(Noise(), model)

    def searched(resume: Any = None) -> tuple[list[Iteration], list[Any], AttackResult]:
        search = perturb(model, x, y, spec, seed=3, ids=torch.arange(20), resume=resume)
        seen: list[Iteration] = []
        snapshots = []
        while True:
            try:
                seen.append(next(search))
                snapshots.append(seen[-1].snapshot())
            except StopIteration as end:
                return seen, snapshots, end.value

    seen, snapshots, whole = searched()
    for number in range(0, len(snapshots), 3):
        rest, _, result = searched(snapshots[number])
        assert len(rest) == len(seen) - number
        assert all(map(torch.equal, everything(result), everything(whole)))
        assert result.forward_evaluations == whole.forward_evaluations
        assert result.gradient_evaluations == whole.gradient_evaluations


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_cancel_returns_what_is_confirmed(spec: AttackSpec) -> None:
    model, x, y = setting(20)
    total = sum(method.steps + 1 for method in spec.rounds())
    for stop in range(1, total):
        search = perturb(model, x, y, spec, seed=3, ids=torch.arange(20))
        try:
            for _ in range(stop):
                next(search)
            search.throw(Cancelled())
        except StopIteration as end:
            result: AttackResult = end.value
        with torch.no_grad():
            predictions = model(result.adversarial).argmax(1)
        assert (predictions[result.success] != y[result.success]).all()


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.05 * torch.randn_like(x)
