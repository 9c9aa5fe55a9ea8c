"""The plane through a sample: directions, units, the edge of the ball, and known values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BadInput
from engine.explain import Pair, Plane, Survey, plane_through, survey
from engine.explain.surface import SIDE, STRIDES, grid_order

ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def pair(norm: str = "linf", eps: float | None = 0.2) -> Pair:
    generator = torch.Generator().manual_seed(3)
    clean = torch.rand(1, 1, 6, 6, generator=generator)
    moved = torch.randn(1, 1, 6, 6, generator=generator)
    if norm == "linf":
        moved = 0.2 * moved.sign()
    else:
        moved = 0.2 * moved / torch.linalg.vector_norm(moved, ORDERS.get(norm, 2.0))
    return Pair(clean, clean + moved, 1, "model", norm, eps)  # type: ignore[arg-type]


class Bowl(nn.Module):
    """Logits that are a known function of the image: of its distance from `centre`."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, x: Tensor) -> Tensor:
        far = (x - self.centre).flatten(1).square().sum(1)
        return torch.stack([4 * far, torch.ones_like(far), -far], 1)


def whole(model: nn.Module, plane: Plane, label: int = 1) -> dict[tuple[int, int], list[float]]:
    """The survey in as many pieces as it takes, by row and column."""
    found: dict[tuple[int, int], list[float]] = {}
    start = 0
    while start < SIDE**2:
        part = survey(model, plane, label, start=start, seconds=0.0)
        assert part.done == start + len(part.row) > start
        for values in zip(*(v.tolist() for v in _columns(part))):
            found[values[0], values[1]] = list(values[2:])
        start = part.done
    return found


def _columns(part: Survey) -> tuple[Tensor, ...]:
    return part.row, part.column, part.loss, part.margin, part.prediction


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "free"])
def test_directions_are_orthogonal_and_of_size_one_in_the_attacks_norm(norm: str) -> None:
    it = pair(norm)
    plane = plane_through(it, seed=0)
    order = ORDERS[plane.norm]
    assert plane.norm == (norm if norm in ORDERS else "l2")
    assert torch.dot(plane.along.flatten(), plane.across.flatten()).abs() < 1e-5
    for direction in (plane.along, plane.across):
        assert torch.linalg.vector_norm(direction, order) == pytest.approx(1, rel=1e-5)
    found = plane.at(torch.tensor([plane.distance]), torch.zeros(1))
    torch.testing.assert_close(found, it.adversarial)


def test_the_random_direction_belongs_to_its_seed() -> None:
    first, again, other = (plane_through(pair(), seed=s).across for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_balls_edge_is_where_the_norm_is_eps(norm: str) -> None:
    plane = plane_through(pair(norm), seed=0)
    edge = plane.ball(0.2)
    assert edge[0] == pytest.approx((0.2, 0.0))
    assert edge[90] == pytest.approx((0.0, 0.2), abs=1e-6)
    s, t = torch.tensor(edge).T
    change = (plane.at(s, t) - plane.origin).flatten(1)
    sizes = torch.linalg.vector_norm(change, ORDERS[norm], dim=1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.2), rtol=1e-4, atol=1e-6)


def test_both_images_are_points_of_the_grid() -> None:
    plane = plane_through(pair(), seed=0)
    step = plane.reach / ((SIDE - 1) / 2)
    assert plane.distance / step == pytest.approx(16, rel=1e-5)


def test_values_are_those_of_the_closed_form() -> None:
    it = pair("l2")
    plane = plane_through(it, seed=0)
    found = whole(Bowl(it.clean[0]), plane)
    assert len(found) == SIDE**2
    middle = (SIDE - 1) // 2
    for (row, column), (loss, margin, prediction) in found.items():
        s, t = ((v - middle) / middle * plane.reach for v in (column, row))
        # In l2 the directions are orthonormal.
        far = s * s + t * t
        logits = torch.tensor([[4 * far, 1.0, -far]])
        expected = F.cross_entropy(logits, torch.tensor([1])).item()
        assert loss == pytest.approx(expected, abs=1e-4)
        assert margin == pytest.approx(1 - max(4 * far, -far), abs=1e-4)
        if abs(4 * far - 1) > 1e-4:
            assert prediction == (0 if 4 * far > 1 else 1)


def test_the_order_goes_from_coarse_to_fine_and_leaves_nothing_out() -> None:
    order = grid_order()
    assert len({(r, c) for r, c, _ in order.tolist()}) == SIDE**2
    strides = order[:, 2].tolist()
    assert strides == sorted(strides, reverse=True)
    assert set(strides) == set(STRIDES)
    assert strides.count(STRIDES[0]) == (SIDE // STRIDES[0] + 1) ** 2


def test_a_survey_stops_when_its_time_is_over_and_takes_all_when_it_is_not() -> None:
    it = pair("l2")
    plane = plane_through(it, seed=0)
    model = Bowl(it.clean[0])
    assert survey(model, plane, 1, seconds=0.0).done < SIDE**2
    assert survey(model, plane, 1, seconds=1e9).done == SIDE**2
    assert survey(model, plane, 1, start=SIDE**2 - 1).done == SIDE**2


def test_what_is_not_finite_is_no_class() -> None:
    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1)[:, :3] > 0.5, float("nan"), 1.0)

    found = survey(Holes(), plane_through(pair(), seed=0), 1, seconds=1e9)
    holes = found.prediction == -1
    assert holes.any()
    assert not found.loss[~holes].isnan().any()


def test_no_trace_is_left() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 3)).train()
    state = torch.get_rng_state()
    survey(model, plane_through(pair(), seed=0), 1, seconds=1e9)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_bad_input_is_refused_in_words() -> None:
    it = pair()
    same = Pair(it.clean, it.clean.clone(), 1, "model", "linf", 0.2)
    with pytest.raises(BadInput, match="left this sample as it was"):
        plane_through(same, seed=0)
    one = Pair(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0, "model", "linf", 1.0)
    with pytest.raises(BadInput, match="no second direction"):
        plane_through(one, seed=0)
    with pytest.raises(BadInput, match="3 classes, and 7 is none"):
        survey(Bowl(it.clean[0]), plane_through(it, seed=0), 7)
