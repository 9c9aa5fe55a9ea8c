from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks.geometry import L1Ball, ball, strongest
from engine.attacks.spec import Norm

EPS = [0.0, 1e-7, 1e-3, 8 / 255, 0.3, 0.5, 1.0, 3.7, 1000.0, math.inf]
BOUNDED: list[Norm] = ["linf", "l2", "l1", "l0"]
NORMS: list[Norm] = [*BOUNDED, "free"]


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
    if norm == "linf":
        return change.abs().amax(1)
    if norm == "l1":
        return torch.tensor([math.fsum(row.abs().tolist()) for row in change], dtype=torch.float64)
    if norm == "l0":
        return (change != 0).sum(1).double()
    return change.square().sum(1).sqrt()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", EPS)
def test_points_lie_inside_ball_and_box_without_tolerance(norm: Norm, eps: float) -> None:
    for seed in range(6):
        centre = corners(seed)
        region = ball(norm, centre, torch.full((8,), eps, dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        away = torch.randn(centre.shape, generator=generator) * 10.0 ** (seed - 3)
        for point in (
            region.random(seed, torch.arange(8)),
            region.project(centre + away),
            region.project(centre + region.direction(away) * min(eps, 1e9)),
            region.project(centre),
        ):
            assert bool((point >= 0).all())
            assert bool((point <= 1).all())
            assert norm == "free" or bool((exact_size(point, centre, norm) <= eps).all())
            assert bool(region.contains(point).all())


@pytest.mark.parametrize("norm", NORMS)
def test_outside_is_outside(norm: Norm) -> None:
    centre = torch.full((3, 1, 2, 2), 0.5)
    region = ball(norm, centre, torch.tensor([0.1, 0.1, 9.0]))
    x = centre.clone()
    x[0, 0, 0, 0] += 0.1001
    x[2, 0, 0, 0] = 1.0001
    assert region.contains(x).tolist() == [norm == "free", True, False]


@pytest.mark.parametrize("side", [64, 224])
def test_large_images_stay_inside_the_l2_ball(side: int) -> None:
    """Of so many equal squares float32 gets the sum wrong by more than a ball allows."""
    centre = torch.full((4, 3, side, side), 0.5)
    for eps in (0.3, 0.5, 1.0, 2.0, 4.0, 8.0):
        around = ball("l2", centre, torch.full((4,), eps, dtype=torch.float64))
        sign = torch.randn(centre.shape, generator=torch.Generator().manual_seed(0)).sign()
        for point in (around.project(centre + 0.1 * sign), around.pull(centre + 0.1 * sign)):
            change = (point.double() - centre.double()).flatten(1)
            assert bool((change.norm(dim=1) <= eps).all())
            assert bool(around.contains(point).all())


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
    for norm, eps in (("linf", 0.5), ("l2", 0.5), ("l1", 0.5), ("l0", 75.0), ("free", 0.0)):
        region = ball(norm, centre, torch.full((8,), eps))  # type: ignore[arg-type]
        torch.testing.assert_close(region.project(near), near)


def brute_force(x: Tensor, centre: Tensor, eps: float) -> Tensor:
    """The nearest point of l1 ball and box, by bisection on the multiplier of the ball, float64."""
    change, sign = (x - centre).abs(), (x - centre).sign()
    room = torch.where(x > centre, 1 - centre, centre)
    low, high = torch.zeros(len(x), 1, 1, 1).double(), change.amax((1, 2, 3), keepdim=True)
    for t in [torch.zeros_like(low)] + [None] * 200:  # type: ignore[list-item]
        middle = (low + high) / 2 if t is None else t
        cut = torch.minimum((change - middle).clamp_min(0), room)
        outside = cut.sum((1, 2, 3), keepdim=True) > eps
        if t is not None:
            high = torch.where(outside, high, 0.0)
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return centre + sign * torch.minimum((change - high).clamp_min(0), room)


@pytest.mark.parametrize("eps", [0.01, 0.5, 4.0, 20.0, 60.0])
@pytest.mark.parametrize("away", [0.01, 0.4, 30.0])
def test_the_l1_projection_is_the_nearest_point(eps: float, away: float) -> None:
    for seed in range(4):
        centre = corners(seed)
        generator = torch.Generator().manual_seed(seed)
        y = centre + torch.randn(centre.shape, generator=generator) * away
        y[6] = centre[6] + away  # ties
        ours = ball("l1", centre, torch.full((8,), eps)).project(y)
        best = brute_force(y.double(), centre.double(), eps)
        torch.testing.assert_close(ours.double(), best, atol=1e-5 * max(1.0, away), rtol=0)
        short = exact_size(best, centre, "l1") - exact_size(ours, centre, "l1")
        assert short.abs().max() <= 2e-5 * max(eps, away, 1.0)


def by_sorting(x: Tensor, centre: Tensor, eps: Tensor) -> Tensor:
    """The nearest point of l1 ball and box as in the paper: the place where the sum crosses the
    radius, between two of the sorted points where its slope changes; float64."""
    found = []
    for one, middle, radius in zip(x.double(), centre.double(), eps.double(), strict=True):
        top, sign = (one - middle).abs(), (one - middle).sign()
        room = torch.where(one > middle, 1 - middle, middle)
        knots = torch.cat([top.flatten(), (top - room).flatten(), torch.zeros(1)])
        knots = knots[knots >= 0].sort().values.unique()
        sums = torch.stack([torch.minimum((top - t).clamp_min(0), room).sum() for t in knots])
        t = knots[0]
        if sums[0] > radius:
            after = int((sums > radius).sum())
            part = (sums[after - 1] - radius) / (sums[after - 1] - sums[after])
            t = knots[after - 1] + part * (knots[after] - knots[after - 1])
        found.append(middle + sign * torch.minimum((top - t).clamp_min(0), room))
    return torch.stack(found)


def l1_cases(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, points and radii: at the box and inside, near and far, tied, sparse, and none."""
    generator = torch.Generator().manual_seed(seed)
    shape = [(1, 9, 9), (3, 8, 8), (1, 1, 1)][seed % 3]
    centre = torch.rand(8, *shape, generator=generator)
    centre = [centre, centre.round(), (3 * centre - 1).clamp(0, 1)][seed // 3 % 3]
    away = torch.randn(centre.shape, generator=generator) * 10.0 ** (seed % 8 - 5)
    y = centre + away * torch.rand(centre.shape, generator=generator) ** (seed % 5 * 5)
    y[0] = centre[0] + 0.3
    y[2] = y[2].where(torch.rand(shape, generator=generator) < 0.1, centre[2])
    y[3] = y[3].clamp(0, 1)
    radii = 10 ** (5 * torch.rand(8, generator=generator) - 3)
    radii[1] = 0
    return centre, y, radii


@pytest.mark.parametrize("seed", range(24))
def test_the_l1_projection_is_what_sorting_finds(seed: int) -> None:
    centre, y, radii = l1_cases(seed)
    ours = ball("l1", centre, radii).project(y)
    assert bool((exact_size(ours, centre, "l1") <= radii.double()).all())
    # The radius is smaller by what float32 rounds, which is said in the code.
    kept = (radii.double() * (1 - 4e-6) - centre[0].numel() * 2.0**-25).clamp_min(0)
    scale = y.double().abs().amax((1, 2, 3), keepdim=True).clamp_min(1)
    assert ((ours - by_sorting(y, centre, kept)).abs() / scale).max() < 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_no_point_of_the_l1_ball_is_nearer(seed: int) -> None:
    centre, y, radii = l1_cases(seed)
    region = ball("l1", centre, radii)
    ours = region.project(y)
    distance = (ours.double() - y).flatten(1).norm(dim=1)
    for draw in range(50):
        step = region.random(draw, torch.arange(8)) - ours
        for part in (1.0, 0.1, 0.01):  # inside too, as both are convex
            other = (ours + part * step).double()
            assert bool((distance <= (other - y).flatten(1).norm(dim=1) * (1 + 1e-5)).all())


@pytest.mark.parametrize("seed", range(12))
def test_an_l1_projection_is_the_same_alone_and_in_any_batch(seed: int) -> None:
    centre, y, radii = l1_cases(seed)
    whole = ball("l1", centre, radii)
    together = whole.project(y)
    for keep in (torch.tensor([6]), torch.tensor([0]), torch.tensor([7, 2, 5]), torch.arange(5)):
        assert torch.equal(whole[keep].project(y[keep]), together[keep])
    broken = y.clone()
    broken[4] = math.nan
    rest = torch.arange(8) != 4
    assert torch.equal(whole.project(broken)[rest], together[rest])


def test_the_strongest_values_are_those_that_sorting_puts_first() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(40, 2, 5, 5, generator=generator) ** 3
    gradient[::3] *= torch.rand(gradient[::3].shape, generator=generator) < 0.2
    gradient[5] = 0.0
    count = torch.randint(1, 51, (40,), generator=generator)
    count[:2] = torch.tensor([1, 50])
    gradient[7, 0] = gradient[7, 0].sign()  # with the last one, all that equal it
    found = strongest(gradient, count)
    for row, signs, many in zip(gradient.flatten(1), found.flatten(1), count.tolist(), strict=True):
        least = sorted(row.abs().tolist())[-many]
        assert signs.tolist() == [
            math.copysign(1, v) if abs(v) >= least and v else 0 for v in row.tolist()
        ]


def test_the_l0_projection_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(20, 1, 1, 6, generator=generator).round(decimals=1)
    y = centre + torch.randn(centre.shape, generator=generator)
    ours = ball("l0", centre, torch.full((20,), 2.5)).project(y)
    assert bool((exact_size(ours, centre, "l0") <= 2).all())
    for i in range(20):
        options = []
        for one in range(6):
            for two in range(6):
                point = centre[i].flatten().clone()
                point[[one, two]] = y[i].flatten()[[one, two]].clamp(0, 1)
                options.append((point - y[i].flatten()).norm())
        torch.testing.assert_close((ours[i] - y[i]).norm(), torch.stack(options).min())


def test_directions_are_the_steepest() -> None:
    """No other step of that size gains more, along a linear loss."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(5, 2, 3, 3, generator=generator)
    centre = torch.full_like(gradient, 0.5)
    for norm, dual in (("linf", 1.0), ("l2", 2.0), ("l1", math.inf), ("l0", math.inf)):
        region = ball(norm, centre, torch.ones(5))  # type: ignore[arg-type]
        gain = (region.direction(gradient) * gradient).flatten(1).sum(1)
        torch.testing.assert_close(gain, gradient.flatten(1).norm(dual, dim=1))
        assert not ball(norm, centre, torch.ones(5)).direction(torch.zeros_like(centre)).any()  # type: ignore[arg-type]


def test_a_spread_step_takes_what_can_move() -> None:
    centre = torch.tensor([[0.5, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5]] * 2).view(2, 1, 2, 4)
    gradient = torch.tensor([[1.0, 9.0, -8.0, -3.0, 2.0, 7.0, 0.0, 0.5]] * 2).view(2, 1, 2, 4)
    mask = torch.ones_like(centre, dtype=torch.bool)
    mask[:, 0, 1, 1] = False
    region = ball("l1", centre, torch.ones(2), mask)
    assert isinstance(region, L1Ball)
    alike = region.spread(centre, gradient, 0.25)
    assert alike.flatten(1).tolist() == [[0, 0, 0, -0.5, 0.5, 0, 0, 0]] * 2
    shares = torch.tensor([1e-9, 0.25]).view(2, 1, 1, 1)
    each = region.spread(centre, gradient, shares)
    assert each[0].flatten().tolist() == [0, 0, 0, -1, 0, 0, 0, 0]
    assert torch.equal(each[1], alike[1])
    assert not region.spread(centre, torch.zeros_like(gradient), 0.5).any()


@pytest.mark.parametrize("norm", NORMS)
def test_masked_values_stay(norm: Norm) -> None:
    centre = corners(3)
    mask = torch.rand(centre.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    away = torch.randn(centre.shape, generator=torch.Generator().manual_seed(0))
    for eps in (2.0, math.inf):
        region = ball(norm, centre, torch.full((8,), eps), mask)
        for point in (
            region.random(0, torch.arange(8)),
            region.project(centre + away),
            region.move(centre, away, 0.5),
        ):
            assert torch.equal(point[~mask], centre[~mask])
            assert bool(region.contains(point).all())
            assert bool((point != centre).flatten(1).any(1).all())


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_radius_the_box_alone_bounds(norm: Norm) -> None:
    centre = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    region = ball(norm, centre, torch.full((200,), math.inf))
    away = torch.randn(centre.shape, generator=torch.Generator().manual_seed(1)) * 3
    torch.testing.assert_close(region.project(centre + away), (centre + away).clamp(0, 1))
    draws = region.random(0, torch.arange(200)).flatten().sort().values
    even = torch.linspace(0, 1, len(draws))
    assert (draws - even).abs().max() < 0.04


def test_directions_have_unit_length_however_small_the_gradient() -> None:
    gradient = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e-30
    gradient[2] = 0
    region = ball("l2", torch.full((3, 1, 4, 4), 0.5), torch.ones(3))
    sizes = region.direction(gradient).flatten(1).norm(dim=1)
    torch.testing.assert_close(sizes, torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_draws_belong_to_the_sample(norm: Norm) -> None:
    centre = corners(2)
    ids = torch.tensor([5, 9, 2, 7, 11, 3, 8, 100])
    radii = torch.linspace(0.1, 0.8, 8) * (10 if norm == "l0" else 1)
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
    share = l2.flatten(1).norm(dim=1) / 0.2
    assert abs(share.mean().item() - 0.5) < 0.05
    assert abs(share.std().item() - 12**-0.5) < 0.02
    l1 = ball("l1", centre, torch.full((400,), 0.2)).random(0, torch.arange(400)) - centre
    share = l1.abs().flatten(1).sum(1) / 0.2
    assert abs(share.mean().item() - 0.5) < 0.05
    assert abs((l1 > 0).double().mean().item() - 0.5) < 0.05
    l0 = ball("l0", centre, torch.full((400,), 4)).random(0, torch.arange(400)) != centre
    assert bool((l0.flatten(1).sum(1) == 4).all())
    assert abs(l0.double().mean(0) - 4 / 9).max() < 0.1


@pytest.mark.parametrize("norm", BOUNDED)
def test_a_move_loses_nothing_on_values_that_cannot_follow(norm: Norm) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5, 0.5]]).view(1, 1, 2, 2)
    gradient = torch.tensor([[-5.0, 7.0, 3.0, 0.0]]).view(1, 1, 2, 2)
    region = ball(norm, x, torch.tensor([2.0]))
    assert region.useful(x, gradient).flatten().tolist() == [0, 0, 3, 0]
    moved = region.move(x, gradient, 0.25) - x
    torch.testing.assert_close(moved.flatten(), torch.tensor([0, 0, 0.25, 0]))
