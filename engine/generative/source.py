"""What a gan run imitates: a set of points, or the training images of a data set."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.data import Dataset, Split, load
from engine.data.spec import DataSpec
from engine.errors import BadInput
from engine.events import Event
from engine.generative.draws import Batch, Draws
from engine.generative.networks import POINT, Shape
from engine.generative.points import PointSet, point_set
from engine.generative.spec.points import PointsSpec

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.generative.spec.gan import Gan

LOOKED_AT = 500
"""Images at a time."""


@dataclass(frozen=True, slots=True)
class Source:
    """Either `points` or `images`. `classes` are the names of the classes, if it has any."""

    shape: Shape
    classes: tuple[str, ...]
    points: PointSet | None = None
    images: Dataset | None = None

    @property
    def fingerprint(self) -> str:
        """Of a data set; points are what their spec says."""
        return self.images.fingerprint if self.images is not None else ""

    @property
    def sketch(self) -> str:
        return self.images.sketch if self.images is not None else ""

    def batch(self, draws: Draws, network: str, step: int) -> Batch:
        """Real samples for a step of `network`, in units of the networks."""
        if self.points is not None:
            return draws.points(network, step, self.points)
        assert self.images is not None
        return draws.images(network, step, self.images.train)


def load_source(spec: Gan, bench: Bench) -> Generator[Event, None, Source]:
    """The data of a run. Raises BadInput where it cannot be imitated as `spec` asks."""
    if isinstance(spec.data, PointsSpec):
        points = point_set(spec.data)
        source = Source(POINT, points.classes, points=points)
        if spec.steadying.augment:
            raise BadInput("DiffAugment changes images, and points are none; leave augment empty")
    elif isinstance(spec.data, DataSpec):
        images = yield from load(spec.data, bench)
        if len(images.train) < 2:
            raise BadInput(
                f"the training split holds {len(images.train)} images; expected at least 2, and "
                "some hundred for anything but learning them by heart"
            )
        if _alike(images.train):
            raise BadInput(
                "the training images are all the same: nothing about them could be learnt, and how "
                "diverse samples are could not be told. Take a folder with different ones"
            )
        source = Source(images.shape, images.classes, images=images)
    else:
        raise BadInput(f"there is no way to imitate data of kind {spec.data.kind!r}")
    if spec.conditional != "none" and len(source.classes) < 2:
        raise BadInput(
            "a conditional model is told labels, and this data has none (or a single class); set "
            'conditional to "none", or take data with classes'
        )
    if spec.batch_size < 2 and _has_statistics(spec):
        raise BadInput(
            "batch normalisation needs batches of at least 2 samples; set batch_size to 2 or more, "
            "or the networks' norm to none"
        )
    return source


def _alike(split: Split) -> bool:
    """Whether all images are the same; it looks no further than to the first that differs."""
    first, _ = split.batch(torch.zeros(1, dtype=torch.int64))
    parts = split.batches(torch.arange(len(split)), LOOKED_AT)
    return not any(bool((part != first).any()) for _, part, _ in parts)


def _has_statistics(spec: Gan) -> bool:
    return "batch" in (getattr(spec.generator, "norm", ""), getattr(spec.critic, "norm", ""))
