"""Carlini and Wagner's attack, EAD, and their search for the constant, against the authors' loops
written plainly, and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import EAD, CarliniWagner, attack
from engine.attacks.goal import Goal
from engine.attacks.losses import margin
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels

CW = CarliniWagner(steps=40, searches=5, constant=0.1, step_size=0.05)


def bisect(spec: Any, run: Any) -> None:
    """The search for the constant: `run(constant)` is whether it has succeeded."""
    c, low, high = spec.constant, 0.0, 1e10
    for number in range(spec.searches):
        if spec.searches >= 10 and number == spec.searches - 1:
            c = high
        if run(c):
            high = min(high, c)
        else:
            low = max(low, c)
        c = (low + high) / 2 if high < 1e9 else c * 10


def plain_cw(model: nn.Module, x: Tensor, label: int, spec: CarliniWagner) -> float:
    """Smallest l2 distance for one image, (1, C, H, W), with torch's own Adam."""
    best = math.inf
    start = ((2 * x - 1) * (1 - 1e-6)).atanh()

    def run(c: float) -> bool:
        nonlocal best
        w = start.clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=spec.step_size)
        found, limit = False, math.inf
        for i in range(spec.steps):
            image = (w.tanh() + 1) / 2
            logits = model(image)[0]
            others = torch.cat([logits[:label], logits[label + 1 :]]).max()
            squared = (image - x).square().sum()
            objective = squared + c * (logits[label] - others + spec.confidence).clamp_min(0)
            if others > logits[label] + spec.confidence:
                found = True
                best = min(best, float((image - x).double().norm()))
            if spec.abort_early and i % math.ceil(spec.steps / 10) == 0:
                if objective.item() > 0.9999 * limit:
                    break
                limit = objective.item()
            adam.zero_grad()
            objective.backward()
            adam.step()
        return found

    bisect(spec, run)
    return best


@pytest.mark.parametrize("spec", [CW, CW.model_copy(update={"confidence": 1.0})])
def test_carlini_and_wagner_sample_by_sample(spec: CarliniWagner) -> None:
    model, x = conv(), images(8)
    y = right_labels(model, x)
    result = attack(model, x, y, spec)
    expected = [plain_cw(model, x[i : i + 1], int(y[i]), spec) for i in range(8)]
    got = torch.where(result.success, result.norm, math.inf)
    torch.testing.assert_close(got, torch.tensor(expected).double(), rtol=2e-3, atol=1e-4)


def plain_ead(model: nn.Module, x: Tensor, label: int, spec: EAD) -> float:
    """Smallest l1 distance for one image, (1, C, H, W)."""
    best = (math.inf, math.inf)

    def run(c: float) -> bool:
        nonlocal best
        here, ahead, found = x, x, False
        for k in range(spec.steps):
            ahead = ahead.detach().requires_grad_()
            logits = model(ahead)[0]
            others = torch.cat([logits[:label], logits[label + 1 :]]).max()
            objective = (ahead - x).square().sum() + c * (logits[label] - others).clamp_min(0)
            (slope,) = torch.autograd.grad(objective, ahead)
            z = ahead.detach() - spec.step_size * math.sqrt(1 - k / spec.steps) * slope
            last, here = here, x.clone()
            here = torch.where(z - x > spec.beta, (z - spec.beta).clamp(max=1), here)
            here = torch.where(z - x < -spec.beta, (z + spec.beta).clamp(min=0), here)
            ahead = here + k / (k + 3) * (here - last)
            if int(model(here).argmax()) != label:
                found = True
                l1 = float((here - x).double().abs().sum())
                elastic = spec.beta * l1 + float((here - x).double().square().sum())
                best = min(best, (elastic if spec.decision == "elastic" else l1, l1))
        return found

    bisect(spec, run)
    return best[1]


@pytest.mark.parametrize("decision", ["elastic", "l1"])
def test_ead_sample_by_sample(decision: Any) -> None:
    spec = EAD(
        steps=30, searches=4, constant=0.1, step_size=0.05, decision=decision, abort_early=False
    )
    model, x = conv(), images(8)
    y = right_labels(model, x)
    result = attack(model, x, y, spec)
    expected = [plain_ead(model, x[i : i + 1], int(y[i]), spec) for i in range(8)]
    wanted = torch.tensor(expected).double()
    got = torch.where(result.success, result.norm, math.inf)
    assert result.success.any()
    # A point ahead, where the gradient is taken, may break a sample too.
    assert (got <= wanted * 1.002 + 1e-4).all()
    assert ((got - wanted).abs() <= wanted * 0.002).sum() >= 5


def test_linear_models_are_crossed_at_their_distance() -> None:
    model, x = Linear(), 0.5 + 0.1 * (images(20) - 0.5)
    y = right_labels(model, x)
    with torch.no_grad():
        score = model(x)[:, 0].abs().double()
    distance = score / model.weight.double().norm()
    near = distance < 1.0
    result = attack(model, x, y, CarliniWagner(steps=100, searches=5, constant=0.1))
    assert result.success[near].all()
    assert (result.norm[near] >= distance[near] * (1 - 1e-4)).all()
    assert (result.norm[near] <= distance[near] * 1.02 + 1e-3).all()


@pytest.mark.parametrize("kind", [CarliniWagner, EAD])
def test_confidence_is_kept(kind: Any) -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    spec = kind(steps=60, searches=4, constant=10.0, step_size=0.05, confidence=0.3)
    result = attack(model, x, y, spec)
    assert result.success.any()
    with torch.no_grad():
        lead = margin(None, model(result.adversarial), Goal(y, None, False, CLASSES - 1))
    assert (lead[result.success] >= 0.3 - 1e-4).all()
    targets = (y + 1) % CLASSES
    aimed = attack(model, x, y, spec.model_copy(update={"targeted": True}), targets=targets)
    assert aimed.success.any()
    with torch.no_grad():
        lead = margin(None, model(aimed.adversarial), Goal(y, targets, True, CLASSES - 1))
    # Of a targeted goal the margin is the lead of the target.
    assert (lead[aimed.success] >= 0.3 - 1e-4).all()


def test_a_sample_that_gains_nothing_leaves_early() -> None:
    """Constants too small to move anything cost two tenths of the steps each, and no more."""
    model, x = conv(), images(20)
    y = right_labels(model, x)
    spec = CarliniWagner(steps=100, searches=3, constant=1e-9)
    result = attack(model, x, y, spec)
    assert int(result.queries.max()) <= 3 * 21
    all_the_way = attack(model, x, y, spec.model_copy(update={"abort_early": False}))
    assert (all_the_way.queries == 300).all()


def test_the_tenth_search_repeats_the_best() -> None:
    model, x = conv(), images(12)
    y = right_labels(model, x)
    nine, ten = (attack(model, x, y, CW.model_copy(update={"searches": n})) for n in (9, 10))
    assert (ten.norm <= nine.norm).all()
