"""Everyday corruptions of images, in five severities (Hendrycks and Dietterich 2019, section 3 and
appendix B), in torch, on whole batches.

Fourteen of the fifteen: frost is made of six photographs, which are not ours to hand out. Strengths
are those of the authors' code, `make_cifar_c.py` for images up to 64 pixels and
`make_imagenet_c.py` above. Where they loop over pixels or call an image library we do the same to
the whole batch at once, with small differences: glass blur looks up displaced pixels instead of
swapping them one after the other; JPEG is its lossy part, 8 x 8 cosine transforms rounded to the
standard's tables (ITU-T T.81, annex K), without the subsampling of colours; Poisson noise of a mean
above 12 is a rounded normal approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import BadInput
from engine.random import derive, normal, uniform

SEVERITIES = 5
SMALL = 64
"""Longest side, in pixels, of images that get the strengths of CIFAR-10-C."""

Corrupt: TypeAlias = Callable[[Tensor, Any, int, Tensor], Tensor]
"""(images (N, C, H, W) in [0, 1], strength, seed, ids int64 (N,)) -> images, not yet clipped."""


def corrupt(images: Tensor, name: str, severity: int, *, seed: int, ids: Tensor) -> Tensor:
    """The corruption `name` of `CORRUPTIONS` at `severity`, 1 to 5, as a new tensor in [0, 1].

    images: float32 (N, C, H, W) in [0, 1]. What is drawn for a sample depends on `seed` and its id,
    int64 (N,), alone. Raises BadInput if there is no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise BadInput(f"there is no corruption {name!r}; there are: {', '.join(CORRUPTIONS)}")
    if severity not in range(1, SEVERITIES + 1):
        raise BadInput(f"a severity is one of 1 to {SEVERITIES}, not {severity}")
    change, small, large = CORRUPTIONS[name]
    strengths = small if max(images.shape[2:]) <= SMALL else large
    key = derive(seed, "corruption", name, severity)
    ids = ids.to(images.device)
    return change(images, strengths[severity - 1], key, ids).clamp(0, 1)


# --- noise ----------------------------------------------------------------------------------------


def _gaussian(x: Tensor, sigma: float, seed: int, ids: Tensor) -> Tensor:
    return x + sigma * normal(seed, ids, x.shape[1:])


def _shot(x: Tensor, photons: float, seed: int, ids: Tensor) -> Tensor:
    return _poisson(x * photons, seed, ids) / photons


def _poisson(mean: Tensor, seed: int, ids: Tensor) -> Tensor:
    """A draw for each mean: below 12 by inverting the distribution, above by the first terms of
    Cornish and Fisher (1938)."""
    shape = mean.shape[1:]
    draw = uniform(derive(seed, "count"), ids, shape)
    few = mean.clamp_max(12)
    chance = (-few).exp()
    reached = chance.clone()
    count = torch.zeros_like(mean)
    for k in range(1, 40):
        count += draw > reached
        chance = chance * few / k
        reached = reached + chance
    z = normal(derive(seed, "many"), ids, shape)
    many = (mean + mean.sqrt() * z + (z * z - 1) / 6).round().clamp_min(0)
    return torch.where(mean <= 12, count, many)


def _impulse(x: Tensor, share: float, seed: int, ids: Tensor) -> Tensor:
    draw = uniform(seed, ids, x.shape[1:])
    salted = torch.where(draw < share / 2, torch.ones_like(x), x)
    return torch.where(draw > 1 - share / 2, torch.zeros_like(x), salted)


# --- blur -----------------------------------------------------------------------------------------


def _defocus(x: Tensor, strength: tuple[float, float], seed: int, ids: Tensor) -> Tensor:
    radius, sigma = strength
    reach = math.ceil(radius) + 2
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    disc = ((at[:, None] ** 2 + at**2) <= radius**2).to(x.dtype)
    soft = _bell(sigma, 1 if radius <= 8 else 2, x)
    kernel = F.conv2d(disc[None, None], (soft[:, None] * soft)[None, None], padding="same")[0, 0]
    return _filtered(x, kernel / kernel.sum())


def _glass(x: Tensor, strength: tuple[float, int, int], seed: int, ids: Tensor) -> Tensor:
    sigma, reach, times = strength
    x = _smooth(x, sigma)
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device).view(1, height, 1)
    column = torch.arange(width, device=x.device).view(1, 1, width)
    for k in range(times):
        drawn = uniform(derive(seed, "shift", k), ids, (2, height, width))
        # As numpy's randint(-reach, reach): the upper end is left out.
        shift = (drawn * 2 * reach).floor().long() - reach
        down = (row + shift[:, 0]).clamp(0, height - 1)
        right = (column + shift[:, 1]).clamp(0, width - 1)
        place = (down * width + right).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        x = x.flatten(2).gather(2, place).view_as(x)
    return _smooth(x, sigma)


def _motion(x: Tensor, strength: tuple[int, float], seed: int, ids: Tensor) -> Tensor:
    angle = (uniform(seed, ids, ()) * 90 - 45) * (math.pi / 180)
    return _dragged(x, strength[0], strength[1], angle)


def _dragged(x: Tensor, reach: int, sigma: float, angle: Tensor) -> Tensor:
    """Blurred along `angle`, (N,), in radians, one-sided, over 2 * reach + 1 pixels."""
    total, weights = torch.zeros_like(x), 0.0
    for k in range(2 * reach + 1):
        weight = math.exp(-(k**2) / (2 * sigma**2))
        if weight < 1e-4:
            break
        total += weight * _moved(x, right=k * angle.cos(), down=k * angle.sin())
        weights += weight
    return total / weights


def _zoom(x: Tensor, strength: tuple[float, float], seed: int, ids: Tensor) -> Tensor:
    end, step = strength
    factors = [1 + step * k for k in range(math.ceil((end - 1) / step - 1e-9))]
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


# --- weather --------------------------------------------------------------------------------------


def _snow(x: Tensor, strength: tuple[float, ...], seed: int, ids: Tensor) -> Tensor:
    loc, scale, zoom, threshold, reach, sigma, blend = strength
    flakes = normal(derive(seed, "flakes"), ids, (1, *x.shape[2:])) * scale + loc
    flakes = _zoomed(flakes, zoom)
    flakes = flakes.where(flakes >= threshold, torch.zeros_like(flakes)).clamp(0, 1)
    angle = (uniform(derive(seed, "angle"), ids, ()) * 90 - 135) * (math.pi / 180)
    flakes = _dragged(flakes, int(reach), sigma, angle)
    paler = torch.maximum(x, _grey(x) * 1.5 + 0.5)
    return blend * x + (1 - blend) * paler + flakes + flakes.flip(2, 3)


def _fog(x: Tensor, strength: tuple[float, float], seed: int, ids: Tensor) -> Tensor:
    amount, decay = strength
    side = 2 ** math.ceil(math.log2(max(x.shape[2:])))
    cloud = _plasma(side, decay, seed, ids)[:, None, : x.shape[2], : x.shape[3]]
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * cloud) * most / (most + amount)


def _plasma(side: int, decay: float, seed: int, ids: Tensor) -> Tensor:
    """Clouds by midpoint displacement on a torus, (N, side, side) in [0, 1]; side is a power of 2
    (Fournier, Fussell and Carpenter 1982)."""
    cloud = torch.zeros(len(ids), side, side, device=ids.device)
    step, wild = side, 100.0

    def mean(total: Tensor, what: str) -> Tensor:
        draw = uniform(derive(seed, what, step), ids, total.shape[1:])
        return total / 4 + wild * wild * (2 * draw - 1)

    while step >= 2:
        half = step // 2
        corners = cloud[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        cloud[:, half::step, half::step] = mean(total + total.roll(-1, 2), "square")
        middles = cloud[:, half::step, half::step]
        total = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        cloud[:, ::step, half::step] = mean(total, "row")
        total = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        cloud[:, half::step, ::step] = mean(total, "column")
        step, wild = half, wild / decay
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _brightness(x: Tensor, amount: float, seed: int, ids: Tensor) -> Tensor:
    """The value of HSV raised: colours keep hue and saturation."""
    value = x.amax(1, keepdim=True)
    raised = (value + amount).clamp_max(1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-12), raised)


def _contrast(x: Tensor, share: float, seed: int, ids: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * share + mean


# --- digital --------------------------------------------------------------------------------------


def _elastic(x: Tensor, strength: tuple[float, float, float], seed: int, ids: Tensor) -> Tensor:
    """Stretched by a random affine map and a smooth field (Simard, Steinkraus and Platt 2003,
    section 2). `strength` is in sides of the image."""
    height, width = x.shape[2:]
    alpha, sigma, affine = (part * min(height, width) for part in strength)
    third = min(height, width) / 3
    middle = torch.tensor([height / 2, width / 2], device=x.device)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=x.device)
    before = (middle + third * corners).expand(len(x), 3, 2)
    drawn = uniform(derive(seed, "affine"), ids, (3, 2)) * 2 - 1
    after = before + affine * drawn
    # Where each pixel comes from: the affine map of `after` to `before`.
    ones = torch.ones(len(x), 3, 1, device=x.device)
    solved = torch.linalg.solve(torch.cat([after, ones], 2).cpu(), before.cpu()).to(x.device)
    rows = torch.arange(height, dtype=x.dtype, device=x.device)
    columns = torch.arange(width, dtype=x.dtype, device=x.device)
    here = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).view(1, -1, 2)
    here = torch.cat([here, torch.ones_like(here[..., :1])], 2).expand(len(x), -1, -1)
    there = (here @ solved).view(len(x), height, width, 2)
    if alpha:
        field = uniform(derive(seed, "field"), ids, (2, height, width)) * 2 - 1
        there = there + alpha * _smooth(field, sigma, cut=3.0).permute(0, 2, 3, 1)
    scale = torch.tensor([2 / max(height - 1, 1), 2 / max(width - 1, 1)], device=x.device)
    grid = (there * scale - 1).flip(3)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)


def _pixelate(x: Tensor, share: float, seed: int, ids: Tensor) -> Tensor:
    size = [max(1, int(side * share)) for side in x.shape[2:]]
    return F.interpolate(F.interpolate(x, size, mode="area"), x.shape[2:], mode="nearest-exact")


def jpeg(x: Tensor, quality: float, seed: int = 0, ids: Tensor | None = None) -> Tensor:
    """What JPEG of `quality`, 1 to 100, leaves of images of one or three channels (each channel
    alone where there are other numbers of them). Not clipped."""
    height, width = x.shape[2:]
    padded = F.pad(x * 255, (0, -width % 8, 0, -height % 8), mode="replicate")
    if x.shape[1] == 3:
        turn = torch.tensor(_YCC, device=x.device)
        padded = torch.einsum("ij,njhw->nihw", turn, padded)
        padded[:, 0] -= 128
    else:
        padded = padded - 128
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = torch.tensor([_LUMA, _CHROMA], dtype=x.dtype, device=x.device).view(2, 8, 8)
    tables = ((tables * scale + 50) / 100).floor().clamp(1, 255)
    colour = torch.arange(x.shape[1], device=x.device).clamp_max(1) * int(x.shape[1] == 3)
    table = tables[colour].view(1, -1, 1, 1, 8, 8)
    cosine = _cosine(x)
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    kept = (cosine @ blocks @ cosine.T / table).round() * table
    blocks = cosine.T @ kept @ cosine
    whole = blocks.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    if x.shape[1] == 3:
        whole = whole.clone()
        whole[:, 0] += 128
        whole = torch.einsum("ij,njhw->nihw", torch.linalg.inv(turn), whole)
    else:
        whole = whole + 128
    return whole[:, :, :height, :width].round() / 255


def _cosine(x: Tensor) -> Tensor:
    """The orthonormal cosine transform of 8 values, (8, 8)."""
    k = torch.arange(8, dtype=x.dtype, device=x.device)
    basis = ((2 * k + 1) * k[:, None] * (math.pi / 16)).cos() / 2
    basis[0] /= math.sqrt(2)
    return basis


_YCC = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
_LUMA = [
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
]
_CHROMA = [
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *([99] * 32),
]


# --- parts ----------------------------------------------------------------------------------------


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return torch.einsum("c,nchw->nhw", x.new_tensor([0.299, 0.587, 0.114]), x)[:, None]


def _bell(sigma: float, reach: int, like: Tensor) -> Tensor:
    at = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    bell = (-(at**2) / (2 * sigma**2)).exp()
    return bell / bell.sum()


def _smooth(x: Tensor, sigma: float, cut: float = 4.0) -> Tensor:
    """Gaussian blur, cut off after `cut` sigma."""
    bell = _bell(sigma, max(1, round(cut * sigma)), x)
    return _filtered(_filtered(x, bell[None]), bell[:, None])


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel correlated with `kernel`, (K, L), both odd; borders are mirrored where the
    image is large enough, else repeated."""
    up, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    mode = "reflect" if up < x.shape[2] and left < x.shape[3] else "replicate"
    padded = F.pad(x, (left, left, up, up), mode=mode)
    weight = kernel.expand(x.shape[1], 1, *kernel.shape).contiguous()
    return F.conv2d(padded, weight, groups=x.shape[1])


def _moved(x: Tensor, *, right: Tensor, down: Tensor) -> Tensor:
    """Images moved by so many pixels, (N,) each; the border is repeated."""
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2] = -2 * right / max(x.shape[3] - 1, 1)
    theta[:, 1, 2] = -2 * down / max(x.shape[2] - 1, 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """The middle of the images, enlarged to their size."""
    theta = x.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


_Table: TypeAlias = dict[str, tuple[Corrupt, Sequence[Any], Sequence[Any]]]

CORRUPTIONS: _Table = {
    "gaussian_noise": (_gaussian, (0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        _defocus,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        _glass,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        _motion,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        _zoom,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": (
        _fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        _elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""Each with its strengths for small and for large images."""
