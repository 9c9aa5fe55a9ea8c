"""What is known of adversarial examples, whoever made them, and how two sides are compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from engine.attacks.tally import wilson
from engine.robustness.statistics import mcnemar
from tests.benchmarks.rows import in_turn

ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0, "free": 2.0}

SLACK = 1e-4
"""By how much of its radius a perturbation may be larger: peers project in float32 and do not mind
rounding."""

CERTAIN = 0.05
"""p-values below it count as a difference."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """correct: bool (N,), right when clean. broken: bool (N,), right when clean and wrong now.
    norm: float64 (N,), size of what broke a sample, infinite where nothing did."""

    correct: Tensor
    broken: Tensor
    norm: Tensor

    @property
    def robust(self) -> Tensor:
        return self.correct & ~self.broken

    @property
    def success(self) -> float:
        """Broken / correct."""
        return int(self.broken.sum()) / max(1, int(self.correct.sum()))

    @property
    def median(self) -> float:
        """Median norm of the correct samples; infinite if most were not broken."""
        norms = self.norm[self.correct].sort().values
        return float(norms[(len(norms) - 1) // 2 : len(norms) // 2 + 1].mean())

    def accuracy(self) -> str:
        """Robust accuracy with its interval."""
        hits, total = int(self.robust.sum()), len(self.robust)
        low, high = wilson(hits, total)
        return f"{hits / total:.3f} [{low:.3f}, {high:.3f}]"


def judge(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    norm: str,
    eps: float = math.inf,
) -> Verdict:
    """Look at `adversarial`, (N, C, H, W), with a pass of its own. What lies outside of the box, or
    by more than `SLACK` outside of the ball, breaks nothing."""
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
        wrong = model(adversarial).argmax(1) != labels
    change = (adversarial.double() - images.double()).flatten(1)
    size = torch.linalg.vector_norm(change, ORDERS[norm], dim=1)
    flat = adversarial.flatten(1)
    inside = (flat.amin(1) >= -1e-6) & (flat.amax(1) <= 1 + 1e-6) & (size <= eps * (1 + SLACK))
    broken = correct & wrong & inside
    return Verdict(correct, broken, size.where(broken, math.inf))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Samples that one of two sides alone broke; several duels may be added up."""

    ours: int
    theirs: int

    @classmethod
    def of(cls, ours: Verdict, theirs: Verdict) -> Pairs:
        alone = (ours.broken & ~theirs.broken).sum(), (theirs.broken & ~ours.broken).sum()
        return cls(int(alone[0]), int(alone[1]))

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.ours + other.ours, self.theirs + other.theirs)

    @property
    def weaker(self) -> bool:
        """Ours leaves more samples robust, beyond sampling error."""
        return self.theirs > self.ours and mcnemar(self.ours, self.theirs) < CERTAIN

    def __str__(self) -> str:
        p = mcnemar(self.ours, self.theirs)
        return f"broken by us alone {self.ours}, by them alone {self.theirs} (p {p:.2g})"


def duel(
    ways: Mapping[str, Callable[[int], Tensor]], repeats: int, warm: bool = True
) -> tuple[dict[str, list[float]], dict[str, list[Tensor]]]:
    """CPU seconds of each way in each turn, side by side, and what it returned. A way is called
    with the number of its turn, which is torch's seed then."""
    returned: dict[str, list[Tensor]] = {name: [] for name in ways}

    def once(name: str) -> float:
        turn = max(0, len(returned[name]) - int(warm))
        torch.manual_seed(turn)
        began = time.process_time()
        found = ways[name](turn)
        seconds = time.process_time() - began
        returned[name].append(found)
        return seconds

    found = in_turn({name: partial(once, name) for name in ways}, repeats, warm)
    return found, {name: values[int(warm) :] for name, values in returned.items()}


def relative(ours: Verdict, theirs: Verdict) -> str:
    """How much larger or smaller our perturbations are, over the samples that both broke."""
    both = ours.broken & theirs.broken
    if not both.any():
        return "no sample broken by both"
    share = ours.norm[both] / theirs.norm[both]
    larger, smaller = (share > 1.02).double().mean(), (share < 0.98).double().mean()
    return f"larger by 2 % on {larger:.0%} of samples, smaller on {smaller:.0%}"
