"""Gradient inversion, told in order: whose gradient is seen, what was done to it before, which
labels it gives away, the search for its images, and how like they are to the true ones."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.attacks.showing import as_pixels, thumbnails
from engine.audits.auditing import Subject, plain, subject_of, training_of, write
from engine.audits.likeness import matched, psnr, ssim
from engine.audits.matching import Guess, search
from engine.audits.observing import Lesson, Setting, labels_of, seen, shortened
from engine.audits.shadows import Recipe
from engine.audits.spec import Inversion
from engine.errors import BadInput, Cancelled
from engine.events import Event, Images, Note, Progress, Scalars, Table
from engine.models import load_model
from engine.privacy import split_noise
from engine.privacy.spec import DPSGD, Naive
from engine.store import Workspace
from engine.task import Steps, Summary
from engine.training.spec import SGD

if TYPE_CHECKING:
    from engine.audits.spec import Audit
    from engine.bench import Bench

FILE = "inversion.safetensors"
PERIOD = 0.25
"""Seconds between two pictures of the moment, at least."""
SHOWN = 32
"""Reconstructions that are shown, at most: of the first gradients."""
MOST_IMAGES = 128
MOST_STEPS = 256
"""Of a client's update that can be searched through."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One gradient, or the mean of several clients', as it is seen, and the images and labels that
    it was taken of, (N, C, H, W) and int64 (N,)."""

    setting: Setting
    gradient: list[Tensor]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Protection:
    """What is done to a gradient before it is seen. clip: norm that each image's is shortened to,
    or each client's update; `by_layer`: each layer's part of it to an equal share. noise: deviation
    on their sum, in multiples of the clip. clamp, jitter: a limit of each component of the whole
    and the deviation of noise on it, as `naive` has them."""

    clip: float = 0.0
    noise: float = 0.0
    clamp: float = 0.0
    jitter: float = 0.0
    by_layer: bool = False


@dataclass(slots=True)
class Found:
    """Of the gradients that were attacked: true images and labels, reconstructions in their order,
    and labels as they were read."""

    images: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    guesses: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, sight: Sight, guess: Guess, read: Tensor | None) -> None:
        self.images.append(sight.images.cpu())
        self.labels.append(sight.labels.cpu())
        found = guess.images.cpu()
        self.guesses.append(found[matched(found, sight.images.cpu())])
        self.losses.append(guess.loss)
        if read is not None:
            self.read.append(read)


def run_inversion(task: Audit, spec: Inversion, bench: Bench) -> Steps:
    """Raises BadInput where the run keeps nothing that could be attacked, or asks for labels that
    its gradient does not give. A cancel judges what has been found."""
    subject = yield from subject_of(task.model, bench)
    judge = load_model(task.judge, bench) if task.judge else None
    if judge is not None and (judge.card.shape, judge.card.classes) != (
        subject.card.shape,
        subject.card.classes,
    ):
        raise BadInput(f"the judge {task.judge!r} knows other images or classes than the model")
    if subject.run is not None and subject.run.kind == "federate":
        protection, count = _of_client(spec), 1
        sights = _updates(task.model, spec, subject, protection, bench)
        if subject.run.spec.get("privacy") and spec.clip is None:
            yield Note(
                "info",
                "the privacy of the run clips and adds noise at the server, after what is attacked "
                "here: a server sees every update as its client sent it. Give clip and "
                "noise_multiplier to see what clients would show that do both themselves.",
            )
    else:
        protection = yield from _protection(spec, subject, bench)
        sights = _gradients(spec, subject, protection, bench)
        count = spec.samples
    yield from _cautions(spec, subject)
    stage = Stage(spec, count)
    found, partial = Found(), False
    now: tuple[Sight, Guess, Tensor | None] | None = None
    try:
        for number, sight in enumerate(sights):
            labels = _labels(spec, sight, subject)
            yield from stage.begin(sight)
            for best in _attacked(spec, sight, labels, number, subject, bench):
                now = sight, best.guess, labels
                yield from stage.watch(number, best, bench)
            assert now is not None
            found.add(*now)
            yield from stage.end(found)
            now = None
    except Cancelled:
        partial = True
        if now is not None:
            found.add(*now)
    summary: Summary = {"method": spec.method, **plain({"partial": partial or None})}
    summary |= {"clip": protection.clip, "noise_multiplier": protection.noise}
    if not found.guesses:
        return summary
    images, guesses = torch.cat(found.images), torch.cat(found.guesses)
    truth = torch.cat(found.labels)
    likeness, structure = psnr(guesses, images), ssim(guesses, images)
    model = subject.module if judge is None else judge.module
    named, known = (_named(model, each, truth, bench) for each in (guesses, images))
    yield from _told(found, guesses, likeness, structure, named, subject)
    yield _kept(found, guesses, bench)
    summary |= {
        "psnr": float(likeness.mean()),
        "best_psnr": float(likeness.max()),
        "ssim": float(structure.mean()),
        "recognised": float(named.double().mean()),
        "recognised_originals": float(known.double().mean()),
        "images": len(images),
    }
    if found.read:
        right = sum(_common(r, t) for r, t in zip(found.read, found.labels, strict=True))
        summary["labels_right"] = right / len(images)
    return summary | plain({"data_changed": subject.changed or None})


# --- what is seen ---------------------------------------------------------------------------------


def _of_client(spec: Inversion) -> Protection:
    """What a client does to its update before it sends it: what the spec says. Raises BadInput."""
    clip, noise = spec.clip or 0.0, spec.noise_multiplier or 0.0
    _check(clip, noise)
    return Protection(clip, noise)


def _check(clip: float, noise: float) -> None:
    if noise and not clip:
        raise BadInput(
            "noise_multiplier: noise is in multiples of the norm that gradients are clipped to, "
            "and they are not; give clip, as 1.0"
        )


def _protection(
    spec: Inversion, subject: Subject, bench: Bench
) -> Generator[Event, None, Protection]:
    """As the run did, where the spec does not say otherwise. Raises BadInput."""
    train = training_of(subject)
    private = train.privacy if train is not None else None
    clip = noise = 0.0
    clamp = jitter = 0.0
    by_layer = False
    if isinstance(private, DPSGD):
        told = subject.run.summary if subject.run is not None else subject.card.metrics
        clip = private.max_grad_norm
        noise = float(told.get("noise_multiplier") or private.noise_multiplier or 0.0)
        by_layer = private.clipping == "per_layer" and spec.clip is None
        if private.clipping == "adaptive" and train is not None:
            noise = split_noise(noise, private.count_noise * train.batch_size)
            if spec.clip is None and spec.moment == "end":
                clip = yield from _last_norm(subject, clip, bench)
    elif isinstance(private, Naive):
        clamp, jitter = private.clip_value, private.noise
    clip = clip if spec.clip is None else spec.clip
    noise = noise if spec.noise_multiplier is None else spec.noise_multiplier
    _check(clip, noise)
    return Protection(clip, noise, clamp, jitter, by_layer)


def _last_norm(subject: Subject, first: float, bench: Bench) -> Generator[Event, None, float]:
    """What an adaptive norm had come to at the end of the run; `first` where nobody knows."""
    if subject.run is not None:
        series = Workspace(bench.workspace, create=False).find(subject.run.id).scalars()
        for name, (_, values) in series.items():
            if name.endswith("privacy/max_grad_norm") and values:
                return float(values[-1])
    yield Note(
        "warning",
        f"the clipping norm of the run adapted, and what it came to is not known: {first:g} is "
        "taken, with which it began",
    )
    return first


def _gradients(
    spec: Inversion, subject: Subject, protection: Protection, bench: Bench
) -> Iterator[Sight]:
    """Of `spec.samples` steps of a training, each on other images."""
    train = subject.data.train
    each = spec.batch * spec.aggregate
    needed = each * spec.samples
    if needed > len(train):
        raise BadInput(
            f"{spec.samples} gradients of {each} images need {needed}, and the training split has "
            f"{len(train)}; attack fewer"
        )
    model = subject.module if spec.moment == "end" else _initial(subject, bench)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    groups = (spec.batch,) * spec.aggregate
    layers = _layers(weights) if protection.by_layer else ()
    setting = Setting(model, weights, groups, protection.clip, layers=layers)
    order = torch.randperm(len(train), generator=bench.generator("images"))[:needed]
    for number, places in enumerate(order.split(each)):
        images, labels = train.batch(places)
        soft = nn.functional.one_hot(labels, len(subject.data.classes)).to(images)
        with torch.enable_grad():
            gradient = [g.detach() for g in seen(setting, images, soft, create_graph=False)]
        draw = bench.generator("noise", number)
        yield Sight(setting, _noised(gradient, protection, spec, draw), images, labels)


def _layers(names: Iterable[str]) -> tuple[int, ...]:
    """The layer of each parameter, as DP-SGD tells them apart: the module that has it."""
    owners = [name.rpartition(".")[0] for name in names]
    return tuple(sorted(set(owners)).index(owner) for owner in owners)


def _initial(subject: Subject, bench: Bench) -> nn.Module:
    """The model before the first step of its run. Raises BadInput if nobody knows it."""
    train = training_of(subject)
    known = train is not None and (subject.run is not None or "seed" in subject.card.training)
    if train is None or not known:
        raise BadInput(
            "the model does not say with which weights its training began; attack it with "
            'moment = "end"'
        )
    start = load_model(train.init, bench).module if train.init else None
    recipe = Recipe(train, subject.card.model, subject.data, start)
    return recipe.make(subject.data.train, bench, train.seed)


def _noised(
    gradient: list[Tensor], protection: Protection, spec: Inversion, draw: torch.Generator
) -> list[Tensor]:
    """Noise of every client on the sum of its images' gradients, or a clamp and noise as naive."""
    if protection.clamp:
        gradient = [g.clamp(-protection.clamp, protection.clamp) for g in gradient]
    size = protection.noise * protection.clip / spec.batch
    size = (size**2 + protection.jitter**2) ** 0.5 / spec.aggregate**0.5
    if not size:
        return gradient
    return [g + size * torch.randn(g.shape, generator=draw).to(g) for g in gradient]


def _updates(
    ref: str, spec: Inversion, subject: Subject, protection: Protection, bench: Bench
) -> Iterator[Sight]:
    """The captured update of a client, or the mean of several of one round, as they would be seen
    if each client had done to its own what `protection` says."""
    run = Workspace(bench.workspace, create=False).find(ref)
    files = sorted(run.folder.glob("updates/round-*-client-*.safetensors"), key=_round_and_client)
    if spec.client is not None:
        first = [f for f in files if _round_and_client(f)[1] == spec.client]
        files = first + [f for f in files if f not in first]
        if files and not first:
            raise BadInput(f"client {spec.client} sent nothing that run {ref!r} has captured")
    if not files and run.info().spec.get("secure_aggregation"):
        raise BadInput(
            f"run {ref!r} summed its updates securely: nobody has seen those of single clients. To "
            "see what a sum gives away, federate without that, with capture of some clients, and "
            "audit with as many of them in aggregate"
        )
    if not files:
        raise BadInput(
            f"run {ref!r} has captured no update; federate with capture = {{rounds = [1], clients "
            "= [0]}} and audit that run"
        )
    number = _round_and_client(files[0])[0]
    files = [f for f in files if _round_and_client(f)[0] == number][: spec.aggregate]
    if len(files) < spec.aggregate:
        raise BadInput(
            f"aggregate: round {number} has {len(files)} captured updates; capture as many "
            "clients as are to be seen together"
        )
    yield _of_clients([_opened(path) for path in files], subject, protection, bench)


def _round_and_client(path: Path) -> tuple[int, int]:
    _, number, _, client = path.stem.split("-")
    return int(number), int(client)


def _opened(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise BadInput(f"{path} is damaged: {error}") from None


def _of_clients(
    sent: list[tuple[dict[str, Tensor], Mapping[str, str]]],
    subject: Subject,
    protection: Protection,
    bench: Bench,
) -> Sight:
    """Raises BadInput where the updates are of more than can be searched through."""
    train = subject.data.train
    tensors, about = sent[0]
    model = copy.deepcopy(subject.module)
    before = {n.removeprefix("before."): t for n, t in tensors.items() if n.startswith("before.")}
    state = model.state_dict()
    model.load_state_dict({n: before.get(n, t).to(t) for n, t in state.items()})
    weights = {
        n: p.detach()
        for n, p in model.named_parameters()
        if p.requires_grad and f"update.{n}" in tensors
    }
    places = [part["places"].long() for part, _ in sent]
    groups = tuple(map(len, places))
    lesson = _lesson(about, max(groups))
    if sum(groups) > MOST_IMAGES or lesson.steps(max(groups)) > MOST_STEPS:
        raise BadInput(
            f"the update is of {sum(groups)} images in {lesson.steps(max(groups))} steps; up to "
            f"{MOST_IMAGES} in {MOST_STEPS} can be searched for. Federate with fewer images a "
            "client, or fewer local epochs"
        )
    setting = Setting(model, weights, groups, protection.clip, lesson)
    size = protection.noise * protection.clip
    seen_of_each = []
    for number, (part, _) in enumerate(sent):
        own = shortened([-part[f"update.{n}"].to(w) for n, w in weights.items()], setting)
        if size:
            draw = bench.generator("noise", number)
            own = [u + size * torch.randn(u.shape, generator=draw).to(u) for u in own]
        seen_of_each.append(own)
    gradient = [torch.stack(tensors).mean(0) for tensors in zip(*seen_of_each, strict=True)]
    images, labels = train.batch(torch.cat(places))
    return Sight(setting, gradient, images, labels)


def _lesson(about: Mapping[str, str], count: int) -> Lesson:
    """How the client trained. Raises BadInput for what cannot be computed backwards."""
    try:
        optimizer = json.loads(about["optimizer"])
        epochs, size, lr = int(about["epochs"]), int(about["batch_size"]), float(about["lr"])
    except (KeyError, ValueError) as error:
        raise BadInput(f"a captured update does not say how its client trained: {error}") from None
    if optimizer.get("kind") != SGD().kind:
        raise BadInput(
            f"the client trained by {optimizer.get('kind')}, whose steps say little of the size of "
            "a gradient; only updates of sgd are searched through"
        )
    return Lesson(
        epochs=epochs,
        batch_size=size or count,
        lr=lr,
        momentum=float(optimizer.get("momentum", 0.0)),
        nesterov=bool(optimizer.get("nesterov", False)),
        weight_decay=float(optimizer.get("weight_decay", 0.0)),
        share=float(about.get("share", 1.0)),
    )


def _cautions(spec: Inversion, subject: Subject) -> Iterator[Event]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    if any(isinstance(m, kinds) for m in subject.module.modules()):
        yield Note(
            "warning",
            "the model has batch normalisation or dropout: its gradient is taken without, by "
            "running statistics, which is easier to invert than the one of a training step",
        )
    if spec.method != "cosine" and any(
        isinstance(m, nn.ReLU | nn.LeakyReLU) for m in subject.module.modules()
    ):
        yield Note(
            "info",
            f"{spec.method} follows the slope of the gradient's distance, which activations with a "
            "kink hardly have; sigmoid or tanh show what it can do, and cosine needs neither",
        )


# --- the search -----------------------------------------------------------------------------------


def _labels(spec: Inversion, sight: Sight, subject: Subject) -> Tensor | None:
    """The labels that the search takes; None where it looks for them along."""
    if spec.method == "dlg":
        return None
    if spec.labels == "known":
        return sight.labels.cpu()
    try:
        return labels_of(sight.setting, sight.gradient, subject.data.shape)
    except LookupError:
        raise BadInput(
            "the model has no last linear layer, from whose gradient labels could be read; take "
            'labels = "known", or method = "dlg"'
        ) from None


@dataclass(frozen=True, slots=True)
class Best:
    """The best guess so far of a search, at step `step` of `steps`, restarts counted together."""

    guess: Guess
    step: int
    steps: int


def _attacked(
    spec: Inversion,
    sight: Sight,
    labels: Tensor | None,
    number: int,
    subject: Subject,
    bench: Bench,
) -> Iterator[Best]:
    best: Guess | None = None
    steps = spec.steps * spec.restarts
    known = labels.to(sight.images.device) if labels is not None else None
    for restart in range(spec.restarts):
        draw = bench.generator("start", number, restart)
        start = torch.rand(sight.images.shape, generator=draw).to(sight.images)
        guesses = search(
            spec, sight.setting, sight.gradient, known, len(subject.data.classes), start, draw
        )
        for step, guess in enumerate(guesses):
            if best is None or guess.loss < best.loss:
                best = guess
            yield Best(best, min(steps, restart * spec.steps + step + 1), steps)
    if best is None:  # no number from the first step on
        yield Best(Guess(start, float("inf")), steps, steps)


# --- what is shown --------------------------------------------------------------------------------


class Stage:
    """The reconstruction as it appears, beside the images that it is of."""

    def __init__(self, spec: Inversion, count: int) -> None:
        self._spec, self._count = spec, count
        self._originals: list[Tensor] = []
        self._labels: list[int] = []
        self._settled: list[Tensor] = []
        self._next = self._said = 0.0
        self._frame = 0

    def begin(self, sight: Sight) -> Iterator[Event]:
        self._sight = sight
        self._originals.append(sight.images.cpu())
        self._labels += sight.labels.tolist()
        captions = tuple({"label": label} for label in self._labels[:SHOWN])
        yield Images("original", self._pixels(torch.cat(self._originals)), captions, keep=True)
        self._next = 0.0

    def watch(self, number: int, best: Best, bench: Bench) -> Iterator[Event]:
        """Say how far it is: often, and show it now and then."""
        now = time.perf_counter()
        share = (number + best.step / best.steps) / self._count
        far = Progress(number, self._count, "gradients", share)
        if now < self._next and best.step < best.steps and not bench.single_step:
            if now - self._said >= bench.burst:
                self._said = now
                yield far
            return
        self._next = now + PERIOD
        self._said = now
        images, truth = best.guess.images.cpu(), self._sight.images.cpu()
        images = images[matched(images, truth)]
        likeness, structure = psnr(images, truth), ssim(images, truth)
        values = {"psnr": float(likeness.mean()), "ssim": float(structure.mean())}
        if best.guess.loss < float("inf"):
            values["loss"] = best.guess.loss
        step = number * best.steps + best.step
        yield Scalars(step, {f"inversion/{name}": value for name, value in values.items()})
        yield from self._shown([*self._settled, images], keep=False)
        yield far

    def end(self, found: Found) -> Iterator[Event]:
        self._settled = found.guesses
        yield from self._shown(self._settled, keep=True)
        yield Progress(len(found.guesses), self._count, "gradients")

    def _shown(self, parts: list[Tensor], *, keep: bool) -> Iterator[Event]:
        images = torch.cat(parts)
        truth = torch.cat(self._originals)[: len(images)]
        likeness, structure = psnr(images, truth).tolist(), ssim(images, truth).tolist()
        captions = tuple(
            {"label": label, "psnr": round(p, 2), "ssim": round(s, 3)}
            for label, p, s in zip(self._labels, likeness, structure, strict=False)
        )
        yield Images(
            "reconstruction", self._pixels(images), captions[:SHOWN], self._frame, keep=keep
        )
        self._frame += 1

    def _pixels(self, images: Tensor) -> Any:
        return as_pixels(thumbnails(images[:SHOWN]) * 255)


# --- what is told ---------------------------------------------------------------------------------


def _named(model: nn.Module, images: Tensor, labels: Tensor, bench: Bench) -> Tensor:
    """Which of the images the classifier gives their label, bool (N,)."""
    with torch.no_grad():
        said: Tensor = model(images.to(bench.device)).argmax(1).cpu()
    return said == labels


def _common(read: Tensor, labels: Tensor) -> int:
    """How many labels two lists share, each counted as often as it is in both."""
    most = int(max(read.max(), labels.max())) + 1
    counts = (torch.bincount(each, minlength=most) for each in (read, labels))
    first, second = counts
    return int(torch.minimum(first, second).sum())


def _told(
    found: Found,
    guesses: Tensor,
    likeness: Tensor,
    structure: Tensor,
    named: Tensor,
    subject: Subject,
) -> Generator[Event, None, None]:
    owners = [k for k, part in enumerate(found.labels) for _ in range(len(part))]
    names = subject.data.classes
    columns = ("gradient", "label", "psnr", "ssim", "recognised")
    rows = zip(
        owners,
        (names[label] for label in torch.cat(found.labels).tolist()),
        likeness.tolist(),
        structure.tolist(),
        named.tolist(),
        strict=True,
    )
    yield Table("reconstructions", columns, tuple(rows))


def _kept(found: Found, guesses: Tensor, bench: Bench) -> Event:
    content = safetensors.torch.save(
        {
            "images": torch.cat(found.images).contiguous(),
            "reconstructions": guesses.contiguous(),
            "labels": torch.cat(found.labels),
            "losses": torch.tensor(found.losses, dtype=torch.float64),
        }
    )
    return write(bench, "inversion", FILE, content)
