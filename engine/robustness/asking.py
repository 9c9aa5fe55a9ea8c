"""What the checks of the model alone ask: the same few images over and over, in several ways."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.optim.optimizer import register_optimizer_step_pre_hook

from engine.attacks.geometry import ball
from engine.attacks.goal import Goal
from engine.attacks.losses import margin
from engine.attacks.method import Loss, Method, Point, Problem
from engine.attacks.oracle import Oracle
from engine.attacks.spec import Norm
from engine.robustness.searching import Subject

LOOKED_AT = 128
"""Samples that the checks of the model alone look at: enough to tell a trick that acts on a tenth
of them from what honest models show."""
AGAIN = 4
"""How often they are looked at again: what is drawn once for a whole batch may fall the same."""


class Precision(NamedTuple):
    """What a model computes with: what its answers may be off by, as a share of the largest; and
    how much longer than in float32 a step has to be for its effect not to drown in that."""

    rounding: float
    longer: float


FINE = Precision(100 * torch.finfo(torch.float32).eps, 1.0)
COARSE = {
    torch.bfloat16: Precision(8 * 2.0**-8, 10.0),
    torch.float16: Precision(8 * 2.0**-11, 10.0),
}


def precision(model: nn.Module, logits: Tensor) -> Precision:
    """That of the coarsest weights of `model`, or of `logits`, (M, K), if it is coarser."""
    kinds = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    for kind, found in COARSE.items():
        if kind in kinds or torch.equal(logits.to(kind).float(), logits):
            return found
    return FINE


def looked_at(on: Subject) -> Tensor:
    """Rows of the first samples that are correct; of the first ones, if none is."""
    rows = on.correct.nonzero().squeeze(1)[:LOOKED_AT]
    return rows if len(rows) else torch.arange(min(len(on), LOOKED_AT))


def same(logits: Tensor, of: Precision = FINE) -> float:
    """What two answers may differ by and still be the same: rounding."""
    finite = logits[logits.isfinite()]
    return max(1e-4, of.rounding) * float(finite.abs().max()) if len(finite) else math.inf


def apart(a: Tensor, b: Tensor) -> Tensor:
    """By how much two answers to M images differ, (M,); infinite where one of them is no number."""
    gap = (a - b).abs().amax(1)
    told = a.isfinite().all(1), b.isfinite().all(1)
    gap = gap.where(told[0] & told[1], torch.zeros_like(gap))
    return gap.where(told[0] == told[1], torch.full_like(gap, math.inf))


class Place(NamedTuple):
    """Images, (M, C, H, W), what they are, and what the model says of them, (M, K)."""

    words: str
    images: Tensor
    logits: Tensor


class Asking:
    """A few samples, clean and moved inside their ball, and what the model says of them. `unsaid`
    gathers what the checks could not look at."""

    def __init__(self, on: Subject, norm: Norm, eps: float, unsaid: list[str]) -> None:
        rows = looked_at(on)
        self.on, self.rows, self.unsaid = on, rows, unsaid
        self.images, self.labels = on.images(rows)
        self.goal = Goal(self.labels, None, False, int(self.labels.max()))
        self.seed = on.bench.derive("checks")
        device = self.images.device
        self._spied = Spied(on.model)
        self.oracle = Oracle(self._spied, seed=self.seed, device=device, bf16=False)
        around = ball(norm, self.images, torch.full((len(rows),), eps, device=device))
        near = around.random(self.seed, torch.arange(len(rows), device=device))
        given = self.images.clone(), near.clone()  # to look at; the others are not handed out
        self.first, there = self.oracle.look(given[0]), self.oracle.look(given[1])
        before = _fingerprint(on.model)
        # In a row, since a model can know what it was asked last.
        again = [self.oracle.look(given[0]) for _ in range(AGAIN)]
        moved = [self.oracle.look(given[1]) for _ in range(AGAIN)]
        after = _fingerprint(on.model)
        self.changed = [name for name, mark in after.items() if before.get(name) != mark]
        kept = torch.equal(given[0], self.images) and torch.equal(given[1], near)
        self.rewrites = bool(self.oracle.rewrites) or not kept
        self.clean = Place("clean images", self.images, self.first)
        self.near = Place("images of the ball", near, there)
        self.others = [torch.cat(both) for both in zip(again, moved, strict=True)]
        self.precision = precision(on.model, self.logits)

    @property
    def seen(self) -> list[str]:
        """What passes did so far that no pass should."""
        return sorted(set(self._spied.seen))

    @property
    def places(self) -> tuple[Place, Place]:
        return self.clean, self.near

    @property
    def logits(self) -> Tensor:
        """Of the clean images, then of the others."""
        return torch.cat([place.logits for place in self.places])

    @property
    def same(self) -> float:
        return same(self.first, self.precision)

    @property
    def steady(self) -> bool:
        return all(float(apart(self.logits, other).max()) <= self.same for other in self.others)

    def margin(self, images: Tensor) -> Tensor:
        """How far the nearest other class is ahead of the label, (M,)."""
        return margin(None, self.oracle.look(images), self.goal)

    def slope(self, loss: Loss, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and gradient of a loss at as many images."""
        count = len(images)
        ids = torch.arange(count, device=images.device)
        around = ball("linf", images, torch.ones(count, device=images.device))
        problem = Problem(around, self.goal, ids, self.first, self.seed)
        at = Point(images)
        method: Method[Point] = Method(lambda of: at, lambda of, at, answer, n: at, loss, 1)
        answer = self.oracle.ask(method, problem, at, 0, "gradient")
        return answer.logits, answer.gradient


class Spied(nn.Module):
    """`model`, and what its passes do that no pass should."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.training = model.training
        self.model = model
        self.seen: list[str] = []

    def forward(self, x: Tensor) -> Any:
        with spying(self.seen):
            return self.model(x)


def _fingerprint(model: nn.Module) -> dict[str, Any]:
    """What tells whether a part of the model was changed: of its tensors torch's own counter and
    their sum; of its other attributes the numbers, and how much is in lists and the like. (Tensors
    among these, such as a layer's last activations, may change.)"""
    named = [*model.named_parameters(), *model.named_buffers()]
    marks: dict[str, Any] = {n: (t._version, float(t.detach().double().sum())) for n, t in named}
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name in TORCHS or isinstance(value, Tensor):
                continue
            if isinstance(value, bool | int | float | str):
                marks[f"{place}.{name}".lstrip(".")] = value
            elif isinstance(value, Sized):
                marks[f"{place}.{name}".lstrip(".")] = len(value)
    return marks


TORCHS = frozenset(vars(nn.Module()))
"""Attributes that every module has; its modes are set by who asks it."""


@contextmanager
def spying(seen: list[str]) -> Iterator[None]:
    """Adds to `seen` gradients that are asked for, and steps of optimisers."""

    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append("a gradient")
        return _engine_run_backward(*args, **kwargs)

    hook = register_optimizer_step_pre_hook(lambda *_: seen.append("an optimiser's step"))
    # All of torch's ways to a gradient (grad, backward, Tensor.backward, torch.func) call this.
    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = _engine_run_backward  # type: ignore[attr-defined]
        hook.remove()
