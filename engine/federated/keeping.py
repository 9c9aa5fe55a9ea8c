"""Commands that run beside the engine: what they say, line by line, and their end."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "TERM": "dumb",
}
"""Neither telemetry nor a search for updates, and nothing that is installed behind one's back."""

KEPT_LINES = 200


class Kept:
    """A command under `engine.federated.guard`: it and all that it starts are gone soon after
    `end`, and after this process, whatever happens to that."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        remove: Path | None = None,
        grace: float = 0.0,
    ) -> None:
        """`remove` is a folder that goes with the command; `grace` are the seconds that it has to
        end by itself before it is killed."""
        guard = [sys.executable, "-m", "engine.federated.guard", "--grace", str(grace)]
        if remove is not None:
            guard += ["--remove", str(remove)]
        self.process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **QUIET, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        """What it says, and None when it has ended."""
        self.complaints: list[str] = []
        """The last lines of its standard error."""
        self._threads = [
            threading.Thread(target=target, name="kept", daemon=True)
            for target in (self._listen, self._overhear)
        ]
        for thread in self._threads:
            thread.start()

    def say(self, line: str) -> None:
        """Write a line to its standard input; nothing where it has gone."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def next(self, seconds: float) -> str | None:
        """Its next line, waiting so long; raises queue.Empty. None: it has ended."""
        return self.lines.get(timeout=seconds) if seconds else self.lines.get_nowait()

    def end(self) -> None:
        """Have it end, without waiting for that."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        threading.Thread(target=self.process.wait, name="kept-end", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds, and all that it has started."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        for thread in self._threads:
            thread.join(1.0)
        return True

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.decode(errors="replace").rstrip("\n"))
        self.lines.put(None)

    def _overhear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.complaints.append(line.decode(errors="replace").rstrip())
            del self.complaints[:-KEPT_LINES]
