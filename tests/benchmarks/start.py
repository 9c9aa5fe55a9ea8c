"""How long a person waits for the window: from the start of the process to its first paint.

The process itself says it (`workbench --exit-after-first-paint`, seconds since the kernel made the
process), offscreen, on an empty workspace and without remembered settings.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.rows import Row, spread

CPU_TARGET, WALL_TARGET = 0.6, 1.0
STARTS = 9


def main(data_root: Path | None = None) -> list[Row]:
    """CPU and wall seconds: median of the warm starts, and the first one."""
    with tempfile.TemporaryDirectory() as folder:
        first, *warm = [_start(Path(folder)) for _ in range(1 + STARTS)]
    rows = []
    for unit, target in (("cpu", CPU_TARGET), ("wall", WALL_TARGET)):
        seconds = [start[unit] for start in warm]
        rows.append(
            Row(
                f"process start to first paint, {unit.replace('cpu', 'CPU')}",
                f"<= {target} s",
                f"{spread(seconds, 2)} s",
                statistics.median(seconds) <= target,
                f"{STARTS} warm starts; the first took {first[unit]:.2f} s",
            )
        )
    return rows


def _start(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "workbench", "--workspace", str(folder / "workspace")]
    done = subprocess.run(
        [*command, "--exit-after-first-paint"],
        env={
            **os.environ,
            "QT_QPA_PLATFORM": "offscreen",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
