"""DeepFool against closed forms and the paper's algorithm, written plainly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks import DeepFool, attack
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_linear_models_are_crossed_at_their_distance(norm: str, dual: float) -> None:
    model, x = Linear(), 0.5 + 0.1 * (images(20) - 0.5)
    result = attack(model, x, right_labels(model, x), DeepFool(norm=norm, overshoot=0.02))
    with torch.no_grad():
        score = model(x)[:, 0]
    distance = score.abs().double() / model.weight.double().norm(dual)
    near = distance < (1.5 if norm == "l2" else 0.3)  # where the box is out of reach
    assert int(near.sum()) > 5
    assert result.success[near].all()
    torch.testing.assert_close(
        result.norm[near], 1.02 * (distance[near] + 1e-4), rtol=1e-3, atol=1e-5
    )


def plain(model: torch.nn.Module, x: Tensor, label: int, order: float, steps: int) -> Tensor:
    """Algorithm 2 for one image, (1, C, H, W), as adv-lib has it."""
    x = x.clone()
    for _ in range(steps):
        logits = model(x.requires_grad_())[0]
        if int(logits.argmax()) != label:
            break
        best = (math.inf, torch.zeros_like(x))
        for k in set(range(len(logits))) - {label}:
            lead = logits[k] - logits[label]
            (w,) = torch.autograd.grad(lead, x, retain_graph=True)
            length = float(w.norm(2 if order == 2 else 1))
            distance = float(lead.detach().abs()) / length + 1e-4
            move = distance * (w / length if order == 2 else w.sign())
            best = min(best, (distance, move), key=lambda pair: pair[0])
        x = (x.detach() + 1.02 * best[1]).clamp(0, 1)
    return x.detach()


@pytest.mark.parametrize(("norm", "order"), [("l2", 2.0), ("linf", math.inf)])
def test_as_in_the_paper_sample_by_sample(norm: str, order: float) -> None:
    model, x = conv(), images(16)
    y = right_labels(model, x)
    result = attack(model, x, y, DeepFool(norm=norm, steps=30))
    for i in range(16):
        expected = plain(model, x[i : i + 1], int(y[i]), order, 30)
        torch.testing.assert_close(result.adversarial[i], expected[0], rtol=0, atol=1e-4)


class Curved(torch.nn.Module):
    """Nine rivals in one dimension. All but the last are nearest at the start, by their slopes; on
    the way these flatten out, and the last is the only one to be reached inside of the box."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(1)
        others = [torch.tanh(8 * (t - 0.1)) - 0.2 - 0.05 * k for k in range(8)]
        return torch.cat([torch.ones_like(t), *others, 2.5 * t], 1)


def test_all_classes_are_looked_at_in_every_step() -> None:
    model, x = Curved(), torch.full((1, 1, 1, 1), 0.1)
    expected = plain(model, x, 0, math.inf, 100)
    result = attack(model, x, torch.tensor([0]), DeepFool(norm="linf"))
    assert result.success.all()
    torch.testing.assert_close(result.adversarial, expected)


def test_a_target_is_reached_at_its_distance() -> None:
    model, x = conv(), 0.5 + 0.1 * (images(20) - 0.5)
    y = right_labels(model, x)
    targets = (y + 2) % CLASSES
    result = attack(model, x, y, DeepFool(targeted=True), targets=targets)
    assert result.success.all()
    assert torch.equal(result.predictions, targets)
    untargeted = attack(model, x, y, DeepFool())
    assert (untargeted.norm <= result.norm * 1.05).all()


def test_values_at_the_side_of_the_box_do_not_hold_it_up() -> None:
    """A model whose largest slopes, by far, point out of the box."""
    model, x = Linear(), torch.zeros(1, 1, 6, 6)
    with torch.no_grad():
        model.weight.fill_(10)
        model.weight[:2] = torch.tensor([1.0, -0.5])
    x[0, 0, 0, :2] = 1
    result = attack(model, x, torch.tensor([0]), DeepFool(steps=20))
    assert result.success.all()
    torch.testing.assert_close(result.norm, torch.tensor([0.5]).double(), rtol=0.03, atol=0)
