from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import PGD, attack, perturb
from engine.errors import BadInput
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
    with pytest.raises(BadInput, match="ids must be 6 integers"):
        perturb(**arguments(), seed=0, ids=ids[:3])


def test_a_model_elsewhere_is_said() -> None:
    with pytest.raises(BadInput, match="The model is on meta and the images are on cpu"):
        attack(**arguments(model=conv().to("meta")))
