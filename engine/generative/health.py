"""What goes wrong in a gan run, told from what it says: each trouble with its evidence, and two
things to try.

A `Watch` hears the figures of one seed as they come and is asked at each look. What it keeps is
short, so that a checkpoint holds it. The thresholds are rules of thumb; each stands by its name and
reason, and tests hold them against runs that were broken on purpose.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.generative.spec.gan import Gan
from engine.generative.spec.losses import NonSaturating, Relativistic
from engine.task import Spec, extra_of

COLUMNS = ("seed", "trouble", "evidence", "try_1", "try_2")

PATIENCE = 3
"""Looks in a row that show a trouble before it is said, and that do not before it is over."""

EARLY = 0.1
"""Share of the iterations in which a generator may still be on its way to the modes."""

SETTLED = 0.3
"""Share of the iterations in which samples may still go from mode to mode, and images still be on
their way to being many."""

STILL = 0.5
"""Share of the iterations in which images may still change from look to look."""

FEW_MODES = 0.5
"""Share of the modes below which a generator has collapsed."""

NARROW = 0.3
"""Diversity, of the data's, below which it has."""

WON = 0.05
"""Critic's loss, as a share of what guessing costs, below which the critic has won."""

FADED = 0.1
"""Length of the generator's gradient, of what it was at its best, that is then left."""

EXPLODED = 100.0
"""Times the usual gradient that the longest one is; and most since the last look `LASTS` times."""

LASTS = 5.0

SCATTERED = 10.0
"""Diversity, of the data's, above which samples have left the picture, which reaches 1.25 times as
far as the data. Generators begin narrow; on their way the widest healthy ones came to 2, one that
was on the verge to 4, and those that ran away to 1,000 and more within two looks."""

FASTEST = 1e-2
"""Rate of Adam, above which it is the first thing to be lowered; none above it is proposed."""

SWINGS = 0.35
"""Share of the samples that are in another mode at each look: total variation between two looks."""

OUTPACES = 2.0
"""Times the critic's rate and steps, at which a generator's are too fast for it."""

NEARER = 0.5
"""Median distance of samples to the nearest training image, over that of images kept aside."""

NETWORKS = ("generator", "critic")

S = TypeVar("S", bound=Spec)

KEPT = 24
"""Looks that are remembered."""

MOST_NOISE, MOST_R1 = 10.0, 1e6
"""What can be set, at most."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of one seed at a look. `share` of the run is over; `reached` of `modes` modes
    have samples, 0 where there are none; `moved`: what share of the samples went elsewhere since
    the last look. That and `nearer` are None where they were not measured."""

    share: float
    reached: int = 0
    modes: int = 0
    diversity: float = 1.0
    moved: float | None = None
    nearer: float | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """`kind` is one of collapse, critic_wins, oscillation, exploding, memorising. What to try is
    `field=value`, of a live value or of a spec."""

    kind: str
    evidence: str
    try_1: str
    try_2: str


@dataclass(slots=True)
class Watch:
    """What is remembered of one seed."""

    losses: list[float] = field(default_factory=list)
    """Of the critic, one a look."""
    generator: list[float] = field(default_factory=list)
    """Lengths of the generator's gradient, one a look; `critic` those of the critic's."""
    critic: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    best: float = 0.0
    """Of the generator's gradient, the longest usual one."""
    nearer: float | None = None
    """As it was measured last, which is not at every look."""
    counts: dict[str, int] = field(default_factory=dict)
    """Looks in a row that show a trouble; below zero, that do not."""
    begun: list[str] = field(default_factory=list)
    told: dict[str, list[str]] = field(default_factory=dict)
    """Of what has begun the evidence and what to try, as they were found last."""
    fresh: dict[str, list[float]] = field(default_factory=dict)
    """What was said since the last look."""

    def hear(self, values: Mapping[str, float]) -> None:
        """Figures of one said iteration by name, as in critic/loss."""
        for name, value in values.items():
            self.fresh.setdefault(name, []).append(value)

    def look(self, spec: Gan, look: Look) -> list[Trouble]:
        """The troubles that there are now, in the order in which they began. `spec` is as it holds
        now (see `as_set`): what is proposed begins there. While something explodes it stands alone:
        whatever else would show is what comes of it."""
        fresh, self.fresh = self.fresh, {}
        for name, kept in (
            ("critic/loss", self.losses),
            ("generator/gradient_norm", self.generator),
            ("critic/gradient_norm", self.critic),
        ):
            if fresh.get(name):
                kept.append(statistics.median(fresh[name]))
                del kept[:-KEPT]
        if look.moved is not None:
            self.moved.append(look.moved)
            del self.moved[:-KEPT]
        if len(self.generator) >= PATIENCE:
            self.best = max(self.best, statistics.median(self.generator[-PATIENCE:]))
        exploding = self._scattered(spec, look) or self._exploding(spec, fresh)
        others = (
            self._collapse(spec, look),
            self._critic_wins(spec),
            self._oscillation(spec, look),
            self._memorising(spec, look),
        )
        alone = exploding is not None or "exploding" in self.begun
        found = [each for each in ((exploding,) if alone else others) if each is not None]
        self._remember(found)
        return [Trouble(kind, *self.told[kind]) for kind in self.begun]

    def _remember(self, found: Sequence[Trouble]) -> None:
        """What has shown for long enough begins, what has not is over."""
        shown = {each.kind: [each.evidence, each.try_1, each.try_2] for each in found}
        if "exploding" in shown:  # the others begin from nothing when it is over
            self.begun, self.counts = [], {"exploding": self.counts.get("exploding", 0)}
        self.told |= shown
        for kind in {*shown, *self.counts}:
            before = self.counts.get(kind, 0)
            self.counts[kind] = max(before, 0) + 1 if kind in shown else min(before, 0) - 1
        for kind, count in sorted(self.counts.items()):
            at_once = kind in ("exploding", "memorising")
            if kind not in self.begun and count >= (1 if at_once else PATIENCE):
                self.begun.append(kind)
            elif kind in self.begun and count <= -PATIENCE:
                self.begun.remove(kind)

    # --- the troubles -----------------------------------------------------------------------------

    def _collapse(self, spec: Gan, look: Look) -> Trouble | None:
        if look.share < (EARLY if look.modes else SETTLED):
            return None
        few = look.modes > 1 and look.reached < max(2, math.ceil(FEW_MODES * look.modes))
        if not few and look.diversity >= NARROW:
            return None
        evidence = [f"diversity={look.diversity:.2f}"]
        if look.modes:
            evidence.insert(0, f"modes_reached={look.reached}, modes={look.modes}")
        return Trouble("collapse", ", ".join(evidence), *_against_collapse(spec))

    def _critic_wins(self, spec: Gan) -> Trouble | None:
        if not spec.loss.probability and not isinstance(spec.loss, Relativistic):
            return None  # its loss has no level at which it has won
        guessing = math.log(2.0) * (2.0 if spec.loss.probability else 1.0)
        if len(self.losses) < PATIENCE or len(self.generator) < PATIENCE or not self.best:
            return None
        loss = statistics.median(self.losses[-PATIENCE:])
        gradient = statistics.median(self.generator[-PATIENCE:])
        # Where the generator's loss does not saturate its gradient stays long; but it is of no use.
        faded = gradient < FADED * self.best or isinstance(spec.loss, NonSaturating | Relativistic)
        if loss > WON * guessing or not faded:
            return None
        return Trouble(
            "critic_wins",
            f"critic_loss={loss:.2g}, generator_gradient={gradient:.2g}, before={self.best:.2g}",
            "loss.kind=non_saturating" if spec.loss.kind == "minimax" else _noisier(spec),
            _slower(spec, "critic"),
        )

    def _oscillation(self, spec: Gan, look: Look) -> Trouble | None:
        if look.share < (SETTLED if look.modes else STILL) or len(self.moved) < 2 * PATIENCE:
            return None
        swing = statistics.median(self.moved[-2 * PATIENCE :])
        if swing < SWINGS:
            return None
        return Trouble(
            "oscillation",
            f"swing={swing:.2f}",
            _penalised(spec, 0.1),
            _slower(spec, "generator"),
        )

    def _scattered(self, spec: Gan, look: Look) -> Trouble | None:
        if look.diversity <= SCATTERED:  # which no number is not either
            return None
        evidence = f"scattered={look.diversity:.2g}"
        return Trouble("exploding", evidence, _slower(spec, "generator"), _slower(spec, "critic"))

    def _exploding(self, spec: Gan, fresh: Mapping[str, list[float]]) -> Trouble | None:
        for name, kept in (("critic", self.critic), ("generator", self.generator)):
            if len(kept) < 2 * PATIENCE:
                continue
            usual, now = statistics.median(kept[:-1]), fresh.get(f"{name}/gradient_norm", [0.0])
            highest = max(now)
            # A single long one is a stumble, from which Adam recovers by itself.
            if usual > 0 and highest > EXPLODED * usual and statistics.median(now) > LASTS * usual:
                clip = spec.rates.clip / 4 or 1.0
                return Trouble(
                    "exploding",
                    f"network={name}, gradient_norm={highest:.2g}, before={usual:.2g}",
                    _slower(spec, name),
                    f"rates.clip={clip:g}",
                )
        return None

    def _memorising(self, spec: Gan, look: Look) -> Trouble | None:
        if look.nearer is not None:
            self.nearer = look.nearer
        if self.nearer is None or self.nearer >= NEARER:
            return None
        return Trouble(
            "memorising",
            f"nearer={self.nearer:.2f}",
            "steadying.augment=translation,cutout,colour",
            _penalised(spec, 1.0),
        )

    # --- going on ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def as_set(spec: S, values: Mapping[str, float]) -> S:
    """`spec` with live values as they were set on the way."""
    update: dict[str, Any] = {}
    for name, about in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            update[name] = as_set(value, values)
        elif name in values and extra_of(about).get("live"):
            update[name] = type(value)(values[name])
    return spec.model_copy(update=update)


def _slower(spec: Gan, network: str, most: float = FASTEST) -> str:
    """A quarter of its rate, or less: no more than `most`, and never what is too fast."""
    name = f"{network}_lr"
    return f"{name}={min(FASTEST, most, getattr(spec.rates, name) / 4):.2g}"


def _noisier(spec: Gan) -> str:
    return f"instance_noise={min(MOST_NOISE, max(0.5, 2 * spec.steadying.instance_noise)):.2g}"


def _penalised(spec: Gan, least: float) -> str:
    return f"r1={min(MOST_R1, max(least, 4 * spec.steadying.r1)):.2g}"


def _against_collapse(spec: Gan) -> tuple[str, str]:
    """Rates that are too high for anything come first. A generator that outpaces its critic piles
    up where that is high just now: slow it down, or let the critic keep up. Else let the critic see
    further."""
    rates = spec.rates
    pace = rates.generator_lr * spec.generator_steps
    more = f"critic_steps={min(100, max(5, 2 * spec.critic_steps))}"
    fast = [each for each in NETWORKS if getattr(rates, f"{each}_lr") > FASTEST]
    if len(fast) == 2:
        return _slower(spec, "generator"), _slower(spec, "critic")
    if pace > OUTPACES * rates.critic_lr * max(1, spec.critic_steps):
        return _slower(spec, "generator", rates.critic_lr), more
    if fast:
        return _slower(spec, fast[0]), more
    if spec.loss.kind == "minimax":
        return _noisier(spec), "loss.kind=non_saturating"
    return _noisier(spec), more
