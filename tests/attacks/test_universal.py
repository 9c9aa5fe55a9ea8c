"""One perturbation for all images, against what is known exactly on linear models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.attacks import attack, fit
from engine.attacks.spec import Universal
from engine.errors import BadInput
from tests.attacks.models import Linear, conv, images, right_labels


def inside(count: int, seed: int) -> Tensor:
    """Images whose values are so far from 0 and 1 that the box never matters."""
    draws = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.35 + 0.3 * draws


def of_class(model: Linear, wanted: int, seed: int, count: int = 200) -> tuple[Tensor, Tensor]:
    """Images that the model takes for `wanted`: class 0 where w.x > 0."""
    x = inside(count, seed)
    y = right_labels(model, x)
    return x[y == wanted], y[y == wanted]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_one_class_the_best_is_known(norm: str, targeted: bool) -> None:
    """Of two classes it is against w: eps * sign(w) in linf, eps * w / |w| in l2. It breaks
    whoever is less than eps times w's dual norm away."""
    model = Linear()
    w = model.weight.detach().view(1, 6, 6)
    x, y = of_class(model, 0, seed=5)
    eps = 0.02 if norm == "linf" else 0.1
    spec = Universal(norm=norm, eps=eps, epochs=20, fit_batch=20, targeted=targeted, target=1)
    made = fit(model, x, y, spec)
    if norm == "linf":
        torch.testing.assert_close(made.pattern, -eps * w.sign())
    else:
        torch.testing.assert_close(made.pattern, -eps * w / w.norm(), atol=2e-3 * eps, rtol=0)
    reach = eps * (w.abs().sum() if norm == "linf" else w.norm())
    other, labels = of_class(model, 0, seed=8)
    for images_, rate in ((x, made.fooling_rate), (other, None)):
        score = images_.flatten(1) @ w.flatten()
        known = float((score < reach).double().mean())
        assert 0.2 < known < 0.9
        if rate is None:
            found = attack(model, other, labels, spec, fitted=made)
            rate = float(found.success.double().mean())
            assert float(found.norm.max()) <= eps
        assert rate == pytest.approx(known, abs=1.5 / len(images_))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_adds_up_to_the_largest_distance(norm: str) -> None:
    """Every image that is not broken yet adds what it lacks (algorithm 1), all along the same
    direction: in the end the sum is the distance of the farthest, but for DeepFool's overshoot."""
    model = Linear()
    w = model.weight.detach().view(1, 6, 6)
    x, y = of_class(model, 0, seed=5)
    eps = 1.0 if norm == "linf" else 10.0
    spec = Universal(norm=norm, eps=eps, method="deepfool", delta=0.0, epochs=3)
    made = fit(model, x, y, spec)
    assert made.fooling_rate == 1.0
    dual = w.abs().sum() if norm == "linf" else w.norm()
    farthest = float((x.flatten(1) @ w.flatten()).max() / dual)
    order = math.inf if norm == "linf" else 2
    size = float(torch.linalg.vector_norm(made.pattern, order))
    assert farthest < size < 1.05 * farthest + 1e-3
    along = -w.sign() if norm == "linf" else -w
    cosine = torch.nn.functional.cosine_similarity(made.pattern.flatten(), along.flatten(), dim=0)
    assert float(cosine) > 0.9999
    assert made.steps == len(x)  # one pass was enough


def test_deepfool_stops_at_the_rate_that_is_wanted_and_stays_in_the_ball() -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    easy = fit(model, x, y, Universal(eps=0.5, method="deepfool", delta=0.6, epochs=9))
    assert easy.fooling_rate is not None
    assert easy.fooling_rate >= 0.4
    assert easy.steps < 9 * 40
    hard = fit(model, x, y, Universal(eps=0.05, method="deepfool", delta=0.0, epochs=2))
    assert float(hard.pattern.abs().max()) <= float(torch.tensor(0.05))
    assert hard.steps == 2 * 40


def test_gradient_breaks_more_than_deepfool() -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    best = fit(model, x, y, Universal(eps=0.2, epochs=30, fit_batch=20)).fooling_rate
    other = fit(
        model, x, y, Universal(eps=0.2, method="deepfool", delta=0.0, epochs=2)
    ).fooling_rate
    assert best is not None
    assert other is not None
    assert best >= other > 0


@pytest.mark.parametrize("method", ["gradient", "deepfool"])
def test_a_mask(method: str) -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    mask = torch.zeros(6, 6)
    mask[:, :3] = 1
    spec = Universal(eps=0.3, method=method, epochs=2, fit_batch=10)
    made = fit(model, x, y, spec, mask=mask)
    assert not made.pattern[..., 3:].any()
    assert made.pattern[..., :3].any()
    whole = fit(model, x, y, spec)
    found = attack(model, x, y, spec, fitted=whole, mask=mask)
    assert torch.equal(found.adversarial[..., 3:], x[..., 3:])
    with pytest.raises(BadInput, match="one mask for all"):
        fit(model, x, y, spec, mask=torch.ones(20, 1, 6, 6))


def test_each_sample_has_its_radius_where_it_is_judged() -> None:
    model, x = conv(), images(12)
    y = right_labels(model, x)
    for norm, eps in (("linf", 0.2), ("l2", 1.0)):
        spec = Universal(norm=norm, eps=eps, epochs=3, fit_batch=4)
        made = fit(model, x, y, spec)
        radii = torch.linspace(0, 2 * eps, 12)
        found = attack(model, x, y, spec, fitted=made, eps=radii)
        assert bool((found.norm <= radii).all())
        assert float(found.norm.max()) <= eps
