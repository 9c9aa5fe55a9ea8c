"""Noise, constant shifts, rotations and translations. On 500 MNIST images and two nets, the grid
search breaks exactly the samples that Foolbox 3.3.4's does (its translations being 28 / 27 of
ours), at 5 angles to 15 degrees and 3 x 3 shifts of a pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import Noise, Shift, Spatial, attack, perturb
from engine.attacks.spatial import moved
from tests.attacks.models import CLASSES, conv, images, right_labels


class Bright(nn.Module):
    """Says 1 of images that are brighter than `level` on average, else 0."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        over = x.flatten(1).mean(1) - self.level
        return torch.stack([-over, over], 1)


def points(spec: Noise | Shift | Spatial, x: Tensor) -> list[Tensor]:
    """Where a model that cannot be broken is asked."""
    y = torch.zeros(len(x), dtype=torch.int64)
    return [
        now.points for now in perturb(Bright(2.0), x, y, spec, seed=0, ids=torch.arange(len(x)))
    ]


def test_noise_is_as_strong_as_was_asked() -> None:
    x = torch.full((50, 1, 20, 20), 0.5)
    for distribution, deviation in (("gaussian", 0.1), ("uniform", 0.1 / 3**0.5)):
        free = points(Noise(eps=0.1, repeats=3, distribution=distribution), x)  # type: ignore[arg-type]
        assert len(free) == 3
        for draw in free:
            assert abs((draw - x).std().item() - deviation) < 0.002
            assert abs((draw - x).mean().item()) < 0.002
        assert not torch.equal(free[0], free[1])
        bounded = Noise(norm="linf", eps=0.1, repeats=1, distribution=distribution)  # type: ignore[arg-type]
        assert abs((points(bounded, x)[0] - x).abs().max().item() - 0.1) < 1e-4


def test_l2_noise_has_its_full_length_also_at_the_box() -> None:
    for x in (images(30), torch.zeros(30, 1, 6, 6)):
        for eps in (0.2, 1.0, 2.0):
            draw = points(Noise(norm="l2", eps=eps, repeats=1), x)[0]
            lengths = (draw - x).flatten(1).norm(dim=1)
            torch.testing.assert_close(lengths, torch.full((30,), eps), atol=0, rtol=0.02)


def test_more_draws_break_more() -> None:
    model, x = conv(), images(60)
    y = right_labels(model, x)
    once, often = (attack(model, x, y, Noise(eps=0.15, repeats=n)) for n in (1, 20))
    assert bool((once.success <= often.success).all())
    assert int(once.success.sum()) < int(often.success.sum())
    assert once.gradient_evaluations == 0


def test_a_shift_adds_one_value_everywhere() -> None:
    x = images(8) * 0.4 + 0.3
    up, down = points(Shift(eps=0.2), x)
    torch.testing.assert_close(up, x + 0.2)
    torch.testing.assert_close(down, x - 0.2)
    model = Bright(0.5)
    y = right_labels(model, x)
    result = attack(model, x, y, Shift(eps=0.2))
    away = (x.flatten(1).mean(1) - 0.5).abs()
    assert torch.equal(result.success, away < 0.2)


def test_whole_translations_and_quarter_turns_are_exact() -> None:
    x = images(4, side=7)
    turn = math.pi / 2
    by = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, -3.0], [turn, 0.0, 0.0], [0.0, 0.0, 0.0]])
    seen = moved(x, by.expand(4, 4, 3))
    right = F.pad(x, (0, 2))[..., 2:]
    down = F.pad(x, (0, 0, 3, 0))[..., :-3, :]
    for number, expected in enumerate((right, down, x.rot90(1, (2, 3)), x)):
        torch.testing.assert_close(seen[:, number], expected, atol=1e-5, rtol=0)


def test_a_grid_is_searched_completely() -> None:
    x = images(3)
    spec = Spatial(rotations=3, translations=2, rotation=20.0, translation=1.0)
    y = torch.zeros(3, dtype=torch.int64)
    result = attack(Bright(2.0), x, y, spec)
    assert result.queries.tolist() == [12] * 3
    assert not result.success.any()
    still = attack(conv(), x, right_labels(conv(), x), spec, eps=torch.zeros(3))
    assert not still.success.any()


def test_what_any_point_of_the_grid_breaks_is_broken() -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    y[0] = (y[0] + 1) % CLASSES
    spec = Spatial(rotations=3, translations=3, rotation=10.0, translation=0.4)
    expected = torch.zeros(40, dtype=torch.bool)
    for turn in (-1, 0, 1):
        for right in (-1, 0, 1):
            for down in (-1, 0, 1):
                by = torch.tensor([math.radians(10) * turn, 0.4 * right, 0.4 * down])
                seen = moved(x, by.expand(40, 1, 3))[:, 0]
                expected |= right_labels(model, seen) != y
    result = attack(model, x, y, spec)
    expected[0] = False
    assert torch.equal(result.success, expected)
    assert 0 < int(expected.sum()) < 39
