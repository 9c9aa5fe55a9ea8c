"""AutoAttack, the standard version, against its authors' code."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from engine.attacks import AutoAttack, attack
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.judging import Verdict, duel, judge
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 0.5


def main(setting: Setting) -> list[Row]:
    """A row for each net that was trained against attacks; of the others nothing is left."""
    return [_compare(on, setting) for on in subjects(setting) if on.hardened]


def _compare(on: Subject, setting: Setting) -> Row:
    spec = AutoAttack(eps=on.eps)

    def ours(turn: int) -> Tensor:
        generator = torch.Generator().manual_seed(turn)
        found = attack(on.model, on.images, on.labels, spec, generator=generator).adversarial
        print(f"    autoattack: ours, seed {turn}, done", flush=True)
        return found

    def theirs(turn: int) -> Tensor:
        found = libraries.autoattack("linf", on.eps, turn)(on.model, on.images, on.labels)
        print(f"    autoattack: theirs, seed {turn}, done", flush=True)
        return found

    seconds, found = duel({"ours": ours, "theirs": theirs}, setting.seeds, warm=False)
    verdicts = {
        name: [judge(on.model, on.images, on.labels, x, "linf", on.eps) for x in each]
        for name, each in found.items()
    }
    never = beyond_noise(verdicts["ours"], verdicts["theirs"])
    reverse = beyond_noise(verdicts["theirs"], verdicts["ours"])
    share = ratios(seconds["ours"], seconds["theirs"])
    each = "; ".join(
        f"{name}: {statistics.median(seconds[name]):.1f} s, robust "
        + ", ".join(verdict.accuracy() for verdict in verdicts[name])
        for name in found
    )
    swings = ", ".join(f"{name} {undecided(verdicts[name])}" for name in found)
    ours_alone, theirs_alone = _places(reverse, on), _places(never, on)
    return Row(
        f"AutoAttack standard linf, {on.name} net, eps {on.eps:.3g}, {len(on.labels)} images, "
        f"{setting.seeds} seeds: CPU against the original",
        f"<= {TARGET}, no sample robust here and broken there beyond seed noise",
        spread(share),
        statistics.median(share) <= TARGET and not never,
        f"{each}. Robust in all our runs and broken in all of theirs: {theirs_alone}; the reverse: "
        f"{ours_alone}; differ from seed to seed: {swings}",
    )


def beyond_noise(ours: list[Verdict], theirs: list[Verdict]) -> list[int]:
    """Samples that none of our runs broke, and each of theirs: positions in the batch."""
    robust = torch.stack([verdict.robust for verdict in ours]).all(0)
    broken = torch.stack([verdict.broken for verdict in theirs]).all(0)
    places: list[int] = (robust & broken).nonzero().squeeze(1).tolist()
    return places


def undecided(runs: list[Verdict]) -> int:
    """How many samples some runs broke and others did not."""
    broken = torch.stack([verdict.broken for verdict in runs])
    return int((broken.any(0) & ~broken.all(0)).sum())


def _places(found: list[int], on: Subject) -> str:
    if not found:
        return "none"
    return f"{len(found)} (test images {', '.join(str(int(on.places[k])) for k in found)})"
