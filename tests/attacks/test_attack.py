from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import FGSM, PGD, AttackSpec, attack, perturb
from engine.attacks.geometry import ball
from engine.events import drain
from engine.random import derive
from tests.attacks.models import CLASSES, Linear, conv, images, right_labels

SPECS: list[AttackSpec] = [
    FGSM(eps=0.05),
    FGSM(norm="l2", eps=0.3),
    FGSM(eps=0.1, random_start=True, targeted=True),
    PGD(eps=0.06, steps=6, step_size=0.015, restarts=2),
    PGD(norm="l2", eps=0.4, steps=6, step_size=0.1, loss="margin"),
    PGD(eps=0.1, steps=5, step_size=0.03, targeted=True, restarts=2),
]


def ids(count: int) -> Tensor:
    return torch.arange(count)


# --- against what is known ------------------------------------------------------------------------


def test_fgsm_finds_the_exact_worst_case_of_a_linear_model() -> None:
    model, x = Linear(), images(40)
    y = right_labels(model, x)
    eps = 0.07
    result = attack(model, x, y, FGSM(eps=eps))
    towards = torch.where(y == 0, -1.0, 1.0)[:, None] * model.weight.detach().sign()
    worst = (x.flatten(1) + eps * towards).clamp(0, 1).view_as(x)
    expected = right_labels(model, worst) != y
    assert 0 < int(expected.sum()) < 40
    assert torch.equal(result.success, expected)
    torch.testing.assert_close(result.adversarial, worst, atol=2e-7, rtol=0)


def test_pgd_reaches_the_analytic_l2_optimum() -> None:
    model = Linear()
    x = images(30) * 0.2 + 0.4  # far from the box
    y = right_labels(model, x)
    unit = model.weight.detach() / model.weight.detach().norm()
    distance = (x.flatten(1) @ unit).abs()
    eps = float(distance.median())
    spec = PGD(norm="l2", eps=eps, steps=120, step_size=eps / 10)
    result = attack(model, x, y, spec)
    assert torch.equal(result.success, distance < eps)
    robust = ~result.success
    towards = torch.where(y == 0, -1.0, 1.0)[:, None] * unit
    optimum = (x.flatten(1) + eps * towards).view_as(x)
    torch.testing.assert_close(result.adversarial[robust], optimum[robust], atol=2e-4, rtol=0)


def bare_pgd(
    model: nn.Module, x: Tensor, y: Tensor, spec: PGD, seed: int, restart: int = 0
) -> Tensor:
    """PGD as it is usually written, with our draws; in l2 no step goes out of the box."""
    radii = torch.full((len(x),), spec.eps, dtype=torch.float64)
    region = ball(spec.norm, x, radii)
    start = region.random(derive(seed, "restart", restart), ids(len(x)))
    at = start if spec.random_start else x
    for _ in range(spec.steps):
        at = at.detach().requires_grad_()
        F.cross_entropy(model(at), y, reduction="sum").backward(inputs=[at])
        assert at.grad is not None
        slope, at = at.grad, at.detach()
        if spec.norm == "linf":
            change = at + spec.step_size * slope.sign() - x
            at = (x + change.clamp(-spec.eps, spec.eps)).clamp(0, 1)
        else:
            slope = slope * ~(((at < 1e-4) & (slope < 0)) | ((at > 1 - 1e-4) & (slope > 0)))
            length = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            at = region.project(at + spec.step_size * slope / length)
    return at


@pytest.mark.parametrize(
    "spec",
    [
        PGD(eps=0.06, steps=8, step_size=0.012),
        PGD(eps=0.06, steps=8, step_size=0.012, random_start=False),
        PGD(norm="l2", eps=0.5, steps=8, step_size=0.1),
    ],
)
def test_agrees_with_a_bare_loop(spec: PGD) -> None:
    model, x = conv(), images(60)
    y = right_labels(model, x)
    bare = bare_pgd(model, x, y, spec, seed=5)
    fixed = drain(perturb(model, x, y, spec, seed=5, ids=ids(60), early_exit=False))
    torch.testing.assert_close(fixed.adversarial, bare, atol=2e-6, rtol=0)
    early = drain(perturb(model, x, y, spec, seed=5, ids=ids(60)))
    broken = right_labels(model, bare) != y
    assert 0 < int(early.success.sum()) < 60
    assert bool((early.success | ~broken).all()), "what the bare loop breaks, ours breaks"
    torch.testing.assert_close(
        early.adversarial[~early.success], bare[~early.success], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_reported_holds(spec: AttackSpec) -> None:
    model, x = conv(), images(60)
    y = right_labels(model, x)
    y[::7] = (y[::7] + 1) % CLASSES
    result = attack(model, x, y, spec)
    now = right_labels(model, result.adversarial)
    assert 0 < int(result.success.sum()) < int(result.correct.sum())
    goal = now == (y + 1) % CLASSES if spec.targeted else now != y
    assert bool(goal[result.success].all())
    assert not bool((goal & ~result.success & result.correct).any())
    assert torch.equal(result.predictions, now)
    region = ball(spec.norm, x, torch.full((60,), spec.eps, dtype=torch.float64))
    assert bool(region.contains(result.adversarial).all())
    torch.testing.assert_close(result.norm, region.size(result.adversarial))
    assert bool(result.finished.all())
    kept = (result.correct & ~result.success).double().mean().item()
    assert result.robust_accuracy == kept


def test_random_specs_stay_inside_ball_and_box() -> None:
    model = conv()
    source = random.Random(0)
    for case in range(60):
        x = images(7, seed=case)
        x[0], x[1], x[2] = 0, 1, x[2].round()
        y = right_labels(model, x)
        common: dict[str, Any] = {
            "norm": source.choice(["linf", "l2"]),
            "eps": source.choice([0.0, 1e-6, 0.03, 0.3, 2.0, 1000.0]),
            "targeted": source.random() < 0.3,
            "random_start": source.random() < 0.5,
        }
        if common["norm"] == "linf":  # the box ends there
            common["eps"] = min(common["eps"], 1.0)
        spec: AttackSpec = (
            FGSM(**common)
            if source.random() < 0.3
            else PGD(
                **common,
                steps=source.randint(1, 5),
                step_size=source.choice([1e-4, 0.1, 100.0]),
                restarts=source.randint(1, 3),
                loss=source.choice(["cross_entropy", "margin"]),
            )
        )
        region = ball(spec.norm, x, torch.full((7,), spec.eps, dtype=torch.float64))
        search = perturb(model, x, y, spec, seed=case, ids=ids(7))
        while True:
            try:
                iteration = next(search)
            except StopIteration as end:
                result = end.value
                break
            assert bool(region[iteration.active].contains(iteration.points).all())
            assert bool(region.contains(iteration.adversarial).all())
        assert bool(region.contains(result.adversarial).all())
        if spec.eps == 0:
            assert torch.equal(result.adversarial, x)
            assert not bool(result.success.any())


# --- bookkeeping ----------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits: Tensor = self.model(x)
        return logits


def test_broken_samples_leave_and_no_pass_is_wasted() -> None:
    model, x = Counting(conv()), images(60)
    y = right_labels(model.model, x)
    spec = PGD(eps=0.06, steps=8, step_size=0.012)
    result = attack(model, x, y, spec)
    broken = int(result.success.sum())
    assert 0 < broken < 60
    assert sum(model.sizes) == result.forward_evaluations
    spent = int(result.iterations.sum())
    # Clean once, the point of every step once, each success once more.
    assert result.forward_evaluations == 60 + (spent + 60) + broken
    assert result.gradient_evaluations == spent + broken - int(
        (result.success & (result.iterations == spec.steps)).sum()
    )
    assert bool((result.iterations[~result.success] == spec.steps).all())


def test_training_mode_makes_no_extra_pass() -> None:
    model, x = Counting(conv()), images(20)
    y = right_labels(model.model, x)
    spec = PGD(eps=0.2, steps=5, step_size=0.05)
    result = drain(perturb(model, x, y, spec, seed=0, ids=ids(20), early_exit=False))
    assert model.sizes == [20] * 5
    assert result.iterations.tolist() == [5] * 20
    with pytest.raises(Exception, match="restarts=1"):
        perturb(model, x, y, PGD(restarts=2), seed=0, ids=ids(20), early_exit=False)


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_samples_are_never_attacked(spec: AttackSpec) -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    wrong = torch.arange(30) % 3 == 0
    y[wrong] = (y[wrong] + 2) % CLASSES
    search = perturb(model, x, y, spec, seed=0, ids=ids(30))
    while True:
        try:
            iteration = next(search)
        except StopIteration as end:
            result = end.value
            break
        assert not bool(wrong[iteration.active].any())
    assert not bool(result.success[wrong].any())
    assert torch.equal(result.adversarial[wrong], x[wrong])
    assert result.iterations[wrong].sum() == 0


def test_restarts_are_for_survivors_and_help() -> None:
    model, x = conv(), images(80)
    y = right_labels(model, x)
    one = attack(model, x, y, PGD(eps=0.05, steps=1, step_size=0.03))
    many = attack(model, x, y, PGD(eps=0.05, steps=1, step_size=0.03, restarts=20))
    assert bool((many.success | ~one.success).all())
    assert many.success.sum() > one.success.sum()


@pytest.mark.parametrize("spec", SPECS)
def test_a_sample_does_not_see_its_neighbours(spec: AttackSpec) -> None:
    model, x = conv(), images(60)
    y = right_labels(model, x)
    names = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:60]
    whole = drain(perturb(model, x, y, spec, seed=2, ids=names))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for part in order.split(7):
        some = drain(perturb(model, x[part], y[part], spec, seed=2, ids=names[part]))
        assert torch.equal(some.success, whole.success[part])
        assert torch.equal(some.iterations, whole.iterations[part])
        torch.testing.assert_close(some.adversarial, whole.adversarial[part], atol=1e-5, rtol=0)


def test_a_radius_for_each_sample() -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    eps = torch.linspace(0, 0.2, 40)
    spec = PGD(eps=1.0, steps=10, step_size=0.05)
    result = drain(perturb(model, x, y, spec, seed=0, ids=ids(40), eps=eps))
    assert bool((result.norm <= eps).all())
    assert result.norm[0] == 0
    assert bool(result.success[30:].any())


def test_targets_are_reached() -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    targets = (y + 2) % CLASSES
    spec = PGD(eps=0.3, steps=30, step_size=0.03, targeted=True)
    result = attack(model, x, y, spec, targets=targets)
    assert int(result.success.sum()) > 10
    assert torch.equal(
        right_labels(model, result.adversarial)[result.success], targets[result.success]
    )


def test_the_generator_decides() -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)

    def points(generator: torch.Generator | None) -> Tensor:
        spec = PGD(eps=0.05, steps=1, step_size=0.001)
        return attack(model, x, y, spec, generator=generator).adversarial

    one = points(torch.Generator().manual_seed(1))
    assert torch.equal(one, points(torch.Generator().manual_seed(1)))
    assert not torch.equal(one, points(torch.Generator().manual_seed(2)))
    assert torch.equal(points(None), points(None))


def test_iterations_show_every_sample_as_it_is() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    y[3] = (y[3] + 1) % CLASSES
    search = perturb(model, x, y, PGD(eps=0.06, steps=6, step_size=0.02), seed=0, ids=ids(30))
    while True:
        try:
            iteration = next(search)
        except StopIteration as end:
            result = end.value
            break
        newest = iteration.newest(30)
        assert torch.equal(newest[iteration.active], iteration.points)
        assert torch.equal(newest[3], x[3])
        with torch.no_grad():
            torch.testing.assert_close(model(iteration.points), iteration.logits)
    assert torch.equal(newest, result.adversarial)


# --- models that misbehave ------------------------------------------------------------------------


class Faulty(nn.Module):
    """Logits of bright images are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.model = conv()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return torch.where((x[:, 0, 0, 0] > 0.8)[:, None], torch.nan, logits)


@pytest.mark.parametrize("spec", SPECS)
def test_nan_is_never_a_success(spec: AttackSpec) -> None:
    model, x = Faulty(), images(60)
    y = right_labels(model.model, x)
    result = attack(model, x, y, spec)
    assert result.nan_count > 0
    bright = x[:, 0, 0, 0] > 0.8
    assert not bool(result.correct[bright].any())
    with torch.no_grad():
        assert bool(model(result.adversarial[result.success]).isfinite().all())
    assert bool(result.adversarial.isfinite().all())


class Rounding(nn.Module):
    """Quantised input: no gradient gets through."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.model = conv()
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.detach() if self.detached else (x * 4).round() / 4)
        return logits.detach() if self.detached else logits


@pytest.mark.parametrize("detached", [False, True])
def test_zero_gradients_are_counted(detached: bool) -> None:
    model, x = Rounding(detached), images(20)
    y = right_labels(model, x)
    result = attack(model, x, y, PGD(eps=0.01, steps=4, step_size=0.01, random_start=False))
    assert result.zero_gradients == result.gradient_evaluations == 80
    assert not bool(result.success.any())


def test_bf16_steps_are_confirmed_in_float32() -> None:
    model, x = conv(), images(60)
    y = right_labels(model, x)
    spec = PGD(eps=0.06, steps=8, step_size=0.012)
    result = drain(perturb(model, x, y, spec, seed=0, ids=ids(60), precision="bf16"))
    assert bool((right_labels(model, result.adversarial) != y)[result.success].all())
    assert torch.equal(result.predictions, right_labels(model, result.adversarial))
    exact = drain(perturb(model, x, y, spec, seed=0, ids=ids(60)))
    assert abs(int(result.success.sum()) - int(exact.success.sum())) <= 2
