"""How a model is asked: gradients of first convolutions without oneDNN, which stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.attacks import DIFGSM, FAB, FGSM, PGD, Boundary, Square, attack
from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.method import Problem
from engine.attacks.oracle import Oracle, _Direct, _WithoutOneDNN
from engine.attacks.spec import AttackSpec
from engine.errors import BadInput
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


class First(nn.Module):
    """A convolution, and what a test does with what comes out of it."""

    def __init__(self, then: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3), nn.Linear(3, 4)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.then(self.first, x).mean((2, 3)))


def in_place(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.relu(layer(x), inplace=True)


def checkpointed(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return checkpoint(lambda x: F.relu(layer(x)), x, use_reentrant=False)


def adapted(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """With a weight that was adapted to these very images."""
    out = layer(x)
    (slope,) = torch.autograd.grad(out.square().sum(), layer.weight, create_graph=True)
    return F.conv2d(x, layer.weight - 0.01 * slope)


def ahead(layer: nn.Conv2d, x: Tensor) -> Tensor:
    with fwAD.dual_level():
        return fwAD.unpack_dual(layer(fwAD.make_dual(x, torch.ones_like(x)))).tangent + layer(x)


def made_of_it(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """With a weight, and then a bias, that depend on the images."""
    scale = x.mean()
    return F.conv2d(x, scale * layer.weight, layer.bias) + F.conv2d(
        x, layer.weight, scale.expand(3)
    )


@pytest.mark.parametrize("then", [in_place, checkpointed, adapted, ahead, made_of_it])
def test_whatever_follows_a_direct_convolution_has_torchs_gradient(then: Any) -> None:
    model, x = First(then), images(4)
    labels = torch.zeros(4, dtype=torch.int64)
    oracle = Oracle(model, seed=0, device=x.device, bf16=False)
    of = Problem(
        ball("linf", x, torch.full((4,), 0.1)),
        Goal(labels, None, False, 3, 1),
        torch.arange(4),
        x.new_zeros((4, 0)),
        0,
    )
    (method,) = PGD(eps=0.1).rounds()
    found = oracle.ask(method, of, method.start(of)._replace(x=x), 0, "gradient").gradient
    at = x.clone().requires_grad_()
    loss = F.cross_entropy(model(at), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, at)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_no_gradient_of_a_weight_is_computed_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    backward = _WithoutOneDNN.backward

    def spy(ctx: Any, slope: Tensor) -> Any:
        found = backward(ctx, slope)
        asked.append(found[1] is not None)
        return found

    monkeypatch.setattr(_WithoutOneDNN, "backward", staticmethod(spy))
    model, x = conv(), images(4)
    attack(model, x, right_labels(model, x), FGSM(eps=0.1))
    assert asked
    assert not any(asked)


class Writing(nn.Module):
    """Writes into the images from its call `since` on, `unseen` by torch if so wished."""

    def __init__(self, model: nn.Module, since: int, unseen: bool = False) -> None:
        super().__init__()
        self.model, self.left, self.unseen = model, since, unseen

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            return self.model(x.mul(0.5))
        if self.unseen:
            x.data.mul_(0.5)
            return self.model(x)
        return self.model(x.mul_(0.5))


@pytest.mark.parametrize(
    "spec", [PGD(eps=0.1, steps=3), Square(norm="l2", eps=1.0, steps=50), Boundary(steps=20)]
)
def test_a_model_that_writes_into_its_input_is_given_copies(spec: AttackSpec) -> None:
    model, x = conv(), images(8)
    labels = right_labels(Writing(model, 10**9), x)
    results = [attack(Writing(model, since), x.clone(), labels, spec) for since in (0, 10**9)]
    for name in ("adversarial", "success", "norm"):
        assert torch.equal(*(getattr(result, name) for result in results))
    change = (results[0].adversarial.double() - x.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2}[spec.norm]
    torch.testing.assert_close(results[0].norm, torch.linalg.vector_norm(change, order, dim=1))


def test_a_model_that_writes_unseen_is_given_copies_too() -> None:
    x, spec = images(8), Square(norm="l2", eps=1.0, steps=50)
    labels = right_labels(Writing(conv(), 10**9), x)
    ours = attack(Writing(conv(), 0, unseen=True), x.clone(), labels, spec)
    plain = attack(Writing(conv(), 10**9), x, labels, spec)
    assert torch.equal(ours.adversarial, plain.adversarial)
    assert torch.equal(ours.norm, plain.norm)


def test_a_model_that_begins_to_write_into_its_input_is_refused() -> None:
    model, x = conv(), images(8)
    spec = Square(eps=0.01, steps=50)
    with pytest.raises(BadInput, match="wrote into the images"):
        attack(Writing(model, 3), x, right_labels(Writing(model, 10**9), x), spec)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eps": 0.1}, "eps must be 4 radii"),
        ({"eps": [0.1] * 4}, "eps must be 4 radii"),
        ({"eps": torch.zeros(4, dtype=torch.complex64)}, "eps must be 4 radii"),
        ({"images": torch.rand(4, 1, 12, 12).to_sparse()}, "dense tensor"),
        ({"images": torch.rand(4, 1, 12, 12, device="meta")}, "dense tensor"),
        ({"labels": torch.zeros(4, dtype=torch.uint16)}, "labels must be 4 integers"),
    ],
)
def test_what_is_no_such_tensor_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    x = torch.rand(4, 1, 12, 12)
    asked = {"images": x, "labels": torch.zeros(4, dtype=torch.int64), "spec": FGSM(eps=0.1)}
    with pytest.raises(BadInput, match=words):
        attack(conv(), **{**asked, **given})


def test_a_frozen_script_is_attacked_as_it_is() -> None:
    model, x = conv().eval(), images(4)
    labels = right_labels(model, x)
    script = torch.jit.freeze(torch.jit.trace(model, x))
    ours, its = (attack(net, x, labels, FGSM(eps=0.1)) for net in (model, script))
    assert torch.equal(ours.success, its.success)


def test_a_model_that_switches_its_own_mode_has_it_back() -> None:
    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = conv()

        def forward(self, x: Tensor) -> Tensor:
            self.train()
            return self.model(x)

    model, x = Switching().eval(), images(4)
    attack(model, x, right_labels(conv(), x), FGSM(eps=0.1))
    assert not any(module.training for module in model.modules())


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
