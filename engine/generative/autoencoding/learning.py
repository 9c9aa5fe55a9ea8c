"""The steps of an autoencoder's training.

The paper takes three steps in turn, for reconstruction, for the prior and for the labels. Here one
pass through the encoder is bought for all of them: their losses are added, and the critics take a
step of their own on the codes of that pass. What a step draws is a function of its number, so that
a resumed run takes the same ones.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Dataset, Split
from engine.errors import BadInput, CrucibleError
from engine.generative.autoencoding.distorting import distort
from engine.generative.autoencoding.networks import AutoencoderNet, Code, critic
from engine.generative.autoencoding.priors import draw, drawn_parts
from engine.generative.spec.autoencoder import (
    AdversarialCode,
    Consistency,
    Labels,
    PriorSpec,
    TrainAutoencoder,
    VariationalCode,
)
from engine.models.normalise import channel_statistics
from engine.random import normal
from engine.store.checkpoints import under
from engine.training.optimizers import (
    load_optimizer_tensors,
    lr_factor,
    make_optimizer,
    optimizer_tensors,
)

BETAS = (0.5, 0.99)
"""Of the critics' Adam."""


def labelled_places(split: Split, labels: Labels, classes: int, bench: Bench) -> Tensor:
    """The images whose labels are used: as many of each class, ascending places, int64 (L,). Raises
    BadInput where a class has too few, or there is less than one of each."""
    each, rest = divmod(labels.count, classes)
    if not each or rest:
        raise BadInput(
            f"labels.count: {labels.count} images cannot be as many of each of {classes} classes; "
            f"expected a multiple of {classes}, as {max(1, each) * classes}"
        )
    known = split.labels.cpu()
    fewest = int(torch.bincount(known, minlength=classes).min())
    if fewest < each:
        raise BadInput(
            f"labels.count: {labels.count} images are {each} of each of {classes} classes, and the "
            f"smallest class has {fewest} training images; expected at most {fewest * classes}"
        )
    found = []
    for label in range(classes):
        places = (known == label).nonzero().flatten()
        order = torch.randperm(len(places), generator=bench.generator("labelled", label))
        found.append(places[order[:each]])
    return torch.cat(found).sort().values


@dataclass(slots=True)
class _Taken:
    """What a step looks at, and what is to be said of it.

    number: as Scalars count it. shown: its images, (N, C, H, W), distorted. code: of these. drawn:
    the codes that are decoded. guess: probabilities of a class head, (N, K). whole: the codes of
    all that went through the encoder, in the order of the losses. labels: of the labelled images,
    (L,). codes, known: what the style's critic sees where it is told classes, (N + L, latent), and
    these, (N + L,), -1 where they are not known.
    """

    number: int
    shown: Tensor
    code: Code
    drawn: Tensor
    guess: Tensor | None
    whole: Code
    labels: Tensor | None
    codes: Tensor | None = None
    known: Tensor | None = None
    said: dict[str, Tensor] = field(default_factory=dict)


class Learner:
    """An autoencoder being trained. Between two steps it is in eval mode."""

    def __init__(self, spec: TrainAutoencoder, bench: Bench, data: Dataset) -> None:
        self.spec = spec
        self.bench = bench
        self.data = data
        self.step = 0
        self.judged = 0
        """Epochs after which the validation images were looked at."""
        self.seconds = 0.0
        """That the steps took."""
        classes = len(data.classes)
        with seeded_weights(bench.derive("weights")):
            self.net: AutoencoderNet = spec.saved.network(data.shape, classes)
            told = self.told = _told(spec, classes)
            width = spec.code.critic_width if isinstance(spec.code, AdversarialCode) else 0
            self.critics = nn.ModuleDict()
            if width:
                self.critics["style"] = critic(spec.latent + told, width)
                if self.net.heads:
                    self.critics["class"] = critic(self.net.heads, width)
        for name, values in zip(("mean", "std"), channel_statistics(data.train), strict=True):
            getattr(self.net.normalise, name).copy_(torch.tensor(values).view(-1, 1, 1))
        self.net.to(bench.device).eval()
        self.critics.to(bench.device)
        self.average = copy.deepcopy(self.net) if spec.ema else None
        self.optimizer = make_optimizer(spec.optimizer, self.net.parameters(), bench.device)
        self.critics_optimizer = (
            torch.optim.Adam(self.critics.parameters(), betas=BETAS, fused=True) if width else None
        )
        self.places = torch.empty(0, dtype=torch.int64)
        if spec.labels is not None:
            self.places = labelled_places(data.train, spec.labels, classes, bench)
        # A rest of one image has no batch statistics, and is left out of the epoch.
        count = len(data.train)
        self.per_epoch = max(1, count // spec.batch_size + (count % spec.batch_size > 1))
        self.total = self.per_epoch * spec.epochs
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))
        # Whose label the prior is told: -1 of all others.
        self._known = torch.full((count,), -1)
        self._known[self.places] = data.train.labels.cpu()[self.places]

    def present(self) -> AutoencoderNet:
        """The autoencoder as it would be handed over now."""
        return self.average if self.average is not None else self.net

    @property
    def epoch(self) -> int:
        """Epochs that were begun."""
        return -(-self.step // self.per_epoch)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Inside steps can be taken; nothing of it is held across a yield."""
        with self.bench.global_random(), torch.enable_grad():
            self.net.train()
            try:
                yield
            finally:
                self.net.eval()

    # --- one step ---------------------------------------------------------------------------------

    def take(self) -> dict[str, float]:
        """Take the next step; what is to be said of it. Raises CrucibleError where a loss is not a
        number."""
        spec, number = self.spec, self.step + 1
        rate = self._live("lr", spec.optimizer.lr, number) * lr_factor(
            spec.schedule, self.step / self.per_epoch, spec.epochs
        )
        with self.bench.autocast():
            taken = self._encoded()
            loss = self._loss(taken)
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.autograd.backward(loss, inputs=list(self.net.parameters()))
        self.optimizer.step()
        if self.critics_optimizer is not None:
            self._critics_step(taken, self.critics_optimizer)
        if self.average is not None:
            self._update_average(self.average)
        taken.said["train/loss"] = loss
        self.step = number
        return self._checked(taken.said) | {"train/lr": rate}

    def _encoded(self) -> _Taken:
        """One pass of the encoder over all that the step looks at: its images, distorted copies of
        them, and labelled ones."""
        spec, bench = self.spec, self.bench
        epoch, place = divmod(self.step, self.per_epoch)
        images, ids, places = self._batch(epoch, place)
        shown = distort(images, ids, spec.distortion, bench.derive("distortion", epoch))
        parts, labels = [shown], None
        if spec.labels is not None:
            if (asked := spec.labels.consistency) is not None:
                seed = bench.derive("distorted", epoch)
                parts.append(distort(images, ids, asked.distortion, seed))
            labelled, labels = self._labelled(spec.labels)
            parts.append(labelled)
        whole = self.net.encode(torch.cat(parts))
        code = whole[: len(images)]
        drawn = self._drawn(code)
        taken = _Taken(self.step + 1, shown, code, drawn, code.classes, whole, labels)
        if self.told and labels is not None:
            # The critic sees the labelled images of the step too.
            known = self._known[places].to(labels.device)
            taken.codes = torch.cat([drawn, whole.mean[-len(labels) :]])
            taken.known = torch.cat([known, labels])
        return taken

    def _loss(self, taken: _Taken) -> Tensor:
        """What the autoencoder descends."""
        spec, said = self.spec, taken.said
        found = self._reconstruction(taken)
        if isinstance(spec.code, VariationalCode):
            found = found + self._divergence(taken, spec.code)
        if spec.labels is not None and taken.labels is not None and taken.whole.logits is not None:
            logits = taken.whole.logits[-len(taken.labels) :]
            said["train/classification"] = F.cross_entropy(logits, taken.labels)
            weight = spec.labels.classification_weight
            weight = self._live("classification_weight", weight, taken.number)
            found = found + weight * said["train/classification"]
            if spec.labels.consistency is not None:
                found = found + self._consistency(taken, spec.labels.consistency)
        if isinstance(spec.code, AdversarialCode):
            found = found + self._deception(taken, spec.code)
        return found

    def _batch(self, epoch: int, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images of a step, their ids and their places."""
        if self._order[0] != epoch:
            generator = self.bench.generator("order", epoch)
            self._order = (epoch, torch.randperm(len(self.data.train), generator=generator))
        size = self.spec.batch_size
        places = self._order[1][place * size : (place + 1) * size]
        images, _ = self.data.train.batch(places)
        return images, self.data.train.ids[places], places

    def _labelled(self, spec: Labels) -> tuple[Tensor, Tensor]:
        """Labelled images of the step, distorted as consistency has it, and their labels."""
        generator = self.bench.generator("named", self.step)
        drawn = torch.randint(len(self.places), (spec.batch,), generator=generator)
        images, labels = self.data.train.batch(self.places[drawn])
        asked = spec.consistency
        distortion = self.spec.distortion if asked is None else asked.distortion
        # An image may be among them twice: by its place in the batch its draws are its own.
        seed = self.bench.derive("named", self.step)
        return distort(images, torch.arange(spec.batch), distortion, seed), labels

    def _drawn(self, code: Code) -> Tensor:
        """The codes that are decoded: of a Gaussian encoder a draw."""
        if code.log_variance is None:
            return code.mean
        ids = torch.arange(len(code.mean), device=code.mean.device)
        noise = normal(self.bench.derive("encoder", self.step), ids, (self.spec.latent,))
        return code.mean + noise * (code.log_variance / 2).exp()

    def _reconstruction(self, taken: _Taken) -> Tensor:
        """Weighted; of the mean over all values."""
        logits = self.net.decoded(taken.drawn, taken.guess)
        if self.spec.pixels == "cross_entropy":
            found = F.binary_cross_entropy_with_logits(logits, taken.shown)
        else:
            found = F.mse_loss(logits.sigmoid(), taken.shown)
        taken.said["train/reconstruction"] = found
        return self._reconstruction_weight(taken) * found

    def _reconstruction_weight(self, taken: _Taken) -> float:
        weight = self.spec.reconstruction_weight
        return self._live("reconstruction_weight", weight, taken.number)

    def _divergence(self, taken: _Taken, spec: VariationalCode) -> Tensor:
        """Kullback-Leibler divergence of the codes of an image from the standard normal, in nats,
        weighted as a value of the reconstruction is."""
        assert taken.code.log_variance is not None
        found = divergence(taken.code.mean, taken.code.log_variance).mean()
        taken.said["train/divergence"] = found
        weight = self._live("divergence_weight", spec.divergence_weight, taken.number)
        weight *= self._reconstruction_weight(taken) / math.prod(self.data.shape)
        return weight * found

    def _consistency(self, taken: _Taken, spec: Consistency) -> Tensor:
        """Cross-entropy of distorted copies, of the class of the image where that is sure."""
        assert taken.guess is not None
        assert taken.whole.logits is not None
        count = len(taken.shown)
        sure, likeliest = taken.guess.detach().max(1)
        counts = (sure > spec.threshold).float()
        logits = taken.whole.logits[count : 2 * count]
        apart = F.cross_entropy(logits, likeliest, reduction="none")
        found = (apart * counts).mean()
        taken.said |= {"train/consistency": found, "train/sure": counts.mean()}
        return self._live("consistency_weight", spec.consistency_weight, taken.number) * found

    # --- the critics ------------------------------------------------------------------------------

    def _deception(self, taken: _Taken, spec: AdversarialCode) -> Tensor:
        """What the encoder pays for codes that are told from the prior."""
        found = F.softplus(-self.critics["style"](self._seen(taken))).mean()
        taken.said["encoder/style"] = found
        if taken.guess is not None:
            taken.said["encoder/class"] = F.softplus(-self.critics["class"](taken.guess)).mean()
            found = found + taken.said["encoder/class"]
        return self._live("adversarial_weight", spec.adversarial_weight, taken.number) * found

    def _seen(self, taken: _Taken) -> Tensor:
        """What the style's critic sees of codes: with them, one-hot, the class, and that it is
        not known."""
        if taken.codes is None or taken.known is None:
            return taken.drawn
        return told_codes(taken.codes, taken.known, self.told - 1)

    def _critics_step(self, taken: _Taken, optimizer: torch.optim.Optimizer) -> None:
        """The critics tell draws of their priors from the codes of this step."""
        assert isinstance(self.spec.code, AdversarialCode)
        with self.bench.autocast():
            found = self._critics_loss(taken, self.spec.code.prior)
        rate = self._live("critic_lr", self.spec.code.critic_lr, taken.number)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        optimizer.step()

    def _critics_loss(self, taken: _Taken, prior: PriorSpec) -> Tensor:
        seed = self.bench.derive("prior", self.step)
        fake = self._seen(taken).detach()
        if taken.known is None:
            real = draw(prior, len(fake), self.spec.latent, seed).to(fake.device)
        else:
            # As many are told their class as of the codes; the others are of any class.
            classes = self.told - 1
            parts = drawn_parts(prior, len(fake), seed, taken.known)
            parts = torch.where(taken.known < 0, parts % classes, parts)
            codes = draw(prior, len(fake), self.spec.latent, seed, parts)
            real = told_codes(codes, taken.known, classes)
        found = _apart(self.critics["style"], real, fake, taken.said, "style")
        if taken.guess is not None:
            generator = self.bench.generator("prior", self.step)
            ones = torch.randint(self.net.heads, (len(taken.guess),), generator=generator)
            real = F.one_hot(ones, self.net.heads).to(taken.guess)
            guess = taken.guess.detach()
            found = found + _apart(self.critics["class"], real, guess, taken.said, "class")
        return found

    # --- what goes with it ------------------------------------------------------------------------

    def _live(self, name: str, value: float, number: int) -> float:
        return self.bench.control(name, value, number)

    def _update_average(self, average: AutoencoderNet) -> None:
        """Early steps count more, as in the training of classifiers."""
        decay = min(self.spec.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(self.net.parameters()), 1 - decay)
            for mine, its in zip(average.buffers(), self.net.buffers(), strict=True):
                mine.copy_(its)

    def _checked(self, said: Mapping[str, Tensor]) -> dict[str, float]:
        names = list(said)
        values = torch.stack([said[name].detach().float() for name in names]).tolist()
        found = dict(zip(names, values, strict=True))
        odd = [name for name, value in found.items() if not math.isfinite(value)]
        if odd:
            of_critic = all(name.startswith("critic/") for name in odd)
            what = "the critics" if of_critic else "the autoencoder"
            rate = "critic_lr" if of_critic else "optimizer.lr"
            raise CrucibleError(
                f"the loss of {what} is not a finite number at step {self.step} ({', '.join(odd)}"
                f"). The last good checkpoint is kept. A lower {rate} helps."
            )
        return found

    # --- going on ---------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Keep everything that the next step depends on."""
        tensors = {f"net.{k}": t for k, t in self.net.state_dict().items()}
        tensors |= {f"optim.{k}": t for k, t in optimizer_tensors(self.optimizer).items()}
        tensors |= {f"critics.{k}": t for k, t in self.critics.state_dict().items()}
        if self.critics_optimizer is not None:
            kept = optimizer_tensors(self.critics_optimizer)
            tensors |= {f"critics_optim.{k}": t for k, t in kept.items()}
        if self.average is not None:
            tensors |= {f"ema.{k}": t for k, t in self.average.state_dict().items()}
        values: dict[str, Any] = {
            "step": self.step,
            "fingerprint": self.data.fingerprint,
            "seconds": self.seconds,
            "judged": self.judged,
        }
        self.bench.save_checkpoint(self.step, tensors, values)

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a run where `checkpoint` left it. Raises BadInput if its data has changed."""
        if values["fingerprint"] != self.data.fingerprint:
            raise BadInput(
                "the data has changed since the run began: going on would learn from images that "
                "were kept aside. Put the data back as it was and resume again, or start a new run."
            )
        self.step, self.judged = values["step"], values["judged"]
        self.seconds = values["seconds"]
        self.net.load_state_dict(under(tensors, "net."))
        load_optimizer_tensors(self.optimizer, under(tensors, "optim."))
        self.critics.load_state_dict(under(tensors, "critics."))
        if self.critics_optimizer is not None:
            load_optimizer_tensors(self.critics_optimizer, under(tensors, "critics_optim."))
        if self.average is not None:
            self.average.load_state_dict(under(tensors, "ema."))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of Gaussians with independent numbers, (N, D), from the standard normal, in nats, (N,)
    (Kingma and Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def told_codes(codes: Tensor, classes: Tensor, count: int) -> Tensor:
    """Codes (M, D) with the class of each, int64 (M,), one-hot beside it; of -1, that it is not
    known: (M, D + count + 1)."""
    named = torch.where(classes < 0, torch.full_like(classes, count), classes)
    return torch.cat([codes, F.one_hot(named, count + 1).to(codes)], 1)


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Global CPU random state seeded inside, for initialisers, and put back after."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _told(spec: TrainAutoencoder, classes: int) -> int:
    """Numbers by which the style's critic is told a class: one each, and one for not known."""
    return classes + 1 if spec.labels is not None and spec.labels.use == "prior" else 0


def _apart(
    judge: nn.Module, real: Tensor, fake: Tensor, said: dict[str, Tensor], name: str
) -> Tensor:
    """The loss of a critic, which sees both in one pass."""
    high, low = judge(torch.cat([real, fake])).split([len(real), len(fake)])
    found: Tensor = F.softplus(-high).mean() + F.softplus(low).mean()
    said[f"critic/{name}"] = found
    return found
