"""Shadow models: trained as the audited one was, on other draws of the same images.

Half of the judged samples are in the training set of each; shadows come in pairs, of which one has
those that the other has not, so that every sample is in exactly half of them (Carlini et al. 2022,
section 6). The rest of each training set, up to the size of the audited model's, is drawn from
images that nobody is asked about. Order, augmentation and initial weights are each shadow's own.

Where the model allows it, many are trained in one graph (`torch.func`): their weights are stacked,
and each step takes a batch of its own for every one of them. That saves the cost of many small
operations. Measured on one CPU thread, CPU seconds of the whole training on digits against one
after the other: 64 small MLPs .22, 16 of them .28, 16 strided .45, 16 cnn of width 8 .53, of width
16 .94, 8 transformers .68. But a convolution of many models is a grouped one, which a CPU is slow
at: on MNIST a step of strided took 1.1 to 1.6 times as long, of a cnn of width 16 1.5 times.
(Unfolded into products of matrices it took 1.2 to 5 times as long.) Hence `quicker_together`.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from engine.audits.scores import confidence
from engine.bench import Bench
from engine.data import Dataset, Split
from engine.errors import CrucibleError
from engine.events import Change, Event, Progress
from engine.models import build, channel_statistics
from engine.models.describing import describe_module
from engine.models.spec import ModelSpec, Module
from engine.models.trust import trusts
from engine.random import derive
from engine.training.adapting import adapt
from engine.training.augmentation import augment
from engine.training.loop import Trainer
from engine.training.optimizers import lr_factor, make_optimizer

if TYPE_CHECKING:
    from engine.training.spec import Train

TOGETHER = 64
"""Models of one graph, at most."""
LIGHT = 30_000_000
"""Operations of a step, as `describe` counts them, up to which a convolutional model is quicker in
one graph on a CPU."""
ASKED = 500
"""Images that a model answers together."""
PAUSE = 0.05
"""Seconds without a word, at most, where a batch allows."""
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.RNNBase)
"""Layers that do not go into one graph: they keep statistics, or have kernels of their own."""


class Joined(Split):
    """Training and test images as one: the places of the second follow those of the first."""

    def __init__(self, first: Split, second: Split) -> None:
        labels = torch.cat([first.labels, second.labels])
        ids = torch.cat([first.ids, second.ids])
        super().__init__(labels, ids, first.shape, first.device)
        self._parts = first, second

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.cpu()
        first, second = self._parts
        early = index < len(first)
        images = torch.empty(len(index), *self.shape, device=self.device)
        images[early.to(self.device)] = first.batch(index[early])[0]
        images[~early.to(self.device)] = second.batch(index[~early] - len(first))[0]
        return images, self.labels[index.to(self.device)]


class Drawn(Split):
    """Some images of another split."""

    def __init__(self, whole: Split, rows: Tensor) -> None:
        """rows: int64 (N,), places in `whole`, on the CPU."""
        labels = whole.labels[rows.to(whole.device)]
        super().__init__(labels, whole.ids[rows], whole.shape, whole.device)
        self._whole, self._rows = whole, rows

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self._whole.batch(self._rows[index.cpu()])


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom the shadows are asked about, and what each is trained on.

    pool: all images. targets: int64 (N,), places in it. included: bool (S, N), whom each shadow
    learns from. rows: int64 (S, T), its whole training set.
    """

    pool: Split
    targets: Tensor
    included: Tensor
    rows: Tensor


def plan(data: Dataset, targets: Tensor, shadows: int, seed: int) -> Plan:
    """targets: int64 (N,), places in the joined splits, as many of the one as of the other."""
    pool = Joined(data.train, data.test)
    draw = torch.Generator().manual_seed(derive(seed, "shadows"))
    size, half = len(data.train), len(targets) // 2
    rest = torch.ones(len(pool), dtype=torch.bool)
    rest[targets] = False
    others = rest.nonzero().flatten()
    included = torch.zeros(shadows, len(targets), dtype=torch.bool)
    rows = []
    for pair in range(0, shadows, 2):
        order = torch.randperm(len(targets), generator=draw)
        included[pair, order[:half]] = True
        included[pair + 1, order[half:]] = True
        for own in included[pair : pair + 2]:
            fill = others[torch.randperm(len(others), generator=draw)[: size - half]]
            rows.append(torch.cat([targets[own], fill]))
    return Plan(pool, targets, included, torch.stack(rows))


@dataclass(slots=True)
class Shadows:
    """What the shadows that are trained say: log odds of each target's label, (N,) a shadow, and
    which share of the targets that it did not see each gets right."""

    confidences: list[Tensor] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.confidences)

    def ask(self, model: nn.Module, plan: Plan) -> Generator[Event, None, None]:
        """Take up the answers of the next shadow."""
        said, right = yield from answers(model, plan.pool, plan.targets)
        outside = ~plan.included[len(self)]
        self.confidences.append(said)
        self.accuracies.append(float(right[outside].double().mean()))


def answers(
    model: nn.Module, split: Split, places: Tensor
) -> Generator[Event, None, tuple[Tensor, Tensor]]:
    """Log odds of the labels of the images at `places`, float64 (N,), and whether the model gets
    them right, bool (N,); on the CPU."""
    said: list[Tensor] = []
    right: list[Tensor] = []
    last = time.perf_counter()
    for _, images, labels in split.batches(places, ASKED):
        with torch.no_grad():
            logits = model(images).float()
            said.append(confidence(logits, labels).cpu())
            right.append((logits.argmax(1) == labels).cpu())
        if time.perf_counter() - last > PAUSE:
            yield Progress(sum(map(len, said)), len(places), "images")
            last = time.perf_counter()
    return torch.cat(said), torch.cat(right)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the shadows are trained: the audited run's own training, what its model is, and where it
    started, if it started from another."""

    train: Train
    model: ModelSpec
    data: Dataset
    start: nn.Module | None = None

    def make(self, split: Split, bench: Bench, seed: int) -> nn.Module:
        """The model before its first step, on the device of the bench, in eval mode."""
        if self.start is not None:
            model = copy.deepcopy(self.start)
        else:
            spec = self.train.privacy
            normalised = self.model.normalised and not (spec is not None and spec.private)
            mean, std = channel_statistics(split) if normalised else (None, None)
            model = build(
                self.model,
                self.data.shape,
                len(self.data.classes),
                mean=mean,
                std=std,
                generator_seed=derive(seed, "model"),
                trust=trusts(self.model, bench),
            )
        return model.to(bench.device).eval()


def train_shadows(
    recipe: Recipe, plan: Plan, bench: Bench, how: str, found: Shadows
) -> Generator[Event, None, None]:
    """Train every shadow of the plan, and ask it; `found` is filled as they come to their end.

    how: "auto", "batched" or "one_by_one"; what cannot be batched is trained one by one."""
    batched = can_batch(recipe) and (
        how == "batched" or (how == "auto" and quicker_together(recipe, bench))
    )
    numbers = torch.arange(len(plan.rows))
    for part in numbers.split(TOGETHER if batched else 1):
        seeds = [bench.derive("shadow", number) for number in part.tolist()]
        rows = plan.rows[part]
        train = _batched if batched else _alone
        done = len(found)
        for model in (yield from train(recipe, plan, rows, seeds, bench, done)):
            yield from found.ask(model, plan)
            yield Progress(len(found), len(plan.rows), "shadow models")


def can_batch(recipe: Recipe) -> bool:
    """Whether the training is a plain one, of a model without statistics of batches."""
    spec = recipe.train
    plain = not (spec.adversarial or spec.adapters or spec.trainable or spec.privacy)
    if (
        not plain
        or spec.changes
        or spec.bench.precision != "float32"
        or isinstance(recipe.model, Module)
    ):
        return False
    model = build(recipe.model, recipe.data.shape, len(recipe.data.classes))
    return not any(isinstance(layer, MIXING) for layer in model.modules())


def quicker_together(recipe: Recipe, bench: Bench) -> bool:
    """See the head of this module."""
    if bench.device.type != "cpu":
        return True
    model = build(recipe.model, recipe.data.shape, len(recipe.data.classes))
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return True
    flops = describe_module(model.eval(), recipe.data.shape).flops
    return flops * recipe.train.batch_size <= LIGHT


# --- one after the other --------------------------------------------------------------------------


class _Aside(Bench):
    """The surroundings of a shadow model, which is trained again rather than resumed."""

    def save_checkpoint(
        self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> None:
        return None


def _alone(
    recipe: Recipe, plan: Plan, rows: Tensor, seeds: list[int], bench: Bench, done: int
) -> Generator[Event, None, list[nn.Module]]:
    """By the training loop itself, so that whatever the audited run did is done again."""
    (seed,) = seeds
    spec = recipe.train.model_copy(update={"diagnostics": "off"})  # nobody sees it
    split = Drawn(plan.pool, rows[0])
    empty = Drawn(plan.pool, rows[0][:0])
    folder = bench.folder / "shadow"
    folder.mkdir(exist_ok=True)
    try:
        aside = _Aside(
            folder, bench.workspace, seed=seed, spec=bench.spec, trust_code=bench.trust_code
        )
        aside.changes = [Change(c.name, c.value, c.step) for c in spec.changes]
        model = recipe.make(split, aside, seed)
        model = adapt(model, spec.trainable, spec.adapters, aside.derive("adapters")).eval()
        data = recipe.data
        own = Dataset(split, empty, empty, data.classes, data.shape, data.fingerprint, data.marks)
        trainer = Trainer(spec, aside, own, model, recipe.start)
        for _ in trainer.begin():
            pass
        for event in trainer.train():
            if isinstance(event, Progress):
                share = (done + event.fraction) / len(plan.rows)
                yield Progress(done, len(plan.rows), "shadow models", share)
        return [trainer.result()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- all in one graph -----------------------------------------------------------------------------


def _batched(
    recipe: Recipe, plan: Plan, rows: Tensor, seeds: list[int], bench: Bench, done: int
) -> Generator[Event, None, list[nn.Module]]:
    """What `_alone` does, of as many models as there are rows, in one graph: same draws, same steps
    (dropout apart, which has no draws of a sample)."""
    spec = recipe.train
    models = [
        recipe.make(Drawn(plan.pool, own), bench, seed)
        for own, seed in zip(rows, seeds, strict=True)
    ]
    base = copy.deepcopy(models[0]).train()
    weights, buffers = stack_module_state(models)
    parameters = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in weights.items()}
    optimizer = make_optimizer(spec.optimizer, parameters.values(), bench.device)
    average = {n: p.detach().clone() for n, p in parameters.items()} if spec.ema else None

    def loss(own: Any, kept: Any, images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(base, (own, kept), (images,))
        return F.cross_entropy(logits, labels, label_smoothing=spec.label_smoothing)

    losses = torch.vmap(loss, randomness="different")
    steps = _steps(recipe, plan, rows, seeds)
    total = spec.epochs * _per_epoch(rows.shape[1], spec.batch_size)
    taken, over = 0, False
    while not over:
        begun = time.perf_counter()
        with bench.global_random(), torch.enable_grad():
            while True:
                batch = next(steps, None)
                if batch is None:
                    over = True
                    break
                images, labels, epoch = batch
                rate = spec.optimizer.lr * lr_factor(spec.schedule, epoch, spec.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                whole = losses(parameters, buffers, images, labels).sum()
                if spec.l1:
                    whole = whole + spec.l1 * sum(p.abs().sum() for p in parameters.values())
                whole.backward()
                _clip([p.grad for p in parameters.values() if p.grad is not None], recipe)
                optimizer.step()
                if average is not None:
                    decay = min(spec.ema, (1 + taken) / (10 + taken))
                    with torch.no_grad():
                        old: list[Tensor] = list(average.values())
                        new: list[Tensor] = list(parameters.values())
                        torch._foreach_lerp_(old, new, 1 - decay)
                taken += 1
                if time.perf_counter() - begun >= bench.burst:
                    break
        share = (done + taken / max(1, total) * len(rows)) / len(plan.rows)
        yield Progress(done, len(plan.rows), "shadow models", share)
    final = parameters if average is None else average
    if not all(bool(tensor.isfinite().all()) for tensor in final.values()):
        raise CrucibleError(
            "a shadow model's weights are no finite numbers any more: the training of the audited "
            "run does not hold on every draw of its images. Fewer epochs may."
        )
    for number, model in enumerate(models):
        own = {name: tensor.detach()[number] for name, tensor in final.items()}
        model.load_state_dict({**model.state_dict(), **own})
        model.eval()
    return models


def _per_epoch(count: int, size: int) -> int:
    """As the training loop counts: a rest of one image is left out."""
    return max(1, count // size + (count % size > 1))


def _steps(
    recipe: Recipe, plan: Plan, rows: Tensor, seeds: list[int]
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """The batches of all models, (M, B, C, H, W), their labels (M, B), and where in the run."""
    spec = recipe.train
    count, size = rows.shape[1], spec.batch_size
    batches = _per_epoch(count, size)
    for epoch in range(spec.epochs):
        orders = [
            torch.randperm(
                count, generator=torch.Generator().manual_seed(derive(seed, "order", epoch))
            )
            for seed in seeds
        ]
        places = rows.gather(1, torch.stack(orders))[:, : batches * size]
        for number, part in enumerate(places.split(size, dim=1)):
            images, labels = plan.pool.batch(part.flatten())
            shaped = images.view(*part.shape, *images.shape[1:])
            if spec.augmentation != type(spec.augmentation)():
                shaped = torch.stack(
                    [
                        augment(
                            own,
                            plan.pool.ids[where],
                            spec.augmentation,
                            derive(seed, "augment", epoch),
                        )
                        for own, where, seed in zip(shaped, part, seeds, strict=True)
                    ]
                )
            yield shaped, labels.view(part.shape), epoch + number / batches


def _clip(gradients: list[Tensor], recipe: Recipe) -> None:
    """Each model's gradients, as the training loop clips those of one."""
    clip = recipe.train.clip
    if clip.value:
        for gradient in gradients:
            gradient.clamp_(-clip.value, clip.value)
    if clip.norm:
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
        scale = (clip.norm / (squares.sum(0).sqrt() + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
