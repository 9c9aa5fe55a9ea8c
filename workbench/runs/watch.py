"""Notice what other processes do in the workspace: new runs, changed states, growing records.

A look costs one `stat` a run; only what changed is read. The window looks a few times a second.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.store import Run, RunInfo

_FILES = ("state.json", "about.json", "run.json")
Stamp = tuple[tuple[int, int], ...]


class Watch:
    """Remembers the state in which every run was last seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, Stamp] = {}
        self._infos: dict[str, RunInfo] = {}

    def look(self) -> tuple[list[RunInfo], bool]:
        """All runs as they are now, and whether anything is different from the last look.

        A run under way is always read again: that its process is gone shows only in its lock.
        """
        stamps = {run_id: _stamp(self.folder / run_id) for run_id in _names(self.folder)}
        different = stamps.keys() != self._seen.keys()
        for gone in self._infos.keys() - stamps.keys():
            del self._infos[gone]
        for run_id, stamp in stamps.items():
            known = self._infos.get(run_id)
            open_run = known is not None and known.status in ("queued", "running")
            if known is not None and stamp == self._seen.get(run_id) and not open_run:
                continue
            if all(size < 0 for _, size in stamp):
                continue  # a folder that is just being made
            info = Run(self.folder / run_id).info()
            different = different or info != known
            self._infos[run_id] = info
        self._seen = stamps
        return list(self._infos.values()), different

    def forget(self, run_id: str) -> None:
        """Read this run again at the next look."""
        self._seen.pop(run_id, None)
        self._infos.pop(run_id, None)


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _stamp(folder: Path) -> Stamp:
    stamp = []
    for name in _FILES:
        try:
            status = (folder / name).stat()
            stamp.append((status.st_mtime_ns, status.st_size))
        except OSError:
            stamp.append((0, -1))
    return tuple(stamp)
