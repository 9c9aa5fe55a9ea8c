"""Ways through latent space."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.generative.latents import lerp, plane, quantile_grid, slerp


def at(*places: float) -> Tensor:
    return torch.tensor(places)


def test_an_arc_keeps_its_length_and_its_pace() -> None:
    first = torch.tensor([[3.0, 0.0]]).expand(4, -1)
    second = torch.tensor([[0.0, 3.0]]).expand(4, -1)
    found = slerp(first, second, at(0.0, 1 / 3, 0.5, 1.0))
    assert torch.allclose(found.norm(dim=1), torch.full((4,), 3.0))
    angles = torch.atan2(found[:, 1], found[:, 0]) / (math.pi / 2)
    assert angles.tolist() == pytest.approx([0.0, 1 / 3, 0.5, 1.0], abs=1e-6)


def test_a_line_is_straight() -> None:
    found = lerp(torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]]), at(0.25))
    assert found.tolist() == [[1.0, 1.5]]


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0, 1.0], [2.0, 2.0]), ([1.0, 0.0], [-1.0, 0.0]), ([0.0, 0.0], [1.0, 2.0])],
)
def test_where_there_is_no_arc_the_way_is_straight(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor([first]), torch.tensor([second])
    for place in (0.0, 0.3, 1.0):
        found = slerp(a, b, at(place))
        assert torch.allclose(found, lerp(a, b, at(place)), atol=1e-6)


def test_normal_latents_stay_in_their_shell() -> None:
    """Half way on a straight line the length is sqrt(1/2) of what samples have."""
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(200, 256, generator=draw) for _ in range(2))
    half = torch.full((200,), 0.5)
    usual = float(first.norm(dim=1).mean())
    assert float(slerp(first, second, half).norm(dim=1).mean()) == pytest.approx(usual, rel=0.02)
    straight = float(lerp(first, second, half).norm(dim=1).mean())
    assert straight == pytest.approx(usual / math.sqrt(2), rel=0.02)


@pytest.mark.parametrize("arc", [True, False])
def test_a_plane_has_its_corners(arc: bool) -> None:
    corners = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    found = plane(corners, 3, 5, arc=arc).view(3, 5, 6)
    ends = torch.stack([found[0, 0], found[0, -1], found[-1, 0], found[-1, -1]])
    assert torch.allclose(ends, corners, atol=1e-6)
    between = slerp if arc else lerp
    upper = between(corners[:1], corners[1:2], at(0.25))
    assert torch.allclose(found[0, 1], upper[0], atol=1e-6)
    middle = between(found[0, 2:3], found[2, 2:3], at(0.5))
    assert torch.allclose(found[1, 2], middle[0], atol=1e-6)


def test_a_plane_of_one_is_its_middle() -> None:
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert plane(corners, 1, 1, arc=False).tolist() == [[1.0, 1.0]]


def test_cells_of_the_grid_hold_equally_many_samples() -> None:
    grid = quantile_grid(4, 3)
    assert grid.shape == (4, 4, 3)
    edges = torch.special.ndtri(torch.tensor([0.25, 0.5, 0.75]))
    samples = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    held = torch.bucketize(samples, edges)
    assert torch.bincount(held).div(40_000).tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert torch.bucketize(grid[0, :, 0].contiguous(), edges).tolist() == [0, 1, 2, 3]
    assert torch.equal(grid[..., 1], grid[..., 0].T)
    assert grid[0, 0].tolist() == pytest.approx([-1.1503, -1.1503, 0.0], abs=1e-4)


def test_a_uniform_grid_and_a_line() -> None:
    assert quantile_grid(2, 2, "uniform")[..., 0].tolist() == [[-0.5, 0.5], [-0.5, 0.5]]
    line = quantile_grid(3, 1)
    assert line.shape == (3, 3, 1)
    assert torch.equal(line[0], line[2])
