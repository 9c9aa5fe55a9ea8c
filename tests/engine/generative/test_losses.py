"""Losses and penalties against closed forms, DiffAugment against what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from engine.generative import augmenting
from engine.generative.losses import critic_loss, generator_loss, looks_at_real
from engine.generative.penalties import gradient_penalty, squared_gradients
from engine.generative.spec import (
    Hinge,
    LeastSquares,
    LossSpec,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
    WassersteinGP,
)
from engine.task import kinds

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([0.5, -3.0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_sum(values: list[float]) -> float:
    return sum(math.log(v) for v in values) / len(values)


CROSS = -log_sum([sigmoid(2), sigmoid(-0.5)]) - log_sum([1 - sigmoid(0.5), 1 - sigmoid(-3)])
WANTED: dict[type[LossSpec], tuple[float, float]] = {
    Minimax: (CROSS, log_sum([1 - sigmoid(0.5), 1 - sigmoid(-3)])),
    NonSaturating: (CROSS, -log_sum([sigmoid(0.5), sigmoid(-3)])),
    LeastSquares: ((1 + 2.25) / 4 + (0.25 + 9) / 4, (0.25 + 16) / 4),
    Hinge: ((0 + 1.5) / 2 + (1.5 + 0) / 2, 1.25),
    Wasserstein: (-1.25 - 0.75, 1.25),
    WassersteinGP: (-1.25 - 0.75, 1.25),
    Relativistic: (
        -log_sum([sigmoid(1.5), sigmoid(2.5)]),
        -log_sum([sigmoid(-1.5), sigmoid(-2.5)]),
    ),
}


@pytest.mark.parametrize("kind", kinds(LossSpec).values(), ids=lambda kind: kind.__name__)
def test_losses_are_those_of_the_papers(kind: type[LossSpec]) -> None:
    spec = kind()
    critic, generator = WANTED[kind]
    assert float(critic_loss(spec, REAL, FAKE)) == pytest.approx(critic, rel=1e-6)
    real = REAL if looks_at_real(spec) else None
    assert float(generator_loss(spec, FAKE, real)) == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("kind", kinds(LossSpec).values(), ids=lambda kind: kind.__name__)
def test_losses_of_several_seeds_are_apart(kind: type[LossSpec]) -> None:
    real, fake = torch.stack([REAL, FAKE]), torch.stack([FAKE, REAL])
    both = critic_loss(kind(), real, fake)
    assert both.shape == (2,)
    assert torch.allclose(both[1], critic_loss(kind(), FAKE, REAL))


def test_smoothing_asks_for_less_than_one() -> None:
    wanted = torch.full_like(REAL, 0.9)
    entropy = nn.functional.binary_cross_entropy_with_logits
    found = critic_loss(NonSaturating(), REAL, FAKE, smoothing=0.1)
    by_torch = entropy(REAL, wanted) + entropy(FAKE, torch.zeros(2))
    assert torch.allclose(found, by_torch)


def quadratic(x: Tensor) -> Tensor:
    """Gradient (3 x, y)."""
    return 1.5 * x[..., 0].square() + 0.5 * x[..., 1].square()


def test_squared_gradients_are_those_of_a_quadratic() -> None:
    samples = torch.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
    found = squared_gradients(quadratic(samples), samples)
    assert found.tolist() == pytest.approx([9 + 4, 2.25 + 1])
    (again,) = torch.autograd.grad(found.sum(), samples)  # 18 x, 2 y
    assert again.tolist() == [pytest.approx([18.0, 4.0]), pytest.approx([9.0, -2.0])]


def test_squared_gradients_of_images_and_seeds() -> None:
    images = torch.randn(3, 4, 1, 2, 2, requires_grad=True)
    found = squared_gradients(images.square().flatten(2).sum(2), images)
    assert torch.allclose(found, (2 * images).square().flatten(2).sum(2))


def test_the_gradient_penalty_is_nothing_for_a_slope_of_one() -> None:
    slope = torch.tensor([0.6, 0.8])
    real, fake, share = torch.randn(5, 2), torch.randn(5, 2), torch.rand(5)
    assert float(gradient_penalty(lambda x: x @ slope, real, fake, share)) < 1e-9
    thrice = gradient_penalty(lambda x: x @ (3 * slope), real, fake, share)
    assert float(thrice) == pytest.approx(4.0, rel=1e-4)
    at = torch.lerp(fake, real, share[:, None]) * torch.tensor([3.0, 1.0])
    by_hand = (at.norm(dim=1) - 1).square().mean()
    assert float(gradient_penalty(quadratic, real, fake, share)) == pytest.approx(float(by_hand))


# --- DiffAugment ----------------------------------------------------------------------------------


def drawn(count: int) -> Tensor:
    return augmenting.draws(count, torch.Generator().manual_seed(0))


def test_translation_moves_by_whole_pixels() -> None:
    images = torch.rand(50, 3, 16, 16) * 2 - 1
    moved = augmenting.changed(images, ("translation",), drawn(50))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        fits = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(
                torch.roll(before, (dy, dx), (1, 2))[:, 2:-2, 2:-2], after[:, 2:-2, 2:-2]
            )
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 12
    assert {dy for dy, _ in seen} == {-2, -1, 0, 1, 2}


def test_cutout_leaves_a_grey_square_of_half_the_side() -> None:
    cut = augmenting.changed(torch.ones(400, 1, 8, 8), ("cutout",), drawn(400))
    areas = (cut == 0).flatten(1).sum(1)
    assert int(areas.max()) == 16
    assert int(areas.min()) >= 1
    assert set(cut.unique().tolist()) == {0.0, 1.0}


def test_colour_keeps_what_it_should() -> None:
    images = torch.rand(20, 3, 4, 4) * 2 - 1
    own = torch.full((20, augmenting.DRAWS), 0.5)  # in the middle: nothing changes
    assert torch.allclose(augmenting.changed(images, ("colour",), own), images, atol=1e-6)
    own[:, 0] = 1.0
    assert torch.allclose(augmenting.changed(images, ("colour",), own), images + 0.5, atol=1e-6)
    own[:, 0], own[:, 1] = 0.5, 0.0  # no saturation: grey
    grey = augmenting.changed(images, ("colour",), own)
    assert torch.allclose(grey, images.mean(1, keepdim=True).expand_as(images), atol=1e-6)


def test_gradients_pass_through_all_of_it() -> None:
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    kinds_ = ("translation", "cutout", "colour")
    changed = augmenting.changed(images, kinds_, drawn(4))
    (slope,) = torch.autograd.grad(changed.square().sum(), images)
    assert bool((slope != 0).flatten(1).any(1).all())
