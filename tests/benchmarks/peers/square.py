"""Square, 1,000 queries, against its authors' code."""

from __future__ import annotations

import statistics
from functools import reduce
from operator import add

import torch
from torch import Tensor

from engine.attacks import Square, attack
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.judging import Pairs, duel, judge
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread


def main(setting: Setting) -> list[Row]:
    """A row for each net."""
    queries = 200 if setting.quick else 1000
    return [_compare(on, queries, setting) for on in subjects(setting)]


def _compare(on: Subject, queries: int, setting: Setting) -> Row:
    spec = Square(eps=on.eps, steps=queries, rescale_schedule=False)

    def ours(turn: int) -> Tensor:
        generator = torch.Generator().manual_seed(turn)
        return attack(on.model, on.images, on.labels, spec, generator=generator).adversarial

    def theirs(turn: int) -> Tensor:
        return libraries.authors_square("linf", on.eps, queries, turn)(
            on.model, on.images, on.labels
        )

    seconds, found = duel({"ours": ours, "theirs": theirs}, max(setting.seeds, setting.repeats))
    verdicts = {
        name: [judge(on.model, on.images, on.labels, x, "linf", on.eps) for x in each]
        for name, each in found.items()
    }
    pairs = reduce(add, map(Pairs.of, verdicts["ours"], verdicts["theirs"]))
    share = ratios(seconds["ours"], seconds["theirs"])
    each = "; ".join(
        f"{name} {statistics.median(seconds[name]):.2f} s, robust "
        + ", ".join(verdict.accuracy() for verdict in verdicts[name])
        for name in found
    )
    return Row(
        f"Square linf, {on.name} net, eps {on.eps:.3g}, {len(on.labels)} images, {queries} "
        "queries: CPU against the original",
        "<= 1, same accuracy",
        spread(share),
        (statistics.median(share) <= 1 and not pairs.weaker) if setting.whole else None,
        f"{each}; over all seeds {pairs}",
    )
