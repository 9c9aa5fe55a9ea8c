"""What early exit and gradient steps in bf16 save together, and what they find."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from torch import Tensor

from engine.attacks import PGD
from engine.attacks.driver import AttackResult, perturb
from engine.events import drain
from tests.benchmarks.peers.judging import Pairs, duel, judge
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 0.6
POINTS = 0.006
FLAGS = {"avx512_bf16", "amx_bf16"}


def main(setting: Setting) -> list[Row]:
    """A row for each net; skipped where the processor has no bf16."""
    if not bf16():
        what = "PGD-40 linf with exit and bf16 steps against full float32"
        return [Row(what, f"<= {TARGET}", "skipped: neither AVX512-BF16 nor AMX here")]
    return [_compare(on, setting) for on in subjects(setting)]


def _compare(on: Subject, setting: Setting) -> Row:
    spec = PGD(eps=on.eps, steps=40, step_size=on.eps / 30)
    ids = torch.arange(len(on.labels))
    results: dict[str, AttackResult] = {}

    def way(name: str, turn: int) -> Tensor:
        results[name] = drain(
            perturb(
                on.model,
                on.images,
                on.labels,
                spec,
                seed=turn,
                ids=ids,
                early_exit=name != "full",
                precision="bf16" if name == "bf16" else "float32",
            )
        )
        return results[name].adversarial

    names = ("full", "exit", "bf16")
    ways = {name: (lambda turn, name=name: way(name, turn)) for name in names}
    seconds, found = duel(ways, setting.repeats * 2)
    verdicts = {
        name: judge(on.model, on.images, on.labels, found[name][-1], "linf", on.eps)
        for name in names
    }
    apart = abs(verdicts["bf16"].robust.double().mean() - verdicts["exit"].robust.double().mean())
    unverified = int((results["bf16"].success & ~verdicts["bf16"].broken).sum())
    share = ratios(seconds["bf16"], seconds["full"])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return Row(
        f"PGD-40 linf, {on.name} net, eps {on.eps:.3g}, {len(ids)} images, exit and bf16 steps: "
        "CPU against all steps in float32",
        f"<= {TARGET}, within .6 points, all verified",
        spread(share),
        statistics.median(share) <= TARGET and float(apart) <= POINTS and not unverified,
        f"{middle['full']:.2f} s full, {middle['exit']:.2f} s with exit, {middle['bf16']:.2f} s "
        f"with bf16 too; robust {verdicts['exit'].accuracy()} with exit in float32, "
        f"{verdicts['bf16'].accuracy()} in bf16, "
        f"{Pairs.of(verdicts['bf16'], verdicts['exit'])}; {unverified} successes not confirmed in "
        f"float32; robust after the last of all steps {verdicts['full'].accuracy()}",
    )


def bf16() -> bool:
    """Whether the processor computes in it, instead of imitating it."""
    return bool(FLAGS & _flags())


def _flags() -> set[str]:
    """What the processor can do, as Linux says it."""
    file = Path("/proc/cpuinfo")
    return set(file.read_text().split()) if file.exists() else set()
