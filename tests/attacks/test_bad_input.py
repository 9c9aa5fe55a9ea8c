from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AttackSpec,
    AutoAttack,
    Noise,
    Universal,
    attack,
    fit,
    perturb,
)
from engine.errors import BadInput, SpecError
from tests.attacks.models import conv, images, right_labels

SPEC = PGD(eps=0.1, steps=2, step_size=0.05)
AIMED = PGD(eps=0.1, steps=2, step_size=0.05, targeted=True)


def arguments(**changed: Any) -> dict[str, Any]:
    model, x = conv(), images(6)
    given = {"model": model, "images": x, "labels": right_labels(model, x), "spec": SPEC}
    return given | changed


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"model": lambda x: x}, "torch.nn.Module; got function"),
        ({"spec": "pgd"}, "which attack is to run, as in PGD\\(eps=0.3\\).*; got 'pgd'"),
        ({"spec": {"kind": "pgd"}}, "got {'kind': 'pgd'}"),
        ({"spec": None}, "got NoneType"),
        ({"spec": PGD}, "got ModelMetaclass"),
        ({"images": images(6).numpy()}, "must be a torch tensor; got ndarray"),
        ({"labels": [0] * 6}, "labels must be a torch tensor; got list"),
        ({"images": (images(6) * 255).to(torch.uint8)}, "divided by 255"),
        ({"images": images(6)[0]}, "shape \\(N, C, H, W\\)"),
        (
            {"images": images(6)[:0], "labels": torch.zeros(0, dtype=torch.int64)},
            "nothing to attack",
        ),
        ({"images": images(6) * 2}, "must lie in \\[0, 1\\]"),
        ({"images": images(6) - 0.5}, "must lie in \\[0, 1\\]"),
        ({"images": images(6) * torch.nan}, "must lie in \\[0, 1\\]"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels must be 6 integers"),
        ({"labels": torch.zeros(6)}, "labels must be 6 integers"),
        ({"labels": torch.full((6,), -1)}, "must not be negative"),
        ({"labels": torch.full((6,), 4)}, "0 to 3, the classes of the model, but one is 4"),
        ({"targets": torch.zeros(6, dtype=torch.int64)}, "not targeted"),
        ({"spec": AIMED, "targets": torch.full((6,), 9)}, "0 to 3"),
        ({"spec": AIMED, "targets": torch.zeros(2, dtype=torch.int64)}, "targets must be 6"),
        ({"model": nn.Flatten(0)}, "must return logits of shape"),
        ({"model": nn.Identity()}, "must return logits of shape"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(36, 1))}, "2 or more"),
    ],
)
def test_what_does_not_fit_is_said(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        attack(**arguments(**changed))


def test_what_is_fitted_must_be_an_attack_that_can_be() -> None:
    given = arguments()
    for spec, text in (("universal", "got 'universal'"), (SPEC, "pgd is not fitted")):
        with pytest.raises(BadInput, match=text):
            fit(given["model"], given["images"], given["labels"], spec)  # type: ignore[arg-type]


def test_a_target_is_another_class() -> None:
    given = arguments(spec=AIMED)
    with pytest.raises(BadInput, match="6 of 6 targets equal their label"):
        attack(**given, targets=given["labels"])


def test_radii_and_ids_belong_to_samples() -> None:
    ids = torch.arange(6)
    bad: list[Tensor] = [torch.ones(5), torch.full((6,), -0.1), torch.full((6,), torch.nan)]
    for eps in bad:
        with pytest.raises(BadInput, match="6 radii"):
            perturb(**arguments(), seed=0, ids=ids, eps=eps)
    with pytest.raises(BadInput, match="must end somewhere; got an infinite eps"):
        perturb(**arguments(), seed=0, ids=ids, eps=torch.full((6,), torch.inf))
    with pytest.raises(BadInput, match="at most 1 in linf.*one is 1.5"):
        perturb(**arguments(), seed=0, ids=ids, eps=torch.full((6,), 1.5))
    with pytest.raises(BadInput, match="ids must be 6 integers"):
        perturb(**arguments(), seed=0, ids=ids[:3])


ABOVE = "must be at most 1, since images lie in \\[0, 1\\]"


@pytest.mark.parametrize("kind", [FGSM, PGD, APGD, AutoAttack, Universal, FAB, Noise])
def test_no_radius_is_larger_than_the_box(kind: type[AttackSpec]) -> None:
    assert kind(norm="linf", eps=1.0).eps == 1
    for eps in (1.0001, 8.0):
        with pytest.raises(SpecError, match=ABOVE) as raised:
            kind(norm="linf", eps=eps)
        (problem,) = raised.value.problems
        assert problem.path == ("eps",)
        if kind is not AutoAttack:
            assert kind(norm="l2", eps=eps).eps == eps


def test_python_is_told_what_weakens_an_attack() -> None:
    weak = PGD(eps=0.3, steps=2, step_size=0.01)
    with pytest.warns(UserWarning, match="2 steps of 0.01 get at most 0.02 away") as caught:
        attack(**arguments(spec=weak))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    dlr = APGD(eps=0.1, steps=2, loss="dlr", targets=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    x = images(6)
    with pytest.warns(UserWarning, match="DLR loss needs 4 classes or more, and the model has 3"):
        attack(model, x, right_labels(model, x), dlr)
    soft = nn.Sequential(conv(), nn.Softmax(1))
    with pytest.warns(UserWarning, match="the model returns probabilities"):
        attack(**arguments(model=soft))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(**arguments())
        attack(**arguments(spec=weak), eps=torch.full((6,), 0.01))  # its own radius is not used


def test_a_model_elsewhere_is_said() -> None:
    with pytest.raises(BadInput, match="The model is on meta and the images are on cpu"):
        attack(**arguments(model=conv().to("meta")))
