"""The federated task: the grid, the rounds, and the model that is handed over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from torch import Tensor

from engine.bench import Bench
from engine.data import Dataset
from engine.device import versions
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Saved, Table
from engine.federated.checking import check
from engine.federated.federation import Federation, Keeper
from engine.federated.flower import quiet, record, tensors
from engine.federated.local import LocalGrid
from engine.federated.preparing import Prepared, fleet_of, prepared
from engine.federated.spec import Deployment, Federate, Local, Ray
from engine.federated.telling import hostile_table, partition_table
from engine.files import sha256_of
from engine.models import ModelCard, save_model
from engine.models.card import SEEN, told
from engine.models.describing import describe_module
from engine.models.fitting import fitted_layer
from engine.task import Steps, Summary

UNPAID = ("bytes_up", "bytes_down", "rejected", "dropped", "skipped", "client_accuracy")
"""Of the summary: what tells who was drawn and who answered, or of clients' own models. No noise is
on it, so that it does not go out with a private model."""

Played: TypeAlias = "Callable[[Federation], Generator[Event, None, None]]"
"""The rounds of a federation, on some grid."""


def run_federate(spec: Federate, bench: Bench) -> Steps:
    """Run `spec` on its grid; see `Federate`. Cancelled, it hands over the last global model.

    Raises BadInput where its parts do not fit together; CrucibleError where not one round led to
    anything, or clients are missing.
    """
    match spec.grid:
        case Local():
            return federate(spec, bench, _here)
        case Ray():
            from engine.federated.simulating import simulate

            return simulate(spec, bench)
        case Deployment():
            from engine.federated.deploying import deploy

            return deploy(spec, bench)
    raise BadInput(f"there is no grid {spec.grid.kind!r}")


def federate(spec: Federate, bench: Bench, played: Played) -> Steps:
    """The task, with its rounds `played` on a grid."""
    check(spec)
    made = yield from prepared(spec, bench)
    if made.past is None and fitted_layer(made.model) is not None:
        raise BadInput(
            "the model begins with a statistic of all training images (mlp's projection, "
            "scattering's centre), which a federation does not compute. Leave that out, or start "
            "from a model that has it (init)."
        )
    learnt = made.past.learnt if made.past is not None else ()
    changed = made.data.seen(learnt) > 0
    yield Table("classes", ("index", "name"), tuple(enumerate(made.data.classes)))
    yield _parameter_table(made)
    yield partition_table(made)
    if changed and bench.resume is None:
        yield Note("warning", SEEN)
    federation = Federation(spec, bench, made)
    if federation.hostile:
        yield hostile_table(federation.hostile)
    noise = federation.conductor.noise
    try:
        yield from played(federation)
    except Cancelled:
        pass
    finally:
        if noise is not None:
            noise.settle(federation.at.round)
    summary = _summary(federation, changed)
    private = noise is not None
    path = bench.folder / "model.safetensors"
    card = ModelCard(
        model=made.model_spec,
        data=made.data_spec,
        shape=made.data.shape,
        classes=made.data.classes,
        data_fingerprint=made.data.fingerprint,
        learnt=tuple(dict.fromkeys((*learnt, made.data.sketch))),
        withheld=private or (made.past is not None and made.past.withheld),
        training=told(spec, private=private, changes=bench.changes),
        metrics={n: v for n, v in summary.items() if not (private and n in UNPAID)},
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    card = save_model(path, made.model, card)
    summary["weights_sha256"] = card.weights_sha256
    with contextlib.suppress(Cancelled):  # whoever stops it now still gets the whole summary
        yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    return summary


# --- in this process ------------------------------------------------------------------------------


def _here(federation: Federation) -> Generator[Event, None, None]:
    from engine.federated import apps

    quiet()
    spec, bench, made = federation.spec, federation.bench, federation.made
    assert isinstance(spec.grid, Local)
    fleet = fleet_of(spec, bench, made)
    name = f"here/{bench.folder}/{id(fleet)}"
    threads = 1 if bench.device.type != "cpu" else spec.grid.threads or cores()
    grid = LocalGrid(apps.client, spec.clients, {apps.FLEET: name}, threads)
    fleet.turns = grid.turns
    keeper = _Keeper(federation, grid)
    if bench.resume is not None:
        keeper.restore(bench.resume.tensors, bench.resume.values["task"])
        yield Note("info", f"resumed after round {federation.at.round}")
    apps.share(name, fleet)
    try:
        yield from federation.play(grid, keeper)
    except Cancelled:
        keeper.checkpoint()
        raise
    finally:
        fleet.stop.set()
        grid.close()
        apps.forget(name)


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Keeper(Keeper):
    """Writes checkpoints: the federation, and what is with the clients of this process."""

    def __init__(self, federation: Federation, grid: LocalGrid) -> None:
        self.federation = federation
        self.grid = grid

    def begin(self) -> None:
        self._before = dict(self.grid.contexts)

    def undo(self) -> None:
        self.grid.contexts = self._before

    def end(self) -> None:
        if self.federation.bench.checkpoint_due(0.0):
            self.checkpoint()

    def checkpoint(self) -> None:
        federation = self.federation
        held = federation.tensors()
        for node, context in self.grid.contexts.items():
            for key, arrays in context.state.array_records.items():
                for name, tensor in tensors(arrays).items():
                    held[f"client.{node}.{key}.{name}"] = tensor
        values = {name: getattr(federation.at, name) for name in federation.at.__slots__}
        values["data"] = _data_state(federation.made.data)
        values["rounds"] = federation.rounds
        federation.bench.save_checkpoint(federation.at.round, held, values)

    def restore(self, held: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        values = dict(values)
        _check_unchanged(values.pop("data"), self.federation.made.data)
        self.federation.rounds = [tuple(row) for row in values.pop("rounds")]
        self.federation.restore(held, values)
        kept: dict[tuple[int, str], dict[str, Tensor]] = {}
        for path, tensor in held.items():
            if path.startswith("client."):
                _, node, key, name = path.split(".", 3)
                kept.setdefault((int(node), key), {})[name] = tensor
        for (place, key), found in kept.items():
            self.grid.contexts[place].state[key] = record(found, live=True)


def _data_state(data: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of the data that the run goes on with."""
    return {"fingerprint": data.fingerprint, "train": len(data.train)}


def _check_unchanged(before: Mapping[str, Any], data: Dataset) -> None:
    if before["fingerprint"] != data.fingerprint:
        raise BadInput(
            "the data has changed since the run began: it had "
            f"{before['train']} training images, and now has {len(data.train)}, or others. "
            "Clients would not have the images that they had. Put the data back as it was and "
            "resume again, or start a new run."
        )


# --- what is told ---------------------------------------------------------------------------------


def _summary(federation: Federation, changed: bool) -> Summary:
    at, spec = federation.at, federation.spec
    summary: Summary = {
        "rounds": at.round,
        "clients": spec.clients,
        "parameters": sum(p.numel() for p in federation.model.parameters()),
        "bytes_up": at.bytes_up,
        "bytes_down": at.bytes_down,
    }
    summary |= {
        name: count for name in ("skipped", "rejected", "dropped") if (count := getattr(at, name))
    }
    if at.accuracy is not None:
        summary |= {
            "accuracy": at.accuracy,
            "clean_accuracy": at.accuracy,
            "tested": len(federation.made.data.test),
        }
        if at.best_accuracy is not None:  # not so where rounds were played before it was kept
            summary |= {"best_accuracy": at.best_accuracy, "best_round": at.best_round}
        if at.loss is not None:
            summary["test_loss"] = at.loss
    if federation.conductor.noise is not None:
        summary |= federation.conductor.noise.summary()
    if at.success_rate is not None:
        summary["attack_success_rate"] = at.success_rate
    if federation.client_accuracy is not None:
        summary["client_accuracy"] = federation.client_accuracy
    if changed:
        summary["data_changed"] = True
    return summary


def _parameter_table(made: Prepared) -> Table:
    description = describe_module(made.model, made.data.shape)
    return Table(
        "parameters",
        ("layer", "type", "output", "parameters", "flops"),
        tuple(
            (row.name, row.type, "x".join(map(str, row.output)), row.parameters, row.flops)
            for row in description.layers
        ),
    )
