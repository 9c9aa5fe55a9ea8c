"""What a client sent, kept for an audit."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from engine.bench import Bench
from engine.events import Saved
from engine.federated.facts import Fact
from engine.federated.spec import Federate
from engine.files import atomic, sha256_of


def write_update(
    bench: Bench,
    spec: Federate,
    before: Mapping[str, Tensor],
    update: Mapping[str, Tensor],
    places: Tensor,
    fact: Fact,
    *,
    lr: float,
    number: int,
) -> Saved:
    """Write `updates/round-R-client-C.safetensors` into the run's folder.

    It holds the global model before the round, all of it (`before.NAME`), the update as the server
    took it (`update.NAME`), and which places of the training split the client has (`places`); the
    metadata says how the client trained. Raises BadInput or CrucibleError where it cannot be
    written.
    """
    client = fact.client
    stored = {f"before.{name}": t.detach().cpu().contiguous() for name, t in before.items()}
    stored |= {f"update.{name}": t.contiguous() for name, t in update.items()}
    stored["places"] = places
    metadata = {
        "round": str(number),
        "client": str(client),
        "examples": str(fact.examples),
        "epochs": str(spec.epochs),
        "share": str(fact.share),
        "batch_size": str(spec.batch_size),
        "optimizer": json.dumps(spec.optimizer.to_dict()),
        "lr": str(lr),
        "compression": spec.compression.kind if spec.compression else "",
        "seed": str(bench.seed),
    }
    path = bench.folder / "updates" / f"round-{number}-client-{client}.safetensors"
    path.parent.mkdir(exist_ok=True)
    content = safetensors.torch.save(stored, metadata)
    with atomic(path) as file:
        file.write(content)
    name = str(path.relative_to(bench.folder))
    return Saved(f"update of client {client}, round {number}", name, len(content), sha256_of(path))
