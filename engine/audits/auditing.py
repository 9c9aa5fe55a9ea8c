"""What all audits share: they begin with a run, and say how long they took."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from engine.data import Dataset, load
from engine.errors import BadInput
from engine.events import Event, Note, Saved
from engine.files import atomic, sha256_of
from engine.models import ModelCard, load_model
from engine.models.card import SEEN
from engine.store import Workspace
from engine.task import Steps, parse
from engine.training.spec import Train

if TYPE_CHECKING:
    from pathlib import Path

    from engine.audits.spec import Audit
    from engine.bench import Bench
    from engine.store import RunInfo


def run_audit(task: Audit, bench: Bench) -> Steps:
    """Run `task`; see its kind. Raises BadInput where it does not fit the run."""
    begun = time.perf_counter()
    summary = yield from task.audit.perform(task, bench)
    return {**summary, "seconds": time.perf_counter() - begun}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited: a model in eval mode, its card, its data, and the run that made it (None of
    a file). `changed` says that the model may have learnt from images of the test split."""

    module: nn.Module
    card: ModelCard
    data: Dataset
    run: RunInfo | None
    changed: bool


def subject_of(ref: str, bench: Bench) -> Generator[Event, None, Subject]:
    """The model `ref` and the data that it was trained on. Raises BadInput if it does not say."""
    loaded = load_model(ref, bench)
    if loaded.card.data is None:
        raise BadInput(
            f"the model {ref!r} does not say what data it was trained on, and an audit is about "
            "its training images; audit a run that trained it"
        )
    data = yield from load(loaded.card.data, bench)
    if tuple(data.shape) != tuple(loaded.card.shape):
        raise BadInput(
            f"the model takes images {loaded.card.shape}, but its data has {data.shape} now"
        )
    changed = data.seen(loaded.card.learnt) > 0
    if changed:
        yield Note("warning", SEEN)
    return Subject(loaded.module, loaded.card, data, info_of(ref, bench), changed)


def training_of(subject: Subject) -> Train | None:
    """How the model was trained, by its run or its card; None if no train task made it."""
    told: Mapping[str, Any] = subject.card.training
    if subject.run is not None and subject.run.kind == "train":
        told = subject.run.spec
    return parse(Train, told) if told.get("kind") == "train" else None


def info_of(ref: str, bench: Bench) -> RunInfo | None:
    """What is known of the run `ref`; None if it is a file."""
    if ref.endswith((".safetensors", ".age")):
        return None
    return Workspace(bench.workspace, create=False).find(ref).info()


def write(bench: Bench, name: str, file_name: str, content: bytes) -> Saved:
    """Keep a file in the run's folder."""
    path: Path = bench.folder / file_name
    with atomic(path) as file:
        file.write(content)
    return Saved(name, file_name, len(content), sha256_of(path))


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is None."""
    return {name: value for name, value in values.items() if value is not None}
