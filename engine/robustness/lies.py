"""The lie detector: is a robust accuracy that high because of the model, or of the attack?

First the model alone is looked at: whether it draws, remembers, optimises, or has a gradient that
is none. That is looked at on clean images and on others of the ball, since a model can tell them
apart. Then, on the same samples, attacks are compared of which one must not be weaker than the
other. They are compared by exact McNemar tests and flagged only below p = .01, so that a flag is
no accident of few samples. Checks are after Athalye, Carlini and Wagner 2018, section 3.1, and
Carlini et al. 2019, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.optim.optimizer import register_optimizer_step_pre_hook

from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.losses import cross_entropy, margin
from engine.attacks.method import Loss, Method, Point, Problem
from engine.attacks.oracle import Oracle
from engine.attacks.spec import APGD, PGD, AttackSpec, Norm, Square
from engine.events import Event, Progress
from engine.models.transforms import hidden_by
from engine.robustness.flags import Flag
from engine.robustness.searching import Found, Subject, search
from engine.robustness.statistics import mcnemar

SIGNIFICANT = 0.01
LOOKED_AT = 32
"""Samples that the checks of the model alone look at."""
AGAIN = 4
"""How often they are looked at again: what is drawn once for a whole batch may fall the same."""
NEAR = 8 / 255
"""Radius (linf) of the ball that is looked at where the attacks have none."""
MANY = 0.1
"""Share of the samples with a zero gradient from which on it is flagged."""
WITHSTAND = 0.05
"""Share of the samples that may withstand a ball without bounds."""
MORE = 0.05
"""Share of the samples that more steps or starts have to break to be worth a flag: a little they
always do."""
STEP = 1e-3
"""Length (linf) of the step that a gradient has to foretell."""
LENGTH = 0.05
"""Length (l2) of a step in a random direction, at most."""
DIRECTIONS = 4
"""How many of these."""
TWICE = 2.0
"""How far, in what the gradient says the decision is away, at least half of the way to it has to be
made. (Of honest models all samples make it, trained against attacks or not.)"""
FAR = 3.0
"""How many times as far as another class certainly is the gradient may say that it is. (Of honest
models it says .2 to .6 times, adversarially trained ones too: the way to another image of another
class is not the shortest.)"""
AMONG = 128
"""Samples among which the nearest image of another class is looked for."""
HALVINGS = 10
"""Of the search for the decision on the way there."""


def look_at(
    on: Subject, norm: Norm = "linf", eps: float = NEAR
) -> Generator[Event, None, list[Flag]]:
    """The checks that need no attack, on clean images and random ones of the ball of `norm` and
    `eps` around them."""
    flags: list[Flag] = []
    asking = _Asking(on, _looked_at(on), norm, eps)
    yield Progress(0, len(CHECKS), "checks")
    for number, check in enumerate(CHECKS, start=1):
        flags += [flag for flag in (check(asking),) if flag is not None]
        yield Progress(number, len(CHECKS), "checks")
    on.cost.forward += asking.oracle.counts.forward
    on.cost.gradient += asking.oracle.counts.gradient
    return flags


def _looked_at(on: Subject) -> Tensor:
    """Rows of the first samples that are correct; of the first ones, if none is."""
    rows = on.correct.nonzero().squeeze(1)[:LOOKED_AT]
    return rows if len(rows) else torch.arange(min(len(on), LOOKED_AT))


class _Place(NamedTuple):
    """Images, (M, C, H, W), what they are, and what the model says of them, (M, K)."""

    words: str
    images: Tensor
    logits: Tensor


class _Asking:
    """A few samples, clean and moved inside their ball, and what the model says of them."""

    def __init__(self, on: Subject, rows: Tensor, norm: Norm, eps: float) -> None:
        self.on, self.rows = on, rows
        self.images, self.labels = on.images(rows)
        self.goal = Goal(self.labels, None, False, int(self.labels.max()))
        self.seed = on.bench.derive("checks")
        device = self.images.device
        self.oracle = Oracle(on.model, seed=self.seed, device=device, bf16=False)
        around = ball(norm, self.images, torch.full((len(rows),), eps, device=device))
        near = around.random(self.seed, torch.arange(len(rows), device=device))
        given = self.images.clone(), near.clone()  # to look at; the others are not handed out
        with _spying() as seen:
            self.first, there = self.oracle.look(given[0]), self.oracle.look(given[1])
            before = _fingerprint(on.model)
            # In a row, since a model can know what it was asked last.
            same = [self.oracle.look(given[0]) for _ in range(AGAIN)]
            moved = [self.oracle.look(given[1]) for _ in range(AGAIN)]
        self.seen = sorted(set(seen))
        after = _fingerprint(on.model)
        self.changed = [name for name, mark in after.items() if before.get(name) != mark]
        self.rewrites = not (torch.equal(given[0], self.images) and torch.equal(given[1], near))
        self.clean = _Place("clean images", self.images, self.first)
        self.near = _Place("images of the ball", near, there)
        self.others = [torch.cat(both) for both in zip(same, moved, strict=True)]

    @property
    def places(self) -> tuple[_Place, _Place]:
        return self.clean, self.near

    @property
    def logits(self) -> Tensor:
        """Of the clean images, then of the others."""
        return torch.cat([place.logits for place in self.places])

    @property
    def same(self) -> float:
        return _same(self.first)

    @property
    def steady(self) -> bool:
        return all(_apart(self.logits, other) <= self.same for other in self.others)

    def margin(self, images: Tensor) -> Tensor:
        """How far the nearest other class is ahead of the label, (M,)."""
        return margin(None, self.oracle.look(images), self.goal)

    def slope(self, loss: Loss, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and gradient of a loss at as many images."""
        count = len(images)
        ids = torch.arange(count, device=images.device)
        around = ball("linf", images, torch.ones(count, device=images.device))
        problem = Problem(around, self.goal, ids, self.first, self.seed)
        at = Point(images)
        method: Method[Point] = Method(lambda of: at, lambda of, at, answer, n: at, loss, 1)
        answer = self.oracle.ask(method, problem, at, 0, "gradient")
        return answer.logits, answer.gradient


def _same(logits: Tensor) -> float:
    """What two answers may differ by and still be the same: rounding."""
    finite = logits[logits.isfinite()]
    return 1e-4 * float(finite.abs().max()) if len(finite) else math.inf


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().nan_to_num(0.0, 0.0, 0.0).max())


# --- the model alone ------------------------------------------------------------------------------


def randomised(ask: _Asking) -> Flag | None:
    if ask.steady:
        return None
    changed = max(
        (ask.logits.argmax(1) != other.argmax(1)).double().mean().item() for other in ask.others
    )
    apart = max(_apart(ask.logits, other) for other in ask.others)
    return Flag(
        "randomised_output",
        f"{1 + AGAIN} passes of the same images differ by up to {apart:.3g}; up to {changed:.0%} "
        "of the predictions changed",
    )


def probabilities(ask: _Asking) -> Flag | None:
    rows = ask.logits
    if not bool(((rows >= 0) & (rows <= 1 + 1e-6)).all()):
        return None
    one = bool(((rows.sum(1) - 1).abs() <= 1e-3).all())
    what = "between 0 and 1 and add up to 1" if one else "between 0 and 1, as out of a sigmoid"
    return Flag("probabilities", f"all outputs lie {what}")


def hidden_gradients(ask: _Asking) -> Flag | None:
    words = hidden_by(ask.on.model)
    return Flag("hidden_gradients", f"found in the model: {words}") if words else None


def not_numbers(ask: _Asking) -> Flag | None:
    for words, logits in (("clean images", ask.on.clean), ask.near[::2]):
        bad = int((~logits.isfinite().all(1)).sum())
        if bad:
            return Flag("not_numbers", f"{bad} of {len(logits)} {words}")
    return None


def zero_gradients(ask: _Asking) -> Flag | None:
    for place in ask.places:
        count = len(place.images)
        for words, loss in (("the margin", margin), ("cross-entropy", cross_entropy)):
            slope = ask.slope(loss, place.images)[1]
            steepest = slope.flatten(1).abs().amax(1)
            zero = int((steepest < TINY).sum())  # or so small that float32 has lost its digits
            if zero > MANY * count:
                return Flag("zero_gradients", f"of {words}, at {zero} of {count} {place.words}")
    return None


def wrong_gradients(ask: _Asking) -> Flag | None:
    """Whether the gradient of the margin foretells what small steps do (it is a finite difference),
    and twice the step that it says leads to the decision. Samples whose rise would drown in
    rounding, or that have no gradient, are left out."""
    if not ask.steady:
        return None
    for place in ask.places:
        slope = ask.slope(margin, place.images)[1]
        for check in (_uphill, _around, _whole_way):
            found = check(ask, place, slope)
            if found is not None:
                return found
    return None


def _uphill(ask: _Asking, place: _Place, slope: Tensor) -> Flag | None:
    """A small step along its sign has to raise the margin about as much as it says."""
    rise, foretold = _steps(ask, place, slope, STEP * slope.sign())
    sure = foretold > _rounding(place)
    if not _enough(sure):
        return None
    ratio = (rise / foretold)[sure]
    off = int(((ratio < 0.5) | (ratio > 2)).sum())
    if off <= len(ratio) / 2:
        return None
    return Flag(
        "wrong_gradients",
        f"of {len(ratio)} small steps along the gradient at {place.words}, {off} changed the "
        "margin by less than half or more than twice of what it foretold (median "
        f"{ratio.median():.2g} of it)",
    )


def _around(ask: _Asking, place: _Place, slope: Tensor) -> Flag | None:
    """So have small steps in random directions: a gradient from which a part is cut out is right
    along itself alone."""
    each = place.images[0].numel()
    length = min(STEP, LENGTH / math.sqrt(each))
    generator = torch.Generator().manual_seed(ask.seed)
    error = square = torch.zeros(len(slope), device=slope.device)
    for _ in range(DIRECTIONS):
        drawn = torch.randint(0, 2, tuple(slope.shape), generator=generator).to(slope) * 2 - 1
        rise, foretold = _steps(ask, place, slope, length * drawn)
        error, square = error + (rise - foretold).square(), square + rise.square()
    sure = square.sqrt() > math.sqrt(DIRECTIONS) * _rounding(place)
    if not _enough(sure):
        return None
    missed = (error / square).sqrt()[sure]
    off = int((missed > 0.5).sum())
    if off <= len(missed) / 2:
        return None
    return Flag(
        "wrong_gradients",
        f"of {len(missed)} {place.words}, small steps in random directions change the margin of "
        f"{off} by something else than the gradient foretold (median difference "
        f"{missed.median():.0%})",
    )


def _whole_way(ask: _Asking, place: _Place, slope: Tensor) -> Flag | None:
    """Twice as far as the decision is away by it has to lead at least half of the way."""
    now = margin(None, place.logits, ask.goal)
    within = ball("linf", place.images, torch.ones(len(slope), device=slope.device))
    useful = within.useful(place.images, slope)
    steepest = useful.flatten(1).abs().amax(1)[:, None, None, None]
    unit = useful / steepest.clamp_min(TINY)
    away = -now[:, None, None, None] / steepest / unit.square().sum((1, 2, 3), keepdim=True)
    sure = (now < -_rounding(place)) & away.flatten().isfinite()
    if not _enough(sure):
        return None
    moved = (place.images + TWICE * away.nan_to_num(0, 0, 0) * unit).clamp(0, 1)
    short = int((ask.margin(moved) < now / 2)[sure].sum())
    count = int(sure.sum())
    if short <= count / 2:
        return None
    return Flag(
        "wrong_gradients",
        f"of {count} steps along the gradient at {place.words}, twice as long as it says the "
        f"decision is away, {short} did not lead half of the way there",
    )


def _steps(ask: _Asking, place: _Place, slope: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """What a step changes the margin by, and what the gradient said, (M,). It stays in the box."""
    moved = (place.images + step).clamp(0, 1)
    foretold = ((moved - place.images) * slope).flatten(1).sum(1)
    return ask.margin(moved) - margin(None, place.logits, ask.goal), foretold


def _rounding(place: _Place) -> Tensor:
    """What a change of the margin has to exceed to be one, (M,)."""
    return 100 * torch.finfo(torch.float32).eps * place.logits.abs().amax(1).clamp_min(TINY)


def _enough(sure: Tensor) -> bool:
    """Whether so many samples, bool (M,), tell something of all."""
    return int(sure.sum()) >= max(8, len(sure) // 4)


def flat_around(ask: _Asking) -> Flag | None:
    """The gradient says how far the decision is away (DeepFool's first step). On the way to the
    nearest image of another class it certainly is; nothing but answers is needed to find it."""
    if not ask.steady or not bool(ask.on.correct.any()):
        return None
    images = ask.images
    slope = ask.slope(margin, images)[1].flatten(1)
    steepest = slope.abs().amax(1)
    length = steepest * (slope / steepest.clamp_min(TINY)[:, None]).norm(dim=1)
    told = -margin(None, ask.first, ask.goal) / length

    among = ask.on.correct.nonzero().squeeze(1)[:AMONG]
    targets, classes = ask.on.images(among)
    apart = torch.cdist(images.flatten(1), targets.flatten(1))
    apart[classes[None] == ask.labels[:, None]] = math.inf
    distance, nearest = apart.min(1)
    way = targets[nearest] - images
    low, high = torch.zeros_like(distance), torch.ones_like(distance)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        here = ask.oracle.look((images + middle[:, None, None, None] * way).clamp(0, 1))
        there = ask.goal.reached(here)
        low, high = low.where(there, middle), middle.where(there, high)

    times = told / (high * distance)
    sure = distance.isfinite() & times.isfinite() & (times > 0)
    if not _enough(sure):
        return None
    middle_one = float(times[sure].median())
    if middle_one <= FAR:
        return None
    return Flag(
        "flat_around",
        f"by their gradients, {int(sure.sum())} clean images are {middle_one:.3g} times as far "
        "from another class (median) as it is on the way to another image",
    )


def optimises(ask: _Asking) -> Flag | None:
    return Flag("optimises_inside", f"seen: {', '.join(ask.seen)}") if ask.seen else None


def batch_dependent(ask: _Asking) -> Flag | None:
    if not ask.steady or len(ask.images) < 2:
        return None
    alone = torch.cat([_alone(ask, k) for k in range(min(8, len(ask.images)))])
    many = ask.on.clean[ask.rows.to(ask.on.clean.device)]
    for count, other in ((1, alone), (min(len(ask.on), ask.on.batch_size), many)):
        together = ask.first[: len(other)]
        apart = _apart(other, together)
        if apart > ask.same or not bool((other.isfinite() == together.isfinite()).all()):
            return Flag(
                "batch_dependent",
                f"in batches of {count} and of {len(ask.images)} images, answers differ by up to "
                f"{apart:.3g}",
            )
    return None


def _alone(ask: _Asking, place: int) -> Tensor:
    try:
        return ask.oracle.look(ask.images[place : place + 1])
    except ValueError:  # batch norm in train mode refuses a single value a channel
        return torch.full_like(ask.first[:1], float("nan"))


def changes_itself(ask: _Asking) -> Flag | None:
    if not ask.changed:
        return None
    return Flag("changes_itself", f"changed by a pass: {', '.join(ask.changed[:4])}")


def rewrites_input(ask: _Asking) -> Flag | None:
    words = "a pass has changed the images that it was given"
    return Flag("rewrites_input", words) if ask.rewrites else None


def watches(ask: _Asking) -> Flag | None:
    if not ask.steady:
        return None
    for place in ask.places:
        apart = _apart(ask.slope(margin, place.images)[0], place.logits)
        if apart > ask.same:
            return Flag(
                "watches_gradients",
                f"with and without gradients, answers to {place.words} differ by up to {apart:.3g}",
            )
    return None


CHECKS: tuple[Callable[[_Asking], Flag | None], ...] = (
    randomised,
    probabilities,
    not_numbers,
    hidden_gradients,
    zero_gradients,
    wrong_gradients,
    flat_around,
    optimises,
    batch_dependent,
    changes_itself,
    rewrites_input,
    watches,
)


def _fingerprint(model: nn.Module) -> dict[str, Any]:
    """What tells whether a part of the model was changed: of its tensors torch's own counter and
    their sum; of its other attributes the numbers, and how much is in lists and the like. (Tensors
    among these, such as a layer's last activations, may change.)"""
    named = [*model.named_parameters(), *model.named_buffers()]
    marks: dict[str, Any] = {n: (t._version, float(t.detach().double().sum())) for n, t in named}
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name in TORCHS or isinstance(value, Tensor):
                continue
            if isinstance(value, bool | int | float | str):
                marks[f"{place}.{name}".lstrip(".")] = value
            elif isinstance(value, Sized):
                marks[f"{place}.{name}".lstrip(".")] = len(value)
    return marks


TORCHS = frozenset(vars(nn.Module()))
"""Attributes that every module has; its modes are set by who asks it."""
TINY = torch.finfo(torch.float32).tiny


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


# --- what is left to say when the attacks are over ------------------------------------------------


def look_back(on: Subject, worst: Found, before: list[Flag]) -> list[Flag]:
    """What shows only after the attacks, given the flags `before` and what the attacks found in
    all: answers that are others than they were at the beginning, or no numbers; and samples that
    nothing has attacked to its end, which count as robust nevertheless."""
    flags: list[Flag] = []
    names = {flag.name for flag in before}
    nan = on.cost.nan
    if nan and "not_numbers" not in names:
        flags.append(Flag("not_numbers", f"{nan} answers or gradients, inside the attacks alone"))
    if not names & {"randomised_output", "batch_dependent", "changes_itself"}:
        rows = _looked_at(on)
        oracle = Oracle(on.model, seed=0, device=on.bench.device, bf16=False)
        now, then = oracle.look(on.images(rows)[0]), on.clean[rows.to(on.clean.device)]
        on.cost.forward += oracle.counts.forward
        apart = _apart(now, then)
        if apart > _same(then):
            words = "answers to clean images differ from those before the attacks by up to"
            flags.append(Flag("changes_itself", f"{words} {apart:.3g}"))
    asked = worst.attacked & (worst.queries > 0)
    missed = int((on.correct & ~worst.success & ~asked).sum())
    if missed:
        words = "samples that count as robust were attacked by nothing, or by nothing to its end"
        flags.append(Flag("not_attacked", f"{missed} {words}"))
    return flags


# --- attacks against each other -------------------------------------------------------------------


COMPARED: tuple[Norm, ...] = ("linf", "l2", "l1")
"""Norms that all attacks of the checks know."""


def compare(
    on: Subject, norm: Norm, eps: float, evaluated: Found | None, count: int, queries: int
) -> Generator[Event, None, list[Flag]]:
    """The checks that attack, in the ball of `norm` and `eps`, on the first `count` samples that
    are correct. evaluated: the worst case that the evaluation has found, on all samples."""
    rows = on.correct.nonzero().squeeze(1)[:count]
    if not len(rows) or eps <= 0 or norm == "l0" or norm == "free":
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
    one = yield from attack(
        PGD(norm=norm, eps=eps, steps=1, step_size=eps, random_start=False), "one"
    )
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

    everything = math.prod(on.test.shape) ** {"linf": 0.0, "l2": 0.5, "l1": 1.0}[norm]
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
