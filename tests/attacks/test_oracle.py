"""How a model is asked: gradients of first convolutions without oneDNN, which stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import FGSM, attack
from tests.attacks.models import conv, images, right_labels


class Watch(torch.autograd.Function):
    """The identity, which notes in its backward pass whether oneDNN is on, and may fail there."""

    seen: list[bool]
    fails: bool

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        Watch.seen.append(torch._C._get_mkldnn_enabled())
        if Watch.fails:
            raise RuntimeError("no gradient today")
        return slope


class Watched(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return Watch.apply(self.net(Watch.apply(x)))


@pytest.mark.parametrize("fails", [False, True])
def test_onednn_is_off_in_first_convolutions_alone(fails: bool) -> None:
    Watch.seen, Watch.fails = [], fails
    model, x = Watched(conv()), images(5)
    y = right_labels(model.net, x)
    before = torch._C._get_mkldnn_enabled()
    if fails:
        with pytest.raises(RuntimeError, match="no gradient today"):
            attack(model, x, y, FGSM(eps=0.1))
    else:
        attack(model, x, y, FGSM(eps=0.1))
        assert Watch.seen == [before, before]
    assert torch._C._get_mkldnn_enabled() == before


def test_gradients_are_those_of_onednn() -> None:
    model, x = conv(), images(20)
    y = right_labels(model, x)
    ours = attack(model, x, y, FGSM(norm="l2", eps=0.1)).adversarial
    at = x.clone().requires_grad_()
    slope = torch.autograd.grad(nn.functional.cross_entropy(model(at), y), at)[0]
    slope = slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
    cosine = ((ours - x).clamp(-1, 1) * slope).flatten(1).sum(1) / (ours - x).flatten(1).norm(dim=1)
    assert cosine.min() > 0.5  # the box takes the rest
    torch.testing.assert_close((ours - x).sign() * (ours != x), slope.sign() * (ours != x))
