"""Runs the comparisons, each in a process of its own, and prints their table."""

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

from tests.benchmarks.peers.subjects import Setting, subjects
from tests.benchmarks.rows import Row
from tests.benchmarks.table import machine, show

NAMES = (
    *("pgd", "passes", "bf16", "minimal", "autoattack", "curve", "live", "square"),
    *("strength", "metrics"),
)
PACKAGES = (
    *("torch", "foolbox", "torchattacks", "adv-lib", "pyautoattack", "cleverhans"),
    *("adversarial-robustness-toolbox", "torch-fidelity", "prdc"),
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a target was missed."""
    options = _parser().parse_args(arguments)
    if options.child:
        return _child(options)
    began = time.perf_counter()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    print("nets …", flush=True)
    subjects(setting(options))
    rows: list[Row] = []
    for name in options.only:
        print(f"{name} …", flush=True)
        since = time.perf_counter()
        found = _apart(name, sys.argv[1:] if arguments is None else list(arguments))
        for row in found:
            met = {True: "", False: " MISSED", None: ""}[row.met]
            print(f"    {row.what}: {row.figure}{met}", flush=True)
        print(f"    {time.perf_counter() - since:.0f} s", flush=True)
        rows += found
    here = machine(PACKAGES)
    show(rows, here)
    print(f"{time.perf_counter() - began:.0f} s; test images from {options.first} on")
    if options.json:
        all_of_it = {"machine": here, "rows": [dataclasses.asdict(row) for row in rows]}
        options.json.write_text(json.dumps(all_of_it, indent=1, ensure_ascii=False))
    return int(any(row.met is False for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-peers", description="Crucible beside its peers."
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="D", required=True, help="where MNIST lies, or is put"
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES)
    parser.add_argument("--images", type=int, metavar="N", help="500; with --quick 100")
    parser.add_argument("--first", type=int, metavar="K", default=5000, help="first test image")
    parser.add_argument("--seeds", type=int, metavar="S", help="of what is random: 3; quick 1")
    parser.add_argument("--quick", action="store_true", help="few images, one turn: minutes")
    parser.add_argument("--folder", type=Path, metavar="F", help="images of your own too, or a zip")
    parser.add_argument(
        "--nets", type=Path, metavar="N", default=Path("build/peers"), help="where nets are kept"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the machine")
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    return parser


def setting(options: argparse.Namespace) -> Setting:
    """What was asked for, with the defaults of the quick and the long form."""
    return Setting(
        data_root=options.data_root,
        images=options.images or (100 if options.quick else 500),
        first=options.first,
        seeds=options.seeds or (1 if options.quick else 3),
        quick=options.quick,
        nets=options.nets,
        folder=options.folder,
    )


def _child(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(1)
    module = importlib.import_module(f"tests.benchmarks.peers.{options.child}")
    rows = module.main(setting(options))
    options.to.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    return 0


def _apart(name: str, arguments: Sequence[str]) -> list[Row]:
    """The rows of one benchmark, measured in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "rows.json", Path(folder) / "log"
        command = [sys.executable, "-m", "tests.benchmarks.peers", *arguments]
        with log.open("w") as errors:  # peers talk there; it is shown where one fails
            done = subprocess.run([*command, "--child", name, "--to", str(file)], stderr=errors)
        if done.returncode:
            sys.stderr.write(log.read_text())
            return [Row(name, "", f"failed with exit code {done.returncode}", False)]
        return [Row(**row) for row in json.loads(file.read_text())]


if __name__ == "__main__":
    sys.exit(main())
