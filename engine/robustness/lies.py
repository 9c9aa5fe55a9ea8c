"""The lie detector: is a robust accuracy that high because of the model, or of the attack?

First the model alone is looked at: whether it draws, remembers, optimises, or has a gradient that
is none. That is looked at on clean images and on others of the ball, since a model can tell them
apart. Then, on the same samples, attacks are compared of which one must not be weaker than the
other. They are compared by exact McNemar tests and flagged only below p = .01, so that a flag is
no accident of few samples. At the end the model is asked again what it was asked before. What
could not be checked is said, too. Checks are after Athalye, Carlini and Wagner 2018, section 3.1,
and Carlini et al. 2019, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor, nn

from engine.attacks.losses import margin
from engine.attacks.oracle import Oracle
from engine.attacks.spec import APGD, PGD, AttackSpec, Norm, Square
from engine.errors import is_memory
from engine.events import Event, Progress
from engine.models.answers import adds_up_to_one
from engine.models.transforms import hidden_by
from engine.robustness.asking import AGAIN, Asking, apart, looked_at, precision, same
from engine.robustness.flags import Flag
from engine.robustness.searching import Found, Subject, search
from engine.robustness.slopes import (
    flat_around,
    too_many,
    wrong_gradients,
    zero_gradients,
)
from engine.robustness.statistics import DISCORDANT, SIGNIFICANT, mcnemar
from engine.robustness.witness import Kept, otherwise

NEAR = 8 / 255
"""Radius (linf) of the ball that is looked at where the attacks have none."""
MANY = 0.1
"""Share of the probabilities that are rounded to 1, and of the values of a gradient that are no
numbers, from which on it matters."""
WITHSTAND = 0.05
"""Share of the samples that may withstand a ball without bounds."""
MORE = 0.05
"""Share of the samples that more steps or starts have to break to be worth a flag: a little they
always do."""
ALONE = 16
"""Images that are asked about one at a time."""
FEW = 16
"""Samples below which a trick that acts on a part of them can be missed: of so many, a quarter has
to misbehave to be told from what honest models show."""


def look_at(
    on: Subject, norm: Norm = "linf", eps: float = NEAR, unsaid: list[str] | None = None
) -> Generator[Event, None, list[Flag]]:
    """The checks that need no attack, on clean images and random ones of the ball of `norm` and
    `eps` around them. `unsaid` gathers what could not be checked, a sentence each."""
    flags: list[Flag] = []
    asking = Asking(on, norm, eps, [] if unsaid is None else unsaid)
    if len(asking.rows) < FEW:
        asking.unsaid.append(
            f"Too few samples to find a trick that acts on a part of them: {len(asking.rows)} were "
            f"looked at, and {FEW} are needed."
        )
    yield Progress(0, len(CHECKS), "checks")
    for number, check in enumerate(CHECKS, start=1):
        flags += [flag for flag in (check(asking),) if flag is not None]
        yield Progress(number, len(CHECKS), "checks")
    on.cost.forward += asking.oracle.counts.forward
    on.cost.gradient += asking.oracle.counts.gradient
    return flags


# --- the model alone ------------------------------------------------------------------------------


def randomised(ask: Asking) -> Flag | None:
    if ask.steady:
        return None
    changed = max(
        (ask.logits.argmax(1) != other.argmax(1)).double().mean().item() for other in ask.others
    )
    gap = max(float(apart(ask.logits, other).max()) for other in ask.others)
    return Flag(
        "randomised_output",
        f"{1 + AGAIN} passes of the same images differ by up to {gap:.3g}; up to {changed:.0%} "
        "of the predictions changed",
    )


def probabilities(ask: Asking) -> Flag | None:
    rows = ask.logits
    inside = ((rows >= 0) & (rows <= 1 + 1e-6)).all(1)
    one = adds_up_to_one(rows)
    some, count, p = too_many(one)
    if bool(one.all()):
        return Flag("probabilities", "all outputs lie between 0 and 1 and add up to 1")
    if bool(inside.all()):
        words = "all outputs lie between 0 and 1, as out of a sigmoid"
        return Flag("probabilities", words)
    if p < SIGNIFICANT:
        words = f"those of {some} of {count} images lie between 0 and 1 and add up to 1"
        return Flag("probabilities", words, p)
    return None


def hidden_gradients(ask: Asking) -> Flag | None:
    words = hidden_by(ask.on.model)
    return Flag("hidden_gradients", f"found in the model: {words}") if words else None


def not_numbers(ask: Asking) -> Flag | None:
    for words, logits in (("clean images", ask.on.clean), ask.near[::2]):
        bad = int((~logits.isfinite().all(1)).sum())
        if bad:
            return Flag("not_numbers", f"{bad} of {len(logits)} {words}")
    return None


def optimises(ask: Asking) -> Flag | None:
    """Last of all, since any pass may."""
    return Flag("optimises_inside", f"seen: {', '.join(ask.seen)}") if ask.seen else None


def batch_dependent(ask: Asking) -> Flag | None:
    count = len(ask.images)
    if not ask.steady or count < 2:
        return None
    some = torch.linspace(0, count - 1, min(ALONE, count)).long()
    alone = torch.cat([_alone(ask, int(k)) for k in some])
    many = ask.on.clean[ask.rows.to(ask.on.clean.device)]
    # All of them among each other, in another order.
    order = torch.randperm(2 * count, generator=torch.Generator().manual_seed(ask.seed))
    images = torch.cat([place.images for place in ask.places])
    mixed = ask.logits.clone()
    mixed[order] = ask.oracle.look(images[order])
    for words, other, together in (
        ("1", alone, ask.first[some]),
        (str(min(len(ask.on), ask.on.batch_size)), many, ask.first),
        (str(2 * count), mixed, ask.logits),
    ):
        gap = float(apart(other, together).max())
        if gap > ask.same:
            return Flag(
                "batch_dependent",
                f"in batches of {words} and of {count} images, answers differ by up to {gap:.3g}",
            )
    return None


def _alone(ask: Asking, place: int) -> Tensor:
    try:
        return ask.oracle.look(ask.images[place : place + 1])
    except ValueError:  # batch norm in train mode refuses a single value a channel
        return torch.full_like(ask.first[:1], float("nan"))


def changes_itself(ask: Asking) -> Flag | None:
    """Whoever counts its passes and answers the same nevertheless changes nothing that matters."""
    if ask.steady or not ask.changed:
        return None
    return Flag("changes_itself", f"changed by a pass: {', '.join(ask.changed[:4])}")


def rewrites_input(ask: Asking) -> Flag | None:
    words = "a pass has changed the images that it was given"
    return Flag("rewrites_input", words) if ask.rewrites else None


def watches(ask: Asking) -> Flag | None:
    if not ask.steady:
        return None
    for place in ask.places:
        gap = float(apart(ask.slope(margin, place.images)[0], place.logits).max())
        if gap > ask.same:
            return Flag(
                "watches_gradients",
                f"with and without gradients, answers to {place.words} differ by up to {gap:.3g}",
            )
    return None


CHECKS: tuple[Callable[[Asking], Flag | None], ...] = (
    randomised,
    probabilities,
    not_numbers,
    hidden_gradients,
    zero_gradients,
    wrong_gradients,
    flat_around,
    batch_dependent,
    changes_itself,
    rewrites_input,
    watches,
    optimises,
)


# --- what is left to say when the attacks are over ------------------------------------------------


def look_back(
    on: Subject,
    worst: Found,
    before: list[Flag],
    fresh: Callable[[], nn.Module] | None = None,
) -> list[Flag]:
    """What shows only after the attacks, given the flags `before` and what the attacks found in
    all: answers that are others than they were at the beginning, or no numbers; and samples that
    nothing has attacked to its end, which count as robust nevertheless. `fresh` makes a copy of the
    model that was asked nothing before."""
    flags: list[Flag] = []
    names = {flag.name for flag in before}
    oracle = Oracle(on.model, seed=0, device=on.bench.device, bf16=False)
    kept = None if on.witness is None else on.witness.kept
    if on.cost.nan and kept is not None and "not_numbers" not in names:
        flags += _numbers(on, oracle, kept)
    if not names & {"randomised_output", "batch_dependent", "changes_itself"}:
        flags += _changed(on, oracle, kept, fresh)
    on.cost.forward += oracle.counts.forward
    asked = worst.attacked & (worst.queries > 0)
    missed = int((on.correct & ~worst.success & ~asked).sum())
    if missed:
        words = "samples that count as robust were attacked by nothing, or by nothing to its end"
        flags.append(Flag("not_attacked", f"{missed} {words}"))
    return flags


def _numbers(on: Subject, oracle: Oracle, kept: Kept) -> list[Flag]:
    """Whether attacks meet answers that are no numbers, or gradients with many such values, more
    often than at single places."""
    off = ~kept.logits.isfinite().all(1)
    images = kept.images.clone().requires_grad_()
    with oracle.aside(grad=True, bf16=False):
        top = on.model(images).float().topk(2, dim=1).values
        if top.requires_grad:
            lead = (top[:, 0] - top[:, 1]).sum()
            (slope,) = torch.autograd.grad(lead, images, materialize_grads=True)
            off |= (~slope.isfinite()).flatten(1).double().mean(1) > MANY
    on.cost.forward += len(images)
    on.cost.gradient += len(images)
    bad, count, p = too_many(off)
    if p >= SIGNIFICANT:
        return []
    return [Flag("not_numbers", f"of {bad} of {count} images, inside the attacks alone", p)]


def _changed(
    on: Subject, oracle: Oracle, kept: Kept | None, fresh: Callable[[], nn.Module] | None
) -> list[Flag]:
    """Whether what was asked before is answered otherwise now, in another order and among others;
    or by a fresh copy."""
    rows = looked_at(on)
    then = on.clean[rows.to(on.clean.device)]
    gap = float(apart(oracle.look(on.images(rows)[0]), then).max())
    if gap > same(then, precision(on.model, then)):
        words = "answers to clean images differ from those before the attacks by up to"
        return [Flag("changes_itself", f"{words} {gap:.3g}")]
    if kept is None:
        return []
    off, gap = otherwise(oracle, on.model, kept)
    if off:
        words = "images of the attacks are answered otherwise when they are asked again"
        return [Flag("changes_itself", f"{off} of {len(kept.images)} {words}, by up to {gap:.3g}")]
    if fresh is None:
        return []
    try:
        other = Oracle(fresh(), seed=0, device=on.bench.device, bf16=False)
        off, gap = otherwise(other, on.model, kept)
    except (RuntimeError, MemoryError) as error:
        if not is_memory(error):  # there may be no room for another
            raise
        return []
    on.cost.forward += other.counts.forward
    if not off:
        return []
    words = "images of the attacks are answered otherwise by a copy that was asked nothing before"
    return [Flag("changes_itself", f"{off} of {len(kept.images)} {words}, by up to {gap:.3g}")]


# --- attacks against each other -------------------------------------------------------------------


COMPARED: tuple[Norm, ...] = ("linf", "l2", "l1")
"""Norms that all attacks of the checks know."""
BY_ATTACK = (
    "saturated_loss",
    "one_step_wins",
    "not_converged",
    "restarts_win",
    "black_box_wins",
    "unbounded_fails",
    "weak_attacks",
)
"""Flags that `compare` alone can raise."""


def too_few(on: Subject, robust: Tensor, count: int) -> str | None:
    """Why attacks that were compared on the first `count` samples that are correct could not be
    told apart, if so. robust: who withstands the evaluation, bool (N,)."""
    rows = on.correct.nonzero().squeeze(1)[:count]
    right, left = int(on.correct.sum()), int(robust.sum())
    needed = math.ceil(DISCORDANT * right / max(1, left))
    if not count:
        text = (
            "No samples were to be checked (checked = 0), so attacks were neither compared with "
            "each other nor tried without bounds, and these flags cannot be raised: "
            f"{', '.join(BY_ATTACK)}."
        )
        if left <= MORE * right:
            return text
        return (
            f"{text} Two attacks have to differ on {DISCORDANT} samples that withstand, as {left} "
            f"of {right} do: {needed} are needed."
        )
    standing = int(robust[rows].sum())
    if standing >= DISCORDANT or left <= MORE * right:
        return None
    return (
        f"Too few samples to compare attacks: {standing} of {len(rows)} that were checked "
        f"withstand, and two attacks have to differ on {DISCORDANT} for p < .01. As {left} of "
        f"{right} withstand the evaluation, {needed} are needed."
    )


def compare(
    on: Subject,
    norm: Norm,
    eps: float,
    evaluated: Found | None,
    count: int,
    queries: int,
    *,
    found: Found | None = None,
) -> Generator[Event, None, list[Flag]]:
    """The checks that attack, in the ball of `norm` and `eps`, on the first `count` samples that
    are correct. evaluated: the worst case that the evaluation has found, on all samples. found:
    gathers what breaks a sample inside the ball, also if they are cancelled."""
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
        each = Found.nothing(on, keep=found is not None)
        seed = on.bench.derive("check", purpose)
        try:
            yield from search(on, spec, those, each, seed=seed, what="samples")
        finally:
            if found is not None:
                found.join(each, eps)
        return each.success[rows]

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
        words = f"broken by the checks alone, within {eps:.3g} in {norm}"
        wins("weak_attacks", best, known, words, least=MORE)
    return flags


def _certain(logits: Tensor, labels: Tensor) -> float:
    """The share of samples whose label is so probable that float32 rounds it to 1: all that
    cross-entropy has left of its gradient there is rounding."""
    probabilities = logits.float().softmax(1).cpu()
    return (probabilities.gather(1, labels[:, None]) == 1).double().mean().item()
