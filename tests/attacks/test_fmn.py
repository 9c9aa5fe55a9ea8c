"""FMN against closed forms, and its projections against definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks import FMN, attack
from engine.attacks.fmn import _PROJECTIONS
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels

DUALS = {"l2": 2, "linf": 1, "l1": math.inf}


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_linear_models_are_crossed_at_their_distance(norm: str) -> None:
    model, x = Linear(), 0.5 + 0.1 * (images(20) - 0.5)
    y = right_labels(model, x)
    with torch.no_grad():
        score = model(x)[:, 0].abs().double()
    distance = score / model.weight.double().norm(DUALS[norm])
    # Where the box is out of reach.
    near = distance < {"l2": 1.0, "linf": 0.3, "l1": 0.4}[norm]
    assert int(near.sum()) > 3
    result = attack(model, x, y, FMN(norm=norm, steps=300))
    assert result.success[near].all()
    assert (result.norm[near] >= distance[near] * (1 - 1e-4)).all()
    assert (result.norm[near] <= distance[near] * 1.02 + 1e-3).all()


def test_l0_counts_the_fewest_values_of_a_linear_model() -> None:
    model, x = Linear(), images(20)
    y = right_labels(model, x)
    with torch.no_grad():
        score = model(x)[:, 0]
        flat = x.flatten(1)
        # The most that each value can take from the score.
        down = torch.where(model.weight > 0, flat, flat - 1) * model.weight
        up = torch.where(model.weight > 0, flat - 1, flat) * model.weight
    gain = torch.where(score[:, None] > 0, down, -up).sort(dim=1, descending=True).values
    fewest = (gain.cumsum(1) <= score.abs()[:, None]).sum(1) + 1
    result = attack(model, x, y, FMN(norm="l0", steps=300))
    assert result.success.all()
    assert (result.norm >= fewest).all()
    assert (result.norm - fewest).median() <= 1


def test_boundaries_are_not_approached_for_ever() -> None:
    """The box takes length from each step, so that a radius measured anew never catches up."""
    model, x = Linear(), images(40).round() * 0.98 + 0.01
    result = attack(model, x, right_labels(model, x), FMN())
    assert result.success.all()


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_a_target_is_reached(norm: str) -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    targets = (y + 1) % CLASSES
    result = attack(model, x, y, FMN(norm=norm, targeted=True), targets=targets)
    assert result.success.float().mean() >= 0.9
    assert torch.equal(result.predictions[result.success], targets[result.success])


def _by_sorting(change: Tensor, radius: float) -> Tensor:
    """Duchi et al. 2008, figure 1, for one vector."""
    size = change.abs()
    if size.sum() <= radius:
        return change
    top = size.sort(descending=True).values
    excess = (top.cumsum(0) - radius) / torch.arange(1, len(top) + 1)
    threshold = excess[int((top > excess).nonzero().max())]
    return change.sign() * (size - threshold).clamp_min(0)


def test_projection_onto_l1() -> None:
    change = torch.randn(30, 50, generator=torch.Generator().manual_seed(1))
    radius = torch.linspace(0.1, 60, 30)
    found = _PROJECTIONS[1.0](change.clone(), radius[:, None])
    for one, row, r in zip(found, change, radius, strict=True):
        torch.testing.assert_close(one, _by_sorting(row, float(r)), rtol=0, atol=1e-5)


def test_projection_onto_l0() -> None:
    change = torch.randn(30, 50, generator=torch.Generator().manual_seed(1))
    radius = torch.arange(1.0, 31.0)
    found = _PROJECTIONS[0.0](change.clone(), radius[:, None])
    assert torch.equal((found != 0).sum(1), radius.long())
    kept = torch.where(found != 0, change.abs(), math.inf).amin(1)
    assert (kept >= torch.where(found == 0, change.abs(), 0).amax(1)).all()
