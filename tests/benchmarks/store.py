"""How many scalar rows a second become durable: put, committed, flushed, and read back.

Through the RunWriter that runs use (WAL, synchronous=FULL), four values a step, on the file system
of the temporary folder (TMPDIR).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from engine.events import Scalars
from engine.store import Workspace
from engine.store.writer import RunWriter
from tests.benchmarks.rows import Row, spread

TARGET = 50_000
STEPS = 50_000
NAMES = ("train/loss", "train/accuracy", "train/lr", "train/gradient_norm")
REPEATS = 5


def main(data_root: Path | None = None) -> list[Row]:
    """Rows a wall second, from the first `put` to the return of the last `flush`."""
    with tempfile.TemporaryDirectory() as folder:
        rates = [_rate(Workspace(Path(folder))) for _ in range(REPEATS)]
    return [
        Row(
            "durable scalar rows per second into metrics.db",
            f">= {TARGET:,}",
            f"{spread(rates, 0)}",
            statistics.median(rates) >= TARGET,
            f"{len(NAMES) * STEPS:,} rows a time, wall, all read back",
        )
    ]


def _rate(workspace: Workspace) -> float:
    run = workspace.create({"kind": "train"}, name="rows")
    writer = RunWriter(run, lambda events: None)
    writer.start(truncate_after=-1)
    began = time.perf_counter()
    for step in range(STEPS):
        writer.put(Scalars(step, dict.fromkeys(NAMES, step / 7)))
    writer.flush()
    seconds = time.perf_counter() - began
    there = run.scalars()  # before the close: what the flush promised
    writer.close()
    run.lock.release()
    expected = list(range(STEPS)), [step / 7 for step in range(STEPS)]
    assert all(there[name] == expected for name in NAMES)
    return len(NAMES) * STEPS / seconds
