"""What a family of attacks is, seen from the driver: a start, a step and a loss.

The driver (`engine.attacks.driver`) owns everything else: which samples are still attacked, what
has been found, the passes through the model. A step therefore reads like the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from engine.attacks.geometry import Ball
from engine.attacks.losses import Loss

State = TypeVar("State", bound=Any)
"""A NamedTuple of tensors that have one row a sample. `x`, (N, C, H, W), is where the model is
asked next; a method with a memory (a momentum, a step size for each sample) adds fields. The
driver drops rows of all of them alike."""


class Point(NamedTuple):
    """The state of a method without memory."""

    x: Tensor


@dataclass(frozen=True, slots=True)
class Method(Generic[State]):
    """A search of `steps` gradient steps from each of `restarts` starts.

    start: (ball, seed, ids) -> state. The seed differs between restarts.
    step: (ball, state, gradient of the loss at state.x) -> state. The gradient is finite and
    points uphill: towards being broken, also for targeted attacks.
    loss: is climbed away from the label, or descended towards the target.
    """

    start: Callable[[Ball, int, Tensor], State]
    step: Callable[[Ball, State, Tensor], State]
    loss: Loss
    steps: int
    restarts: int = 1
