"""Sets of points: where their modes lie, and how points are drawn from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.spec.points import Drawn, Grid, Moons, PointsSpec, Ring, Spiral

PIECES = 20
"""Modes that the length of a curve is cut into."""

FINE = 2000
"""Centres along a curve."""


@dataclass(frozen=True, slots=True)
class PointSet:
    """A mixture of Gaussians of one deviation around `centres`, (M, 2), which are drawn alike.

    Of a curve the centres lie densely along it. `modes`, int64 (M,), says which mode each belongs
    to, of `count`; `labels`, int64 (M,), which class, of which `classes` are the names (none: the
    set has no classes). `dimensions`: how many a mode spreads in (1 around a curve). `centre`,
    (2,), and `unit` bring all centres between -1 and 1, and all of the plane with them alike.
    """

    centres: Tensor
    sigma: float
    modes: Tensor
    count: int
    labels: Tensor
    classes: tuple[str, ...]
    dimensions: int
    centre: Tensor
    unit: float

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` points, float32 (count, 2), and their labels, int64 (count,), on the CPU."""
        which = torch.randint(len(self.centres), (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        return self.centres[which] + self.sigma * noise, self.labels[which]

    def inside(self, points: Tensor) -> Tensor:
        """Points in units in which the centres lie between -1 and 1."""
        return (points - self.centre.to(points.device)) / self.unit

    def outside(self, points: Tensor) -> Tensor:
        """The opposite of `inside`."""
        return points * self.unit + self.centre.to(points.device)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """What a picture shows: left, right, lower, upper."""
        reach = 1.25 * self.unit + 3 * self.sigma
        x, y = self.centre.tolist()
        return (x - reach, x + reach, y - reach, y + reach)

    @property
    def mode_names(self) -> tuple[str, ...]:
        return tuple(str(place + 1) for place in range(self.count))


def point_set(spec: PointsSpec) -> PointSet:
    """The set that `spec` describes."""
    match spec:
        case Ring():
            angle = torch.arange(spec.modes, dtype=torch.float64) * (2 * math.pi / spec.modes)
            return _blobs(spec.radius * torch.stack([angle.cos(), angle.sin()], 1), spec.sigma)
        case Grid():
            along = torch.arange(spec.side, dtype=torch.float64) - (spec.side - 1) / 2
            return _blobs(spec.spacing * torch.cartesian_prod(along, along), spec.sigma)
        case Drawn():
            points = torch.tensor(spec.points, dtype=torch.float64)
            return _blobs(points, spec.sigma, classes=False)
        case Spiral():
            # Its length grows with the square of the angle: evenly over it is evenly over that.
            share = ((torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE).sqrt()
            angle = share * (2 * math.pi * spec.turns)
            curve = share[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
            modes = torch.arange(FINE) * PIECES // FINE
            return _set(curve, spec.sigma, modes, torch.zeros(FINE, dtype=torch.int64), (), 1)
        case Moons():
            half = FINE // 2
            angle = (torch.arange(half, dtype=torch.float64) + 0.5) * (math.pi / half)
            upper = torch.stack([angle.cos(), angle.sin()], 1)
            lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
            modes = torch.arange(FINE) * PIECES // FINE
            labels = torch.arange(FINE) // half
            curve = torch.cat([upper, lower])
            return _set(curve, spec.sigma, modes, labels, ("upper", "lower"), 1)
    raise BadInput(f"there is no way to draw points of kind {spec.kind!r}")


def _blobs(centres: Tensor, sigma: float, classes: bool = True) -> PointSet:
    # Of two in one place samples could only ever be told to be of one mode.
    places: dict[tuple[float, ...], int] = {}
    modes = [places.setdefault(tuple(at), len(places)) for at in centres.float().tolist()]
    every = torch.tensor(modes)
    names = tuple(str(place + 1) for place in range(len(centres))) if classes else ()
    labels = every if classes else torch.zeros_like(every)
    return _set(centres, sigma, every, labels, names, 2)


def _set(
    centres: Tensor,
    sigma: float,
    modes: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    dimensions: int,
) -> PointSet:
    low, high = centres.min(0).values, centres.max(0).values
    reach = float((high - low).max() / 2)  # 0 of a single mode
    return PointSet(
        centres=centres.float(),
        sigma=sigma,
        modes=modes,
        count=int(modes.max()) + 1,
        labels=labels,
        classes=classes if len(classes) > 1 else (),
        dimensions=dimensions,
        centre=((low + high) / 2).float(),
        # Where they lie closer together than they spread, the spread is what has to fit.
        unit=max(reach, 3 * sigma) if reach else max(3 * sigma, 1e-3),
    )
