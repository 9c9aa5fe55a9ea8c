"""The Fréchet distance against closed forms and scipy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.metrics import Gaussian, Reference, few
from engine.generative.metrics.frechet import frechet_distance, gaussian, gaussian_of


def cloud(count: int, dimensions: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=draw, dtype=torch.float64)
    values = torch.randn(count, dimensions, generator=draw, dtype=torch.float64)
    return values @ mixing + torch.randn(dimensions, generator=draw, dtype=torch.float64)


def by_scipy(first: Tensor, second: Tensor) -> float:
    """As the formula stands, with the square root of the product of covariances."""
    a, b = first.numpy(), second.numpy()
    sigma_a, sigma_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b).real
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(apart + np.trace(sigma_a + sigma_b - 2 * root))


@pytest.mark.parametrize("dimensions", [1, 2, 7, 64])
def test_it_is_what_scipys_root_gives(dimensions: int) -> None:
    first, second = cloud(500, dimensions, 1), cloud(300, dimensions, 2)
    if dimensions == 1:  # scipy.linalg takes no numbers
        expected = float((first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2)
    else:
        expected = by_scipy(first, second)
    found = frechet_distance(gaussian(first), gaussian(second))
    assert found == pytest.approx(expected, rel=1e-9)


def test_of_gaussians_with_one_set_of_axes_it_is_known() -> None:
    """|m1 - m2|^2 and the squared differences of the deviations."""
    deviations = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 0.0]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 1.0]], dtype=torch.float64)
    turn = torch.linalg.qr(cloud(3, 3, 5)).Q
    first, second = (
        gaussian_of(mean @ turn, turn.T @ torch.diag(deviation**2) @ turn)
        for mean, deviation in zip(means, deviations, strict=True)
    )
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 4 + 2.25, rel=1e-12)


def test_equal_sets_are_nothing_apart() -> None:
    features = cloud(400, 64, 3).float() * 100
    assert Reference(features).fid(features.flip(0)) == pytest.approx(0.0, abs=1e-7)
    assert frechet_distance(gaussian(features), gaussian(features)) < 1e-8


def test_fewer_samples_than_features_are_as_exact_as_others() -> None:
    """Where the square root of the covariances' product, of rank 9 of 64, loses half the digits."""
    first, second = cloud(10, 64, 1), cloud(300, 64, 2)
    sigma_a, sigma_b = torch.cov(first.T), torch.cov(second.T)
    exact = torch.linalg.eigh(sigma_b)
    half = exact.eigenvectors @ torch.diag(exact.eigenvalues.sqrt()) @ exact.eigenvectors.T
    shared = torch.linalg.eigvalsh(half @ sigma_a @ half).clamp_min(0).sort().values[-9:].sqrt()
    expected = (first.mean(0) - second.mean(0)).square().sum() + sigma_a.trace() + sigma_b.trace()
    expected = expected - 2 * shared.sum()
    found = frechet_distance(gaussian(first), gaussian(second))
    assert found == pytest.approx(float(expected), rel=1e-11)
    assert gaussian(first).root.shape == (10, 64)


def test_a_root_of_a_covariance_and_one_of_samples_agree() -> None:
    features = cloud(100, 8, 1)
    other = gaussian(cloud(100, 8, 2))
    same = gaussian_of(features.mean(0), torch.cov(features.T))
    assert frechet_distance(same, other) == pytest.approx(
        frechet_distance(gaussian(features), other), rel=1e-10
    )
    assert same.variance == pytest.approx(float(features.var(0).sum()))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(BadInput, match="at least two images, and there is 1"):
        gaussian(torch.zeros(1, 4))


def test_features_of_two_extractors_are_not_compared() -> None:
    with pytest.raises(BadInput, match="features of 3 numbers are compared with some of 4"):
        Reference(cloud(9, 4, 0)).fid(cloud(9, 3, 0))


def test_too_few_images_are_warned_of() -> None:
    assert few(65, 64) == ""
    assert "64 images do not fill the 64 dimensions" in few(64, 64)


def test_a_shift_alone_counts_squared() -> None:
    features = cloud(50, 5, 0)
    moved = Gaussian(features.mean(0) + 2.0, gaussian(features).root)
    assert frechet_distance(gaussian(features), moved) == pytest.approx(20.0, rel=1e-9)
