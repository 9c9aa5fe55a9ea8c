"""How well samples of the plane cover the modes of a set, as it is measured since VEEGAN and PacGAN
(Srivastava et al. 2017, section 4.1; Lin et al. 2018, section 4.1).

A sample belongs to the mode of the nearest centre. It is of high quality within three sigma of it,
and a mode is covered that has at least one such sample. Of 2,500 samples of a mixture itself
1 - exp(-4.5) = 98.9 % are of high quality, however narrow it is: so the rule says nothing of a
generator that puts every sample on the centre, and `spread` stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.generative.points import PointSet

NEAR = 3.0
"""In units of sigma."""

JUDGED = 2500
"""Samples of a final judgement."""

FEW = 5
"""Samples below which a mode's spread says nothing."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """`covered` modes of `modes`; `high_quality` share of the samples; `shares`, (modes,), of them
    in each mode; `mode_tv`, total variation of those from even ones (0 to 1); `reverse_kl` in nats;
    `spread`, deviation of the good samples of a mode from their mean over sigma, the mean over the
    modes; None where no mode has enough of them."""

    covered: int
    modes: int
    high_quality: float
    shares: Tensor
    mode_tv: float
    reverse_kl: float
    spread: float | None


def coverage(samples: Tensor, points: PointSet) -> Coverage:
    """Judge samples, (N, 2) in units of the data. Those that are no numbers are in no mode."""
    samples = samples.detach().cpu()
    whole = len(samples)
    samples = samples[samples.isfinite().all(1)]
    distance, place = nearest(samples, points.centres)
    modes = points.modes[place]
    good = distance <= NEAR * points.sigma
    shares = torch.bincount(modes, minlength=points.count).double() / max(whole, 1)
    expected = torch.bincount(points.modes, minlength=points.count).double() / len(points.modes)
    held = shares > 0
    divergence = float((shares[held] * (shares[held] / expected[held]).log()).sum())
    return Coverage(
        covered=len(modes[good].unique()),
        modes=points.count,
        high_quality=float(good.sum()) / max(whole, 1),
        shares=shares.float(),
        mode_tv=float((shares - expected).abs().sum() / 2),
        reverse_kl=divergence,
        spread=_spread(samples[good], place[good], points),
    )


def nearest(samples: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each sample, all of them finite, to the nearest centre, and which it is, (N,)
    each; by a tree: of a curve there are thousands, for each of many generators at every look."""
    from scipy.spatial import KDTree

    found = KDTree(centres.double().numpy()).query(samples.double().numpy())
    return torch.from_numpy(found[0]).float(), torch.from_numpy(found[1])


def _spread(good: Tensor, place: Tensor, points: PointSet) -> float | None:
    """Of a mode in the plane: the root of the mean variance of both coordinates. Around a curve:
    the root mean square of the distances to it."""
    if points.dimensions == 1:
        if len(good) < FEW:
            return None
        distance = (good - points.centres[place]).norm(dim=1)
        return float(distance.square().mean().sqrt()) / points.sigma
    count = torch.bincount(place, minlength=len(points.centres))
    many = count >= FEW
    if not many.any():
        return None
    empty = good.new_zeros(len(count), 2, dtype=torch.float64)
    good, per = good.double(), count.clamp_min(1)[:, None]
    middle = empty.index_add(0, place, good) / per
    squares = empty.index_add(0, place, (good - middle[place]).square())
    variance = squares[many].mean(1) / (count[many] - 1)
    return float(variance.sqrt().mean()) / points.sigma


def diversity(samples: Tensor, real: Tensor) -> Tensor:
    """Mean distance between two samples over that between two of the data, (...); samples are
    (..., N, F), real (M, F). Of a collapsed generator it is near 0, of a good one near 1."""
    return apart(samples) / apart(real)


def apart(samples: Tensor) -> Tensor:
    """Mean distance between two samples, (...), of (..., N, F), on the CPU."""
    flat = samples.reshape(-1, *samples.shape[-2:]).cpu()
    return torch.stack([torch.pdist(each).mean() for each in flat]).reshape(samples.shape[:-2])
