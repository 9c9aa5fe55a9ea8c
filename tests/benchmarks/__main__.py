"""Runs the benchmarks, each in a process of its own, and prints their table."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.rows import Row
from tests.benchmarks.table import machine, show

NAMES = (
    "training",
    "window",
    "scene",
    "start",
    "first_minute",
    "store",
    "early_exit",
    "data_path",
    "dpsgd",
    "federated",
    "generative",
    "diagnostics",
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that would decide on threads in our place."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--data-root", type=Path, metavar="D", help="where MNIST lies")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine")
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        module = importlib.import_module(f"tests.benchmarks.{options.child}")
        rows = module.main(options.data_root)
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
        return 0
    rows: list[Row] = []
    for name in options.only:
        print(f"{name} …", end=" ", flush=True)
        began = time.perf_counter()
        found = _apart(name, options.data_root)
        print(f"{time.perf_counter() - began:.0f} s")
        for row in found:  # at once: a person may lose patience before the table
            print(f"    {row.what}: {row.figure}", flush=True)
        rows += found
    here = machine()
    show(rows, here)
    if options.json:
        all_of_it = {"machine": here, "rows": [dataclasses.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(all_of_it, indent=1, ensure_ascii=False))
    return int(any(row.met is False for row in rows))


def _apart(name: str, data_root: Path | None) -> list[Row]:
    """The rows of one benchmark, measured in a fresh process."""
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tests.benchmarks", "--child", name, "--json", str(file)]
        if data_root is not None:
            command += ["--data-root", str(data_root)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            return [Row(name, "", f"failed with exit code {done.returncode}", False)]
        return [Row(**row) for row in json.loads(file.read_text())]


if __name__ == "__main__":
    sys.exit(main())
