"""What the tests of this room share: a workspace in which tasks are run, and what they said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, Table
from engine.runner import Runner
from engine.store import Run, Workspace
from engine.task import Task


@dataclass
class Done:
    """A run that has come to its end, and what it said."""

    run: Run
    status: str
    events: list[Event] = field(default_factory=list)

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.run.info().summary

    @property
    def error(self) -> str:
        return self.run.info().error

    @property
    def folder(self) -> Path:
        return self.run.folder

    def table(self, name: str) -> Table:
        """The last one of that name."""
        return [e for e in self.events if isinstance(e, Table) and e.name == name][-1]


class House:
    """A workspace. `run` runs a task in it to its end."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)

    def run(
        self, name: str, task: Task, watch: Callable[[Runner, Sequence[Event]], None] | None = None
    ) -> Done:
        """`watch` hears what is said, and may cancel."""
        heard: list[Event] = []

        def listen(run: Run, events: Sequence[Event]) -> None:
            heard.extend(events)
            if watch is not None:
                watch(runner, events)

        runner = Runner(self.workspace, listen)
        run = self.workspace.create(task.to_dict(), name=name)
        status = runner.run(run)
        return Done(run, status, heard)


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """For runs that several tests look at."""
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "house")
