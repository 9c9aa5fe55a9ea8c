"""Path lengths of generators of which they are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.metrics import gaussian
from engine.generative.metrics.smoothness import (
    lengths,
    smoothness_of,
    spread_of,
    steps_apart,
)


def normal(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_of_a_linear_generator_it_is_the_squared_length_of_the_way() -> None:
    """Straight ways, whose features are a matrix times the latents: |A (b - a)|^2 over the unit."""
    first, second, matrix = normal(40, 6, 1), normal(40, 6, 2), normal(6, 9, 3)
    at = torch.rand(40, generator=torch.Generator().manual_seed(0))
    before, after = steps_apart(first, second, at, arc=False)
    found = lengths(before.double() @ matrix.double(), after.double() @ matrix.double(), 2.5)
    expected = ((second - first) @ matrix).square().sum(1) / 2.5
    assert torch.allclose(found, expected.double(), rtol=1e-2)


def test_an_arc_is_as_long_as_its_angle() -> None:
    first = torch.tensor([[1.0, 0.0]]).repeat(8, 1)
    second = torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    before, after = steps_apart(first, second, torch.linspace(0, 1, 8), arc=True, step=1e-2)
    found = lengths(before, after, 1.0, step=1e-2)
    assert torch.allclose(found, torch.full((8,), (torch.pi / 2) ** 2).double(), rtol=1e-3)


def test_a_generator_that_jumps_has_longer_ways() -> None:
    """Between the same images: evenly, or at once half way."""
    first, second = -normal(4000, 1, 1).abs(), normal(4000, 1, 2).abs()
    at = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    before, after = steps_apart(first, second, at, arc=False)
    smooth, steep = (
        float(lengths((before * k).tanh(), (after * k).tanh(), 1.0).mean()) for k in (1.0, 50.0)
    )
    assert steep > 5 * smooth


def test_the_unit_is_how_far_two_real_images_are_apart() -> None:
    features = normal(200, 5, 1) * 3
    pairs = torch.cdist(features, features).square()
    mean = float(pairs.sum() / (200 * 199))
    assert spread_of(gaussian(features).variance) == pytest.approx(mean, rel=1e-5)


def test_of_one_real_image_there_is_no_unit() -> None:
    with pytest.raises(BadInput, match="no unit for the smoothness"):
        lengths(torch.zeros(3, 2), torch.ones(3, 2), 0.0)


def test_single_jumps_are_left_out_of_the_mean() -> None:
    found = torch.ones(1000, dtype=torch.float64)
    found[:5] = 1e6
    told = smoothness_of(found)
    assert (told.mean, told.error, told.median) == (1.0, 0.0, 1.0)
