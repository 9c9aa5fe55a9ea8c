"""MI-, NI-, DI- and TI-FGSM against their papers' loops, written plainly. On 500 MNIST images and
two nets, BIM, MI-FGSM and TI-FGSM without diversity break exactly the samples that torchattacks
3.5.1 breaks, at the same settings; NI-FGSM breaks those and more: points on the way count,
and those ahead are projected."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import BIM, DIFGSM, MIFGSM, NIFGSM, TIFGSM, perturb
from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.method import Problem
from engine.attacks.momentum import blurred, diversity
from engine.events import drain
from tests.attacks.models import conv, images, right_labels

EPS, STEPS = 0.06, 6


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def plain(model: nn.Module, x: Tensor, y: Tensor, decay: float, ahead: bool, kernel: int) -> Tensor:
    at, momentum = x, torch.zeros_like(x)
    length = EPS / STEPS
    for _ in range(STEPS):
        where = at + decay * length * momentum if ahead else at
        if ahead:
            where = (x + (where - x).clamp(-EPS, EPS)).clamp(0, 1)
        gradient = slope(model, where, y)
        if kernel > 1:
            gradient = naive_blur(gradient, kernel)
        momentum = decay * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        at = (x + (at + length * momentum.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    return at


def naive_blur(gradient: Tensor, kernel: int) -> Tensor:
    """The two-dimensional sum, entry by entry."""
    along = torch.exp(-(torch.linspace(-3, 3, kernel) ** 2) / 2)
    weights = along[:, None] * along
    weights = weights / weights.sum()
    reach = kernel // 2
    out = torch.zeros_like(gradient)
    height, width = gradient.shape[2:]
    for i in range(height):
        for j in range(width):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    if 0 <= i + a < height and 0 <= j + b < width:
                        weight = weights[reach + a, reach + b]
                        out[:, :, i, j] += weight * gradient[:, :, i + a, j + b]
    return out


@pytest.mark.parametrize(
    ("spec", "decay", "ahead", "kernel"),
    [
        (BIM(eps=EPS, steps=STEPS), 0.0, False, 1),
        (BIM(eps=EPS, steps=STEPS, step_size=EPS / STEPS), 0.0, False, 1),
        (MIFGSM(eps=EPS, steps=STEPS), 1.0, False, 1),
        (MIFGSM(eps=EPS, steps=STEPS, decay=0.5), 0.5, False, 1),
        (NIFGSM(eps=EPS, steps=STEPS), 1.0, True, 1),
        (DIFGSM(eps=EPS, steps=STEPS, decay=1.0, diversity=0.0), 1.0, False, 1),
        (TIFGSM(eps=EPS, steps=STEPS, diversity=0.0, kernel=5), 0.0, False, 5),
        (TIFGSM(eps=EPS, steps=STEPS, decay=1.0, diversity=0.0, kernel=3), 1.0, False, 3),
    ],
)
def test_agrees_with_the_papers_loop(
    spec: BIM | MIFGSM, decay: float, ahead: bool, kernel: int
) -> None:
    model, x = conv(), images(40)
    y = right_labels(model, x)
    expected = plain(model, x, y, decay, ahead, kernel)
    fixed = drain(perturb(model, x, y, spec, seed=0, ids=torch.arange(40), early_exit=False))
    near = (fixed.adversarial - expected).abs().flatten(1).amax(1) < 2e-6
    assert int(near.sum()) >= 39  # the sign of a gradient of nearly zero is rounding's
    early = drain(perturb(model, x, y, spec, seed=0, ids=torch.arange(40)))
    assert bool(early.success[near & (right_labels(model, expected) != y)].all())
    assert 0 < int(early.success.sum()) < 40


def test_each_radius_is_divided_into_steps() -> None:
    model, x = conv(), images(12)
    y = right_labels(model, x)
    eps = torch.linspace(0.01, 0.12, 12)
    result = drain(
        perturb(model, x, y, MIFGSM(), seed=0, ids=torch.arange(12), eps=eps, early_exit=False)
    )
    torch.testing.assert_close(result.norm.float(), eps)


def problem(x: Tensor) -> Problem:
    around = ball("linf", x, torch.full((len(x),), 0.1))
    labels = torch.zeros(len(x), dtype=torch.int64)
    ids = torch.arange(len(x)) * 3
    return Problem(around, Goal(labels, None, False, 0), ids, x.new_zeros(len(x), 0), seed=4)


def test_what_is_shown_is_the_image_shrunk_and_padded() -> None:
    x = torch.rand(60, 2, 9, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    view = diversity(DIFGSM(diversity=0.6, smallest=0.5))
    assert view is not None
    shown = view(problem(x), x, 3)
    unchanged = 0
    sizes = set()
    for image, seen in zip(x, shown, strict=True):
        if torch.equal(image, seen):
            unchanged += 1
            continue
        rows = seen[0].sum(1).nonzero().flatten()
        columns = seen[0].sum(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        sizes.add((height, width))
        small = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)
        left, top = int(columns[0]), int(rows[0])
        padding = (left, 12 - width - left, top, 9 - height - top)
        torch.testing.assert_close(seen, F.pad(small, padding)[0], atol=1e-5, rtol=0)
    assert 10 < unchanged < 40
    assert sizes <= {(4 + i, 6 + j) for i in range(5) for j in range(6)}
    assert len(sizes) > 3


def test_views_belong_to_the_sample_and_the_step() -> None:
    x = images(20)
    view = diversity(DIFGSM(diversity=1.0, smallest=0.5))
    assert view is not None
    keep = torch.tensor([7, 2])
    assert torch.equal(view(problem(x), x, 1)[keep], view(problem(x)[keep], x[keep], 1))
    assert not torch.equal(view(problem(x), x, 1), view(problem(x), x, 2))
    assert diversity(DIFGSM(diversity=0.0)) is None


def test_a_blur_keeps_what_is_even_and_mixes_no_channels() -> None:
    even = torch.ones(1, 2, 11, 11)
    even[:, 1] = 0
    smooth = blurred(even, 5)
    torch.testing.assert_close(smooth[0, 0, 2:-2, 2:-2], torch.ones(7, 7))
    assert not smooth[0, 1].any()
    torch.testing.assert_close(blurred(images(2), 5), naive_blur(images(2), 5))


@pytest.mark.parametrize("length", [1, 2, 4, 15, 40])
def test_a_blur_is_a_convolution(length: int) -> None:
    """Of any length, also of more pixels than there are; not square."""
    along = torch.exp(-(torch.linspace(-3, 3, length) ** 2) / 2)
    weights = (along[:, None] * along / along.sum() ** 2)[None, None]
    slope = torch.randn(3, 1, 9, 14, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(slope, weights, padding="same")
    torch.testing.assert_close(blurred(slope, length), expected)
