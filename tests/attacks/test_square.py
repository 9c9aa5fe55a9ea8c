"""Square: its proposals, one by one, and its shapes."""

from __future__ import annotations

import pytest
import torch

from engine.attacks import Square, attack, perturb
from engine.attacks.square import _pyramids, _side
from tests.attacks.models import Linear, conv, images, right_labels

ROOT2 = 2**0.5


def test_squares_shrink_as_in_the_authors_code() -> None:
    spec = Square(rescale_schedule=False)
    at = (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 4999)
    assert [_side(spec, n, 28, 28) for n in at] == [25, 25, 18, 18, 13, 13, 9, 6, 4, 3, 2, 2]
    fitted = Square(steps=1000)
    assert [_side(fitted, n, 28, 28) for n in (0, 1, 2, 5, 6, 999)] == [25, 25, 18, 18, 13, 1]
    assert _side(Square(norm="l2"), 4999, 28, 28) == 3
    assert _side(Square(norm="l2"), 20, 28, 28) % 2 == 1


def test_proposals_recolour_one_square_and_keep_what_helps() -> None:
    model, x = conv(), images(12, side=8)
    model[-1] = torch.nn.Linear(6 * 64, 4)
    y = right_labels(model, x)
    search = perturb(model, x, y, Square(eps=0.1, steps=80), seed=2, ids=torch.arange(12))
    best = top = None
    sides = set()
    for now in search:
        low, high = (x - 0.1).clamp(0, 1)[now.active], (x + 0.1).clamp(0, 1)[now.active]
        ends = (now.points - low).abs().minimum((now.points - high).abs())
        assert ends.max() < 1e-6
        if best is None:
            best, top = x.clone(), torch.full((12,), -torch.inf)
        else:
            changed = (now.points != best[now.active]).any(1)
            rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
            sides.add(int(torch.maximum(rows, columns).max()))
        better = now.loss > top[now.active]
        best[now.active[better]], top[now.active[better]] = now.points[better], now.loss[better]
    assert max(sides) <= 7
    assert 1 in sides


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 0.1), ("l2", 0.7), ("l1", 4.0)], ids=["linf", "l2", "l1"]
)
@pytest.mark.parametrize("side", [6, 9, 14])
def test_it_gets_a_linear_model_down(norm: str, eps: float, side: int) -> None:
    model, x = Linear(side * side), images(40, side=side)
    y = right_labels(model, x)
    few = attack(model, x, y, Square(norm=norm, eps=eps, steps=5))
    many = attack(model, x, y, Square(norm=norm, eps=eps, steps=300))
    assert int(few.success.sum()) < int(many.success.sum())
    assert (many.norm[many.success] <= eps).all()
    assert many.gradient_evaluations == 0


class Counted(torch.nn.Module):
    """Counts the images it is shown; `noise` has it draw at random, which changes nothing."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.net, self.noise, self.shown = conv(), noise, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown += len(x)
        if self.noise:
            torch.rand(1)
        return self.net(x)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_present_point_is_not_asked_about_again(targeted: bool) -> None:
    """Unless the model draws, which might say something else; nothing else depends on it."""
    x = images(30)
    spec = Square(eps=0.05, steps=150, restarts=2, targeted=targeted, max_queries=250)
    found = []
    for noise in (False, True):
        model = Counted(noise)
        y = right_labels(model, x)
        model.shown = 0
        found.append(attack(model, x, y, spec))
        assert model.shown == found[-1].forward_evaluations
    quick, slow = found
    confirmed = int(slow.success.sum())
    assert slow.forward_evaluations == 30 + int(slow.queries.sum()) + confirmed
    assert quick.forward_evaluations < 0.8 * slow.forward_evaluations
    for name in ("adversarial", "success", "norm", "queries", "iterations", "predictions"):
        assert torch.equal(getattr(quick, name), getattr(slow, name))
    assert 0 < confirmed < 30


def test_pyramids_are_those_of_the_paper() -> None:
    # Rows of the authors' eta_rectangles for side 3: one row above, two below.
    above = torch.tensor([[0.25, 1.25, 0.25]])
    below = -torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([above / above.norm(), below / below.norm()]) / ROOT2
    torch.testing.assert_close(_pyramids(3, 2), expected)
    for order in (1, 2):
        for side in (1, 2, 5, 8):
            size = torch.linalg.vector_norm(_pyramids(side, order), order)
            torch.testing.assert_close(size, torch.tensor(1.0))
