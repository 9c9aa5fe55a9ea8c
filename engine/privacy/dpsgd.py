"""Differentially private stochastic gradient descent (Abadi et al. 2016, algorithm 1).

Each image is in a step with probability `sample_rate`, by itself (Poisson sampling, which is what
the accountant counts with); its gradient is shortened to the clipping norm; noise in proportion to
that norm is added to the sum, which is divided by the batch's expected size. Neighbouring training
sets differ in one image, added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.events import Event, Note, Table
from engine.privacy.accounting import curve, split_noise, steps_within, total
from engine.privacy.canaries import Canaries, Promise, make_canaries
from engine.privacy.clipping import Clipper
from engine.privacy.ledger import Charge, Ledger, Source
from engine.privacy.noise import Draws, SeededDraws, SystemDraws
from engine.privacy.planning import plan
from engine.privacy.spec import DPSGD
from engine.store.checkpoints import under
from engine.task import Summary
from engine.training.defence import Batch, Outcome
from engine.training.mechanism import Mechanism, PrivateSetting
from engine.training.optimizers import laid_out

LEDGER = "privacy.jsonl"
"""In the run's folder."""

POINTS = 100
"""Steps of a run of which epsilon is said."""

BINS = 24
"""Of the histogram of gradient norms, which reaches a factor of 30 to both sides of the clip."""

REACH = 30.0

LEAST_NORM, LARGEST_NORM = 1e-6, 1e6
"""Between which an adaptive clipping norm stays."""


class DPSGDMechanism(Mechanism):
    """One run's steps, and its budget."""

    draws = True

    def __init__(self, spec: DPSGD, setting: PrivateSetting) -> None:
        """Raises BadInput for a model whose samples mix, and for a target that cannot be met."""
        self.spec = spec
        self.setting = setting
        self.count = len(setting.train)
        # What is told before the first step is the first entry of the ledger.
        asked = plan(
            spec, self.count, setting.batch_size, setting.epochs, statistic=setting.statistic
        )
        self.noise, self.rate, self.planned = asked.noise, asked.rate, asked.planned
        self.before = asked.before
        self._within = asked.within
        resume = setting.bench.resume
        self._line = setting.bench.lineage(setting.salt)
        self._done = resume.step if resume is not None else 0
        """Steps that were taken."""
        self.ledger = Ledger(
            setting.folder / LEDGER,
            fresh=resume is None,
            step=self._done + len(self.before) if resume is not None else 0,
            secure=spec.secure,
            source=self._source(),
        )
        self._changes = list(setting.bench.changes)
        self.wasted = self._wasted()
        self._steps = self._affordable()
        if self._steps < 1:
            raise BadInput(
                f"the target epsilon of {spec.epsilon or 0:g} is used up: the run was cut short "
                f"after noise was reserved for {self.ledger.steps()} steps, which count although "
                "their result is lost. Start a new run"
            )
        self.gradient_noise = self.noise
        if spec.clipping == "adaptive":
            self.count_deviation = spec.count_noise * setting.batch_size
            self.gradient_noise = split_noise(self.noise, self.count_deviation)
        self.clipper = Clipper(setting.model, chunk=spec.chunk)
        self.learning = [p for p in setting.model.parameters() if p.requires_grad]
        self.sizes = [p.numel() for p in self.learning]
        self.criterion = nn.CrossEntropyLoss(
            label_smoothing=setting.label_smoothing, reduction="none"
        )
        bench = setting.bench
        self.random: Draws = (
            SystemDraws(bench.device) if spec.secure else SeededDraws(bench, self._line)
        )
        self.norm = torch.tensor(spec.max_grad_norm, dtype=torch.float64)
        self.canaries: Canaries | None = make_canaries(spec, setting, self.random, sum(self.sizes))
        self._drawn: dict[int, Tensor] = {}
        self.spent: dict[int, float] = {}
        self._unsaid = False
        self._seen: dict[int, tuple[float, Tensor, Tensor]] = {}
        edges = torch.linspace(-math.log(REACH), math.log(REACH), BINS + 1).exp()
        self._edges = edges[1:-1].to(bench.device)
        self._bins = torch.zeros(BINS, dtype=torch.int64, device=bench.device)

    # --- the budget -------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """After which the run ends, those before it was resumed among them. A live value that is
        changed in a run that takes steps again makes others of them, and so fewer."""
        if self._changes != self.setting.bench.changes:
            self._changes = list(self.setting.bench.changes)
            before, self.wasted = self.wasted, self._wasted()
            if self.wasted != before:
                self._steps = max(self._done, self._affordable())
                self._unsaid = True
        return self._steps

    def _source(self, step: int = -1) -> str:
        """What decides a step bit for bit, -1: until something is changed."""
        return " ".join([self._line, *self.setting.bench.history(step)])

    def _wasted(self) -> tuple[Charge, ...]:
        """What was spent and leads nowhere: a run that was cut short takes it again, as others."""
        told = len(self.before)
        starts = sorted({change.step for change in self.setting.bench.changes})
        sources = [(1, self._source())]
        sources += [(told + max(0, step) + 1, self._source(step)) for step in starts]
        at = told + self._done if self._done else 0
        kinds = (*self.before, self._charge())
        counted = [replace(k, steps=self.ledger.repeated(k, at, sources)) for k in kinds]
        return tuple(charge for charge in counted if charge.steps)

    def _affordable(self) -> int:
        """Steps after which the run ends."""
        spec, within = self.spec, self._within
        if spec.epsilon is None or not self.wasted:
            return within
        spent = (*self.before, *self.wasted)
        left = steps_within(spec.epsilon, self.noise, self.rate, spec.delta, before=spent)
        return min(within, left)

    def _charge(self) -> Charge:
        return Charge(self.noise, self.rate)

    def begin(self) -> Iterator[Event]:
        spec, delta = self.spec, self.spec.delta
        yield self._budget()
        if self.setting.bench.resume is not None:
            return
        last = self.spent[max(self.spent)]
        yield Note(
            "info",
            f"noise multiplier {self.noise:.4g}, sample rate {self.rate:.4g}, {self.steps} steps: "
            f"epsilon {last:.4g} at delta {delta:g}. It covers what the model learns from "
            "the training images in this run; not the validation images, by which early stopping "
            "chooses. Losses, accuracies and norms that are shown meanwhile are not covered: they "
            "stay in this workspace.",
        )
        if self.steps < self.planned:
            yield Note("info", f"the target is reached after {self.steps} of {self.planned} steps")
        if delta >= 1 / self.count:
            yield Note(
                "warning",
                f"delta {delta:g} is not below 1 / {self.count} training images: the promise holds "
                "even for a mechanism that publishes one of them",
            )
        if not spec.secure:
            yield Note(
                "info",
                "batches and noise come from the seed, to be repeatable: whoever knows or guesses "
                "it can take the noise off. Set privacy.secure for a model that leaves the house.",
            )

    def _budget(self) -> Table:
        """Epsilon over the steps."""
        before = (*self.before, *self.wasted)
        ahead = curve(
            self.noise, self.rate, self.steps, self.spec.delta, points=POINTS, before=before
        )
        self.spent = dict(zip(ahead.steps, ahead.pld, strict=True))
        self._unsaid = False
        rows = tuple(zip(ahead.steps, ahead.pld, ahead.rdp, strict=True))
        return Table("budget", ("step", "epsilon", "epsilon_rdp"), rows)

    def tell(self, statistic: Tensor) -> Tensor:
        """With Gaussian noise on every entry (Dwork et al. 2014)."""
        (charge,) = self.before
        self.ledger.reserve(charge, 1, last=1)
        noise = self.random.normal("statistic", 0, statistic.numel()).view_as(statistic)
        return statistic + charge.noise_multiplier * noise

    # --- a step -----------------------------------------------------------------------------------

    def places(self, step: int) -> Tensor:
        if self.canaries is None:
            return self.random.chosen(step, self.count, self.rate)
        # Canaries are members as the images are, so they are drawn with them.
        drawn = self.random.chosen(step, self.count + self.canaries.members, self.rate)
        self._drawn = {step: drawn[drawn >= self.count] - self.count}
        return self.canaries.kept(drawn[drawn < self.count])

    def _reserve(self, step: int) -> None:
        """Charge a step before its noise is drawn, and not sooner: a run may rest between the
        drawing of its images and that."""
        told = len(self.before)
        source = Source(self._source(step))
        self.ledger.reserve(self._charge(), told + step + 1, last=told + self.steps, source=source)
        self._done = step + 1

    def labels(self, places: Tensor, labels: Tensor) -> Tensor:
        return self.canaries.labels(places, labels) if self.canaries is not None else labels

    def gradients(self, batch: Batch) -> Outcome:
        norm = float(self.norm)
        done = self.clipper.sum(batch.images, batch.labels, self.criterion, self._weights)
        whole = done.norms.square().sum(0).sqrt()
        gradient = torch.cat([_gradient(p).flatten() for p in self.learning])
        if self.canaries is not None:
            layers = len(done.norms)
            self.canaries.put_in(
                gradient, norm, self._drawn[batch.step], lambda norms: self._left(norms, layers)
            )
        self._reserve(batch.step)
        drawn = self.random.normal("noise", batch.step, len(gradient))
        gradient.add_(drawn, alpha=self.gradient_noise * norm)
        if self.canaries is not None:
            self.canaries.look(gradient, norm)
        gradient.div_(self.setting.batch_size)
        for parameter, part in zip(self.learning, gradient.split(self.sizes), strict=True):
            parameter.grad = laid_out(part.view_as(parameter), parameter)
        self._note(batch.step, whole, norm)
        if self.spec.clipping == "adaptive":
            self._follow(whole, batch.step)
        # One image whose loss is no number adds nothing, and does not end the run either.
        finite = done.losses[done.losses.isfinite()]
        return Outcome(finite.mean(), done.logits, None)

    def _weights(self, norms: Tensor) -> Tensor:
        """How much of each gradient is left, for norms (L, N): (N,), or (L, N) where each layer has
        its own share of the norm."""
        norm = float(self.norm)
        if self.spec.clipping == "per_layer":
            return (norm / math.sqrt(len(norms)) / norms).clamp_max(1.0)
        return (norm / norms.square().sum(0).sqrt()).clamp_max(1.0)

    def _left(self, norms: Tensor, layers: int) -> Tensor:
        """How much is left of gradients that lie in one of so many layers, (N,) by their norms."""
        of_layers = norms.new_zeros(layers, len(norms))
        of_layers[0] = norms
        left = self._weights(of_layers)
        return left[0] if left.ndim == 2 else left

    def _follow(self, norms: Tensor, step: int) -> None:
        """The clipping norm of the next step (Andrew et al. 2021, algorithm 1): what is counted are
        halves, up or down, so that one image changes the count by no more than one half."""
        halves = float((norms <= self.norm.to(norms)).double().sub(0.5).sum())
        halves += float(self.random.normal("count", step, 1)) * self.count_deviation
        below = 0.5 + halves / self.setting.batch_size
        change = math.exp(-self.spec.clip_lr * (below - self.spec.quantile))
        self.norm = (self.norm * change).clamp(LEAST_NORM, LARGEST_NORM)

    # --- what is said -----------------------------------------------------------------------------

    def _note(self, step: int, norms: Tensor, norm: float) -> None:
        if len(norms):
            self._seen[step] = (norm, (norms > norm).float().mean(), norms.median())
            places = torch.bucketize(norms.float() / norm, self._edges)
            self._bins += torch.bincount(places, minlength=BINS)

    def says(self, step: int) -> Mapping[str, float]:
        norm, *seen = self._seen.pop(step - 1)
        clipped, median = torch.stack(seen).tolist()
        values = {"privacy/clipped": clipped, "privacy/median_norm": median}
        if self.spec.clipping == "adaptive":
            values["privacy/max_grad_norm"] = norm
        if step in self.spent:
            values["privacy/epsilon"] = self.spent[step]
        return values

    def tables(self) -> Iterator[Event]:
        if self._unsaid:
            yield self._budget()
        edges = [0.0, *self._edges.tolist(), None]
        bins = self._bins.tolist()
        self._bins.zero_()
        yield Table(
            "gradient norms",
            ("from", "to", "images"),
            tuple(zip(edges[:-1], edges[1:], bins, strict=True)),
        )

    # --- its end ----------------------------------------------------------------------------------

    def settle(self, step: int) -> None:
        self.ledger.settle(len(self.before) + step)
        if self.canaries is not None:
            promise = Promise(
                self.noise,
                self.gradient_noise,
                self.spec.max_grad_norm,
                self.rate,
                step,
                self.spec.delta,
            )
            self.canaries.save(self.setting.folder, promise)

    def summary(self, step: int) -> Summary:
        charges, delta = self.ledger.charged(), self.spec.delta
        return {
            "epsilon": total(charges, delta),
            "epsilon_rdp": total(charges, delta, accountant="rdp"),
            "epsilon_prv": total(charges, delta, accountant="prv"),
            "delta": delta,
            "noise_multiplier": self.noise,
            "sample_rate": self.rate,
            "noise_source": self.random.source,
        }

    def tensors(self) -> Mapping[str, Tensor]:
        kept = {"norm": self.norm.clone(), "bins": self._bins}
        if self.canaries is not None:
            kept |= {f"canaries.{name}": t for name, t in self.canaries.tensors().items()}
        return kept

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        self.norm = tensors["norm"].cpu()
        self._bins = tensors["bins"].to(self._bins.device)
        if self.canaries is not None:
            self.canaries.restore(under(tensors, "canaries."))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
