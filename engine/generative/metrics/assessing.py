"""The task `assess`, told in order: the real images, the draws of the generator, the real images
that were kept aside as if they were a draw, copies of training images, the ways through latent
space."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from engine.attacks.showing import pictures
from engine.data import Dataset, Split, load
from engine.data.spec import DataSpec
from engine.errors import BadInput, Cancelled
from engine.events import Event, Note, Progress, Saved, Scalars, Table
from engine.files import atomic, sha256_of
from engine.generative.making import Maker, load_maker
from engine.generative.metrics import kernel, neighbours
from engine.generative.metrics.extractors import (
    Extractor,
    Seen,
    broken,
    features,
    joined,
    judge,
    recognised,
    refuse,
    seen,
    seen_of_split,
    shipped,
    suited,
)
from engine.generative.metrics.kernel import Kernel
from engine.generative.metrics.manifold import Manifold, measuring, radii
from engine.generative.metrics.neighbours import Memory, Nearest, Search
from engine.generative.metrics.reference import Reference, few
from engine.generative.metrics.smoothness import (
    Smoothness,
    lengths,
    smoothness_of,
    spread_of,
    steps_apart,
)
from engine.generative.spec.evaluating import Assess
from engine.models.card import SEEN
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench

T = TypeVar("T")

FILE = "assessment.safetensors"

BATCH = 50
"""Samples that are made together."""

WORK = 100_000_000
"""Products that a step of the search for neighbours takes: some 10 ms of a CPU."""

MOST = 1000
"""Samples whose neighbours are looked for, and images of either half of those kept aside."""

CLOSEST = 16
"""Samples that are shown beside the training image they are nearest to, the most suspect first."""


def run_assess(spec: Assess, bench: Bench) -> Steps:
    """Raises BadInput if `model` makes no images, there are too few to compare, or its images are
    no numbers; UnavailableError where Inception is asked for and is not there. Cancelled after the
    first draw, it says what is known by then."""
    begun = time.perf_counter()
    maker = load_maker(spec.model, bench)
    data = yield from _data(maker, bench)
    changed = data.seen(maker.card.learnt) > 0
    if changed:
        yield Note("warning", SEEN)
    extractor = yield from _extractor(spec, data, bench)
    yield from _cautions(spec, extractor, data)
    work = Assessment(spec, bench, maker, data, extractor)
    partial = False
    try:
        yield from work.all()
    except Cancelled:
        if not work.drawn:
            raise
        partial = True
        yield Note("warning", f"stopped after {len(work.drawn)} of {spec.draws} draws")
    yield from work.tell()
    yield work.keep()
    summary = work.summary() | {"seconds": time.perf_counter() - begun}
    told = {"partial": partial or None, "data_changed": changed or None}
    return {name: value for name, value in (summary | told).items() if value is not None}


def _data(maker: Maker, bench: Bench) -> Generator[Event, None, Dataset]:
    """The images that the generator learnt from."""
    card = maker.card
    if card.data is None:
        raise BadInput(
            "the generator does not say what it learnt from, and is judged by that; name a run "
            "that trained one"
        )
    if not isinstance(card.data, DataSpec):
        suited(card.shape)  # says what points are judged by
        raise BadInput(f"data of kind {card.data.kind!r} holds no images to compare with")
    data = yield from load(card.data, bench)
    if tuple(data.shape) != tuple(card.shape):
        raise BadInput(
            f"the generator makes images {tuple(card.shape)}, but its data has "
            f"{tuple(data.shape)} now"
        )
    return data


def _extractor(spec: Assess, data: Dataset, bench: Bench) -> Generator[Event, None, Extractor]:
    if spec.judge is not None:
        return judge(spec.judge, bench)
    if spec.extractor == "inception":
        from engine.generative.metrics.inception import inception

        return (yield from inception(data.shape, bench))
    name = suited(data.shape) if spec.extractor == "auto" else spec.extractor
    return shipped(name, bench.device)


def _cautions(spec: Assess, extractor: Extractor, data: Dataset) -> Iterator[Event]:
    fits = tuple(extractor.shape) == tuple(data.shape) and extractor.classes == data.classes
    if extractor.name == "inception" or fits:
        yield Note(
            "info",
            f"features are those of {extractor.name}; figures compare only with others of the same",
        )
    else:
        yield Note(
            "warning",
            f"features are those of {extractor.name}, which was trained on other images than "
            "these: figures compare only with others of the same, and say less of what matters "
            "here. A classifier of these images can take its place, as judge",
        )
    if short := few(min(spec.samples, len(data.train)), extractor.dimensions):
        yield Note("warning", short)


# --- the work -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bar:
    """How far all of it is, in images."""

    total: int
    done: int = 0

    def step(self, count: int) -> Progress:
        self.done += count
        return self.now()

    def now(self) -> Progress:
        return Progress(min(self.done, self.total), self.total, "images")

    def over(self, steps: Generator[Any, None, T]) -> Generator[Event, None, T]:
        """`steps`, which say no more than that they go on."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                value: T = end.value
                return value
            yield self.now()


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of one draw, or of images kept aside. accuracy: None where no class was asked
    for, or the classifier knows other ones."""

    fid: float
    kid: Kernel
    manifold: Manifold
    accuracy: float | None
    images: int

    def values(self) -> dict[str, float]:
        found = {
            "fid": self.fid,
            "kid": self.kid.distance,
            "precision": self.manifold.precision,
            "recall": self.manifold.recall,
            "density": self.manifold.density,
            "coverage": self.manifold.coverage,
        }
        return found if self.accuracy is None else found | {"accuracy": self.accuracy}


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples of the first draw: images float32 (N, C, H, W), labels int64 (N,) or None."""

    images: Tensor
    labels: Tensor | None
    seen: Seen


@dataclass(slots=True)
class Assessment:
    """What is found, piece by piece."""

    spec: Assess
    bench: Bench
    maker: Maker
    data: Dataset
    extractor: Extractor
    drawn: list[Judged] = field(default_factory=list)
    first: Drawn | None = None
    aside: Judged | None = None
    nearest: Nearest | None = None
    by_pixels: Memory | None = None
    by_features: Memory | None = None
    smoothness: Smoothness | None = None
    shares: Tensor | None = None
    bar: Bar = field(init=False)
    reference: Reference = field(init=False)
    alike: Tensor = field(init=False)
    around: Tensor = field(init=False)

    def all(self) -> Iterator[Event]:
        spec, train, test = self.spec, self.data.train, self.data.test
        count = min(spec.real or len(train), len(train))
        held = min(spec.samples, len(test))
        bar = self.bar = Bar(count + spec.draws * spec.samples + held + len(train) + 2 * spec.ways)
        order = torch.randperm(len(train), generator=self.bench.generator("real"))
        real = yield from self._of_split(train, order[:count].sort().values)
        self.reference = Reference(real.features, spec.neighbours)
        # As many as samples: shares of either would be higher where the other is larger.
        mixed = torch.randperm(count, generator=self.bench.generator("alike"))
        self.alike = real.features[mixed[: spec.samples]]
        self.around = yield from bar.over(radii(self.alike, spec.neighbours))
        for number in range(spec.draws):
            yield from self._draw(number)
        yield from self._kept_aside(held)
        yield from self._copies()
        if spec.ways:
            yield from self._ways()
        yield Progress(bar.total, bar.total, "images")

    def _of_split(self, split: Split, index: Tensor) -> Generator[Event, None, Seen]:
        before = self.bar.done
        looking = seen_of_split(split, index, self.extractor)
        while True:
            try:
                event = next(looking)
            except StopIteration as end:
                self.bar.done = before + len(index)
                found: Seen = end.value
                return found
            if isinstance(event, Progress):
                self.bar.done = before + event.done
            yield self.bar.now()

    def _draw(self, number: int) -> Iterator[Event]:
        labels = self._labels(self.spec.samples, number)
        seed = self.bench.derive("latents", number)
        latents = self.maker.draw(seed, self.spec.samples, labels)
        images, looked, unusable = [], [], 0
        for part in torch.arange(len(latents)).split(BATCH):
            made = self.maker.make(latents[part], _of(labels, part))
            unusable += broken(made)
            made = _in_levels(made.nan_to_num())
            looked.append(seen(made, self.extractor))
            if number == 0:
                images.append(made.cpu())
            yield self.bar.step(len(part))
        refuse(unusable, self.spec.samples)
        found = joined(looked)
        if number == 0:
            told = None if labels is None else labels.cpu()
            self.first = Drawn(torch.cat(images), told, found)
            self.shares = _shares(found, self._classes)
        judged = yield from self._judge(found, labels, number)
        self.drawn.append(judged)
        yield Scalars(number + 1, {f"assess/{k}": v for k, v in judged.values().items()})

    def _labels(self, count: int, draw: int | str) -> Tensor | None:
        """Classes as often as they are among the training images, on the device."""
        if not self.maker.conditional:
            return None
        train = self.data.train
        draws = self.bench.generator("labels", draw)
        return train.labels[torch.randint(len(train), (count,), generator=draws).to(train.device)]

    def _judge(
        self, found: Seen, labels: Tensor | None, number: int
    ) -> Generator[Event, None, Judged]:
        real = self.reference
        distances = []
        draw = self.bench.generator("subsets", number)
        for distance in kernel.subset_distances(real.features, found.features, draw):
            distances.append(distance)
            yield self.bar.now()
        size = kernel.subset_size(real.features, found.features)
        shape = yield from self.bar.over(
            measuring(self.alike, found.features, self.around, self.spec.neighbours)
        )
        known = labels is not None and len(self._classes) > 0
        return Judged(
            fid=real.fid(found.features),
            kid=kernel.summed(distances, size),
            manifold=shape,
            accuracy=recognised(found, labels) if known and labels is not None else None,
            images=len(found.features),
        )

    @property
    def _classes(self) -> tuple[str, ...]:
        """Those of the extractor's classifier, where they are those of the data."""
        return self.extractor.classes if self.extractor.classes == self.data.classes else ()

    def _kept_aside(self, count: int) -> Iterator[Event]:
        test = self.data.test
        if count <= self.spec.neighbours:
            yield Note("info", f"{count} images were kept aside, too few to stand beside samples")
            return
        order = torch.randperm(len(test), generator=self.bench.generator("kept aside"))
        index = order[:count].sort().values
        found = yield from self._of_split(test, index)
        labels = test.labels.cpu()[index]
        self.aside = yield from self._judge(found, labels, -1)
        if count < self.spec.samples:
            yield Note(
                "info",
                f"only {count} images were kept aside, and {self.spec.samples} are drawn: a "
                "Fréchet distance of fewer images is higher",
            )

    def _copies(self) -> Iterator[Event]:
        """Nearest training images, by pixels among all, by features among those compared with."""
        first = self.first
        if first is None or len(self.data.test) < neighbours.LEAST:
            self.bar.step(len(self.data.train))
            yield Note(
                "info",
                f"{len(self.data.test)} images were kept aside, too few to tell copies of training "
                f"images from others by; {neighbours.LEAST} are needed",
            )
            return
        one, other = neighbours.halves(len(self.data.test), self.bench.generator("halves"))
        one, other = one[:MOST], other[:MOST]
        samples = first.images[:MOST]
        probes = yield from self._images(self.data.test, one)
        compared = yield from self._images(self.data.test, other)
        both = torch.cat([samples.to(probes.device), probes])
        near = yield from self._searched(both)
        split = len(samples)
        self.nearest = Nearest(near.place[:split], near.distance[:split])
        beyond = yield from self.bar.over(_searching(both, compared))
        self.by_pixels = _memory(near, beyond, split)
        own = yield from self.bar.over(seen_of_split(self.data.test, one, self.extractor))
        others = yield from self.bar.over(seen_of_split(self.data.test, other, self.extractor))
        looked = torch.cat([first.seen.features[:MOST], own.features])
        near = yield from self.bar.over(_searching(looked, self.reference.features))
        beyond = yield from self.bar.over(_searching(looked, others.features))
        self.by_features = _memory(near, beyond, split)

    def _searched(self, images: Tensor) -> Generator[Event, None, Nearest]:
        """Among all training images."""
        train = self.data.train
        search = Search(images)
        for part, pool, _ in train.batches(torch.arange(len(train)), _block(images)):
            search.among(pool)
            yield self.bar.step(len(part))
        return search.found()

    def _images(self, split: Split, index: Tensor) -> Generator[Event, None, Tensor]:
        parts = []
        for _, images, _ in split.batches(index, BATCH):
            parts.append(images)
            yield self.bar.now()
        return torch.cat(parts)

    def _ways(self) -> Iterator[Event]:
        count, held = self.spec.ways, self.maker.numbers
        labels = self._labels(count, "ways")
        begin, end = (
            self.maker.draw(self.bench.derive("ways", name), count, labels)
            for name in ("from", "to")
        )
        at = torch.rand(count, generator=self.bench.generator("places")).to(begin.device)
        numbers = steps_apart(begin[:, :held], end[:, :held], at, arc=self.maker.arc)
        before, after = (torch.cat([part, begin[:, held:]], 1) for part in numbers)
        scale = spread_of(self.reference.gaussian.variance)
        found = []
        for part in torch.arange(count).split(BATCH):
            looked = []
            for latents in (before[part], after[part]):
                made = self.maker.make(latents, _of(labels, part))
                looked.append(features(made, self.extractor))
                yield self.bar.step(len(part))
            found.append(lengths(looked[0], looked[1], scale))
        self.smoothness = smoothness_of(torch.cat(found))

    # --- what is told -------------------------------------------------------------------------

    def tell(self) -> Iterator[Event]:
        yield Table("assessment", ("figure", "generated", "spread", "kept_aside"), self._rows())
        if self.shares is not None and len(self._classes):
            counts = torch.bincount(self.data.train.labels.cpu(), minlength=len(self._classes))
            real = (counts / counts.sum()).tolist()
            rows = zip(self._classes, real, self.shares.tolist(), strict=True)
            yield Table("classes", ("class", "training", "generated"), tuple(rows))
        yield from self._mosaics()

    def _rows(self) -> tuple[tuple[Any, ...], ...]:
        aside = self.aside.values() if self.aside is not None else {}
        rows: list[tuple[Any, ...]] = []
        for name in self.drawn[0].values():
            values = [judged.values()[name] for judged in self.drawn]
            spread = self.drawn[0].kid.spread if name == "kid" else _spread(values)
            rows.append((name, _mean(values), spread, aside.get(name)))
        for name, memory in (("pixels", self.by_pixels), ("features", self.by_features)):
            if memory is not None:
                error = math.sqrt(memory.memorised * (1 - memory.memorised) / len(memory.ratio))
                rows.append((f"memorised_{name}", memory.memorised, error, neighbours.UNUSUAL))
                median = float(memory.ratio.median())
                rows.append((f"distance_ratio_{name}", median, None, memory.usual))
        if self.smoothness is not None:
            rows.append(("smoothness", self.smoothness.mean, self.smoothness.error, None))
        return tuple(rows)

    def _mosaics(self) -> Iterator[Event]:
        first = self.first
        count = min(self.spec.show, self.spec.samples)
        if first is None or not count:
            return
        shown = torch.arange(count)
        yield pictures("samples", first.images[shown], self._captions(shown))
        if self.nearest is None:
            return
        yield pictures("neighbours", self._neighbours(shown), self._captions(shown))
        if self.by_pixels is not None:
            closest = self.by_pixels.ratio.argsort(stable=True)[: min(count, CLOSEST)].cpu()
            pairs = torch.stack([first.images[closest], self._neighbours(closest)], 1).flatten(0, 1)
            yield pictures("closest", pairs, self._captions(closest.repeat_interleave(2)))

    def _neighbours(self, samples: Tensor) -> Tensor:
        assert self.nearest is not None
        images, _ = self.data.train.batch(self.nearest.place.cpu()[samples])
        return images.cpu()

    def _captions(self, samples: Tensor) -> tuple[Mapping[str, Any], ...]:
        first = self.first
        found: list[dict[str, Any]] = [{} for _ in samples]
        for caption, place in zip(found, samples.tolist(), strict=True):
            if first is not None and first.labels is not None:
                caption["label"] = int(first.labels[place])
            if self.nearest is not None:
                caption["distance"] = round(float(self.nearest.distance[place]), 4)
            if self.by_pixels is not None:
                caption["ratio"] = round(float(self.by_pixels.ratio[place]), 4)
        return tuple(found)

    def keep(self) -> Saved:
        """Samples and features, for whoever wants to judge them by other means."""
        first = self.first
        assert first is not None
        kept = {
            "samples": (first.images * 255).round().to(torch.uint8).contiguous(),
            "features": first.seen.features.contiguous(),
            "real_features": self.reference.features.contiguous(),
        }
        if first.labels is not None:
            kept["labels"] = first.labels.contiguous()
        content = safetensors.torch.save(kept, {"extractor": self.extractor.name})
        path = self.bench.folder / FILE
        with atomic(path) as file:
            file.write(content)
        return Saved("assessment", FILE, len(content), sha256_of(path))

    def summary(self) -> Summary:
        found: Summary = {}
        for name in self.drawn[0].values():
            found[name] = _mean([judged.values()[name] for judged in self.drawn])
        found["fid_spread"] = _spread([judged.fid for judged in self.drawn])
        found["kid_spread"] = self.drawn[0].kid.spread
        if self.aside is not None:
            found |= {"fid_held_out": self.aside.fid, "held_out": self.aside.images}
        memories = [m for m in (self.by_pixels, self.by_features) if m is not None]
        if memories:
            worst = max(memories, key=lambda memory: memory.memorised)
            found |= {"memorised": worst.memorised, "memorised_p": worst.p_value}
        if self.smoothness is not None:
            found["smoothness"] = self.smoothness.mean
        return found | {
            "extractor": self.extractor.name,
            "samples": self.spec.samples,
            "draws": len(self.drawn),
            "real": len(self.reference.features),
        }


def _of(labels: Tensor | None, part: Tensor) -> Tensor | None:
    return None if labels is None else labels[part.to(labels.device)]


def _in_levels(images: Tensor) -> Tensor:
    """In 256 levels, as real images are, and as whoever saves them sees them."""
    return images.float().clamp(0, 1).mul(255).round().div(255)


def _shares(found: Seen, classes: tuple[str, ...]) -> Tensor | None:
    """Of each class among samples, as the classifier tells them, float64 (K,)."""
    if not classes:
        return None
    counts = torch.bincount(found.logits.argmax(1), minlength=len(classes)).double()
    return counts / counts.sum()


def _searching(samples: Tensor, pool: Tensor) -> Generator[int, None, Nearest]:
    return (yield from neighbours.looking(Search(samples), pool.split(_block(samples))))


def _block(samples: Tensor) -> int:
    """Images of a pool that are looked through in one go."""
    return max(1, min(500, WORK // max(1, samples.numel())))


def _memory(near: Nearest, beyond: Nearest, split: int) -> Memory:
    return neighbours.memory(
        (near.distance[:split], beyond.distance[:split]),
        (near.distance[split:], beyond.distance[split:]),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _spread(values: list[float]) -> float | None:
    """Standard deviation; None of a single value."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
