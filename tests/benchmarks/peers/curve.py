"""The curve of robust accuracy over 20 radii, in runs of PGD."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from engine.attacks import PGD
from engine.attacks.driver import perturb
from engine.attacks.running import Chosen
from engine.bench import Bench
from engine.events import drain
from engine.robustness.curve import STEPS, Curve, grid, trace
from engine.robustness.evaluating import subject_of
from engine.task import BenchSpec
from tests.benchmarks.peers.judging import duel
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 3
POINTS = 20


def main(setting: Setting) -> list[Row]:
    """A row for each net."""
    return [_compare(on, setting) for on in subjects(setting)]


def _compare(on: Subject, setting: Setting) -> Row:
    right = on.correct()
    ids = torch.arange(len(right.labels))
    spec = PGD(eps=on.eps, steps=STEPS, step_size=2.5 * on.eps / STEPS)
    radii = grid(on.eps, POINTS, "linf")
    curves: list[Curve] = []

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Path(folder), spec=BenchSpec(device="cpu", threads=1))
        subject = drain(subject_of(Chosen(on.model, on.data, on.places, False), bench, 500))

        def curve(turn: int) -> Tensor:
            known = torch.full((len(subject),), float("inf"), dtype=torch.float64)
            curves.append(drain(trace(subject, radii, "linf", known)))
            return curves[-1].first

        def run(turn: int) -> Tensor:
            steps = perturb(
                on.model, right.images, right.labels, spec, seed=turn, ids=ids, early_exit=False
            )
            return drain(steps).adversarial

        seconds, _ = duel({"curve": curve, "run": run}, setting.repeats * 2)
    share = ratios(seconds["curve"], seconds["run"])
    found = curves[-1]
    points = ", ".join(
        f"{found.radii[k]:.3g}: {found.robust(k) / len(subject):.3f}" for k in range(3, POINTS, 4)
    )
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return Row(
        f"curve over {POINTS} radii, {on.name} net, {len(subject)} images: CPU in runs of "
        f"PGD-{STEPS} without exit",
        f"<= {TARGET}",
        spread(share),
        statistics.median(share) <= TARGET and found.runs <= TARGET,
        f"{middle['curve']:.2f} s and {middle['run']:.2f} s; {found.runs:.2f} runs by gradients; "
        f"robust at {points}",
    )
