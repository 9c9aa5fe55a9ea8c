"""The AdvGAN task: from its spec to the file of a generator, one stream of events.

Each step asks the victim once for a batch of changed images, and takes the gradient through it to
the generator. The victim is left as it was: in eval mode, without gradients of its own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.running import Chosen, choose
from engine.attacks.showing import as_pixels, thumbnails
from engine.attacks.tally import wilson
from engine.device import versions
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Images, Note, Progress, Saved, Scalars
from engine.files import sha256_of
from engine.generative.advgan.networks import Perturber, changed, critic
from engine.generative.autoencoding.learning import seeded_weights
from engine.generative.autoencoding.showing import every
from engine.generative.spec.advgan import TrainAdvGan
from engine.models import NetworkCard, load_model, save_model
from engine.models.card import told
from engine.models.transforms import warning
from engine.store.checkpoints import under
from engine.task import Steps, Summary
from engine.training.optimizers import load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from engine.bench import Bench

BETAS = (0.5, 0.99)
"""Of both Adams."""

JUDGED = 500
"""Images that are judged in one pass."""

PAUSE = 0.05
"""Seconds without a word, at most, where a batch allows."""

SHOWN = 16
"""Test images that are shown with what becomes of them."""


def run_advgan(spec: TrainAdvGan, bench: Bench) -> Steps:
    """Train as `spec` says. Cancelled, it keeps the generator as it is.

    Raises BadInput if model, data and target do not fit; CrucibleError when a loss is not a number.
    """
    chosen = yield from choose(spec.model, spec.data, 0, bench)
    card = load_model(spec.model, bench).card
    classes = len(chosen.data.classes)
    if spec.target is not None and spec.target >= classes:
        raise BadInput(f"target: there is no class {spec.target}; expected 0 to {classes - 1}")
    if len(chosen.data.train) < 2:
        raise BadInput(
            f"the training split holds {len(chosen.data.train)} images; expected at least 2"
        )
    if (hiding := warning(chosen.module)) and bench.resume is None:
        yield Note("warning", hiding)
    forger = _Forger(spec, bench, chosen)
    if bench.resume is not None:
        forger.restore(bench.resume.tensors, bench.resume.values["task"])
        yield Note("info", f"resumed at step {forger.step}")
    judged: Summary = {"partial": True}
    try:
        yield from forger.train()
        judged = yield from _judged(spec, forger.generator, chosen)
    except Cancelled:
        yield from forger.say()
        forger.checkpoint()
    summary: Summary = {
        **judged,
        "epochs": -(-forger.step // forger.per_epoch),
        "steps": forger.step,
        "parameters": sum(p.numel() for p in forger.generator.parameters()),
        "seconds": forger.seconds,
    }
    if chosen.changed:
        summary["data_changed"] = True
    made = NetworkCard(
        model=spec.saved,
        data=spec.data or card.data,
        shape=chosen.data.shape,
        classes=chosen.data.classes,
        data_fingerprint=chosen.data.fingerprint,
        learnt=tuple(dict.fromkeys((*card.learnt, chosen.data.sketch))),
        withheld=card.withheld,
        training=told(spec, private=card.withheld, changes=bench.changes),
        metrics=dict(summary),
        versions=versions(),
        run=bench.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = bench.folder / "model.safetensors"
    summary["weights_sha256"] = save_model(path, forger.generator, made).weights_sha256
    with contextlib.suppress(Cancelled):  # whoever stops it now still gets the whole summary
        yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    return summary


class _Forger:
    """A generator being trained. Between two steps it is in eval mode."""

    def __init__(self, spec: TrainAdvGan, bench: Bench, chosen: Chosen) -> None:
        self.spec, self.bench, self.data = spec, bench, chosen.data
        self.victim = chosen.module.requires_grad_(False)
        with seeded_weights(bench.derive("weights")):
            self.generator: Perturber = spec.saved.network(chosen.data.shape, 0)
            self.critic = critic(chosen.data.shape, spec.width)
        self.generator.to(bench.device).eval()
        self.critic.to(bench.device)
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=spec.lr, betas=BETAS, fused=True)
            for name, net in (("generator", self.generator), ("critic", self.critic))
        }
        count = len(self.data.train)
        self.per_epoch = max(1, count // spec.batch_size + (count % spec.batch_size > 1))
        self.total = self.per_epoch * spec.epochs
        self.step = 0
        self.seconds = 0.0
        values = math.prod(self.data.shape)
        self.bound = spec.eps / 2 * math.sqrt(values) if spec.bound is None else spec.bound
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))
        self._unsaid: deque[Event] = deque()
        self._every = every(self.total)
        places = chosen.order[:SHOWN]
        self._shown, self._labels = self.data.test.batch(places)

    # --- the run ----------------------------------------------------------------------------------

    def train(self) -> Generator[Event, None, None]:
        """Every step that is left."""
        while self.step < self.total:
            begun, images = time.perf_counter(), 0
            with self.bench.global_random(), torch.enable_grad():
                while True:
                    said, count = self._take()
                    images += count
                    self._unsaid.append(Scalars(self.step, said))
                    late = time.perf_counter() - begun >= self.bench.burst
                    if late or self.step % self._every == 0 or self.step == self.total:
                        break
            took = time.perf_counter() - begun
            self.seconds += took
            self._unsaid.append(Scalars(self.step, {"train/images_per_second": images / took}))
            if self.step % self._every == 0 or self.step == self.total:
                self._unsaid.extend(self._frame())
            yield from self.say()
            yield Progress(self.step, self.total, "steps")
            if self.bench.checkpoint_due():
                self.checkpoint()

    def say(self) -> Iterator[Event]:
        """What steps that were taken left to be said; a cancel in the middle leaves the rest."""
        while self._unsaid:
            yield self._unsaid.popleft()

    def _take(self) -> tuple[dict[str, float], int]:
        """One step of generator and critic; what is to be said of it, and how many images it
        took."""
        spec, number = self.spec, self.step + 1
        images, labels = self._batch()
        rate = self.bench.control("lr", spec.lr, number)
        rate *= (1 + math.cos(math.pi * self.step / self.total)) / 2
        with self.bench.autocast():
            change = self.generator(images)
            forged = changed(images, change)
            logits = self.victim(forged).float()
            said = {
                "generator/deception": deception(logits, labels, spec.target, spec.confidence),
                "generator/realism": F.softplus(-self.critic(forged)).mean(),
                "generator/change": F.relu(change.flatten(1).norm(dim=1) - self.bound).mean(),
            }
            weights = (
                self.bench.control("deception_weight", spec.deception_weight, number),
                self.bench.control("realism_weight", spec.realism_weight, number),
                self.bench.control("change_weight", spec.change_weight, number),
            )
            parts = [weight * part for weight, part in zip(weights, said.values(), strict=True)]
            loss = torch.stack(parts).sum()
        self._descend("generator", loss, self.generator, rate)
        with self.bench.autocast():
            high, low = self.critic(torch.cat([images, forged.detach()])).chunk(2)
            judged = F.softplus(-high).mean() + F.softplus(low).mean()
        self._descend("critic", judged, self.critic, rate)
        said |= {"generator/loss": loss, "critic/loss": judged}
        aim = labels if spec.target is None else torch.full_like(labels, spec.target)
        hit = logits.argmax(1) == aim
        said["train/success_rate"] = (hit if spec.target is not None else ~hit).float().mean()
        self.step = number
        return self._checked(said) | {"train/lr": rate}, len(images)

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(self.step, self.per_epoch)
        if self._order[0] != epoch:
            generator = self.bench.generator("order", epoch)
            self._order = (epoch, torch.randperm(len(self.data.train), generator=generator))
        size = self.spec.batch_size
        return self.data.train.batch(self._order[1][place * size : (place + 1) * size])

    def _descend(self, name: str, loss: Tensor, net: nn.Module, rate: float) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.autograd.backward(loss, inputs=list(net.parameters()))
        optimizer.step()

    def _checked(self, said: Mapping[str, Tensor]) -> dict[str, float]:
        values = torch.stack([value.detach().float() for value in said.values()]).tolist()
        found = dict(zip(said, values, strict=True))
        odd = [name for name, value in found.items() if not math.isfinite(value)]
        if odd:
            what = "critic" if all(name.startswith("critic/") for name in odd) else "generator"
            raise CrucibleError(
                f"the loss of the {what} is not a finite number at step {self.step} "
                f"({', '.join(odd)}). The last good checkpoint is kept. A lower lr helps."
            )
        return found

    def _frame(self) -> Iterator[Event]:
        """Test images, changed as they would be now, and the changes."""
        with torch.no_grad():
            change = self.generator(self._shown)
            forged = changed(self._shown, change)
            said = self.victim(forged).argmax(1).tolist()
        names = self.data.classes
        captions = tuple(
            {"label": names[label], "prediction": names[guess], "success": guess != label}
            for label, guess in zip(self._labels.tolist(), said, strict=True)
        )
        pixels = as_pixels(thumbnails(forged) * 255)
        yield Images("adversarial", pixels, captions, self.step, keep=True)
        scale = self.spec.eps
        signed = thumbnails(forged - self._shown) * (127 / scale) + 128
        yield Images("perturbation", as_pixels(signed), captions, self.step, scale=scale, keep=True)

    # --- going on ---------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Keep everything that the next step depends on."""
        tensors: dict[str, Tensor] = {}
        for name, net in (("generator", self.generator), ("critic", self.critic)):
            tensors |= {f"{name}.{k}": t for k, t in net.state_dict().items()}
            kept = optimizer_tensors(self.optimizers[name])
            tensors |= {f"optim.{name}.{k}": t for k, t in kept.items()}
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "fingerprint": self.data.fingerprint,
        }
        self.bench.save_checkpoint(self.step, tensors, values)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a run where `checkpoint` left it. Raises BadInput if its data has changed."""
        if values["fingerprint"] != self.data.fingerprint:
            raise BadInput(
                "the data has changed since the run began. Put it back as it was and resume again, "
                "or start a new run."
            )
        self.step, self.seconds = values["step"], values["seconds"]
        for name, net in (("generator", self.generator), ("critic", self.critic)):
            net.load_state_dict(under(tensors, f"{name}."))
            load_optimizer_tensors(self.optimizers[name], under(tensors, f"optim.{name}."))


def deception(logits: Tensor, labels: Tensor, target: int | None, confidence: float) -> Tensor:
    """Mean over the images of what is missing to deception by `confidence`: the lead of the label
    over the likeliest other class, or that of the likeliest other class over the target, no less
    than -confidence (Carlini and Wagner 2017, section IV-A, f6)."""
    aim = labels if target is None else torch.full_like(labels, target)
    own = logits.gather(1, aim[:, None]).squeeze(1)
    other = logits.scatter(1, aim[:, None], -math.inf).amax(1)
    lead = own - other if target is None else other - own
    return lead.clamp_min(-confidence).mean()


def _judged(
    spec: TrainAdvGan, generator: Perturber, chosen: Chosen
) -> Generator[Event, None, Summary]:
    """What the generator does to the test images."""
    test = chosen.data.test
    right = aimed = broken = kept = seen = 0
    lengths = 0.0
    last = time.perf_counter()
    for _, images, labels in test.batches(torch.arange(len(test)), JUDGED):
        with torch.no_grad():
            forged = changed(images, generator(images))
            clean, after = (chosen.module(x).argmax(1) for x in (images, forged))
        correct = clean == labels
        attacked = correct if spec.target is None else correct & (labels != spec.target)
        hit = after != labels if spec.target is None else after == spec.target
        right += int(correct.sum())
        aimed += int(attacked.sum())
        broken += int((attacked & hit).sum())
        kept += int((correct & (after == labels)).sum())
        seen += len(labels)
        lengths += float((forged - images).flatten(1).norm(dim=1).sum())
        if time.perf_counter() - last > PAUSE:
            yield Progress(seen, len(test), "images")
            last = time.perf_counter()
    summary: Summary = {}
    if aimed:  # else nothing can be deceived
        interval = list(wilson(broken, aimed))
        summary = {"success_rate": broken / aimed, "success_rate_interval": interval}
    return summary | {
        "clean_accuracy": right / seen,
        "robust_accuracy": kept / seen,
        "samples": seen,
        "mean_norm": lengths / seen,
    }
