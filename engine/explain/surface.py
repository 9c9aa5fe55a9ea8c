"""The loss around one sample, on a plane: the adversarial direction against a random one.

A point (s, t) of the plane is the image clean + s * along + t * across. Both directions have size 1
in the attack's own norm, so that s and t are distances in the units of eps: the adversarial image
lies at (its distance, 0), and the ball's edge crosses both axes at eps. `across` is drawn from a
seed and orthogonal to `along`. Points of the plane need not be images: values may leave [0, 1].
(Goodfellow et al. 2015, arXiv 1412.6544, is where such slices come from.)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.geometry import ORDERS
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.spec import Norm
from engine.errors import BadInput
from engine.explain.pair import Pair
from engine.random import derive

SIDE = 41
"""Points along an edge; odd, so that the clean image is one of them."""

STRIDES = (8, 4, 2, 1)
"""From coarse to fine: first every 8th point of every 8th row, then what is between them."""

REACH = 1.25
"""Half an edge, in the larger of eps and the adversarial image's distance. With 41 points, that
image then is one of them where it lies on the ball's edge."""

BURST = 0.08
"""Seconds after which a survey stops at what it has."""

AT_ONCE = 2**19
"""Values of the images that go through the model together."""

UNCHANGED = (
    "the attack left this sample as it was, so there is no adversarial direction to look along"
)


@dataclass(frozen=True, slots=True)
class Plane:
    """origin, along, across: float32 (C, H, W). distance: of the adversarial image, in `norm`
    (linf, l2 or l1; l2 where the attack counts pixels). reach: of the grid, to either side."""

    origin: Tensor
    along: Tensor
    across: Tensor
    distance: float
    reach: float
    norm: Norm

    def at(self, s: Tensor, t: Tensor) -> Tensor:
        """The images at points (s, t), each (N,), as (N, C, H, W)."""
        s, t = s.view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)
        return self.origin + s * self.along + t * self.across

    def ball(self, eps: float, corners: int = 360) -> list[tuple[float, float]]:
        """Where the plane cuts the ball's edge: points (s, t), in turn."""
        angles = torch.arange(corners, dtype=torch.float64) * (2 * math.pi / corners)
        sides = torch.stack([angles.cos(), angles.sin()])
        both = torch.stack([self.along, self.across]).flatten(1).cpu()
        radii = torch.cat(
            [
                eps / torch.linalg.vector_norm(part.T @ both.double(), ORDERS[self.norm], dim=1)
                for part in sides.split(36, 1)
            ]
        )
        cut = (sides * radii).T.tolist()
        return [(s, t) for s, t in cut]


@dataclass(frozen=True, slots=True)
class Survey:
    """Of some points of the grid, each (N,): row (of t, upwards) and column (of s), int64; the
    stride of their level; cross-entropy of the label, by how much its logit leads the best other
    one, and the predicted class (-1 where logits are not finite). done: points of all so far."""

    row: Tensor
    column: Tensor
    stride: Tensor
    loss: Tensor
    margin: Tensor
    prediction: Tensor
    done: int


def plane_through(pair: Pair, *, seed: int) -> Plane:
    """The plane through both images of a pair. Raises BadInput if they are the same."""
    norm: Norm = pair.norm if pair.norm in ("linf", "l2", "l1") else "l2"
    order = ORDERS[norm]
    origin = pair.clean[0]
    change = (pair.adversarial[0] - origin).double()
    distance = float(torch.linalg.vector_norm(change, order))
    if distance == 0:
        raise BadInput(UNCHANGED)
    generator = torch.Generator().manual_seed(derive(seed, "surface"))
    drawn = torch.randn(origin.shape, generator=generator, dtype=torch.float64).to(change.device)
    if norm == "linf":
        drawn = drawn.sign()  # as large in every pixel, which fills the ball as attacks do
    drawn = drawn - change * (drawn * change).sum() / change.square().sum()
    size = float(torch.linalg.vector_norm(drawn, order))
    if size < 1e-9:
        raise BadInput("an image of one value has no second direction to look along")
    eps = pair.eps or 0.0
    return Plane(
        origin,
        (change / distance).float(),
        (drawn / size).float(),
        distance,
        REACH * max(distance, eps if norm == pair.norm else 0.0),
        norm,
    )


def grid_order(side: int = SIDE) -> Tensor:
    """All points of the grid, coarse to fine, int64 (side * side, 3): row, column, stride."""
    rows, columns = (
        part.flatten() for part in torch.meshgrid(*2 * [torch.arange(side)], indexing="ij")
    )
    stride = torch.full_like(rows, STRIDES[-1])
    for coarser in reversed(STRIDES[:-1]):
        stride[(rows % coarser == 0) & (columns % coarser == 0)] = coarser
    order = torch.argsort(stride, descending=True, stable=True)
    return torch.stack([rows, columns, stride], 1)[order]


def survey(
    model: nn.Module, plane: Plane, label: int, *, start: int = 0, seconds: float = BURST
) -> Survey:
    """Ask the model at the grid's points from number `start` on (coarse to fine), until all are
    known or `seconds` have gone; some at least. Raises BadInput if the label is no class."""
    order = grid_order()[start:]
    device = plane.origin.device
    oracle = Oracle(model, seed=derive(start, "surface"), device=device, bf16=False)
    most = min(max(1, AT_ONCE // plane.origin.numel()), 128)
    begun, found, done = time.perf_counter(), [], 0
    middle, size = (SIDE - 1) / 2, 16
    while done < len(order):
        part = order[done : done + min(size, most)]
        asked = time.perf_counter()
        t, s = ((part[:, :2].T - middle) / middle * plane.reach).float().to(device)
        logits = oracle.look(plane.at(s, t))
        if not 0 <= label < logits.shape[1]:
            raise BadInput(f"the model has {logits.shape[1]} classes, and {label} is none of them")
        found.append(logits.cpu())
        done += len(part)
        now = time.perf_counter()
        if now - begun > seconds:
            break
        if now - asked < seconds / 8:  # a slow model is asked about few points at a time
            size *= 2
    logits = torch.cat(found)
    row, column, stride = order[:done].T
    of = torch.full((len(logits),), label)
    others = logits.scatter(1, of[:, None], float("-inf")).amax(1)
    return Survey(
        row,
        column,
        stride,
        F.cross_entropy(logits, of, reduction="none"),
        logits[:, label] - others,
        predicted(logits),
        start + done,
    )
