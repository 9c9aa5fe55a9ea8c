"""The Fréchet distance of two Gaussians, and so of two sets of features (FID).

A covariance is held as a root of it, R'R, which a QR decomposition takes from the features
themselves. Then tr(sqrt(A B)) is the sum of the singular values of R_a R_b': no product of
covariances is formed, whose small eigenvalues are lost in rounding, and sets with fewer samples
than features are as exact as others. Everything is float64, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import BadInput


@dataclass(frozen=True, slots=True)
class Gaussian:
    """mean: float64 (D,). root: float64 (K, D), K <= D, of which root' root is the covariance."""

    mean: Tensor
    root: Tensor

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(self.root.square().sum())


def gaussian(features: Tensor) -> Gaussian:
    """The Gaussian with the mean and the (unbiased) covariance of `features`, (N, D). Raises
    BadInput for fewer than two."""
    if len(features) < 2:
        raise BadInput(
            f"a covariance is of at least two images, and there is {len(features)}; take more"
        )
    values = features.detach().to("cpu", torch.float64)
    mean = values.mean(0)
    root = torch.linalg.qr((values - mean) / (len(values) - 1) ** 0.5, mode="r").R
    return Gaussian(mean, root)


def gaussian_of(mean: Tensor, covariance: Tensor) -> Gaussian:
    """The Gaussian of a mean, (D,), and a covariance, (D, D), whose root is taken by its
    eigenvalues; those that rounding has made negative count as none."""
    values, vectors = torch.linalg.eigh(covariance.detach().to("cpu", torch.float64))
    root = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return Gaussian(mean.detach().to("cpu", torch.float64), root)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), at least 0 (Dowson and Landau 1982; Heusel et al.
    2017, equation 6)."""
    shared = torch.linalg.svdvals(first.root @ second.root.T).sum()
    apart = (first.mean - second.mean).square().sum()
    return max(0.0, float(apart - 2 * shared) + first.variance + second.variance)
