"""The demo recipe on the command line, from the start of the process to its end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine import resources
from engine.store import Workspace
from tests.benchmarks.rows import Row

TARGET = 60


def main(data_root: Path | None = None) -> list[Row]:
    """Wall seconds of `engine run resources/recipes/first_minute.toml`."""
    recipe = resources.path("recipes", "first_minute.toml")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "engine", "run", str(recipe), "--workspace", folder]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        runs = Workspace(Path(folder)).runs()[::-1]
        assert all(run.status == "done" for run in runs)
    accuracies = ", ".join(
        f"{run.name} {run.summary['robust_accuracy']:.3f}"
        for run in runs
        if "robust_accuracy" in run.summary
    )
    return [
        Row(
            "engine run resources/recipes/first_minute.toml",
            f"<= {TARGET} s",
            f"{seconds:.1f} s",
            seconds <= TARGET,
            f"{len(runs)} runs; robust accuracy: {accuracies}",
        )
    ]
