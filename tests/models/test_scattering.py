"""The scattering transform: Kymatio's numbers, each image by itself, exact gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import BadInput
from engine.models import build
from engine.models.scattering import TOGETHER, Scattering
from engine.models.spec import Scattering as Asked

# Of kymatio.torch.Scattering2D, version 0.3.0: of an image made below the shape, some values, the
# sum of all, and that of their squares. (It takes pi for 3.1415, hence the tolerance.)
KYMATIO = [
    (
        (28, 28), 2, 8, (81, 7, 7),
        {
            (0, 0, 0): 0.39775, (1, 1, 0): 0.06109, (8, 0, 1): 0.14569,
            (11, 1, 1): 0.02167, (40, 1, 0): 0.00761, (80, 1, 1): 0.03379,
        },
        82.6483, 13.2412,
    ),
    (
        (17, 23), 3, 6, (127, 2, 2),
        {
            (0, 0, 0): 0.46616, (1, 1, 0): 0.06991, (6, 0, 1): 0.0799,
            (9, 1, 1): 0.05069, (63, 1, 0): 0.00859, (126, 1, 1): 0.01251,
        },
        8.1531, 1.0674,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("side", "scales", "angles", "shape", "values", "total", "power"), KYMATIO)
def test_the_numbers_are_kymatios(side, scales, angles, shape, values, total, power):
    y, x = torch.arange(side[0])[:, None], torch.arange(side[1])[None]
    image = ((y * 7 + x * 3 + y * x) % 11).float() / 10
    transform = Scattering((1, *side), scales, angles)
    found = transform(image[None, None])
    assert tuple(found.shape[1:]) == transform.shape == shape
    for place, value in values.items():
        assert found[0][place].item() == pytest.approx(value, abs=2.5e-5), place
    assert found.double().sum().item() == pytest.approx(total, rel=1e-4)
    assert found.double().square().sum().item() == pytest.approx(power, rel=1e-4)


def test_each_image_and_channel_is_transformed_alone():
    transform = Scattering((3, 16, 16), 2, 4)
    images = torch.rand(2 * TOGETHER + 3, 3, 16, 16)
    found = transform(images)
    assert found.shape == (len(images), 3 * 25, 4, 4)
    single = Scattering((1, 16, 16), 2, 4)
    apart = torch.stack([single(image[:, None]).flatten(0, 1) for image in images])
    torch.testing.assert_close(found, apart, rtol=1e-5, atol=1e-6)
    assert transform(images[:0]).shape == (0, 75, 4, 4)


def test_its_gradient_is_that_of_finite_differences_and_finite_on_black():
    transform = Scattering((1, 8, 8), 2, 4).double()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, (images,), fast_mode=True)
    black = torch.zeros(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(Scattering((1, 8, 8), 2, 4)(black).sum(), black)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_a_shift_by_its_step_moves_the_maps_along():
    """The maps follow the image: here by one place, or four pixels."""
    transform = Scattering((1, 32, 32), 2, 8)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 12:18, 13:17] = 1.0
    found, moved = transform(image), transform(image.roll(4, 3))
    torch.testing.assert_close(found[..., 1:-2], moved[..., 2:-1], rtol=1e-3, atol=1e-5)


def test_autocast_does_not_change_it():
    transform, images = Scattering((1, 8, 8), 2, 4), torch.rand(3, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = transform(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, transform(images))


def test_its_filters_are_in_no_file_and_nothing_of_it_learns():
    model = build(Asked(), (1, 28, 28), 10)
    assert set(model.state_dict()) == {
        "normalise.mean", "normalise.std", "body.3.weight", "body.3.bias"
    }  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 81 * 49 * 10 + 10
    assert not Asked().normalised
    # Filters do not depend on the seed, and so are those of a model that is read again.
    other = build(Asked(), (1, 28, 28), 10, generator_seed=5)
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(model.body[:2](images), other.body[:2](images))


def test_with_a_head_it_is_the_network_of_tramer_and_boneh():
    model = build(Asked(channels=(16, 32), hidden=(32,)), (1, 28, 28), 10)
    theirs = nn.Sequential(
        nn.GroupNorm(27, 81, affine=False),
        nn.Conv2d(81, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(16, 32, 3, stride=1, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), model.body.state_dict().values(), strict=True))
    )
    images = torch.rand(2, 1, 28, 28)
    expected = theirs(Scattering((1, 28, 28), 2, 8)(images))
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("values", "shape", "words"),
    [
        ({}, (1, 4, 4), "4 x 4 are too small for 2 scales of scattering; expected sides above 4"),
        ({"scales": 5}, (1, 28, 28), "Lower the scales"),
        ({"groups": 5}, (1, 28, 28), "expected one of 1, 3, 9, 27, 81, or 0"),
        ({"channels": (0,)}, (1, 28, 28), "at least one channel"),
        ({"hidden": (0,)}, (1, 28, 28), "at least one unit"),
    ],
)
def test_what_cannot_be_is_refused(values, shape, words):
    with pytest.raises(BadInput, match=words):
        build(Asked(**values), shape, 10)
