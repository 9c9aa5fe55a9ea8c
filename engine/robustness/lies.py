"""The lie detector: is a robust accuracy that high because of the model, or of the attack?

First the model alone is looked at: whether it draws, remembers, optimises, or has a gradient that
is none. Then, on the same samples, attacks are compared of which one must not be weaker than the
other. They are compared by exact McNemar tests and flagged only below p = .01, so that a flag is
no accident of few samples. Checks are after Athalye, Carlini and Wagner 2018, section 3.1, and
Carlini et al. 2019, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.optim.optimizer import register_optimizer_step_pre_hook

from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.losses import cross_entropy, margin
from engine.attacks.method import Loss, Method, Point, Problem
from engine.attacks.oracle import Oracle
from engine.attacks.spec import APGD, FGSM, PGD, AttackSpec, Norm, Square
from engine.events import Event, Progress
from engine.models.transforms import hidden_by
from engine.robustness.flags import Flag
from engine.robustness.searching import Found, Subject, search
from engine.robustness.statistics import mcnemar

SIGNIFICANT = 0.01
LOOKED_AT = 32
"""Samples that the checks of the model alone look at."""
MANY = 0.1
"""Share of the samples with a zero gradient from which on it is flagged."""
WITHSTAND = 0.05
"""Share of the samples that may withstand a ball without bounds."""
MORE = 0.05
"""Share of the samples that more steps or starts have to break to be worth a flag: a little they
always do."""
STEP = 1e-3
"""Length (linf) of the step that a gradient has to foretell."""


def look_at(on: Subject) -> Generator[Event, None, list[Flag]]:
    """The checks that need no attack."""
    flags: list[Flag] = []
    rows = on.correct.nonzero().squeeze(1)[:LOOKED_AT]
    if not len(rows):
        rows = torch.arange(min(len(on), LOOKED_AT))
    images, labels = on.images(rows)
    asking = _Asking(on, images, labels)
    yield Progress(0, len(CHECKS), "checks")
    for number, check in enumerate(CHECKS, start=1):
        flags += [flag for flag in (check(asking),) if flag is not None]
        yield Progress(number, len(CHECKS), "checks")
    on.cost.forward += asking.oracle.counts.forward
    on.cost.gradient += asking.oracle.counts.gradient
    return flags


class _Asking:
    """A few images, (M, C, H, W), and what the model says of them."""

    def __init__(self, on: Subject, images: Tensor, labels: Tensor) -> None:
        self.on, self.images, self.labels = on, images, labels
        self.seed = on.bench.derive("checks")
        self.oracle = Oracle(on.model, seed=self.seed, device=images.device, bf16=False)
        self.before = _fingerprint(on.model)
        with _spying() as seen:
            self.first = self.oracle.look(images)
        self.seen = sorted(set(seen))
        self.again = self.oracle.look(images)
        self.after = _fingerprint(on.model)

    @property
    def same(self) -> float:
        """What two answers may differ by and still be the same: rounding."""
        finite = self.first[self.first.isfinite()]
        return 1e-4 * max(1.0, float(finite.abs().max())) if len(finite) else math.inf

    @property
    def steady(self) -> bool:
        return bool(_apart(self.first, self.again) <= self.same)

    def slope(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Logits and gradient of a loss at the images."""
        count = len(self.images)
        ids = torch.arange(count, device=self.images.device)
        goal = Goal(self.labels, None, False, int(self.labels.max()))
        around = ball("linf", self.images, torch.ones(count))
        problem = Problem(around, goal, ids, self.first, self.seed)
        at = Point(self.images)
        method: Method[Point] = Method(lambda of: at, lambda of, at, answer, n: at, loss, 1)
        answer = self.oracle.ask(method, problem, at, 0, "gradient")
        return answer.logits, answer.gradient


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num(0.0, 0.0, 0.0).max())


# --- the model alone ------------------------------------------------------------------------------


def randomised(ask: _Asking) -> Flag | None:
    if ask.steady:
        return None
    changed = (ask.first.argmax(1) != ask.again.argmax(1)).double().mean().item()
    apart = _apart(ask.first, ask.again)
    return Flag(
        "randomised_output",
        f"two passes of the same images differ by up to {apart:.3g}; {changed:.0%} of the "
        "predictions changed",
    )


def probabilities(ask: _Asking) -> Flag | None:
    rows = ask.first
    if not bool(((rows >= -1e-6) & (rows <= 1 + 1e-6)).all()):
        return None
    one = bool(((rows.sum(1) - 1).abs() <= 1e-3).all())
    what = "between 0 and 1 and add up to 1" if one else "between 0 and 1, as out of a sigmoid"
    return Flag("probabilities", f"all outputs lie {what}")


def hidden_gradients(ask: _Asking) -> Flag | None:
    words = hidden_by(ask.on.model)
    return Flag("hidden_gradients", f"found in the model: {words}") if words else None


def not_numbers(ask: _Asking) -> Flag | None:
    clean = ask.on.clean
    bad = int((~clean.isfinite().all(1)).sum())
    return Flag("not_numbers", f"{bad} of {len(clean)} clean images") if bad else None


def zero_gradients(ask: _Asking) -> Flag | None:
    count = len(ask.images)
    for words, loss in (("the margin", margin), ("cross-entropy", cross_entropy)):
        zero = int((ask.slope(loss)[1].flatten(1).abs().amax(1) == 0).sum())
        if zero > MANY * count:
            return Flag("zero_gradients", f"of {words}, at {zero} of {count} clean images")
    return None


def wrong_gradients(ask: _Asking) -> Flag | None:
    """A small step along the sign of the gradient has to raise the margin about as much as the
    gradient says (it is a finite difference). Samples whose rise would drown in rounding, or that
    reach the end of the box, are left out."""
    if not ask.steady:
        return None
    logits, slope = ask.slope(margin)
    moved = (ask.images + STEP * slope.sign()).clamp(0, 1)
    foretold = ((moved - ask.images) * slope).flatten(1).sum(1)
    goal = Goal(ask.labels, None, False, int(ask.labels.max()))
    rise = margin(None, ask.oracle.look(moved), goal) - margin(None, ask.first, goal)
    sure = foretold > 100 * torch.finfo(torch.float32).eps * logits.abs().amax(1).clamp_min(1e-6)
    if int(sure.sum()) < max(8, len(logits) // 4):
        return None
    ratio = (rise / foretold)[sure]
    off = int(((ratio < 0.5) | (ratio > 2)).sum())
    if off <= len(ratio) / 2:
        return None
    return Flag(
        "wrong_gradients",
        f"of {len(ratio)} small steps along the gradient, {off} changed the margin by less than "
        f"half or more than twice of what it foretold (median {ratio.median():.2g} of it)",
    )


def optimises(ask: _Asking) -> Flag | None:
    return Flag("optimises_inside", f"seen: {', '.join(ask.seen)}") if ask.seen else None


def batch_dependent(ask: _Asking) -> Flag | None:
    if not ask.steady or len(ask.images) < 2:
        return None
    alone = torch.cat([_alone(ask, k) for k in range(min(8, len(ask.images)))])
    together = ask.first[: len(alone)]
    apart = _apart(alone, together)
    if apart <= ask.same and bool((alone.isfinite() == together.isfinite()).all()):
        return None
    return Flag(
        "batch_dependent",
        f"alone and among {len(ask.images)} images, answers differ by up to {apart:.3g}",
    )


def _alone(ask: _Asking, place: int) -> Tensor:
    try:
        return ask.oracle.look(ask.images[place : place + 1])
    except ValueError:  # batch norm in train mode refuses a single value a channel
        return torch.full_like(ask.first[:1], float("nan"))


def changes_itself(ask: _Asking) -> Flag | None:
    changed = [name for name, mark in ask.after.items() if ask.before.get(name) != mark]
    if not changed:
        return None
    return Flag("changes_itself", f"changed by a pass: {', '.join(changed[:4])}")


def watches(ask: _Asking) -> Flag | None:
    if not ask.steady:
        return None
    apart = _apart(ask.slope(margin)[0], ask.first)
    if apart <= ask.same:
        return None
    return Flag(
        "watches_gradients",
        f"with and without gradients, answers differ by up to {apart:.3g}",
    )


CHECKS: tuple[Callable[[_Asking], Flag | None], ...] = (
    randomised,
    probabilities,
    not_numbers,
    hidden_gradients,
    zero_gradients,
    wrong_gradients,
    optimises,
    batch_dependent,
    changes_itself,
    watches,
)


def _fingerprint(model: nn.Module) -> dict[str, tuple[int, float]]:
    """What tells whether a tensor of the model was changed: torch's own counter, and its sum."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {n: (t._version, float(t.detach().double().sum())) for n, t in named}


@contextmanager
def _spying() -> Iterator[list[str]]:
    """What a pass does that no pass should: gradients asked for, optimisers stepped."""
    seen: list[str] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append("a gradient")
        return _engine_run_backward(*args, **kwargs)

    hook = register_optimizer_step_pre_hook(lambda *_: seen.append("an optimiser's step"))
    # All of torch's ways to a gradient (grad, backward, Tensor.backward, torch.func) call this.
    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        torch.autograd._engine_run_backward = _engine_run_backward  # type: ignore[attr-defined]
        hook.remove()


# --- attacks against each other -------------------------------------------------------------------


def compare(
    on: Subject, norm: Norm, eps: float, evaluated: Found | None, count: int, queries: int
) -> Generator[Event, None, list[Flag]]:
    """The checks that attack, in the ball of `norm` and `eps`, on the first `count` samples that
    are correct. evaluated: the worst case that the evaluation has found, on all samples."""
    rows = on.correct.nonzero().squeeze(1)[:count]
    if not len(rows) or eps <= 0 or norm not in ("linf", "l2"):
        return []
    total = len(rows)
    known = None if evaluated is None else evaluated.within(eps)[rows]
    flags: list[Flag] = []

    def attack(
        spec: AttackSpec, purpose: str, those: Tensor = rows
    ) -> Generator[Event, None, Tensor]:
        """Which of `rows` it breaks, bool (M,)."""
        found = Found.nothing(on)
        seed = on.bench.derive("check", purpose)
        yield from search(on, spec, those, found, seed=seed, what="samples")
        return found.success[rows]

    def wins(name: str, strong: Tensor, weak: Tensor, words: str, least: float = 0.0) -> None:
        """Flag if `strong` breaks more than `weak`, which should break as many: more by chance's
        measure, and by `least` of all samples."""
        more, fewer = int((strong & ~weak).sum()), int((weak & ~strong).sum())
        p = mcnemar(more, fewer)
        if more - fewer > least * total and p < SIGNIFICANT:
            text = f"{words}: {more} of {total} samples against {fewer} the other way round"
            flags.append(Flag(name, text, p))

    pgd = PGD(norm=norm, eps=eps, steps=40, step_size=2.5 * eps / 40)
    white = yield from attack(pgd, "white")
    other = yield from attack(pgd.model_copy(update={"loss": "margin"}), "margin")
    best = white | other
    certain = _certain(on.clean[rows], on.labels[rows])
    if certain > MANY:
        words = f"with {certain:.0%} of the probabilities rounded to 1, broken by the margin alone"
        wins("saturated_loss", other, white, words)
    one = yield from attack(FGSM(norm=norm, eps=eps), "one")
    wins("one_step_wins", one, white, "broken by one step alone")

    # The rest of what is done to the same samples has to bring next to nothing.
    seen = white | other | (torch.zeros_like(white) if known is None else known)
    left = rows[~seen]
    further = pgd.model_copy(update={"loss": "margin", "restarts": 4})
    for name, spec, words in (
        ("not_converged", APGD(norm=norm, eps=eps, steps=100), "APGD of 100 steps"),
        ("restarts_win", further, "4 further starts"),
    ):
        more = yield from attack(spec, name, left)
        wins(name, seen | more, seen, f"broken by {words} alone", least=MORE)
        best = best | more

    black = yield from attack(Square(norm=norm, eps=eps, steps=queries), "black")
    wins(
        "black_box_wins", black, best | seen, f"broken by {queries} queries without gradients alone"
    )
    best = best | black

    everything = 1.0 if norm == "linf" else math.sqrt(math.prod(on.test.shape))
    vast = pgd.model_copy(update={"eps": everything, "step_size": 2.5 * everything / 40})
    broken = yield from attack(vast, "vast")
    withstand = int((~broken).sum())
    if withstand > max(1, WITHSTAND * total):
        text = f"{withstand} of {total} samples withstand epsilon {everything:.3g}"
        flags.append(Flag("unbounded_fails", text))

    if known is not None:
        wins("weak_attacks", best, known, "broken by the checks alone", least=MORE)
    return flags


def _certain(logits: Tensor, labels: Tensor) -> float:
    """The share of samples whose label is so probable that float32 rounds it to 1: all that
    cross-entropy has left of its gradient there is rounding."""
    probabilities = logits.float().softmax(1).cpu()
    return (probabilities.gather(1, labels[:, None]) == 1).double().mean().item()
