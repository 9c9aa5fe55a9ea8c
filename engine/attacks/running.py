"""The attack task: a model, the first `samples` of a seeded permutation of its test split, one
attack, and the record of what it found."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks.driver import AttackResult, Iteration, perturb
from engine.attacks.geometry import ORDERS
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.showing import Gallery
from engine.attacks.spec import Attack
from engine.data import Split, load
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Progress, Saved, Scalars, Table
from engine.files import atomic, sha256_of
from engine.models import load_model
from engine.models.card import SEEN
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench

FILE = "adversarial.safetensors"


def run_attack(spec: Attack, bench: Bench) -> Steps:
    """Run `spec`; see `Attack`. Raises BadInput if model, data and attack do not fit together.

    A cancel keeps what was found: the samples so far, each either confirmed as broken or still
    counted as correct, so that `robust_accuracy` is then an upper bound.
    """
    loaded = load_model(spec.model, bench)
    described = spec.data or loaded.card.data
    if described is None:
        raise BadInput(f"the model {spec.model!r} does not say what data it is for: give `data`")
    data = yield from load(described, bench)
    if tuple(data.shape) != tuple(loaded.card.shape):
        raise BadInput(
            f"the model takes images of (channels, height, width) {loaded.card.shape}, but those "
            f"of {described.kind} are {data.shape}; choose other data, or another size of them"
        )
    changed = loaded.card.may_have_seen(described.kind, data.test_fingerprint)
    if changed:
        yield Note("warning", SEEN)
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))
    order = order[: spec.samples or None]
    if not len(order):
        raise BadInput("the test split is empty: there is nothing to attack")
    if len(order) < spec.samples:
        yield Note("info", f"the test split has {len(order)} images; all of them are attacked")
    if advice := spec.attack.advice():
        yield Note("warning", advice)
    yield Table("classes", ("index", "name"), tuple(enumerate(data.classes)))

    size = spec.batch_size
    tally = Tally(len(order))
    clean = yield from _clean_logits(loaded.module, data.test, order, size, bench, tally)
    tally.correct = int((predicted(clean).cpu() == data.test.labels.cpu()[order]).sum())
    run = _Run(spec, bench, loaded.module, data.test, order, clean, tally)
    yield from run.attack(size)
    if tally.results:
        yield from run.save()
    return tally.summary() | ({"data_changed": True} if changed else {})


# --- what was found -------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """Sums over the batches that were attacked."""

    samples: int
    correct: int = 0
    """Samples that the model gets right when clean."""
    forward: int = 0
    nan: int = 0
    """Of the pass over the clean images: how many they are, and answers that were no numbers."""
    results: list[AttackResult] = field(default_factory=list)
    broken: int = 0
    seconds: float = 0.0
    """Spent attacking; pauses are not counted."""
    chunk: int | None = None
    """How many images still fit into memory together; None while all do."""
    cancelled: bool = False

    def add(self, result: AttackResult) -> None:
        self.results.append(result.cpu())
        self.broken += int(result.success.sum())

    def chunked(self, chunk: int | None) -> Iterator[Event]:
        """Say so if memory ran out."""
        if chunk is not None and (self.chunk is None or chunk < self.chunk):
            self.chunk = chunk
            yield Note("warning", f"out of memory: going on with {chunk} images at a time")

    def scalars(self, broken: int) -> dict[str, float]:
        """With `broken` samples more than in the batches that are done."""
        broken += self.broken
        return {
            "attack/success_rate": broken / max(1, self.correct),
            "attack/robust_accuracy": (self.correct - broken) / self.samples,
        }

    def summary(self) -> Summary:
        """What `run_attack` returns. After a cancel, of the batches that were begun alone."""
        seen = sum(len(result.success) for result in self.results)
        correct = sum(int(result.correct.sum()) for result in self.results)
        robust = correct - self.broken
        norms = torch.cat([r.norm.cpu() for r in self.results]) if self.results else torch.zeros(1)
        hit = torch.cat([r.success.cpu() for r in self.results]) if self.results else norms > 0
        summary: Summary = {
            "clean_accuracy": self.correct / self.samples,
            "robust_accuracy": robust / max(1, seen),
            "robust_accuracy_interval": list(wilson(robust, seen)),
            "interval": "Wilson, 95 %",
            "success_rate": self.broken / max(1, correct),
            "samples": seen,
            "correct": correct,
            "broken": self.broken,
            "mean_norm": norms[hit].mean().item() if self.broken else 0.0,
            "max_norm": norms.max().item(),
            "seconds": self.seconds,
            "images_per_second": seen / max(self.seconds, 1e-9),
        }
        summary |= {
            "forward_evaluations": self.forward + sum(r.forward_evaluations for r in self.results),
            "gradient_evaluations": sum(r.gradient_evaluations for r in self.results),
            "zero_gradients": sum(r.zero_gradients for r in self.results),
            "nan_count": self.nan + sum(r.nan_count for r in self.results),
        }
        if self.cancelled:
            finished = sum(int(result.finished.sum()) for result in self.results)
            summary |= {"partial": True, "finished": finished}
        return summary


def warnings(tally: Tally) -> Iterator[Event]:
    """What a reader must know before trusting the figures."""
    summary = tally.summary()
    zero, asked = summary["zero_gradients"], summary["gradient_evaluations"]
    if zero:
        yield Note(
            "warning",
            f"{zero} of {asked} gradients were exactly zero. An attack by gradients cannot "
            "break such a sample, so the robust accuracy may be too high; the margin loss "
            "or an attack without gradients may tell.",
        )
    if summary["nan_count"]:
        yield Note(
            "warning",
            f"{summary['nan_count']} answers of the model held a NaN or Inf; none was counted "
            "as a success.",
        )


def wilson(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927); (0, 1) if nothing was counted."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


# --- the batches ----------------------------------------------------------------------------------


def _clean_logits(
    model: nn.Module, split: Split, order: Tensor, size: int, bench: Bench, tally: Tally
) -> Generator[Event, None, Tensor]:
    """The model's logits, (N, K), at the clean images."""
    oracle = Oracle(model, seed=bench.derive("clean"), device=bench.device, bf16=False)
    logits: list[Tensor] = []
    for part in order.split(size):
        logits.append(oracle.look(split.batch(part)[0]))
        yield from tally.chunked(oracle.chunk)
        yield Progress(sum(map(len, logits)), len(order), "clean images")
    tally.forward, tally.nan = oracle.counts.forward, int(oracle.counts.nan)
    return torch.cat(logits)


@dataclass(slots=True)
class _Run:
    spec: Attack
    bench: Bench
    model: nn.Module
    test: Split
    order: Tensor
    clean: Tensor
    tally: Tally
    step: int = 0
    told: float = 0.0

    def attack(self, size: int) -> Generator[Event, None, None]:
        """Attack batch after batch, until done or cancelled."""
        frames = sum(method.steps + 1 for method in self.spec.attack.rounds())
        shown = self.order[: self.spec.show]
        gallery: Gallery | None = None
        done = 0
        try:
            if len(shown):
                images, labels = self.test.batch(shown)
                logits = self.clean[: len(shown)]
                most = frames * math.ceil(len(shown) / size)
                gallery = Gallery(self.spec.attack, images, labels, logits, most)
                yield gallery.clean()
            while done < len(self.order):
                part = self.order[done : done + size]
                result = yield from self._batch(part, done, size, frames, gallery)
                self.tally.add(result)
                yield from self.tally.chunked(result.chunk)
                if self.tally.cancelled:
                    break
                done += len(part)
                yield self._progress(done, 0, size, frames)
        except Cancelled:
            self.tally.cancelled = True
        yield from warnings(self.tally)

    def _batch(
        self, part: Tensor, done: int, size: int, frames: int, gallery: Gallery | None
    ) -> Generator[Event, None, AttackResult]:
        images, labels = self.test.batch(part)
        search = perturb(
            self.model,
            images,
            labels,
            self.spec.attack,
            seed=self.bench.derive("attack"),
            ids=self.test.ids[part],
            clean_logits=self.clean[done : done + len(part)],
            precision=self.bench.spec.precision,
        )
        frame = 0
        while True:
            begun = time.perf_counter()
            try:
                iteration = next(search)
            except StopIteration as end:
                result: AttackResult = end.value
                return result
            finally:
                self.tally.seconds += time.perf_counter() - begun
            frame += 1
            try:
                yield from self._say(iteration, images, done, frame == frames, gallery)
                if time.perf_counter() - self.told > 0.2:
                    self.told = time.perf_counter()
                    yield self._progress(done, frame, size, frames)
            except Cancelled:
                self.tally.cancelled = True
                return _stopped(search)

    def _say(
        self, now: Iteration, images: Tensor, done: int, last: bool, gallery: Gallery | None
    ) -> Iterator[Event]:
        broken = int(now.success.sum())
        if gallery is not None and gallery.update(now, done):
            settled = bool(now.success[now.active].all())
            yield from gallery.frames(self.step, last=last or settled)
        change = (now.points - images[now.active]).flatten(1)
        sizes = torch.linalg.vector_norm(change, ORDERS[self.spec.attack.norm], dim=1)
        yield Scalars(
            self.step,
            self.tally.scalars(broken)
            | {"attack/loss": now.loss.mean().item(), "attack/mean_norm": sizes.mean().item()},
        )
        self.step += 1

    def _progress(self, done: int, frame: int, size: int, frames: int) -> Progress:
        """In iterations: a batch whose samples are all broken skips what is left of its own."""
        batches = math.ceil(done / size)
        total = batches + math.ceil((len(self.order) - done) / size)
        return Progress(batches * frames + frame, total * frames, "iterations")

    def save(self) -> Generator[Event, None, None]:
        """Write what was found to the run's folder."""
        results = self.tally.results
        index = self.order[: sum(len(result.success) for result in results)]
        size = self.spec.batch_size
        content = safetensors.torch.save(
            {
                "clean": torch.cat([self.test.batch(part)[0].cpu() for part in index.split(size)]),
                "adversarial": torch.cat([result.adversarial.cpu() for result in results]),
                "labels": self.test.labels.cpu()[index],
                "predictions": torch.cat([result.predictions.cpu() for result in results]),
                "success": torch.cat([result.success.cpu() for result in results]),
                "norm": torch.cat([result.norm.cpu() for result in results]),
                "ids": self.test.ids[index].contiguous(),
            }
        )
        path = self.bench.folder / FILE
        with atomic(path) as file:
            file.write(content)
        yield Saved("adversarial", FILE, len(content), sha256_of(path))


def _stopped(search: Generator[Iteration, None, AttackResult]) -> AttackResult:
    """What a search has found when it is cancelled at its current yield."""
    try:
        search.throw(Cancelled())
    except StopIteration as end:
        result: AttackResult = end.value
        return result
    raise RuntimeError("a cancelled search went on")
