"""A picture that is put over a part of every image (Brown, Mane, Roy, Abadi and Gilmer 2017,
"Adversarial Patch", section 2): fitted under expectation over transformations (Athalye et al.
2018), on each image in another place, turned by another angle, in another size.

A pixel is the patch's if its centre lies inside of the outline, and else the image's: nothing is
blended at the edge, so that what was changed can be checked. As far as it fits, the patch lies
inside of the image. It is climbed along the sign of a rolling sum of gradients, as
`engine.attacks.universal`.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.fitted import Design, ascend
from engine.attacks.spec import Patch
from engine.errors import BadInput
from engine.random import derive, uniform

Share = TypeVar("Share", float, Tensor)

GREY = 0.5
"""What it is made of at the start."""


def patch(spec: Patch) -> Design:
    """The patch as a design. Its pattern is a square picture, (C, S, S)."""

    def start(shape: tuple[int, ...], device: torch.device, _: int) -> Tensor:
        channels, height, width = shape
        side = side_of(spec.eps, spec, height, width)
        if side > min(height, width) + 1e-9:
            most = (min(height, width) / side) ** 2 * spec.eps
            raise BadInput(
                f"the patch is larger than the image: a {spec.shape} of {spec.eps:g} of an image "
                f"of {height} x {width} pixels is {side:.4g} pixels high; take an area of at most "
                f"{math.floor(most * 1000) / 1000:g}"
            )
        pixels = max(1, math.ceil(side))
        return torch.full((channels, pixels, pixels), GREY, device=device)

    def put(pattern: Tensor, images: Tensor, eps: Tensor, ids: Tensor, seed: int) -> Tensor:
        at = seen_from(images, eps, ids, seed)
        whole = pattern.expand(len(images), *pattern.shape)
        shown = F.grid_sample(whole, at, padding_mode="border", align_corners=False)
        return shown.where(inside(at), images)

    def covers(images: Tensor, eps: Tensor, ids: Tensor, seed: int) -> Tensor:
        return inside(seen_from(images, eps, ids, seed))

    def seen_from(images: Tensor, eps: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Where each pixel's centre lies in the patch, whose sides are at -1 and 1; x and y,
        (N, H, W, 2)."""
        height, width = images.shape[2:]
        draws = uniform(derive(seed, "place"), ids.to(images.device), (4, 1, 1))
        turn, shrink, right, down = draws.unbind(1)
        angle = (2 * turn - 1) * math.radians(spec.rotation)
        half = side_of(eps[:, 0], spec, height, width) / 2
        half = (half * (1 - shrink * (1 - spec.smallest))).clamp_min(1e-9)
        reach = half
        if spec.shape == "box":
            reach = half * (angle.cos().abs() + angle.sin().abs())
        x = _along(width, reach, right, spec.place, "left", "right")
        y = _along(height, reach, down, spec.place, "top", "bottom")
        x = torch.arange(width, device=images.device) + 0.5 - x
        y = torch.arange(height, device=images.device)[:, None] + 0.5 - y
        u = (angle.cos() * x + angle.sin() * y) / half
        v = (angle.cos() * y - angle.sin() * x) / half
        return torch.stack([u, v], dim=-1)

    def inside(at: Tensor) -> Tensor:
        """bool (N, 1, H, W)."""
        if spec.shape == "box":
            return (at.abs().amax(-1) <= 1)[:, None]
        return ((at * at).sum(-1) <= 1)[:, None]

    def move(pattern: Tensor, up: Tensor, left: float) -> Tensor:
        return (pattern + spec.step_size * left * up.sign()).clamp(0, 1)

    return Design(start, put, move, lambda run: ascend(run, spec.clip), covers=covers, signed=False)


def side_of(share: Share, spec: Patch, height: int, width: int) -> Share:
    """Side of a box, which is square, or diameter of a circle, that covers this share of an image;
    in pixels."""
    whole = height * width * (4 / math.pi if spec.shape == "circle" else 1.0)
    side: Share = (share * whole) ** 0.5
    return side


def _along(length: int, reach: Tensor, draw: Tensor, place: str, first: str, last: str) -> Tensor:
    """The centre of a patch along a side of the image: anywhere, at one of the ends, or amid."""
    room = (length / 2 - reach).clamp_min(0)
    if place == "anywhere":
        return length / 2 + (2 * draw - 1) * room
    if first in place:
        return length / 2 - room
    return length / 2 + room if last in place else torch.full_like(room, length / 2)
