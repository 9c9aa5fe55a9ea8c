"""From the task to what server and clients need: data, its parts, the model to begin with."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import DataSpec
from engine.errors import BadInput
from engine.events import Event
from engine.federated import hostility
from engine.federated.learning import NORMS, Fleet
from engine.federated.partitioning import partition
from engine.federated.spec import FedBN, Federate, Scaffold
from engine.models import ModelCard, load_model
from engine.models.spec import ModelSpec
from engine.training.spec import DEFAULT_DATA
from engine.training.starting import first_model


@dataclass(frozen=True, slots=True)
class Prepared:
    """`model` is on the device, in eval mode; `parts` are the clients' places in the training
    split; `past` is the card of the model that the run starts from."""

    data: Dataset
    data_spec: DataSpec
    model: nn.Module
    model_spec: ModelSpec
    parts: tuple[Tensor, ...]
    past: ModelCard | None


def prepared(spec: Federate, bench: Bench) -> Generator[Event, None, Prepared]:
    """Data and model: from the spec, else from the run it starts from, else the defaults.

    Raises BadInput where they, the partition, the strategy and the clients do not fit together.
    """
    start = load_model(spec.init, bench) if spec.init else None
    data_spec = spec.data or (start.card.data if start else None) or DEFAULT_DATA
    data = yield from load(data_spec, bench)
    parts = partition(spec.partition, data, spec.clients, data_spec.split_seed)
    private = spec.privacy is not None
    model, model_spec = first_model(spec.model, spec.init, start, data, bench, private=private)
    layout = torch.channels_last if bench.spec.channels_last else torch.contiguous_format
    model = model.to(bench.device).to(memory_format=layout).eval()
    hostility.check_classes(spec.hostile, len(data.classes), min(data.shape[1:]))
    _check_statistics(spec, data, model, parts)
    return Prepared(
        data, data_spec, model, model_spec, parts, start.card if start is not None else None
    )


def portable(spec: Federate, made: Prepared) -> Federate:
    """The task as a process elsewhere can make it: what it took from a run here is named."""
    return spec.model_copy(update={"init": None, "data": made.data_spec, "model": made.model_spec})


def fleet_of(spec: Federate, bench: Bench, made: Prepared) -> Fleet:
    """The clients."""
    return Fleet(spec, bench.seed, made.data, made.parts, made.model, made.model_spec)


def _check_statistics(
    spec: Federate, data: Dataset, model: nn.Module, parts: tuple[Tensor, ...]
) -> None:
    """What batch statistics do not go with."""
    if any(isinstance(module, NORMS) for module in model.modules()):
        advice = "set the model's norm to group"
        alone = [client for client, part in enumerate(parts) if len(part) == 1]
        if alone or spec.batch_size == 1:
            who = f"client {alone[0]} has a single image" if alone else "batch_size is 1"
            raise BadInput(
                f"{who}, and batch normalisation needs batches of at least 2; {advice}, or take "
                "larger parts"
            )
        if spec.privacy is not None and not isinstance(spec.strategy, FedBN):
            raise BadInput(
                "batch normalisation's running statistics are sent with every update, and noise on "
                f"them makes them useless; {advice}"
            )
        if isinstance(spec.strategy, FedBN) and not len(data.validation):
            raise BadInput(
                "fedbn takes the global model's batch statistics from validation images; set "
                "data.validation above 0"
            )
    elif isinstance(spec.strategy, FedBN):
        raise BadInput(
            "fedbn keeps batch normalisation at the clients, and this model has none; set its "
            "norm to batch, or take fedavg"
        )
    if isinstance(spec.strategy, Scaffold) and len({p.dtype for p in model.parameters()}) > 1:
        raise BadInput("scaffold needs parameters of one type")
