"""The command line as tests use it: in this process, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.__main__ import main

ROOT = Path(__file__).parents[2]

TINY = 'model = {kind = "mlp", width = 8, depth = 1}\nbench = {device = "cpu", threads = 1}'
"""What makes a task of kind train take no time."""


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def engine(*arguments: str | Path) -> Said:
    """`engine ARGUMENTS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def refused(said: Said, *words: str, code: int = 2) -> None:
    """It ended with `code` and an explanation that holds every word, and no traceback."""
    text = said.err + said.out
    assert said.code == code, text
    assert "Traceback" not in text
    for word in words:
        assert word in text, f"{word!r} is not in:\n{text}"


def process(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """`engine ARGUMENTS` in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        cwd=options.pop("cwd", ROOT),
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        start_new_session=True,
        env={**os.environ, **options.pop("env", {})},
        **options,
    )


def ended(child: subprocess.Popen[str]) -> Said:
    out, err = child.communicate(timeout=120)
    return Said(child.returncode, out or "", err or "")


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return as soon as `true()` is; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.01)


def recipe(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def tasks(*texts: str) -> str:
    """The TOML of a recipe with these tasks."""
    return "\n".join(f"[[task]]\n{text}\n" for text in texts)


def train(name: str = "plain", epochs: int = 1, more: str = "") -> str:
    return f'name = "{name}"\nkind = "train"\nepochs = {epochs}\n{TINY}\n{more}'


def attack(name: str = "broken", model: str = "plain", more: str = "") -> str:
    fields = 'attack = {kind = "fgsm", eps = 0.1}\nsamples = 8\nshow = 0'
    return f'name = "{name}"\nkind = "attack"\nmodel = "{model}"\n{fields}\n{more}'


def first(lines: Iterator[str], event: str) -> dict[str, Any]:
    """The first line of `--json` that is an `event`."""
    for line in lines:
        message: dict[str, Any] = json.loads(line)
        if message["event"] == event:
            return message
    raise AssertionError(f"there was no {event!r}")
