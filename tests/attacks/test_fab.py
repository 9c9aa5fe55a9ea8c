"""FAB: its projections against bisection in float64, its results against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks import FAB, attack
from engine.attacks.fab import _project, _project_l1
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels


def problem(share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, 2, D), slopes, and values that take `share` of what the box allows."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(30, 2, 50, generator=generator)
    points[:, :, :10], points[:, :, 10:20] = 0, 1
    slope = torch.randn(30, 50, generator=generator)
    slope[:, ::7] = 0
    sign = torch.tensor([1.0, -1.0]).repeat(15)[:, None]
    room = torch.where(slope[:, None] * sign[:, :, None] > 0, points, 1 - points)
    return points, (room * slope.abs()[:, None]).sum(2) * share * sign, slope


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 1.5])
def test_projections_are_the_nearest_points(norm: str, share: float) -> None:
    points, values, slope = problem(share)
    project = _project_l1 if norm == "l1" else _project
    changes = project(points, values, slope, norm == "linf").double()
    moved = points.double() + changes
    assert bool(((moved >= -1e-6) & (moved <= 1 + 1e-6)).all())
    left = values.double() + (changes * slope.double()[:, None]).sum(2)
    if share < 1:
        assert (left.abs() <= 1e-4 * values.abs() + 1e-5).all()
    torch.testing.assert_close(changes, bisected(points, values, slope, norm), atol=2e-4, rtol=0)


def bisected(points: Tensor, values: Tensor, slope: Tensor, norm: str) -> Tensor:
    """The same by bisection of the dual variable."""
    points, values, slope = points.double(), values.double(), slope.double()[:, None]
    way = -slope.sign() * values.sign()[:, :, None]
    room = torch.where(way > 0, 1 - points, points) * (way != 0)
    low, high = torch.zeros_like(values), torch.full_like(values, 1e6)

    def reach(t: Tensor) -> Tensor:
        t = t[:, :, None]
        if norm == "linf":
            return torch.minimum(t, room)
        if norm == "l2":
            return torch.minimum(t * slope.abs(), room)
        return room * (slope.abs() * t > 1)

    for _ in range(200):
        middle = (low + high) / 2
        less = (reach(middle) * slope.abs()).sum(2) < values.abs()
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    moved = reach(low)
    if norm == "l1":  # one value is between
        rest = values.abs() - (moved * slope.abs()).sum(2)
        between = (reach(high) > 0) & (moved == 0)
        moved = torch.where(
            between, torch.minimum(rest[:, :, None] / slope.abs().clamp_min(1e-12), room), moved
        )
    return moved * way


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_distance_of_a_linear_model_is_found(norm: str) -> None:
    model, x = Linear(), images(30)
    y = right_labels(model, x)
    with torch.no_grad():
        score = model(x)[:, :1]
    exact = bisected(x.flatten(1)[:, None], score, model.weight.detach().expand(30, -1), norm)
    distance = torch.linalg.vector_norm(exact[:, 0], math.inf if norm == "linf" else 2, dim=1)
    for targets in (0, 1):
        result = attack(model, x, y, FAB(norm=norm, steps=20, targets=targets))
        near = distance < 0.4 * distance.max()
        assert result.success[near].all()
        assert (result.norm >= distance - 1e-6)[result.success].all()
        assert (result.norm <= distance * 1.02 + 1e-5)[near].all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_one_class_at_a_time_gets_as_near_as_the_jacobian(norm: str) -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    whole = attack(model, x, y, FAB(norm=norm, steps=20))
    each = attack(model, x, y, FAB(norm=norm, steps=20, targets=CLASSES - 1))
    assert whole.success.all()
    assert each.success.all()
    assert (each.norm <= whole.norm * 1.01).double().mean() > 0.9
    again = attack(model, x, y, FAB(norm=norm, steps=20, restarts=2))
    assert (again.norm <= whole.norm).all()


def test_a_target_is_reached() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    aims = (y + 2) % CLASSES
    result = attack(model, x, y, FAB(norm="l2", steps=30, targeted=True), targets=aims)
    assert result.success.double().mean() > 0.9
    with torch.no_grad():
        reached = model(result.adversarial).argmax(1) == aims
    assert reached[result.success].all()


def test_who_is_broken_inside_the_radius_is_not_looked_at_again() -> None:
    """Of many classes aimed at one after the other: verdicts are those of each class alone, and a
    sample takes part until the first that breaks it, as in the authors' code."""
    classes, eps = 30, 0.1
    model, x = conv(classes), images(16)
    labels = right_labels(model, x)
    spec = FAB(eps=eps, steps=6, targets=classes - 1)
    found = attack(model, x, labels, spec)
    whole = FAB(steps=6, targets=classes - 1)  # everybody, to the end
    every = attack(model, x, labels, whole)
    assert torch.equal(found.success, every.success & (every.norm <= eps))
    assert int(found.success.sum()) > 3
    rounds = 2 * spec.steps
    steps = torch.where(found.success, (found.broken_in + 1) * rounds, (classes - 1) * rounds)
    assert torch.equal(found.queries, steps)
    assert found.forward_evaluations < every.forward_evaluations / 2
    # A radius of a sample's own counts as well; one without an end lets it go on.
    own = torch.full((16,), eps, dtype=torch.float64)
    own[0] = float("inf")
    some = attack(model, x, labels, whole, eps=own)
    assert torch.equal(some.success[1:], found.success[1:])
    assert torch.equal(some.queries[1:], found.queries[1:])
    assert some.queries[0] == (classes - 1) * rounds
