"""How like two images are, float (N, C, H, W) in [0, 1], and which reconstruction is of which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, DEVIATION = 11, 1.5
"""Of the weights around each pixel (Wang et al. 2004, section III.B); a smaller window for images
that are smaller."""
FIRST, SECOND = 0.01**2, 0.03**2
"""Constants of the similarity, for a range of 1."""
MOST = 100.0
"""dB of images that are the same."""


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal to noise ratio of each pair in dB, (N,): -10 log10 of the mean squared
    difference, at most 100."""
    error = (first - second).square().flatten(1).mean(1)
    return (-10 * error.clamp_min(1e-30).log10()).clamp_max(MOST)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of each pair, (N,), 1 for the same (Wang et al. 2004, equation 13), the
    mean over channels and over the places where the whole window is inside."""
    count, channels, height, width = first.shape
    side = min(WINDOW, height - (1 - height % 2), width - (1 - width % 2))
    offsets = torch.arange(side, dtype=torch.float64, device=first.device) - side // 2
    line = (-offsets.square() / (2 * DEVIATION**2)).exp()
    line = line / line.sum()
    window = torch.outer(line, line)[None, None]

    def around(values: Tensor) -> Tensor:
        return F.conv2d(values.reshape(count * channels, 1, height, width), window)

    a, b = first.double(), second.double()
    mean_a, mean_b = around(a), around(b)
    var_a = around(a * a) - mean_a.square()
    var_b = around(b * b) - mean_b.square()
    both = around(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + FIRST) * (2 * both + SECOND)
    bottom = (mean_a.square() + mean_b.square() + FIRST) * (var_a + var_b + SECOND)
    return (top / bottom).view(count, -1).mean(1)


def matched(found: Tensor, images: Tensor) -> Tensor:
    """Which of `found` is taken for each of `images`, int64 (N,): each once, so that the mean
    squared difference is smallest over all pairs."""
    from scipy.optimize import linear_sum_assignment

    apart = torch.cdist(images.flatten(1).double(), found.flatten(1).double()).square()
    _, columns = linear_sum_assignment(apart.nan_to_num(1e9).cpu().numpy())
    return torch.as_tensor(columns, dtype=torch.int64)
