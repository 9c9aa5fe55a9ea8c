"""An attack leaves nothing behind: not at any yield, not when done, cancelled, closed or failed;
here those that train, and what a cancel returns. `test_general` asks it of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import FGSM, PGD, AttackSpec, perturb
from engine.errors import Cancelled
from tests.attacks.models import CLASSES, Noisy, conv, images, right_labels, trace

SPECS: list[AttackSpec] = [
    FGSM(eps=0.05, random_start=True),
    PGD(eps=0.06, steps=5, step_size=0.015, restarts=2),
    PGD(norm="l2", eps=0.4, steps=4, step_size=0.1),
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


@pytest.mark.parametrize("spec", SPECS)
def test_suspended_at_every_yield_and_when_done(spec: AttackSpec) -> None:
    model, given = setting()
    before = trace(model, given)
    count = 0
    for _ in search(model, given, spec, early_exit=False):
        count += 1
        assert trace(model, given) == before
    assert count > 0
    assert trace(model, given) == before


@pytest.mark.parametrize("spec", SPECS)
def test_a_cancel_at_any_yield_keeps_what_was_confirmed(spec: AttackSpec) -> None:
    model, given = setting()
    before = trace(model, given)
    total = sum(1 for _ in search(model, given, spec))
    for stop in range(total):
        going = search(model, given, spec)
        for _ in range(stop + 1):
            iteration = next(going)
        confirmed = iteration.success.clone()
        with pytest.raises(StopIteration) as end:
            going.throw(Cancelled())
        result = end.value.value
        assert trace(model, given) == before
        assert torch.equal(result.success, confirmed)
        assert torch.equal(result.finished, confirmed | ~result.correct)
        assert torch.equal(result.adversarial, iteration.newest(40))


def test_closing_at_any_yield() -> None:
    model, given = setting()
    before = trace(model, given)
    for stop in range(3):
        going = search(model, given, SPECS[1], early_exit=False)
        for _ in range(stop + 1):
            next(going)
        going.close()
        assert trace(model, given) == before


def test_training_is_told_of_a_cancel() -> None:
    model, given = setting()
    going = search(model, given, SPECS[1], early_exit=False)
    next(going)
    with pytest.raises(Cancelled):
        going.throw(Cancelled())


@pytest.mark.parametrize("call", range(1, 6))
def test_a_model_that_raises(call: int) -> None:
    model, given = setting()
    before = trace(model, given)
    model.fails_at = call
    with pytest.raises(RuntimeError, match="tired"):
        list(search(model, given, SPECS[1], early_exit=False))
    assert trace(model, given) == before


def test_a_models_own_draws_are_reproducible_and_differ_between_steps() -> None:
    model, given = setting()
    first = [iteration.logits.clone() for iteration in search(model, given, SPECS[2], False)]
    torch.manual_seed(99)
    again = [iteration.logits.clone() for iteration in search(model, given, SPECS[2], False)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    still = PGD(norm="l2", eps=0.0, steps=4, step_size=0.1)
    moved = [iteration.logits.clone() for iteration in search(model, given, still, False)]
    assert not torch.equal(moved[0], moved[1])
