"""Gradient steps that overfit less to the model they are taken on, so that more of what they find
transfers to another. All follow the sign of a rolling sum of gradients, each divided by its mean
absolute entry.

- MI-FGSM: the sum alone (Dong et al. 2018, algorithm 1).
- NI-FGSM: each gradient is taken where the sum would lead to (Lin et al. 2020, algorithm 1).
- DI-FGSM: each gradient is taken at the image shrunk and shifted at random (Xie et al. 2019,
  algorithm 1).
- TI-FGSM: the same, and the gradient is blurred, as if those of shifted images had been averaged
  (Dong et al. 2019, equations 7 and 8).

MI's and NI's papers divide by the l1 norm. Their code, and everybody's since, divides by the mean,
which is the same but for how far NI looks ahead. The point looked ahead to is projected into ball
and box here, since a model is not to be shown what is no image. Images are shrunk bilinearly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.losses import cross_entropy
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.pgd import each_step
from engine.attacks.spec import DIFGSM, MIFGSM, NIFGSM, TIFGSM, Diverse, Momentum
from engine.random import derive, uniform


class Rolling(NamedTuple):
    """Where the model is asked, the image so far, and the rolling sum of gradients."""

    x: Tensor
    image: Tensor
    momentum: Tensor


View = Callable[[Problem, Tensor, int], Tensor]


def mifgsm(spec: MIFGSM) -> Method[Rolling]:
    """MI-FGSM as a method for the driver."""
    return _rolling(spec)


def nifgsm(spec: NIFGSM) -> Method[Rolling]:
    """NI-FGSM as a method for the driver."""
    return _rolling(spec, ahead=True)


def difgsm(spec: DIFGSM) -> Method[Rolling]:
    """DI-FGSM as a method for the driver."""
    return _rolling(spec, view=diversity(spec))


def tifgsm(spec: TIFGSM) -> Method[Rolling]:
    """TI-FGSM as a method for the driver."""
    return _rolling(spec, view=diversity(spec), kernel=spec.kernel)


def _rolling(
    spec: Momentum, *, ahead: bool = False, view: View | None = None, kernel: int = 1
) -> Method[Rolling]:
    def start(of: Problem) -> Rolling:
        centre = of.ball.centre
        return Rolling(centre, centre, torch.zeros_like(centre))

    def step(of: Problem, at: Rolling, answer: Answer, number: int) -> Rolling:
        slope = answer.gradient if kernel == 1 else blurred(answer.gradient, kernel)
        mean = slope.abs().mean((1, 2, 3), keepdim=True)
        momentum = spec.decay * at.momentum + slope / mean.clamp_min(torch.finfo(mean.dtype).tiny)
        length = each_step(of, spec.step_size, spec.steps)
        x = image = of.ball.move(at.image, momentum, length)
        if ahead and number + 1 < spec.steps:
            x = of.ball.project(image + spec.decay * length * momentum)
        return Rolling(x, image, momentum)

    return Method(start, step, cross_entropy, spec.steps, view=view)


def blurred(slope: Tensor, length: int) -> Tensor:
    """Each channel of (N, C, H, W) under a Gaussian kernel of `length` pixels that reaches to three
    deviations, zeros around it. Products with band matrices, for which a CPU needs a twentieth of
    the time of convolutions (28 x 28 pixels; a sixth with 224 x 224)."""
    down, across = (_band(side, length).to(slope) for side in slope.shape[-2:])
    return down @ slope @ across.mT


def _band(side: int, length: int) -> Tensor:
    """Row i holds the kernel around place i, (side, side); an even one begins at its left half."""
    kernel = torch.exp(-(torch.linspace(-3, 3, length) ** 2) / 2)
    kernel /= kernel.sum()
    place = torch.arange(side)
    tap = place - place[:, None] + (length - 1) // 2
    return kernel[tap.clamp(0, length - 1)] * ((tap >= 0) & (tap < length))


def diversity(spec: Diverse) -> View | None:
    """What the model is shown in an image's place: with probability `spec.diversity` the image, in
    a random size, at a random place, on black. Sizes and places are each sample's own."""
    if not spec.diversity:
        return None

    def view(of: Problem, images: Tensor, number: int) -> Tensor:
        draws = uniform(derive(of.seed, "diversity", number), of.ids, (4,))
        rows, inside_rows = _along(images.shape[2], spec.smallest, draws[:, 1], draws[:, 2])
        columns, inside_columns = _along(images.shape[3], spec.smallest, draws[:, 1], draws[:, 3])
        both = torch.broadcast_tensors(columns[:, None, :], rows[:, :, None])
        shown = F.grid_sample(
            images,
            torch.stack(both, dim=-1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        chosen = draws[:, 0, None, None, None] < spec.diversity
        return torch.where(chosen, shown * inside, images)

    return view


def _along(side: int, smallest: float, size: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """For each pixel of a side, (N, side): where in the image it comes from, as -1 to 1, and
    whether it does. `size` and `place` are draws in [0, 1), (N,)."""
    least = int(side * smallest)
    length = least + (size * (side - least)).floor()
    begin = (place * (side - length)).floor()
    pixel = torch.arange(side, device=size.device) - begin[:, None]
    length = length[:, None]
    return 2 * (pixel + 0.5) / length - 1, (pixel >= 0) & (pixel < length)
