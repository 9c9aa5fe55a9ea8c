"""How a model is asked: gradients of first convolutions without oneDNN, which stays as it was."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import DIFGSM, FAB, FGSM, PGD, attack
from engine.attacks.oracle import _Direct
from engine.attacks.spec import AttackSpec
from tests.attacks.models import conv, images, right_labels


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the switch of oneDNN, which is the whole process's, was set to."""
    seen: list[bool] = []
    monkeypatch.setattr(torch._C, "_set_mkldnn_enabled", seen.append)
    return seen


def test_onednn_is_never_switched_off_for_the_process(switched: list[bool]) -> None:
    model, x = conv(), images(5)
    attack(model, x, right_labels(model, x), FGSM(eps=0.1))
    assert switched == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [(1, 4, 2, 1), (3, 3, 1, 1), (3, (3, 5), (1, 2), (2, 1)), (4, 7, 2, 3), (2, 1, 1, 0)],
)
def test_direct_convolutions_are_torchs(
    layout: torch.memory_format, channels: int, kernel: Any, stride: Any, padding: Any
) -> None:
    """Value, gradients of images and weights, and gradients of those."""
    layer = nn.Conv2d(channels, 5, kernel, stride, padding)
    x = torch.rand(6, channels, 12, 10, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=layout)

    def found(mode: AbstractContextManager[Any]) -> list[Tensor]:
        at = x.clone().requires_grad_()
        with mode:
            out = layer(at)
        first = torch.autograd.grad(out.square().sum(), [at, layer.weight], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), [at, layer.weight])
        return [out, *first, *second]

    ours, torchs = found(_Direct()), found(nullcontext())
    assert torch.equal(ours[0], torchs[0])
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_direct_convolutions_are_torchs_under_bf16() -> None:
    """As near the gradient in float64, from the same rounded values, as torch's own."""
    layer = nn.Conv2d(1, 8, 4, 2, 1)
    x = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    away: list[float] = []
    for mode in (_Direct(), nullcontext()):
        at = x.clone().requires_grad_()
        with mode, torch.autocast("cpu", torch.bfloat16):
            out = layer(at)
        assert out.dtype == torch.bfloat16
        slope = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16()
        along, kernel = torch.autograd.grad(out, [at, layer.weight], slope)
        assert along.dtype == kernel.dtype == torch.float32
        exact = torch.nn.grad.conv2d_input(
            x.shape, layer.weight.bfloat16().double(), slope.double(), 2, 1
        )
        away.append((along - exact).abs().max().item() / exact.abs().max().item())
    assert away[0] <= max(away[1], 2**-8)


def test_other_convolutions_are_left_alone() -> None:
    """Groups, holes, paddings by name, and images that take no gradient."""
    x = torch.rand(3, 4, 9, 9)
    layers = (
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3),
    )
    for layer in layers:
        at = x.clone().requires_grad_(layer is not layers[-1])
        with _Direct():
            out = layer(at)
        assert type(out.grad_fn).__name__ == "ConvolutionBackward0"
        assert torch.equal(out, layer(x))


@pytest.mark.parametrize(
    "spec", [PGD(eps=0.1, steps=3, step_size=0.05), FAB(eps=0.1, steps=3), DIFGSM(eps=0.1)]
)
def test_few_images_at_a_time_find_the_same(
    spec: AttackSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = conv(), images(7)
    y = right_labels(model, x)
    whole = attack(model, x, y, spec)
    monkeypatch.setattr("engine.attacks.oracle._TOGETHER", 2 * x[0].numel())
    parts = attack(model, x, y, spec)
    torch.testing.assert_close(parts.adversarial, whole.adversarial, rtol=0, atol=1e-4)
    assert torch.equal(parts.success, whole.success)
    assert parts.gradient_evaluations == whole.gradient_evaluations


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


def test_gradients_that_are_one_value_expanded() -> None:
    """Those of a sum are, and nothing can be written into them."""

    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([total, -total], 1)

    x = torch.full((2, 1, 4, 4), 0.01)
    result = attack(Total(), x, torch.zeros(2, dtype=torch.int64), PGD(steps=2, step_size=0.1))
    assert not bool(result.success.any())


def test_what_counts_was_answered_so_before_the_model_wrote_into_it() -> None:
    """Every look adds a grey level to the image, in place; half white is the other class."""

    class Creeping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.flatten(1).mean(1)
            x.data.add_(1 / 255)
            return torch.stack([0.5 - level, level - 0.5], 1)

    x, labels = torch.full((2, 1, 4, 4), 0.45), torch.zeros(2, dtype=torch.int64)
    result = attack(Creeping(), x, labels, PGD(eps=0.2, steps=20, step_size=0.01))
    level = result.adversarial.flatten(1).mean(1)
    assert bool((level[result.success] > 0.5).all())
    assert bool(((result.adversarial - x).abs() <= 0.2).all())
    assert torch.equal(x, torch.full((2, 1, 4, 4), 0.45))
