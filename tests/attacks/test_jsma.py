"""JSMA against all pairs, tried one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.attacks import JSMA, attack
from engine.attacks.jsma import best_pair
from engine.errors import BadInput
from tests.attacks.models import CLASSES, conv, images, right_labels


@pytest.mark.parametrize("size", [2, 5, 40, 150])
def test_the_best_pair_is_the_best_of_all(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    first = torch.randn(40, size, generator=generator).mul(4).round()  # with equal ones among them
    second = torch.randn(40, size, generator=generator).mul(4).round() - 0.8 * first
    room = torch.rand(40, size, generator=generator) > 0.3
    pair, helps = best_pair(first, second, room)
    gain = first[:, :, None] + first[:, None]
    loss = second[:, :, None] + second[:, None]
    able = (gain > 0) & (loss > 0) & room[:, :, None] & room[:, None] & ~torch.eye(size).bool()
    score = torch.where(able, gain * loss, 0)
    top = score.flatten(1).amax(1)
    assert torch.equal(helps, top > 0)
    mine = score[torch.arange(40), pair[:, 0], pair[:, 1]]
    assert torch.equal(mine[helps], top[helps])


def plain(model: nn.Module, x: Tensor, target: int, theta: float, gamma: float) -> Tensor:
    """Algorithms 2 and 3 for one image, (1, C, H, W)."""
    flat = x.clone().flatten()
    sign = 1 if theta > 0 else -1
    for _ in range(-int(-gamma * len(flat) // 2)):
        if int(model(flat.view_as(x)).argmax()) == target:
            break
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z.view_as(x))[0], flat)
        a = sign * jacobian[target]
        b = sign * (jacobian.sum(0) - jacobian[target])
        room = flat < 0.99 if theta > 0 else flat > 0.01
        best, pair = 0.0, None
        for p in room.nonzero().flatten().tolist():
            for q in room.nonzero().flatten().tolist():
                gain, loss = float(a[p] + a[q]), float(b[p] + b[q])
                if p < q and gain > 0 > loss and -gain * loss > best:
                    best, pair = -gain * loss, [p, q]
        if pair is None:
            break
        flat[pair] = (flat[pair] + theta).clamp(0, 1)
    return flat.view_as(x)


@pytest.mark.parametrize("theta", [1.0, -0.5])
def test_as_in_the_paper_sample_by_sample(theta: float) -> None:
    model, x = conv(), images(8)
    y = right_labels(model, x)
    targets = (y + 1) % CLASSES
    result = attack(model, x, y, JSMA(targeted=True, theta=theta, gamma=0.3), targets=targets)
    assert result.success.any()
    for i in range(8):
        expected = plain(model, x[i : i + 1], int(targets[i]), theta, 0.3)
        torch.testing.assert_close(result.adversarial[i], expected[0], rtol=0, atol=1e-6)


def test_gamma_bounds_the_changes() -> None:
    model, x = conv(), images(20)
    result = attack(model, x, right_labels(model, x), JSMA(gamma=0.1))
    assert int(result.norm.max()) <= 4  # two pairs of 36 values


def test_more_aims_only_help() -> None:
    model, x = conv(), images(30)
    y = right_labels(model, x)
    one, three = (attack(model, x, y, JSMA(aims=n)) for n in (1, 3))
    assert (one.success <= three.success).all()
    both = one.success & three.success
    assert (three.norm[both] <= one.norm[both]).all()


def test_no_change_is_refused() -> None:
    model, x = conv(), images(2)
    with pytest.raises(BadInput, match="theta"):
        attack(model, x, right_labels(model, x), JSMA(theta=0.0))
