"""One image under fire."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks.trying import CLOSE, HALVINGS, Tried, attempt, budget, smallest
from engine.errors import BadInput, SpecError
from engine.events import drain

PGD = {"kind": "pgd", "norm": "linf", "steps": 10}


class Linear(nn.Module):
    """Three classes; what separates 0 from 1 is much nearer than 2."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 16, generator=generator))
        self.bias = nn.Parameter(torch.tensor([0.2, 0.0, -4.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


@pytest.fixture
def model() -> nn.Module:
    return Linear()


@pytest.fixture
def image() -> Tensor:
    return torch.full((1, 1, 4, 4), 0.5)


def tried(*arguments: Any, **options: Any) -> Tried:
    found: Tried = drain(attempt(*arguments, **options))
    return found


def nearest(model: nn.Module, image: Tensor, order: float) -> float:
    """The distance to the boundary of a linear model: margin / dual norm of the difference."""
    logits = model(image)[0].detach()
    label, weight = int(logits.argmax()), model.weight.detach()
    gaps = [
        float((logits[label] - logits[k]) / (weight[label] - weight[k]).norm(order))
        for k in range(3)
        if k != label
    ]
    return min(gaps)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0)])
def test_the_smallest_radius_of_a_linear_model(
    model: nn.Module, image: Tensor, norm: str, dual: float
) -> None:
    exact = nearest(model, image, dual)
    most = 2 * exact
    assert most < 0.5 or norm == "l2"  # else the box would bind
    found = drain(smallest(model, image, {**PGD, "norm": norm}, most))
    assert found is not None
    assert exact <= found <= exact * (1 + CLOSE) + most / 2**HALVINGS
    assert drain(smallest(model, image, {**PGD, "norm": norm}, 0.9 * exact)) is None
    below = tried(model, image, {**PGD, "norm": norm}, 0.99 * exact)
    above = tried(model, image, {**PGD, "norm": norm}, 1.02 * exact)
    assert (below.success, above.success) == (False, True)
    assert above.norm == pytest.approx(1.02 * exact, rel=1e-3)
    assert below.attacked
    assert torch.allclose(below.after, model(below.adversarial).softmax(1)[0])
    assert int(above.after.argmax()) != above.label == int(above.clean.argmax())
    again = tried(model, image, {**PGD, "norm": norm}, 1.02 * exact)
    assert torch.equal(again.adversarial, above.adversarial)


def test_what_is_attacked(model: nn.Module, image: Tensor) -> None:
    said = int(model(image).argmax())
    other = (said + 1) % 3
    still = tried(model, image, PGD, 0.0)
    assert (still.attacked, still.success, still.label, still.norm) == (False, False, said, 0.0)
    assert torch.equal(still.adversarial, image)
    wrong = tried(model, image, PGD, 0.1, other)
    assert (wrong.attacked, wrong.success, wrong.label, wrong.said) == (False, True, other, said)
    assert drain(smallest(model, image, PGD, 0.5, other)) == 0.0
    for target in (k for k in range(3) if k != said):
        there = tried(model, image, PGD, 0.5, None, target)
        assert there.success == (int(there.after.argmax()) == target)
    with pytest.raises(BadInput, match="choose another one"):
        tried(model, image, PGD, 0.1, None, said)
    with pytest.raises(BadInput, match="no class 3; the label must be 0 to 2"):
        tried(model, image, PGD, 0.1, 3)


def test_only_fixed_budgets(model: nn.Module, image: Tensor) -> None:
    for kind in ("deepfool", "nothing", None):
        with pytest.raises(BadInput, match="no attack of a fixed budget"):
            budget({"kind": kind}, 0.1)
    with pytest.raises(SpecError, match="eps"):
        budget(PGD, -1.0)
    spec = budget(PGD, 0.2)
    assert (spec.eps, spec.step_size) == (0.2, pytest.approx(0.05))
    assert budget({**PGD, "step_size": 0.01}, 0.2).step_size == 0.01
    assert budget(PGD, 0.0).eps == 0.0


def test_an_answer_that_is_no_number(image: Tensor) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), float("nan"))

    with pytest.raises(BadInput, match="NaN or Inf"):
        tried(Broken(), image, PGD, 0.1)
