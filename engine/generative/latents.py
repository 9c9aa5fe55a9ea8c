"""Ways through a latent space: between two points, over the plane of four, and as far as samples
reach. Pure functions of what they are given; draws are in `engine.generative.sampling`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ALIGNED = 1e-6
"""Sine of the angle below which two directions are taken for one line, on which there is no arc."""


def lerp(first: Tensor, second: Tensor, at: Tensor) -> Tensor:
    """Along the straight line: (N, D) and (N, D), `at`, (N,), 0 to 1, to (N, D)."""
    place = at[:, None].to(first)
    return first + place * (second - first)


def slerp(first: Tensor, second: Tensor, at: Tensor) -> Tensor:
    """Along the arc around the origin (Shoemake 1985), by the angle of the two directions, so that
    lengths go from one to the other (White 2016, section 2.1). Of normal latents a straight line
    would leave the shell that all samples lie in. Shapes are those of `lerp`, which it is where
    both lie on one line through the origin, or where one is the origin."""
    a, b = first.double(), second.double()
    sizes = a.norm(dim=1) * b.norm(dim=1)
    cosine = ((a * b).sum(1) / sizes.clamp_min(torch.finfo(a.dtype).tiny)).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    flat = (sine < ALIGNED) | (sizes == 0)
    place = at.to(a)
    below = torch.where(flat, 1.0, sine)
    from_first = torch.where(flat, 1 - place, ((1 - place) * angle).sin() / below)
    from_second = torch.where(flat, place, (place * angle).sin() / below)
    return (from_first[:, None] * a + from_second[:, None] * b).to(first.dtype)


def plane(corners: Tensor, rows: int, columns: int, *, arc: bool = True) -> Tensor:
    """The plane of four corners, (4, D): upper left, upper right, lower left, lower right. (rows *
    columns, D), row by row from the upper left; along arcs, or straight lines."""
    between = slerp if arc else lerp
    across = _steps(columns).to(corners.device)
    down = _steps(rows).to(corners.device)

    def edge(start: int) -> Tensor:
        first, second = (corners[k].expand(columns, -1) for k in (start, start + 1))
        return between(first, second, across)

    upper, lower = (edge(k).repeat(rows, 1) for k in (0, 2))
    return between(upper, lower, down.repeat_interleave(columns))


def _steps(count: int) -> Tensor:
    """0 to 1; of a single step, the middle."""
    return torch.linspace(0, 1, count) if count > 1 else torch.full((1,), 0.5)


def quantile_grid(
    side: int, size: int = 2, distribution: Literal["normal", "uniform"] = "normal"
) -> Tensor:
    """A grid over the first two of `size` latent numbers at which samples lie evenly: each of its
    side * side cells holds as many of them. Float32 (side, side, size): rows from low to high in
    the second number, columns in the first; the others are 0. Of one number alone it is a line,
    the same in each row."""
    quantile = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    along = torch.special.ndtri(quantile) if distribution == "normal" else 2 * quantile - 1
    grid = torch.zeros(side, side, size)
    grid[..., 0] = along.float()
    if size > 1:
        grid[..., 1] = along.float()[:, None]
    return grid
