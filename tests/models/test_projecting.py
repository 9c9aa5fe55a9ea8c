"""The projection on principal directions: those of the images, by plain linear algebra."""

from __future__ import annotations

import pytest
import torch

from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput
from engine.models import build
from engine.models.projecting import Projection, moments, principal, projection_of
from engine.models.spec import CNN, MLP


@pytest.fixture
def digits(bench, drain):
    return drain(load(Digits(), bench))[1]


def test_moments_are_a_sum_over_images_of_which_each_adds_a_norm_of_one(digits, drain):
    model = build(MLP(projection=5, width=8), digits.shape, 10, mean=(0.3,), std=(0.4,))
    seen, total = drain(moments(model, digits.train))
    assert seen[-1] == len(digits.train)
    assert seen == sorted(seen)
    images, _ = digits.train.batch(torch.arange(len(digits.train)))
    vectors = ((images - 0.3) / 0.4).flatten(1).double()
    expected = torch.zeros(64, 64, dtype=torch.float64)
    for vector in vectors:
        unit = vector / vector.norm()
        outer = unit[:, None] * unit[None]
        assert float(outer.norm()) == pytest.approx(1.0)
        expected += outer
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)


def test_directions_are_those_of_a_singular_value_decomposition():
    rows = torch.randn(200, 12, dtype=torch.float64) * torch.arange(1, 13)
    found = principal(rows.T @ rows, 4)
    _, _, theirs = torch.linalg.svd(rows)
    assert found.shape == (4, 12)
    cosine = (found.double() * theirs[:4]).sum(1).abs()
    torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64))
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_it_is_a_frozen_first_layer():
    model = build(MLP(projection=6, width=8, depth=1), (1, 5, 4), 3)
    part = projection_of(model)
    assert isinstance(part, Projection)
    assert not part.weight.requires_grad
    torch.testing.assert_close(part.weight @ part.weight.T, torch.eye(6))
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learning == 6 * 8 + 8 + 8 * 3 + 3
    assert projection_of(build(MLP(), (1, 5, 4), 3)) is None
    assert projection_of(build(CNN(norm="none"), (1, 8, 8), 3)) is None


def test_more_directions_than_there_are_is_refused():
    with pytest.raises(BadInput, match="images of 64 values have no 65 principal directions"):
        build(MLP(projection=65), (1, 8, 8), 10)
