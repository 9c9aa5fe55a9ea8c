"""Runs a method against a model: who is still attacked, what was found, what it cost.

Samples that the model gets wrong anyway are never attacked. With a fixed budget a sample that is
broken leaves the batch, which is repacked; success is read from the logits of the step that was
paid for, and each success is confirmed by a float32 forward pass of its own, inside ball and box,
before it counts. One that is not confirmed (a logit margin within rounding) simply stays in the
batch. A search for the smallest perturbation keeps the two smallest that broke a sample and
confirms the smaller one at its end, the other if that fails.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from engine.attacks.arguments import (
    checked,
    checked_eps,
    checked_fit,
    checked_goal,
    checked_mask,
    checked_spec,
    checked_starts,
)
from engine.attacks.fixed import fixed_steps
from engine.attacks.geometry import Ball, ball
from engine.attacks.goal import predicted
from engine.attacks.method import Answer, Method, Point, Problem
from engine.attacks.oracle import Counts, Oracle, rows
from engine.attacks.result import AttackResult, Iteration, Search, Snapshot, result_of
from engine.attacks.spec import AttackSpec, Fitted
from engine.errors import BadInput, Cancelled
from engine.events import drain
from engine.models.answers import PROBABILITIES, adds_up_to_one
from engine.random import derive

if TYPE_CHECKING:
    from engine.attacks.fitted import Fit

__all__ = ["AttackResult", "Iteration", "Search", "Snapshot", "attack", "perturb"]


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    generator: torch.Generator | None = None,
    targets: Tensor | None = None,
    eps: Tensor | None = None,
    mask: Tensor | None = None,
    starts: Tensor | None = None,
    fitted: Fit | None = None,
) -> AttackResult:
    """Adversarial examples for `images`; `AttackResult` says what is known of each.

    model: takes float32 (N, C, H, W) in [0, 1], returns logits (N, K), each row of its image
        alone. One that takes none in float32 is given them in its parameters' own precision (as
        float64 or bfloat16), and judged by what it says of these. It is run in eval mode; its
        modes, parameters and gradients, the caller's grad mode and the global random states
        (torch's, numpy's and Python's) are as before when this returns or raises.
    images: floating point (N, C, H, W) in [0, 1], on the model's device. Not changed.
    labels: integers (N,), the true classes, on the same device.
    spec: what to run, as in `PGD(norm="linf", eps=0.3, steps=40, step_size=0.01)`.
    generator: source of the random starts; one number is drawn from it. Without it they are the
        same in every call. Sample i's draws depend on that number and i alone.
    targets: classes to aim at, (N,), for a targeted spec; the class after the label unless given.
    eps: a radius for each sample, (N,), instead of the spec's.
    mask: where the image may change, bool or 0/1, a shape that expands to (N, C, H, W).
    starts: images in [0, 1] like `images`, that a decision-based attack may set out from, as of the
        target class; it tries noise as well.
    fitted: of an attack that has one perturbation for all images, what `fit` made of others.

    Raises BadInput if the arguments do not fit each other or the model. Warns (UserWarning) of what
    makes the attack weaker than it looks: steps too short for the radius, a model that returns
    probabilities, too few classes for a loss.
    """
    seed = 0
    if generator is not None:
        top = 2**63 - 1
        seed = int(torch.randint(top, (), generator=generator, device=generator.device))
    ids = torch.arange(len(images) if isinstance(images, Tensor) else 0)
    search = perturb(
        model,
        images,
        labels,
        spec,
        seed=seed,
        ids=ids,
        targets=targets,
        eps=eps,
        mask=mask,
        starts=starts,
        fitted=fitted,
    )
    try:
        first = next(search)
    except StopIteration as end:  # there was nobody to attack
        result: AttackResult = end.value
        return result
    _warn(spec if eps is None else None, first.logits, images.shape[1:])
    return drain(search)


def _warn(spec: AttackSpec | None, logits: Tensor, shape: Sequence[int]) -> None:
    """Warn the caller of `attack` of what is odd about `spec` (None: its radius is not what is
    used) or the model's first answers, (M, K)."""
    texts = [] if spec is None else cautions(spec, logits.shape[1], shape)
    if bool(adds_up_to_one(logits).all()):
        texts.append(PROBABILITIES)
    for text in texts:
        warnings.warn(text, stacklevel=3)


def cautions(spec: AttackSpec, classes: int, shape: Sequence[int]) -> list[str]:
    """What a reader must know of `spec` before trusting what it finds, against a model of so many
    classes on images of `shape`."""
    return [text for text in (spec.advice(classes), spec.oddity(shape)) if text]


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    seed: int,
    ids: Tensor,
    early_exit: bool = True,
    targets: Tensor | None = None,
    eps: Tensor | None = None,
    mask: Tensor | None = None,
    starts: Tensor | None = None,
    clean_logits: Tensor | None = None,
    attacked: Tensor | None = None,
    persist: bool = False,
    begin: Tensor | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    resume: Snapshot | None = None,
    fitted: Fit | None = None,
) -> Search:
    """`attack` as a generator: one `Iteration` for each question to the model.

    Nothing of process or thread is held across a yield. `Cancelled`, thrown in at one, makes it
    return what was confirmed so far.

    seed, ids: a sample's draws depend on `seed` and its id, int64 (N,), alone.
    early_exit: False is for training: all samples take the same fixed number of steps, whatever
        the model says of them; nothing is confirmed, no extra pass is made, and `Cancelled` is
        not caught. Needs a spec of a fixed budget without restarts. Gradients pass straight
        through what hides them: a training wants strong examples.
    clean_logits: the model's logits at `images`, (N, K), if they have been paid for already.
    attacked: bool (N,), whom to attack, instead of whom the model gets right; `correct` of the
        result is then this.
    persist: with a fixed budget, go on with a sample that is broken, to its end: an example that
        is to break another model too must not stop at this one's boundary. The last point that
        broke it is kept.
    begin: with early_exit=False, where the search begins, (N, C, H, W), instead of at the attack's
        own start. It may lie outside of ball and box, where the model is then asked.
    precision: bf16 takes the gradient steps under autocast; successes are confirmed in float32.
    resume: goes on where the snapshot was made. The rest must be what it was then.
    fitted: as of `attack`; its targets are those it was fitted to.

    Raises BadInput at once if the arguments do not fit each other, at the first iteration if they
    do not fit the model.
    """
    images, labels, ids = checked(model, images, labels, ids)
    checked_spec(spec)
    eps = checked_eps(eps, spec, labels)
    where, rounds = checked_mask(mask, images), spec.rounds()
    if isinstance(spec, Fitted):
        place = derive(seed, "fitted")
        fit = checked_fit(fitted, spec, images, targets)
        where, rounds = fit.mask(images, eps, ids, place, where), fit.rounds(place)
        targets = torch.full_like(labels, spec.target) if spec.targeted else None
    around = ball(spec.norm, images, eps, where)
    goal = checked_goal(labels, targets, images, spec)
    bf16 = precision == "bf16"
    through = spec.through_transforms or not early_exit
    oracle = Oracle(
        model,
        seed=seed,
        device=images.device,
        bf16=bf16,
        through=through,
        elsewhere=early_exit,
    )
    problem = Problem(
        around, goal, ids, images.new_zeros((len(ids), 0)), seed, checked_starts(starts, images)
    )
    if early_exit:
        run = _Searching(oracle, rounds, problem, spec, bf16, persist)
        return _search(run, clean_logits, attacked, resume)
    if len(rounds) > 1 or rounds[0].minimal or rounds[0].wants != "gradient":
        raise BadInput(
            f"{spec.kind} cannot be run with early_exit=False, which is for training: all samples "
            "are then attacked alike, by one round of gradient steps. Use an attack of a fixed "
            "budget, with restarts=1."
        )
    return fixed_steps(oracle, rounds[0], problem, begin)


def _search(
    run: _Searching,
    clean_logits: Tensor | None,
    attacked: Tensor | None,
    resume: Snapshot | None,
) -> Search:
    run.begin(clean_logits, attacked)
    if resume is not None:
        run.restore(resume)
    try:
        while run.ask():
            yield run.iteration()
            run.step()
    except Cancelled:
        run.left = "cancelled"
    return run.result()


T = TypeVar("T")


def _without_gradients(method: Callable[[_Searching], T]) -> Callable[[_Searching], T]:
    """As torch.inference_mode(False) and torch.no_grad(), in a tenth of the time where the former
    changes nothing: it is entered twice a question."""

    @functools.wraps(method)
    def plain(self: _Searching) -> T:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return method(self)
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return method(self)
        finally:
            torch._C._set_grad_enabled(before)

    return plain


class _Searching:
    """A search under way. Between two questions everything it depends on is in `_state` and the
    fields that `snapshot` saves."""

    def __init__(
        self,
        oracle: Oracle,
        rounds: Sequence[Method[Any]],
        whole: Problem,
        spec: AttackSpec,
        bf16: bool,
        persist: bool,
    ) -> None:
        self._oracle = oracle
        self._rounds = rounds
        self._whole = whole
        self._bf16 = bf16
        self._persist = persist
        self._most_queries = spec.max_queries
        self._most_seconds = spec.max_seconds
        self._spent = 0.0
        self.left: Literal["", "cancelled", "seconds"] = ""
        self._round = 0
        self._number = 0

    # --- the questions ----------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def begin(self, clean_logits: Tensor | None, attacked: Tensor | None) -> None:
        """Look at the clean images."""
        whole = self._whole
        clean = self._oracle.look(whole.ball.centre) if clean_logits is None else clean_logits
        whole.goal.classes(clean.shape[1])
        self._whole = dataclasses.replace(whole, clean=clean.detach().clone())
        self.adversarial = whole.ball.centre.clone()
        self.predictions = predicted(clean)
        self.correct = whole.goal.correct(clean) if attacked is None else attacked.clone()
        self.success = torch.zeros_like(self.correct)
        self.iterations = torch.zeros_like(whole.ids)
        self.queries = torch.zeros_like(whole.ids)
        self.broken_in = torch.full_like(whole.ids, -1)
        # What is known of those who are active, and not written down yet.
        self._steps_due = self._queries_due = 0
        self._prediction_due = False
        # Of searches for the smallest perturbation: sizes, and the smallest but one.
        self.smallest = torch.full(self.correct.shape, float("inf"), dtype=torch.float64)
        self.smallest = self.smallest.to(self.correct.device)
        self.second: Tensor | None = None
        self._begin_round()

    def _begin_round(self, active: Tensor | None = None) -> None:
        """Everybody who is still to be attacked is at the start of the present round."""
        method = self._method
        if active is None:
            attacked = self.correct & ~self.success
            if method.minimal:  # what it has found may become smaller, if that is what is sought
                bounded = self._whole.ball.eps.flatten().isfinite()
                enough = bounded if method.settles else torch.zeros_like(bounded)
                attacked = self.correct & ~(self.success & enough)
            active = (attacked & self._can_ask()).nonzero().squeeze(1)
            if method.aim is not None and method.aim >= self._whole.clean.shape[1]:
                active = active[:0]
        self.active = active
        problem = self._whole[active]
        problem = dataclasses.replace(
            problem, seed=derive(self._whole.seed, "restart", self._round)
        )
        if method.aim is not None:
            goal = problem.goal.aimed(problem.clean, method.aim)
            problem = dataclasses.replace(problem, goal=goal)
        self._problem = problem
        self._state: Any = method.start(problem) if len(problem) else Point(problem.ball.centre)
        self._points = problem.ball.centre
        self._answer: Answer | None = None
        self._number = 0

    @property
    def _method(self) -> Method[Any]:
        return self._rounds[self._round]

    @property
    def _late(self) -> bool:
        """Successes are confirmed at the end of a round, not one by one."""
        return self._method.minimal or self._persist

    def _can_ask(self, points: int = 1) -> Tensor:
        """Whose budget is enough for a question about so many points, bool (N,)."""
        if self._most_queries is None:
            return torch.ones_like(self.correct)
        self._book()
        return self.queries + points <= self._most_queries

    @_without_gradients
    def ask(self) -> bool:
        """Ask the next question, and keep what it answers. False if none is left."""
        begun = time.perf_counter()
        while not self._may_go_on():
            if self._round + 1 == len(self._rounds):
                return False
            self._leave_tried()
            if self._late:
                self._settle()
            self._round += 1
            self._begin_round()
        if self._most_seconds is not None and self._spent >= self._most_seconds:
            self.left = "seconds"
            return False
        method, state = self._method, self._state
        oracle = self._oracle
        self._before = dataclasses.replace(oracle.counts), oracle.random, oracle.draws
        self._asked = self.active
        want = method.want(self._number)
        self._answer = oracle.ask(method, self._problem, state, self._number, want)
        logits = self._answer.logits
        if method.view is not None and want != "logits":
            logits = oracle.look(state.x)
        self._steps_due += self._number > 0
        self._queries_due += _points_each(state.x)
        self._prediction_due = True
        self._points, self._logits, self._loss, reached = _foremost(
            self._problem, state.x, logits, self._answer.loss, method.minimal
        )
        self._keep(reached.nonzero().squeeze(1))
        self._spent += time.perf_counter() - begun
        return True

    def _book(self) -> None:
        """Write down what the questions to those who are active have cost, and the last answer."""
        if self._queries_due:
            self.iterations[self.active] += self._steps_due
            self.queries[self.active] += self._queries_due
        if self._prediction_due:
            self.predictions[self.active] = predicted(self._logits)
        self._steps_due = self._queries_due = 0
        self._prediction_due = False

    def _may_go_on(self) -> bool:
        """Whether the present round has another question, let go of who cannot afford it."""
        if self._most_queries is not None:
            self._let_go(self._can_ask(_points_each(self._state.x))[self.active])
        return bool(self.active.shape[0]) and self._number <= self._method.steps

    def _keep(self, found: Tensor) -> None:
        """Keep of the points just asked about those of the rows `found`, int64 (M,), which broke
        their samples."""
        self._broken = found
        if not found.shape[0]:
            return
        minimal = self._method.minimal
        if self._late and not self._bf16:
            around, points = self._problem.ball[found], self._points[found]
            size = around.size(points)
            inside = around.contains(points, size)
            if not bool(inside.all()):
                found, size = found[inside], size[inside]
        else:
            self._book()
            found = found[self._problem.ball[found].contains(self._points[found])]
            sure, again = self._confirmed(self.active[found], self._points[found])
            found, size = found[sure], None
            self.predictions[self.active[found]] = again[sure]
        self._broken = found
        if minimal:
            if size is None or self._method.measure is not None:
                size = self._measured(self._problem.ball[found], self._points[found])
            smaller = size < self.smallest[self.active[found]]
            found = found[smaller]
            where = self.active[found]
            if self.second is None:
                self.second = self.adversarial.clone()
            self.second[where] = self.adversarial[where]
            self.smallest[where] = size[smaller]
        where = self.active[found]
        self.adversarial[where] = self._points[found]
        self.success[where] = True
        self.broken_in[where] = self._round

    def _measured(self, around: Ball, x: Tensor) -> Tensor:
        """What the method calls small, (M,)."""
        measure = self._method.measure
        return around.size(x) if measure is None else measure(around, x)

    def _confirmed(self, where: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the samples `where` are broken by `x` in a float32 pass of its own, inside ball
        and box, bool (M,); and what it predicted, int64 (M,)."""
        if not len(where):
            return where.bool(), where
        again = self._oracle.look(x.clone())  # a model may write into what it is given
        of = self._whole[where]
        return of.goal.reached(again) & of.ball.contains(x), predicted(again)

    def _settle(self) -> None:
        """Confirm what a search for the smallest perturbation has found."""
        found = self.success.nonzero().squeeze(1)
        sure, again = self._confirmed(found, self.adversarial[found])
        self.predictions[found] = again
        doubtful = found[~sure]
        if not len(doubtful):
            return
        if self.second is None:
            self.success[doubtful] = False
            return
        other = self.second[doubtful]
        sure, again = self._confirmed(doubtful, other)
        self.adversarial[doubtful] = other
        self.predictions[doubtful] = again
        self.success[doubtful] = sure
        size = self._measured(self._whole.ball[doubtful], other)
        self.smallest[doubtful] = torch.where(sure, size, float("inf"))

    def iteration(self) -> Iteration:
        """What the last question was and brought."""
        return Iteration(
            self._round,
            self._number,
            self._asked,
            self._points,
            self._logits,
            self._loss,
            self.success,
            self.adversarial,
            self.snapshot,
        )

    @_without_gradients
    def step(self) -> None:
        """Let go of whom the last question decided, and move the others on."""
        begun = time.perf_counter()
        if self._broken.shape[0] and self._method.leaves and not self._persist:
            staying = torch.ones_like(self.active, dtype=torch.bool)
            staying[self._broken] = False
            self._let_go(staying)
        if self._number < self._method.steps and self.active.shape[0]:
            assert self._answer is not None
            self._state = self._method.step(self._problem, self._state, self._answer, self._number)
            if self._method.done is not None:
                self._let_go(~self._method.done(self._state))
        self._number += 1
        self._spent += time.perf_counter() - begun

    def _let_go(self, staying: Tensor) -> None:
        """Go on with the rows `staying`, bool (M,), alone."""
        if bool(staying.all()):
            return
        self._leave_tried()
        keep = staying.nonzero().squeeze(1)
        self.active, self._problem = self.active[keep], self._problem[keep]
        self._state = rows(self._state, keep)
        if self._answer is not None:
            self._answer = self._answer[keep]
        self._points = self._points[keep]

    def _leave_tried(self) -> None:
        """Of who is not broken, the point that was asked last is what there is to show."""
        self._book()
        left = ~self.success[self.active]
        where, points = self.active[left], self._points[left]
        outside = ~self._whole.ball[where].contains(points)
        if bool(outside.any()):
            points[outside] = self._whole.ball[where[outside]].project(points[outside])
        self.adversarial[where] = points

    @torch.inference_mode(False)
    @torch.no_grad()
    def result(self) -> AttackResult:
        """What was found; everything in it is confirmed."""
        self._leave_tried()
        if self._late:
            self._settle()
        finished = torch.ones_like(self.success)
        if self.left:
            undecided = (
                self.active if self._method.minimal else self.active[~self.success[self.active]]
            )
            finished[undecided] = False
        whole = self._whole
        return result_of(
            self._oracle,
            whole.ball,
            adversarial=self.adversarial,
            success=self.success,
            iterations=self.iterations,
            queries=self.queries,
            correct=self.correct,
            predictions=self.predictions,
            broken_in=self.broken_in,
            finished=finished,
        )

    # --- going on ---------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Where the search was before its last question, which asks nothing new when repeated."""
        self._book()
        counts, random, draws = self._before
        state = self._state._asdict()
        iterations, queries = self.iterations.clone(), self.queries.clone()
        iterations[self.active] -= int(self._number > 0)
        queries[self.active] -= _points_each(self._state.x)
        tensors = {
            "adversarial": self.adversarial,
            "predictions": self.predictions,
            "correct": self.correct,
            "success": self.success,
            "iterations": iterations,
            "queries": queries,
            "broken_in": self.broken_in,
            "smallest": self.smallest,
            "active": self.active,
            "clean": self._whole.clean,
            "counts.zero": counts.zero,
            "counts.nan": counts.nan,
        }
        if self.second is not None:
            tensors["second"] = self.second
        tensors |= {f"random.{i}": part for i, part in enumerate(random)}
        tensors |= {f"state.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        values = {
            "round": self._round,
            "number": self._number,
            "spent": self._spent,
            "chunk": self._oracle.chunk,
            "draws": draws,
            "forward": counts.forward,
            "gradient": counts.gradient,
            "state": {k: v for k, v in state.items() if not isinstance(v, Tensor)},
        }
        return Snapshot({k: v.detach().cpu().clone() for k, v in tensors.items()}, values)

    @torch.inference_mode(False)
    @torch.no_grad()
    def restore(self, saved: Snapshot) -> None:
        """Be where the snapshot was made."""
        device = self.correct.device
        tensors = {k: v.to(device, copy=True) for k, v in saved.tensors.items()}
        values = saved.values
        self._round, self._number = values["round"], values["number"]
        self._spent = values["spent"]
        for name in ("adversarial", "predictions", "correct", "success", "broken_in"):
            setattr(self, name, tensors[name])
        self.iterations, self.queries = tensors["iterations"], tensors["queries"]
        self.smallest, self.second = tensors["smallest"], tensors.get("second")
        self._whole = dataclasses.replace(self._whole, clean=tensors["clean"])
        self._begin_round(tensors["active"])
        state = type(self._state)
        kept = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        self._state = state(**kept, **values["state"])
        self._number = values["number"]
        self._oracle.chunk, self._oracle.draws = values["chunk"], values["draws"]
        self._oracle.counts = Counts(
            values["forward"], values["gradient"], tensors["counts.zero"], tensors["counts.nan"]
        )
        generators = sum(name.startswith("random.") for name in saved.tensors)
        self._oracle.random = [saved.tensors[f"random.{i}"] for i in range(generators)]


def _points_each(x: Tensor) -> int:
    return x.shape[1] if x.ndim == 5 else 1


def _foremost(
    of: Problem, x: Tensor, logits: Tensor, loss: Tensor, minimal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One point of each sample, with its logits, loss, and whether it was reached, bool (M,): of
    those that reach the goal the first (or, `minimal`, the smallest), else that of largest loss."""
    if x.ndim == 4:
        return x, logits, loss, of.goal.reached(logits)
    many = x.shape[1]
    each = torch.arange(len(x), device=x.device).repeat_interleave(many)
    reached = of.goal[each].reached(logits.flatten(0, 1)).unflatten(0, (-1, many))
    if minimal:
        size = of.ball[each].size(x.flatten(0, 1)).unflatten(0, (-1, many))
        best = torch.where(reached, size, float("inf")).argmin(1)
    else:
        best = reached.to(torch.uint8).argmax(1)
    best = torch.where(reached.any(1), best, loss.argmax(1))
    at = torch.arange(len(x), device=x.device), best
    return x[at], logits[at], loss[at], reached.any(1)
