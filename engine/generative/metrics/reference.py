"""The real images, as generated ones are compared with them: what is known of their features,
computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.errors import BadInput
from engine.events import drain
from engine.generative.metrics.frechet import Gaussian, frechet_distance, gaussian
from engine.generative.metrics.kernel import Kernel, kernel_distance
from engine.generative.metrics.manifold import NEIGHBOURS, Manifold, measuring, radii


@dataclass(frozen=True)
class Reference:
    """features: float32 (N, D), of real images. k: see `manifold`."""

    features: Tensor
    k: int = NEIGHBOURS

    @cached_property
    def gaussian(self) -> Gaussian:
        return gaussian(self.features)

    @cached_property
    def radii(self) -> Tensor:
        """Squared, of each image's neighbourhood."""
        return drain(radii(self.features, self.k))

    @property
    def dimensions(self) -> int:
        return self.features.shape[1]

    def fid(self, features: Tensor) -> float:
        """Fréchet distance of generated images, by their features (M, D). Biased upwards where
        there are few of either kind (Bińkowski et al. 2018, appendix D), so that only figures of
        equally many compare. Raises BadInput for fewer than two, or features of another extractor.
        """
        return frechet_distance(self.gaussian, gaussian(self._fits(features)))

    def kid(self, features: Tensor, draw: torch.Generator) -> Kernel:
        """Kernel distance; unbiased, whatever their number. Raises BadInput for fewer than four."""
        return kernel_distance(self.features, self._fits(features), draw)

    def manifold(self, features: Tensor) -> Manifold:
        """Precision, recall, density and coverage. Raises BadInput for k or fewer."""
        return drain(measuring(self.features, self._fits(features), self.radii, self.k))

    def _fits(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.dimensions:
            raise BadInput(
                f"features of {features.shape[1]} numbers are compared with some of "
                f"{self.dimensions}; look at both sets through the same extractor"
            )
        return features


def few(images: int, dimensions: int) -> str:
    """What to warn of where there are not more images than features; empty where there are."""
    if images > dimensions:
        return ""
    return (
        f"{images} images do not fill the {dimensions} dimensions of their features: the Fréchet "
        "distance is then far too high, and compares only with figures of as many images. Take "
        f"more than {dimensions}"
    )
