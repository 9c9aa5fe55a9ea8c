"""Keeps a command and everything that it starts: when it ends, or whoever wanted it is gone, all of
that ends too.

    python -m engine.federated.guard [--grace SECONDS] [--remove FOLDER] COMMAND...

Its standard input is the command's. That its other end is closed says that whoever started it is
gone, however that came to be: SIGKILL leaves nobody to say so. It is to be started in a session of
its own, as it would be killed with the one that it looks after otherwise. On Linux it adopts what
its command's processes leave behind, whatever sessions and groups they have made; elsewhere the
command's group is all that it knows. Imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOK = 0.1
"""Seconds between two looks, where nothing is heard."""
PATIENCE = 10.0
"""Seconds that it goes on killing."""


def main() -> int:
    """Start the command, wait, and leave nothing. Gives the command's exit code."""
    parser = argparse.ArgumentParser(prog="guard")
    parser.add_argument("--grace", type=float, default=0.0)
    parser.add_argument("--remove", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    _control(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(
        options.command,
        stdin=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: _control(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    try:
        _wait(child, asked)
        if child.poll() is None and options.grace:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(options.grace)
    finally:
        code = _end(child)
        if options.remove is not None:
            shutil.rmtree(options.remove, ignore_errors=True)
    return code


def _wait(child: subprocess.Popen[bytes], asked: list[int]) -> None:
    """Until the command ends, or is not wanted any more; hand on what is said to it."""
    assert child.stdin is not None
    while child.poll() is None and not asked:
        ready, _, _ = select.select([0], [], [], LOOK)
        if not ready:
            continue
        said = os.read(0, 1 << 16)
        if not said:
            return
        with contextlib.suppress(OSError):  # it has closed its end, and is about to go
            child.stdin.write(said)
            child.stdin.flush()


def _end(child: subprocess.Popen[bytes]) -> int:
    """Kill what is left, until there is nothing."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        for each in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(each, signal.SIGKILL)
        child.poll()
        if not _reaped():
            break
        time.sleep(0.01)
    return child.returncode if child.returncode is not None else 1


def _reaped() -> bool:
    """Bury who is dead; whether anybody is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True


def descendants(of: int) -> list[int]:
    """The processes that a process has started, and those that they have, and so on; none where
    there is no /proc."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found, pending = [], [of]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def _control(option: int, value: int) -> None:
    if LINUX:
        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
