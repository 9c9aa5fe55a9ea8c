"""What an adversarial training is, seen from the training loop: what is searched for before a step,
the loss of the step, and what is remembered afterwards.

The loop (`engine.training.loop`) owns everything else: order and draws, bursts, the optimiser, the
search itself, what is said, checkpoints. A defence therefore reads like its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from engine.attacks.spec import AttackSpec
from engine.data import Split

Forward: TypeAlias = Callable[[Tensor], Tensor]
"""The model being trained: images to logits."""


class Batch(NamedTuple):
    """The images of one step.

    images: float32 (N, C, H, W) in [0, 1], augmented. labels: int64 (N,). places: int64 (N,), their
    places in the training split, on the CPU. ids: int64 (N,), whose draws are whose. step: steps
    taken before this one. epoch: where in the run it is taken, fractional.
    """

    images: Tensor
    labels: Tensor
    places: Tensor
    ids: Tensor
    step: int
    epoch: float


class Wanted(NamedTuple):
    """Adversarial examples of a batch that are to be searched for before its step.

    start: where from, (N, C, H, W), instead of the attack's own start. labels: int64 (N,), what
    the attack leads away from, instead of the batch's.
    """

    attack: AttackSpec
    start: Tensor | None = None
    labels: Tensor | None = None


class Outcome(NamedTuple):
    """loss: what is descended, a scalar. clean, adversarial: logits (N, K) at the batch's images
    and at their adversarial examples, where they were paid for; they are only counted."""

    loss: Tensor
    clean: Tensor | None
    adversarial: Tensor | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a defence is made for.

    train: the training split. batch: (places, epoch) -> images as the run augments them in that
    epoch, and their labels. seed: every draw derives from it. criterion: (logits, labels) -> mean
    cross-entropy, with the run's label smoothing. start: the model that the run starts from, in
    eval mode, if it starts from one. model: the one being trained.
    """

    train: Split
    batch: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    seed: int
    criterion: Callable[[Tensor, Tensor], Tensor]
    start: nn.Module | None
    model: nn.Module


class Defence:
    """What happens to a batch; made once a run by `AdversarialTraining.defence`.

    What it remembers from step to step is in `tensors`, so that a resumed run goes on with the
    same weights.
    """

    replays = 1
    """Steps that are taken on each batch, one after the other."""

    def wanted(self, batch: Batch) -> Wanted | None:
        """The adversarial examples that the step needs."""
        return None

    def loss(self, model: Forward, batch: Batch, found: Tensor | None) -> Outcome:
        """The loss of the step. `found` are the examples that `wanted` asked for, detached."""
        raise NotImplementedError

    def stepped(self, batch: Batch, found: Tensor | None) -> None:
        """The gradients of the step are there."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What the next step depends on besides its batch."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
