"""What makes samples of latents, whatever it learnt by: a gan's generator, or an autoencoder's
decoder with its prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.generative.autoencoding.priors import draw
from engine.generative.sampling import BATCH, even_labels, latents
from engine.generative.spec.autoencoder import Autoencoder, GaussianPrior
from engine.generative.spec.base import GanGenerator
from engine.models.card import NetworkCard
from engine.models.files import LoadedNetwork, load_network
from engine.models.spec import NetworkSpec

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.generative.autoencoding.networks import AutoencoderNet


MOST_NUMBERS = 2**28
"""In all samples and their latents: a gigabyte, and several while they are drawn."""


@dataclass(frozen=True, slots=True)
class Maker:
    """A generative network in eval mode.

    conditional: it is told the class of each sample. arc: ways between its latents go along arcs,
    as of normal ones, and not straight on. numbers: how many of a latent are numbers; behind them
    is a code, which cannot change by little. draw: by a seed, as many latents, (N, D), with labels,
    int64 (N,), where it is conditional; on the device. make: images, float32 (N, C, H, W) in
    [0, 1], or points of a plane, (N, 1, 1, 2), of latents, and labels where it is conditional.
    """

    card: NetworkCard
    conditional: bool
    arc: bool
    numbers: int
    draw: Callable[[int, int, Tensor | None], Tensor]
    make: Callable[[Tensor, Tensor | None], Tensor]

    def samples(
        self, count: int, *, seed: int = 0, label: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`count` samples by a seed, as `make` makes them, on the CPU; of a conditional one also
        their labels, int64 (count,), places in `card.classes`: all of the class that `label`
        names, or of each in turn. The same seed gives the same samples. Raises BadInput."""
        latent = self.draw(seed, 1, self._labels(1, label)).shape[1]
        most = MOST_NUMBERS // (math.prod(self.card.shape) + 2 * latent)
        if not 1 <= count <= most:
            raise BadInput(f"{count} samples cannot be made; expected 1 to {most}")
        labels = self._labels(count, label)
        drawn = self.draw(seed, count, labels)
        made = [
            self.make(
                part, None if labels is None else labels[start : start + BATCH].to(part.device)
            )
            for start, part in zip(range(0, count, BATCH), drawn.split(BATCH), strict=True)
        ]
        return torch.cat([part.float().cpu() for part in made]), labels

    def _labels(self, count: int, label: str | None) -> Tensor | None:
        classes = self.card.classes
        if not self.conditional:
            if label is not None:
                raise BadInput(
                    f"it is told no class, so it cannot be asked for {label!r}; leave the label out"
                )
            return None
        if label is None:
            return even_labels(torch.arange(count), len(classes))
        if label not in classes:
            raise BadInput(
                f"there is no class {label!r}; expected one of: {', '.join(map(repr, classes))}"
            )
        return torch.full((count,), classes.index(label))


def load_maker(ref: str, bench: Bench) -> Maker:
    """The generator that `ref`, a run or a file, encrypted or not, names: a gan's, or an
    autoencoder's decoder with its prior.

        samples, labels = load_maker("gan", Bench(Path("demo"))).samples(100, seed=0)

    Raises BadInput if there is none, or it makes no samples of latents.
    """
    loaded = load_network(ref, bench, NetworkSpec)  # type: ignore[type-abstract]
    match loaded.card.model:
        case GanGenerator() as spec:
            return _of_generator(spec, loaded, bench.device)
        case Autoencoder() as spec:
            return _of_autoencoder(spec, loaded, bench.device)
        case other:
            raise BadInput(
                f"{ref!r} holds a network of kind {other.kind!r}, which makes no samples of "
                "latents; name the run or file of a gan's generator or of an autoencoder"
            )


def _of_generator(spec: GanGenerator, loaded: LoadedNetwork, device: torch.device) -> Maker:
    def drawn(seed: int, count: int, labels: Tensor | None) -> Tensor:
        return latents(spec.latent, seed, torch.arange(count, device=device))

    def made(values: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            images: Tensor = loaded.module(values, labels)
        return images

    arc = spec.latent.distribution == "normal"
    return Maker(loaded.card, spec.conditional, arc, spec.latent.size, drawn, made)


def _of_autoencoder(spec: Autoencoder, loaded: LoadedNetwork, device: torch.device) -> Maker:
    net = cast("AutoencoderNet", loaded.module)
    parted = spec.classes == "prior"

    def drawn(seed: int, count: int, labels: Tensor | None) -> Tensor:
        parts = labels.cpu() if parted and labels is not None else None
        return draw(spec.prior, count, spec.latent, seed, parts).to(device)

    def made(codes: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            return net.decode(codes, None if parted else labels)

    arc = isinstance(spec.prior, GaussianPrior)
    return Maker(loaded.card, spec.classes != "none", arc, spec.latent, drawn, made)
