"""The figures of image generators at the end of a run: the distance of their samples to the test
images, and whether a classifier sees the classes that were asked for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from engine.errors import CrucibleError
from engine.events import Event, Note, Progress
from engine.generative.metrics.extractors import (
    joined,
    recognised,
    seen,
    seen_of_split,
    shipped,
    suited,
)
from engine.generative.metrics.reference import Reference
from engine.generative.networks import Generator as Network
from engine.generative.sampling import samples
from engine.random import derive

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.data import Dataset
    from engine.generative.spec.base import Latent

COUNT = 10_000
"""Samples of each generator."""


def scored(
    networks: Sequence[Network],
    latent: Latent,
    seeds: Sequence[int],
    classes: int,
    data: Dataset,
    bench: Bench,
) -> Generator[Event, None, list[dict[str, Any]]]:
    """Of each generator `fid` and, where it is told `classes`, `accuracy`. Where the extractor is
    not there they are left out, with a word; so is it said where it is one of other images."""
    try:
        extractor = shipped(suited(data.shape), bench.device)
    except CrucibleError as error:
        yield Note("warning", f"no FID: {error}")
        return [{} for _ in networks]
    if tuple(extractor.shape) != tuple(data.shape) or extractor.classes != data.classes:
        # Of other images than these it tells less, and nothing beside figures of another one.
        yield Note(
            "warning",
            f"features are those of {extractor.name}; figures compare only with others of the same",
        )
    split = data.test if len(data.test) > 1 else data.train
    real = yield from seen_of_split(split, torch.arange(len(split)), extractor)
    reference = Reference(real.features)
    found = []
    for network, seed in zip(networks, seeds, strict=True):
        parts, labels, done = [], [], 0
        drawn = samples(network, latent, derive(seed, "judged"), COUNT, classes, bench.device)
        for images, told in drawn:
            parts.append(seen(images, extractor))
            if told is not None:
                labels.append(told)
            done += len(images)
            yield Progress(done, COUNT, "samples")
        all_of = joined(parts)
        own: dict[str, Any] = {"fid": round(reference.fid(all_of.features), 4)}
        if labels and extractor.classes == data.classes:
            own["accuracy"] = round(recognised(all_of, torch.cat(labels)), 5)
        found.append(own)
    return found
