"""What the stability instruments cost a training: light and full against off.

The training loop takes the same steps three times, from the same weights to the same weights
(that is asserted), in turn in one process; CPU seconds of one thread, everything included that is
computed or said, the store apart. Each ratio is of the same turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.events import drain
from engine.models import weights_sha256
from engine.models.spec import CNN, MLP, ModelSpec
from engine.task import BenchSpec
from engine.training.loop import Trainer
from engine.training.spec import Train
from engine.training.starting import first_model
from tests.benchmarks.rows import Row, in_turn, ratios, spread

LIGHT, FULL = 1.05, 1.5
REPEATS = 7


def main(data_root: Path | None = None) -> list[Row]:
    """Two rows each for a small CNN on digits, the same on images of MNIST's size, an MLP as
    small as those on points in the plane, and one of 30 layers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Path(folder), spec=BenchSpec(device="cpu", threads=1))
        digits = drain(load(Digits(), bench))
        large = drain(load(Digits(size=28), bench))
        for name, data, model, batch, epochs in (
            ("CNN on digits", digits, CNN(), 64, 12),
            ("CNN on digits at 28 x 28", large, CNN(), 128, 4),
            ("MLP 64 x 2 on digits", digits, MLP(width=64), 128, 40),
            ("MLP of 30 layers on digits", digits, MLP(width=64, depth=30), 64, 12),
        ):
            rows += _compare(name, data, model, batch, epochs)
    return rows


def _compare(name: str, data: Dataset, model: ModelSpec, batch: int, epochs: int) -> list[Row]:
    weights: set[str] = set()
    ways = {
        mode: _trainer(data, model, batch, epochs, mode, weights)
        for mode in ("off", "light", "full")
    }
    seconds = in_turn(ways, REPEATS)
    assert len(weights) == 1, "what is looked at is another training"
    rows = []
    for mode, target in (("light", LIGHT), ("full", FULL)):
        found = ratios(seconds[mode], seconds["off"])
        rows.append(
            Row(
                f"training with diagnostics {mode} / off, {name}, 1 thread",
                f"<= {target}",
                spread(found),
                statistics.median(found) <= target,
                f"{statistics.median(seconds['off']):.2f} CPU s without; the same weights",
            )
        )
    return rows


def _trainer(
    data: Dataset, model: ModelSpec, batch: int, epochs: int, mode: str, weights: set[str]
) -> Callable[[], float]:
    spec = Train(model=model, batch_size=batch, epochs=epochs, seed=7, diagnostics=mode)

    def train() -> float:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(
                Path(folder), Path(folder), seed=7, spec=BenchSpec(device="cpu", threads=1)
            )
            network, _ = first_model(model, None, None, data, bench, private=False)
            trainer = Trainer(spec, bench, data, network.eval())
            began = time.process_time()
            for _ in trainer.begin():
                pass
            for _ in trainer.train():
                pass
            took = time.process_time() - began
            weights.add(weights_sha256(trainer.result().state_dict()))
            return took

    return train
