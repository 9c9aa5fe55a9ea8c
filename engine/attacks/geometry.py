"""Norm balls around clean images, cut off at the box [0, 1]: what differs between norms.

A ball knows four things: a random point of it, the step direction that a gradient asks for, the
projection onto ball and box, and the size of a perturbation. Everything is per sample: radii may
differ, and `ball[keep]` is the ball of some of the samples.

Rounding is dealt with here, once. Every projected point lies inside ball and box as exact real
arithmetic on its float32 values measures it, not merely up to a tolerance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attacks.spec import Norm
from engine.random import derive, normal, uniform

ORDERS: dict[Norm, float] = {"linf": math.inf, "l2": 2.0}
"""What torch calls the norms."""

_ROUNDS = 4
"""Secants of the l2 projection, which stays inside the ball after any of them."""


@dataclass(frozen=True, slots=True)
class Ball(ABC):
    """All images within `eps` of `centre`, and inside the box.

    centre: float32 (N, C, H, W) in [0, 1]. eps: float32 (N, 1, 1, 1), >= 0, in image units;
    infinite where only the box bounds. mask: bool (N, C, H, W), where a point of the ball may
    differ from the centre; None is everywhere.
    """

    centre: Tensor
    eps: Tensor
    mask: Tensor | None

    @abstractmethod
    def __getitem__(self, keep: Tensor) -> Ball:
        """The ball of the samples at `keep`, int64 (M,)."""

    @abstractmethod
    def random(self, seed: int, ids: Tensor) -> Tensor:
        """A random point of each ball, (N, C, H, W). Depends on (seed, id) of a sample alone."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step, in this norm, along which a loss of this gradient rises fastest.

        Zero where the gradient is zero. A new tensor.
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The point of ball and box that is nearest to `x`, (N, C, H, W), as a new tensor."""

    def move(self, x: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """`x`, moved by `length` (a number, or (N, 1, 1, 1)) uphill and projected."""
        return self.project(self.direction(gradient).mul_(length).add_(x))

    @abstractmethod
    def size(self, x: Tensor) -> Tensor:
        """Distance of `x` from the centre in this norm, (N,), float64 where the device has it."""

    def contains(self, x: Tensor) -> Tensor:
        """Whether `x` lies inside ball, box and mask, bool (N,)."""
        inside = (x >= 0) & (x <= 1)
        if self.mask is not None:
            inside &= self.mask | (x == self.centre)
        return inside.flatten(1).all(1) & (self.size(x) <= self.eps.flatten())

    def _masked(self, change: Tensor) -> Tensor:
        return change if self.mask is None else change * self.mask

    def _mask_of(self, keep: Tensor) -> Tensor | None:
        return None if self.mask is None else self.mask[keep]


@dataclass(frozen=True, slots=True)
class LinfBall(Ball):
    """No pixel changes by more than eps. Ball, box and mask are one box, from `low` to `high`."""

    low: Tensor
    high: Tensor

    def __getitem__(self, keep: Tensor) -> LinfBall:
        mask = self._mask_of(keep)
        return LinfBall(self.centre[keep], self.eps[keep], mask, self.low[keep], self.high[keep])

    def random(self, seed: int, ids: Tensor) -> Tensor:
        draws = uniform(derive(seed, "start"), ids, self.centre.shape[1:])
        return self.project(self.centre + (2 * draws - 1) * self.eps)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def size(self, x: Tensor) -> Tensor:
        return largest(_change(x, self.centre)).flatten()


@dataclass(frozen=True, slots=True)
class L2Ball(Ball):
    """The Euclidean length of the change is at most eps."""

    def __getitem__(self, keep: Tensor) -> L2Ball:
        return L2Ball(self.centre[keep], self.eps[keep], self._mask_of(keep))

    def random(self, seed: int, ids: Tensor) -> Tensor:
        """Uniform in the ball (a normal direction, a radius of U^(1/D)), then projected."""
        shape = self.centre.shape[1:]
        along = self.direction(normal(derive(seed, "start"), ids, shape))
        radius = uniform(derive(seed, "radius"), ids, (1, 1, 1)) ** (1 / math.prod(shape))
        return self.project(along.mul_(radius * self.eps).add_(self.centre))

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = self._masked(gradient)
        # Divided by the largest entry first: squares of small float32 gradients vanish.
        tiny = torch.finfo(gradient.dtype).tiny
        scaled = gradient / largest(gradient).clamp_min(tiny)
        return scaled.div_(_length(scaled).clamp_min(tiny))

    def project(self, x: Tensor) -> Tensor:
        """Projection onto ball and box together, not onto the ball first and the box second,
        which would give away length where pixels are at 0 or 1 (most of MNIST's are).

        The nearest point is clip(centre + s * change) for the largest s <= 1 that stays in the
        ball (the conditions of Karush, Kuhn and Tucker). The square of its distance is a concave,
        piecewise linear function of u = s^2, so secants approach the u sought from below and
        never pass it; it is exact as soon as two of them end on the same piece.
        """
        change = self._masked(x - self.centre)
        low, high = -self.centre, 1 - self.centre
        # What float32 rounds off when the point is formed is taken from the radius beforehand.
        lost = math.sqrt(self.centre.shape[1:].numel()) * 2.0**-25
        radius = (self.eps * (1 - 4e-6) - lost).clamp_min(0)
        wanted = radius**2
        tiny = torch.finfo(x.dtype).tiny
        slope = _length(change) ** 2
        u = torch.zeros_like(slope)
        squared = torch.zeros_like(slope)
        cut = torch.empty_like(change)
        for _ in range(_ROUNDS):
            further = ((wanted - squared) / slope.clamp_min(tiny)).clamp_min(0)
            last, u = u, (u + further).clamp_max(1)
            torch.mul(change, u.sqrt(), out=cut).clamp_(low, high)
            before, squared = squared, _length(cut) ** 2
            # Where u no longer moves, differences are rounding and the old slope is better.
            moved = u - last > 1e-4 * u
            slope = torch.where(moved, (squared - before) / (u - last), slope)
        # Shrinking keeps a change inside the box, and this one inside the ball whatever rounds.
        shrink = (radius / squared.sqrt().clamp_min(tiny)).clamp_max_(1)
        return cut.mul_(shrink).add_(self.centre).clamp_(0, 1)

    def size(self, x: Tensor) -> Tensor:
        return _length(_change(x, self.centre)).flatten()


def ball(norm: Norm, centre: Tensor, eps: Tensor, mask: Tensor | None = None) -> Ball:
    """The ball of radius `eps`, float64 or float32 (N,), around `centre`, (N, C, H, W) in [0, 1],
    open where `mask`, bool (N, C, H, W), is.

    A radius is rounded down to float32.
    """
    radius = eps.to(torch.float32)
    radius = radius.where(radius <= eps, torch.nextafter(radius, torch.zeros_like(radius)))
    radius = radius.to(centre.device).view(-1, 1, 1, 1)
    if norm == "linf":
        low = _inward(centre, -radius).clamp_min(0)
        high = _inward(centre, radius).clamp_max(1)
        if mask is not None:
            low, high = low.where(mask, centre), high.where(mask, centre)
        return LinfBall(centre, radius, mask, low, high)
    return L2Ball(centre, radius, mask)


def _inward(centre: Tensor, offset: Tensor) -> Tensor:
    """centre + offset, rounded towards the centre (the error of a float sum is exact in floats:
    Knuth 1969, section 4.2.2, theorem B)."""
    total = centre + offset
    part = total - centre
    error = (centre - (total - part)) + (offset - part)
    beyond = error * offset.sign() < 0
    return torch.where(beyond, torch.nextafter(total, centre), total)


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each sample, (N, 1, 1, 1); NaN if it holds one.

    On a CPU this takes a tenth of the time of torch's vector_norm with order inf.
    """
    return x.abs().amax((1, 2, 3), keepdim=True)


def _length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, 2, dim=(1, 2, 3), keepdim=True)
    return length


def _change(x: Tensor, centre: Tensor) -> Tensor:
    """x - centre, in float64 where the device has it."""
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    return x.to(exact) - centre.to(exact)
