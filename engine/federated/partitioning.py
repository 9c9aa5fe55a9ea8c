"""Deals the training images out to clients. Pure functions of labels, groups and a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.data import Dataset
from engine.errors import BadInput
from engine.federated.spec import (
    IID,
    Dirichlet,
    Natural,
    PartitionSpec,
    QuantitySkew,
    Shards,
)
from engine.random import derive

TRIES = 1000
"""Draws until every client has its least images."""


def partition(spec: PartitionSpec, data: Dataset, clients: int, seed: int) -> tuple[Tensor, ...]:
    """Which places of the training split each client has: int64, ascending, disjoint, together all
    of them. Depends on the arguments alone, on nothing global.

    Raises BadInput where there are more clients than images, or a client would have none.
    """
    labels = data.train.labels.cpu()
    if clients > len(labels):
        raise BadInput(
            f"there are {clients} clients and only {len(labels)} training images; expected at "
            f"least one image a client. Take at most {len(labels)} clients, or more data."
        )
    draw = np.random.default_rng(derive(seed, "partition", spec.kind, clients))
    match spec:
        case IID():
            parts = np.array_split(draw.permutation(len(labels)), clients)
        case Dirichlet():
            parts = _by_classes(labels.numpy(), clients, spec.alpha, spec.least, draw)
        case Shards():
            parts = _shards(labels.numpy(), clients, spec.shards, draw)
        case QuantitySkew():
            parts = _by_numbers(len(labels), clients, spec.alpha, spec.least, draw)
        case Natural():
            parts = _natural(data, clients, draw)
        case _:
            raise BadInput(f"there is no way to deal images out by {spec.kind!r}")
    empty = [client for client, part in enumerate(parts) if not len(part)]
    if empty:
        named = ", ".join(map(str, empty[:5])) + (" and more" if len(empty) > 5 else "")
        raise BadInput(
            f"{len(empty)} of {clients} clients would have no images (client {named}); expected at "
            "least one each. Take fewer clients, or another partition."
        )
    return tuple(torch.from_numpy(np.sort(part).astype(np.int64)) for part in parts)


def counts(parts: Sequence[Tensor], labels: Tensor, classes: int) -> Tensor:
    """How many images of each class each client has, int64 (clients, classes)."""
    labels = labels.cpu()
    return torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts])


def _by_classes(
    labels: np.ndarray, clients: int, alpha: float, least: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """Hsu, Qi and Brown 2019, in the form of Li et al. 2022 (NIID-Bench): each class by shares of
    its own; drawn again until the smallest client has `least` images."""
    if least * clients > len(labels):
        raise BadInput(_too_few(least, clients, len(labels)))
    for _ in range(TRIES):
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            places = draw.permutation(np.flatnonzero(labels == label))
            shares = draw.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(np.nan_to_num(shares))[:-1] * len(places)).astype(int)
            for part, piece in zip(parts, np.split(places, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        sizes = [len(part) for part in joined]
        if min(sizes) >= least:
            return joined
    poorest = int(np.argmin(sizes))
    raise BadInput(
        f"in {TRIES} draws with alpha {alpha:g} there was always a client with fewer than {least} "
        f"images (in the last, client {poorest} had {min(sizes)}). Raise alpha, take fewer "
        "clients, or lower `least`."
    )


def _by_numbers(
    total: int, clients: int, alpha: float, least: int, draw: np.random.Generator
) -> list[np.ndarray]:
    """Everybody gets `least`; of the rest, shares."""
    if least * clients > total:
        raise BadInput(_too_few(least, clients, total))
    shares = np.nan_to_num(draw.dirichlet(np.full(clients, alpha)))
    rest = total - least * clients
    cuts = np.round(np.cumsum(shares) * rest).astype(int)
    cuts[-1] = rest
    sizes = least + np.diff(cuts, prepend=0)
    return np.split(draw.permutation(total), np.cumsum(sizes)[:-1])


def _shards(
    labels: np.ndarray, clients: int, each: int, draw: np.random.Generator
) -> list[np.ndarray]:
    if each * clients > len(labels):
        raise BadInput(
            f"{clients} clients with {each} shards each need {each * clients} images; there are "
            f"{len(labels)}. Take fewer clients or shards."
        )
    order = draw.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    shards = np.array_split(order, each * clients)
    dealt = draw.permutation(len(shards)).reshape(clients, each)
    return [np.concatenate([shards[place] for place in mine]) for mine in dealt]


def _natural(data: Dataset, clients: int, draw: np.random.Generator) -> list[np.ndarray]:
    if data.groups is None:
        raise BadInput(
            "this data does not say who its images are from; a natural partition needs a folder "
            "with further folders inside of each class, as in cats/anna/1.png. Take another "
            "partition."
        )
    groups = data.groups[data.train.ids].numpy()
    known = np.unique(groups)
    if len(known) < clients:
        raise BadInput(
            f"the training images come from {len(known)} groups, fewer than the {clients} clients; "
            f"take at most {len(known)} clients."
        )
    dealt = np.array_split(draw.permutation(known), clients)
    return [np.flatnonzero(np.isin(groups, mine)) for mine in dealt]


def _too_few(least: int, clients: int, total: int) -> str:
    return (
        f"{clients} clients with at least {least} images each need {least * clients}; there are "
        f"{total}. Take fewer clients, or lower `least`."
    )
