"""Stratified splits: every class is divided in the same proportion, by its own seeded draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.random import derive


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of the whole set are in which split, int64, ascending."""

    train: Tensor
    validation: Tensor
    test: Tensor


def stratified(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide the places of `labels`, int64 (N,), into those that are kept and those set aside.

    Of each class round(share * count) are set aside, but at least one and not all; none of any
    if `share` is 0. The draw of a class depends on `seed` and the class alone: not on the order
    or the number of the others. Returns two ascending int64 tensors. Every class needs two
    images then, which the caller checks.
    """
    if share == 0:
        return torch.arange(len(labels)), torch.empty(0, dtype=torch.int64)
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        places = (labels == label).nonzero().flatten()
        count = set_aside(len(places), share)
        draw = torch.Generator().manual_seed(derive(seed, "split", label))
        aside[places[torch.randperm(len(places), generator=draw)[:count]]] = True
    return (~aside).nonzero().flatten(), aside.nonzero().flatten()


def set_aside(count: int, share: float) -> int:
    """How many of a class of `count` images, two or more, `stratified` sets aside."""
    return min(max(1, round(share * count)), count - 1) if share else 0


def divide(
    labels: Tensor,
    classes: Sequence[str],
    *,
    seed: int,
    validation: float,
    test: float | Tensor,
    aside: Tensor | None = None,
) -> Rows:
    """The three splits of a set with `labels`, int64 (M,).

    `test` is the share to draw, or the rows that the set itself keeps for testing; `aside` are
    rows that the set itself keeps for validation, and takes the place of the share `validation`.
    Raises BadInput where a class is too small to be in every split.
    """
    own_test = isinstance(test, Tensor)
    given = torch.zeros(len(labels), dtype=torch.bool)
    for rows in (test, aside):
        if isinstance(rows, Tensor):
            given[rows] = True
    rest = (~given).nonzero().flatten()
    drawn = [] if own_test else ["test"]
    if validation > 0 and aside is None:
        drawn.append("validation")
    _check_sizes(labels[rest], classes, drawn)

    if isinstance(test, Tensor):
        tested = test
    else:
        kept, taken = stratified(labels[rest], test, derive(seed, "test"))
        rest, tested = rest[kept], rest[taken]
    if aside is None:
        kept, taken = stratified(labels[rest], validation, derive(seed, "validation"))
        rest, aside = rest[kept], rest[taken]
    return Rows(train=rest, validation=aside, test=tested)


def _check_sizes(labels: Tensor, classes: Sequence[str], drawn: Sequence[str]) -> None:
    needed = 1 + len(drawn)
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    small = [f"{name!r} has {n}" for name, n in zip(classes, counts, strict=True) if n < needed]
    if small:
        more = f" (and {len(small) - 5} more classes)" if len(small) > 5 else ""
        advice = ", or set validation = 0" if "validation" in drawn else ""
        raise BadInput(
            f"too few images to split by class: {', '.join(small[:5])}{more}. "
            f"Each class needs at least {needed}, one for each of {', '.join(['train', *drawn])}. "
            f"Add images, leave the class out{advice}."
        )
