"""What the steps of a gan run draw: data, latents, classes, noise.

Every draw of a seed is a function of that seed and of how many steps its network has taken, so it
is the same whoever trains beside it, and wherever a run is taken up again. Small draws are made for
several steps at once, which costs a fraction; how many these are follows from their size alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.data import Split
from engine.generative.points import PointSet
from engine.generative.sampling import with_codes
from engine.generative.spec.base import Latent
from engine.random import derive

MOST = 2**18
"""Numbers that are drawn at once."""

BLOCK = 64
"""Steps that they are drawn for, at most."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples in units of the networks, (S, B, ...) and without S for one seed, with labels (S, B),
    int64, where generated samples are told classes."""

    samples: Tensor
    labels: Tensor


class Draws:
    """The draws of seeds side by side: `seed`, `seed` + 1, ..."""

    def __init__(
        self,
        seed: int,
        seeds: int,
        latent: Latent,
        batch_size: int,
        device: torch.device,
        classes: int,
    ) -> None:
        """`classes` are those that generated samples are told, 0 for none."""
        self.seeds = tuple(range(seed, seed + seeds))
        self.latent, self.batch_size, self.device = latent, batch_size, device
        self.classes = classes
        self._blocks: dict[str, tuple[int, Tensor]] = {}

    def generators(self, purpose: str, step: int) -> list[torch.Generator]:
        """One CPU generator a seed."""
        return [torch.Generator().manual_seed(derive(s, purpose, step)) for s in self.seeds]

    def latents(self, network: str, step: int) -> Tensor:
        """(S, B, width) for a step of `network`."""
        latent = self.latent

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            if latent.distribution == "normal":
                drawn = torch.randn(rows, latent.size, generator=generator)
            else:
                drawn = torch.rand(rows, latent.size, generator=generator).mul_(2).sub_(1)
            share = torch.rand(rows, generator=generator) if latent.codes else drawn[:, 0]
            return with_codes(latent, drawn, share)

        return self._drawn(f"{network}/latent", step, self.batch_size, latent.width, draw)

    def labels(self, network: str, step: int) -> Tensor | None:
        """Classes to make, (S, B), each as likely as any other."""
        if not self.classes:
            return None

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            return torch.randint(self.classes, (rows,), generator=generator)

        return self._drawn(f"{network}/label", step, self.batch_size, 1, draw)

    def noise(self, network: str, step: int, shape: tuple[int, ...], batches: int) -> Tensor:
        """Standard normal, (S, batches * B, *shape)."""

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            return torch.randn(rows, *shape, generator=generator)

        size = 1
        for side in shape:
            size *= side
        return self._drawn(f"{network}/noise", step, batches * self.batch_size, size, draw)

    def shares(self, network: str, step: int) -> Tensor:
        """Uniform in [0, 1), (S, B)."""

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            return torch.rand(rows, generator=generator)

        return self._drawn(f"{network}/share", step, self.batch_size, 1, draw)

    def points(self, network: str, step: int, points: PointSet) -> Batch:
        """New points of a set, in units of the networks."""

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            drawn, own = points.draw(rows, generator)
            # Together in one tensor, so that they stay together: labels are small whole numbers.
            return torch.cat([points.inside(drawn), own[:, None].to(drawn.dtype)], 1)

        both = self._drawn(f"{network}/data", step, self.batch_size, 3, draw)
        return Batch(both[..., :2], both[..., 2].long() if self.classes else both[..., 2])

    def images(self, network: str, step: int, split: Split) -> Batch:
        """Images of a split, drawn with replacement, in [-1, 1]."""

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            return torch.randint(len(split), (rows,), generator=generator)

        index = self._drawn(f"{network}/data", step, self.batch_size, 1, draw)
        images, labels = split.batch(index.flatten())
        images = images.mul_(2).sub_(1)
        return Batch(images.view(*index.shape, *split.shape), labels.view(index.shape))

    def _drawn(
        self,
        purpose: str,
        step: int,
        rows: int,
        size: int,
        draw: Callable[[int, torch.Generator], Tensor],
    ) -> Tensor:
        """`rows` rows of `size` numbers for `step`, of each seed."""
        steps = max(1, min(BLOCK, MOST // (rows * size)))
        place, within = divmod(step, steps)
        held = self._blocks.get(purpose)
        if held is None or held[0] != place:
            drawn = [draw(steps * rows, g) for g in self.generators(purpose, place)]
            each = [d.unflatten(0, (steps, rows)) for d in drawn]
            block = each[0] if len(each) == 1 else torch.stack(each, 1)
            held = (place, block.to(self.device, non_blocking=True))
            self._blocks[purpose] = held
        return held[1][within]
