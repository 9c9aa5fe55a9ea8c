"""Searches for the smallest perturbation: DeepFool, Carlini-Wagner, DDN, FMN."""

from __future__ import annotations

import math
import statistics
from typing import TypeAlias

from torch import Tensor

from engine.attacks import attack
from engine.attacks.spec import DDN, FMN, CarliniWagner, DeepFool
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.judging import Pairs, duel, judge, relative
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

Search: TypeAlias = DeepFool | CarliniWagner | DDN | FMN

LARGER = 1.01
"""How much larger than the best peer's our median norm may be."""

DEAR = 100
"""Images of Carlini-Wagner, which takes a second for three."""


def main(setting: Setting) -> list[Row]:
    """A row for each net and attack."""
    specs: list[tuple[Search, int]] = [
        (DeepFool(norm="l2"), 100),
        (DeepFool(norm="linf"), 100),
        (CarliniWagner(), 1000),
        (DDN(), 100),
        (FMN(norm="l0"), 100),
        (FMN(norm="l1"), 100),
        (FMN(norm="l2"), 100),
        (FMN(norm="linf"), 100),
    ]
    rows = []
    for on in map(Subject.correct, subjects(setting)):
        for spec, steps in specs:
            dear = isinstance(spec, CarliniWagner)
            few = DEAR // (10 if setting.quick else 1) if dear else len(on.labels)
            whole = spec.model_copy(update={"steps": steps})
            rows.append(_compare(on, whole, few, 1 if dear else setting.repeats))
            print(f"    {rows[-1].what}: {rows[-1].figure}", flush=True)
    return rows


def _compare(on: Subject, spec: Search, few: int, repeats: int) -> Row:
    images, labels = on.images[:few], on.labels[:few]
    norm, steps = spec.norm, spec.steps
    peers = libraries.minimal(spec.kind, norm, steps)

    def ours(turn: int) -> Tensor:
        return attack(on.model, images, labels, spec).adversarial

    seconds, found = duel(
        {"ours": ours, "adv-lib": lambda turn: peers["adv-lib"](on.model, images, labels)},
        repeats,
        warm=repeats > 1,
    )
    late, others = duel(
        {"Foolbox": lambda turn: peers["Foolbox"](on.model, images, labels)}, 1, warm=False
    )
    found, seconds = found | others, seconds | late
    verdicts = {
        name: judge(on.model, images, labels, each[-1], norm) for name, each in found.items()
    }
    mine = verdicts.pop("ours")
    best = min(verdicts, key=lambda name: verdicts[name].median)
    most = max(verdict.success for verdict in verdicts.values())
    share = ratios(seconds["ours"], seconds["adv-lib"])
    no_larger = mine.median <= LARGER * verdicts[best].median
    rarer = [name for name in verdicts if Pairs.of(mine, verdicts[name]).weaker]
    as_often = not rarer and (mine.success == 1.0 or most < 1.0)
    each = "; ".join(
        f"{name} {statistics.median(seconds[name]):.2f} s, median {verdict.median:.4g}, success "
        f"{verdict.success:.1%}, ours {relative(mine, verdict)}"
        for name, verdict in verdicts.items()
    )
    return Row(
        f"{spec.kind} {norm}, {on.name} net, {len(labels)} images, {steps} steps: CPU against "
        "adv-lib, norm against the best",
        f"<= 1, median norm <= {LARGER} x, success 100 % where a peer's is",
        spread(share),
        statistics.median(share) <= 1 and no_larger and as_often,
        f"ours {statistics.median(seconds['ours']):.2f} s, median {mine.median:.4g} "
        f"({share_of(mine.median, verdicts[best].median)} {best}'s), success {mine.success:.1%}; "
        + each
        + ("" if no_larger else ". Norm too large")
        + ("" if as_often else ". Success too rare"),
    )


def share_of(ours: float, best: float) -> str:
    """Our median norm in the best peer's, where both broke half of the samples."""
    return f"{ours / best:.3f} of" if math.isfinite(ours) and math.isfinite(best) else "against"
