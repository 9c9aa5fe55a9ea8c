"""Fixtures for every room."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest


def pytest_configure() -> None:
    """Started in the background of a script or under nohup, a process ignores Ctrl-C and a closed
    terminal, and so would every process that a test starts."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings of whoever runs it."""
    folder = tmp_path_factory.mktemp("settings")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """A bench on one CPU thread, with a run folder of its own."""
    from engine.bench import Bench
    from engine.task import BenchSpec

    folder = tmp_path / "workspace" / "runs" / "this-run"
    folder.mkdir(parents=True)
    return Bench(folder, tmp_path / "workspace", spec=BenchSpec(device="cpu", threads=1))


@pytest.fixture
def drain() -> Callable[..., tuple[list[Any], Any]]:
    """Pull a generator to its end: (what it yielded, what it returned)."""

    def pull(steps: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
        events = []
        while True:
            try:
                events.append(next(steps))
            except StopIteration as end:
                return events, end.value

    return pull
