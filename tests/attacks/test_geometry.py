from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from engine.attacks.geometry import ball

EPS = [0.0, 1e-7, 1e-3, 8 / 255, 0.3, 0.5, 1.0, 3.7, 1000.0]
NORMS: list[Literal["linf", "l2"]] = ["linf", "l2"]


def corners(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(8, 3, 5, 5, generator=generator)
    x[1] = 0
    x[2] = 1
    x[3] = x[3].round()
    x[4] *= 1e-8
    x[5] = 1 - x[5] * 1e-7
    return x


def exact_size(x: Tensor, centre: Tensor, norm: str) -> Tensor:
    change = (x.double() - centre.double()).flatten(1)
    return change.abs().amax(1) if norm == "linf" else change.square().sum(1).sqrt()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", EPS)
def test_points_lie_inside_ball_and_box_without_tolerance(
    norm: Literal["linf", "l2"], eps: float
) -> None:
    for seed in range(6):
        centre = corners(seed)
        region = ball(norm, centre, torch.full((8,), eps, dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        away = torch.randn(centre.shape, generator=generator) * 10.0 ** (seed - 3)
        for point in (
            region.random(seed, torch.arange(8)),
            region.project(centre + away),
            region.project(centre + region.direction(away) * eps),
            region.project(centre),
        ):
            assert bool((point >= 0).all())
            assert bool((point <= 1).all())
            assert bool((exact_size(point, centre, norm) <= eps).all())
            assert bool(region.contains(point).all())


@pytest.mark.parametrize("norm", NORMS)
def test_outside_is_outside(norm: Literal["linf", "l2"]) -> None:
    centre = torch.full((3, 1, 2, 2), 0.5)
    region = ball(norm, centre, torch.tensor([0.1, 0.1, 9.0]))
    x = centre.clone()
    x[0, 0, 0, 0] += 0.1001
    x[2, 0, 0, 0] = 1.0001
    assert region.contains(x).tolist() == [False, True, False]


def test_the_l2_projection_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = corners(0)
    y = centre + torch.randn(centre.shape, generator=generator) * 0.4
    eps = 0.9
    ours = ball("l2", centre, torch.full((8,), eps)).project(y)
    low, high = torch.zeros(8, 1, 1, 1).double(), torch.full((8, 1, 1, 1), 1e6).double()
    c, target = centre.double(), y.double()
    for _ in range(200):  # bisection on the multiplier of the ball's constraint
        middle = (low + high) / 2
        point = ((target + middle * c) / (1 + middle)).clamp(0, 1)
        outside = (point - c).flatten(1).norm(dim=1).view(-1, 1, 1, 1) > eps
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    best = ((target + high * c) / (1 + high)).clamp(0, 1)
    torch.testing.assert_close(ours.double(), best, atol=2e-5, rtol=0)
    clipped = c + (target - c) * (eps / (target - c).flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    assert bool((exact_size(ours, centre, "l2") >= exact_size(clipped.clamp(0, 1), c, "l2")).all())


def test_points_inside_are_left_alone() -> None:
    centre = corners(1)
    near = (centre + 0.001).clamp(0, 1)
    for norm in NORMS:
        torch.testing.assert_close(ball(norm, centre, torch.full((8,), 0.5)).project(near), near)


def test_directions_have_unit_length_however_small_the_gradient() -> None:
    gradient = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e-30
    gradient[2] = 0
    region = ball("l2", torch.full((3, 1, 4, 4), 0.5), torch.ones(3))
    sizes = region.direction(gradient).flatten(1).norm(dim=1)
    torch.testing.assert_close(sizes, torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_draws_belong_to_the_sample(norm: Literal["linf", "l2"]) -> None:
    centre = corners(2)
    ids = torch.tensor([5, 9, 2, 7, 11, 3, 8, 100])
    radii = torch.linspace(0.1, 0.8, 8)
    whole = ball(norm, centre, radii)
    keep = torch.tensor([6, 1, 4])
    torch.testing.assert_close(
        whole.random(3, ids)[keep], whole[keep].random(3, ids[keep]), atol=1e-6, rtol=0
    )
    assert not torch.equal(whole.random(3, ids), whole.random(4, ids))


def test_random_starts_fill_the_ball() -> None:
    centre = torch.full((400, 1, 3, 3), 0.5)
    linf = ball("linf", centre, torch.full((400,), 0.2)).random(0, torch.arange(400)) - centre
    assert abs(linf.mean().item()) < 0.01
    assert abs(linf.std().item() - 0.2 / 3**0.5) < 0.003
    l2 = ball("l2", centre, torch.full((400,), 0.2)).random(0, torch.arange(400)) - centre
    share = (l2.flatten(1).norm(dim=1) / 0.2) ** 9  # uniform in the ball: uniform in [0, 1]
    assert abs(share.mean().item() - 0.5) < 0.05
