"""Models that compute in another precision than float32, and that use random generators which are
not torch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.attacks import DDN, FAB, PGD, AttackSpec, Square, attack, perturb
from engine.attacks.oracle import Oracle, _rounded
from engine.errors import BadInput
from tests.attacks.models import conv, images, right_labels

SPECS: list[AttackSpec] = [PGD(eps=0.15, steps=8, step_size=0.04), DDN(steps=15), FAB(steps=8)]
SPECS += [Square(eps=0.2, steps=60)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_models_of_another_precision_are_attacked(spec: AttackSpec, kind: torch.dtype) -> None:
    """What is found breaks the very model, given the images in its own precision."""
    model, x = conv().to(kind), images(12)
    labels = right_labels(model, x.to(kind))
    found = attack(model, x, labels, spec)
    assert found.adversarial.dtype == torch.float32
    assert bool(found.correct.all())
    assert int(found.success.sum()) > 3
    taken = right_labels(model, found.adversarial.to(kind))
    assert torch.equal(taken != labels, found.success)
    assert torch.equal(taken, found.predictions)


def test_a_model_in_float64_is_attacked_as_in_float32() -> None:
    x, spec = images(12), PGD(eps=0.15, steps=8, step_size=0.04)
    labels = right_labels(conv(), x)
    one, other = attack(conv(), x, labels, spec), attack(conv().double(), x, labels, spec)
    assert torch.equal(one.success, other.success)
    torch.testing.assert_close(one.norm, other.norm, rtol=1e-3, atol=1e-3)


class Itself(nn.Module):
    """Converts its images itself, after a step that needs float32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv().to(torch.bfloat16)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.dtype)
        answer: Tensor = self.net((x * 255).round().div(255).to(torch.bfloat16))
        return answer


def test_who_converts_its_images_itself_goes_on_doing_so() -> None:
    model, x = Itself(), images(6)
    attack(model, x, right_labels(model, x), PGD(eps=0.1, steps=2, step_size=0.1))
    assert model.seen == {torch.float32}


def test_a_model_of_two_precisions_is_refused_in_words() -> None:
    model = conv()
    model[-1].double()  # type: ignore[index]
    with pytest.raises(BadInput, match=r"computes in float64, and takes images neither in float32"):
        attack(model, images(4), torch.zeros(4, dtype=torch.int64), PGD(eps=0.1))


def test_an_error_that_is_not_about_precision_stays_what_it_is() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("the model is tired")

    with pytest.raises(RuntimeError, match="^the model is tired$"):
        attack(Fails(), images(4), torch.zeros(4, dtype=torch.int64), PGD(eps=0.1))


def test_the_class_ahead_in_float64_is_ahead_in_float32() -> None:
    logits = torch.tensor([[1.0, 1.0 + 1e-12, 0.5], [2.0, 1.0, 0.0], [3.0, 3.0, 3.0 + 1e-14]])
    exact = torch.tensor(
        [[1.0, 1.0 + 1e-12, 0.5], [2.0, 1.0, 0.0], [3.0, 3.0, 3.0 + 1e-14]]
    ).double()
    exact[0, 1] += 1e-12
    exact[2, 2] += 1e-14
    assert exact.float().argmax(1).tolist() == [0, 0, 0]
    found = _rounded(exact)
    assert found.dtype == torch.float32
    assert found.argmax(1).tolist() == exact.argmax(1).tolist() == [1, 0, 2]
    assert torch.equal(found[1], logits[1])
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=0)


# --- generators of the whole process --------------------------------------------------------------


class Stray(nn.Module):
    """Draws from numpy's and Python's generators, and seeds them if so wished."""

    def __init__(self, seeds: bool) -> None:
        super().__init__()
        self.net, self.seeds = conv(), seeds

    def forward(self, x: Tensor) -> Tensor:
        if self.seeds:
            np.random.seed(3)
            random.seed(3)
        noise = 1e-3 * (np.random.randn() + random.random())
        answer: Tensor = self.net(x + noise)
        return answer


def states() -> tuple[Any, Any]:
    name, key, *rest = np.random.get_state()
    return (name, key.tolist(), *rest), random.getstate()  # type: ignore[union-attr]


@pytest.mark.parametrize("seeds", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_numpys_and_pythons_generators_are_the_callers(spec: AttackSpec, seeds: bool) -> None:
    x = images(8)
    labels = right_labels(conv(), x)
    np.random.seed(11)
    random.seed(11)
    np.random.randn(3)  # leaves half of a pair behind
    before = states()
    for _ in perturb(Stray(seeds), x, labels, spec, seed=1, ids=torch.arange(8)):
        assert states() == before
    first = attack(Stray(seeds), x, labels, spec)
    assert states() == before
    np.random.rand(7)
    random.random()
    # What the caller drew in between is nothing to the model.
    again = attack(Stray(seeds), x, labels, spec)
    assert torch.equal(first.adversarial, again.adversarial)
    assert torch.equal(first.norm, again.norm)


def test_they_are_the_callers_also_if_the_model_raises() -> None:
    model = Stray(True)
    model.net = nn.Identity()  # type: ignore[assignment]
    before = states()
    with pytest.raises(BadInput):
        attack(model, images(4), torch.zeros(4, dtype=torch.int64), PGD(eps=0.1))
    assert states() == before


def test_a_model_that_draws_elsewhere_is_known_to_draw() -> None:
    """Else what it was asked before would not be asked again."""
    x = images(4)
    for model, draws in ((Stray(False), True), (conv(), False)):
        oracle = Oracle(model, seed=0, device=x.device, bf16=False)
        oracle.look(x)
        assert oracle.draws is draws
        assert (oracle._elsewhere is not None) is draws
