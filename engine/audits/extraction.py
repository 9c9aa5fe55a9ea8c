"""Model extraction: students learn from a model's answers, more of them each, and are compared with
it on images that none of them asked about."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.tally import wilson
from engine.audits.auditing import Subject, plain, subject_of
from engine.audits.spec import Extraction
from engine.data import Split, load
from engine.device import versions
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Progress, Saved, Scalars, Table
from engine.files import sha256_of
from engine.models import ModelCard, build, save_model
from engine.models.spec import ModelSpec
from engine.models.trust import trusts
from engine.random import uniform
from engine.task import Steps
from engine.training.optimizers import make_optimizer

if TYPE_CHECKING:
    from engine.audits.spec import Audit
    from engine.bench import Bench

ASKED = 500
"""Images that are asked about together."""
PAUSE = 0.05
"""Seconds without a word, at most, where a batch allows."""


def run_extraction(task: Audit, spec: Extraction, bench: Bench) -> Steps:
    """Raises BadInput if the images do not fit the model, or none are left to compare on. A cancel
    keeps the students that are there."""
    subject = yield from subject_of(task.model, bench)
    order = torch.randperm(len(subject.data.test), generator=bench.generator("samples"))
    asked = order[: len(order) // 2] if spec.source == "test" else order[:0]
    judged = order[len(asked) :]
    if not len(judged):
        raise BadInput("the test split is empty: there is nothing to compare the student on")
    images = yield from _images(spec, subject, asked, bench)
    answers = yield from _answers(subject.module, images, spec)
    truth = _Judged(subject, judged)
    yield from truth.begin()
    budgets = _budgets(len(images), spec.points)
    rows: list[tuple[int, float, float, float, float]] = []
    student, best, partial = None, None, False
    try:
        for number, budget in enumerate(budgets):
            student = yield from _taught(
                spec, subject, images[:budget], answers[:budget], bench, (number, len(budgets))
            )
            alike, right = yield from truth.compare(student)
            best = student
            share, low, high = alike / len(judged), *wilson(alike, len(judged))
            rows.append((budget, share, low, high, right / len(judged)))
            yield Scalars(
                budget,
                {"extraction/agreement": share, "extraction/accuracy": right / len(judged)},
            )
            columns = ("queries", "agreement", "low", "high", "accuracy")
            yield Table("extraction", columns, tuple(rows))
    except Cancelled:
        partial = True
    summary = plain(
        {
            "model_accuracy": truth.right / len(judged),
            "partial": partial or None,
            "data_changed": subject.changed or None,
        }
    )
    if best is None:
        return summary
    budget, share, low, high, accuracy = rows[-1]
    summary |= {
        "queries": budget,
        "agreement": share,
        "agreement_interval": [low, high],
        "accuracy": accuracy,
        "parameters": sum(p.numel() for p in best.parameters()),
    }
    path = bench.folder / "model.safetensors"
    card = ModelCard(
        model=_architecture(spec, subject),
        data=subject.card.data,
        shape=subject.data.shape,
        classes=subject.data.classes,
        training=task.to_dict(),
        metrics=dict(summary),
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    summary["weights_sha256"] = save_model(path, best, card).weights_sha256
    yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    return summary


# --- the questions --------------------------------------------------------------------------------


def _images(
    spec: Extraction, subject: Subject, asked: Tensor, bench: Bench
) -> Generator[Event, None, Tensor]:
    """What the model is asked about, float32 (Q, C, H, W), in a seeded order."""
    shape = subject.data.shape
    if spec.source == "noise":
        return uniform(bench.derive("noise"), torch.arange(spec.queries), shape)
    if spec.source == "test":
        split, rows, what = subject.data.test, asked, "half of the test split"
    else:
        assert spec.other is not None
        other = yield from load(spec.other, bench)
        if tuple(other.shape) != tuple(shape):
            raise BadInput(
                f"the model takes images {tuple(shape)}, but those of {spec.other.kind} are "
                f"{tuple(other.shape)}; choose other data, or another size of them"
            )
        split, what = other.train, "the training split of the other data"
        rows = torch.randperm(len(split), generator=bench.generator("other"))
    if len(rows) < spec.queries:
        yield Note("info", f"{what} has {len(rows)} images: so many are asked about")
    rows = rows[: spec.queries]
    if not len(rows):
        raise BadInput(f"{what} is empty: there is nothing to ask about")
    return torch.cat([images for _, images, _ in split.batches(rows, ASKED)])


def _answers(model: nn.Module, images: Tensor, spec: Extraction) -> Generator[Event, None, Tensor]:
    """What the model tells: probabilities, (Q, K), those of the top class 1 where it is all."""
    found: list[Tensor] = []
    for part in images.to(next(model.parameters()).device).split(ASKED):
        with torch.no_grad():
            found.append(model(part).float())
        yield Progress(sum(map(len, found)), len(images), "queries")
    logits = torch.cat(found)
    if spec.answers == "labels":
        return F.one_hot(logits.argmax(1), logits.shape[1]).float()
    return logits.softmax(1)


def _budgets(most: int, points: int) -> list[int]:
    """Numbers of answers, each about half of the next."""
    return sorted({max(1, math.ceil(most / 2**k)) for k in range(points)})


# --- the student ----------------------------------------------------------------------------------


def _architecture(spec: Extraction, subject: Subject) -> ModelSpec:
    return spec.student or subject.card.model


def _taught(
    spec: Extraction,
    subject: Subject,
    images: Tensor,
    answers: Tensor,
    bench: Bench,
    place: tuple[int, int],
) -> Generator[Event, None, nn.Module]:
    """A student that has learnt these answers. What it normalises by is taken from the images that
    it asked about: it knows no others."""
    described = _architecture(spec, subject)
    shape, classes = subject.data.shape, len(subject.data.classes)
    mean = images.mean((0, 2, 3)).tolist()
    std = images.std((0, 2, 3)).clamp_min(1 / 255).tolist()
    model = build(
        described,
        shape,
        classes,
        mean=mean if described.normalised else None,
        std=std if described.normalised else None,
        generator_seed=bench.derive("student", len(images)),
        trust=trusts(described, bench),
    ).to(bench.device)
    images, answers = images.to(bench.device), answers.to(bench.device)
    optimizer = make_optimizer(spec.optimizer, model.parameters(), bench.device)
    draw = bench.generator("order", len(images))
    taken, (number, count) = 0, place
    while taken < spec.steps:
        begun = time.perf_counter()
        with bench.global_random(), torch.enable_grad():
            model.train()
            while taken < spec.steps:
                part = torch.randint(len(images), (spec.batch_size,), generator=draw)
                part = part.to(bench.device)
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(images[part]), answers[part]).backward()
                optimizer.step()
                taken += 1
                if time.perf_counter() - begun >= bench.burst:
                    break
            model.eval()
        yield Progress(number, count, "students", (number + taken / spec.steps) / count)
    return model.eval()


class _Judged:
    """The images that are compared on, and what the audited model says of them."""

    def __init__(self, subject: Subject, places: Tensor) -> None:
        self._test: Split = subject.data.test
        self._places = places
        self._labels = subject.data.test.labels[places.to(subject.data.test.device)]
        self._model = subject.module
        self.right = 0

    def begin(self) -> Generator[Event, None, None]:
        """Ask the audited model."""
        self._said = yield from self._classes(self._model)
        self.right = int((self._said == self._labels).sum())

    def compare(self, student: nn.Module) -> Generator[Event, None, tuple[int, int]]:
        """On how many images the student says what the model says, and how many it gets right."""
        said = yield from self._classes(student)
        return int((said == self._said).sum()), int((said == self._labels).sum())

    def _classes(self, model: nn.Module) -> Generator[Event, None, Tensor]:
        found: list[Tensor] = []
        last = time.perf_counter()
        for _, images, _ in self._test.batches(self._places, ASKED):
            with torch.no_grad():
                found.append(model(images).argmax(1))
            if time.perf_counter() - last > PAUSE:
                yield Progress(sum(map(len, found)), len(self._places), "images")
                last = time.perf_counter()
        return torch.cat(found)
