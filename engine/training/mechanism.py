"""What private training is, seen from the training loop: which images a step is taken on, its
gradient, and what has been spent.

The loop (`engine.training.loop`) owns everything else: bursts, augmentation, the optimiser, what is
said, checkpoints. Members stand in `engine.privacy.spec`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Split
from engine.events import Event
from engine.task import Summary
from engine.training.defence import Batch, Outcome


@dataclass(frozen=True, slots=True)
class PrivateSetting:
    """What a mechanism is made for.

    bench: whose draws it takes, and whether the run is a resumed one. folder: of the run, for what
    must be on the disk before a step is used. model: the one being trained; only what requires a
    gradient is. train: the training split. batch_size: images of a step, on average where they are
    drawn. epochs: of the whole run. classes: how many. label_smoothing: of the cross-entropy.
    salt: differs with anything that is asked for or learnt from.
    statistic: whether the run will ask, once, for a statistic of the training images (`tell`).
    """

    bench: Bench
    folder: Path
    model: nn.Module
    train: Split
    batch_size: int
    epochs: int
    classes: int
    label_smoothing: float
    salt: str = ""
    statistic: bool = False


class Mechanism:
    """How the steps of a run keep the samples private; made once a run.

    What it remembers from step to step is in `tensors`, so that a resumed run goes on with the
    same weights.
    """

    draws = False
    """Whether it draws the images of each step itself (`places`); else they are the loop's batches,
    every image once an epoch."""

    @property
    def steps(self) -> int | None:
        """Steps after which nothing is left to spend; None is as many as the epochs have."""
        return None

    def begin(self) -> Iterator[Event]:
        """Before the first step, of a resumed run too: what whoever watches should know."""
        yield from ()

    def tell(self, statistic: Tensor) -> Tensor:
        """A statistic of the training images, to which each adds a tensor of an L2 norm of at most
        1, as the model may know it. Asked for after `begin`, of a run that is resumed no more."""
        return statistic

    def places(self, step: int) -> Tensor:
        """The training images of a step, counted from 0: int64 (B,), ascending, on the CPU."""
        raise NotImplementedError

    def labels(self, places: Tensor, labels: Tensor) -> Tensor:
        """What the images at these places are taught to be, int64 (B,)."""
        return labels

    def gradients(self, batch: Batch) -> Outcome:
        """Leaves in each parameter's `.grad` what the optimiser steps along. The outcome's loss is
        a mean over the batch, and no number for an empty one."""
        raise NotImplementedError

    def says(self, step: int) -> Mapping[str, float]:
        """What there is to say of a step that was taken, counted from 1, by the name of its
        series."""
        return {}

    def tables(self) -> Iterator[Event]:
        """What there is to show at the end of an epoch, or of the run."""
        yield from ()

    def settle(self, step: int) -> None:
        """The run ends, or rests, after `step` steps."""

    def summary(self, step: int) -> Summary:
        """What the run's summary says of it after `step` steps."""
        return {}

    def tensors(self) -> Mapping[str, Tensor]:
        """What the next step depends on besides its batch."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take up what `tensors` gave after `step` steps."""
