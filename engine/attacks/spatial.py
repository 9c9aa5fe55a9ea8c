"""Rotations and translations, all of a grid of them (Engstrom et al. 2019, section 3, "grid
search"); bilinear, black where nothing comes from.

The farthest go first, and a sample that is broken leaves: fewer questions, the same verdict.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.losses import margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import Spatial


class Turned(NamedTuple):
    """Where the model is asked, (N, Q, C, H, W)."""

    x: Tensor


def spatial(spec: Spatial) -> Method[Turned]:
    """The search as a method for the driver; as many points a question as there are translations
    along one side."""
    grid = _grid(spec.rotations, spec.translations)
    each = spec.translations

    def turn(of: Problem, number: int) -> Turned:
        part = grid[number * each : (number + 1) * each].to(of.ball.centre.device)
        strength = of.ball.eps.view(-1, 1, 1)
        most = part.new_tensor([math.radians(spec.rotation), spec.translation, spec.translation])
        x = moved(of.ball.centre, part * most * strength)
        if of.ball.mask is not None:
            x = x.where(of.ball.mask[:, None], of.ball.centre[:, None])
        return Turned(x)

    def step(of: Problem, _: Turned, __: Answer, number: int) -> Turned:
        return turn(of, number + 1)

    questions = len(grid) // each
    return Method(lambda of: turn(of, 0), step, margin, questions - 1, wants="logits")


def moved(images: Tensor, by: Tensor) -> Tensor:
    """Images (N, C, H, W), each turned and shifted in Q ways, (N, Q, C, H, W). `by`, (N, Q, 3), has
    the angle in radians and the pixels to the right and down that the picture is sampled at."""
    height, width = images.shape[2:]
    down = torch.arange(height, device=images.device) - (height - 1) / 2
    right = torch.arange(width, device=images.device) - (width - 1) / 2
    angle, x, y = (part[..., None, None] for part in by.unbind(-1))
    from_x = angle.cos() * right - angle.sin() * down[:, None] + x
    from_y = angle.sin() * right + angle.cos() * down[:, None] + y
    places = torch.stack([from_x * 2 / max(1, width - 1), from_y * 2 / max(1, height - 1)], dim=-1)
    many = by.shape[1]
    repeated = images.repeat_interleave(many, 0)
    seen = F.grid_sample(repeated, places.flatten(0, 1), align_corners=True).clamp_(0, 1)
    return seen.view(len(images), many, *images.shape[1:])


def _grid(rotations: int, translations: int) -> Tensor:
    """(R * T * T, 3): angle, right and down as shares of the largest, -1 to 1, farthest first."""
    turns, shifts = (torch.linspace(-1, 1, n) * (n > 1) for n in (rotations, translations))
    grid = torch.cartesian_prod(turns, shifts, shifts)
    return grid[grid.abs().sum(1).argsort(descending=True, stable=True)]
