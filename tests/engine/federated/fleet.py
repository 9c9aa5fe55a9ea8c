"""What the tests of this room share: short federations on digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.errors import Cancelled
from engine.events import Event, drain
from engine.federated.federating import run_federate
from engine.federated.spec import Federate, Local
from engine.models.spec import MLP
from engine.task import BenchSpec
from engine.training.spec import SGD

SEED = 3
SMALL = MLP(width=8, depth=1)
QUICK = Federate(
    seed=SEED,
    model=SMALL,
    clients=5,
    rounds=2,
    optimizer=SGD(lr=0.5, momentum=0.0),
    grid=Local(threads=2),
)


def new_bench(tmp_path: Path, name: str = "a", seed: int = SEED) -> Bench:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, tmp_path, seed=seed, spec=BenchSpec(device="cpu", threads=1))


def play(tmp_path: Path, spec: Federate, name: str = "a") -> tuple[list[Event], dict[str, Any]]:
    """Every event of a federation, and its summary."""
    events: list[Event] = []
    steps = run_federate(spec, new_bench(tmp_path, name, spec.seed))
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def cut_short(tmp_path: Path, spec: Federate, after: Callable[[Event], bool]) -> Bench:
    """The bench on which a run goes on that was cancelled after such an event."""
    steps = run_federate(spec, new_bench(tmp_path, "cut"))
    while not after(next(steps)):
        pass
    with pytest.raises(StopIteration):
        while True:
            steps.throw(Cancelled())
    again = new_bench(tmp_path, "cut")
    checkpoint = again.checkpoints.latest()
    assert checkpoint is not None
    again.restore(checkpoint)
    return again


def sha(tmp_path: Path, spec: Federate, name: str = "a") -> str:
    found: str = play(tmp_path, spec, name)[1]["weights_sha256"]
    return found


def changed(spec: Federate, **values: Any) -> Federate:
    """The same but for these fields."""
    return spec.model_copy(update=values)


def digits(tmp_path: Path, **values: Any) -> Dataset:
    return drain(load(Digits(**values), new_bench(tmp_path, "data")))
