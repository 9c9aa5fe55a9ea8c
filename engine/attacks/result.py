"""What an attack says while it works, and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from engine.attacks.geometry import Ball
    from engine.attacks.oracle import Oracle


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What an attack found, for N samples. All tensors are on the images' device.

    adversarial: float32 (N, C, H, W), inside ball and box. Of a sample that was not broken it is
        the last point that was tried, and the clean image if it was never attacked.
    success: bool (N,), the model got the clean image right and this one wrong (targeted: as the
        target class), confirmed by a forward pass of its own.
    norm: float64 (N,), measured size of the perturbation in the attack's norm.
    iterations: int64 (N,), gradient steps spent (of an attack without gradients, its steps).
    queries: int64 (N,), images put through the model for it, without those that confirm. One that
        was asked about before (`Method.known`) counts again, also where the answer was at hand.
    correct: bool (N,), the model got the clean image right.
    predictions: int64 (N,), class that the model gives `adversarial`; -1 if its logits are not
        numbers. With `early_exit=False` both of these speak of the last point that was asked,
        which is one step before `adversarial`.
    broken_in: int64 (N,), the round of `spec.rounds()`, a restart or a stage of an ensemble, that
        found the example; -1 where there is none.
    finished: bool (N,), False for samples that a cancel, or a budget in seconds, left undecided.
    forward_evaluations, gradient_evaluations: images put through the model, and those of them
        whose gradient was taken.
    zero_gradients: gradients that were exactly zero, which hides a sample from any gradient attack
        (a search for the smallest perturbation, whose loss ends where it succeeds, counts none).
    nan_count: images whose logits or gradient held a NaN or Inf. Such a gradient entry counts as
        zero, such logits never as a success.
    chunk: how many images went through the model together after memory ran out; None if it did not.
    """

    adversarial: Tensor
    success: Tensor
    norm: Tensor
    iterations: Tensor
    queries: Tensor
    correct: Tensor
    predictions: Tensor
    broken_in: Tensor
    finished: Tensor
    forward_evaluations: int
    gradient_evaluations: int
    zero_gradients: int
    nan_count: int
    chunk: int | None = None

    def cpu(self) -> AttackResult:
        """The same, off the GPU."""
        names = [field.name for field in dataclasses.fields(self)]
        tensors = {n: getattr(self, n) for n in names if isinstance(getattr(self, n), Tensor)}
        return dataclasses.replace(self, **{name: t.cpu() for name, t in tensors.items()})

    @property
    def robust_accuracy(self) -> float:
        """Still correct after the attack / all samples."""
        return (self.correct & ~self.success).double().mean().item()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A search between two questions, to be continued in another process. `tensors` are copies, on
    the CPU; `values` are JSON. Give both to `perturb(..., resume=...)` with the same arguments."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Iteration:
    """One question to the model and its answer; only valid until the next one.

    restart, step: counted from 0; step s is the point after s steps.
    active: int64 (M,), the samples asked about, as positions in the batch, which ascend.
    points: float32 (M, C, H, W), where the model was asked: of several points of a sample the one
        with the largest loss.
    logits: float32 (M, K) and loss: float32 (M,), its answer; larger losses are nearer to success.
    success: bool (N,), confirmed so far (of a search for the smallest perturbation: found so far).
    adversarial: float32 (N, C, H, W): the images of these, else clean ones.
    snapshot: makes the `Snapshot` from which the search goes on with the same question.
    """

    restart: int
    step: int
    active: Tensor
    points: Tensor
    logits: Tensor
    loss: Tensor
    success: Tensor
    adversarial: Tensor
    snapshot: Callable[[], Snapshot]

    def newest(self, count: int) -> Tensor:
        """The present images of the first `count` samples, a copy: confirmed, tried, or clean."""
        images = self.adversarial[:count].clone()
        shown = self.among(count)
        images[self.active[:shown]] = self.points[:shown]
        return images

    def among(self, count: int) -> int:
        """How many of the first `count` samples were asked about: they are the first of `active`,
        `points`, `logits` and `loss`."""
        return int((self.active < count).sum())


Search: TypeAlias = Generator[Iteration, None, AttackResult]


def result_of(
    oracle: Oracle,
    around: Ball,
    *,
    adversarial: Tensor,
    success: Tensor,
    iterations: Tensor,
    queries: Tensor,
    correct: Tensor,
    predictions: Tensor,
    broken_in: Tensor,
    finished: Tensor,
) -> AttackResult:
    counts = oracle.counts
    return AttackResult(
        adversarial=adversarial,
        success=success,
        norm=around.size(adversarial),
        iterations=iterations,
        queries=queries,
        correct=correct,
        predictions=predictions,
        broken_in=broken_in.masked_fill(~success, -1),
        finished=finished,
        forward_evaluations=counts.forward,
        gradient_evaluations=counts.gradient,
        zero_gradients=int(counts.zero),
        nan_count=int(counts.nan),
        chunk=oracle.chunk,
    )
