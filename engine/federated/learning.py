"""A client's own training: from the global model to its update, and nothing else.

All clients of a process share the images and a few models, one a thread; what belongs to a client
is a list of places. Every draw derives from (seed, round, client), so that neither the order of the
clients nor the number of threads matters.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import AttackResult, perturb
from engine.attacks.spec import AttackSpec
from engine.data import Dataset, Split
from engine.federated import hostility
from engine.federated.spec import FedBN, Federate, FreeRider, Gaussian
from engine.models.spec import ModelSpec, Module
from engine.random import derive
from engine.training.defence import Batch, Defence, Setting
from engine.training.optimizers import make_optimizer

Update = dict[str, Tensor]

JUDGED = 500
"""Test images that are looked at together."""

COUNTED = 64
"""Steps whose answers are held until they are counted: counting costs as much as a small layer."""

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Stopped(Exception):
    """Nobody wants the answer any more."""


class PartSplit(Split):
    """Some of the images of a split, by their places in it."""

    def __init__(self, whole: Split, places: Tensor) -> None:
        super().__init__(whole.labels[places], whole.ids[places], whole.shape, whole.device)
        self._whole = whole
        self._places = places

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self._whole.batch(self._places[index])

    def batches(self, index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        parts = index.split(size) if len(index) else ()
        whole = self._whole.batches(self._places[index], size)
        for part, (_, images, labels) in zip(parts, whole, strict=True):
            yield part, images, labels


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one client is asked in one round.

    start: the global model's exchanged tensors. mu: weight of FedProx's penalty. share: of its
    steps that it gets through. lr: its learning rate. control: Scaffold's, of the server. fixed:
    what is not exchanged, where it is not as the task makes it.
    """

    client: int
    round: int
    start: Mapping[str, Tensor]
    mu: float = 0.0
    share: float = 1.0
    lr: float = 0.1
    control: Mapping[str, Tensor] | None = None
    fixed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Learnt:
    """update: what the client sends, before it is made smaller. loss, accuracy: means over the
    images that it was trained on, as it went. control: how Scaffold's changed at the client.
    kept: what stays with the client, by name."""

    update: Update
    examples: int
    steps: int
    loss: float
    accuracy: float
    control: Update = field(default_factory=dict)
    kept: dict[str, Update] = field(default_factory=dict)


class Fleet:
    """The clients of one process: their images, and models for as many as train at a time."""

    def __init__(
        self,
        spec: Federate,
        seed: int,
        data: Dataset,
        parts: tuple[Tensor, ...],
        model: nn.Module,
        model_spec: ModelSpec,
    ) -> None:
        """`model` is the global one at the start; it is copied, not used."""
        self.spec = spec
        self.seed = seed
        self.data = data
        self.parts = parts
        self.exchanged = exchanged(model, spec)
        self.hostile = hostility.who(spec.hostile, spec.clients, seed)
        self.stop = threading.Event()
        self.turns: contextlib.AbstractContextManager[Any] = threading.Lock()
        """Whoever draws from torch's global generator holds it."""
        self.draws = isinstance(model_spec, Module) or _draws(model)
        self._template = copy.deepcopy(model)
        self._own = {n: t for n, t in tensors_of(self._template).items() if n not in self.exchanged}
        self._free: list[nn.Module] = []
        self._lock = threading.Lock()

    def learn(self, lesson: Lesson, state: Mapping[str, Mapping[str, Tensor]]) -> Learnt:
        """Train one client; `state` is what it kept from its rounds before.

        Raises Stopped soon after `stop` is set.
        """
        hostile = self.hostile.get(lesson.client)
        seed = derive(self.seed, "round", lesson.round, "client", lesson.client)
        if isinstance(hostile, FreeRider | Gaussian):
            idle = {name: torch.zeros_like(tensor) for name, tensor in lesson.start.items()}
            update = hostility.tampered(hostile, idle, seed)
            learnt = Learnt(update, len(self.parts[lesson.client]), 0, 0.0, 0.0)
            if lesson.control is not None:
                learnt.control = {n: torch.zeros_like(t) for n, t in lesson.control.items()}
            return learnt
        model = self._taken()
        try:
            self._load(model, {**lesson.fixed, **state.get("own", {}), **lesson.start})
            learnt = _Session(self, model, lesson, state.get("control", {}), seed).played()
        finally:
            self._free.append(model)
        learnt.update = hostility.tampered(hostile, learnt.update, seed)
        return learnt

    def judge_own(
        self, start: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, float]:
        """How a client's own model, the global one with what stays at the client, does on the test
        images. Raises Stopped."""
        model = self._taken()
        try:
            self._load(model, {**state.get("own", {}), **start})
            loss, right = 0.0, 0
            test = self.data.test
            for _, images, labels in test.batches(torch.arange(len(test)), JUDGED):
                if self.stop.is_set():
                    raise Stopped
                with torch.no_grad():
                    logits = model(images).float()
                    loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                    right += int((logits.argmax(1) == labels).sum())
        finally:
            self._free.append(model)
        count = max(1, len(test))
        return {"num-examples": len(test), "accuracy": right / count, "loss": loss / count}

    def _taken(self) -> nn.Module:
        with self._lock:
            if self._free:
                return self._free.pop()
        return copy.deepcopy(self._template)

    def _load(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Every tensor of a model: these, else what the global one began with."""
        with torch.no_grad():
            for name, tensor in tensors_of(model).items():
                tensor.copy_(values[name] if name in values else self._own[name])


class _Session:
    """One client's training in one round, on a model that has been loaded."""

    def __init__(
        self,
        fleet: Fleet,
        model: nn.Module,
        lesson: Lesson,
        held: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        """`held` is the client's control variate, empty at first; all draws derive from `seed`."""
        spec = fleet.spec
        self.fleet = fleet
        self.spec = spec
        self.model = model
        self.lesson = lesson
        self.held = held
        self.seed = seed
        self.part = PartSplit(fleet.data.train, fleet.parts[lesson.client])
        self.hostile = fleet.hostile.get(lesson.client)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = list(self.parameters.values())
        self.size = spec.batch_size or len(self.part)
        self.batches = batches_of(len(self.part), self.size, model)
        self.defence = self._defence()
        self.replays = self.defence.replays if self.defence is not None else 1
        self.steps = 0
        # What FedProx pulls towards, and what Scaffold adds to each gradient.
        self.start = [weight.detach().clone() for weight in self.weights] if lesson.mu else []
        self.shift: list[Tensor] = []
        if lesson.control is not None:
            control = ((n, lesson.control[n]) for n in self.parameters)
            self.shift = [(c - held[n] if held else c).to(self.part.device) for n, c in control]

    def played(self) -> Learnt:
        """The whole training. Raises Stopped."""
        device = self.part.device
        optimizer = make_optimizer(
            self.spec.optimizer.model_copy(update={"lr": self.lesson.lr}), self.weights, device
        )
        losses: list[Tensor] = []
        counts: list[int] = []
        answers: list[Tensor] = []
        labels: list[Tensor] = []
        right = 0
        self.model.train()
        try:
            for batch in self._batches():
                optimizer.zero_grad(set_to_none=True)
                loss, logits = self._loss(batch)
                self._bend()
                optimizer.step()
                losses.append(loss.detach())
                counts.append(len(batch.labels))
                if logits is not None:
                    answers.append(logits.detach())
                    labels.append(batch.labels)
                if len(answers) == COUNTED:
                    right += _hits(answers, labels)
                    answers, labels = [], []
                self.steps += 1
        finally:
            self.model.eval()
        right += _hits(answers, labels)
        weights = torch.tensor(counts, device=device) / sum(counts)
        return self._learnt(float((torch.stack(losses) * weights).sum()), right / sum(counts))

    def _batches(self) -> Iterator[Batch]:
        """What is stepped on, as far as the client gets."""
        spec = self.spec
        limit = max(1, round(self.lesson.share * self.batches * spec.epochs)) * self.replays
        for epoch in range(spec.epochs):
            order = torch.randperm(len(self.part), generator=_generator(self.seed, "order", epoch))
            whole = self.part.batches(order[: self.batches * self.size], self.size)
            for places, images, labels in whole:
                ids = self.part.ids.index_select(0, places)
                if self.hostile is not None:
                    images, labels = hostility.poisoned(
                        self.hostile,
                        images,
                        labels,
                        ids,
                        self.fleet.seed,
                        len(self.fleet.data.classes),
                    )
                if spec.bench.channels_last:
                    images = images.to(memory_format=torch.channels_last)
                for _ in range(self.replays):
                    if self.steps >= limit:
                        return
                    if self.fleet.stop.is_set():
                        raise Stopped
                    done = self.steps / (self.batches * self.replays)
                    at = (self.lesson.round - 1) * spec.epochs + done
                    yield Batch(images, labels, places, ids, self.steps, at)

    def _learnt(self, loss: float, accuracy: float) -> Learnt:
        own, lesson, spec = tensors_of(self.model), self.lesson, self.spec
        with torch.no_grad():
            update = {n: own[n].detach().cpu() - lesson.start[n] for n in self.fleet.exchanged}
        learnt = Learnt(update, len(self.part), self.steps, loss, accuracy)
        if isinstance(spec.strategy, FedBN):
            kept = (n for n in own if n not in update)
            learnt.kept["own"] = {n: own[n].detach().cpu().clone() for n in kept}
        if lesson.control is not None:
            rate = max(1, self.steps) * lesson.lr
            change = {n: -update[n] / rate - lesson.control[n] for n in self.parameters}
            learnt.control = change
            learnt.kept["control"] = {
                n: moved + self.held[n] if self.held else moved for n, moved in change.items()
            }
        return learnt

    # --- one step ---------------------------------------------------------------------------------

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss of a step, its gradients in the parameters, and clean logits if there are."""
        defence = self.defence
        found = None if defence is None else self._found(defence, batch)
        with self._turn(batch.step), self._autocast():
            if defence is not None:
                loss, logits, _ = defence.loss(self.model, batch, found)
            else:
                logits = self.model(batch.images)
                loss = F.cross_entropy(logits, batch.labels)
        loss.backward()
        if defence is not None:
            defence.stepped(batch, found)
        return loss, logits

    def _bend(self) -> None:
        """Add FedProx's pull towards the start, and Scaffold's correction, to the gradients."""
        if not (self.start or self.shift):
            return
        grads = [weight.grad for weight in self.weights if weight.grad is not None]
        with torch.no_grad():
            if self.start:
                here = [weight.detach() for weight in self.weights]
                away = torch._foreach_sub(here, self.start)
                torch._foreach_add_(grads, away, alpha=self.lesson.mu)
            if self.shift:
                torch._foreach_add_(grads, self.shift)

    def _found(self, defence: Defence, batch: Batch) -> Tensor | None:
        """The adversarial examples that a defence wants for its step."""
        assert self.spec.adversarial is not None
        self.model.eval()
        try:
            wanted = defence.wanted(batch)
            if wanted is None:
                return None
            share = self.spec.adversarial.risen(batch.epoch)
            search = perturb(
                self.model,
                batch.images,
                batch.labels if wanted.labels is None else wanted.labels,
                shrunk(wanted.attack, share) if share < 1.0 else wanted.attack,
                seed=derive(self.seed, "adversarial", batch.step),
                ids=batch.ids,
                early_exit=False,
                begin=wanted.start,
                precision=self.spec.bench.precision,
            )
            while True:
                # An attack sets torch's global generator aside, and puts it back at each yield.
                with self.fleet.turns:
                    try:
                        next(search)
                    except StopIteration as end:
                        result: AttackResult = end.value
                        return result.adversarial
                if self.fleet.stop.is_set():
                    raise Stopped
        finally:
            self.model.train()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.spec.bench.precision == "bf16":
            return torch.autocast(self.part.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _turn(self, step: int) -> contextlib.AbstractContextManager[None]:
        """torch's global generator is one for all threads: a model that draws from it has it to
        itself, seeded for this client's step."""
        return self._drawing(step) if self.fleet.draws else contextlib.nullcontext()

    @contextlib.contextmanager
    def _drawing(self, step: int) -> Iterator[None]:
        device = self.part.device
        with self.fleet.turns, torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(derive(self.seed, "step", step))
            yield

    def _defence(self) -> Defence | None:
        if self.spec.adversarial is None:
            return None

        def batch(places: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
            return self.part.batch(places)

        seed = derive(self.seed, "defence")
        return self.spec.adversarial.defence(
            Setting(self.part, batch, seed, F.cross_entropy, None, self.model)
        )


def _hits(answers: list[Tensor], labels: list[Tensor]) -> int:
    return int((torch.cat(answers).argmax(1) == torch.cat(labels)).sum()) if answers else 0


def tensors_of(model: nn.Module) -> Update:
    """Every parameter and buffer by name, themselves."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def exchanged(model: nn.Module, spec: Federate) -> tuple[str, ...]:
    """The tensors that clients and server send each other: what is learnt, and running statistics.
    Not what is the same for all: constants, and counters of batches. With FedBN, nothing of batch
    normalisation."""
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    statistics = statistics_of(model)
    names = [name for name in tensors_of(model) if name in learnt or name in statistics]
    if isinstance(spec.strategy, FedBN):
        kept = {
            f"{prefix}.{name}"
            for prefix, module in model.named_modules()
            if isinstance(module, NORMS)
            for name in tensors_of(module)
        }
        names = [name for name in names if name not in kept]
    return tuple(names)


def statistics_of(model: nn.Module) -> set[str]:
    """The running statistics of its normalisation layers."""
    return {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point()
    }


def batches_of(count: int, size: int, model: nn.Module) -> int:
    """Batches of an epoch. A rest of one image has no batch statistics, and is left out."""
    rest = count % size
    alone = rest == 1 and any(isinstance(module, NORMS) for module in model.modules())
    return max(1, count // size + (rest > 0 and not alone))


def shrunk(attack: AttackSpec, share: float) -> AttackSpec:
    """The attack in a smaller ball, its steps smaller alike."""
    sizes = {name: getattr(attack, name, None) for name in ("eps", "step_size")}
    return attack.model_copy(update={n: v * share for n, v in sizes.items() if v is not None})


def _generator(seed: int, *key: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, *key))


def _draws(model: nn.Module) -> bool:
    """Whether a forward pass in training draws at random, as far as torch's own layers tell."""
    return any(
        isinstance(module, nn.RReLU)
        or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
        for module in model.modules()
    )
