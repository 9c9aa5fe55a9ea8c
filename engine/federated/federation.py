"""A federation, round by round: a generator of events on any of Flower's grids.

Pulling it is running it: messages are pushed to the grid, and between two looks for answers there
is a yield. What it computes depends on which answers come in time, and on nothing else of when they
come, or in which order. (Late clients elsewhere, which keep something for themselves, as with FedBN
or where compression has a memory, may keep what they learnt for an answer that nobody took.)
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.bench import Bench
from engine.errors import Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Table
from engine.federated import hostility, telling
from engine.federated.agreeing import agreed, revealed
from engine.federated.capturing import write_update
from engine.federated.conducting import Conductor
from engine.federated.facts import RoundFacts, is_finite
from engine.federated.flower import heard, is_here, record, tensors
from engine.federated.learning import NORMS, exchanged, statistics_of, tensors_of
from engine.federated.noising import ClientNoise, Exhausted
from engine.federated.preparing import Prepared
from engine.federated.secure import SecureSum
from engine.federated.spec import Backdoor, FedBN, Federate, Local, Ray
from engine.federated.telling import Outcome
from engine.models.evaluating import Evaluation, evaluate
from engine.store.checkpoints import under
from engine.training.loop import salt_of

# isort: split
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

IDLE = 0.02
"""Seconds between two looks at a grid that does not wait itself."""


@dataclass(slots=True)
class Place:
    """Where a federation is: `round` rounds are over."""

    round: int = 0
    skipped: int = 0
    rejected: int = 0
    dropped: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    accuracy: float | None = None
    loss: float | None = None
    best_accuracy: float | None = None
    best_round: int = 0
    success_rate: float | None = None
    """Of a backdoor."""
    reason: str = ""
    """Why a round was skipped, the last one that was."""
    broken: bool = False
    """Whether the global model's answers are not finite any more."""


class Keeper:
    """Looks after what is kept outside of a federation: with its clients, and on the disk."""

    def begin(self) -> None:
        """A round begins."""

    def undo(self) -> None:
        """It was stopped, and is to count as if it had not begun."""

    def end(self) -> None:
        """It is over."""


class Federation:
    """One global model, and the rounds that it goes through. Between two events it is in eval mode
    and whole: that of the last round that is over."""

    def __init__(self, spec: Federate, bench: Bench, made: Prepared) -> None:
        self.spec = spec
        self.bench = bench
        self.made = made
        self.model = made.model
        self.at = Place()
        names = exchanged(self.model, spec)
        own = tensors_of(self.model)
        self.conductor = Conductor(
            spec,
            bench.seed,
            {name: own[name] for name in names},
            frozenset(statistics_of(self.model)) & frozenset(names),
            rate=self._rate,
            # A model that the run starts from is here, not with clients elsewhere.
            fixed={n: t for n, t in own.items() if n not in names} if spec.init else None,
            noise=_noise(spec, bench, made, sum(own[name].numel() for name in names)),
            sizes=[len(part) for part in made.parts],
        )
        if spec.secure_aggregation is not None:
            self.conductor.secure = SecureSum(
                spec.secure_aggregation, bench.seed, self.conductor.like, max(map(len, made.parts))
            )
        self.hostile = hostility.who(spec.hostile, spec.clients, bench.seed)
        self.backdoor = hostility.backdoor_of(spec)
        self.epsilon: float | None = None
        self.client_accuracy: float | None = None
        self.rounds: list[tuple[Any, ...]] = []
        self._names = names

    # --- the rounds -------------------------------------------------------------------------------

    def play(self, grid: Grid, keeper: Keeper | None = None) -> Generator[Event, None, None]:
        """Every round that is left. Raises CrucibleError where not one of them led to anything."""
        keeper = keeper or Keeper()
        if not self.conductor.nodes:
            replies = yield from self._asked(grid, self.conductor.roll_call(grid), "nodes")
            self.conductor.met(replies)
        if self.conductor.noise is not None:
            yield from self.conductor.noise.begin()
        while self.at.round < self.planned:
            before = self._snapshot()
            keeper.begin()
            try:
                yield from self._round(grid)
            except Cancelled:
                self._undo(before)
                keeper.undo()
                raise
            except Exhausted as error:
                self._undo(before)
                if not self.at.round:
                    raise
                yield Note("warning", str(error))
                break
            self.at.round += 1
            keeper.end()
            yield Progress(self.at.round, self.planned, "rounds")
        if self.at.round and self.at.skipped == self.at.round:
            raise CrucibleError(
                f"nothing came of any of the {self.at.round} rounds: the last was skipped, as "
                f"{self.at.reason}. The model is as it was at the start."
            )
        if isinstance(self.spec.strategy, FedBN):
            yield from self._judge_own(grid)

    @property
    def planned(self) -> int:
        """How many rounds there are to be: no more than the budget allows."""
        noise = self.conductor.noise
        return self.spec.rounds if noise is None else min(self.spec.rounds, noise.rounds)

    def _round(self, grid: Grid) -> Generator[Event, None, None]:
        begun = time.perf_counter()
        number, conductor = self.at.round + 1, self.conductor
        arrays = record(self._sent(), live=is_here(grid))
        messages = conductor.configure_train(number, arrays, ConfigRecord(), grid)
        yield telling.picked_table(conductor.round)
        secure = conductor.secure
        if secure is not None:
            messages = yield from agreed(conductor, secure, grid, self._asked, messages)
        replies = yield from self._asked(grid, messages, "clients")
        if secure is not None:
            yield from revealed(conductor, secure, grid, self._asked, replies)
        new, _ = conductor.aggregate_train(number, replies)
        yield from self._kept(number)
        if new is not None:
            own = tensors_of(self.model)
            with torch.no_grad():
                for name, tensor in tensors(new).items():
                    own[name].copy_(tensor)
        judged = yield from self._judged(number)
        if conductor.noise is not None:
            self.epsilon = conductor.noise.spent()
        self._count(conductor.round)
        yield from self._said(conductor.round, judged, time.perf_counter() - begun)

    def _sent(self) -> dict[str, Tensor]:
        """What is sent to clients: copies, as they read it while the model is theirs no more."""
        own = tensors_of(self.model)
        return {name: own[name].detach().cpu().clone() for name in self._names}

    def _rate(self, number: int) -> float:
        """The clients' learning rate in a round."""
        peak = self.bench.control("lr", self.spec.optimizer.lr, number)
        return float(peak * self.spec.lr_decay ** (number - 1))

    def _asked(
        self, grid: Grid, messages: Iterable[Message], what: str
    ) -> Generator[Event, None, list[Message]]:
        """The answers to messages, as far as they come in time. See `_patience`."""
        messages = list(messages)
        total = len(messages)
        left = set(grid.push_messages(messages)) if messages else set()
        answers: list[Message] = []
        end = time.monotonic() + self._patience(grid)
        said = time.monotonic()
        while left and time.monotonic() < end:
            found = list(grid.pull_messages(left))
            for answer in found:
                left.discard(answer.metadata.reply_to_message_id)
                answers.append(answer)
            if time.monotonic() - said >= self.bench.burst:
                done = self.at.round + len(answers) / max(1, total)
                yield Progress(
                    len(answers),
                    total,
                    what,
                    done / self.planned if what == "clients" else None,
                )
                said = time.monotonic()
            if left and not found and not is_here(grid):
                time.sleep(IDLE)
        if left and hasattr(grid, "give_up"):
            grid.give_up(left)
        return answers

    def _patience(self, grid: Grid) -> float:
        """Seconds that answers are waited for.

        The noise of a private round covers one client's own update. Where clients are all of this
        machine, and take turns at it, one that is slow would make others late as well, and change
        the sum by their updates too: there all are waited for. Elsewhere a client is late by itself
        as far as nothing is shared, neither a machine nor a line.
        """
        together = is_here(grid) or isinstance(self.spec.grid, Ray)
        return math.inf if self.spec.privacy is not None and together else self.spec.timeout

    # --- the global model -------------------------------------------------------------------------

    def _judged(self, number: int) -> Generator[Event, None, Evaluation | None]:
        if number % self.spec.evaluate_every and number != self.planned:
            return None
        self._calibrate()
        judged = yield from evaluate(self.model, self.made.data.test, self.bench)
        self.at.accuracy, self.at.loss = judged.accuracy, _finite(judged.loss)
        if self.at.best_accuracy is None or judged.accuracy > self.at.best_accuracy:
            self.at.best_accuracy, self.at.best_round = judged.accuracy, number
        if self.backdoor is not None:
            self.at.success_rate = yield from self._fooled(self.backdoor)
        return judged

    def _fooled(self, backdoor: Backdoor) -> Generator[Event, None, float]:
        """Share of the test images of other classes that the trigger turns into the target."""
        test = self.made.data.test
        others = (test.labels != backdoor.target).nonzero().flatten()
        hits = 0
        for _, images, _ in test.batches(others.cpu(), 500):
            with torch.no_grad():
                answers = self.model(hostility.triggered(images, backdoor)).argmax(1)
            hits += int((answers == backdoor.target).sum())
            yield Progress(self.at.round, self.planned, "rounds")
        return hits / max(1, len(others))

    def _calibrate(self) -> None:
        """With FedBN the global model has no batch statistics of its own: those of the validation
        images, by the plain mean over batches."""
        if not isinstance(self.spec.strategy, FedBN):
            return
        layers = [module for module in self.model.modules() if isinstance(module, NORMS)]
        held = [(layer, layer.momentum) for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        split = self.made.data.validation
        with torch.no_grad():
            for _, images, _ in split.batches(torch.arange(len(split)), 500):
                if len(images) > 1:
                    self.model(images)
        for layer, momentum in held:
            layer.momentum = momentum
            layer.eval()

    def _judge_own(self, grid: Grid) -> Generator[Event, None, None]:
        arrays = record(self._sent(), live=is_here(grid))
        replies = yield from self._asked(grid, self.conductor.judging(arrays, grid), "own models")
        found = self.conductor.aggregate_evaluate(self.at.round, replies)
        if found is not None:
            self.client_accuracy = float(str(found["accuracy"]))

    # --- what is said -----------------------------------------------------------------------------

    def _count(self, seen: RoundFacts) -> None:
        self.at.skipped += bool(seen.skipped)
        self.at.reason = seen.skipped or self.at.reason
        self.at.rejected += len(seen.of("rejected", "failed"))
        self.at.dropped += len(seen.of("dropped", "late"))
        self.at.bytes_up += seen.bytes_up
        self.at.bytes_down += seen.bytes_down

    def _said(self, seen: RoundFacts, judged: Evaluation | None, seconds: float) -> Iterator[Event]:
        for line in heard():
            yield Note("info", f"Flower: {line}")
        yield from telling.notes(seen)
        if not self.at.broken and not self._is_finite(judged):
            self.at.broken = True
            yield Note(
                "warning",
                f"the global model's answers are not finite after round {seen.number}, and no "
                "client can go on from it. A lower learning rate prevents that, or a strategy that "
                "withstands hostile clients.",
            )
        outcome = Outcome(
            clients=self.spec.clients,
            hostile=self.hostile,
            lr=self._rate(seen.number),
            seconds=seconds,
            accuracy=judged.accuracy if judged is not None else None,
            loss=_finite(judged.loss) if judged is not None else None,
            success_rate=self.at.success_rate,
            epsilon=self.epsilon,
        )
        yield telling.scalars(seen, outcome)
        yield telling.clients_table(seen, outcome)
        self.rounds = telling.recent([*self.rounds, telling.round_row(seen, outcome)], outcome)
        yield Table("rounds", telling.ROUND_COLUMNS, tuple(self.rounds))

    def _is_finite(self, judged: Evaluation | None) -> bool:
        if judged is not None:
            return math.isfinite(judged.loss)
        return all(is_finite(tensor) for tensor in tensors_of(self.model).values())

    # --- a round is whole, or was not -------------------------------------------------------------

    def _snapshot(self) -> tuple[Any, ...]:
        """What a round changes."""
        model = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        told = (self.epsilon, self.client_accuracy, list(self.rounds))
        return model, self.conductor.state(), dataclasses.replace(self.at), told

    def _undo(self, before: tuple[Any, ...]) -> None:
        """Back to a snapshot: a round that is stopped in the middle has not been."""
        model, state, self.at, told = before
        self.model.load_state_dict(model)
        self.conductor.restore(state)
        self.epsilon, self.client_accuracy, self.rounds = told

    # --- what is kept for an audit ----------------------------------------------------------------

    def _kept(self, number: int) -> Iterator[Event]:
        """What the clients sent that the task names, before anything is put together."""
        capture, conductor = self.spec.capture, self.conductor
        if capture is None or number not in capture.rounds:
            return
        before = {**tensors_of(self.model), **conductor.current}
        for client in capture.clients:
            if client not in conductor.updates:
                text = f"client {client} sent nothing in round {number} that could be kept"
                yield Note("info", text)
                continue
            yield write_update(
                self.bench,
                self.spec,
                before,
                conductor.updates[client],
                self.made.parts[client],
                conductor.round.facts[client],
                lr=self._rate(number),
                number=number,
            )

    # --- going on ---------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """What the next round depends on, besides what is with the clients."""
        found = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        return found | {f"server.{n}": t for n, t in self.conductor.state().items()}

    def restore(self, held: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up what `tensors` gave, and where it was."""
        self.at = Place(**values)
        self.model.load_state_dict(under(held, "model."))
        self.conductor.restore(under(held, "server."))


def _noise(spec: Federate, bench: Bench, made: Prepared, parameters: int) -> ClientNoise | None:
    if spec.privacy is None:
        return None
    # Where the clients are changes nothing of what they send.
    asked = spec.model_copy(update={"grid": Local()})
    salt = salt_of(asked, made.data.fingerprint, made.model)
    return ClientNoise(spec, bench, salt, parameters)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
