"""Sets of points in the plane, on which a generator can be watched whole."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import model_validator

from engine.data.spec import SourceSpec
from engine.task import param

Point: TypeAlias = tuple[float, float]

FURTHEST = 1_000_000
"""Of a drawn point, in either direction."""


def _deviation(default: float) -> float:
    deviation: float = param(
        default,
        "Sigma",
        "Standard deviation around a mode, in both directions. A sample within three of them is of "
        "high quality.",
        gt=0.0,
        le=1000.0,
    )
    return deviation


class PointsSpec(SourceSpec):
    """A distribution of points in the plane; as many as are asked for are drawn."""

    kind: str


class Ring(PointsSpec):
    """Gaussians on a circle: as it stands, the ring of 8 that mode collapse is measured on
    (Srivastava et al. 2017; Lin et al. 2018)."""

    kind: Literal["ring"] = "ring"
    modes: int = param(8, "Modes", "Gaussians on the circle.", ge=1, le=1000)
    radius: float = param(1.0, "Radius", "Of the circle.", gt=0.0, le=1000.0)
    sigma: float = _deviation(0.01)


class Grid(PointsSpec):
    """Gaussians on a square grid: as it stands, the grid of 25 (Srivastava et al. 2017; Lin et al.
    2018)."""

    kind: Literal["grid"] = "grid"
    side: int = param(5, "Side", "Gaussians in a row, and in a column.", ge=1, le=32)
    spacing: float = param(2.0, "Spacing", "Between neighbours.", gt=0.0, le=1000.0)
    sigma: float = _deviation(0.05)


class Spiral(PointsSpec):
    """Points along a spiral that winds outwards to radius 1, spread evenly over its length. For
    modes its length is cut into twenty pieces."""

    kind: Literal["spiral"] = "spiral"
    turns: float = param(2.0, "Turns", "How often it winds around.", ge=0.25, le=20.0)
    sigma: float = _deviation(0.02)


class Moons(PointsSpec):
    """Two half circles that reach into each other, as scikit-learn's `make_moons`. For modes each
    is cut into ten pieces; its classes are the moons."""

    kind: Literal["moons"] = "moons"
    sigma: float = _deviation(0.05)


class Drawn(PointsSpec):
    """Your own points, each with a Gaussian around it. Each is a mode."""

    kind: Literal["drawn"] = "drawn"
    points: tuple[Point, ...] = param(
        ...,
        "Points",
        "Pairs of coordinates, as in [[0, 0], [1.5, 0.5]]; at least two different ones.",
        min_length=2,
        max_length=1000,
    )
    sigma: float = _deviation(0.02)

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        # Beyond, the squares of distances between them are no numbers of single precision.
        if not all(abs(value) <= FURTHEST for point in self.points for value in point):
            raise ValueError(f"points: expected coordinates between -{FURTHEST:,} and {FURTHEST:,}")
        if len(set(self.points)) < 2:
            raise ValueError("points: they are all the same; expected at least two different ones")
        return self
