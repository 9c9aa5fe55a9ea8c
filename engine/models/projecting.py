"""The principal directions of images, and the fixed layer that keeps nothing else of them."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import torch
from torch import Tensor, nn

from engine.data import Split
from engine.errors import BadInput

BATCH = 500

LEAST_LENGTH = 1e-6
"""An image that is shorter than this points nowhere, and counts as black."""


class Projection(nn.Linear):
    """Vectors (N, D) to (N, K), their products with K orthonormal directions.

    It never learns by gradients. Until it is told the directions of its data (`principal`), they
    are random ones.
    """

    def __init__(self, size: int, directions: int) -> None:
        """Raises BadInput for more directions than there are."""
        if directions > size:
            raise BadInput(
                f"images of {size} values have no {directions} principal directions; expected a "
                f"projection of at most {size}"
            )
        super().__init__(size, directions, bias=False)
        nn.init.orthogonal_(self.weight)
        self.weight.requires_grad_(False)


def projection_of(model: nn.Module) -> Projection | None:
    """The projection that `model` begins with, if it does."""
    return next((part for part in model.modules() if isinstance(part, Projection)), None)


def moments(model: nn.Module, split: Split) -> Generator[int, None, Tensor]:
    """The sum over the images of a split of their outer products with themselves, each as the
    projection of `model` gets it and brought to unit length: float64 (D, D). One image adds a
    matrix of Frobenius norm 1 (or 0, of a black one). Yields how many are done.
    """
    *before, body = model.children()
    inside = itertools.takewhile(lambda layer: not isinstance(layer, Projection), body.children())
    front = nn.Sequential(*before, *inside)
    total = torch.zeros((), dtype=torch.float64, device=split.device)
    done = 0
    for _, images, _ in split.batches(torch.arange(len(split)), BATCH):
        with torch.no_grad():
            vectors = nn.functional.normalize(front(images).flatten(1), eps=LEAST_LENGTH)
            total = total + (vectors.T @ vectors).double()
        done += len(images)
        yield done
    return total


def principal(moments: Tensor, count: int) -> Tensor:
    """The `count` orthonormal directions (rows) in which symmetric moments (D, D) are largest, each
    with its largest component above 0: float32 (count, D)."""
    _, vectors = torch.linalg.eigh(moments)
    found = vectors[:, -count:].flip(1).T
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    signed: Tensor = found * largest.sign()
    return signed.float().contiguous()
