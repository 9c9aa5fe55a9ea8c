"""The kernel distance against loops, and against what is known of its mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.metrics.kernel import (
    SUBSETS,
    kernel_distance,
    mmd2,
    subset_size,
)


def cloud(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(first: Tensor, second: Tensor) -> float:
    """Equation 3 of Gretton et al. (2012), pair by pair."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x.double() @ y.double()) / len(x) + 1) ** 3

    n, m = len(first), len(second)
    inside = sum(kernel(first[i], first[j]) for i in range(n) for j in range(n) if i != j)
    there = sum(kernel(second[i], second[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(x, y) for x in first for y in second)
    return inside / (n * (n - 1)) + there / (m * (m - 1)) - 2 * across / (n * m)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 9), (2, 3)])
def test_it_is_the_sum_over_pairs(n: int, m: int) -> None:
    first, second = cloud(n, 1), cloud(m, 2, shift=0.5)
    assert mmd2(first.double(), second.double()) == pytest.approx(by_loops(first, second))


def test_features_are_left_as_they_are() -> None:
    first, second = cloud(5, 1).double(), cloud(5, 2).double()
    kept = first.clone(), second.clone()
    mmd2(first, second)
    assert torch.equal(first, kept[0])
    assert torch.equal(second, kept[1])


def test_it_is_without_bias() -> None:
    """Of the same distribution its mean is 0, below as often as above; the biased estimate of 20
    would be .5 here."""
    found = torch.tensor(
        [mmd2(cloud(20, 2 * k).double(), cloud(20, 2 * k + 1).double()) for k in range(400)]
    )
    error = float(found.std() / len(found) ** 0.5)
    assert abs(float(found.mean())) < 4 * error < 0.2
    assert 100 < int((found < 0).sum()) < 350


def test_subsets_are_drawn_and_told() -> None:
    found = kernel_distance(cloud(300, 1), cloud(80, 2, 1.0), torch.Generator().manual_seed(0))
    again = kernel_distance(cloud(300, 1), cloud(80, 2, 1.0), torch.Generator().manual_seed(0))
    assert found == again
    assert (found.subsets, found.size) == (SUBSETS, 40)
    assert found.distance == pytest.approx(mmd2(cloud(300, 1), cloud(80, 2, 1.0)), rel=0.2)
    assert 0 < found.spread < found.distance


def test_four_images_are_needed() -> None:
    with pytest.raises(BadInput, match="3 real and 9 generated"):
        subset_size(cloud(3, 0), cloud(9, 0))
