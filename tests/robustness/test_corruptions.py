from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from engine.errors import BadInput
from engine.random import uniform
from engine.robustness.corruptions import CORRUPTIONS, _plasma, _poisson, corrupt, jpeg

UNEVEN = ("elastic_transform", "snow", "glass_blur", "pixelate")
"""Of these the authors trade one strength for another, or all depends on how sizes divide."""


def pictures(count: int = 6, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth pictures, in which every corruption has something to corrupt."""
    draws = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(draws, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8), (1, 28), (3, 72)])
def test_every_corruption(name: str, channels: int, side: int) -> None:
    x = pictures(4, channels, side)
    before, ids = x.clone(), torch.arange(4)
    for severity in (1, 5):
        y = corrupt(x, name, severity, seed=3, ids=ids)
        assert y.shape == x.shape
        assert y.dtype == torch.float32
        assert bool(((y >= 0) & (y <= 1)).all())
        assert torch.equal(x, before)
        assert not torch.equal(y, x)
        # Draws belong to a sample, whatever the batch.
        part = corrupt(x[2:3], name, severity, seed=3, ids=ids[2:3])
        assert torch.allclose(part, y[2:3], atol=1e-5)


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in UNEVEN])
def test_severities_grow(name: str) -> None:
    x, ids = pictures(16), torch.arange(16)
    ys = [corrupt(x, name, k, seed=0, ids=ids) for k in range(1, 6)]
    far = [(y - x).square().mean().item() for y in ys]
    assert far[0] < far[2] < far[4]


def test_bad_input() -> None:
    x, ids = pictures(1), torch.arange(1)
    with pytest.raises(BadInput, match="there is no corruption 'frost'; there are: gaussian_noise"):
        corrupt(x, "frost", 1, seed=0, ids=ids)
    with pytest.raises(BadInput, match="a severity is one of 1 to 5, not 6"):
        corrupt(x, "fog", 6, seed=0, ids=ids)


def test_contrast_and_brightness() -> None:
    x, ids = pictures(2), torch.arange(2)
    y = corrupt(x, "contrast", 3, seed=0, ids=ids)
    mean = x.mean((2, 3), keepdim=True)
    assert torch.allclose(y, ((x - mean) * 0.4 + mean).clamp(0, 1))
    grey = torch.full((1, 3, 8, 8), 0.25)
    assert torch.allclose(corrupt(grey, "brightness", 5, seed=0, ids=ids[:1]), grey + 0.3)
    black = torch.zeros(1, 3, 8, 8)
    assert torch.allclose(corrupt(black, "brightness", 5, seed=0, ids=ids[:1]), black + 0.3)


@pytest.mark.parametrize("mean", [0.0, 0.7, 5.0, 11.9, 30.0, 400.0])
def test_poisson_has_its_mean_and_variance(mean: float) -> None:
    draws = _poisson(torch.full((1, 200, 200), mean), 5, torch.arange(1))
    assert bool((draws == draws.round()).all())
    assert draws.mean().item() == pytest.approx(mean, rel=0.02, abs=1e-9)
    assert draws.var().item() == pytest.approx(mean, rel=0.03, abs=1e-9)


def test_clouds_are_rough_and_fill_their_range() -> None:
    cloud = _plasma(32, 2.0, 1, torch.arange(3))
    assert cloud.amin((1, 2)).tolist() == [0, 0, 0]
    assert cloud.amax((1, 2)).tolist() == [1, 1, 1]
    smooth = _plasma(32, 3.0, 1, torch.arange(3))
    rough = [part.diff(dim=2).abs().mean().item() for part in (cloud, smooth)]
    assert rough[0] > rough[1]


@pytest.mark.parametrize("quality", [80, 40, 10])
def test_jpeg_is_what_a_codec_does_to_grey_images(quality: int) -> None:
    image = pytest.importorskip("PIL.Image")
    x = pictures(1, 1, 30) * 0.8 + 0.2 * uniform(0, torch.arange(1), (1, 30, 30))
    pixels = (x[0, 0] * 255).round().to(torch.uint8)
    file = io.BytesIO()
    image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
    theirs = torch.from_numpy(np.asarray(image.open(file)).copy()).double()
    ours = jpeg(pixels[None, None] / 255, quality)[0, 0].clamp(0, 1).double() * 255
    assert (ours - theirs).abs().mean() < 0.6
    # A coefficient half way between two multiples may be rounded either way.
    assert ((ours - theirs).abs() <= 2).double().mean() > 0.9
