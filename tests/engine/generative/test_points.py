"""Sets of points, and the figures of how well they are covered."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.datasets import make_moons

from engine.errors import BadInput, SpecError
from engine.events import drain
from engine.generative.modes import JUDGED, coverage, diversity
from engine.generative.points import PointSet, point_set
from engine.generative.spec import Drawn, Grid, Moons, PointsSpec, Ring, Spiral
from engine.questions import POINTS, prepare
from engine.store import Workspace

SETS = [Ring(), Grid(), Spiral(), Moons(), Drawn(points=((0.0, 0.0), (3.0, 1.0), (1.0, -2.0)))]


def draw(points: PointSet, count: int, seed: int = 0) -> torch.Tensor:
    return points.draw(count, torch.Generator().manual_seed(seed))[0]


def test_centres_are_where_the_papers_have_them() -> None:
    ring = point_set(Ring())
    assert ring.centres.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    assert len(ring.centres) == ring.count == 8
    grid = point_set(Grid())
    assert sorted({round(x) for x in grid.centres[:, 0].tolist()}) == [-4, -2, 0, 2, 4]
    assert grid.count == 25


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.kind)
def test_a_perfect_sampler_gets_perfect_figures(spec: PointsSpec) -> None:
    """Of 2,500 samples 1 - exp(-4.5) are within three sigma of a centre; of a curve, whose ends and
    bends are near from more than one side, no fewer than of a line, 99.7 %."""
    points = point_set(spec)
    found = coverage(draw(points, JUDGED), points)
    assert found.covered == found.modes == points.count
    if points.dimensions == 2:
        assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.008)
        # Of a Gaussian that is cut off at three sigma.
        cut = math.sqrt(1 - 4.5 * math.exp(-4.5) / (1 - math.exp(-4.5)))
        assert found.spread == pytest.approx(cut, abs=0.03)
    else:
        assert found.high_quality >= 0.985
        assert found.spread is not None
        assert 0.85 <= found.spread <= 1.05
    assert found.mode_tv < 0.09
    assert found.reverse_kl < 0.03


def test_figures_of_samples_that_are_known() -> None:
    points = point_set(Ring(modes=4, sigma=0.1))
    at = points.centres
    samples = torch.cat([at[:1].repeat(60, 1), at[1:2].repeat(30, 1), at[2:3] + 0.4])
    far = torch.full((9, 2), 5.0)
    found = coverage(torch.cat([samples, far]), points)
    counts = torch.tensor([60, 30, 1, 0]).double()
    nearest = torch.cdist(far[:1], at).argmin()
    counts[nearest] += 9
    shares = counts / 100
    assert found.covered == 2
    assert found.high_quality == pytest.approx(0.9)
    assert found.shares.tolist() == pytest.approx(shares.tolist())
    assert found.mode_tv == pytest.approx(float((shares - 0.25).abs().sum() / 2))
    assert found.reverse_kl == pytest.approx(entropy(shares.numpy(), [0.25] * 4))
    assert found.spread == 0.0


def test_what_is_no_number_is_in_no_mode() -> None:
    points = point_set(Ring())
    found = coverage(torch.full((10, 2), math.nan), points)
    assert (found.covered, found.high_quality, found.spread) == (0, 0.0, None)


def test_moons_are_scikit_learns() -> None:
    points = point_set(Moons())
    theirs, labels = make_moons(2000, noise=None, random_state=0)
    there = torch.from_numpy(theirs).float()
    distance, nearest = torch.cdist(there, points.centres).min(1)
    assert float(distance.max()) < 2e-3
    assert points.labels[nearest].tolist() == labels.tolist()


def test_the_spiral_is_even_over_its_length() -> None:
    """Its area grows evenly, and its length does but for the innermost turn: r dr over r."""
    points = point_set(Spiral(turns=3))
    steps = (points.centres[1:] - points.centres[:-1]).norm(dim=1)
    outer = steps[len(steps) // 4 :]
    assert float(outer.max() / outer.min()) < 1.05


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.kind)
def test_units_bring_the_centres_between_minus_one_and_one(spec: PointsSpec) -> None:
    points = point_set(spec)
    inside = points.inside(points.centres)
    assert float(inside.abs().max()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(points.outside(inside), points.centres, atol=1e-5)
    x0, x1, y0, y1 = points.extent
    drawn = draw(points, 2000)
    within = (drawn >= torch.tensor([x0, y0])) & (drawn <= torch.tensor([x1, y1]))
    assert float(within.all(1).float().mean()) > 0.99


def test_spread_is_that_of_a_loop_over_the_modes() -> None:
    """The root of the mean variance of both coordinates, of each mode with enough good samples."""
    points = point_set(Grid())
    samples = draw(points, 400)
    samples = torch.cat([samples[samples[:, 0] > 1], points.centres[:1].expand(3, 2)])
    distance, nearest = torch.cdist(samples, points.centres).min(1)
    found = []
    for mode in range(points.count):
        own = samples[(nearest == mode) & (distance <= 3 * points.sigma)].double()
        if len(own) >= 5:
            found.append(float(own.var(0).mean()) ** 0.5 / points.sigma)
    assert len(found) == 10
    assert coverage(samples, points).spread == pytest.approx(sum(found) / len(found), rel=1e-6)
    assert coverage(points.centres[:1].expand(3, 2), points).spread is None


def test_diversity_is_one_of_the_data_and_none_of_a_point() -> None:
    points = point_set(Ring())
    first, second = draw(points, 300), draw(points, 300, seed=1)
    assert float(diversity(second, first)) == pytest.approx(1.0, abs=0.05)
    assert float(diversity(torch.ones(50, 2), first)) == 0.0
    both = diversity(torch.stack([second, 2 * second]), first)
    assert both.tolist() == pytest.approx([float(both[0]), 2 * float(both[0])], rel=1e-5)


def test_points_in_one_place_are_one_mode() -> None:
    """That is drawn as often as it is given."""
    points = point_set(Drawn(points=((2.0, 0.0), (0.0, 0.0), (2.0, 0.0))))
    found = coverage(draw(points, JUDGED), points)
    assert (found.covered, found.modes) == (2, 2)
    assert found.shares.tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.03)
    assert found.mode_tv < 0.03


def test_points_closer_than_they_spread_are_a_unit_wide_all_the_same() -> None:
    for spec in (Drawn(points=((0.0, 0.0), (1e-30, 0.0))), Ring(radius=1e-9, sigma=1000.0)):
        points = point_set(spec)
        assert float(points.inside(draw(points, 500)).abs().max()) < 3


def test_drawn_points_must_not_be_out_of_reach() -> None:
    for far in (2e6, -1e30):
        with pytest.raises(SpecError, match="between -1,000,000 and 1,000,000"):
            Drawn(points=((0.0, 0.0), (far, 0.0)))


def test_drawn_points_must_differ() -> None:
    with pytest.raises(SpecError, match="all the same"):
        Drawn(points=((1.0, 1.0), (1.0, 1.0)))
    with pytest.raises(SpecError, match="at least 2"):
        Drawn(points=((1.0, 1.0),))


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.kind)
def test_a_preview_shows_points_of_the_set_inside_its_extent(
    spec: PointsSpec, tmp_path: Path
) -> None:
    question = {"kind": "preview_points", "data": spec.to_dict()}
    answer, payload = drain(prepare(question, Workspace(tmp_path), None))
    shown = torch.from_numpy(np.frombuffer(payload, np.float32).reshape(-1, 2).copy())
    assert len(shown) == POINTS
    points = point_set(spec)
    assert coverage(shown, points).covered == points.count
    left, right, lower, upper = answer["extent"]
    assert ((shown[:, 0] - left) * (right - shown[:, 0]) > 0).all()
    assert ((shown[:, 1] - lower) * (upper - shown[:, 1]) > 0).all()


@pytest.mark.parametrize("data", [None, {"kind": "digits"}, {"kind": "ring", "modes": 0}])
def test_a_preview_of_no_points_is_refused(data: dict[str, object] | None, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        drain(prepare({"kind": "preview_points", "data": data}, Workspace(tmp_path), None))
