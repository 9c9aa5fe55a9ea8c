"""The training loop: from a Train spec to a model file, one stream of events.

Steps are taken in bursts of at most `bench.burst` seconds. Only inside a burst is the model in
train mode and the global random state the task's own; what was seen is said after it. Where a
burst ends has no influence on the result: the data order, every draw and the learning rate are
functions of the place in the run, and the rest is in the checkpoint. So a resumed run ends with
the same weights.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from engine.attacks import AttackResult, perturb
from engine.attacks.result import Search
from engine.attacks.spec import PGD, AttackSpec, Norm
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import DataSpec
from engine.device import versions
from engine.errors import BadInput, Cancelled, CrucibleError, SpecError
from engine.events import Event, Note, Progress, Saved, Scalars, Table
from engine.files import sha256_of
from engine.models import ModelCard, load_model, save_model, weights_sha256
from engine.models.card import SEEN, told
from engine.models.describing import describe_module
from engine.models.evaluating import Evaluation, evaluate
from engine.models.fitting import fitted_layer, statistic_of
from engine.models.module import code_sha256
from engine.models.spec import ModelSpec
from engine.models.transforms import warning
from engine.store.checkpoints import under
from engine.task import Steps, Summary, Task, parse
from engine.training.adapting import adapt, frozen_statistics, merged
from engine.training.augmentation import augment
from engine.training.awp import worst_weights
from engine.training.defence import Batch, Defence, Outcome, Setting, Wanted
from engine.training.diagnostics.landscape import Landscape
from engine.training.diagnostics.watching import Diagnostics
from engine.training.mechanism import Mechanism, PrivateSetting
from engine.training.optimizers import (
    load_optimizer_tensors,
    lr_factor,
    make_optimizer,
    optimizer_tensors,
)
from engine.training.remembering import Remembered, learning_part, remembered
from engine.training.spec import DEFAULT_DATA, Train, Watch
from engine.training.starting import first_model

T = TypeVar("T")

NORM_EVERY = 10
"""Steps between two measurements of the gradient's norm (with clipping by norm: every step)."""

WATCHED = 500
"""Images that the watch attacks together."""


def run_train(spec: Train, bench: Bench) -> Steps:
    """Train as `spec` says; the summary holds clean_accuracy (test), validation_accuracy, epochs,
    steps, parameters and weights_sha256. Cancelled, it keeps the model as it is.

    Raises BadInput if model and data do not fit, or the data of a resumed run has changed;
    CrucibleError when a loss is not a number.
    """
    if spec.adversarial is not None:
        spec = spec.model_copy(update={"adversarial": spec.adversarial.ready(bench)})
    data, model_spec, data_spec, model, past = yield from _prepared(spec, bench)
    learnt = past.learnt if past is not None else ()
    changed = data.seen(learnt) > 0
    yield _parameter_table(model, data)
    model = adapt(model, spec.trainable, spec.adapters, bench.derive("adapters")).eval()
    trainer = Trainer(spec, bench, data, model, model if past else None)
    if bench.resume is not None:
        values = dict(bench.resume.values["task"])
        _check_unchanged(values.pop("data", None), data)
        trainer.restore(bench.resume.tensors, values)
        yield Note("info", f"resumed at step {trainer.at.step}, epoch {trainer.at.epoch + 1}")
    elif spec.adversarial and (advice := spec.adversarial.advice()):
        yield Note("warning", f"adversarial training: {advice}")
    if changed and bench.resume is None:
        yield Note("warning", SEEN)
    if past is not None and spec.privacy is not None and bench.resume is None:
        yield Note("warning", _of_start(spec.init or "", past))
    if (hiding := warning(model)) and bench.resume is None:
        yield Note("warning", hiding)
    test: Evaluation | None = None
    try:
        yield from trainer.begin()
        yield from trainer.train()
        test = yield from evaluate(trainer.result(), data.test, bench)
    except Cancelled:
        yield from trainer.say()
        yield from trainer.diagnostics.says(last=True)
        if not trainer.unfitted:  # else there is nothing yet to go on from
            trainer.checkpoint()
    if trainer.mechanism is not None:
        trainer.mechanism.settle(trainer.at.step)
    model = trainer.result()
    summary: Summary = {
        "epochs": trainer.at.epoch,
        "steps": trainer.at.step,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if trainer.at.best_epoch:
        summary["best_epoch"] = trainer.at.best_epoch
    if trainer.at.accuracy is not None:
        summary["validation_accuracy"] = trainer.at.accuracy
    if trainer.at.safest_epoch:
        summary["watched_accuracy"] = trainer.at.safest
    if trainer.at.collapsed:
        summary |= {"best_epoch": trainer.at.safest_epoch, "collapsed": True}
    if test is not None:
        if not math.isfinite(test.loss):
            raise CrucibleError(trainer.not_finite(trainer.at.step, None))
        summary |= {"clean_accuracy": test.accuracy, "test_loss": test.loss, "tested": test.samples}
        if spec.privacy is not None:
            summary["accuracy"] = test.accuracy
    if trainer.mechanism is not None:
        summary |= trainer.mechanism.summary(trainer.at.step)
        if past is not None:
            summary["epsilon_leaves_out"] = spec.init or ""
    if changed:
        summary["data_changed"] = True
    private = spec.privacy is not None and spec.privacy.private
    card = ModelCard(
        model=model_spec,
        data=data_spec,
        shape=data.shape,
        classes=data.classes,
        data_fingerprint=data.fingerprint,
        learnt=tuple(dict.fromkeys((*learnt, data.sketch))),
        withheld=private or (past is not None and past.withheld),
        training=told(spec, private=private, changes=bench.changes),
        metrics=dict(summary),
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = bench.folder / "model.safetensors"
    card = save_model(path, model, card)
    summary["weights_sha256"] = card.weights_sha256
    with contextlib.suppress(Cancelled):  # whoever stops it now still gets the whole summary
        yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    return summary


def _prepared(
    spec: Train, bench: Bench
) -> Generator[Event, None, tuple[Dataset, ModelSpec, DataSpec, nn.Module, ModelCard | None]]:
    """Data and model: from the spec, else from the run it starts from, else the defaults; and the
    card of the run it starts from."""
    start = load_model(spec.init, bench) if spec.init else None
    data_spec = spec.data or (start.card.data if start else None) or DEFAULT_DATA
    data = yield from load(data_spec, bench)
    if len(data.train) < 2:
        raise BadInput(f"the training split holds {len(data.train)} images; expected at least 2")
    private = spec.privacy is not None and spec.privacy.private
    if spec.early_stopping and not len(data.validation):
        raise BadInput("early stopping needs a validation split: set data.validation above 0")
    model, model_spec = first_model(spec.model, spec.init, start, data, bench, private=private)
    if spec.batch_size == 1 and any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise BadInput(
            "batch normalisation needs batches of at least 2 images; set batch_size to 2 or more, "
            "or the model's norm to group"
        )
    layout = torch.channels_last if bench.spec.channels_last else torch.contiguous_format
    model = model.to(bench.device).to(memory_format=layout)
    return data, model_spec, data_spec, model.eval(), start.card if start else None


def _data_state(data: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of the data that the run goes on with."""
    counts = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    return {"fingerprint": data.fingerprint, **counts}


def _check_unchanged(before: Mapping[str, Any] | None, data: Dataset) -> None:
    """Raises BadInput where a run began with other data: its splits would be mixed. `before` is
    None in checkpoints of older versions, which do not say."""
    now = _data_state(data)
    if before is None or before["fingerprint"] == now["fingerprint"]:
        return
    then, here = (
        f"{counts['train']} training, {counts['validation']} validation and {counts['test']} test"
        for counts in (before, now)
    )
    differs = (
        f"there are still {here} images, but not the same ones, or not in the same splits"
        if then == here
        else f"it had {then} images, and now has {here}"
    )
    raise BadInput(
        f"the data has changed since the run began: {differs}. Going on would train on images that "
        "were kept aside. Put the data back as it was and resume again, or start a new run."
    )


def _parameter_table(model: nn.Module, data: Dataset) -> Table:
    description = describe_module(model, data.shape)
    return Table(
        "parameters",
        ("layer", "type", "output", "parameters", "flops"),
        tuple(
            (row.name, row.type, "x".join(map(str, row.output)), row.parameters, row.flops)
            for row in description.layers
        ),
    )


@dataclass(slots=True)
class Place:
    """Where a run is: `step` steps taken, `epoch` whole epochs, `done` steps of the next one."""

    step: int = 0
    epoch: int = 0
    done: int = 0
    accuracy: float | None = None
    best_accuracy: float = -1.0
    best_epoch: int = 0
    safest: float = -1.0
    """Robust accuracy of the best epoch by the watch, and which that is."""
    safest_epoch: int = 0
    collapsed: bool = False


@dataclass(slots=True)
class Seen:
    """What the steps of a burst left to be said; `clean` and `adversarial` are logits of all steps
    or of none."""

    steps: list[int] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)
    adversarial: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: dict[int, Tensor] = field(default_factory=dict)


class Trainer:
    """One model being trained. Between two events the model is in eval mode."""

    def __init__(
        self,
        spec: Train,
        bench: Bench,
        data: Dataset,
        model: nn.Module,
        start: nn.Module | None = None,
    ) -> None:
        """`start` is the model that the run starts from, if it starts from one."""
        self.spec = spec
        self.bench = bench
        self.data = data
        self.model = model
        self.learner = model  # the part of it that is given the images of `data`
        if spec.adversarial is None and spec.augmentation == type(spec.augmentation)():
            computed_once = remembered(data, model)
            if computed_once is not None:
                self.data, self.learner = computed_once, learning_part(model)
        self.at = Place()
        self.optimizer = make_optimizer(spec.optimizer, model.parameters(), bench.device)
        self.loss = nn.CrossEntropyLoss(label_smoothing=spec.label_smoothing)
        self.average = copy.deepcopy(model) if spec.ema else None
        self.best: dict[str, Tensor] | None = None
        self.safe: dict[str, Tensor] | None = None
        self.defence: Defence | None = None
        self.watch: Watch | None = None
        if spec.adversarial is not None:
            if spec.adversarial.watch is not None and spec.adversarial.watch.samples:
                self.watch = spec.adversarial.watch
                self.watching = _watching(self.watch, *spec.adversarial.budget())
            seed = bench.derive("defence")
            setting = Setting(data.train, self._images, seed, self.loss, start, model)
            self.defence = spec.adversarial.defence(setting)
        # A layer that is told a statistic of the training images is so before the first step.
        self.unfitted = start is None and fitted_layer(model) is not None
        self.mechanism = self._mechanism()
        # A rest of one image has no batch statistics, and is left out of the epoch.
        count = len(data.train)
        self.replays = self.defence.replays if self.defence is not None else 1
        self.batches = max(1, count // spec.batch_size + (count % spec.batch_size > 1))
        if self.mechanism is not None and self.mechanism.draws:
            self.batches = steps_of_epoch(count, spec.batch_size)
        self.per_epoch = self.batches * self.replays
        self._forward = torch.compile(self.learner) if bench.spec.compile else self.learner
        # A private run says nothing of what single layers make of its images.
        inside = self.mechanism is None and not bench.spec.compile
        self.diagnostics = Diagnostics(
            model,
            spec.diagnostics,
            bench,
            total=self._total(),
            instead=None if inside else (spec.batch_size, *data.shape),
        )
        self.landscape: Landscape | None = None
        if spec.diagnostics == "full" and self.mechanism is None:
            self.landscape = Landscape(
                bench, self.data.train, self.loss, spec.batch_size, self.per_epoch, spec.epochs
            )
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        modules = list(model.modules())
        plain = all(type(module).train is nn.Module.train for module in modules)
        self._plain = modules if plain else None
        self._still = frozen_statistics(model)
        self._unsaid: deque[Event] = deque()

    def _mechanism(self) -> Mechanism | None:
        """Of a private run. Raises BadInput for what looks at samples past it."""
        spec = self.spec
        if spec.privacy is None:
            return None
        for name, asked, instead in (
            ("adversarial training", spec.adversarial is not None, "train without it"),
            ("clip", spec.clip != type(spec.clip)(), "privacy has a clipping of its own"),
            ("bf16", self.bench.spec.precision != "float32", 'set bench.precision to "float32"'),
            ("compile", self.bench.spec.compile, "set bench.compile to false"),
        ):
            if asked:
                raise BadInput(f"{name} and privacy do not go together; {instead}")
        return spec.privacy.mechanism(
            PrivateSetting(
                bench=self.bench,
                folder=self.bench.folder,
                model=self.learner,
                train=self.data.train,
                batch_size=spec.batch_size,
                epochs=spec.epochs,
                classes=len(self.data.classes),
                label_smoothing=spec.label_smoothing,
                salt=salt_of(spec, self.data.fingerprint, self.model),
                statistic=self.unfitted,
            )
        )

    # --- the run ------------------------------------------------------------------------------

    def begin(self) -> Iterator[Event]:
        """What is to be known, and computed, before the first step."""
        if self.mechanism is not None:
            yield from self.mechanism.begin()
        for split in (self.data.train, self.data.validation):
            if isinstance(split, Remembered):
                yield from self._paced(split.fill(), len(split))
        if self.unfitted:
            yield from self._fit()
        if self.landscape is not None and not self.at.step:
            yield from self.landscape.begin()

    def _fit(self) -> Generator[Event, None, None]:
        """Tell the layer that waits for it its statistic of the training images."""
        train = self.data.train
        found = yield from self._paced(statistic_of(self.learner, train), len(train))
        if self.mechanism is not None:
            found = self.mechanism.tell(found)
        for model in (self.model, self.average):
            layer = fitted_layer(model) if model is not None else None
            if layer is not None:
                layer.fit(found, len(train))
        self.unfitted = False

    def _paced(self, work: Generator[int, None, T], total: int) -> Generator[Event, None, T]:
        """Work on images to its end, with a word now and then; it yields how many are done."""
        last = time.perf_counter()
        while True:
            try:
                done = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            if time.perf_counter() - last > self.bench.burst:
                yield Progress(done, total, "images")
                last = time.perf_counter()

    def train(self) -> Generator[Event, None, None]:
        """Every epoch that is left."""
        while self.at.epoch < self.spec.epochs and not self._has_ended():
            yield from self._epoch()
            # The epoch counts once it is judged: a run that is stopped in between judges it again.
            if len(self.data.validation):
                judged = yield from evaluate(self._judging(), self.data.validation, self.bench)
                self._unsaid.append(self._judged(judged, self.at.epoch + 1))
            if self.watch is not None:
                robust = yield from self._watched(self.watch)
                self._unsaid.extend(self._looked_after(robust, self.watch.drop))
            if self.mechanism is not None:
                self._unsaid.extend(self.mechanism.tables())
            if self.landscape is not None:
                yield from self.landscape.after_epoch(
                    self._judging(), self.at.epoch + 1, self.at.step
                )
            self.at.epoch += 1
            self.at.done = 0
            yield from self.say()
            self._checkpoint_if_due(0.0)  # as soon as it is cheap enough
        self._unsaid.extend(self.diagnostics.says(last=True))
        yield from self.say()
        if self.landscape is not None:
            yield from self.landscape.at_the_end(self._judging(), self.at.step)

    def _epoch(self) -> Generator[Event, None, None]:
        if self.mechanism is not None and self.mechanism.draws:
            batches = self._drawn(self.mechanism)
        else:
            batches = self._batches(self._order())
        total = self._total()
        batch = next(batches, None)
        while batch is not None:
            begun, first = time.perf_counter(), self.at.step
            wanted = self.defence.wanted(batch) if self.defence is not None else None
            found = (yield from self._searched(batch, wanted)) if wanted is not None else None
            seen = Seen()
            images = 0
            with self._training():
                while batch is not None:
                    images += len(batch.images)
                    self._step(batch, found, seen)
                    batch = next(batches, None)
                    if found is not None or time.perf_counter() - begun >= self.bench.burst:
                        break
            self._unsaid.extend(self._said(seen, images / (time.perf_counter() - begun)))
            self._unsaid.extend(self.diagnostics.says())
            yield from self.say()
            yield Progress(self.at.step, total, "steps")
            assert self.at.step > first
            self._checkpoint_if_due()

    def _total(self) -> int:
        """Steps of the whole run."""
        total = self.per_epoch * self.spec.epochs
        most = self.mechanism.steps if self.mechanism is not None else None
        return total if most is None else min(total, most)

    def _order(self) -> Tensor:
        """The places that are left of an epoch, each once."""
        order = torch.randperm(
            len(self.data.train), generator=self.bench.generator("order", self.at.epoch)
        )
        size = self.spec.batch_size
        return order[self.at.done // self.replays * size : self.batches * size]

    def _drawn(self, mechanism: Mechanism) -> Iterator[Batch]:
        """The batches of an epoch that are left, each drawn by itself."""
        train = self.data.train
        for step in range(
            self.at.step, min(self.at.step + self.batches - self.at.done, self._total())
        ):
            if step >= self._total():  # which can have become fewer
                break
            places = mechanism.places(step)
            images, labels = train.batch(places)
            images = self._augmented(images, places, self.at.epoch)
            epoch = self.at.epoch + self.at.done / self.per_epoch
            labels = mechanism.labels(places, labels)
            yield Batch(images, labels, places, train.ids[places], step, epoch)

    def _batches(self, index: Tensor) -> Iterator[Batch]:
        """The batches of an epoch that are left, each as often as it is stepped on."""
        begun = self.at.done % self.replays
        train = self.data.train
        for part, images, labels in train.batches(index, self.spec.batch_size):
            images = self._augmented(images, part, self.at.epoch)
            ids = train.ids[part]
            for _ in range(begun, self.replays):
                epoch = self.at.epoch + self.at.done / self.per_epoch
                yield Batch(images, labels, part, ids, self.at.step, epoch)
            begun = 0

    def _images(self, places: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Images at these places of the training split, augmented, and their labels."""
        images, labels = self.data.train.batch(places)
        return self._augmented(images, places, epoch), labels

    def _augmented(self, images: Tensor, places: Tensor, epoch: int) -> Tensor:
        """The images at these places as they are shown in an epoch."""
        spec = self.spec.augmentation
        if spec != type(spec)():
            ids = self.data.train.ids[places]
            images = augment(images, ids, spec, self.bench.derive("augment", epoch))
        if self.bench.spec.channels_last:
            images = images.to(memory_format=torch.channels_last)
        return images

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        with self.bench.global_random(), torch.enable_grad():
            self._set_mode(True)
            try:
                yield
            finally:
                self._set_mode(False)

    def _set_mode(self, training: bool) -> None:
        """`model.train(training)`, which is slow for what happens at both ends of every burst;
        only a model that has its own `train` is asked."""
        if self._plain is None:
            self.model.train(training)
        for module in self._plain or ():
            object.__setattr__(module, "training", training)
        for module in self._still:
            module.training = False

    # --- one step -------------------------------------------------------------------------------

    def _step(self, batch: Batch, found: Tensor | None, seen: Seen) -> None:
        spec, images = self.spec, batch.images
        rate = self._rate()
        self.diagnostics.before(self.at.step)
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._perturbed_weights(batch, found):
            penalty = self._penalty() if spec.l1 else None
            if self.mechanism is not None:
                outcome = self.mechanism.gradients(batch)
                loss = outcome.loss
                if penalty is not None:  # says nothing of any sample
                    penalty.backward()
            else:
                outcome = self._outcome(batch, found)
                loss = outcome.loss if penalty is None else outcome.loss + penalty
                loss.backward()
        if self.defence is not None:
            self.defence.stepped(batch, found)
        if images.device.type == "cpu" and len(images) and not math.isfinite(loss.item()):
            raise CrucibleError(self.not_finite(self.at.step, images))
        self.diagnostics.gradients()
        if spec.clip.value:
            nn.utils.clip_grad_value_(self._parameters, spec.clip.value)
        if spec.clip.norm:
            norm = nn.utils.clip_grad_norm_(self._parameters, spec.clip.norm)
            seen.norms[self.at.step] = norm
        elif self.at.step % NORM_EVERY == 0:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            # What torch.nn.utils.get_total_norm does for one device, in half its time.
            norms = torch.stack(list(torch._foreach_norm(gradients)))
            seen.norms[self.at.step] = torch.linalg.vector_norm(norms)
        self.optimizer.step()
        self.diagnostics.after()
        if self.average is not None:
            self._update_average(self.average)
        if len(images):  # none may be drawn
            self._note(batch, outcome, loss, rate, seen)
        self.at.step += 1
        self.at.done += 1

    def _penalty(self) -> Tensor:
        return self.spec.l1 * torch.stack([p.abs().sum() for p in self._parameters]).sum()

    def _note(self, batch: Batch, outcome: Outcome, loss: Tensor, rate: float, seen: Seen) -> None:
        seen.steps.append(self.at.step)
        seen.losses.append(loss.detach())
        if outcome.clean is not None:
            seen.clean.append(outcome.clean.detach())
        if outcome.adversarial is not None:
            seen.adversarial.append(outcome.adversarial.detach())
        seen.labels.append(batch.labels)
        seen.rates.append(rate)

    def _outcome(self, batch: Batch, found: Tensor | None) -> Outcome:
        with self.bench.autocast():
            if self.defence is not None:
                return self.defence.loss(self._forward, batch, found)
            logits = self._forward(batch.images)
            return Outcome(self.loss(logits, batch.labels), logits, None)

    def _perturbed_weights(
        self, batch: Batch, found: Tensor | None
    ) -> contextlib.AbstractContextManager[None]:
        """Where the spec asks for it, the weights are perturbed inside."""
        awp = self.spec.adversarial.awp if self.spec.adversarial is not None else None
        if awp is None or batch.epoch < awp.after:
            return contextlib.nullcontext()
        return worst_weights(self.model, awp.gamma, lambda: self._outcome(batch, found).loss)

    def _rate(self) -> float:
        epoch = self.at.epoch + self.at.done / self.per_epoch
        peak = self.bench.control("lr", self.spec.optimizer.lr, self.at.step + 1)
        return peak * lr_factor(self.spec.schedule, epoch, self.spec.epochs)

    # --- adversarial examples -------------------------------------------------------------------

    def _searched(self, batch: Batch, wanted: Wanted) -> Generator[Event, None, Tensor]:
        """The adversarial examples of a batch that its defence wants."""
        assert self.spec.adversarial is not None
        share = self.spec.adversarial.risen(batch.epoch)
        search = perturb(
            self.model,
            batch.images,
            batch.labels if wanted.labels is None else wanted.labels,
            _shrunk(wanted.attack, share) if share < 1.0 else wanted.attack,
            seed=self.bench.derive("adversarial", self.at.epoch),
            ids=batch.ids,
            early_exit=False,
            begin=wanted.start,
            precision=self.bench.spec.precision,
        )
        found: Tensor = (yield from self._pulled(search)).adversarial
        return found

    def _watched(self, watch: Watch) -> Generator[Event, None, float]:
        """Robust accuracy of the model as it is now, by the watch's PGD."""
        split = self.data.validation if len(self.data.validation) else self.data.train
        right = count = 0
        index = torch.arange(min(watch.samples, len(split)))
        for part, images, labels in split.batches(index, WATCHED):
            search = perturb(
                self.model,
                images,
                labels,
                self.watching,
                seed=self.bench.derive("watch"),
                ids=split.ids[part],
                precision=self.bench.spec.precision,
            )
            judged = yield from self._pulled(search)
            right += int((judged.correct & ~judged.success).sum())
            count += len(part)
        return right / count

    def _looked_after(self, robust: float, drop: float) -> Iterator[Event]:
        """Take note of what the watch saw after an epoch: has the model's robustness collapsed?"""
        self.at.collapsed = robust < self.at.safest - drop
        yield Scalars(self.at.step, {"validation/robust_accuracy": robust})
        if self.at.collapsed:
            yield Note(
                "warning",
                f"catastrophic overfitting: robust accuracy under PGD fell from "
                f"{self.at.safest:.1%} to {robust:.1%} in epoch {self.at.epoch + 1}. The run ends "
                f"with the model of epoch {self.at.safest_epoch}. Another step size, or an attack "
                "of several steps, prevents it.",
            )
        elif robust > self.at.safest:
            self.at.safest, self.at.safest_epoch = robust, self.at.epoch + 1
            self.safe = _copy_of(self._present())

    def _pulled(self, search: Search) -> Generator[Event, None, AttackResult]:
        """A search to its end, with a word now and then."""
        last = time.perf_counter()
        while True:
            try:
                next(search)
            except StopIteration as end:
                result: AttackResult = end.value
                return result
            if time.perf_counter() - last > self.bench.burst:
                yield Progress(self.at.step, self._total(), "steps")
                last = time.perf_counter()

    def _update_average(self, average: nn.Module) -> None:
        """Exponential moving average of weights; early steps count more, as in TensorFlow's."""
        decay = min(self.spec.ema, (1 + self.at.step) / (10 + self.at.step))
        with torch.no_grad():
            old: list[Tensor] = list(average.parameters())
            new: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(old, new, 1 - decay)
            for mine, its in zip(average.buffers(), self.model.buffers(), strict=True):
                mine.copy_(its)

    # --- what is said -----------------------------------------------------------------------------

    def say(self) -> Iterator[Event]:
        """What steps that were taken left to be said; a cancel in the middle leaves the rest."""
        while self._unsaid:
            yield self._unsaid.popleft()

    def _said(self, seen: Seen, images_per_second: float) -> Iterator[Event]:
        if not seen.steps:
            return
        losses = torch.stack(seen.losses).tolist()
        for step, loss in zip(seen.steps, losses, strict=True):
            if not math.isfinite(loss):
                raise CrucibleError(self.not_finite(step, None))
        accuracies = {
            name: _accuracies(logits, seen.labels)
            for name, logits in (
                ("train/accuracy", seen.clean),
                ("train/robust_accuracy", seen.adversarial),
            )
            if logits
        }
        for i, step in enumerate(seen.steps):
            values = {"train/loss": losses[i]}
            values |= {name: each[i] for name, each in accuracies.items()}
            values["train/lr"] = seen.rates[i]
            if step in seen.norms:
                values["train/gradient_norm"] = float(seen.norms[step])
            if step == seen.steps[-1]:
                values["train/images_per_second"] = images_per_second
            if self.mechanism is not None:
                values |= self.mechanism.says(step + 1)
            yield Scalars(step + 1, values)

    def _judged(self, judged: Evaluation, epoch: int) -> Scalars:
        """Take note of the validation of an epoch: is it the best so far?"""
        if not math.isfinite(judged.loss):
            raise CrucibleError(self.not_finite(self.at.step, None))
        least = self.spec.early_stopping.min_delta if self.spec.early_stopping else 0.0
        better = judged.accuracy > self.at.best_accuracy + (least if self.at.best_epoch else 0.0)
        self.at.accuracy = judged.accuracy
        if better:
            self.at.best_accuracy, self.at.best_epoch = judged.accuracy, epoch
            if self.spec.early_stopping:
                self.best = _copy_of(self._present())
        values = {"validation/loss": judged.loss, "validation/accuracy": judged.accuracy}
        return Scalars(self.at.step, values)

    def _has_ended(self) -> bool:
        stopping = self.spec.early_stopping
        if self.at.collapsed:
            return True
        most = self.mechanism.steps if self.mechanism is not None else None
        if most is not None and self.at.step >= most and not self.at.done:  # and it is judged
            return True
        return stopping is not None and self.at.epoch - self.at.best_epoch >= stopping.patience

    def _present(self) -> nn.Module:
        """The model as it would be handed over now."""
        return self.average if self.average is not None else self.model

    def _judging(self) -> nn.Module:
        """Of that model what is given the images of `data`."""
        model = self._present()
        return model if self.learner is self.model else learning_part(model)

    def result(self) -> nn.Module:
        """The run's model: the safest if its robustness has collapsed, the best by validation with
        early stopping, else the last. Adapters are part of its weights."""
        model = self._present()
        chosen = self.safe if self.at.collapsed else self.best
        if chosen is not None:
            model.load_state_dict(chosen)
        return merged(model).eval()

    def not_finite(self, step: int, images: Tensor | None) -> str:
        """What to say of a loss that is no number; looks for the layer that it comes from."""
        found: list[str] = []

        def look(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                    found.append(name)

            return hook

        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                found.append(name)
        if not found and images is not None:
            leaves = [(n, m) for n, m in self.model.named_modules() if not list(m.children())]
            hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
            try:
                with torch.no_grad():
                    self.learner(images)
            finally:
                for hook in hooks:
                    hook.remove()
        where = f"layer {found[0]}" if found else "the loss itself"
        return (
            f"the loss is not a finite number at step {step + 1}; it begins in {where}. The last "
            "good checkpoint is kept. A lower learning rate, gradient clipping or warm-up helps."
        )

    # --- going on ---------------------------------------------------------------------------------

    def _checkpoint_if_due(self, least: float | None = None) -> None:
        if self.bench.checkpoint_due(least):
            self.checkpoint()

    def checkpoint(self) -> None:
        """Keep everything that the next step depends on."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"optim.{name}": t for name, t in optimizer_tensors(self.optimizer).items()}
        if self.average is not None:
            tensors |= {f"ema.{name}": t for name, t in self.average.state_dict().items()}
        if self.best is not None:
            tensors |= {f"best.{name}": t for name, t in self.best.items()}
        if self.safe is not None:
            tensors |= {f"safe.{name}": t for name, t in self.safe.items()}
        if self.defence is not None:
            tensors |= {f"defence.{name}": t for name, t in self.defence.tensors().items()}
        if self.mechanism is not None:
            tensors |= {f"privacy.{name}": t for name, t in self.mechanism.tensors().items()}
        tensors |= {f"diagnostics.{n}": t for n, t in self.diagnostics.tensors().items()}
        values = {name: getattr(self.at, name) for name in Place.__slots__}
        values["data"] = _data_state(self.data)
        self.bench.save_checkpoint(self.at.step, tensors, values)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a run where `checkpoint` left it."""
        self.at = Place(**values)
        self.unfitted = False
        self.model.load_state_dict(under(tensors, "model."))
        self.diagnostics.restore(under(tensors, "diagnostics."))
        load_optimizer_tensors(self.optimizer, under(tensors, "optim."))
        if self.average is not None:
            self.average.load_state_dict(under(tensors, "ema."))
        for name in ("best", "safe"):
            kept = under(tensors, f"{name}.")
            setattr(self, name, {n: t.to(self.bench.device) for n, t in kept.items()} or None)
        if self.defence is not None:
            self.defence.restore(under(tensors, "defence."))
        if self.mechanism is not None:
            self.mechanism.restore(under(tensors, "privacy."), self.at.step)


def _of_start(name: str, card: ModelCard) -> str:
    """What the epsilon of a private run leaves out that starts from another one."""
    spent = card.metrics.get("epsilon")
    if isinstance(spent, int | float):
        return (
            f"the run starts from {name!r}, which spent an epsilon of {spent:.3g} itself: images "
            "that both learn from lose the sum of the two"
        )
    return (
        f"the run starts from {name!r}, which was not trained privately: what that knows of its "
        "training images no epsilon of this run covers. Start from one that learnt from other "
        "images"
    )


def salt_of(spec: Task, fingerprint: str, model: nn.Module) -> str:
    """What tells a run from any other one of its seed: what it is asked for, its data, and the
    model as it is at the start, for what a spec names (a file, a run) can have changed."""
    # (Changes on the way count from their step on, see `Bench.history`.)
    left_out = ("bench", "changes", "diagnostics")
    asked = {k: v for k, v in spec.to_dict().items() if k not in left_out}
    parts = [asked, fingerprint, weights_sha256(model.state_dict()), code_sha256(model)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def steps_of_epoch(count: int, batch_size: int) -> int:
    """Steps that draw `batch_size` of `count` images each on average, until it is as many as there
    are."""
    return max(1, round(count / batch_size))


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _accuracies(logits: list[Tensor], labels: list[Tensor]) -> list[float]:
    """Accuracy of each step."""
    hits = torch.cat(logits).argmax(1) == torch.cat(labels)
    counts = [len(part) for part in labels]
    lasts = torch.tensor([end - 1 for end in itertools.accumulate(counts)], device=hits.device)
    right = [0, *hits.cumsum(0)[lasts].tolist()]
    return [(right[i + 1] - right[i]) / count for i, count in enumerate(counts)]


def _shrunk(attack: AttackSpec, share: float) -> AttackSpec:
    """The attack in a smaller ball, its steps smaller alike."""
    sizes = {name: getattr(attack, name, None) for name in ("eps", "step_size")}
    return attack.model_copy(update={n: v * share for n, v in sizes.items() if v is not None})


def _watching(watch: Watch, norm: Norm, eps: float) -> PGD:
    """The PGD of the watch. Raises BadInput if PGD does not know the norm."""
    size = max(2.5 * eps / watch.steps, 1e-9)
    values = {"norm": norm, "eps": eps, "steps": watch.steps, "step_size": size}
    values["through_transforms"] = True
    try:
        return parse(PGD, values)
    except SpecError as error:
        raise BadInput(f"the watch runs PGD, which cannot be: {error}. Switch it off.") from None
