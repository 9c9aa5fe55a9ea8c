"""The attack task: a model, the first `samples` of a seeded permutation of its test split, one
attack, and the record of what it found."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks import preparing
from engine.attacks.driver import AttackResult, Iteration, Snapshot, cautions, perturb
from engine.attacks.fitted import Fit, FitSnapshot, FitStep
from engine.attacks.geometry import ORDERS
from engine.attacks.goal import Goal, predicted
from engine.attacks.oracle import Oracle
from engine.attacks.showing import Gallery, sizes
from engine.attacks.spec import Attack, AttackSpec, Fitted, MinimalNorm
from engine.attacks.tally import Tally, merged, warnings
from engine.data import Dataset, Split, load
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Progress, Saved, Scalars, Table, sieved
from engine.files import atomic, sha256_of
from engine.models import load_model
from engine.models.answers import PROBABILITIES, adds_up_to_one
from engine.models.card import SEEN
from engine.models.transforms import hidden_by
from engine.store.checkpoints import Checkpoint, under
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.data.spec import DataSpec

T = TypeVar("T")

FILE = "adversarial.safetensors"

_BLIND = (
    "the model hides its gradients: {}. That is not a defence by itself: this attack stands still, "
    "and says nothing of the model. Attack straight through it (through_transforms; BPDA), or "
    "without gradients (Square)."
)

TARGETED = (
    "{} is targeted: only samples that are taken for the class aimed at count as broken. Robust "
    "accuracy counts all others that were right when clean, also those that another class has won."
)

MEASURED = 100
"""Samples that the mean norm is taken of while an attack runs: what is shown must cost little."""


def run_attack(spec: Attack, bench: Bench) -> Steps:
    """Run `spec`; see `Attack`. Raises BadInput if models, data and attack do not fit together.

    With a surrogate the examples are made against that: whoever the model gets right when clean is
    attacked, to the end of the search, and what comes out is judged by the model, once.

    A cancel keeps what was found: the samples so far, each either confirmed as broken or still
    counted as correct, so that `robust_accuracy` is then an upper bound.
    """
    spec = spec.model_copy(update={"attack": spec.attack.ready(bench)})
    aside = spec.attack.target if _aims_at_one(spec.attack) else None
    chosen = yield from _once(
        bench, choose(spec.model, spec.data, spec.samples, bench, aside=aside)
    )
    data, order = chosen.data, chosen.order
    surrogate = _surrogate(spec.surrogate, chosen.data, bench) if spec.surrogate else None
    fresh = bench.resume is None
    for text in cautions(spec.attack, len(data.classes), data.shape) if fresh else ():
        yield Note("warning", text)
    if spec.attack.targeted and fresh:
        yield Note("info", TARGETED.format(spec.attack.kind))
    hiding = hidden_by(chosen.module if surrogate is None else surrogate)
    blind = bool(hiding) and spec.attack.climbs() and not spec.attack.through_transforms
    if blind and fresh:
        yield Note("warning", _BLIND.format(hiding))
    yield Table("classes", ("index", "name"), tuple(enumerate(data.classes)))

    size = spec.batch_size
    tally = Tally(len(order), minimal=isinstance(spec.attack, MinimalNorm))
    looked = clean_logits(chosen.module, data.test, order, size, bench, tally)
    clean = yield from _once(bench, looked)
    tally.correct = int((predicted(clean).cpu() == data.test.labels.cpu()[order]).sum())
    run = _Run(spec, bench, chosen.module, data.test, order, clean, tally, train=data.train)
    if surrogate is not None:
        looked = clean_logits(surrogate, data.test, order, size, bench, tally)
        run.surrogate = Surrogate(surrogate, (yield from _once(bench, looked)))
    climbed = clean if run.surrogate is None else run.surrogate.logits
    if fresh and bool(adds_up_to_one(climbed).all()):
        yield Note("warning", PROBABILITIES)
    yield from run.attack(size)
    if tally.results:
        yield from run.save()
    if run.fit is not None:
        yield preparing.save(run.fit, bench)
    return run.summary() | ({"data_changed": True} if chosen.changed else {})


# --- whom it is about -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model, its data, and which images of the test split it is judged by: `order`, int64 (N,),
    places in it. `changed` says that the model may have learnt from some of them."""

    module: nn.Module
    data: Dataset
    order: Tensor
    changed: bool


def choose(
    model: str,
    described: DataSpec | None,
    samples: int,
    bench: Bench,
    *,
    aside: int | None = None,
) -> Generator[Event, None, Chosen]:
    """The model `model` and the first `samples` (0: all) of a seeded permutation of the test split
    of `described`, by default that of the model's own data. `aside`: a class whose images are left
    out. Raises BadInput if they do not fit."""
    loaded = load_model(model, bench)
    described = described or loaded.card.data
    if described is None:
        raise BadInput(f"the model {model!r} does not say what data it is for: give `data`")
    data = yield from load(described, bench)
    if tuple(data.shape) != tuple(loaded.card.shape):
        raise BadInput(
            f"the model takes images of (channels, height, width) {loaded.card.shape}, but those "
            f"of {described.kind} are {data.shape}; choose other data, or another size of them"
        )
    changed = data.seen(loaded.card.learnt) > 0
    if changed:
        yield Note("warning", SEEN)
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))
    if aside is not None:
        if aside >= len(data.classes):
            raise BadInput(
                f"target: there is no class {aside}; expected 0 to {len(data.classes) - 1}"
            )
        order = order[data.test.labels.cpu()[order] != aside]
        yield Note("info", f"images of the target class, {data.classes[aside]}, are left out")
    order = order[: samples or None]
    if not len(order):
        raise BadInput("the test split is empty: there is nothing to attack")
    if len(order) < samples:
        yield Note("info", f"the test split has {len(order)} images; all of them are attacked")
    return Chosen(loaded.module, data, order, changed)


def _surrogate(ref: str, data: Dataset, bench: Bench) -> nn.Module:
    """The model that is attacked in the place of the other. Raises BadInput if the data does not
    fit it."""
    loaded = load_model(ref, bench)
    takes = tuple(loaded.card.shape), len(loaded.card.classes)
    if takes != (tuple(data.shape), len(data.classes)):
        raise BadInput(
            f"the surrogate {ref!r} takes images {takes[0]} of {takes[1]} classes, but the data "
            f"has {tuple(data.shape)} of {len(data.classes)}; take a model for the same task"
        )
    return loaded.module


def _aims_at_one(attack: AttackSpec) -> TypeGuard[Fitted]:
    """Whether all images are to be taken for one class, whose own cannot be attacked."""
    return isinstance(attack, Fitted) and attack.targeted


def _once(bench: Bench, steps: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """`steps`, without the notes that a resumed run has said before."""
    return sieved(steps, lambda event: bench.resume is None or not isinstance(event, Note))


# --- the batches ----------------------------------------------------------------------------------


def clean_logits(
    model: nn.Module, split: Split, order: Tensor, size: int, bench: Bench, tally: Tally
) -> Generator[Event, None, Tensor]:
    """The model's logits, (N, K), at the clean images."""
    oracle = Oracle(model, seed=bench.derive("clean"), device=bench.device, bf16=False)
    logits: list[Tensor] = []
    for part in order.split(size):
        logits.append(oracle.look(split.batch(part)[0]))
        yield from tally.chunked(oracle.chunk)
        yield Progress(sum(map(len, logits)), len(order), "clean images")
    tally.forward += oracle.counts.forward
    tally.nan += int(oracle.counts.nan)
    return torch.cat(logits)


@dataclass(slots=True)
class Surrogate:
    """The model that is attacked in the place of the one that is judged. logits: (N, K), its own
    at the clean images."""

    module: nn.Module
    logits: Tensor


@dataclass(slots=True)
class _Run:
    spec: Attack
    bench: Bench
    model: nn.Module
    test: Split
    order: Tensor
    clean: Tensor
    tally: Tally
    train: Split
    surrogate: Surrogate | None = None
    fit: Fit | None = None
    """Of an attack with one perturbation for all images."""
    step: int = 0
    told: float = 0.0
    gallery: Gallery | None = None
    settled: bool = False
    """All that are shown of the present batch have been broken."""
    done: int = 0
    """Samples in the batches that are done."""
    frame: int = 0
    """Questions asked in the present one."""

    def attack(self, size: int) -> Generator[Event, None, None]:
        """Attack batch after batch, until done or cancelled."""
        frames = sum(method.steps + 1 for method in self.spec.attack.rounds()) or 1
        shown = self.order[: self.spec.show]
        resume: Snapshot | None = None
        begin: FitSnapshot | None = None
        try:
            if len(shown):
                images, labels = self.test.batch(shown)
                logits = self.clean[: len(shown)]
                most = frames * math.ceil(len(shown) / size)
                self.gallery = Gallery(self.spec.attack, images, labels, logits, most)
                if self.bench.resume is None:
                    yield self.gallery.clean()
            if self.bench.resume is not None:
                begin = self._restore_fit(self.bench.resume)
                resume = self._restore(self.bench.resume) if begin is None else None
                yield Note("info", f"resumed at iteration {self.step + 1}")
            if isinstance(self.spec.attack, Fitted) and self.fit is None:
                yield from self._prepare(self.spec.attack, begin)
            starts = self._starts()
            while self.done < len(self.order) and not self.tally.cancelled:
                rows = torch.arange(self.done, min(self.done + size, len(self.order)))
                yield from self._batch(rows, starts, frames, size, resume)
                resume = None
                if self.tally.cancelled:
                    break
                self.done += len(rows)
                self.frame = 0
                yield self._progress(size)
            if self.fit is not None and self.tally.results:
                yield Scalars(self.step, self.tally.scalars(0))
        except Cancelled:
            self.tally.cancelled = True
        yield from warnings(self.tally)

    def _prepare(self, attack: Fitted, begin: FitSnapshot | None) -> Generator[Event, None, None]:
        """Fit the one perturbation to training images."""
        model = self.model if self.surrogate is None else self.surrogate.module
        begun = time.perf_counter()
        self.fit, self.step = yield from preparing.prepared(
            attack,
            model,
            self.train,
            self.bench,
            first=self.step,
            resume=begin,
            keep=self._checkpoint_fit_if_due,
        )
        self.tally.seconds += time.perf_counter() - begun
        self.tally.cancelled = self.fit.left == "cancelled"
        yield preparing.picture(attack, self.fit.pattern, self.step, keep=True)

    def _batch(
        self,
        rows: Tensor,
        starts: Tensor | None,
        frames: int,
        size: int,
        resume: Snapshot | None,
    ) -> Generator[Event, None, None]:
        images, labels = self.test.batch(self.order[rows])
        clean = self.clean[rows]
        attacked = None
        self.settled = False
        if self.surrogate is not None:
            attacked = predicted(clean) == labels
            clean = self.surrogate.logits[rows]
        search = perturb(
            self.model if self.surrogate is None else self.surrogate.module,
            images,
            labels,
            self.spec.attack,
            seed=self.bench.derive("attack"),
            ids=self.test.ids[self.order[rows]],
            starts=None if starts is None else self.test.batch(self.order[starts[rows]])[0],
            clean_logits=clean,
            attacked=attacked,
            persist=self.surrogate is not None,
            precision=self.bench.spec.precision,
            resume=resume,
            fitted=self.fit,
        )
        result: AttackResult | None = None
        while result is None:
            begun = time.perf_counter()
            try:
                iteration = next(search)
            except StopIteration as end:
                result = end.value
                break
            finally:
                self.tally.seconds += time.perf_counter() - begun
            self._checkpoint_if_due(iteration)
            self.frame += 1
            try:
                yield from self._say(iteration, images, self.frame == frames)
                if time.perf_counter() - self.told > 0.2:
                    self.told = time.perf_counter()
                    yield self._progress(size)
            except Cancelled:
                self.tally.cancelled = True
                result = stopped(search)
        assert result is not None
        chunk = result.chunk
        if self.surrogate is None:
            self.tally.add(result)
        else:
            fooled = result.success
            result = self._judged(result, labels)
            self.tally.add(result, fooled)
        yield from self.tally.chunked(chunk)
        if self.surrogate is not None:
            yield from self._say_judged(result)

    def _starts(self) -> Tensor | None:
        """For each sample, the place in the order of another that a decision-based attack may set
        out from, int64 (N,): the next one that the attacked model takes for what is wanted."""
        if not self.spec.attack.sets_out:
            return None
        logits = self.clean if self.surrogate is None else self.surrogate.logits
        labels = self.test.labels.to(logits.device)[self.order.to(logits.device)]
        goal = Goal(labels, None, self.spec.attack.targeted, int(labels.max()))
        wanted, predictions = goal.classes(logits.shape[1]).cpu(), predicted(logits).cpu()
        starts = torch.arange(len(labels))
        for each in wanted.unique():
            taken = predictions == each if goal.targeted else (predictions != each)
            places = (taken & (predictions >= 0)).nonzero().squeeze(1)
            mine = (wanted == each).nonzero().squeeze(1)
            if len(places):
                starts[mine] = places[torch.searchsorted(places, mine, right=True) % len(places)]
        return starts

    # --- what is said -----------------------------------------------------------------------------

    def _say(self, now: Iteration, images: Tensor, last: bool) -> Iterator[Event]:
        broken = int(now.success.sum())
        if self.gallery is not None and self.gallery.update(now, self.done):
            # What is shown last is kept: the end, or when all that are shown have been broken,
            # which may be said again and again where the smallest perturbation is looked for.
            shown = now.success[: len(self.gallery) - self.done]
            broken_all = bool(shown[now.active[: now.among(len(shown))]].all())
            settles = broken_all and not self.settled and self.surrogate is None
            self.settled = broken_all
            yield from self.gallery.frames(self.step, last=last or settles)
        if self.fit is not None:  # the steps were those of the fit
            return
        some = now.active[:MEASURED]
        change = (now.points[:MEASURED] - images[some]).flatten(1)
        norms = sizes(change, ORDERS[self.spec.attack.norm])
        tally = self.tally
        found = tally.scalars(broken) if self.surrogate is None else tally.surrogate_scalars(broken)
        yield Scalars(
            self.step,
            found
            | {"attack/loss": now.loss.mean().item(), "attack/mean_norm": norms.mean().item()},
        )
        self.step += 1

    def _progress(self, size: int) -> Progress:
        """In iterations: a batch whose samples are all broken skips what is left of its own."""
        if self.fit is not None:
            return Progress(self.done, len(self.order), "images")
        asked, done, steps = self.frame, 0, 0
        for method in self.spec.attack.rounds():
            done += min(max(asked - 1, 0), method.steps)  # the first question is about the start
            asked -= method.steps + 1
            steps += method.steps
        batches = math.ceil(self.done / size)
        total = batches + math.ceil((len(self.order) - self.done) / size)
        return Progress(batches * steps + done, total * steps, "iterations")

    # --- transfer ---------------------------------------------------------------------------------

    def _judged(self, result: AttackResult, labels: Tensor) -> AttackResult:
        """What the examples for the surrogate do to the model."""
        seed = self.bench.derive("judge", self.done)
        oracle = Oracle(self.model, seed=seed, device=self.bench.device, bf16=False)
        logits = oracle.look(result.adversarial)
        goal = Goal(labels, None, self.spec.attack.targeted, int(labels.max()))
        if self.gallery is not None:
            self.gallery.judged(logits, self.done)
        return dataclasses.replace(
            result,
            success=result.correct & goal.reached(logits),
            predictions=predicted(logits),
            forward_evaluations=result.forward_evaluations + oracle.counts.forward,
            nan_count=result.nan_count + int(oracle.counts.nan),
            chunk=oracle.chunk if result.chunk is None else result.chunk,
        )

    def _say_judged(self, result: AttackResult) -> Iterator[Event]:
        """At the step of the batch's last iteration, which was about the surrogate alone."""
        last = max(self.step - 1, 0)
        if self.gallery is not None and self.done < len(self.gallery):
            yield from self.gallery.frames(self.step if self.fit else last, last=True)
        if self.fit is None:
            yield Scalars(last, self.tally.scalars(0))

    # --- going on ---------------------------------------------------------------------------------

    def _checkpoint_fit_if_due(self, now: FitStep, number: int) -> None:
        if not number or not self.bench.checkpoint_due():
            return
        saved = now.snapshot()
        tensors = {f"fit.{name}": tensor for name, tensor in saved.tensors.items()}
        self.bench.save_checkpoint(number - 1, tensors, {"step": number, "fit": saved.values})

    def _restore_fit(self, kept: Checkpoint) -> FitSnapshot | None:
        """What the fit goes on from; None if it was over."""
        values = kept.values["task"]
        if "fit" not in values:
            return None
        self.step = values["step"]
        return FitSnapshot(under(kept.tensors, "fit."), values["fit"])

    def _checkpoint_if_due(self, now: Iteration) -> None:
        """Keep, from time to time, what the rest of the run depends on. Nothing has been said of
        `now` yet: the resumed run asks the same question, and says it."""
        if not self.step or not self.bench.checkpoint_due():
            return
        saved = now.snapshot()
        tensors = {f"search.{name}": tensor for name, tensor in saved.tensors.items()}
        values = {
            "step": self.step,
            "done": self.done,
            "frame": self.frame,
            "seconds": self.tally.seconds,
            "chunk": self.tally.chunk,
            "search": saved.values,
            "found": None,
        }
        if self.gallery is not None:
            tensors |= {f"gallery.{k}": v for k, v in self.gallery.tensors().items()}
        if self.tally.results:
            found = dataclasses.asdict(merged(self.tally.results))
            tensors |= {f"found.{k}": v for k, v in found.items() if isinstance(v, Tensor)}
            values["found"] = {k: v for k, v in found.items() if not isinstance(v, Tensor)}
        if self.tally.fooled:
            tensors["fooled"] = torch.cat(self.tally.fooled)
        if self.fit is not None:
            tensors["fitted"] = self.fit.pattern
            values["fitted"] = self.fit.figures()
        self.bench.save_checkpoint(self.step - 1, tensors, values)

    def _restore(self, kept: Checkpoint) -> Snapshot:
        """Take up the run where `kept` left it, and the search with it."""
        values = kept.values["task"]
        self.step, self.done, self.frame = values["step"], values["done"], values["frame"]
        self.tally.seconds, self.tally.chunk = values["seconds"], values["chunk"]
        if self.gallery is not None:
            self.gallery.restore(under(kept.tensors, "gallery."))
        if values["found"] is not None:
            parts: dict[str, Any] = {**under(kept.tensors, "found."), **values["found"]}
            found = AttackResult(**parts)
            self.tally.add(found, kept.tensors.get("fooled"))
        if isinstance(self.spec.attack, Fitted):
            pattern = kept.tensors["fitted"].to(self.bench.device)
            self.fit = Fit.made_of(self.spec.attack, pattern, values["fitted"])
        return Snapshot(under(kept.tensors, "search."), values["search"])

    def summary(self) -> Summary:
        """What `run_attack` returns."""
        summary, fit = self.tally.summary(), self.fit
        if fit is None:
            return summary
        if not self.tally.results:  # cancelled before anything was judged
            for name in ("robust_accuracy", "robust_accuracy_interval", "interval", "success_rate"):
                del summary[name]
        return summary | {
            "train_success_rate": fit.fooling_rate,
            "train_samples": fit.images,
            "fit_steps": fit.steps,
            "forward_evaluations": summary["forward_evaluations"] + fit.forward_evaluations,
            "gradient_evaluations": summary["gradient_evaluations"] + fit.gradient_evaluations,
            "nan_count": summary["nan_count"] + fit.nan_count,
        }

    def save(self) -> Generator[Event, None, None]:
        """Write what was found to the run's folder."""
        found = merged(self.tally.results)
        index = self.order[: len(found.success)]
        size = self.spec.batch_size
        tensors = {
            "clean": torch.cat([self.test.batch(part)[0].cpu() for part in index.split(size)]),
            "adversarial": found.adversarial,
            "labels": self.test.labels.cpu()[index],
            "predictions": found.predictions,
            "success": found.success,
            "norm": found.norm,
            "queries": found.queries,
            "ids": self.test.ids[index].contiguous(),
        }
        if self.tally.fooled:
            tensors["surrogate_success"] = torch.cat(self.tally.fooled)
        content = safetensors.torch.save(tensors)
        path = self.bench.folder / FILE
        with atomic(path) as file:
            file.write(content)
        yield Saved("adversarial", FILE, len(content), sha256_of(path))


def stopped(search: Generator[Iteration, None, AttackResult]) -> AttackResult:
    """What a search has found when it is cancelled at its current yield."""
    try:
        search.throw(Cancelled())
    except StopIteration as end:
        result: AttackResult = end.value
        return result
    raise RuntimeError("a cancelled search went on")
