"""How often a look at the layers is affordable.

Which steps are looked at must not depend on a clock: a run that is repeated or resumed looks at the
same ones. So the interval is derived from what can be counted in the first look (layers, products,
numbers read), by the rates below, which were measured once on one core; they only have to be about
right for the cost to stay within its share, which `tests/benchmarks/diagnostics.py` measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["off", "light", "full"]

SHARE = {"light": 0.03, "full": 0.2}
"""What the looks may cost, as a share of the steps. (Of the full mode's one half the rest is for
what looks at the loss around the weights.)"""
COLUMNS = {"light": 150, "full": 300}
"""Looks that a whole run has at most."""

STEP_LAYER, STEP_MODULE = 75e-6, 15e-6
"""Seconds of a step for a layer (forward, backward and optimiser), and for any other module."""
STEP_PRODUCT = 3 / 40e9
"""Seconds of a step for one product of numbers of a forward pass: backward takes two more."""
LOOK, LOOK_LAYER = 150e-6, 330e-6
"""Seconds of a look, and for each layer of it."""
FIRST_LAYER = 400e-6
"""Seconds more of the first look for each layer: its power iteration begins with nothing."""
LOOK_VALUE, LOOK_WEIGHT = 7e-9, 5e-9
"""Seconds for an activation, and for a weight, that is looked at."""


@dataclass(slots=True)
class Counts:
    """What a look saw: layers, other modules that compute, products summed in all forward passes of
    the step, activations and weights."""

    layers: int = 0
    modules: int = 0
    products: int = 0
    activations: int = 0
    weights: int = 0

    def step(self) -> float:
        """About what a step costs, in seconds."""
        small = self.layers * STEP_LAYER + self.modules * STEP_MODULE
        return small + self.products * STEP_PRODUCT

    def look(self, products_of_one: int = 0) -> float:
        """About what a look costs, in seconds; it puts two samples' worth through each layer."""
        small = LOOK + self.layers * LOOK_LAYER
        large = self.activations * LOOK_VALUE + self.weights * LOOK_WEIGHT
        return small + large + products_of_one * STEP_PRODUCT


def interval(counts: Counts, mode: Mode, total: int, samples: int) -> int:
    """Steps from one look to the next, of `total` in a run with `samples` in a step."""
    look = counts.look(counts.products // max(samples, 1))
    spare = SHARE[mode] * counts.step() * total - counts.layers * FIRST_LAYER
    looks = min(max(spare / look, 1.0), COLUMNS[mode])
    return max(1, math.ceil(total / looks))
