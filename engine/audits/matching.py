"""The search for images whose gradient is the one that was seen.

`dlg` (Zhu, Liu and Han 2019, algorithm 1) and `idlg` (Zhao, Mopuri and Bilen 2020) bring the
squared distance of the gradients down by L-BFGS; `cosine` (Geiping et al. 2020, section 4) the
angle between them and the images' total variation, by Adam on the sign of the slope, with a step
that is divided by ten after 3/8, 5/8 and 7/8 of the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.audits.observing import Setting, seen
from engine.audits.spec import Inversion

DROPS = (3 / 8, 5 / 8, 7 / 8)
RATES = {"cosine": 0.1, "dlg": 1.0, "idlg": 1.0}
INNER = 20
"""Evaluations of a step of L-BFGS, at most."""


@dataclass(frozen=True, slots=True)
class Guess:
    """The images of a search as they are now, (N, C, H, W) in [0, 1], and how far their gradient is
    from the one that was seen, as the method measures it."""

    images: Tensor
    loss: float


def search(
    spec: Inversion,
    setting: Setting,
    target: list[Tensor],
    labels: Tensor | None,
    classes: int,
    start: Tensor,
    generator: torch.Generator,
) -> Iterator[Guess]:
    """One guess after each step. labels: int64 (N,); None looks for them along. start: where from,
    (N, C, H, W). Ends early where the distance is no number any more."""
    if spec.method == "cosine":
        assert labels is not None
        return _by_angle(spec, setting, target, _soft(labels, classes, start), start)
    return _by_distance(spec, setting, target, labels, classes, start, generator)


def _soft(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).to(like)


def _by_angle(
    spec: Inversion, setting: Setting, target: list[Tensor], labels: Tensor, start: Tensor
) -> Iterator[Guess]:
    images = start.clone().requires_grad_()
    rate = spec.lr or RATES[spec.method]
    optimizer = torch.optim.Adam([images], lr=rate)
    size = _dot(target, target).sqrt().clamp_min(1e-30)
    for step in range(spec.steps):
        drops = sum(step >= share * spec.steps for share in DROPS)
        optimizer.param_groups[0]["lr"] = rate * 0.1**drops
        with torch.enable_grad():
            own = seen(setting, images, labels, create_graph=True)
            length = _dot(own, own).clamp_min(1e-30).sqrt()
            loss = 1 - _dot(own, target) / (length * size)
            whole = loss + spec.tv * total_variation(images) if spec.tv else loss
            (slope,) = torch.autograd.grad(whole, [images])
        value = whole.item()
        if not math.isfinite(value):
            return
        yield Guess(images.detach().clone(), value)
        images.grad = slope.sign()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0.0, 1.0)


def _by_distance(
    spec: Inversion,
    setting: Setting,
    target: list[Tensor],
    labels: Tensor | None,
    classes: int,
    start: Tensor,
    generator: torch.Generator,
) -> Iterator[Guess]:
    images = start.clone().requires_grad_()
    sought = [images]
    logits = torch.randn(len(start), classes, generator=generator).to(start)
    if labels is None:
        sought.append(logits.requires_grad_())
    rate = spec.lr or RATES[spec.method]
    optimizer = torch.optim.LBFGS(sought, lr=rate, max_iter=INNER)

    def closure() -> Tensor:
        with torch.enable_grad():
            said = logits.softmax(1) if labels is None else _soft(labels, classes, start)
            own = seen(setting, images, said, create_graph=True)
            apart = [a - b for a, b in zip(own, target, strict=True)]
            loss = _dot(apart, apart)
            for tensor, slope in zip(sought, torch.autograd.grad(loss, sought), strict=True):
                tensor.grad = slope
        return loss.detach()

    for _ in range(spec.steps):
        before = images.detach().clamp(0.0, 1.0)
        value = float(optimizer.step(closure))  # of the images before the step
        if not math.isfinite(value):
            return
        yield Guess(before, value)
        if torch.equal(before, images.detach().clamp(0.0, 1.0)):
            return
    if math.isfinite(value := float(closure())):
        yield Guess(images.detach().clamp(0.0, 1.0), value)


def _dot(first: list[Tensor], second: list[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    return down + across
