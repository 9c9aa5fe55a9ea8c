"""On what a run computes: device, threads, and the switches that make it repeatable."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import torch

from engine.errors import BadInput
from engine.task import BenchSpec

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts


def resolve_device(name: str) -> torch.device:
    """The device that `name` (see BenchSpec.device) means on this machine.

    Raises BadInput, naming what there is, if it is not to be had.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:  # a number beyond what torch can count
        raise BadInput(f"{name!r} is no device; expected one as auto, cpu or cuda:0") from None
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= count[device.type]:
        there = ", ".join(kind for kind, n in count.items() if n)
        raise BadInput(
            f"there is no device {name!r} on this machine; expected one of: auto, {there}"
        )
    return torch.device("cuda:0") if name == "cuda" else device


def resolve_threads(threads: int) -> int:
    """The number of threads that `threads` (see BenchSpec.threads) means on this machine."""
    if threads:
        return threads
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return 1 if cores <= 2 else cores // 2


def describe_device(device: torch.device) -> str:
    """What the window's device chip says, as in "CPU · 2 cores"."""
    if device.type == "cuda":
        return f"{str(device).upper()} · {torch.cuda.get_device_name(device)}"
    return f"{device.type.upper()} · {os.cpu_count()} cores"


def prepare(spec: BenchSpec) -> tuple[torch.device, dict[str, Any]]:
    """Set threads and determinism for a run; return its device and what is recorded of it.

    Two runs of one spec have the same `weights_sha256` if these records are equal.
    """
    device = resolve_device(spec.device)
    threads = resolve_threads(spec.threads)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Part of that is to fill new memory with NaN, a safeguard that costs two hundredths.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return device, {
        "device": str(device),
        "device_name": describe_device(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "precision": spec.precision,
        "versions": versions(),
        "platform": platform.platform(),
        "flags": {"deterministic": True, "cudnn_benchmark": False, "tf32": False},
    }


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    from importlib.metadata import version

    return {
        "crucible": version("crucible-workbench"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": str(torch.__version__),
    }


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 * 2**30  # a cautious guess where the system does not say
