"""An attack leaves nothing behind: not at any yield, not when done, cancelled, closed or failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.attacks import FGSM, PGD, AttackSpec, perturb
from engine.errors import Cancelled
from tests.attacks.models import CLASSES, conv, images, right_labels

SPECS: list[AttackSpec] = [
    FGSM(eps=0.05, random_start=True),
    PGD(eps=0.06, steps=5, step_size=0.015, restarts=2),
    PGD(norm="l2", eps=0.4, steps=4, step_size=0.1),
]


class Noisy(nn.Module):
    """Draws from the global generator and has a mixture of modes, frozen weights and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv(norm=True)
        self.fails_at = -1
        self.calls = 0
        self.net.train()
        self.net[2].eval()
        self.net[0].weight.requires_grad_(False)
        self.net[-1].weight.grad = torch.ones_like(self.net[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the model is tired")
        assert not self.net.training
        assert not torch.is_autocast_enabled("cpu")
        logits: Tensor = self.net(x + 1e-4 * torch.randn_like(x))
        return logits


def seen(model: nn.Module, given: list[Tensor]) -> list[Any]:
    """Everything an attack could leave a trace on."""
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.cudnn.enabled,
        [module.training for module in model.modules()],
        [tensor.clone().tolist() for tensor in model.state_dict().values()],
        [
            (p.requires_grad, None if p.grad is None else p.grad.tolist())
            for p in model.parameters()
        ],
        [(t.tolist(), t.requires_grad, t.grad, t._version) for t in given],
    ]


def setting() -> tuple[Noisy, list[Tensor]]:
    model = Noisy()
    x = images(40)
    y = right_labels(conv(norm=True), x)
    y[0] = (y[0] + 1) % CLASSES
    return model, [x.requires_grad_(), y, torch.arange(40)]


def search(model: nn.Module, given: list[Tensor], spec: AttackSpec, early_exit: bool = True) -> Any:
    x, y, ids = given
    if not early_exit and isinstance(spec, PGD):
        spec = spec.model_copy(update={"restarts": 1})
    return perturb(model, x, y, spec, seed=1, ids=ids, early_exit=early_exit)


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_suspended_at_every_yield_and_when_done(spec: AttackSpec, early_exit: bool) -> None:
    model, given = setting()
    before = seen(model, given)
    count = 0
    for _ in search(model, given, spec, early_exit):
        count += 1
        assert seen(model, given) == before
    assert count > 0
    assert seen(model, given) == before


@pytest.mark.parametrize("spec", SPECS)
def test_the_callers_modes_do_not_matter(spec: AttackSpec) -> None:
    model, given = setting()
    results = []
    around: list[Callable[[], Any]] = [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ]
    for context in around:
        with context():
            before = seen(model, given)
            going = search(model, given, spec)
            while True:
                try:
                    next(going)
                except StopIteration as end:
                    results.append(end.value)
                    break
                assert seen(model, given) == before
    for result in results[1:]:
        assert torch.equal(result.success, results[0].success)
        assert torch.equal(result.adversarial, results[0].adversarial)


@pytest.mark.parametrize("spec", SPECS)
def test_a_cancel_at_any_yield_keeps_what_was_confirmed(spec: AttackSpec) -> None:
    model, given = setting()
    before = seen(model, given)
    total = sum(1 for _ in search(model, given, spec))
    for stop in range(total):
        going = search(model, given, spec)
        for _ in range(stop + 1):
            iteration = next(going)
        confirmed = iteration.success.clone()
        with pytest.raises(StopIteration) as end:
            going.throw(Cancelled())
        result = end.value.value
        assert seen(model, given) == before
        assert torch.equal(result.success, confirmed)
        assert torch.equal(result.finished, confirmed | ~result.correct)
        assert torch.equal(result.adversarial, iteration.newest(40))


@pytest.mark.parametrize("early_exit", [True, False])
def test_closing_at_any_yield(early_exit: bool) -> None:
    model, given = setting()
    before = seen(model, given)
    for stop in range(3):
        going = search(model, given, SPECS[1], early_exit)
        for _ in range(stop + 1):
            next(going)
        going.close()
        assert seen(model, given) == before


def test_training_is_told_of_a_cancel() -> None:
    model, given = setting()
    going = search(model, given, SPECS[1], early_exit=False)
    next(going)
    with pytest.raises(Cancelled):
        going.throw(Cancelled())


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("call", range(1, 6))
def test_a_model_that_raises(call: int, early_exit: bool) -> None:
    model, given = setting()
    before = seen(model, given)
    model.fails_at = call
    with pytest.raises(RuntimeError, match="tired"):
        list(search(model, given, SPECS[1], early_exit))
    assert seen(model, given) == before


def test_a_models_own_draws_are_reproducible_and_differ_between_steps() -> None:
    model, given = setting()
    first = [iteration.logits.clone() for iteration in search(model, given, SPECS[2], False)]
    torch.manual_seed(99)
    again = [iteration.logits.clone() for iteration in search(model, given, SPECS[2], False)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    still = PGD(norm="l2", eps=0.0, steps=4, step_size=0.1)
    moved = [iteration.logits.clone() for iteration in search(model, given, still, False)]
    assert not torch.equal(moved[0], moved[1])
