"""A lower bound of epsilon from one run (Steinke, Nasr and Jagielski 2023).

Of m canaries each was in or out of the training set by a fair coin. The auditor guesses some of the
coins from the scores, and abstains on the others. If the training were (epsilon, delta)-private,
the number of right guesses would hardly exceed that of randomised response, which is right with
probability e^epsilon / (1 + e^epsilon) each time: their theorem 5.2 (the code of their appendix D)
bounds the probability of so many. The largest epsilon for which that is below 1 - confidence is the
lower bound; nobody has to trust the training for it.

How many to guess must not depend on the coins. It may depend on the scores, on which the guesses
depend too: two normal distributions are fitted to them, without a look at the coins, which tells
how many guesses can be expected to be right, and so which number promises the largest bound.

However many canaries there are, at a given delta no bound exceeds about log((1 - confidence) /
(2 delta)). A promise is one for every delta, though, with another epsilon each: it is also held
against the bound at a smaller delta, which is chosen, before any guess, as the one where so many
canaries could contradict it most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.audits.auditing import plain
from engine.errors import BadInput
from engine.events import Event, Note, Progress, Table
from engine.store import Workspace
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.audits.spec import Audit, CanaryAudit
    from engine.bench import Bench

FILE = "canaries.safetensors"
CONFIDENCE = 0.999
STEPS = 20
"""Numbers of guesses that are looked at, each four fifths of the one before."""
ROUNDS = 200
"""Of the fit of two distributions to the scores."""
NARROW = 1e-4
"""Variance of a distribution, as a share of that of all scores, at least."""
GAIN = 7.0
"""Log likelihood that two distributions have to be ahead of one by: the log of 1,000 (Schwarz
1978), for their two parameters more."""
OUTER = 0.25
"""Share of the canaries that is guessed where the scores say nothing about it. (Of .12, .2, .35 and
.54 the middle ones gave the largest bounds for the Gaussian mechanism with 1,000 canaries.)"""
SMALLER = 6
"""Powers of ten below its own at which a run's delta is looked at."""
MOST = 100.0
"""Bounds beyond this are not told apart."""
CLOSE = 1e-6
"""To which an epsilon is found, from below."""
BINS = 40
CONTRADICTED = "epsilon_contradicted"
FLAG_COLUMNS = ("flag", "evidence", "p")


# --- the bound ------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """`epsilon` is at least this at `delta`, with the confidence asked for: `right` of `guesses`
    guesses on `canaries` canaries were right."""

    epsilon: float
    delta: float
    guesses: int
    right: int
    canaries: int


def epsilon_lower_bound(
    score: Tensor,
    included: Tensor,
    delta: float,
    confidence: float = CONFIDENCE,
    guesses: int | Sequence[int] | None = None,
) -> Bound:
    """What epsilon is at least, at `delta`, with `confidence`.

    score: float (m,), the higher the likelier in. included: bool (m,), the fair coins. guesses: how
    many to guess, those that the scores are surest of (`_odds`); by default the scores alone decide
    that too (`promising`). Of several numbers the best counts, and each gets its share
    of 1 - confidence (Bonferroni). They must not be chosen by looking at `included`. Raises
    BadInput where they make no sense.
    """
    m = len(score)
    if score.shape != included.shape or score.ndim != 1 or m < 2:
        raise BadInput(
            f"there are scores {tuple(score.shape)} and coins {tuple(included.shape)}; expected "
            "one of each for every canary, and at least two of these"
        )
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise BadInput(
            f"delta {delta:g} and confidence {confidence:g} are shares: expected 0 <= delta < 1 "
            "and 0 < confidence < 1"
        )
    looked = _look(score)
    if guesses is None:
        guesses = promising(looked, delta, confidence)
    numbers = (guesses,) if isinstance(guesses, int) else tuple(guesses)
    if not numbers or min(numbers) < 1 or max(numbers) > m:
        raise BadInput(f"of {m} canaries 1 to {m} can be guessed, not {numbers}")
    level = (1 - confidence) / len(numbers)
    hits = (included.bool().cpu().numpy() == looked.guess)[looked.order].cumsum()
    found = []
    for number in numbers:
        right = int(hits[number - 1])
        found.append(Bound(rejected(m, number, right, delta, level), delta, number, right, m))
    return max(found)


class Look(NamedTuple):
    """What the scores say without the coins, (m,) each: the canaries in the order in which they are
    guessed, whether each is guessed to be in, and how likely that is right, as the fit has it."""

    order: NDArray[np.int64]
    guess: NDArray[np.bool_]
    sure: NDArray[np.float64]


def _look(score: Tensor) -> Look:
    from scipy.special import expit

    odds = _odds(_numbers(score).numpy())
    return Look(np.argsort(-np.abs(odds), kind="stable"), odds > 0, expit(np.abs(odds)))


def promising(looked: Look, delta: float, confidence: float) -> int:
    """How many of the canaries to guess: the number with the largest bound if as many guesses are
    right as the scores lead to expect; a quarter of them where they lead to expect nothing."""
    m = len(looked.order)
    if not bool((looked.sure > 0.501).any()):
        return max(1, round(OUTER * m))
    right = looked.sure[looked.order].cumsum()
    numbers = sorted({max(1, round(m * 0.8**k)) for k in range(STEPS)})
    return max(numbers, key=lambda r: rejected(m, r, int(right[r - 1]), delta, 1 - confidence))


def _odds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds that each is of the higher of two normal distributions of equal weight, fitted to
    all by expectation and maximisation. Where these describe them no better than a single one does,
    all odds are small, and in the order of the distance from the mean."""
    from scipy.special import expit

    size = float(values.std())
    if not size:
        return np.zeros_like(values)
    scaled = (values - values.mean()) / size
    means = np.array([scaled[scaled >= 0].mean(), scaled[scaled < 0].mean()])
    spreads = np.ones(2)

    def logs() -> NDArray[np.float64]:
        apart = (scaled - means[:, None]) ** 2 / (2 * spreads[:, None])
        found: NDArray[np.float64] = -apart - np.log(spreads)[:, None] / 2
        return found

    before = -math.inf
    for _ in range(ROUNDS):
        high, low = logs()
        now = float(np.logaddexp(high, low).sum())
        if now - before < 1e-6 * len(scaled):
            break
        before = now
        share = expit(high - low)
        shares = np.stack([share, 1 - share])
        weights = shares.sum(1).clip(1e-9)
        means = (shares * scaled).sum(1) / weights
        spreads = ((shares * (scaled - means[:, None]) ** 2).sum(1) / weights).clip(NARROW)
    gain = before + len(scaled) * (0.5 - math.log(2))
    if gain < GAIN or means[0] <= means[1]:
        small: NDArray[np.float64] = 1e-9 * scaled
        return small
    high, low = logs()
    odds: NDArray[np.float64] = high - low
    # Beyond its mean the wider one would win everything; what is farther out is not less likely.
    ends = np.interp(means, np.sort(scaled), odds[np.argsort(scaled)])
    above = scaled > means[0]
    odds[above] = np.maximum(odds[above], ends[0])
    below = scaled < means[1]
    odds[below] = np.minimum(odds[below], ends[1])
    return odds


def _numbers(score: Tensor) -> Tensor:
    """Float64 on the CPU, with what is no number in the middle, where it is guessed last."""
    score = score.double().cpu()
    known = score[score.isfinite()]
    return score.nan_to_num(
        nan=float(known.median()) if len(known) else 0.0,
        posinf=float(known.max()) if len(known) else 0.0,
        neginf=float(known.min()) if len(known) else 0.0,
    )


def p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """How likely v or more of r guesses on m canaries are right, if the training is
    (epsilon, delta)-private (theorem 5.2, appendix D of the paper)."""
    return _Tail(m, r, v, delta)(epsilon)


def rejected(m: int, r: int, v: int, delta: float, level: float) -> float:
    """The largest epsilon at which `p_value` is below `level`, found from below; 0 if it is not
    even at 0."""
    tail = _Tail(m, r, v, delta)
    low, high = 0.0, 1.0
    if tail(low) >= level:
        return 0.0
    while tail(high) < level:
        low, high = high, 2 * high
        if low >= MOST:
            return MOST
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) < level else (low, middle)
    return low


class _Tail:
    """`p_value` of one (m, r, v, delta), for many epsilons."""

    def __init__(self, m: int, r: int, v: int, delta: float) -> None:
        from scipy.special import gammaln

        self._count = np.arange(r + 1, dtype=np.float64)
        self._choose = gammaln(r + 1) - gammaln(self._count + 1) - gammaln(r - self._count + 1)
        self._r, self._v, self._cost = r, v, 2 * m * delta

    def __call__(self, epsilon: float) -> float:
        # log q and log(1 - q) of q = 1 / (1 + exp(-epsilon)), which rounds to 1 early.
        right, wrong = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
        log = self._choose + self._count * right + (self._r - self._count) * wrong
        mass: NDArray[np.float64] = np.exp(log)
        p = float(mass[self._v :].sum())
        if self._cost and self._v:
            below = mass[: self._v][::-1].cumsum()
            p += self._cost * float((below / np.arange(1, self._v + 1)).max())
        return min(1.0, p)


# --- the audit ------------------------------------------------------------------------------------


def run_canaries(task: Audit, spec: CanaryAudit, bench: Bench) -> Steps:
    """Raises BadInput if the run had no canaries, or another program's file is there instead."""
    kept = _read(task.model, bench)
    yield Progress(0, 2, "bounds")
    m, asked = len(kept.score), spec.guesses or None
    if asked is not None and asked > m:
        raise BadInput(f"guesses: the run had {m} canaries; expected at most so many guesses, or 0")
    bounds = [epsilon_lower_bound(kept.score, kept.included, kept.delta, spec.confidence, asked)]
    claims = [kept.claimed]
    yield Progress(1, 2, "bounds")
    sharpest = _sharpest(kept, spec.confidence)
    if sharpest is not None and sharpest[0] != kept.delta:
        delta, claimed = sharpest
        bounds.append(epsilon_lower_bound(kept.score, kept.included, delta, spec.confidence, asked))
        claims.append(claimed)
    unmet = [
        f"epsilon at most {claimed:.4g} was promised at delta {bound.delta:g}; the canaries show "
        f"that it is at least {bound.epsilon:.4g}, with a confidence of {spec.confidence:.4%}"
        for bound, claimed in zip(bounds, claims, strict=True)
        if claimed is not None and bound.epsilon > claimed
    ]
    yield from _tables(bounds, claims, kept, unmet)
    yield from _notes(bounds[-1], claims[-1], unmet, spec)
    yield Progress(2, 2, "bounds")
    first = bounds[0]
    summary: Summary = {"unmet": unmet} if unmet else {}
    return summary | plain(
        {
            "flags": [CONTRADICTED] if unmet else [],
            "epsilon_lower_bound": first.epsilon,
            "epsilon": kept.claimed,
            "epsilon_reach": reach(m, kept.delta, spec.confidence),
            "delta": kept.delta,
            "confidence": spec.confidence,
            "canaries": m,
            "guesses": first.guesses,
            "right": first.right,
        }
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run kept of its canaries, and what it promises: epsilon at `delta`, and by which
    noise, sample rate and steps; None where it does not say."""

    score: Tensor
    included: Tensor
    delta: float
    claimed: float | None
    charge: tuple[float, float, int] | None


def _read(ref: str, bench: Bench) -> Kept:
    if ref.endswith((".safetensors", ".age")):
        raise BadInput(
            f"{ref} is a file: what its training did with canaries is not in it. Audit the run "
            "that trained it"
        )
    run = Workspace(bench.workspace, create=False).find(ref)
    path = run.folder / FILE
    if not path.is_file():
        raise BadInput(
            f"run {ref!r} had no canaries, by which alone it could be audited. Train with "
            'privacy = {kind = "dpsgd", canaries = 1000} and audit that run'
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            score, included = file.get_tensor("score"), file.get_tensor("included")
        delta = float(about["delta"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged, or another version's: {error}") from None
    names = ("noise_multiplier", "sample_rate", "steps")
    charge = None
    if all(isinstance(about.get(name), int | float) for name in names):
        charge = (float(about[names[0]]), float(about[names[1]]), int(about[names[2]]))
    claimed = run.info().summary.get("epsilon")
    return Kept(score, included, delta, claimed, charge)


def reach(m: int, delta: float, confidence: float) -> float:
    """The bound where all of m canaries are guessed right: no larger one can be shown."""
    return rejected(m, m, m, delta, 1 - confidence)


def _sharpest(kept: Kept, confidence: float) -> tuple[float, float] | None:
    """The delta at which the promise could be contradicted by most, and what is promised there.
    Neither scores nor coins are looked at."""
    if kept.claimed is None or kept.charge is None:
        return None
    from engine.privacy import epsilon

    noise, rate, steps = kept.charge
    promised = {kept.delta: kept.claimed}
    for k in range(1, SMALLER + 1):
        delta = kept.delta * 10.0**-k
        promised[delta] = epsilon(noise, rate, steps, delta)
    m = len(kept.score)
    return max(promised.items(), key=lambda p: reach(m, p[0], confidence) - p[1])


def _tables(
    bounds: Sequence[Bound], claims: Sequence[float | None], kept: Kept, unmet: list[str]
) -> Iterator[Event]:
    """Flags; the bounds beside what is promised; where the scores of both kinds lie."""
    yield Table("flags", FLAG_COLUMNS, tuple((CONTRADICTED, text, None) for text in unmet))
    columns = ("delta", "epsilon_lower_bound", "epsilon", "guesses", "right", "canaries")
    rows = tuple(
        (b.delta, b.epsilon, claimed, b.guesses, b.right, b.canaries)
        for b, claimed in zip(bounds, claims, strict=True)
    )
    yield Table("bounds", columns, rows)
    values = _numbers(kept.score)
    low, high = float(values.min()), float(values.max())
    edges = torch.linspace(low, high if high > low else low + 1, BINS + 1, dtype=torch.float64)
    places = torch.bucketize(values, edges[1:-1])
    included = kept.included.bool()
    inside = torch.bincount(places[included], minlength=BINS).tolist()
    outside = torch.bincount(places[~included], minlength=BINS).tolist()
    each = zip(edges[:-1].tolist(), edges[1:].tolist(), inside, outside, strict=True)
    yield Table("canaries", ("from", "to", "in", "out"), tuple(each))


def _notes(
    bound: Bound, claimed: float | None, unmet: list[str], spec: CanaryAudit
) -> Iterator[Event]:
    """`bound` and `claimed` are those by which the promise could be contradicted most."""
    for text in unmet:
        yield Note("error", f"rejected: {text}")
    if claimed is None:
        yield Note("warning", "the run promises no epsilon that the bound could be held against")
        return
    most = reach(bound.canaries, bound.delta, spec.confidence)
    if most <= claimed:
        yield Note(
            "warning",
            f"{bound.canaries} canaries show an epsilon of at most {most:.3f}, even where every "
            f"guess is right, and {claimed:.3f} is promised: this audit could not contradict it. "
            "Train with more canaries.",
        )
