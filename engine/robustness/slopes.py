"""The checks of a model's gradient: is there one, does it foretell what steps do, and does it know
how far the decision is away?

Each looks at every sample for itself. On some samples honest models fail, too: on no more than
2.4 % of 128 in any of these checks, measured on 17 kinds of nets of digits and two of MNIST, some
of them adversarially trained. Flagged is what misbehaves on so many that a model with a share of
`HONEST` would show it with a probability below .01 (exact binomial test).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.attacks.geometry import ball
from engine.attacks.losses import cross_entropy, margin
from engine.robustness.asking import Asking, Place
from engine.robustness.flags import Flag
from engine.robustness.statistics import SIGNIFICANT, at_least

HONEST = 0.03
"""Share of the samples that may misbehave."""
STEP = 1e-3
"""Length (linf) of the step that a gradient has to foretell."""
LENGTH = 0.05
"""Length (l2) of a step in a random direction, at most."""
DIRECTIONS = 4
"""How many of these."""
TWICE = 2.0
"""How long, in what the gradient says the decision is away, a step is that has to lead there."""
TENTH = 0.1
"""Of what such a step should raise the margin by, inside the box, the share that it has to. (Nets
of MNIST that were trained at .3 make a quarter to a half of it.)"""
FAR = 3.0
"""How many times as far as another class certainly is the gradient may say that it is. (Of honest
models it says .2 to .7 times in the median, 2.6 at most: the way to another image of another class
is not the shortest.)"""
AMONG = 128
"""Samples among which the nearest image of another class is looked for."""
HALVINGS = 10
"""Of the search for the decision on the way there."""
TINY = torch.finfo(torch.float32).tiny


def too_many(off: Tensor) -> tuple[int, int, float]:
    """How many of how many samples misbehave, bool (M,), and the p-value of that; 1 if none."""
    bad, count = int(off.sum()), len(off)
    return bad, count, at_least(bad, count, HONEST)


def zero_gradients(ask: Asking) -> Flag | None:
    for place in ask.places:
        for words, loss in (("the margin", margin), ("cross-entropy", cross_entropy)):
            slope = ask.slope(loss, place.images)[1]
            steepest = slope.flatten(1).abs().amax(1)
            # Zero, or so small that float32 has lost its digits.
            zero, count, p = too_many(steepest < TINY)
            if p < SIGNIFICANT:
                return Flag("zero_gradients", f"of {words}, at {zero} of {count} {place.words}", p)
    return None


def wrong_gradients(ask: Asking) -> Flag | None:
    """Whether the gradient of the margin foretells what small steps do (it is a finite difference),
    and twice the step that it says leads towards the decision. Samples whose rise would drown in
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


def _uphill(ask: Asking, place: Place, slope: Tensor) -> Flag | None:
    """A small step along its sign has to raise the margin about as much as it says."""
    rise, foretold = _steps(ask, place, slope, ask.precision.longer * STEP * slope.sign())
    sure = foretold > _rounding(ask, place)
    if bool(sure.logical_not().all()):
        steep = slope.flatten(1).abs().amax(1) >= TINY
        if bool(steep.any()):
            ask.unsaid.append(
                f"Whether the gradients at {place.words} are those of the model is not known: what "
                "they foretell drowns in rounding."
            )
        return None
    ratio = (rise / foretold)[sure]
    off, count, p = too_many((ratio < 0.5) | (ratio > 2))
    if p >= SIGNIFICANT:
        return None
    return Flag(
        "wrong_gradients",
        f"of {count} small steps along the gradient at {place.words}, {off} changed the margin by "
        f"less than half or more than twice of what it foretold (median {ratio.median():.2g} of "
        "it)",
        p,
    )


def _around(ask: Asking, place: Place, slope: Tensor) -> Flag | None:
    """So have small steps in random directions: a gradient from which a part is cut out is right
    along itself alone."""
    each = place.images[0].numel()
    length = ask.precision.longer * min(STEP, LENGTH / math.sqrt(each))
    generator = torch.Generator().manual_seed(ask.seed)
    error = square = torch.zeros(len(slope), device=slope.device)
    for _ in range(DIRECTIONS):
        drawn = torch.randint(0, 2, tuple(slope.shape), generator=generator).to(slope) * 2 - 1
        rise, foretold = _steps(ask, place, slope, length * drawn)
        error, square = error + (rise - foretold).square(), square + rise.square()
    sure = square.sqrt() > math.sqrt(DIRECTIONS) * _rounding(ask, place)
    missed = (error / square).sqrt()[sure]
    off, count, p = too_many(missed > 0.5)
    if p >= SIGNIFICANT:
        return None
    return Flag(
        "wrong_gradients",
        f"of {count} {place.words}, small steps in random directions change the margin of {off} by "
        f"something else than the gradient foretold (median difference {missed.median():.0%})",
        p,
    )


def _whole_way(ask: Asking, place: Place, slope: Tensor) -> Flag | None:
    """Twice as far as the decision is away by it has to lead a tenth of the way, or of as much of
    it as the box leaves."""
    now = margin(None, place.logits, ask.goal)
    within = ball("linf", place.images, torch.ones(len(slope), device=slope.device))
    useful = within.useful(place.images, slope)
    steepest = useful.flatten(1).abs().amax(1)[:, None, None, None]
    unit = useful / steepest.clamp_min(TINY)
    away = -now[:, None, None, None] / steepest / unit.square().sum((1, 2, 3), keepdim=True)
    rise, foretold = _steps(ask, place, slope, TWICE * away.nan_to_num(0, 0, 0) * unit)
    foretold = torch.minimum(foretold, -now)
    sure = (foretold > _rounding(ask, place)) & away.flatten().isfinite()
    short, count, p = too_many((rise < TENTH * foretold)[sure])
    if p >= SIGNIFICANT:
        return None
    return Flag(
        "wrong_gradients",
        f"of {count} steps along the gradient at {place.words}, twice as long as it says the "
        f"decision is away, {short} did not lead a tenth of the way there",
        p,
    )


def _steps(ask: Asking, place: Place, slope: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """What a step changes the margin by, and what the gradient said, (M,). It stays in the box."""
    moved = (place.images + step).clamp(0, 1)
    foretold = ((moved - place.images) * slope).flatten(1).sum(1)
    return ask.margin(moved) - margin(None, place.logits, ask.goal), foretold


def _rounding(ask: Asking, place: Place) -> Tensor:
    """What a change of the margin has to exceed to be one, (M,)."""
    return ask.precision.rounding * place.logits.abs().amax(1).clamp_min(TINY)


def flat_around(ask: Asking) -> Flag | None:
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
    far, count, p = too_many(times[sure] > FAR)
    if p >= SIGNIFICANT:
        return None
    return Flag(
        "flat_around",
        f"by their gradients, {far} of {count} clean images are more than {FAR:g} times as far "
        "from another class as it is on the way to another image (median "
        f"{float(times[sure].median()):.3g})",
        p,
    )
