"""Precision, recall, density and coverage against loops over their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.metrics import Reference, compare
from engine.generative.metrics import manifold as module


def cloud(count: int, seed: int, dimensions: int = 3, shift: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=draw) + shift


def by_loops(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    """As the papers write them."""

    def radius(x: int, among: Tensor) -> float:
        others = [float((among[x] - y).double().norm()) for j, y in enumerate(among) if j != x]
        return sorted(others)[k - 1]

    def apart(x: Tensor, y: Tensor) -> float:
        return float((x.double() - y.double()).norm())

    real_radii = [radius(i, real.double()) for i in range(len(real))]
    fake_radii = [radius(j, fake.double()) for j in range(len(fake))]
    inside = [sum(apart(y, x) <= r for x, r in zip(real, real_radii, strict=True)) for y in fake]
    recalled = [any(apart(x, y) <= r for y, r in zip(fake, fake_radii, strict=True)) for x in real]
    covered = [any(apart(x, y) <= r for y in fake) for x, r in zip(real, real_radii, strict=True)]
    return (
        sum(count > 0 for count in inside) / len(fake),
        sum(recalled) / len(real),
        sum(inside) / len(fake) / k,
        sum(covered) / len(real),
    )


@pytest.mark.parametrize("block", [10, 1_000_000])
@pytest.mark.parametrize(("n", "m", "k", "shift"), [(40, 30, 3, 0.5), (25, 25, 5, 0.0)])
def test_it_is_what_the_papers_define(
    n: int, m: int, k: int, shift: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    real, fake = cloud(n, 1), cloud(m, 2, shift=shift)
    found = compare(real, fake, k)
    figures = (found.precision, found.recall, found.density, found.coverage)
    assert figures == pytest.approx(by_loops(real, fake, k))
    assert Reference(real, k).manifold(fake) == found


def test_the_same_images_are_all_there() -> None:
    features = cloud(50, 1)
    found = compare(features, features.flip(0), 3)
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)
    # Each image is its own neighbour here, beside the others that have it within their radius.
    assert found.density == pytest.approx((50 * 3 + 50) / 50 / 3)


def test_a_collapsed_generator_is_precise_and_recalls_nothing() -> None:
    real = cloud(60, 1)
    found = compare(real, real[:1].expand(60, -1) + 1e-3 * cloud(60, 2))
    assert found.precision == 1.0
    assert found.recall < 0.1
    assert found.coverage < 0.5


def test_of_one_distribution_coverage_is_what_it_is_expected_to_be() -> None:
    """1 - prod (N - i) / (2 N - i), i = 1 .. k (Naeem et al. 2020, lemma 2), and density 1."""
    count, k = 400, 5
    figures = [compare(cloud(count, 2 * s, 8), cloud(count, 2 * s + 1, 8), k) for s in range(5)]
    missing = 1.0
    for i in range(1, k + 1):
        missing *= (count - i) / (2 * count - i)
    coverage = sum(found.coverage for found in figures) / len(figures)
    density = sum(found.density for found in figures) / len(figures)
    assert coverage == pytest.approx(1 - missing, abs=0.02)
    assert density == pytest.approx(1.0, abs=0.05)


def test_an_image_needs_its_neighbours() -> None:
    with pytest.raises(BadInput, match="neighbour number 5, and there are 5 images"):
        compare(cloud(5, 1), cloud(40, 2))
    with pytest.raises(BadInput, match="there are 1 images"):
        compare(cloud(40, 1), cloud(1, 2))
