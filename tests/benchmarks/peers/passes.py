"""What attacks of a fixed budget cost beside the passes through the model that they ask for."""

from __future__ import annotations

import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.driver import perturb
from engine.attacks.spec import (
    APGD,
    BIM,
    DIFGSM,
    FGSM,
    KL,
    MIFGSM,
    NES,
    NIFGSM,
    PGD,
    SPSA,
    TIFGSM,
    FixedBudget,
    Noise,
    Spatial,
    Square,
    VirtualAdversarial,
)
from engine.events import drain
from tests.benchmarks.peers.judging import duel
from tests.benchmarks.peers.subjects import Setting, Subject, subjects
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 1.05

STEPS = 20

GRADIENT: tuple[FixedBudget, ...] = (
    FGSM(),
    PGD(steps=STEPS),
    PGD(norm="l2", eps=2.0, steps=STEPS, step_size=0.25),
    PGD(norm="l1", eps=10.0, steps=STEPS, step_size=1.0),
    BIM(steps=STEPS),
    MIFGSM(steps=STEPS),
    MIFGSM(norm="l2", eps=2.0, steps=STEPS),
    NIFGSM(steps=STEPS),
    DIFGSM(steps=STEPS),
    TIFGSM(steps=STEPS),
    KL(steps=STEPS),
    VirtualAdversarial(),
    APGD(steps=STEPS),
    APGD(steps=STEPS, loss="dlr"),
    APGD(norm="l2", eps=2.0, steps=STEPS),
    APGD(norm="l1", eps=10.0, steps=STEPS),
)
"""Run with early_exit=False: all samples to the end, as a training does."""

TINY = 1e-3

OTHER: tuple[FixedBudget, ...] = (
    Square(steps=5 * STEPS, eps=TINY),
    Square(steps=5 * STEPS, norm="l2", eps=TINY),
    NES(steps=4, eps=TINY),
    SPSA(steps=2, eps=TINY),
    Noise(norm="linf", eps=TINY, repeats=5 * STEPS),
    Spatial(eps=TINY, rotations=5),
)
"""These cannot be run so: inside a ball so small that nothing breaks, nothing leaves."""


def main(setting: Setting) -> list[Row]:
    """A row for each attack, on the net that was not trained against them."""
    on = subjects(setting)[0].correct()
    return [_compare(on, spec, True, setting) for spec in GRADIENT] + [
        _compare(on, spec, False, setting) for spec in OTHER
    ]


def _compare(on: Subject, spec: FixedBudget, training: bool, setting: Setting) -> Row:
    ids = torch.arange(len(on.labels))

    def ours(turn: int, model: nn.Module = on.model) -> Tensor:
        steps = perturb(
            model, on.images, on.labels, spec, seed=turn, ids=ids, early_exit=not training
        )
        return drain(steps).adversarial

    asked = Asked(on.model)
    found = ours(0, asked)
    with torch.no_grad():
        left = int((on.model(found).argmax(1) == on.labels).sum())
    few = setting.repeats * 3
    seconds, _ = duel({"ours": ours, "bare": lambda turn: replay(on, asked.questions)}, few)
    share = ratios(seconds["ours"], seconds["bare"])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    grads = sum(count for count, gradient in asked.questions if gradient)
    total = sum(count for count, _ in asked.questions)
    return Row(
        f"{spec.kind} {spec.norm}{_loss(spec)} without exit, {len(ids)} images: CPU against its "
        "own pure passes",
        f"<= {TARGET}",
        spread(share),
        statistics.median(share) <= TARGET if setting.whole else None,
        f"{middle['ours']:.2f} s and {middle['bare']:.2f} s for {total} images asked about, "
        f"{grads} of them with a gradient"
        + ("" if training else f"; {len(ids) - left} broken at eps {TINY:g}"),
    )


def _loss(spec: FixedBudget) -> str:
    return f" {spec.loss}" if isinstance(spec, APGD) else ""


class Asked(nn.Module):
    """Keeps what a model is asked: how many images, and whether with a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.questions: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Any:
        self.questions.append((len(x), x.requires_grad))
        return self.model(x)


def replay(on: Subject, questions: list[tuple[int, bool]]) -> Tensor:
    """The same questions, asked as one writes it by hand."""
    most = max(count for count, _ in questions)
    times = -(-most // len(on.images))
    images, labels = on.images.repeat(times, 1, 1, 1), on.labels.repeat(times)
    x = images
    for count, gradient in questions:
        x = images[:count]
        if gradient:
            x = x.detach().requires_grad_()
            loss = F.cross_entropy(on.model(x), labels[:count], reduction="sum")
            torch.autograd.grad(loss, x)
        else:
            with torch.no_grad():
                on.model(x)
    return x.detach()
