"""How rows and the machine they were measured on are printed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.rows import Row

PRODUCT = ("torch", "PySide6-Essentials")


def machine(packages: Sequence[str] = PRODUCT) -> dict[str, Any]:
    """What the figures depend on, with the versions of `packages`."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def show(rows: Sequence[Row], here: dict[str, Any]) -> None:
    """Print the table, and `here`, the machine."""
    table = Table("what", "target", "figure: median (range)", "met", "detail", show_lines=True)
    for row in rows:
        met = {True: "yes", False: "NO", None: ""}[row.met]
        table.add_row(row.what, row.target, row.figure, met, row.detail)
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    console.print(table)
    known = ("cpu", "cores", "system", "python", "load")
    packages = ", ".join(f"{name} {here[name]}" for name in here if name not in known)
    console.print(
        f"{here['cpu']}, {here['cores']} cores, {here['system']}, Python {here['python']}, "
        f"{packages}; load average {here['load']}",
        soft_wrap=True,
    )
