"""Layers that are fixed by a statistic of the images, by plain linear algebra."""

from __future__ import annotations

import pytest
import torch

from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput
from engine.models import build
from engine.models.fitting import Centre, Projection, fitted_layer, principal, statistic_of
from engine.models.spec import CNN, MLP, Scattering


@pytest.fixture
def digits(bench, drain):
    return drain(load(Digits(), bench))[1]


def test_moments_are_a_sum_over_images_of_which_each_adds_a_norm_of_one(digits, drain):
    model = build(MLP(projection=5, width=8), digits.shape, 10, mean=(0.3,), std=(0.4,))
    seen, total = drain(statistic_of(model, digits.train))
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
    ones = torch.ones(4, dtype=torch.float64)
    cosine = (found.double() * theirs[:4]).sum(1).abs() / found.double().norm(dim=1)
    torch.testing.assert_close(cosine, ones)
    along = (rows @ found.double().T).square().mean(0) / rows.square().sum(1).mean()
    torch.testing.assert_close(along, ones)
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_it_is_a_frozen_first_layer():
    model = build(MLP(projection=6, width=8, depth=1), (1, 5, 4), 3)
    part = fitted_layer(model)
    assert isinstance(part, Projection)
    assert not part.weight.requires_grad
    torch.testing.assert_close(part.weight @ part.weight.T, torch.eye(6))
    vectors = torch.rand(4, 20)
    along = vectors @ part.weight.T
    expected = along / along.norm(dim=1, keepdim=True) * 6**0.5
    torch.testing.assert_close(part(vectors), expected)
    torch.testing.assert_close(part(3 * vectors), part(vectors))
    assert torch.equal(part(torch.zeros(1, 20)), torch.zeros(1, 6))
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learning == 6 * 8 + 8 + 8 * 3 + 3
    assert fitted_layer(build(MLP(), (1, 5, 4), 3)) is None
    assert fitted_layer(build(CNN(norm="none"), (1, 8, 8), 3)) is None


def test_the_mean_of_the_maps_is_of_pieces_that_are_no_longer_than_one(digits, drain):
    model = build(Scattering(centre=True), digits.shape, 10)
    layer = fitted_layer(model)
    assert isinstance(layer, Centre)
    _, total = drain(statistic_of(model, digits.train))
    images, _ = digits.train.batch(torch.arange(len(digits.train)))
    with torch.no_grad():
        maps = model.body[:2](images).double()
    lengths = maps.flatten(1).norm(dim=1)
    assert (lengths <= 324**0.5 * (1 + 1e-6)).all()
    torch.testing.assert_close(total, maps.sum(0) / 324**0.5, rtol=1e-4, atol=1e-4)
    layer.fit(total, len(images))
    with torch.no_grad():
        assert model.body[:3](images).mean(0).abs().max() < 1e-4
    # Also where the layer is given more than it is made for.
    assert float(layer.statistic(100 * maps[:1]).norm()) == pytest.approx(1.0)
    with pytest.raises(BadInput, match="without groups nothing limits"):
        build(Scattering(centre=True, groups=0), digits.shape, 10)


def test_directions_of_nothing_are_not_stretched_without_end():
    moments_ = torch.diag(torch.tensor([100.0, 1.0, 0.0, -1.0], dtype=torch.float64))
    found = principal(moments_, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([1.0, 10.0, 100.0, 100.0]))


def test_more_directions_than_there_are_is_refused():
    with pytest.raises(BadInput, match="images of 64 values have no 65 principal directions"):
        build(MLP(projection=65), (1, 8, 8), 10)
