"""A lower bound of epsilon from one run (Steinke, Nasr and Jagielski 2023).

Of m canaries each was in or out of the training set by a fair coin. The auditor guesses some of the
coins from the scores, and abstains on the others. If the training were (epsilon, delta)-private,
the number of right guesses would hardly exceed that of randomised response, which is right with
probability q = e^epsilon / (1 + e^epsilon) each time. The largest epsilon at which so many are less
likely than the error that is allowed is the lower bound; nobody has to trust the training for it.

How much less likely, a theorem says. Theirs, 5.2 (the code of their appendix D), is for a number of
guesses that is fixed before there are scores. Where delta is above zero, a number that the scores
choose would have to pay for all that they could have chosen. So here the scores choose, by another:
for whatever they choose, r guesses or any other number, and any i of 1 or more, fixed beforehand,

    P[right >= v(r)] <= max over r of P[Binomial(r, q) > v(r) - i] + m delta (1 - q) / i

Proof. Given what the training put out, and with it the guesses, and the coins before it, coin j is
as guessed with a probability rho_j. With the coins after it averaged over, the training is still
(epsilon, delta)-private in coin j. So the mean of the excess (rho_j - q)+ is, for either side that
may be guessed, a sum over what is put out of (P+ - q (P+ + P-))+ / 2 = (1 - q) (P+ - e^epsilon P-)+
/ 2, which is at most (1 - q) delta / 2; for both it is (1 - q) delta. Take uniform numbers u_j,
independent of what was put out, and let guess j be right where u_j <= rho_j. Then it is right by
luck, u_j <= q, or by excess, q < u_j <= rho_j. Luck is binomial whatever was put out, and r with
it; of excess there is m delta (1 - q) on average. Where v are right, luck exceeds v - i, or excess
comes up to i, which is m delta (1 - q) / i likely at most (Markov). (A test finds the worst
mechanism for three canaries by linear programming: it comes up to the bound.)

Which guesses, and how many, two normal distributions say that are fitted to the scores, without a
look at the coins: they tell how many can be expected to be right, and so which number promises the
largest bound.

A training whose noise is missing may stay below any bound that so many canaries can show. Where the
canaries that were left out show the noise by itself, that is tested beside (`engine.audits.noise`).
The confidence is that of both together: the tests of the noise take a tenth of the error.
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
from engine.audits.noise import Check, checks
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
OF_DELTA = 0.8
"""Share of the error of a bound that delta may take, at most: i is the least with which it does.
(Of .3 to .95 it gave the largest bounds for Gaussian mechanisms of deviation .5 to 2.)"""
OF_NOISE = 0.1
"""Share of the error that the tests of the noise may make."""
MOST = 30.0
"""Bounds beyond this are not told apart."""
GRID = 0.005
"""Distance of the epsilons that are tried where the scores choose how many are guessed."""
CLOSE = 1e-6
"""To which an epsilon is found, from below."""
BINS = 40
CONTRADICTED = "epsilon_contradicted"
QUIET = "noise_missing"
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
    many to guess, those that the scores are surest of (`_odds`); by default the scores decide
    (`promising`). Of several numbers the best counts, and each gets its share of 1 - confidence
    (Bonferroni). They must not be chosen by looking at `score` or `included`. Raises BadInput where
    they make no sense.
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
    hits = (included.bool().cpu().numpy() == looked.guess)[looked.order].cumsum()
    if guesses is None:
        number = promising(looked, delta, 1 - confidence)
        right = int(hits[number - 1])
        return Bound(shown(m, number, right, delta, 1 - confidence), delta, number, right, m)
    numbers = (guesses,) if isinstance(guesses, int) else tuple(guesses)
    if not numbers or min(numbers) < 1 or max(numbers) > m:
        raise BadInput(f"of {m} canaries 1 to {m} can be guessed, not {numbers}")
    level = (1 - confidence) / len(numbers)
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


def promising(looked: Look, delta: float, level: float) -> int:
    """How many of the canaries to guess: the number with the largest bound if as many guesses are
    right as the scores lead to expect; a quarter of them where they lead to expect nothing."""
    m = len(looked.order)
    if not bool((looked.sure > 0.501).any()):
        return max(1, round(OUTER * m))
    right = looked.sure[looked.order].cumsum()
    numbers = sorted({max(1, round(m * 0.8**k)) for k in range(STEPS)})
    return max(numbers, key=lambda r: shown(m, r, int(right[r - 1]), delta, level))


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


def shown(m: int, r: int, v: int, delta: float, level: float) -> float:
    """The largest epsilon that is rejected at `level`, and all smaller ones with it, because v of r
    guesses on m canaries were right, where the scores chose r; 0 if none is.

    Of a grid, from below. So a bound above the true epsilon needs the next point of the grid above
    that to be rejected, which the training fulfils too: one test, however they depend on epsilon.
    """
    from scipy.special import betainc

    epsilon = np.arange(0.0, MOST, GRID)
    wrong = 1 / (1 + np.exp(epsilon))
    cost = m * delta * wrong
    i = np.ceil(cost / (OF_DELTA * level)).clip(1)
    # P[Binomial(r, q) > v - i]
    lucky = np.where(i > v, 1.0, betainc((v - i + 1).clip(1), r - v + i, 1 - wrong))
    kept = (lucky >= level - cost / i).nonzero()[0]
    first = int(kept[0]) if len(kept) else len(epsilon)
    return float(epsilon[first - 1]) if first else 0.0


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
    m, asked = len(kept.score), spec.guesses or None
    if asked is not None and asked > m:
        raise BadInput(f"guesses: the run had {m} canaries; expected at most so many guesses, or 0")
    yield Progress(0, 2, "bounds")
    error = 1 - spec.confidence
    noise = _noise(kept, error * OF_NOISE)
    yield Progress(1, 2, "bounds")
    level = error * (1 - OF_NOISE) if kept.shows_noise else error
    bound = epsilon_lower_bound(kept.score, kept.included, kept.delta, 1 - level, asked)
    above = []
    if kept.claimed is not None and bound.epsilon > kept.claimed:
        above.append(
            f"epsilon at most {kept.claimed:.4g} was promised at delta {bound.delta:g}; the "
            f"canaries show that it is at least {bound.epsilon:.4g}, with a confidence of "
            f"{spec.confidence:.4%}"
        )
    quiet = {check: _objection(check) for check in noise if check.fails}
    rows: list[tuple[str, str, float | None]] = [(CONTRADICTED, text, None) for text in above]
    rows += [(QUIET, text, check.p) for check, text in quiet.items()]
    yield Table("flags", FLAG_COLUMNS, tuple(rows))
    yield from _tables(bound, noise, kept)
    unmet = [*above, *quiet.values()]
    reach = (
        rejected(m, asked, asked, kept.delta, level) if asked else shown(m, m, m, kept.delta, level)
    )
    yield from _notes(reach, unmet, kept, noise)
    yield Progress(2, 2, "bounds")
    summary: Summary = {"unmet": unmet} if unmet else {}
    return summary | plain(
        {
            "flags": [name for name, texts in ((CONTRADICTED, above), (QUIET, quiet)) if texts],
            "epsilon_lower_bound": bound.epsilon,
            "epsilon": kept.claimed,
            "epsilon_reach": reach,
            "noise_share": noise[0].found / noise[0].promised if noise else None,
            "noise_least": noise[0].limit / noise[0].promised if noise else None,
            "canary": kept.kind,
            "delta": kept.delta,
            "confidence": spec.confidence,
            "canaries": m,
            "guesses": bound.guesses,
            "right": bound.right,
        }
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run kept of its canaries, and what it promises: epsilon at `delta`, and the noise on
    each of its steps. None where it does not say."""

    score: Tensor
    included: Tensor
    kind: str | None
    delta: float
    claimed: float | None
    noise: Tensor | None
    promised: float | None
    steps: int | None

    @property
    def shows_noise(self) -> bool:
        """Whether the canaries that were left out tell how large the noise was."""
        return self.kind in ("gradient", "update") and bool(self.promised) and bool(self.steps)


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
            'privacy = {kind = "dpsgd", canaries = 1000}, or federate with privacy = {canaries = '
            "1000}, and audit that run"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        score, included, delta = tensors["score"], tensors["included"], float(about["delta"])
        noise = tensors.get("noise")
        fits = score.shape == included.shape and (noise is None or noise.shape == (3,))
        if score.ndim != 1 or not fits:
            raise ValueError("its tensors do not belong together")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged, or another version's: {error}") from None
    promised = about.get("noise")
    return Kept(
        score,
        included,
        about.get("kind"),
        delta,
        run.info().summary.get("epsilon"),
        noise,
        float(promised) if isinstance(promised, int | float) else None,
        int(about["steps"]) if isinstance(about.get("steps"), int) else None,
    )


def _noise(kept: Kept, error: float) -> list[Check]:
    if not kept.shows_noise:
        return []
    assert kept.promised is not None
    assert kept.steps is not None
    return checks(kept.score, kept.included, kept.noise, kept.promised, kept.steps, error)


def _objection(check: Check) -> str:
    if check.name == "between_steps":
        return (
            "noise comes again: over all steps it adds up to "
            f"{check.found:.4g} times as much as independent draws would, and up to "
            f"{check.limit:.4g} could be chance"
        )
    where = "in each step" if check.name == "each_step" else "over all steps"
    return (
        f"the noise is smaller than promised: {where}, its deviation is {check.found:.4g} clipping "
        f"norms a step, and {check.promised:.4g} was promised; {check.limit:.4g} could be chance"
    )


def _tables(bound: Bound, noise: Sequence[Check], kept: Kept) -> Iterator[Event]:
    """The bound beside what is promised; the noise; where the scores of both kinds lie."""
    columns = ("delta", "epsilon_lower_bound", "epsilon", "guesses", "right", "canaries")
    row = bound.delta, bound.epsilon, kept.claimed, bound.guesses, bound.right, bound.canaries
    yield Table("bounds", columns, (row,))
    if noise:
        rows = tuple(tuple(check[:5]) for check in noise)
        yield Table("noise", ("noise", "promised", "found", "limit", "p"), rows)
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
    reach: float, unmet: Sequence[str], kept: Kept, noise: Sequence[Check]
) -> Iterator[Event]:
    """`reach`: the bound where all guesses are right; no larger one can be shown."""
    for text in unmet:
        yield Note("error", f"rejected: {text}")
    if kept.kind == "sample":
        yield Note(
            "warning",
            "these canaries are training images, whose losses do not show the noise: that it is "
            "missing, or too small, this audit can hardly tell. Train with gradient canaries for "
            "one that can.",
        )
    elif not noise:
        yield Note(
            "warning",
            "the run kept too little of its noise to tell whether that was as large as promised",
        )
    if kept.claimed is None:
        yield Note("warning", "the run promises no epsilon that the bound could be held against")
    elif reach <= kept.claimed:
        yield Note(
            "warning",
            f"{len(kept.score)} canaries show an epsilon of at most {reach:.3f}, even where every "
            f"guess is right, and {kept.claimed:.3f} is promised: the bound could not contradict "
            "it. Train with more canaries.",
        )
