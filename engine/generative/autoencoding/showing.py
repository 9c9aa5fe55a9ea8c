"""What is shown of an autoencoder while it learns: reconstructions, codes with their prior behind
them, and the images that lie on a plane of codes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine.attacks.showing import as_pixels
from engine.data import Dataset
from engine.events import Array, Event, Images
from engine.generative.autoencoding.networks import AutoencoderNet
from engine.generative.autoencoding.priors import draw
from engine.generative.spec.autoencoder import GaussianPrior, PriorSpec

PAIRS = 16
"""Images that are shown with their reconstructions."""

POINTS = 1000
"""Codes that are drawn as points, and draws of the prior."""

TOGETHER = 500
"""Images that are encoded in one pass."""

SIDE = 12
"""Images of a plane, in each direction."""

FRAMES = 40
"""Steps at which all of it is shown, and kept for replay."""


class Shown:
    """The test images that are shown: the same at every step."""

    def __init__(self, data: Dataset, prior: PriorSpec, latent: int, seed: int) -> None:
        count = min(POINTS, len(data.test))
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
        places = order[:count]
        self._images = torch.cat([x for _, x, _ in data.test.batches(places, TOGETHER)])
        self._labels = data.test.labels.cpu()[places].tolist()
        self._classes = data.classes
        self._prior = prior
        self._latent = latent
        self._seed = seed

    def once(self) -> Iterator[Event]:
        """What stays as it is: draws of the prior, their first two numbers."""
        draws = draw(self._prior, POINTS, max(2, self._latent), self._seed)
        yield Array("prior", _plain(draws[:, :2]), about={"kind": self._prior.kind})

    def frame(self, net: AutoencoderNet, step: int) -> Iterator[Event]:
        """All that is shown, as `net`, in eval mode, has it at a step."""
        with torch.no_grad():
            pairs = self._images[:PAIRS]
            made = net(pairs)
            codes = torch.cat([net.encode(part).mean for part in self._images.split(TOGETHER)])
            plane, about = self._plane(net, codes)
        both = torch.stack([pairs, made], 1).flatten(0, 1)
        captions = tuple(
            {"label": self._classes[label], "reconstruction": half == 1}
            for label in self._labels[: len(pairs)]
            for half in range(2)
        )
        yield Images("reconstructions", _pixels(both), captions, step, keep=True)
        points = codes[:, :2]
        if points.shape[1] == 1:
            points = torch.cat([points, torch.zeros_like(points)], 1)
        yield Array(
            "latents",
            _plain(points),
            step,
            keep=True,
            about={"labels": self._labels, "classes": list(self._classes)},
        )
        yield Images("plane", _mosaic(plane), (about,), step, keep=True)

    def _plane(self, net: AutoencoderNet, codes: Tensor) -> tuple[Tensor, dict[str, object]]:
        """The images on it, (rows, columns, C, H, W), rows from high y to low, and what its places
        mean. With a class head each row is a class, and each column a style; else it is spanned by
        the first two numbers of a code, the others 0."""
        width, device = self._latent, codes.device
        if net.heads:
            styles = draw(self._prior, SIDE, width, self._seed + 1).to(device)
            rows = min(net.heads, SIDE)
            classes = torch.arange(rows, device=device).repeat_interleave(SIDE)
            made = net.decode(styles.repeat(rows, 1), classes)
            return made.unflatten(0, (rows, SIDE)), {"rows": list(self._classes[:rows])}
        reach = self._reach()
        line = torch.linspace(-reach, reach, SIDE, device=device)
        y, x = torch.meshgrid(line.flip(0), line, indexing="ij")
        places = torch.zeros(SIDE * SIDE, width, device=device)
        places[:, 0] = x.flatten()
        if width > 1:
            places[:, 1] = y.flatten()
        made = net.decode(places).unflatten(0, (SIDE, SIDE))
        return made, {"extent": [-reach, reach, -reach, reach]}

    def _reach(self) -> float:
        """How far the prior goes from 0 in each direction, but for a hundredth of it."""
        if isinstance(self._prior, GaussianPrior):
            return 2.5 * self._prior.deviation
        draws = draw(self._prior, POINTS, 2, self._seed)
        return float(draws.abs().flatten().quantile(0.99))


def _mosaic(made: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Images (R, K, C, H, W) as one picture, uint8 (1, R H, K W, C)."""
    rows, columns, channels, height, width = made.shape
    whole = made.permute(2, 0, 3, 1, 4).reshape(1, channels, rows * height, columns * width)
    return _pixels(whole)


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Images (N, C, H, W) in [0, 1] as uint8 (N, H, W, C)."""
    found: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = as_pixels(images * 255)
    return found


def _plain(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    found = values.detach().float().cpu().contiguous().numpy()
    return found


def every(total: int) -> int:
    """Steps between two frames."""
    return max(1, math.ceil(total / FRAMES))
