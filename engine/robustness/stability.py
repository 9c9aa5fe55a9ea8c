"""How far a model's answers are its own: the same samples asked again and again, while something
changes that should not matter."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.attacks.running import choose
from engine.attacks.showing import as_pixels, thumbnails
from engine.bench import Bench
from engine.data import load
from engine.errors import BadInput, Cancelled, SpecError
from engine.events import Change, Event, Images, Note, Progress, Table, sieved
from engine.models import LoadedModel, ModelCard, load_model
from engine.random import derive
from engine.robustness.evaluating import subject_of
from engine.robustness.searching import Subject
from engine.robustness.sensitivity import Shaken, among, answers, noisy
from engine.task import Steps, Summary, parse
from engine.training.adapting import adapt
from engine.training.diagnostics.curvature import Loss
from engine.training.diagnostics.landscape import measured
from engine.training.diagnostics.plane import loss_plane
from engine.training.loop import Trainer
from engine.training.spec import Train
from engine.training.starting import first_model

if TYPE_CHECKING:
    from engine.data import Dataset
    from engine.robustness.spec import Stability

SEEDS, ORDERS, INPUTS, WEIGHTS = "seeds", "orders", "input_noise", "weight_noise"
PRODUCTS, PROBES, PARTS = 30, 20, 8
"""Of the Hessian: products for its largest eigenvalue, at most, and for its trace; parts of the
samples for the noise of the gradient."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several answers to the same samples have in common.

    source: what was varied; level: how strongly, NaN where there is no how. said: int64 (M, N), the
    classes that M answers gave to N samples; the model's own are the first of them.
    """

    source: str
    level: float
    said: Tensor
    labels: Tensor

    @property
    def name(self) -> str:
        """As in "input_noise 0.05"."""
        return self.source if math.isnan(self.level) else f"{self.source} {self.level:g}"

    @property
    def accuracies(self) -> Tensor:
        """Of every answer, float64 (M,)."""
        return (self.said == self.labels).double().mean(1)

    @property
    def differs(self) -> Tensor:
        """Where not all are the same, bool (N,)."""
        return (self.said != self.said[0]).any(0)

    @property
    def agreement(self) -> float:
        """Share of samples on which two of the answers agree, the mean over all pairs."""
        count = len(self.said)
        votes = self.votes
        pairs = (votes * (votes - 1)).sum(1) / (count * (count - 1))
        return pairs.mean().item()

    @property
    def votes(self) -> Tensor:
        """How many answers name each class, float64 (N, classes)."""
        classes = int(self.said.max()) + 1
        return nn.functional.one_hot(self.said, classes).sum(0).double()

    @property
    def entropy(self) -> Tensor:
        """Of the answers to each sample, in bits, float64 (N,): 0 where all are the same."""
        share = self.votes / len(self.said)
        return (share * share.clamp_min(1e-300).log2()).sum(1).abs()

    def row(self) -> tuple[Any, ...]:
        """As in `COLUMNS`."""
        right = self.accuracies
        return (
            self.source,
            None if math.isnan(self.level) else self.level,
            len(self.said),
            right.mean().item(),
            right.min().item(),
            right.max().item(),
            right.std().item(),
            self.differs.double().mean().item(),
            self.agreement,
            self.entropy.mean().item(),
        )


COLUMNS = (
    "source",
    "level",
    "answers",
    "accuracy",
    "lowest_accuracy",
    "highest_accuracy",
    "deviation",
    "differs",
    "agreement",
    "entropy",
)


@dataclass(slots=True)
class Report:
    """What is known so far."""

    on: Subject
    spreads: list[Spread] = field(default_factory=list)
    bends: dict[str, float] = field(default_factory=dict)

    def entropy(self) -> Tensor:
        """Of each sample, the mean over sources, float64 (N,)."""
        found = [spread.entropy for spread in self.spreads]
        return torch.stack(found).mean(0) if found else torch.zeros(len(self.on)).double()

    def least_stable(self, most: int) -> Tensor:
        """Rows of the samples whose answers differ the most, those first; int64."""
        entropy = self.entropy()
        rows = entropy.argsort(descending=True, stable=True)[:most]
        return rows[entropy[rows] > 0]


def run_stability(spec: Stability, bench: Bench) -> Steps:
    """Run `spec`; see `Stability`. Raises BadInput if models and data do not fit, or nothing says
    how the model was trained and others are to be. A cancel keeps what was found."""
    loaded = load_model(spec.model, bench)
    train = _training_of(loaded.card, spec) if spec.seeds or spec.orders else None
    chosen = yield from sieved(
        choose(spec.model, spec.data, spec.samples, bench),
        lambda event: not (isinstance(event, Note) and event.level == "info"),  # of attacks
    )
    learnt = chosen.data  # what others are trained on, which is not always what is answered
    if train is not None and spec.data is not None and loaded.card.data is not None:
        learnt = yield from load(loaded.card.data, bench)
    others = [_same(ref, loaded, bench) for ref in spec.also]
    yield Table("classes", ("index", "name"), tuple(enumerate(chosen.data.classes)))
    on = yield from subject_of(chosen, bench, spec.batch_size)
    report, partial = Report(on), False
    try:
        yield from _noise(spec, report)
        if spec.hessian or spec.plane:
            yield from _around(spec, report, chosen.data)
        yield from _models(spec, report, loaded.card, train, others, learnt)
    except Cancelled:
        partial = True
    yield from _told(spec, report)
    summary: Summary = {
        "clean_accuracy": on.correct.double().mean().item(),
        "samples": len(on),
        "models": {s.source: len(s.said) for s in report.spreads if s.source in (SEEDS, ORDERS)},
        "differs": {s.name: s.differs.double().mean().item() for s in report.spreads},
        "agreement": {s.name: s.agreement for s in report.spreads},
        "accuracy_range": {
            s.name: (s.accuracies.max() - s.accuracies.min()).item() for s in report.spreads
        },
        "entropy": {s.name: s.entropy.mean().item() for s in report.spreads},
        "least_stable": on.order[report.least_stable(spec.show)].tolist(),
        **report.bends,
    }
    if partial:
        summary["partial"] = True
    if chosen.changed:
        summary["data_changed"] = True
    return summary


def _told(spec: Stability, report: Report) -> Iterator[Event]:
    """What is known, as a table, and the samples whose answers differ the most."""
    on = report.on
    yield Table("stability", COLUMNS, tuple(spread.row() for spread in report.spreads))
    rows = report.least_stable(spec.show)
    if not len(rows):
        return
    images, labels = on.images(rows)
    names = [spread.name for spread in report.spreads]
    each = torch.stack([spread.entropy[rows] for spread in report.spreads], dim=1)
    mean = report.entropy()[rows]
    yield Table(
        "unstable",
        ("sample", "label", "prediction", "entropy", *names),
        tuple(
            (
                int(on.order[row]),
                on.classes[int(on.labels[row])],
                on.classes[int(on.predictions[row])],
                float(mean[place]),
                *each[place].tolist(),
            )
            for place, row in enumerate(rows)
        ),
    )
    yield Images(
        "unstable",
        as_pixels(thumbnails(images) * 255),
        tuple(
            {
                "label": int(label),
                "prediction": int(on.predictions[row]),
                "said": _said(report, row),
            }
            for row, label in zip(rows, labels.tolist(), strict=True)
        ),
    )


def _said(report: Report, row: Tensor) -> dict[str, int]:
    """How often each class was an answer to a sample, of all sources together."""
    votes: dict[str, int] = {}
    for spread in report.spreads:
        for label in spread.said[:, row].tolist():
            name = report.on.classes[label]
            votes[name] = votes.get(name, 0) + 1
    return dict(sorted(votes.items(), key=lambda item: -item[1]))


# --- noise ----------------------------------------------------------------------------------------


def _noise(spec: Stability, report: Report) -> Generator[Event, None, None]:
    on, place = report.on, 0
    total = spec.draws * (len(spec.input_noise) + len(spec.weight_noise))
    for source, levels in ((INPUTS, spec.input_noise), (WEIGHTS, spec.weight_noise)):
        for sigma in levels:
            said = [on.predictions]
            for draw in range(spec.draws):
                seed = on.bench.derive("stability", source, str(sigma), draw)
                if source == INPUTS:
                    steps = answers(on, on.model, noisy("gaussian", sigma, seed))
                else:
                    steps = answers(on, Shaken(on.model, sigma, seed))
                said.append((yield from among(steps, place, total, "draws")))
                place += 1
            report.spreads.append(Spread(source, sigma, torch.stack(said), on.labels))
            yield Table("stability", COLUMNS, tuple(spread.row() for spread in report.spreads))


# --- the loss around the weights ------------------------------------------------------------------


def _around(spec: Stability, report: Report, data: Dataset) -> Generator[Event, None, None]:
    bench = report.on.bench
    order = torch.randperm(len(data.train), generator=bench.generator("around"))
    images, labels = data.train.batch(order[: spec.around])
    loss = Loss(report.on.model, images, labels)
    if not loss.weights:
        raise BadInput("the model has no weights that learn: leave hessian and plane out")
    if spec.hessian:
        parts = min(PARTS, len(images) // 2)
        found = yield from measured(loss, bench, PRODUCTS, PROBES, parts, 0)
        report.bends = {name.replace("/", "_"): value for name, value in found.items()}
        rows = tuple(found.items())
        yield Table("curvature", ("quantity", "value"), rows)
    if spec.plane:
        yield from loss_plane(loss, bench.generator("plane"), 0, spec.plane)


# --- other models ---------------------------------------------------------------------------------


def _models(
    spec: Stability,
    report: Report,
    card: ModelCard,
    train: Train | None,
    others: list[LoadedModel],
    data: Dataset,
) -> Generator[Event, None, None]:
    on = report.on
    place, total = 0, len(others) + spec.seeds + spec.orders
    for source, count in ((SEEDS, len(others) + spec.seeds), (ORDERS, spec.orders)):
        said = [on.predictions]
        try:
            for number in range(count):
                if source == SEEDS and number < len(others):
                    model = others[number].module
                else:
                    assert train is not None
                    steps = _trained(train, card, data, on.bench, source, number)
                    model = yield from among(steps, place, total, "models")
                said.append((yield from among(answers(on, model), place, total, "models")))
                place += 1
        finally:  # those that are there count, if it is stopped
            if len(said) > 1:
                report.spreads.append(Spread(source, math.nan, torch.stack(said), on.labels))
        if len(said) > 1:
            yield Table("stability", COLUMNS, tuple(spread.row() for spread in report.spreads))


def _same(ref: str, loaded: LoadedModel, bench: Bench) -> LoadedModel:
    """Another run of the same recipe. Raises BadInput if it answers another question."""
    other = load_model(ref, bench)
    if other.card.shape != loaded.card.shape or other.card.classes != loaded.card.classes:
        raise BadInput(
            f"{ref!r} takes other images, or knows other classes, than the model that is judged: "
            "`also` is for runs of the same recipe"
        )
    return other


def _training_of(card: ModelCard, spec: Stability) -> Train:
    """How the model was trained. Raises BadInput if its card does not tell, or it was private."""
    asked = "seeds" if spec.seeds else "orders"
    if card.training.get("kind") != "train":
        raise BadInput(
            f"{asked} trains the model once more, and its card does not tell how it was trained; "
            "judge a model of a train task, or name runs in also"
        )
    if card.training.get("privacy") is not None:
        raise BadInput(
            f"{asked} would train on images that the model keeps private, and nobody would pay "
            "for it; name runs in also, each of which has its own epsilon"
        )
    try:
        return parse(Train, {**card.training, "diagnostics": "off"})
    except SpecError as error:
        raise BadInput(f"the model's card tells a training that cannot be: {error}") from None


class _Sibling(Bench):
    """The surroundings of one more training, which is done again rather than resumed. What is drawn
    for the order of the batches, or for everything, has a seed of its own."""

    everything = False
    own = 0

    def derive(self, *key: str | int) -> int:
        return derive(self.own if self.everything or key[0] == "order" else self.seed, *key)

    def save_checkpoint(
        self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> None:
        return None


def _trained(
    train: Train, card: ModelCard, data: Dataset, bench: Bench, source: str, number: int
) -> Generator[Event, None, nn.Module]:
    """One more model as the card tells it, number `number` of its source."""
    folder = bench.folder / "sibling"
    folder.mkdir(exist_ok=True)
    try:
        aside = _Sibling(
            folder,
            bench.workspace,
            seed=train.seed,
            spec=train.bench.model_copy(update={"device": bench.spec.device}),
            data_root=bench.data_root,
            trust_code=bench.trust_code,
        )
        aside.everything = source == SEEDS
        aside.own = bench.derive("sibling", source, number)
        aside.changes = [Change(c.name, c.value, c.step) for c in train.changes]
        start = load_model(train.init, bench) if train.init else None
        model, _ = first_model(train.model, train.init, start, data, aside, private=False)
        layout = torch.channels_last if bench.spec.channels_last else torch.contiguous_format
        model = model.to(bench.device).to(memory_format=layout).eval()
        model = adapt(model, train.trainable, train.adapters, aside.derive("adapters")).eval()
        trainer = Trainer(train, aside, data, model, model if start else None)
        for events in (trainer.begin(), trainer.train()):
            for event in events:
                if isinstance(event, Progress):
                    yield event
        return trainer.result()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
