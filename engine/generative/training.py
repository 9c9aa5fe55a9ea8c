"""The gan run: from a Gan spec to a generator's file, one stream of events.

An iteration is made of half steps, of the critic and then of the generator, which are taken in
bursts of at most `bench.burst` seconds; only inside one are the networks in train mode. Where a
burst ends has no influence on the result: draws and rates are functions of the place in the run,
and the rest is in the checkpoint. Several seeds are one graph (see `engine.generative.layers`): the
sum of their losses has each network's own gradient.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.device import versions
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Saved, Scalars
from engine.files import sha256_of
from engine.generative import augmenting
from engine.generative.adam import Adam
from engine.generative.draws import Draws
from engine.generative.layers import draw_from, of_each, unstacked
from engine.generative.losses import critic_loss, generator_loss, looks_at_real
from engine.generative.networks import POINT, Critic, Generator, make_critic, make_generator
from engine.generative.penalties import gradient_penalty, squared_gradients
from engine.generative.source import Source, load_source
from engine.generative.spec.base import GanGenerator
from engine.generative.spec.gan import Gan
from engine.generative.spec.losses import Wasserstein, WassersteinGP
from engine.generative.watching import Watcher
from engine.models import NetworkCard, save_model
from engine.models.building import seeded
from engine.models.card import told
from engine.store.checkpoints import under
from engine.task import Steps, Summary

SAID = 2000
"""Iterations of a run that are said, at most; all of them while somebody single-steps."""

FIGURES = ("loss", "gradient_norm", "real", "fake")
"""What is said of a step; of the generator's only the first two."""


def run_gan(spec: Gan, bench: Bench) -> Steps:
    """Train as `spec` says; see the summary's help. Cancelled, it keeps the generators as they are.

    Half steps run in bf16 where the bench says so (penalties between samples, looks and the moving
    average in float32), and convolutions lie channels last. Raises BadInput if networks and data do
    not fit or the bench asks to compile, CrucibleError when a loss is not a number.
    """
    if bench.spec.compile:
        raise BadInput(
            "bench.compile is not for a gan: what is compiled has no gradients of gradients, which "
            "penalties need, and live values would have it compiled anew; set it to false"
        )
    begun, cpu = time.perf_counter(), time.process_time()
    source = yield from load_source(spec, bench)
    trainer = Trainer(spec, bench, source)
    if bench.resume is not None:
        trainer.restore(bench.resume.tensors, bench.resume.values["task"])
        yield Note("info", f"resumed at iteration {trainer.at.iteration}")
    summary: Summary = {}
    try:
        yield from trainer.watcher.begin()
        yield from trainer.train()
        summary = yield from trainer.watcher.judge()
    except Cancelled:
        yield from trainer.say()
        trainer.checkpoint()
        summary["partial"] = True
    summary = {
        "iterations": trainer.at.iteration,
        "seeds": spec.seeds,
        "parameters": sum(p.numel() for p in trainer.generator.parameters()) // spec.seeds,
        "critic_parameters": sum(p.numel() for p in trainer.critic.parameters()) // spec.seeds,
        **summary,
        "troubles": trainer.watcher.troubles(),
        "troubles_at_end": trainer.watcher.troubles(now=True),
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    for index in range(spec.seeds):
        name = f"generator_{index}" if index else "model"
        path = bench.folder / f"{name}.safetensors"
        metrics = {key: value for key, value in summary.items() if key != "by_seed"}
        state = trainer.state_of(index)
        card = save_model(path, state, _card(spec, bench, source, {} if index else metrics))
        if not index:
            summary["weights_sha256"] = card.weights_sha256
        with contextlib.suppress(Cancelled):  # whoever stops it now still gets the whole summary
            yield Saved(name, path.name, path.stat().st_size, sha256_of(path))
    return summary


def _card(spec: Gan, bench: Bench, source: Source, metrics: Mapping[str, Any]) -> NetworkCard:
    conditional = spec.conditional != "none"
    return NetworkCard(
        model=GanGenerator(generator=spec.generator, latent=spec.latent, conditional=conditional),
        data=spec.data,
        shape=source.shape,
        classes=source.classes if conditional else (),
        data_fingerprint=source.fingerprint,
        learnt=(source.sketch,) if source.sketch else (),
        training=told(spec, private=False, changes=bench.changes),
        metrics=dict(metrics),
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@dataclass(slots=True)
class Place:
    """Where a run is: `iteration` whole ones, of the next one `half` half steps; the steps that
    each network has taken in all."""

    iteration: int = 0
    half: int = 0
    critic_steps: int = 0
    generator_steps: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a half step left to be said: names, and their values (names,) or (names, S)."""

    step: int
    network: str
    names: tuple[str, ...]
    values: Tensor


class Trainer:
    """Generators and critics at their game. Between two events all are in eval mode."""

    def __init__(self, spec: Gan, bench: Bench, source: Source) -> None:
        self.spec, self.bench, self.source = spec, bench, source
        self.at = Place()
        told = len(source.classes) if spec.conditional != "none" else 0
        self.generator, self.critic, self.like = _networks(spec, bench, source, told)
        self.average = copy.deepcopy(self.generator) if spec.ema else None
        self.draws = Draws(bench.seed, spec.seeds, spec.latent, spec.batch_size, bench.device, told)
        self._weights: dict[str, list[Tensor]] = {
            "generator": list(self.generator.parameters()),
            "critic": list(self.critic.parameters()),
        }
        self._averaged: list[Tensor] = (
            [] if self.average is None else list(self.average.parameters())
        )
        betas = (spec.rates.beta1, spec.rates.beta2)
        self.adams = {name: Adam(weights, betas) for name, weights in self._weights.items()}
        self.watcher = Watcher(self)
        self._axis = -2 if source.shape == POINT else -4
        self._sample = (2,) if source.shape == POINT else source.shape
        self._dropout = any(m.__class__.__name__ == "Dropout" for m in self.critic.modules())
        self._mixes = self.critic.mixes
        self._modules = [*self.generator.modules(), *self.critic.modules()]
        self._buffers = _moving(self.generator, self.average)
        self._said_every = max(1, math.ceil(spec.iterations / SAID))
        self._live_of, self._lives = 0, dict[str, float]()
        self._seen: list[Said] = []
        self._unsaid: deque[Event] = deque()

    @property
    def present(self) -> Generator:
        """The generators as they would be handed over now."""
        return self.average if self.average is not None else self.generator

    def state_of(self, index: int) -> dict[str, Tensor]:
        """The weights of one of them, as of a single generator."""
        return unstacked(self.present.state_dict(), self.spec.seeds, index, self.like)

    def alone(self, index: int) -> Generator:
        """One of the generators by itself, as it would be handed over now."""
        spec, source = self.spec, self.source
        width = spec.latent.width
        with seeded(0):  # it is filled
            network = make_generator(spec.generator, source.shape, width, self.draws.classes)
        network.load_state_dict(self.state_of(index))
        return network.to(self.bench.device).eval()

    # --- the run ------------------------------------------------------------------------------

    def train(self) -> Iterator[Event]:
        """Every iteration that is left."""
        spec, at = self.spec, self.at
        while at.iteration < spec.iterations:
            begun = time.perf_counter()
            with self._training():
                while True:
                    self._half()
                    if at.half == 0 and self.watcher.due(at.iteration):
                        break
                    if at.iteration == spec.iterations:
                        break
                    spent = time.perf_counter() - begun
                    if self.bench.single_step or (spent >= self.bench.burst and not at.half):
                        break
                    if spent >= 2 * self.bench.burst:  # half steps that are long by themselves
                        break
            self._note()
            yield from self.say()
            yield Progress(at.iteration, spec.iterations, "iterations")
            if self.bench.checkpoint_due():
                self.checkpoint()

    def _half(self) -> None:
        """The half step that is next."""
        step = self.at.iteration + 1
        if step != self._live_of:
            self._live_of, self._lives = step, self._live(step)
        live = self._lives
        critic_steps, generator_steps = int(live["critic_steps"]), int(live["generator_steps"])
        if self.at.half < critic_steps:
            self._critic_step(live, step, last=self.at.half == critic_steps - 1)
            self.at.critic_steps += 1
        elif self.at.half < critic_steps + generator_steps:
            last = self.at.half == critic_steps + generator_steps - 1
            self._generator_step(live, step, last=last)
            self.at.generator_steps += 1
        self.at.half += 1
        if self.at.half >= critic_steps + generator_steps:
            self.at.half = 0
            self.at.iteration = step

    def _live(self, step: int) -> dict[str, float]:
        """What holds for an iteration: what a person set, and the schedules."""
        spec, control = self.spec, self.bench.control
        share = (step - 1) / spec.iterations
        rates, steadying = spec.rates, spec.steadying
        factor = 1.0
        if rates.schedule == "cosine":
            factor = rates.floor + (1 - rates.floor) * (1 + math.cos(math.pi * share)) / 2
        noise = control("instance_noise", steadying.instance_noise, step)
        if noise > steadying.noise_end:
            # What a person sets begins to fall where it is set.
            since = (_since(self.bench, "instance_noise", step) - 1) / spec.iterations
            fallen = min(1.0, (share - since) / (steadying.noise_share * (1 - since)))
            noise *= (steadying.noise_end / noise) ** fallen
        found = {
            "generator_lr": factor * control("generator_lr", rates.generator_lr, step),
            "critic_lr": factor * control("critic_lr", rates.critic_lr, step),
            "critic_steps": control("critic_steps", spec.critic_steps, step),
            "generator_steps": control("generator_steps", spec.generator_steps, step),
            "r1": control("r1", steadying.r1, step),
            "r2": control("r2", steadying.r2, step),
            "noise": noise,
        }
        if isinstance(spec.loss, WassersteinGP):
            weight = spec.loss.gradient_penalty
            found["gradient_penalty"] = control("gradient_penalty", weight, step)
        return found

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        with torch.enable_grad():
            self._set_mode(True)
            try:
                yield
            finally:
                self._set_mode(False)

    def _set_mode(self, training: bool) -> None:
        for module in self._modules:  # what `train` does, without its price at every burst
            object.__setattr__(module, "training", training)

    # --- half steps ------------------------------------------------------------------------------

    def _critic_step(self, live: Mapping[str, float], step: int, last: bool) -> None:
        spec, count = self.spec, self.at.critic_steps
        real = self.source.batch(self.draws, "critic", count)
        labels = self.draws.labels("critic", count)
        with torch.no_grad(), self.bench.autocast():
            fake = self.generator.made(self.draws.latents("critic", count), labels)
        samples = self._shown("critic", count, torch.cat([real.samples, fake], self._axis), live)
        both = None if labels is None else torch.cat([real.labels, labels], -1)
        penalised = (live["r1"] or live["r2"]) and count % spec.steadying.penalty_every == 0
        if penalised:
            samples = samples.detach().requires_grad_()
        with self.bench.autocast():
            outputs = self._judged("critic", count, samples, both).float()
        on_real, on_fake = outputs.chunk(2, -1)
        loss = critic_loss(spec.loss, on_real, on_fake, self._smoothing)
        total = loss
        if penalised:
            squares = squared_gradients(outputs, samples)
            at_real, at_fake = squares.chunk(2, -1)
            weight = 0.5 * spec.steadying.penalty_every
            total = total + weight * (live["r1"] * at_real.mean(-1) + live["r2"] * at_fake.mean(-1))
        if live.get("gradient_penalty"):
            at_first, at_second = samples.detach().chunk(2, self._axis)
            share = self.draws.shares("critic", count)
            told = None if labels is None else real.labels
            found = gradient_penalty(
                lambda between: self.critic(between, told), at_first, at_second, share
            )
            total = total + live["gradient_penalty"] * found
        self._step("critic", total, live["critic_lr"], step, last, (on_real, on_fake, loss))
        if isinstance(spec.loss, Wasserstein):
            with torch.no_grad():
                torch._foreach_clamp_min_(self._weights["critic"], -spec.loss.clip)
                torch._foreach_clamp_max_(self._weights["critic"], spec.loss.clip)

    def _generator_step(self, live: Mapping[str, float], step: int, last: bool) -> None:
        spec, count = self.spec, self.at.generator_steps
        labels = self.draws.labels("generator", count)
        with self.bench.autocast():
            fake = self.generator.made(self.draws.latents("generator", count), labels)
        if looks_at_real(spec.loss):
            real = self.source.batch(self.draws, "generator", count)
            samples = torch.cat([real.samples, fake], self._axis)
            labels = None if labels is None else torch.cat([real.labels, labels], -1)
        else:
            samples = fake
        samples = self._shown("generator", count, samples, live)
        with self.bench.autocast():
            outputs = self._judged("generator", count, samples, labels).float()
        if looks_at_real(spec.loss):
            on_real, on_fake = outputs.chunk(2, -1)
            loss = generator_loss(spec.loss, on_fake, on_real)
        else:
            loss = generator_loss(spec.loss, outputs, None)
        self._step("generator", loss, live["generator_lr"], step, last, (loss,))
        if self.average is not None:
            decay = min(spec.ema, (1 + count) / (10 + count))
            with torch.no_grad():
                torch._foreach_lerp_(self._averaged, self._weights["generator"], 1 - decay)
                for mine, its in self._buffers:
                    mine.copy_(its)

    def _shown(
        self, network: str, count: int, samples: Tensor, live: Mapping[str, float]
    ) -> Tensor:
        """Samples as the critic sees them: augmented, and noisy."""
        spec = self.spec.steadying
        batches = samples.shape[self._axis] // self.spec.batch_size
        if spec.augment:
            drawn = [
                augmenting.draws(batches * self.spec.batch_size, g)
                for g in self.draws.generators(f"{network}/augment", count)
            ]
            each = drawn[0] if len(drawn) == 1 else torch.stack(drawn)
            samples = augmenting.changed(samples, spec.augment, each)
        if live["noise"]:
            noise = self.draws.noise(network, count, self._sample, batches)
            samples = torch.add(samples, noise, alpha=live["noise"])
        return samples

    def _judged(self, network: str, count: int, samples: Tensor, labels: Tensor | None) -> Tensor:
        """The critic's outputs (S, n * B); with batch statistics each batch by itself."""
        if self._dropout:
            draw_from(self.critic, self.draws.generators(f"{network}/dropout", count))
        batches = samples.shape[self._axis] // self.spec.batch_size
        if batches == 1 or not self._mixes:
            out: Tensor = self.critic(samples, labels)
            return out
        told = [None] * batches if labels is None else labels.chunk(batches, -1)
        parts = samples.chunk(batches, self._axis)
        return torch.cat(
            [self.critic(part, own) for part, own in zip(parts, told, strict=True)], -1
        )

    def _step(
        self,
        network: str,
        total: Tensor,
        rate: float,
        step: int,
        last: bool,
        seen: tuple[Tensor, ...],
    ) -> None:
        """Differentiate, clip, step, and note what is to be said."""
        summed = total.sum() if total.dim() else total
        if summed.device.type == "cpu" and not math.isfinite(summed.item()):
            raise CrucibleError(self._not_finite(network, step, total))
        gradients = torch.autograd.grad(summed, self._weights[network], allow_unused=True)
        says = self.bench.single_step or (last and step % self._said_every == 0)
        norms = None
        if says or self.spec.rates.clip:
            norms = self._norms([g for g in gradients if g is not None])
        if norms is not None and self.spec.rates.clip:
            self._clip(gradients, norms)
        self.adams[network].step(gradients, rate)
        if says and norms is not None:
            self._see(network, step, norms, seen)

    def _norms(self, gradients: list[Tensor]) -> Tensor:
        """Length of each network's gradient, () or (S,)."""
        if self.spec.seeds == 1:
            whole: Tensor = torch.linalg.vector_norm(torch.stack([*torch._foreach_norm(gradients)]))
            return whole
        seeds = self.spec.seeds
        squares = [of_each(each, seeds).square().sum(1) for each in gradients]
        return torch.stack(squares).sum(0).sqrt()

    def _clip(self, gradients: Sequence[Tensor | None], norms: Tensor) -> None:
        """Scale each network's gradient down to the allowed length."""
        factor = (self.spec.rates.clip / (norms + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            if gradient is None:
                continue
            if self.spec.seeds == 1:
                gradient.mul_(factor)
            else:
                own = gradient.unflatten(0, (self.spec.seeds, -1))
                own.mul_(factor.view(-1, *[1] * gradient.dim()))

    @property
    def _smoothing(self) -> float:
        return self.spec.steadying.label_smoothing if self.spec.loss.probability else 0.0

    # --- what is said -----------------------------------------------------------------------------

    def _see(self, network: str, step: int, norms: Tensor, seen: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            if network == "critic":
                real, fake, loss = seen
                if self.spec.loss.probability:
                    real, fake = real.sigmoid(), fake.sigmoid()
                values = torch.stack([loss, norms, real.mean(-1), fake.mean(-1)])
            else:
                values = torch.stack([seen[0], norms])
        self._seen.append(Said(step, network, FIGURES[: len(values)], values.detach()))

    def _note(self) -> None:
        """Turn what the half steps of a burst left into events; and look, where it is due."""
        seen, self._seen = self._seen, []
        told: dict[int, dict[str, float]] = {}
        halves: list[tuple[int, dict[str, float]]] = []
        for said, rows in zip(seen, _numbers(seen), strict=True):
            values: dict[str, float] = {}
            for name, each in zip(said.names, rows, strict=True):
                for index, value in enumerate(each):
                    if not math.isfinite(value):
                        raise CrucibleError(self._not_finite(said.network, said.step, None))
                    values[f"{_group(said.network, index)}/{name}"] = value
            self.watcher.hear(said.step, values)
            if self.bench.single_step:
                halves.append((said.step, values))
            else:
                told.setdefault(said.step, {}).update(values)
        lines = halves or list(told.items())
        looked = self.watcher.look()
        for event in looked:
            if isinstance(event, Scalars) and lines and lines[-1][0] == event.step:
                lines[-1][1].update(event.values)
            elif isinstance(event, Scalars):
                lines.append((event.step, dict(event.values)))
            else:
                self._unsaid.append(event)
        self._unsaid.extend(Scalars(step, values) for step, values in lines)

    def say(self) -> Iterator[Event]:
        """What steps that were taken left to be said; a cancel in the middle leaves the rest."""
        while self._unsaid:
            yield self._unsaid.popleft()

    def _not_finite(self, network: str, step: int, total: Tensor | None) -> str:
        """What to say of a loss that is no number; looks for the layer it comes from."""
        where = ""
        for name, module in (("generator", self.generator), ("critic", self.critic)):
            for layer, parameter in module.named_parameters():
                if not bool(parameter.isfinite().all()):
                    where = f"the {name}, whose weights {layer} are no numbers any more"
                    break
            if where:
                break
        if not where:
            sizes = {
                name: max(float(p.detach().abs().max()) for p in weights)
                for name, weights in self._weights.items()
            }
            largest = max(sizes, key=lambda name: sizes[name])
            where = f"the {largest}, whose weights have grown to {sizes[largest]:.1g}"
        whose = ""
        if total is not None and total.dim():
            broken = (~total.detach().isfinite()).nonzero().flatten().tolist()
            whose = f" of seed {self.draws.seeds[broken[0]]}"
        return (
            f"the loss of the {network}{whose} is not a finite number in iteration {step}; it "
            f"begins in {where}. A lower learning rate (generator_lr, critic_lr), gradient "
            "clipping (rates.clip) or another loss helps."
        )

    # --- going on ---------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Keep everything that the next half step depends on."""
        tensors: dict[str, Tensor] = {}
        for name, network in self._kept().items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, adam in self.adams.items():
            tensors |= {f"{name}_adam.{key}": value for key, value in adam.tensors().items()}
        tensors |= {f"watched.{key}": value for key, value in self.watcher.tensors().items()}
        values: dict[str, Any] = {name: getattr(self.at, name) for name in Place.__slots__}
        values["fingerprint"] = self.source.fingerprint
        values["watched"] = self.watcher.state()
        self.bench.save_checkpoint(self.at.iteration, tensors, values)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a run where `checkpoint` left it. Raises BadInput if its data has changed."""
        values = dict(values)
        if values.pop("fingerprint") != self.source.fingerprint:
            raise BadInput(
                "the data has changed since the run began. Put it back as it was and resume again, "
                "or start a new run."
            )
        self.watcher.restore(under(tensors, "watched."), values.pop("watched"))
        self.at = Place(**values)
        for name, network in self._kept().items():
            network.load_state_dict(under(tensors, f"{name}."))
        for name, adam in self.adams.items():
            adam.load(under(tensors, f"{name}_adam."))
        if self.at.half:  # a change of now holds from the next iteration on: this one has begun
            self._live(self.at.iteration + 1)

    def _kept(self) -> dict[str, nn.Module]:
        kept: dict[str, nn.Module] = {"generator": self.generator, "critic": self.critic}
        if self.average is not None:
            kept["average"] = self.average
        return kept


def _networks(
    spec: Gan, bench: Bench, source: Source, told: int
) -> tuple[Generator, Critic, dict[str, Tensor]]:
    """Generators and critics in eval mode on the device, and the state dict of a single generator.

    The first weights of each seed are those that it has alone."""
    width = spec.latent.width

    def generator(seeds: int) -> Generator:
        made = make_generator(spec.generator, source.shape, width, told, seeds)
        if source.points is not None:
            made.fit(source.points.centre, source.points.unit)
        return made

    def critic(seeds: int) -> Critic:
        return make_critic(spec.critic, source.shape, told, spec.conditional, seeds)

    generators = _side_by_side(generator, "generator", spec, bench)
    critics = _side_by_side(critic, "critic", spec, bench)
    for name, network in (("generator", generators), ("critic", critics)):
        if not any(p.requires_grad for p in network.parameters()):
            raise BadInput(
                f"the {name} has no parameters, so there is nothing that it could learn; choose "
                "another one"
            )
    with torch.device("meta"):
        like = dict(generator(1).state_dict())
    layout = torch.channels_last if bench.spec.channels_last else torch.contiguous_format
    for network in (generators, critics):
        network.to(bench.device, memory_format=layout).eval()
    return generators, critics, like


def _side_by_side(make: Callable[[int], Any], name: str, spec: Gan, bench: Bench) -> Any:
    from engine.generative.networks import side_by_side
    from engine.random import derive

    single = []
    for seed in range(bench.seed, bench.seed + spec.seeds):
        with seeded(derive(seed, name)):
            single.append(make(1))
    with seeded(0):
        return side_by_side(single, make(spec.seeds)) if spec.seeds > 1 else single[0]


def _moving(generator: Generator, average: Generator | None) -> list[tuple[Tensor, Tensor]]:
    """The buffers that change as the generator learns: the average's, and its own."""
    if average is None:
        return []
    moving = {
        f"{name}.{key}"
        for name, module in generator.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for key, _ in module.named_buffers()
    }
    mine, its = dict(average.named_buffers()), dict(generator.named_buffers())
    return [(mine[name], its[name]) for name in sorted(moving)]


def _since(bench: Bench, name: str, step: int) -> int:
    """From which step on a live value is what it is at `step`."""
    held = (c.step for c in reversed(bench.changes) if c.name == name and c.step <= step)
    return next(held, 1)


def _group(network: str, index: int) -> str:
    return f"{network}@{index}" if index else network


def _numbers(seen: list[Said]) -> list[list[list[float]]]:
    """Of each half step its values, by name and seed; read from the device at once."""
    if not seen:
        return []
    flat = torch.cat([said.values.reshape(-1) for said in seen]).tolist()
    found, start = [], 0
    for said in seen:
        rows, each = len(said.names), said.values.numel() // len(said.names)
        found.append([flat[start + r * each : start + (r + 1) * each] for r in range(rows)])
        start += rows * each
    return found
