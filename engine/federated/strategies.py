"""Flower's strategies as the task asks for them, and those that it does not have.

They all put *updates* together, not weights: what they return is added to the global model. That is
the same thing, as none of them depends on where the origin is, but for Krum's distances in float32,
which vanish beside the squared length of the weights. `FedOpt` subtracts the global model again:
its `current_arrays` are zero.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import BadInput
from engine.federated import spec as specs
from engine.federated.flower import arrays_in, record, tensors

# isort: split
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.fedopt import FedOpt
from flwr.serverapp.strategy.multikrum import select_multikrum

Update = dict[str, Tensor]

EVERYBODY: dict[str, Any] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
"""Who takes part is chosen before (`engine.federated.conducting`)."""


def strategy_of(spec: specs.StrategySpec, clients: int) -> flower.FedAvg:
    """The strategy that `spec` describes, for a federation of so many clients."""
    match spec:
        case specs.FedAvg():
            return flower.FedAvg(**EVERYBODY)
        case specs.FedProx():
            return flower.FedProx(proximal_mu=spec.mu, **EVERYBODY)
        case specs.FedAdam():
            return flower.FedAdam(
                eta=spec.server_lr,
                beta_1=spec.beta1,
                beta_2=spec.beta2,
                tau=spec.tau,
                **EVERYBODY,
            )
        case specs.FedYogi():
            return flower.FedYogi(
                eta=spec.server_lr,
                beta_1=spec.beta1,
                beta_2=spec.beta2,
                tau=spec.tau,
                **EVERYBODY,
            )
        case specs.FedAdagrad():
            return flower.FedAdagrad(eta=spec.server_lr, tau=spec.tau, **EVERYBODY)
        case specs.FedMedian():
            return flower.FedMedian(**EVERYBODY)
        case specs.TrimmedMean():
            return flower.FedTrimmedAvg(beta=spec.beta, **EVERYBODY)
        case specs.Krum():
            return flower.Krum(num_malicious_nodes=spec.hostile, **EVERYBODY)
        case specs.MultiKrum():
            return MultiKrumStrategy(spec.hostile, spec.keep)
        case specs.Bulyan():
            return BulyanStrategy(
                num_malicious_nodes=spec.hostile, selection_rule=one_by_one, **EVERYBODY
            )
        case specs.Scaffold():
            return ScaffoldStrategy(spec.server_lr, clients)
        case specs.FedBN():
            return FedBNStrategy(**EVERYBODY)
    raise BadInput(f"there is no strategy {spec.kind!r}")


class FedBNStrategy(flower.FedAvg):
    """FedAvg, of what clients send: with FedBN that is all but batch normalisation
    (`engine.federated.learning.exchanged`)."""


class ScaffoldStrategy(flower.FedAvg):
    """Karimireddy et al. 2020, algorithm 1, lines 15 to 17: the plain mean of the updates, times
    the server's learning rate, and the control variate moved by the mean of the clients' changes,
    as far as they are of all."""

    def __init__(self, server_lr: float, clients: int) -> None:
        super().__init__(**EVERYBODY)
        self.server_lr = server_lr
        self.clients = clients
        self.control: Update = {}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        contents = [reply.content for reply in replies if reply.has_content()]
        if not contents:
            return None, None
        updates = [tensors(arrays_in(content)) for content in contents]
        changes = [tensors(arrays_in(content, "control")) for content in contents]
        share = len(contents) / self.clients
        for name, control in self.control.items():
            mean = torch.stack([change[name] for change in changes]).mean(0)
            self.control[name] = control + share * mean
        step = {
            name: self.server_lr * torch.stack([update[name] for update in updates]).mean(0)
            for name in updates[0]
        }
        return record(step, live=True), None


class MultiKrumStrategy(flower.MultiKrum):
    """Flower's, which keeps as many updates of a round as were asked for and as the paper allows:
    all but the hostile ones and two."""

    def __init__(self, hostile: int, keep: int) -> None:
        super().__init__(num_malicious_nodes=hostile, **EVERYBODY)
        self.keep = keep

    def settle(self, replies: int) -> None:
        """Before so many updates are put together."""
        most = max(1, replies - self.num_malicious_nodes - 2)
        self.num_nodes_to_select = min(self.keep, most) if self.keep else most


class BulyanStrategy(flower.Bulyan):
    """Flower's, which collects the garbage of the whole process once an update (a tenth of a second
    each, where torch is loaded). Here it finds its own only."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        gc.freeze()
        try:
            return super().aggregate_train(server_round, replies)
        finally:
            gc.unfreeze()


# --- who is kept ----------------------------------------------------------------------------------


def kept_by(strategy: flower.FedAvg, contents: Sequence[RecordDict]) -> list[int]:
    """The places of the updates that the strategy lets count; all of them unless it selects."""
    match strategy:
        case flower.Bulyan():
            f = strategy.num_malicious_nodes
            chosen = one_by_one(list(contents), f, len(contents) - 2 * f)
        case flower.MultiKrum():  # Krum is one
            chosen = select_multikrum(
                list(contents), strategy.num_malicious_nodes, strategy.num_nodes_to_select
            )
        case _:
            return list(range(len(contents)))
    kept = {id(content) for content in chosen}
    return [place for place, content in enumerate(contents) if id(content) in kept]


def settle(strategy: flower.FedAvg, like: Mapping[str, Tensor], replies: int) -> None:
    """Make a strategy ready to put so many updates together."""
    if isinstance(strategy, FedOpt):
        strategy.current_arrays = {n: np.zeros(t.shape, np.float32) for n, t in like.items()}
    elif isinstance(strategy, MultiKrumStrategy):
        strategy.settle(replies)


def one_by_one(contents: list[RecordDict], hostile: int, count: int) -> list[RecordDict]:
    """Bulyan's selection as the paper has it: Krum picks one, which is set aside, and so on. (What
    Flower does by default, the best of a single Krum, is cheaper and selects others.)"""
    left, chosen = list(contents), []
    flat = np.stack([_flat(content) for content in left])
    lengths = np.square(flat).sum(1)
    distances = np.maximum(lengths[:, None] + lengths[None, :] - 2 * flat @ flat.T, 0.0)
    places = list(range(len(left)))
    for _ in range(count):
        near = max(1, len(places) - hostile - 2)
        among = np.sort(distances[np.ix_(places, places)], axis=1)
        best = places[int(np.argmin(among[:, 1 : near + 1].sum(1)))]
        places.remove(best)
        chosen.append(left[best])
    return chosen


def _flat(content: RecordDict) -> np.ndarray[Any, Any]:
    arrays = next(iter(content.array_records.values()))
    return np.concatenate([array.numpy().ravel() for array in arrays.values()]).astype(np.float64)


# --- what a resumed run goes on with --------------------------------------------------------------


def state_of(strategy: flower.FedAvg) -> Update:
    """What the next round depends on besides its updates."""
    match strategy:
        case FedOpt():
            found: Update = {}
            for key in ("m_t", "v_t"):
                held: Mapping[str, Any] = getattr(strategy, key) or {}
                found |= {f"{key}.{name}": torch.from_numpy(value) for name, value in held.items()}
            return found
        case ScaffoldStrategy():
            return {f"control.{name}": tensor for name, tensor in strategy.control.items()}
    return {}


def restore_state(strategy: flower.FedAvg, state: Mapping[str, Tensor]) -> None:
    """Take up what `state_of` gave."""
    groups: dict[str, Update] = {}
    for name, tensor in state.items():
        key, _, rest = name.partition(".")
        groups.setdefault(key, {})[rest] = tensor
    match strategy:
        case FedOpt():
            for key, held in groups.items():
                setattr(strategy, key, {name: tensor.numpy() for name, tensor in held.items()})
        case ScaffoldStrategy():
            strategy.control = groups.get("control", {})
