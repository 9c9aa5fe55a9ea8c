"""AutoAttack, the standard version, against its authors' code."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from engine.attacks import AutoAttack
from engine.attacks.driver import perturb
from engine.events import drain
from tests.benchmarks.peers import libraries
from tests.benchmarks.peers.bf16 import bf16
from tests.benchmarks.peers.judging import Verdict, duel, judge
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 0.5

Precision: TypeAlias = Literal["float32", "bf16"]


def main(setting: Setting) -> list[Row]:
    """Two rows for each net that was trained against attacks, with steps in float32 and in bf16; of
    other nets nothing is left."""
    return [row for on in subjects(setting) if on.hardened for row in _compare(on, setting)]


def _compare(on: Subject, setting: Setting) -> list[Row]:
    spec = AutoAttack(eps=on.eps)
    ids = torch.arange(len(on.labels))

    def ours(turn: int, precision: Precision) -> Tensor:
        steps = perturb(
            on.model, on.images, on.labels, spec, seed=turn, ids=ids, precision=precision
        )
        found = drain(steps).adversarial
        print(f"    autoattack: ours in {precision}, seed {turn}, done", flush=True)
        return found

    def theirs(turn: int) -> Tensor:
        found = libraries.autoattack("linf", on.eps, turn)(on.model, on.images, on.labels)
        print(f"    autoattack: theirs, seed {turn}, done", flush=True)
        return found

    ways: dict[str, Callable[[int], Tensor]] = {"float32": partial(ours, precision="float32")}
    if bf16():
        ways["bf16"] = partial(ours, precision="bf16")
    seconds, found = duel({**ways, "theirs": theirs}, setting.seeds, warm=False)
    verdicts = {
        name: [judge(on.model, on.images, on.labels, x, "linf", on.eps) for x in each]
        for name, each in found.items()
    }
    return [_row(on, setting, way, seconds, verdicts) for way in ways]


def _row(
    on: Subject,
    setting: Setting,
    way: str,
    seconds: dict[str, list[float]],
    verdicts: dict[str, list[Verdict]],
) -> Row:
    never = beyond_noise(verdicts[way], verdicts["theirs"])
    reverse = beyond_noise(verdicts["theirs"], verdicts[way])
    share = ratios(seconds[way], seconds["theirs"])
    each = "; ".join(
        f"{name}: {statistics.median(seconds[key]):.1f} s, robust "
        + ", ".join(verdict.accuracy() for verdict in verdicts[key])
        for name, key in (("ours", way), ("theirs", "theirs"))
    )
    swings = ", ".join(f"{key} {undecided(verdicts[key])}" for key in (way, "theirs"))
    ours_alone, theirs_alone = _places(reverse, on), _places(never, on)
    return Row(
        f"AutoAttack standard linf, {on.name} net, eps {on.eps:.3g}, {len(on.labels)} images, "
        f"{setting.seeds} seeds, steps in {way}: CPU against the original",
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
