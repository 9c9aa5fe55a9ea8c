"""Checkpoints of a run: safetensors files with a SHA-256 manifest; the last two are kept.

What a run holds as its best so far is part of each checkpoint, so one file is always enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.files import atomic

KEPT = 2
"""How many of the newest are kept."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run can go on: tensors by name, and JSON values."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Checkpoints:
    """The folder of a run's checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = folder / "manifest.json"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it; when this returns it is on the disk. Raises CrucibleError, with the earlier
        ones intact."""
        self.folder.mkdir(exist_ok=True)
        tensors = {
            name: tensor.detach().contiguous().cpu() for name, tensor in checkpoint.tensors.items()
        }
        data = safetensors.torch.save(tensors, {"values": json.dumps(dict(checkpoint.values))})
        name = f"step-{checkpoint.step:010d}.safetensors"
        with atomic(self.folder / name) as file:
            file.write(data)
        digest = hashlib.sha256(data).hexdigest()
        entry = {"file": name, "step": checkpoint.step, "sha256": digest}
        entries = [*(e for e in self._entries() if int(e["step"]) < checkpoint.step), entry][-KEPT:]
        with atomic(self._manifest) as file:
            file.write(json.dumps(entries, indent=1).encode())
        kept = {entry["file"] for entry in entries}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in kept:
                path.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest that is whole; None if there is none."""
        return next(filter(None, map(self._load, reversed(self._entries()))), None)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            found = json.loads(self._manifest.read_text())
            whole = {"file": str, "step": int, "sha256": str}
            return [e for e in found if all(type(e[key]) is kind for key, kind in whole.items())]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def _load(self, entry: Mapping[str, Any]) -> Checkpoint | None:
        path = self.folder / entry["file"]
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                return None
            with safe_open(path, "pt") as file:
                values = json.loads(file.metadata()["values"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError):
            return None
        return Checkpoint(int(entry["step"]), tensors, values)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of a checkpoint's tensors whose names begin with `prefix`, by the rest of them."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
