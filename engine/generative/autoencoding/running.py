"""The autoencoder task: from its spec to a network file, one stream of events.

Steps are taken in bursts of at most `bench.burst` seconds, and said after them, as in the training
of classifiers (`engine.training.loop`).
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.data import Dataset, Split, load
from engine.device import versions
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Progress, Saved, Scalars
from engine.files import sha256_of
from engine.generative.autoencoding.learning import Learner
from engine.generative.autoencoding.networks import AutoencoderNet
from engine.generative.autoencoding.scoring import auroc, threshold_of
from engine.generative.autoencoding.showing import Shown, every
from engine.generative.spec.autoencoder import Anomalies, NoiseImages, OtherImages, TrainAutoencoder
from engine.models import NetworkCard, save_model
from engine.models.card import told
from engine.random import uniform
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench

JUDGED = 500
"""Images that are judged in one pass."""

PAUSE = 0.05
"""Seconds without a word, at most, where a batch allows."""


def run_autoencoder(spec: TrainAutoencoder, bench: Bench) -> Steps:
    """Train as `spec` says. Cancelled, it keeps the network as it is, without a threshold.

    Raises BadInput if architecture, labels and data do not fit; CrucibleError when a loss is not a
    number.
    """
    data = yield from load(spec.data, bench)
    outliers = yield from _checked(spec, data, bench)
    learner = Learner(spec, bench, data)
    if bench.resume is not None:
        learner.restore(bench.resume.tensors, bench.resume.values["task"])
        yield Note("info", f"resumed at step {learner.step}")
    run = _Run(spec, bench, data, learner)
    net = learner.present()
    judged: Summary = {"partial": True}
    try:
        yield from run.train()
        judged = yield from _judged(spec, net, data, outliers)
    except Cancelled:
        yield from run.say()
        learner.checkpoint()
    summary: Summary = {
        **judged,
        "epochs": learner.epoch,
        "steps": learner.step,
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": learner.seconds,
    }
    if spec.labels is not None:
        summary["labelled"] = len(learner.places)
    card = NetworkCard(
        model=spec.saved,
        data=spec.data,
        shape=data.shape,
        classes=data.classes if spec.labels is not None else (),
        data_fingerprint=data.fingerprint,
        learnt=(data.sketch,),
        training=told(spec, private=False, changes=bench.changes),
        metrics=dict(summary),
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = bench.folder / "model.safetensors"
    summary["weights_sha256"] = save_model(path, net, card).weights_sha256
    with contextlib.suppress(Cancelled):  # whoever stops it now still gets the whole summary
        yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    return summary


def _checked(
    spec: TrainAutoencoder, data: Dataset, bench: Bench
) -> Generator[Event, None, Tensor | Split]:
    """The outliers, after a look at what does not need any training to go wrong."""
    if len(data.train) < 2:
        raise BadInput(f"the training split holds {len(data.train)} images; expected at least 2")
    if not len(data.validation):
        raise BadInput(
            "the anomaly threshold is learnt from validation images, and there are none: set "
            "data.validation above 0"
        )
    return (yield from _outliers(spec.anomalies, data, bench))


def _outliers(
    spec: Anomalies, data: Dataset, bench: Bench
) -> Generator[Event, None, Tensor | Split]:
    """Images, float32 (N, C, H, W), or a split of them."""
    match spec.outliers:
        case NoiseImages(samples=count):
            return uniform(bench.derive("outliers"), torch.arange(count), data.shape)
        case OtherImages(data=described):
            other = yield from load(described, bench)
            if tuple(other.shape) != tuple(data.shape):
                raise BadInput(
                    f"the outliers of {described.kind} are images {tuple(other.shape)}, and the "
                    f"autoencoder's are {tuple(data.shape)}; choose other data, or another size"
                )
            return other.test
        case _:
            raise TypeError(f"no outliers of {type(spec.outliers).__name__}")


class _Run:
    """The steps of a learner, and what is said of them."""

    def __init__(
        self, spec: TrainAutoencoder, bench: Bench, data: Dataset, learner: Learner
    ) -> None:
        self.bench = bench
        self.data = data
        self.learner = learner
        self.shown = Shown(data, spec.code.prior, spec.latent, bench.derive("shown"))
        self._every = every(learner.total)
        self._unsaid: deque[Event] = deque()

    def train(self) -> Generator[Event, None, None]:
        """Every step that is left."""
        learner = self.learner
        if not learner.step:
            yield from self.shown.once()
        while True:
            if learner.step >= (learner.judged + 1) * learner.per_epoch:
                yield from self._epoch()
            if learner.step == learner.total:
                return
            begun = time.perf_counter()
            images = 0
            with learner.training():
                while True:
                    said = learner.take()
                    images += learner.spec.batch_size
                    self._unsaid.append(Scalars(learner.step, said))
                    late = learner.step % learner.per_epoch == 0
                    late = late or time.perf_counter() - begun >= self.bench.burst
                    if late or self._is_due() or learner.step == learner.total:
                        break
            took = time.perf_counter() - begun
            learner.seconds += took
            self._unsaid.append(Scalars(learner.step, {"train/images_per_second": images / took}))
            if self._is_due() or learner.step == learner.total:
                self._unsaid.extend(self.shown.frame(learner.present(), learner.step))
            yield from self.say()
            yield Progress(learner.step, learner.total, "steps")
            if self.bench.checkpoint_due():
                learner.checkpoint()

    def _is_due(self) -> bool:
        return self.learner.step % self._every == 0

    def say(self) -> Iterator[Event]:
        """What steps that were taken left to be said; a cancel in the middle leaves the rest."""
        while self._unsaid:
            yield self._unsaid.popleft()

    def _epoch(self) -> Generator[Event, None, None]:
        """What the validation images say after an epoch."""
        found = yield from examine(self.learner.present(), self.data.validation)
        values = {"validation/reconstruction": found.squared}
        if found.error is not None:
            values["validation/error"] = found.error
        self.learner.judged += 1
        yield Scalars(self.learner.step, values)


# --- judging --------------------------------------------------------------------------------------


class Found:
    """What an autoencoder makes of a split. scores: float32 (N,), the length of each difference.
    squared: mean square of it, a value. error: share of wrong classes, None where it tells none."""

    def __init__(self, scores: Tensor, values: int, error: float | None) -> None:
        self.scores = scores
        self.squared = float(scores.double().square().mean()) / values
        self.error = error


def examine(net: AutoencoderNet, images: Split | Tensor) -> Generator[Event, None, Found]:
    """Judge `net`, in eval mode, by every image. Yields Progress every 50 ms."""
    batches: Iterator[tuple[Tensor, Tensor | None]]
    if isinstance(images, Tensor):
        device = net.threshold.device
        batches = ((part.to(device), None) for part in images.split(JUDGED))
    else:
        rows = torch.arange(len(images))
        batches = ((part, labels) for _, part, labels in images.batches(rows, JUDGED))
    scores: list[Tensor] = []
    wrong = seen = 0
    last = time.perf_counter()
    for part, labels in batches:
        with torch.no_grad():
            code = net.encode(part)
            scores.append((net.decode(code.mean, code.classes) - part).flatten(1).norm(dim=1))
            if labels is not None and net.classes:
                wrong += int((net.told(code).argmax(1) != labels).sum())
                seen += len(labels)
        if time.perf_counter() - last > PAUSE:
            yield Progress(sum(map(len, scores)), len(images), "images")
            last = time.perf_counter()
    values = int(torch.tensor(net.shape).prod())
    return Found(torch.cat(scores), values, wrong / seen if seen else None)


def _judged(
    spec: TrainAutoencoder, net: AutoencoderNet, data: Dataset, outliers: Split | Tensor
) -> Generator[Event, None, dict[str, Any]]:
    """The threshold learnt, which the network keeps, and what the test images and the outliers
    say."""
    usual = yield from examine(net, data.validation)
    threshold = threshold_of(usual.scores, spec.anomalies.false_alarms)
    net.threshold.fill_(threshold)
    test = yield from examine(net, data.test)
    odd = yield from examine(net, outliers)
    summary: dict[str, Any] = {} if test.error is None else {"error": test.error}
    return summary | {
        "reconstruction": test.squared,
        "score": float(test.scores.mean()),
        "threshold": threshold,
        "false_alarms": float((test.scores > threshold).float().mean()),
        "anomaly_auroc": auroc(odd.scores, test.scores),
        "detected": float((odd.scores > threshold).float().mean()),
    }
