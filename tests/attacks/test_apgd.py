"""APGD: against its algorithm written plainly, one sample at a time, and its losses against their
formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import APGD, PGD, attack, perturb
from engine.attacks.apgd import _checkpoints
from engine.attacks.goal import Goal
from engine.attacks.losses import dlr, margin, target_dlr, target_margin
from tests.attacks.models import Linear, Noisy, conv, images, right_labels

STEPS = 50


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_sample_goes_the_way_of_the_algorithm(norm: str) -> None:
    model, x = conv(), images(10)
    y = right_labels(model, x)
    eps = 0.05 if norm == "linf" else 0.2
    spec = APGD(norm=norm, eps=eps, steps=STEPS)
    search = perturb(model, x, y, spec, seed=1, ids=torch.arange(10), persist=True)
    points, losses = [], []
    for now in search:
        points.append(now.points.clone())
        losses.append(now.loss.clone())
    assert len(points) == STEPS + 1
    for i in range(10):
        expected = plain(model, x[i : i + 1], y[i : i + 1], points[0][i : i + 1], norm, eps)
        # Signs of gradients near zero part the ways at last.
        torch.testing.assert_close(
            torch.stack([loss[i] for loss in losses[:30]]), expected[:30], rtol=1e-4, atol=1e-5
        )


def plain(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, norm: str, eps: float) -> Tensor:
    """Losses of algorithm 1 with the checkpoints of the authors' code, for one sample."""

    def look(at: Tensor) -> tuple[float, Tensor]:
        at = at.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(at), y)
        return loss.item(), torch.autograd.grad(loss, at)[0]

    def inside(at: Tensor) -> Tensor:
        if norm == "linf":
            return at.clamp(x - eps, x + eps).clamp(0, 1)
        change = at - x
        return (x + change * min(1.0, eps / max(change.norm().item(), 1e-12))).clamp(0, 1)

    window, least, shorter = int(0.22 * STEPS), int(0.06 * STEPS), max(int(0.03 * STEPS), 1)
    length, halved, rises, since = 2 * eps, True, 0, 0
    here, before, last = start, start, 0.0
    loss, slope = look(here)
    losses, top, best, best_slope, checked = [loss], loss, here, slope, loss
    for step in range(STEPS):
        way = slope.sign() if norm == "linf" else slope / slope.norm()
        further = inside(here + length * way)
        share = 1.0 if step == 0 else 0.75
        further = inside(here + share * (further - here) + (1 - share) * (here - before))
        before, here = here, further
        loss, slope = look(here)
        losses.append(loss)
        rises, last, since = rises + (loss > last), loss, since + 1
        if loss > top:
            top, best, best_slope = loss, here, slope
        if since == window:
            halved = rises <= 0.75 * window or (not halved and checked >= top)
            if halved:
                length, here, slope = length / 2, best, best_slope
            checked, rises, since, window = top, 0, 0, max(window - shorter, least)
    return torch.tensor(losses)


@pytest.mark.parametrize("larger", [False, True])
def test_in_l1_each_sample_goes_the_way_of_the_authors_code(larger: bool) -> None:
    model, x = conv(side=10), 0.2 + 0.6 * images(6, side=10)
    y = right_labels(model, x)
    spec = APGD(norm="l1", eps=0.6, steps=30, larger_radii=larger)
    search = perturb(model, x, y, spec, seed=1, ids=torch.arange(6), persist=True)
    points, losses = [], []
    for now in search:
        points.append(now.points.clone())
        losses.append(now.loss.clone())
    for i in range(6):
        expected = plain_l1(model, x[i : i + 1], y[i : i + 1], points[0][i : i + 1], larger)
        assert len(expected) == len(losses)
        torch.testing.assert_close(
            torch.stack([loss[i] for loss in losses[:16]]), expected[:16], rtol=5e-3, atol=1e-5
        )


def plain_l1(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, larger: bool) -> Tensor:
    """The same in l1, in the order of the authors' `decr_eps_pgd`, or without larger radii. First
    steps always go along a fifth of the values."""
    losses: list[float] = []
    here, values = start, x.numel()
    for eps, steps in ((1.8, 9), (1.2, 9), (0.6, 12)) if larger else ((0.6, 30),):
        here = nearest_l1(x, here, eps)
        changed = float((here != x).sum()) if losses else float(values)
        share = changed / values / 1.5 if losses else 0.2
        length, window = eps, max(int(0.04 * steps), 1)
        best, top, best_slope, slope = here, -float("inf"), here, here
        for step in range(steps + 1):
            at = here.clone().requires_grad_()
            loss = nn.functional.cross_entropy(model(at), y)
            slope = torch.autograd.grad(loss, at)[0]
            losses.append(loss.item())
            if loss.item() > top:
                best, top, best_slope = here, loss.item(), slope
            if step and step % window == 0:
                now = float((best != x).sum())
                sparser, share, changed = now / changed < 0.95, now / values / 1.5, now
                length = eps if sparser else max(length / 1.5, eps / 10)
                here, slope = (best, best_slope) if sparser else (here, slope)
            place = int(min(max((1 - share) * values, 0), values - 1))
            way = slope.sign() * (slope.abs() >= slope.abs().flatten().sort().values[place])
            if step < steps:
                here = nearest_l1(x, here + length * way / way.abs().sum(), eps)
        here = best
    return torch.tensor(losses)


def nearest_l1(x: Tensor, point: Tensor, eps: float) -> Tensor:
    """Projection onto ball and box, by halving in float64."""
    change = (point - x).double()
    room = torch.where(change > 0, 1 - x, x).double()
    low, high = 0.0, float(change.abs().max())

    def cut(t: float) -> Tensor:
        return torch.minimum((change.abs() - t).clamp_min(0), room)

    if cut(0).sum() <= eps:
        high = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).sum() > eps else (low, middle)
    return (x + change.sign() * cut(high)).float()


def test_checkpoints_are_those_of_the_authors_code() -> None:
    assert list(_checkpoints(APGD(), 100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(_checkpoints(APGD(norm="l1"), 100)) == list(range(4, 101, 4))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_model_is_broken_wherever_it_can_be(norm: str) -> None:
    model, x = Linear(), images(40)
    y = right_labels(model, x)
    eps = {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm]
    result = attack(model, x, y, APGD(norm=norm, eps=eps, steps=60))
    pgd = attack(model, x, y, PGD(norm=norm, eps=eps, steps=200, step_size=eps / 20))
    assert 0 < int(pgd.success.sum()) < 40
    assert int((pgd.success & ~result.success).sum()) == 0
    assert (result.norm[result.success] <= eps).all()


def test_larger_radii_come_first_and_do_not_count() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    spec = APGD(norm="l1", eps=0.5, steps=10, larger_radii=True)
    search = perturb(model, x, y, spec, seed=0, ids=torch.arange(30))
    sizes = []
    while True:
        try:
            now = next(search)
        except StopIteration as end:
            result = end.value
            break
        sizes.append((now.points - x[now.active]).abs().flatten(1).sum(1).max().item())
    assert len(sizes) == 10 + 3
    for part, radius in ((slice(0, 4), 1.5), (slice(4, 8), 1.0), (slice(8, 13), 0.5)):
        assert radius * 0.99 < max(sizes[part]) <= radius
    assert (result.norm[result.success] <= 0.5).all()


def test_dlr_is_its_formula_and_knows_no_scale() -> None:
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    labels, targets = torch.arange(50) % 10, (torch.arange(50) + 3) % 10
    goal = Goal(labels, targets, False, 9)
    z = logits.sort(dim=1, descending=True).values
    rows = torch.arange(50)
    own = logits[rows, labels]
    other = torch.where(z[:, 0] == own, z[:, 1], z[:, 0])
    torch.testing.assert_close(dlr(None, logits, goal), -(own - other) / (z[:, 0] - z[:, 2]))
    aimed = -(own - logits[rows, targets]) / (z[:, 0] - (z[:, 2] + z[:, 3]) / 2)
    torch.testing.assert_close(target_dlr(None, logits, goal), aimed)
    torch.testing.assert_close(dlr(None, logits, goal), dlr(None, logits * 1000, goal))


def test_with_few_classes_dlr_falls_back_and_says_so() -> None:
    two, three = torch.randn(2, 6, 2), torch.randn(6, 3)
    goal = Goal(torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64), False, 1)
    assert torch.equal(dlr(None, two[0], goal), margin(None, two[0], goal))
    assert torch.equal(target_dlr(None, two[0], goal), target_margin(None, two[0], goal))
    assert target_dlr(None, three, goal).isfinite().all()
    assert "2: the logits' margin" in APGD(loss="dlr").advice(2)
    assert not APGD(loss="dlr").advice(3)
    assert "3: the third" in APGD(loss="dlr", targets=9).advice(3)
    assert not APGD().advice(2)
    model, x = Linear(), images(40)
    result = attack(model, x, right_labels(model, x), APGD(loss="dlr", targets=9, eps=0.1))
    assert result.success.any()
    # One class to aim at, one round: nobody is asked more often.
    assert int(result.queries.max()) == 101


def test_passes_are_averaged() -> None:
    model, x = Noisy(), images(20)
    y = right_labels(model.net.eval(), x)
    spec = APGD(eps=0.05, steps=5, eot_iter=4)
    result = attack(model, x, y, spec)
    asked = result.queries[result.correct]
    assert (asked % 4 == 0).all()
    assert (result.norm[result.success] <= 0.05).all()


def test_rounds_are_named() -> None:
    names = [method.name for method in APGD(loss="dlr", targets=3, restarts=2).rounds()]
    aims = [method.aim for method in APGD(loss="dlr", targets=3, restarts=2).rounds()]
    assert (names, aims) == (["apgd-t"] * 6, [1, 1, 2, 2, 3, 3])
    assert [m.name for m in APGD(loss="dlr").rounds()] == ["apgd-dlr"]
    assert len(APGD(loss="dlr", targets=3, targeted=True).rounds()) == 1
