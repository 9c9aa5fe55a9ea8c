"""What a family of attacks is, seen from the driver: a start, a step and a loss.

The driver (`engine.attacks.driver`) owns everything else: which samples are still attacked, what
has been found, the passes through the model. A step therefore reads like the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from engine.attacks.geometry import Ball
from engine.attacks.goal import Goal, Rows

State = TypeVar("State", bound=Any)
"""A NamedTuple. `x` is where the model is asked next: (N, C, H, W), or (N, Q, C, H, W) for Q points
of each sample at once. Every tensor in it has one row a sample; a method with a memory (a momentum,
a step size for each sample) adds fields. The driver drops rows of all of them alike. What is not a
tensor (a phase, a counter) is common to all samples: a number or a string."""

Want: TypeAlias = Literal["logits", "gradient", "jacobian"]


class Point(NamedTuple):
    """The state of a method without memory."""

    x: Tensor


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said at the points `x` of a state, detached.

    logits: float32 (N, K), or (N, Q, K) where Q points of each sample were asked about.
    loss: (N,) or (N, Q); larger is nearer to the goal, also for targeted attacks.
    gradient: of the loss with respect to `x`, in its shape, finite, uphill. If the Jacobian was
        asked for, that of the method's `outputs`, (N, R, C, H, W).
        Zeros, expanded, if neither was.
    """

    logits: Tensor
    loss: Tensor
    gradient: Tensor

    def __getitem__(self, keep: Tensor) -> Answer:
        """The answer for the samples at `keep`, int64 (M,)."""
        return Answer(self.logits[keep], self.loss[keep], self.gradient[keep])


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be solved, for M samples.

    ball: clean images, radii, box and mask. goal: labels, targets. ids: int64 (M,), whose draws are
    whose. clean: logits at the clean images, (M, K). seed: of this round; whatever is drawn derives
    from it and from ids (`engine.random`), never from a place in the batch. starts: images from
    which a search may set out, (M, C, H, W), if any were given.
    """

    ball: Ball
    goal: Goal
    ids: Tensor
    clean: Tensor
    seed: int
    starts: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]  # len of a tensor takes five times as long

    def __getitem__(self, keep: Rows) -> Problem:
        """The problem of the samples at `keep`."""
        ball, goal, ids = self.ball[keep], self.goal[keep], self.ids[keep]
        starts = None if self.starts is None else self.starts[keep]
        return replace(self, ball=ball, goal=goal, ids=ids, clean=self.clean[keep], starts=starts)


Loss: TypeAlias = Callable[[Any, Tensor, Goal], Tensor]
"""(state, logits (N, K), goal) -> (N,), which rises as a sample gets closer to being broken. Most
losses (`engine.attacks.losses`) look at logits and goal alone."""


@dataclass(frozen=True, slots=True)
class Method(Generic[State]):
    """A search of `steps` steps: up to steps + 1 questions to the model, the first at the start.

    start: problem -> state.
    step: (problem, state, answer at state.x, number of the step from 0) -> state.
    loss: what is climbed.
    wants: what a question asks for besides logits and loss, always or by the number of the step.
    outputs: (state, logits (N, K), goal) -> (N, R), of which a Jacobian is taken, at the price of R
        backward passes. None is all logits.
    view: (problem, images (N, C, H, W), number of the step) -> what the model is shown in their
        place when a gradient is taken (input diversity); differentiable. What it says there decides
        no success: the images themselves are looked at in a pass of their own.
    needs_clean: start or loss look at the problem's clean logits, which a training has to pay for.
    minimal: looks for the smallest perturbation. Of all the points that broke a sample the one that
        is smallest in the ball's norm is kept.
    leaves: a sample leaves the search at its first success, as it does of every fixed budget; of
        the minimal methods only those that stop there (DeepFool) say so.
    settles: a minimal method of several rounds: a sample that one of them has broken inside a ball
        that has an end takes part in no further one.
    measure: (ball, images) -> (N,), by which the smallest is chosen. None is the ball's size.
    known: state -> bool (N,), samples whose `x` has been asked about before, and the logits (N, K)
        there. They are not asked again, unless the model draws at random; as queries they count.
        For methods that want logits alone, of one point.
    done: state -> bool (N,), samples that need no further question in this round. None is none.
    aim: None leaves the goal as it is. k = 1, 2, ... gives the loss a target, the class with the
        k-th largest clean logit, the label left out; any wrong class still counts. There is no
        such round of a model with k classes or less.
    name: of the round among others, as in "apgd-ce".
    """

    start: Callable[[Problem], State]
    step: Callable[[Problem, State, Answer, int], State]
    loss: Loss
    steps: int
    wants: Want | Callable[[int], Want] = "gradient"
    outputs: Loss | None = None
    view: Callable[[Problem, Tensor, int], Tensor] | None = None
    needs_clean: bool = False
    minimal: bool = False
    leaves: bool = True
    settles: bool = False
    measure: Callable[[Ball, Tensor], Tensor] | None = None
    known: Callable[[State], tuple[Tensor, Tensor]] | None = None
    done: Callable[[State], Tensor] | None = None
    aim: int | None = None
    name: str = ""

    def want(self, number: int) -> Want:
        """What question `number` asks for; the last one needs no gradient."""
        if number == self.steps:
            return "logits"
        return self.wants if isinstance(self.wants, str) else self.wants(number)
