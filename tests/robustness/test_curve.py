from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.data import Dataset
from engine.events import drain
from engine.robustness.curve import MOST, grid, trace
from tests.robustness.masked import Net
from tests.robustness.zoo import bench_in, subject


class Stripes(nn.Module):
    """Ten logits, of which only two differ: the smallest perturbation is known exactly."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.randn(64, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(draws)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x.flatten(1) - 0.5) @ self.weight
        return torch.cat([score[:, None], -score[:, None], x.new_full((len(x), 8), -100.0)], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_breaks_where_it_must(norm: str, data: Dataset, tmp_path: Path) -> None:
    model = Stripes()
    on = subject(model, copy.deepcopy(data), bench_in(tmp_path), 80)
    images, _ = on.images(torch.arange(len(on)))
    score = model(images)[:, 0].detach()
    on.labels = on.predictions = (score < 0).long()
    on.correct = torch.ones(len(on), dtype=torch.bool)
    on.test.labels[on.order] = on.labels  # what the data says is right here
    radii = grid(0.3 if norm == "linf" else 1.5, 20, norm)  # type: ignore[arg-type]
    never = torch.full((len(on),), float("inf"), dtype=torch.float64)
    curve = drain(trace(on, radii, norm, never))  # type: ignore[arg-type]
    counts = [curve.robust(place) for place in range(20)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    # Without the box it would be |score| / |w| in the dual norm; the box can only protect.
    dual = 1 if norm == "linf" else 2
    least = score.abs() / torch.linalg.vector_norm(model.weight.detach(), dual)
    earliest = torch.searchsorted(torch.tensor(radii), least)
    assert bool((curve.first >= earliest).all())
    exact = _smallest(model, images, score, norm, radii)
    assert (curve.first - exact).abs().max() <= (0 if norm == "linf" else 1)
    assert curve.runs <= MOST


def _smallest(
    model: Stripes, images: torch.Tensor, score: torch.Tensor, norm: str, radii: tuple[float, ...]
) -> torch.Tensor:
    """Place of the first radius whose worst point, inside the box, turns the sign."""
    first = torch.full((len(images),), len(radii))
    away = -(score.sign()[:, None]) * model.weight.detach()
    x = images.flatten(1).double()
    for place in reversed(range(len(radii))):
        radius = radii[place]
        if norm == "linf":
            worst = (x + radius * away.sign()).clamp(0, 1)
        else:
            low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e4).double()
            for _ in range(60):  # clip(x + s * away) for the largest s that stays in the ball
                middle = (low + high) / 2
                long = ((x + middle * away).clamp(0, 1) - x).norm(dim=1, keepdim=True) > radius
                low, high = torch.where(long, low, middle), torch.where(long, middle, high)
            worst = (x + low * away).clamp(0, 1)
        turned = ((worst - 0.5) @ model.weight.detach().double()).sign() != score.sign()
        first[turned] = place
    return first


def test_what_is_known_costs_nothing_and_is_kept(net: Net, data: Dataset, tmp_path: Path) -> None:
    on = subject(net, data, bench_in(tmp_path), 40)
    known = torch.full((len(on),), 1e-6, dtype=torch.float64)
    curve = drain(trace(on, grid(0.2, 8, "linf"), "linf", known))
    assert curve.cost.gradient == 0
    assert curve.robust(0) == 0
    assert bool((curve.first[~on.correct] == -1).all())


def test_the_curve_agrees_with_searches_of_their_own(
    net: Net, data: Dataset, tmp_path: Path
) -> None:
    from engine.attacks import PGD
    from engine.robustness.searching import Found, search

    on = subject(net, data, bench_in(tmp_path), 120)
    radii = grid(0.15, 20, "linf")
    never = torch.full((len(on),), float("inf"), dtype=torch.float64)
    curve = drain(trace(on, radii, "linf", never))
    rows = on.correct.nonzero().squeeze(1)
    for place in (4, 9, 14, 19):
        found = Found.nothing(on)
        spec = PGD(eps=radii[place], step_size=radii[place] / 16, loss="margin")
        drain(search(on, spec, rows, found, seed=3))
        alone = int((on.correct & ~found.success).sum())
        assert curve.robust(place) <= alone + 3
    assert curve.runs <= MOST


def test_the_largest_radius_of_the_attacks_is_one_of_the_grid() -> None:
    """Exactly: who breaks at it must not lie beyond it by a rounding."""
    for norm in ("linf", "l2", "l1"):
        for eps in (8 / 255, 0.1, 0.2, 0.3, 0.7, 1 / 3):
            for points in (4, 8, 20, 36, 100):
                assert eps in grid(eps, points, norm)


def test_grids() -> None:
    assert grid(0.3, 20, "linf")[14] == pytest.approx(0.3)
    assert grid(0.9, 4, "linf")[-1] == 1.0
    assert grid(3.0, 4, "l2") == pytest.approx((1.0, 2.0, 3.0, 4.0))
