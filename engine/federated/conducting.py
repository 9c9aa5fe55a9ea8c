"""The server's side of a round, as a Flower Strategy: who is picked, what comes back, what it is
worth, and what the chosen strategy makes of it.

It wraps one of Flower's strategies, or one of ours, and hands it updates that are whole: decoded,
finite, of the right shapes, in the order of the clients. What is known of each client is taken down
before anything is put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.errors import BadInput, CrucibleError
from engine.federated.checking import expected, least
from engine.federated.compression import expanded
from engine.federated.facts import (
    Fact,
    RoundFacts,
    State,
    drifts,
    gram,
    is_finite,
    looked_at,
    measure,
)
from engine.federated.flower import addressed, arrays_in, is_here, number_in, record, size, tensors
from engine.federated.noising import ClientNoise
from engine.federated.secure import SecureSum
from engine.federated.spec import Adaptive, Federate, FedProx, Scaffold
from engine.federated.strategies import (
    ScaffoldStrategy,
    kept_by,
    restore_state,
    settle,
    state_of,
    strategy_of,
)
from engine.random import derive
from engine.store.checkpoints import under

# isort: split
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

Update = dict[str, Tensor]
Rate = Callable[[int], float]

DROPPED = 1001
"""Error code of a client that has dropped out."""
STOPPED = 1002
"""Of one that was stopped, because nobody wants the answer any more."""
ENDS: dict[int, State] = {DROPPED: "dropped", STOPPED: "late"}
"""What an error says of its client; any other one that it failed."""

NUMBER = "num-examples"
FIXED = "fixed"
"""Under which a message holds what is not exchanged, and not as the task makes it."""


class Conductor(Strategy):
    """Runs rounds for `spec`. `start`, from Flower, plays them all on a grid; `engine.federated.
    federation` does so a little at a time."""

    def __init__(
        self,
        spec: Federate,
        seed: int,
        like: Mapping[str, Tensor],
        statistics: frozenset[str],
        *,
        rate: Rate | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        noise: ClientNoise | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """`like` are the exchanged tensors, by name; `statistics` those of them that are not learnt
        but counted. `rate`: the clients' learning rate in a round. `fixed`: what is not exchanged,
        where clients elsewhere could not know it. `noise`: of a federation that is private.
        `sizes`: how many images each client has, where that is known; who says otherwise, to weigh
        more or less in the mean, is rejected. Secure aggregation needs them: a round is skipped
        where those in its sum say otherwise together."""
        self.spec = spec
        self.seed = seed
        self.live = False
        """Whether the clients are in this process, and messages are not copied."""
        self.inner = strategy_of(spec.strategy, spec.clients)
        self.like = {name: torch.zeros(tensor.shape) for name, tensor in like.items()}
        self.statistics = statistics
        self.rate: Rate = rate or (lambda number: spec.optimizer.lr * spec.lr_decay ** (number - 1))
        self.nodes: dict[int, int] = {}
        """The node of each client."""
        self.numbers: dict[int, int] = {}
        """The client at each node."""
        self.noise = noise
        self.sizes = tuple(sizes)
        self.secure: SecureSum | None = None
        """What hides the updates from this server, where something does."""
        self.fixed = dict(fixed or {})
        if isinstance(self.inner, ScaffoldStrategy) and not self.inner.control:
            self.inner.control = {
                name: tensor.clone() for name, tensor in self.like.items() if name not in statistics
            }
        self.round = RoundFacts(0)
        self.updates: dict[int, Update] = {}
        """What the clients of this round sent, as far as it could be used."""
        self.current: Update = {}
        """The global model's exchanged tensors at the beginning of this round."""

    # --- who takes part ---------------------------------------------------------------------------

    def roll_call(self, grid: Grid) -> list[Message]:
        """The messages that ask every node which client it is."""
        return [
            grid.create_message(RecordDict(), "query", node, "0") for node in grid.get_node_ids()
        ]

    def met(self, replies: Iterable[Message]) -> None:
        """Take down who is where. Raises CrucibleError where a client is missing or there twice."""
        found: dict[int, int] = {}
        for reply in replies:
            said = _said(reply, "client")
            if said not in range(self.spec.clients):
                continue
            number = int(said)
            if number in found:
                raise CrucibleError(
                    f"two nodes say that they are client {number}; give each its own partition-id"
                )
            found[number] = reply.metadata.src_node_id
        missing = [client for client in range(self.spec.clients) if client not in found]
        if missing:
            named = ", ".join(map(str, missing[:10])) + (" and more" if missing[10:] else "")
            raise CrucibleError(
                f"{len(missing)} of {self.spec.clients} clients are not there: {named}. Start "
                "their nodes, with partition-id 0 to "
                f"{self.spec.clients - 1}, or lower the number of clients."
            )
        self.nodes = found
        self.numbers = {node: number for number, node in found.items()}

    def picked(self, number: int) -> list[int]:
        """The clients of a round, ascending."""
        if self.noise is not None:
            return self.noise.picked(number, self.current)
        draw = torch.Generator().manual_seed(derive(self.seed, "picked", number))
        if self.spec.poisson:
            coins = torch.rand(self.spec.clients, generator=draw)
            return (coins < self.spec.fraction).nonzero().flatten().tolist()
        order = torch.randperm(self.spec.clients, generator=draw)
        return sorted(order[: expected(self.spec)].tolist())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A message for each client of the round."""
        self.live = is_here(grid)
        if not self.nodes:
            self.met(grid.send_and_receive(self.roll_call(grid), timeout=self.spec.timeout))
        self.round = RoundFacts(server_round)
        self.updates = {}
        self.current = tensors(arrays)
        config["server-round"] = server_round
        config["lr"] = self.rate(server_round)
        if isinstance(self.spec.strategy, FedProx):
            config["proximal-mu"] = self.spec.strategy.mu
        content = RecordDict({"arrays": arrays, "config": config})
        down = size(self.current)
        if isinstance(self.inner, ScaffoldStrategy):
            content["control"] = record(self.inner.control, live=self.live)
            down += size(self.inner.control)
        if self.fixed and not self.live:
            content[FIXED] = record(self.fixed, live=False)
            down += size(self.fixed)
        messages = []
        for client in self.picked(server_round):
            self.round.facts[client] = Fact(client, "late", bytes_down=down)
            messages.append(
                grid.create_message(content, "train", self.nodes[client], str(server_round))
            )
        return messages

    # --- what comes back --------------------------------------------------------------------------

    def take(self, reply: Message) -> None:
        """Take down what a client answered."""
        client = self.numbers.get(reply.metadata.src_node_id)
        if client is None or client not in self.round.facts:
            return
        fact = self.round.facts[client]
        if reply.has_error():
            fact.state = ENDS.get(reply.error.code, "failed")
            said = (reply.error.reason or "").strip().splitlines()
            fact.reason = said[-1] if said else "it did not say why"
            return
        with looked_at(fact):
            if self.secure is not None:
                fact.bytes_up = self.secure.masked(client, reply.content)
            else:
                self.updates[client] = self._read(fact, reply.content)
            fact.state = "kept"

    def _read(self, fact: Fact, content: RecordDict) -> Update:
        """The update in a client's answer, and into `fact` what else it says. Raises BadInput, or
        anything, where it is none."""
        sent = tensors(arrays_in(content))
        fact.bytes_up = size(sent)
        update = self._whole(expanded(self.spec.compression, sent, self.like))
        images = number_in(content, NUMBER)
        if not images >= 1:
            raise BadInput(f"it says that it has {images} images")
        if self.sizes and images != self.sizes[fact.client]:
            raise BadInput(
                f"it says that it has {images} images, and its part has {self.sizes[fact.client]}"
            )
        fact.examples = int(images)
        fact.loss = _finite(number_in(content, "loss"))
        fact.accuracy = _finite(number_in(content, "accuracy"))
        fact.share = number_in(content, "share", 1.0)
        if isinstance(self.inner, ScaffoldStrategy):
            change = tensors(arrays_in(content, "control"))
            fact.bytes_up += size(change)
            whole = {
                name: _fitting(f"the control variate of {name}", change.get(name), control)
                for name, control in self.inner.control.items()
            }
            content["control"] = record(whole, live=True)
        return update

    def _whole(self, update: Update) -> Update:
        """An update in the order of the model's tensors, if it can be one. Raises BadInput."""
        if extra := [name for name in update if name not in self.like]:
            raise BadInput(f"{extra[0]} is no tensor of the model")
        return {name: _fitting(name, update.get(name), like) for name, like in self.like.items()}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new global model; None where nothing came of the round, as `self.round` explains."""
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        if self.secure is None:  # else they were taken down before they were unmasked
            for reply in by_node.values():
                self.take(reply)
        clients = sorted(self.updates)
        facts = [self.round.facts[client] for client in clients]
        updates = [self.updates[client] for client in clients]
        measure(facts, gram(updates), [fact.examples for fact in facts])
        answers = [by_node[self.nodes[client]] for client in clients]
        step = self._step(server_round, facts, updates, answers)
        if step is None:
            return None, None
        drifts(facts, updates, step)
        new = {name: tensor + step[name] for name, tensor in self.current.items()}
        return record(new, live=self.live), _means([fact for fact in facts if fact.state == "kept"])

    def _step(
        self, number: int, facts: list[Fact], updates: list[Update], answers: list[Message]
    ) -> Update | None:
        """What is added to the global model."""
        if self.secure is not None:
            return self._unmasked(self.secure, number)
        if self.noise is not None:
            self.round.clip = self.noise.clip
            mean, clipped = self.noise.mean(
                updates, self.like, number, [fact.client for fact in facts]
            )
            for fact, was in zip(facts, clipped, strict=True):
                fact.clipped = was
            return self._put_together(number, [_content(mean, 1)], answers[:1])
        if not updates:
            self.round.skipped = "no client sent an update that could be used"
            return None
        if len(updates) < least(self.spec):
            self.round.skipped = (
                f"{self.spec.strategy.kind} needs {least(self.spec)} updates, and there were "
                f"{len(updates)}"
            )
            return None
        contents = [
            _content(update, fact.examples) for update, fact in zip(updates, facts, strict=True)
        ]
        if isinstance(self.inner, ScaffoldStrategy):
            for content, answer in zip(contents, answers, strict=True):
                content["control"] = answer.content["control"]
        settle(self.inner, self.like, len(contents))
        kept = set(kept_by(self.inner, contents))
        for place, fact in enumerate(facts):
            if place not in kept:
                fact.state, fact.reason = "set aside", "the strategy chose others"
        return self._put_together(number, contents, answers)

    def _unmasked(self, secure: SecureSum, number: int) -> Update | None:
        """From the sum of all updates, which is all that is known of them."""
        if self.round.skipped:
            return None
        try:
            total, totals = secure.total()
        except BadInput as error:
            self.round.skipped = str(error)
            return None
        images, have = int(totals["examples"]), sum(self.sizes[each] for each in secure.summed)
        if images != have:  # as they are also where a mask is still on
            self.round.skipped = (
                f"the clients of the sum say that they have {images} images, and their parts have "
                f"{have}: one of them sent something else than it was asked for"
            )
            return None
        self.round.totals = totals
        if self.noise is not None:
            self.round.clip = self.noise.clip
            total = self.noise.mean_of(total, number, secure.summed)
        else:
            total = {name: tensor * (secure.heaviest / images) for name, tensor in total.items()}
        mean = {name: tensor.float() for name, tensor in total.items()}
        return self._put_together(number, [_content(mean, images)], [])

    def _put_together(
        self, number: int, contents: list[RecordDict], answers: list[Message]
    ) -> Update | None:
        """By the inner strategy. An optimiser at the server, or Scaffold, takes what is learnt;
        running statistics are only averaged."""
        apart = (
            self.statistics
            if isinstance(self.spec.strategy, Adaptive | Scaffold)
            else frozenset[str]()
        )
        settle(self.inner, {n: t for n, t in self.like.items() if n not in apart}, len(contents))
        counted = _averaged(contents, apart) if apart else {}
        messages = []
        for place, content in enumerate(contents):
            if apart:
                learnt = {n: t for n, t in tensors(arrays_in(content)).items() if n not in apart}
                content["arrays"] = record(learnt, live=True)
            messages.append(_message(content, answers[place] if place < len(answers) else None))
        arrays, _ = self.inner.aggregate_train(number, messages)
        if arrays is None:
            self.round.skipped = (
                f"{self.spec.strategy.kind} made nothing of {len(contents)} updates"
            )
            return None
        made = {**tensors(arrays), **counted}
        return {name: made[name].float() for name in self.like}

    # --- the rest of Flower's interface -----------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Nobody: the global model is judged by the server. (`judging` asks for clients' own.)"""
        return []

    def judging(self, arrays: ArrayRecord, grid: Grid) -> list[Message]:
        """The messages that ask every client how its own model does."""
        content = RecordDict({"arrays": arrays})
        return [grid.create_message(content, "evaluate", node, "0") for node in self.nodes.values()]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """The plain mean of what clients say of their own models."""
        said = [_said(reply, "accuracy") for reply in replies]
        found = [accuracy for accuracy in said if 0.0 <= accuracy <= 1.0]
        # Exactly rounded, so that the order of the answers does not matter.
        return MetricRecord({"accuracy": math.fsum(found) / len(found)}) if found else None

    def summary(self) -> None:
        """Flower's log is not shown."""

    # --- going on ---------------------------------------------------------------------------------

    def state(self) -> Update:
        """What the next round depends on, besides the global model and what is with the clients."""
        found = {f"strategy.{name}": tensor for name, tensor in state_of(self.inner).items()}
        if self.noise is not None:
            found |= {f"noise.{name}": tensor for name, tensor in self.noise.tensors().items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        restore_state(self.inner, under(state, "strategy."))
        if self.noise is not None:
            self.noise.restore(under(state, "noise."))


def _content(update: Update, examples: int) -> RecordDict:
    """As Flower's strategies expect a reply: one record of arrays, one of metrics."""
    metrics = MetricRecord({NUMBER: examples})
    return RecordDict({"arrays": record(update, live=True), "metrics": metrics})


def _message(content: RecordDict, answer: Message | None) -> Message:
    if answer is None:  # of a round whose noise is all there is
        return addressed(content, Metadata(1, "", 1, 1, "", "", 0.0, 1.0, "train"))
    answer.content = content
    return answer


def _averaged(contents: list[RecordDict], names: Iterable[str]) -> Update:
    weights = [number_in(content, NUMBER) for content in contents]
    total = sum(weights)
    updates = [tensors(arrays_in(content)) for content in contents]
    return {
        name: sum(
            (
                update[name] * (weight / total)
                for update, weight in zip(updates, weights, strict=True)
            ),
            torch.zeros(()),
        )
        for name in names
    }


def _means(facts: list[Fact]) -> MetricRecord:
    """The clients' own losses and accuracies, weighted by their images."""
    found: dict[str, Any] = {}
    total = sum(fact.examples for fact in facts)
    for name in ("loss", "accuracy"):
        values = [(getattr(fact, name), fact.examples) for fact in facts]
        known = [value * count for value, count in values if value is not None]
        if known and total:
            found[name] = sum(known) / total
    return MetricRecord(found)


def _said(reply: Message, name: str) -> float:
    """A number that somebody answers; not a number where there is none."""
    try:
        return number_in(reply.content, name)
    except (KeyError, TypeError, ValueError):  # the last: it answers with an error
        return math.nan


def _fitting(what: str, tensor: Tensor | None, like: Tensor) -> Tensor:
    """A tensor of an answer as float32, if it has the shape of `like`. Raises BadInput."""
    if tensor is None:
        raise BadInput(f"{what} is missing")
    if tensor.shape != like.shape:
        raise BadInput(f"{what} has the shape {tuple(tensor.shape)}, not {tuple(like.shape)}")
    if not tensor.is_floating_point():
        raise BadInput(f"{what} is of type {tensor.dtype}")
    found = tensor.float()  # in which what was finite may be so no more
    if not is_finite(found):
        raise BadInput(f"{what} is not finite")
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
