"""Runs on disk, made without an engine, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import frames
from engine.events import Event, Images, Note, Picture, Scalars, Table, to_message
from engine.store import Run, Workspace
from engine.store.metrics import MetricsWriter

TRAIN = {
    "kind": "train",
    "seed": 3,
    "model": {"kind": "cnn", "width": 8},
    "data": {"kind": "digits"},
    "optimizer": {"kind": "adamw", "lr": 0.002},
    "epochs": 2,
}


def make_run(
    workspace: Path,
    name: str,
    spec: dict[str, Any] = TRAIN,
    *,
    status: str = "done",
    summary: dict[str, Any] | None = None,
    lineage: dict[str, str] | None = None,
    events: tuple[Event, ...] = (),
) -> Run:
    """A run as the engine would have left it."""
    run = Workspace(workspace).create(spec, name=name, lineage=lineage or {})
    writer = MetricsWriter(run.database)
    writer.commit([event for event in events if not isinstance(event, Picture)])
    writer.close()
    for event in events:
        if isinstance(event, Picture):
            with run.image_file(event.name).open("ab") as file:
                file.write(frames.pack(*to_message(event)))
    run.set_state(
        status=status,
        summary=summary or {},
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:00:12+00:00",
    )
    run.lock.release()
    return run


def trained(workspace: Path, name: str = "plain", steps: int = 40) -> Run:
    """A training with curves and a table."""
    curves = [
        Scalars(
            step, {"train/loss": 2 / (step + 1), "train/accuracy": step / steps, "train/lr": 0.1}
        )
        for step in range(steps)
    ]
    ends = [Scalars(steps - 1, {"validation/accuracy": 0.9, "validation/loss": 0.4})]
    table = Table(
        "parameters", ("layer", "type", "output", "parameters", "flops"), (("a", "b", "c", 1, 2),)
    )
    return make_run(
        workspace,
        name,
        summary={"clean_accuracy": 0.975},
        events=(table, *curves, *ends, Note("info", "a remark")),
    )


def attacked(workspace: Path, model: Run, name: str = "broken", robust: float = 0.25) -> Run:
    """An attack with pictures and a success curve."""
    spec = {
        "kind": "attack",
        "model": model.id,
        "attack": {"kind": "pgd", "norm": "linf", "eps": 0.3, "steps": 3, "step_size": 0.1},
        "samples": 4,
        "seed": 0,
    }
    captions = tuple(
        {"label": i, "prediction": i, "correct": True, "probabilities": [0.25] * 4, "norm": 0.1}
        for i in range(4)
    )
    pixels = np.full((4, 8, 8, 1), 128, np.uint8)
    pictures = [Images("clean", pixels, captions)]
    for step in range(1, 4):
        pictures.append(Images("adversarial", pixels + step, captions, step, keep=True))
        pictures.append(Images("perturbation", pixels, captions, step, 0.3, keep=True))
    curve = [
        Scalars(step, {"attack/success_rate": step / 3, "attack/loss": step}) for step in range(4)
    ]
    names = Table("classes", ("index", "name"), tuple((i, str(i)) for i in range(4)))
    return make_run(
        workspace,
        name,
        spec,
        lineage={"model": model.id},
        summary={"clean_accuracy": 0.975, "robust_accuracy": robust},
        events=(names, *curve, *pictures),
    )
