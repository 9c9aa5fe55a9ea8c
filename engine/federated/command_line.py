"""Flower's own command line, as the engine uses it. Nothing here imports torch."""

from __future__ import annotations

import queue
import sys
import tempfile
from pathlib import Path

import tomli_w

from engine.errors import CrucibleError
from engine.federated.keeping import Kept
from engine.federated.spec import Deployment

NAME = "crucible"
"""Of the connection in Flower's configuration."""
BOX = str.maketrans("", "", "╭╮╰╯│─")
"""What it frames errors with."""


def connection(grid: Deployment) -> Path:
    """A new folder that Flower's command line takes as its home, with the connection NAME."""
    home = Path(tempfile.mkdtemp(prefix="crucible-"))
    about = {"address": grid.superlink}
    if grid.root_certificates:
        about["root-certificates"] = str(Path(grid.root_certificates).expanduser().absolute())
    else:
        about["insecure"] = True  # type: ignore[assignment]
    settings = {"superlink": {"default": NAME, NAME: about}}
    (home / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    return home


def flwr(home: Path, *arguments: str) -> Kept:
    """Flower's own command line; `home` goes with it."""
    command = [sys.executable, "-m", "flwr.cli.app", *arguments]
    return Kept(command, env={"FLWR_HOME": str(home)}, cwd=home, remove=home)


def answer(kept: Kept, seconds: float) -> str:
    """What a command says, all of it. Raises CrucibleError where it fails, or takes too long."""
    ended = kept.wait(seconds)
    kept.end()
    lines = []
    while True:
        try:
            line = kept.next(1.0)
        except queue.Empty:
            break
        if line is None:
            break
        lines.append(line)
    if not ended or kept.process.returncode:
        said = " ".join(line.translate(BOX).strip() for line in [*lines, *kept.complaints])
        raise CrucibleError(f"Flower's command failed: {said.strip() or 'it does not answer'}")
    return "\n".join(lines)
