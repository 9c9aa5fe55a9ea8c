"""DDN against closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attacks import DDN, attack
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels


def test_linear_models_are_crossed_at_their_distance() -> None:
    model, x = Linear(), 0.5 + 0.1 * (images(20) - 0.5)
    y = right_labels(model, x)
    with torch.no_grad():
        distance = model(x)[:, 0].abs().double() / model.weight.double().norm()
    near = distance < 1.5
    assert int(near.sum()) > 5
    result = attack(model, x, y, DDN(steps=300, levels=None, gamma=0.02, first_radius=0.1))
    assert result.success[near].all()
    assert (result.norm[near] >= distance[near] * (1 - 1e-4)).all()
    assert (result.norm[near] <= distance[near] * 1.02 + 1e-3).all()


def test_values_are_on_the_levels_that_were_asked_for() -> None:
    model, x = conv(), (images(20) * 15).round() / 15
    y = right_labels(model, x)
    result = attack(model, x, y, DDN(levels=16))
    assert result.success.any()
    level = result.adversarial * 15
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-5)
    finer = attack(model, x, y, DDN(levels=None))
    assert finer.norm[finer.success].median() < result.norm[result.success].median()


class Near(Linear):
    """A boundary .005 away from one image: a change by less than half of one of 256 levels."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            self.start = super().forward(x)[0, 0] - 0.005 * self.weight.norm()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - torch.stack([self.start, torch.zeros(())])


def test_nothing_is_rounded_unless_asked_for() -> None:
    for x in (0.25 + images(5) / 2).mul(255).round().div(255).split(1):
        model = Near(x)
        found = attack(model, x, torch.tensor([0]), DDN(first_radius=0.02))
        assert found.success.all()
        assert 0.005 <= found.norm <= 0.0053
        rounded = attack(model, x, torch.tensor([0]), DDN(first_radius=0.02, levels=256))
        assert not rounded.success or rounded.norm > 0.0075


def test_a_target_is_reached() -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    targets = (y + 1) % CLASSES
    result = attack(model, x, y, DDN(targeted=True), targets=targets)
    assert result.success.all()
    assert torch.equal(result.predictions, targets)


def test_no_gradient_is_a_random_direction() -> None:
    """Logits so far apart that cross entropy is flat at the start."""
    model, x = conv(), images(20)
    with torch.no_grad():
        model[-1].weight.mul_(1000)
        model[-1].bias.mul_(1000)
    y = right_labels(model, x)
    assert attack(model, x, y, DDN()).success.float().mean() > 0.5
