"""Runs on disk. The reading side is torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.store.workspace import OPEN, OVER, Lock, Run, RunInfo, Status, Workspace

if TYPE_CHECKING:
    from engine.store.checkpoints import Checkpoint, Checkpoints

__all__ = [
    "OPEN",
    "OVER",
    "Checkpoint",
    "Checkpoints",
    "Lock",
    "Run",
    "RunInfo",
    "Status",
    "Workspace",
]


def __getattr__(name: str) -> object:
    if name in ("Checkpoint", "Checkpoints"):
        from engine.store import checkpoints

        return getattr(checkpoints, name)
    raise AttributeError(name)
