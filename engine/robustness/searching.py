"""Attacks over all samples of an evaluation, batch by batch, and what they found."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.attacks.driver import AttackResult, Iteration, perturb
from engine.attacks.running import stopped
from engine.attacks.spec import AttackSpec
from engine.bench import Bench
from engine.data import Split
from engine.errors import Cancelled
from engine.events import Event, Progress

if TYPE_CHECKING:
    from engine.attacks.fitted import Fit
    from engine.robustness.staging import Stage
    from engine.robustness.witness import Witness

PAUSE = 0.03
"""Seconds between two words of progress."""


@dataclass(slots=True)
class Cost:
    """What was put through the model: images, those whose gradient was taken, and of them those
    that answered with a NaN or Inf, or whose gradient was exactly zero; and the time it took."""

    forward: int = 0
    gradient: int = 0
    nan: int = 0
    zero: int = 0
    seconds: float = 0.0

    def add(self, other: Cost) -> None:
        self.forward += other.forward
        self.gradient += other.gradient
        self.nan += other.nan
        self.zero += other.zero
        self.seconds += other.seconds


@dataclass(slots=True)
class Subject:
    """What is judged: a model, and N images that it is judged by.

    train: images that one perturbation for all may be fitted to. order: int64 (N,), places in
    `test`. labels, predictions: int64 (N,) on the CPU. clean: the model's logits, (N, K). correct:
    bool (N,). cost: of everything that was asked so far. chunk: how many images still fit into
    memory together, None while all do. witness: of what attacks ask and are answered.
    """

    model: nn.Module
    train: Split
    test: Split
    order: Tensor
    labels: Tensor
    clean: Tensor
    predictions: Tensor
    correct: Tensor
    classes: tuple[str, ...]
    bench: Bench
    batch_size: int
    cost: Cost = field(default_factory=Cost)
    chunk: int | None = None
    witness: Witness | None = None

    def __len__(self) -> int:
        return len(self.order)

    def images(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images, (M, C, H, W), and labels of `rows`, int64 (M,), on the device."""
        return self.test.batch(self.order[rows])


@dataclass(slots=True)
class Found:
    """What attacks found, one row a sample of the subject, on the CPU.

    attacked: bool (N,), the attack has come to its end there. success: bool (N,), broken.
    norm: float64 (N,), size of what broke it; infinite where nothing did. predictions: int64 (N,),
    the class it was taken for then, else the clean one. adversarial: float32 (N, C, H, W), the
    image that broke it, else nothing; None if nobody wants them.
    """

    attacked: Tensor
    success: Tensor
    norm: Tensor
    predictions: Tensor
    queries: Tensor
    adversarial: Tensor | None = None
    cost: Cost = field(default_factory=Cost)

    @classmethod
    def nothing(cls, on: Subject, keep: bool = False) -> Found:
        """Nobody attacked yet. `keep` has the images kept."""
        none = torch.zeros(len(on), dtype=torch.bool)
        return cls(
            attacked=none,
            success=none.clone(),
            norm=torch.full((len(on),), float("inf"), dtype=torch.float64),
            predictions=on.predictions.clone(),
            queries=torch.zeros(len(on), dtype=torch.int64),
            adversarial=torch.zeros(len(on), *on.test.shape) if keep else None,
        )

    def take(self, rows: Tensor, result: AttackResult) -> None:
        """Add what was found at `rows`, int64 (M,); of two that broke a sample the smaller one
        stays."""
        result = result.cpu()
        self.attacked[rows] |= result.finished
        self.queries[rows] += result.queries
        better = result.success & (result.norm < self.norm[rows])
        where = rows[better]
        self.success[where] = True
        self.norm[where] = result.norm[better].double()
        self.predictions[where] = result.predictions[better]
        if self.adversarial is not None:
            self.adversarial[where] = result.adversarial[better]

    def join(self, other: Found, radius: float) -> None:
        """Add what another found within `radius`; of two that broke a sample the smaller stays."""
        better = other.within(radius) & (other.norm < self.norm)
        self.attacked |= other.attacked
        self.queries += other.queries
        self.success |= better
        self.norm[better] = other.norm[better]
        self.predictions[better] = other.predictions[better]
        if self.adversarial is not None:
            assert other.adversarial is not None
            self.adversarial[better] = other.adversarial[better]

    def within(self, radius: float) -> Tensor:
        """Whether a sample was broken by no more than `radius`, bool (N,)."""
        return self.success & (self.norm <= radius)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the whole of an attack costs a sample in passes through the model, for saying how far
    one is. paid: of each round, what is paid after each of its questions, all before it included.
    whole: all of it."""

    paid: tuple[Sequence[int], ...]
    whole: int

    @classmethod
    def of(cls, spec: AttackSpec, classes: int) -> Budget:
        """Against a model of so many classes."""
        paid: list[Sequence[int]] = []
        before = 0
        for method in spec.rounds():
            wants = [method.want(number) for number in range(method.steps + 1)]
            # A gradient costs about as much as two passes more.
            costs = (1 if want == "logits" else 3 for want in wants)
            paid.append([before + cost for cost in accumulate(costs)])
            if method.aim is None or method.aim < classes:  # else nothing is asked
                before = paid[-1][-1]
        return cls(tuple(paid), before)

    def spent(self, now: Iteration) -> float:
        """The share that is spent, 0 to 1, rising from question to question. A sample that is
        broken leaves, and what is left of its budget is never spent: the end may come early."""
        if now.restart >= len(self.paid):  # fitted before: there is one question alone
            return 0.0
        return min(1.0, self.paid[now.restart][now.step] / self.whole)


def search(
    on: Subject,
    spec: AttackSpec,
    rows: Tensor,
    found: Found,
    *,
    seed: int,
    eps: Tensor | None = None,
    persist: bool = False,
    what: str = "images",
    stage: Stage | None = None,
    fitted: Fit | None = None,
) -> Generator[Event, None, None]:
    """Attack the samples `rows`, int64 (M,), adding to `found`. `eps`: a radius for each, (M,).
    `fitted`: of an attack with one perturbation for all images. `persist`: go on with a sample that
    is broken, and keep the last point that broke it. `stage` shows it.

    Cancelled, thrown in at a yield, passes through; what was confirmed by then is in `found`.
    """
    done, told, budget = 0, time.perf_counter(), Budget.of(spec, len(on.classes))
    for part in rows.split(on.batch_size) if len(rows) else ():
        images, labels = on.images(part)
        steps = perturb(
            on.model if on.witness is None else on.witness,
            images,
            labels,
            spec,
            seed=seed,
            ids=on.test.ids[on.order[part]],
            eps=None if eps is None else eps[done : done + len(part)],
            clean_logits=on.clean[part],
            attacked=on.correct[part].to(images.device),
            persist=persist,
            fitted=fitted,
            precision=on.bench.spec.precision,
        )
        result: AttackResult | None = None
        while result is None:
            begun = time.perf_counter()
            try:
                now = next(steps)
            except StopIteration as end:
                result = end.value
            found.cost.seconds += time.perf_counter() - begun
            if result is not None:
                break
            try:
                if stage is not None:
                    yield from stage.watch(part, now)
                if time.perf_counter() - told > PAUSE:
                    told = time.perf_counter()
                    share = (done + len(part) * budget.spent(now)) / len(rows)
                    yield Progress(done, len(rows), what, share)
            except Cancelled:
                _add(on, part, stopped(steps), found)
                raise
        _add(on, part, result, found)
        done += len(part)
        yield Progress(done, len(rows), what)


def _add(on: Subject, part: Tensor, result: AttackResult, found: Found) -> None:
    found.take(part, result)
    forward, gradient = result.forward_evaluations, result.gradient_evaluations
    cost = Cost(forward, gradient, result.nan_count, result.zero_gradients)
    found.cost.add(cost)
    on.cost.add(cost)
    if result.chunk is not None:
        on.chunk = min(on.chunk or result.chunk, result.chunk)
