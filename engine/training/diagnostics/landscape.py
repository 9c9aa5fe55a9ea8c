"""How the loss around a model's weights changes in a training: at the ends of epochs its steepest
bend, the sum of all and the gradient's noise; at the end of the run a plane of it.

As with the looks at the layers, what is affordable is counted, not timed: a product with the
Hessian costs about PRODUCT steps of as many samples, the graphs that the products share GRAPHS
together, a gradient one and a value a third; and fewer samples than FLOOR of a batch save nothing,
for most of what a small network's step costs is not its samples. So it is known beforehand at which
epochs there is enough saved for a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Split
from engine.events import Event, Note, Progress, Scalars
from engine.training.diagnostics.curvature import (
    Loss,
    hessian_trace,
    noise_scale,
    top_eigenvalue,
)
from engine.training.diagnostics.plane import loss_plane

T = TypeVar("T")

SHARE, PLANE_SHARE = 0.12, 0.06
"""What measurements at the ends of epochs, and the plane, may cost, as a share of the steps."""
PRODUCT, GRAPHS = 2.5, 3.0
FLOOR = 0.5
STEPS, PROBES, PARTS = 12, 6, 8
"""Products for the steepest bend and for the sum; parts of the gradient whose noise is told."""
LEAST, MOST = 16, 256
"""Samples of one product."""
SIDES = (7, 25)
"""Least and most points a side of the plane."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is affordable in a run: `samples` a product, or none where even the fewest are too many;
    `cost` of one measurement in steps; `side` of the plane, 0 for none."""

    samples: int
    cost: float
    side: int

    @classmethod
    def of(cls, steps: int, batch_size: int, images: int) -> Budget:
        """For a run of so many steps of `batch_size` on so many training images."""
        work = STEPS * PRODUCT + PROBES * PRODUCT + GRAPHS + PARTS / 2
        most = min(MOST, max(batch_size, LEAST), images)
        affordable = int(SHARE * steps / work * batch_size)
        samples = min(most, affordable)
        if samples < min(LEAST, images) or affordable < FLOOR * batch_size:
            samples = 0
        points = 3 * PLANE_SHARE * steps * min(batch_size / most, 1 / FLOOR)
        side = min(int(points**0.5), SIDES[1])
        side -= 1 - side % 2  # odd: the model itself is in the middle
        cost = work * max(samples / batch_size, FLOOR)
        return cls(samples, cost, side if side >= SIDES[0] else 0)

    def due(self, epoch: int, per_epoch: int) -> bool:
        """Whether after so many whole epochs of `per_epoch` steps enough is saved for one more."""
        if not self.samples:
            return False
        saved = [int(SHARE * per_epoch * e / self.cost + 1e-9) for e in (epoch - 1, epoch)]
        return saved[1] > saved[0]


class Landscape:
    """What is measured around the weights in one run in full mode; it remembers nothing."""

    def __init__(
        self,
        bench: Bench,
        train: Split,
        loss: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        per_epoch: int,
        epochs: int,
    ) -> None:
        self._bench = bench
        self._train = train
        self._loss = loss
        self._per_epoch = per_epoch
        self._most = min(MOST, max(batch_size, LEAST))
        self.budget = Budget.of(per_epoch * epochs, batch_size, len(train))

    def begin(self) -> Iterator[Event]:
        """What is left out, in words."""
        if not self.budget.samples:
            yield Note(
                "info",
                "so short a run affords no look at the Hessian within the cost of full "
                "diagnostics; the task stability measures it for any model",
            )

    def after_epoch(self, model: nn.Module, epoch: int, step: int) -> Generator[Event, None, None]:
        """Measure, if enough is saved after so many whole epochs and `step` steps."""
        if not self.budget.due(epoch, self._per_epoch):
            return
        loss = self._of(model, self.budget.samples)
        parts = min(PARTS, max(len(loss.inputs) // 2, 1))
        found = yield from measured(loss, self._bench, STEPS, PROBES, parts, epoch)
        yield Scalars(step, found)

    def at_the_end(self, model: nn.Module, step: int) -> Generator[Event, None, None]:
        """The plane around the model as it is handed over."""
        if not self.budget.side:
            return
        loss = self._of(model, self._most)
        generator = self._bench.generator("diagnostics", "plane")
        yield from loss_plane(loss, generator, step, self.budget.side)

    def _of(self, model: nn.Module, samples: int) -> Loss:
        """On images of the training split that are the same all along."""
        order = torch.randperm(
            len(self._train), generator=self._bench.generator("diagnostics", "samples")
        )
        images, labels = self._train.batch(order[:samples])
        return Loss(model, images, labels, self._loss)


def measured(
    loss: Loss, bench: Bench, steps: int, probes: int, parts: int, turn: int
) -> Generator[Event, None, dict[str, float]]:
    """hessian/top, hessian/trace and gradient/noise_scale, each where it is a number. parts: of the
    samples, for the noise. turn: draws differ from one to the next."""
    found: dict[str, float] = {}
    total = steps + probes + parts

    def counted(events: Generator[Event, None, T], before: int) -> Generator[Event, None, T]:
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                value: T = end.value
                return value
            if isinstance(event, Progress):
                event = Progress(before + event.done, total, "products")
            yield event

    generator = bench.generator("diagnostics", "top", turn)
    found["hessian/top"] = yield from counted(top_eigenvalue(loss, generator, steps), 0)
    generator = bench.generator("diagnostics", "trace", turn)
    trace = yield from counted(hessian_trace(loss, generator, probes), steps)
    found["hessian/trace"] = trace.value
    if parts > 1:
        generator = bench.generator("diagnostics", "noise", turn)
        small = len(loss.inputs) // parts
        noise = yield from counted(noise_scale(loss, generator, small), steps + probes)
        found["gradient/noise_scale"] = noise.scale
    return {name: value for name, value in found.items() if math.isfinite(value)}
