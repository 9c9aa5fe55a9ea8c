"""The loss on a plane through a model's weights."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.events import Array, Event, Progress
from engine.training.diagnostics.curvature import Loss, Weights

NAME = "loss_plane"


def direction(weights: Weights, generator: torch.Generator) -> Weights:
    """A random direction in which each filter is as long as the model's own, and biases and weights
    of normalisation stay: so that planes of models with differently scaled weights compare (Li et
    al. 2018, section 4, with their "ignore biasbn"). A filter is what feeds one unit."""
    found: Weights = {}
    for name, weight in weights.items():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            found[name] = torch.zeros_like(weight)
            continue
        own, its = _lengths(weight), _lengths(drawn)
        found[name] = drawn * (own / its.clamp_min(1e-12))
    return found


def _lengths(weight: Tensor) -> Tensor:
    """Of every filter, in a shape that multiplies with the weight."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (weight.dim() - 1))


def loss_plane(
    loss: Loss, generator: torch.Generator, step: int, side: int = 21, reach: float = 1.0
) -> Generator[Event, None, NDArray[np.float32]]:
    """The loss at side x side points of a plane through the weights, whose two random directions
    are as long as the weights' own filters; the middle is the model. `reach` is how far it goes to
    each side, in such lengths. (side, side), rows from low to high; infinite where the loss is no
    number. Yields Progress after every point, and the array after every row."""
    one, other = direction(loss.weights, generator), direction(loss.weights, generator)
    places = np.linspace(-reach, reach, side)
    found = np.full((side, side), np.nan, np.float32)
    about = {"extent": [-reach, reach, -reach, reach], "samples": len(loss.inputs)}
    middle, done = side // 2, 0
    # From the middle outwards: what is cut short shows what lies next to the model.
    for row in sorted(range(side), key=lambda row: abs(row - middle)):
        for column in range(side):
            a, b = float(places[column]), float(places[row])
            moved = {
                name: weight + a * one[name] + b * other[name]
                for name, weight in loss.weights.items()
            }
            value = loss.value(moved)
            found[row, column] = value if np.isfinite(value) else np.inf
            done += 1
            yield Progress(done, side * side, "points judged")
        yield Array(NAME, found.copy(), step, about=about)
    return found
