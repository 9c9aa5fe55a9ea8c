"""A patch: where it lies, what it covers, what it becomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.attacks import attack, fit
from engine.attacks.patch import patch
from engine.attacks.spec import Patch
from engine.errors import BadInput
from engine.random import derive, uniform
from tests.attacks.models import conv, images, right_labels

SIDE = 24


def by_hand(
    spec: Patch, seed: int, ids: Tensor, side: int = SIDE, eps: float | None = None
) -> np.ndarray:
    """Which pixels of each image the patch covers: their centres, turned back around its own."""
    draws = uniform(derive(seed, "place"), ids, (4,)).double().numpy()
    share = spec.eps if eps is None else eps
    covered = np.zeros((len(ids), side, side), dtype=bool)
    for n, (turn, shrink, right, down) in enumerate(draws):
        angle = math.radians(spec.rotation) * (2 * turn - 1)
        area = share * side * side
        full = math.sqrt(4 * area / math.pi) if spec.shape == "circle" else math.sqrt(area)
        half = full / 2 * (1 - shrink * (1 - spec.smallest))
        reach = half
        if spec.shape == "box":
            corners = [half * complex(a, b) for a in (-1, 1) for b in (-1, 1)]
            reach = max((c * complex(math.cos(angle), math.sin(angle))).real for c in corners)
        room = max(0.0, side / 2 - reach)
        x, y = side / 2 + (2 * right - 1) * room, side / 2 + (2 * down - 1) * room
        if spec.place != "anywhere":
            x = y = side / 2
            x += room * (("right" in spec.place) - ("left" in spec.place))
            y += room * (("bottom" in spec.place) - ("top" in spec.place))
        for i in range(side):
            for j in range(side):
                away = complex(j + 0.5 - x, i + 0.5 - y)
                back = away * complex(math.cos(angle), -math.sin(angle)) / half
                if spec.shape == "circle":
                    covered[n, i, j] = abs(back) <= 1
                else:
                    covered[n, i, j] = max(abs(back.real), abs(back.imag)) <= 1
    return covered


SHAPES = [
    Patch(eps=0.1),
    Patch(eps=0.1, shape="box", rotation=180.0),
    Patch(eps=0.2, smallest=0.5, rotation=0.0),
    Patch(eps=0.15, shape="box", place="bottom_right", rotation=0.0),
    Patch(eps=0.15, place="top_left"),
    Patch(eps=0.9, shape="box", rotation=45.0),
]


@pytest.mark.parametrize("spec", SHAPES)
def test_where_it_lies(spec: Patch) -> None:
    """Nothing but what is under the patch changes, and all of that does."""
    design, ids = patch(spec), torch.arange(30) * 11
    x = torch.full((30, 3, SIDE, SIDE), 0.25)
    eps = torch.full((30, 1, 1, 1), spec.eps)
    pattern = torch.full_like(design.start((3, SIDE, SIDE), x.device, 0), 0.75)
    shown = design.put(pattern, x, eps, ids, 7)
    expected = by_hand(spec, 7, ids)
    changed = (shown != x).all(1)
    assert torch.equal(changed, (shown != x).any(1))
    # A pixel whose centre lies on the outline to the last bit may fall to either side.
    assert (changed.numpy() != expected).sum() <= 3
    assert design.covers is not None
    assert torch.equal(design.covers(x, eps, ids, 7)[:, 0], changed)
    if spec.smallest == 1.0 and spec.eps < 0.5:
        assert expected.mean() == pytest.approx(spec.eps, rel=0.07)
    assert float((shown[changed[:, None].expand_as(shown)] - 0.75).abs().max()) < 1e-6


def test_upright_it_is_shown_as_it_is() -> None:
    spec = Patch(eps=(8 / SIDE) ** 2, shape="box", place="top_left", rotation=0.0)
    design = patch(spec)
    x = torch.zeros(2, 1, SIDE, SIDE)
    pattern = torch.rand(design.start((1, SIDE, SIDE), x.device, 0).shape)
    assert pattern.shape == (1, 8, 8)
    shown = design.put(pattern, x, torch.full((2, 1, 1, 1), spec.eps), torch.arange(2), 3)
    torch.testing.assert_close(shown[:, :, :8, :8], pattern.expand(2, 1, 8, 8), atol=1e-6, rtol=0)
    assert not shown[:, :, 8:].any()
    assert not shown[:, :, :, 8:].any()


class Brightness(nn.Module):
    """Class 0 where the mean is above a half, class 1 below: the best patch is known."""

    def forward(self, x: Tensor) -> Tensor:
        score = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_patch_is_black_or_white(label: int, targeted: bool) -> None:
    """Where it breaks all whose mean is less than its own gain away from a half."""
    model = Brightness()
    draws = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    level = torch.linspace(0.01, 0.2, 60).view(-1, 1, 1, 1)
    x = (0.5 + (level if label == 0 else -level) + 0.02 * (draws - 0.5)).clamp(0, 1)
    y = torch.full((60,), label)
    spec = Patch(eps=0.2, epochs=10, fit_batch=20, targeted=targeted, target=1 - label)
    made = fit(model, x, y, spec)
    design = patch(spec)
    used = torch.zeros_like(made.pattern, requires_grad=True)
    eps = torch.full((60, 1, 1, 1), 0.2)
    design.put(used, x, eps, torch.arange(60), 3).sum().backward()
    assert used.grad is not None
    seen = used.grad > 0.5
    assert seen.any()
    assert torch.equal(made.pattern[seen], torch.full_like(made.pattern, float(label))[seen])
    found = attack(model, x, y, spec, fitted=made)
    under = found.adversarial != x
    best = torch.where(under, float(label), x)
    torch.testing.assert_close(found.adversarial[found.success], best[found.success])
    means = best.flatten(1).mean(1)
    broken = means < 0.5 if label == 0 else means > 0.5
    assert int((broken != found.success).sum()) <= 1
    assert 5 < int(found.success.sum()) < 55


def test_the_result_is_checked_pixel_by_pixel() -> None:
    model = conv(side=SIDE)
    x = images(20, side=SIDE)
    y = right_labels(model, x)
    spec = Patch(eps=0.1, epochs=2, fit_batch=10)
    made = fit(model, x, y, spec)
    found = attack(model, x, y, spec, fitted=made)
    seed = derive(0, "fitted")
    covered = torch.from_numpy(by_hand(spec, seed, torch.arange(20)))[:, None]
    outside = found.adversarial.where(~covered, x)
    assert int((outside != x).sum()) <= 3
    assert bool(((found.adversarial != x) & covered).flatten(1).any(1).all())
    radii = torch.linspace(0, 0.2, 20)
    found = attack(model, x, y, spec, fitted=made, eps=radii)
    share = (found.adversarial != x).flatten(1).double().mean(1)
    assert share[0] == 0
    assert bool((share <= radii + 0.03).all())
    mask = torch.zeros(SIDE, SIDE)
    mask[:12] = 1
    found = attack(model, x, y, spec, fitted=made, mask=mask)
    assert torch.equal(found.adversarial[:, :, 12:], x[:, :, 12:])


def test_a_patch_larger_than_the_image() -> None:
    model, x = conv(), images(4)
    y = right_labels(model, x)
    with pytest.raises(BadInput, match="larger than the image: a circle of 0.9 .* at most 0.785"):
        fit(model, x, y, Patch(eps=0.9))
    whole = fit(model, x, y, Patch(eps=1.0, shape="box", rotation=0.0, epochs=1))
    assert whole.pattern.shape == (1, 6, 6)
    with pytest.raises(BadInput, match="fitted whole"):
        fit(model, x, y, Patch(), mask=torch.ones(6, 6))
