"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019): certificates in l2, by sampling.

The classifier that is certified is not the model f but the smoothed one: g(x) is the class that f
gives most often to x with Gaussian noise. CERTIFY (their section 3.2.2) guesses that class from
`n0` draws, bounds its probability from below with `n` fresh ones, and proves the radius
sigma * quantile(bound); the probability that this holds is at least 1 - alpha for each sample. `n`
is fixed: stopping as soon as a bound is good enough would void it. PREDICT (section 3.2.1) says
what g answers, or abstains.

Noise is not cut off at black and white. Draw k of a sample depends on (seed, sample, purpose, k)
alone. With 24 random bits a value, none is larger than 5.8 sigma: of true Gaussian noise, one value
in a hundred million is.

An answer that is no number counts as a class of its own, which is never certified.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.errors import BadInput
from engine.events import Event, Progress
from engine.random import derive, normal
from engine.robustness.certified import NOTHING, Proof, Prover, Verdict
from engine.robustness.searching import PAUSE, Subject
from engine.robustness.spec import Smoothing

LOOKED_AT = 32
"""Images by which a model that draws at random itself is known."""


@dataclass(frozen=True, slots=True)
class _Within:
    """Sample `done` of `total` is under way: `before` of the `draws` that it takes are done."""

    done: int
    total: int
    unit: str
    before: int
    draws: int

    def progress(self, drawn: int) -> Progress:
        """After `drawn` draws more."""
        part = (self.before + drawn) / self.draws
        return Progress(self.done, self.total, self.unit, (self.done + part) / self.total)


class SmoothingProver(Prover):
    """CERTIFY and PREDICT for the samples of a subject.

    Raises BadInput if the model answers the same images differently, or differently with others
    beside them: the certificate is about a function of the image, and what is attacked must be the
    same one."""

    def __init__(self, spec: Smoothing, on: Subject) -> None:
        self.spec, self.on = spec, on
        self.draws = spec.draws
        self.classes = on.clean.shape[1]
        self.judged = 0
        device = on.bench.device
        self.oracle = Oracle(on.model, seed=on.bench.derive("smoothing"), device=device, bf16=False)
        self.seed = on.bench.derive("smoothing")
        self.smoothed = Smoothed(on.model, spec.sigma, spec.draws, on.test.shape, self.seed)
        self.smoothed.to(device).eval()
        images = on.images(torch.arange(LOOKED_AT) % len(on))[0]
        # Noisy, as all that it will be asked: a model can tell clean images apart.
        noise = normal(derive(self.seed, "look"), torch.arange(len(images)), images.shape[1:])
        images = images + spec.sigma * noise.to(images.device)
        first, second = self.oracle.look(images), self.oracle.look(images)
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise BadInput(
                "the model answers the same image differently each time: a certificate by "
                "smoothing is about a model without randomness of its own. Switch its noise or "
                "dropout off; smoothing adds the noise."
            )
        apart = self.oracle.look(images[: LOOKED_AT // 2]) - first[: LOOKED_AT // 2]
        size = float(first.nan_to_num(0, 0, 0).abs().max())
        if float(apart.nan_to_num(0, 0, 0).abs().max()) > 1e-3 * size:
            raise BadInput(
                "the model answers an image differently with others beside it, as with batch "
                "normalisation by the statistics of each batch: a certificate by smoothing is "
                "about what it says of one image. Evaluate it with running statistics."
            )

    @property
    def target(self) -> nn.Module:
        return self.smoothed

    def prove(self, rows: Tensor) -> Generator[Event, None, Proof]:
        spec = self.spec
        radii, classes = [], []
        draws = spec.n0 + spec.n
        for k, row in enumerate(rows.tolist()):
            said = _Within(k, len(rows), "samples", 0, draws)
            image = self.on.images(torch.tensor([row]))[0]
            sample = int(self.on.test.ids[self.on.order[row]])
            guess = yield from self._counts(image, ("guess", sample), spec.n0, said)
            top = int(guess.argmax())
            radius = 0.0
            if top < self.classes:
                said = replace(said, before=spec.n0)
                counts = yield from self._counts(image, ("certify", sample), spec.n, said)
                bound = lower_bound(int(counts[top]), spec.n, spec.alpha)
                radius = radius_of(bound, spec.sigma)
            radii.append(radius)
            classes.append(top if radius > 0 else NOTHING)
        return Proof(torch.tensor(radii, dtype=torch.float64), torch.tensor(classes))

    def judge(self, rows: Tensor, points: Tensor) -> Generator[Event, None, Verdict]:
        """PREDICT with fresh draws. The level is shared among the points, so that all of a call
        together are wrong with a probability of at most alpha."""
        spec = self.spec
        classes, chances = [], []
        for k, row in enumerate(rows.tolist()):
            self.judged += 1
            sample = int(self.on.test.ids[self.on.order[row]])
            key = ("judge", sample, self.judged)
            point = points[k : k + 1].to(self.on.bench.device)
            said = _Within(k, len(rows), "points judged", 0, spec.votes)
            counts = yield from self._counts(point, key, spec.votes, said)
            top, chance = vote(counts)
            sure = top < self.classes and chance <= spec.alpha / len(rows)
            classes.append(top if sure else NOTHING)
            chances.append(min(1.0, spec.alpha + chance))
        return Verdict(torch.tensor(classes), torch.tensor(chances, dtype=torch.float64))

    def _counts(
        self, image: Tensor, key: tuple[str | int, ...], count: int, said: _Within
    ) -> Generator[Event, None, Tensor]:
        """How often the model gives each class to `image`, (1, C, H, W), with noise, int64 (K + 1,)
        on the CPU; the last counts what is no number. `said` is how far everything was before."""
        seed, told = derive(self.seed, *key), time.perf_counter()
        counts = torch.zeros(self.classes + 1, dtype=torch.int64, device=image.device)
        before = self.oracle.counts.forward, int(self.oracle.counts.nan)
        # The layout that convolutions and pooling on a CPU take half the time with.
        cpu = image.device.type == "cpu"
        layout = torch.channels_last if cpu else torch.preserve_format
        for begin in range(0, count, self.spec.batch_size):
            end = min(begin + self.spec.batch_size, count)
            draws = torch.arange(begin, end, device=image.device)
            noisy = normal(seed, draws, image.shape[1:]).mul_(self.spec.sigma).add_(image)
            answers = predicted(self.oracle.look(noisy.to(memory_format=layout)))
            answers = torch.where(answers < 0, self.classes, answers)
            counts += torch.bincount(answers, minlength=self.classes + 1)
            if time.perf_counter() - told > PAUSE:
                told = time.perf_counter()
                yield said.progress(end)
        self.on.cost.forward += self.oracle.counts.forward - before[0]
        self.on.cost.nan += int(self.oracle.counts.nan) - before[1]
        return counts.cpu()


class Smoothed(nn.Module):
    """A differentiable stand-in of the smoothed classifier: the logarithm of the mean of the
    model's probabilities over `draws` of the noise (Salman et al. 2019, section 2.2 and equation
    6). The draws are the same for all images and in every call: as they do it, an attack follows
    one sample of the noise to its end."""

    noise: Tensor

    def __init__(
        self, model: nn.Module, sigma: float, draws: int, shape: tuple[int, ...], seed: int
    ) -> None:
        super().__init__()
        self.model = model
        noise = normal(derive(seed, "expectation"), torch.arange(draws), shape) * sigma
        self.register_buffer("noise", noise)

    def forward(self, x: Tensor) -> Tensor:
        draws = len(self.noise)
        logits: Tensor = self.model((x[:, None] + self.noise).flatten(0, 1))
        each = logits.float().log_softmax(1).unflatten(0, (len(x), draws))
        mean: Tensor = each.logsumexp(1) - math.log(draws)
        return mean


def lower_bound(hits: int, count: int, alpha: float) -> float:
    """The one-sided bound of Clopper and Pearson (1934): a probability of which `hits` of `count`
    draws came true is larger, with a confidence of 1 - alpha."""
    from scipy.special import betaincinv

    return float(betaincinv(hits, count - hits + 1, alpha)) if hits else 0.0


def radius_of(bound: float, sigma: float) -> float:
    """The radius that a lower bound of the class's probability proves; 0 if it is not above half
    (Cohen, Rosenfeld and Kolter 2019, section 3.2.2)."""
    from scipy.special import ndtri

    return sigma * float(ndtri(bound)) if bound > 0.5 else 0.0


def vote(counts: Tensor) -> tuple[int, float]:
    """The class with the most of `counts`, int64 (K,), and how likely it would be so far ahead of
    the second if it were not the likelier one: the two-sided binomial test of PREDICT."""
    from scipy.special import bdtr

    (first, second), (top, _) = (part.tolist() for part in counts.topk(2))
    return int(top), min(1.0, 2 * float(bdtr(second, first + second, 0.5)))
