"""The wavelet scattering transform of images, a fixed first part of a model (Mallat 2012; Bruna and
Mallat 2013): what oriented waves of several sizes find, how strongly, and again what they find in
that.

An image is filtered by Morlet wavelets of `scales` sizes and `angles` directions; the moduli are
filtered once more by the larger ones; everything is smoothed and taken every 2**scales pixels.
Filters, borders and order of the channels are those of Kymatio (Andreux et al. 2020), whose numbers
come out.
"""

from __future__ import annotations

import contextlib
import itertools
import math

import torch
from torch import Tensor, nn

from engine.errors import BadInput

Shape = tuple[int, int, int]

WIDEST = 0.8
"""Deviation of a wavelet's envelope, over 2**scale pixels."""

FREQUENCY = 3 * math.pi / 4
"""Of a wavelet, radians a pixel at scale 0."""

REPEATS = range(-2, 3)
"""Copies of a filter, one padded image apart each, that are added up where it is periodic."""

TOGETHER = 8
"""Images that are transformed together on a CPU: what is in between then stays in its cache."""


class Scattering(nn.Module):
    """Images (N, C, H, W) to (N, C * K, H // 2**scales, W // 2**scales), K = 1 + L J + L**2 J
    (J - 1) / 2 for J scales and L angles: the smoothed image, then first, then second order.

    It has no parameters, and its filters are no part of a model's file. Always computed in the
    images' own precision, under autocast too.
    """

    def __init__(self, shape: Shape, scales: int, angles: int) -> None:
        """Raises BadInput for images that are too small for so many scales."""
        super().__init__()
        channels, *sides = shape
        step = 2**scales
        padded = [((side + step) // step + 1) * step for side in sides]
        before = [(whole - side) // 2 for whole, side in zip(padded, sides, strict=True)]
        after = [whole - side - b for whole, side, b in zip(padded, sides, before, strict=True)]
        if max(after) >= min(sides) or min(sides) < step:
            raise BadInput(
                f"images of {sides[0]} x {sides[1]} are too small for {scales} scales of "
                f"scattering; expected sides above {2**scales}. Lower the scales."
            )
        self.scales, self.angles = scales, angles
        self.padding = (before[1], after[1], before[0], after[0])
        self.shape = (
            channels * (1 + angles * scales + angles**2 * scales * (scales - 1) // 2),
            sides[0] // step,
            sides[1] // step,
        )
        for j in range(scales):
            whole = torch.stack([_wave(padded, j, angles, n) for n in range(angles)])
            # What sees the image itself, and, of the moduli of each smaller scale, what they are.
            for level in range(max(j, 1)):
                # A pixel in `times` of each side is taken, a mean over frequencies; see `_folded`.
                times = 2 ** (j - level)
                self._keep(f"wave_{j}_{level}", _cropped(whole, level) / times**2)
        for level in range(scales + 1):
            for axis, side in enumerate(padded):
                self._keep(f"smooth_{level}_{axis}", _smoothing(side, scales, level))

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.to(torch.float32), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        device = images.device.type
        known = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if known else contextlib.nullcontext():
            if device != "cpu":
                return self._transformed(images)
            return torch.cat([self._transformed(part) for part in images.split(TOGETHER)])

    def _transformed(self, images: Tensor) -> Tensor:
        x = nn.functional.pad(images, self.padding, mode="reflect")
        smooth = [self._smoothed(x, 0).unsqueeze(2)]
        first, second = [], []
        spectrum = torch.fft.fft2(x)
        for j in range(self.scales):
            u = self._found(spectrum, j, 0)  # (N, C, L, h, w)
            first.append(self._smoothed(u, j))
            if j + 1 < self.scales:
                inner, larger = torch.fft.fft2(u), range(j + 1, self.scales)
                deeper = [self._smoothed(self._found(inner, k, j), k) for k in larger]
                second.append(torch.stack(deeper, 3).flatten(2, 4))
        return torch.cat([*smooth, *first, *second], 2).flatten(1, 2)

    def _found(self, spectrum: Tensor, j: int, level: int) -> Tensor:
        """How strongly the waves of scale `j` are in maps of 1 / 2**level of the image's size, of
        Fourier transform (..., h, w): (..., L, h / 2**(j - level), w / 2**(j - level))."""
        waves: Tensor = self.get_buffer(f"wave_{j}_{level}")
        found: Tensor = torch.fft.ifft2(_folded(spectrum, waves, 2 ** (j - level))).abs()
        return found

    def _smoothed(self, maps: Tensor, level: int) -> Tensor:
        """Maps of 1 / 2**level of the image's size, smoothed, at the places that are kept."""
        rows = self.get_buffer(f"smooth_{level}_0")
        columns = self.get_buffer(f"smooth_{level}_1")
        return rows @ (maps @ columns.T)

    def extra_repr(self) -> str:
        return f"scales={self.scales}, angles={self.angles}"


def _folded(spectrum: Tensor, waves: Tensor, times: int) -> Tensor:
    """The Fourier transform of maps (..., h, w) times each of the waves (L, h, w); of what that is
    the transform of, every `times`-th pixel: (..., L, h / times, w / times), `times`**2 too large.
    """
    height, width = spectrum.shape[-2] // times, spectrum.shape[-1] // times
    spectrum = spectrum.unsqueeze(-3)
    waves = waves.to(spectrum.dtype)
    total: Tensor | None = None
    for row, column in itertools.product(range(times), repeat=2):
        part = (
            ...,
            slice(row * height, (row + 1) * height),
            slice(column * width, (column + 1) * width),
        )
        if total is None:
            total = spectrum[part] * waves[part]
        else:
            total = torch.addcmul(total, spectrum[part], waves[part])
    assert total is not None
    return total


# --- filters --------------------------------------------------------------------------------------


def _wave(sides: list[int], j: int, angles: int, turn: int) -> Tensor:
    """The Fourier transform, which is real, of a Morlet wavelet: a wave in a Gaussian envelope that
    is longer along its crests, less so much of the envelope that its mean is zero."""
    deviation = WIDEST * 2**j
    angle = (int(angles / 2 - 1) - turn) * math.pi / angles
    frequency = FREQUENCY / 2**j
    slant = 4 / angles
    across, along = math.cos(angle), math.sin(angle)
    envelope = torch.zeros(*sides, dtype=torch.float64)
    wave = torch.zeros(*sides, dtype=torch.complex128)
    for down, right in itertools.product(REPEATS, repeat=2):
        y = (torch.arange(sides[0], dtype=torch.float64) + down * sides[0])[:, None]
        x = (torch.arange(sides[1], dtype=torch.float64) + right * sides[1])[None]
        distance = (across * y + along * x) ** 2 + slant**2 * (across * x - along * y) ** 2
        part = (-distance / (2 * deviation**2)).exp()
        envelope += part
        phase = frequency * (across * y + along * x)
        wave += torch.complex(part * phase.cos(), part * phase.sin())
    wave -= envelope * (wave.sum() / envelope.sum())
    spectrum: Tensor = torch.fft.fft2(wave).real * (slant / (2 * math.pi * deviation**2))
    return spectrum


def _cropped(filters: Tensor, level: int) -> Tensor:
    """Filters (..., h, w), given by their Fourier transform, at 1 / 2**level of the size: their low
    frequencies, those that the smaller size knows."""
    for axis in (-2, -1):
        side = filters.shape[axis]
        half = side // 2 ** (level + 1)
        if level:
            low = filters.narrow(axis, 0, half), filters.narrow(axis, side - half, half)
            filters = torch.cat(low, axis)
    return filters


def _smoothing(side: int, scales: int, level: int) -> Tensor:
    """What smooths one axis of maps of 1 / 2**level of the padded size and takes the places that
    are kept, none in the border: (side / 2**scales - 2, side / 2**level)."""
    deviation = WIDEST * 2 ** (scales - 1)
    at = torch.arange(side, dtype=torch.float64)
    repeats = [(-((at + n * side) ** 2) / (2 * deviation**2)).exp() for n in REPEATS]
    gauss = torch.stack(repeats).sum(0) / (math.sqrt(2 * math.pi) * deviation)
    spectrum = _cropped(torch.fft.fft(gauss).real[None, :].expand(side, side), level)[0]
    kernel: Tensor = torch.fft.ifft(spectrum).real
    size = len(kernel)
    kept = torch.arange(1, side // 2**scales - 1) * 2 ** (scales - level)
    return kernel[(kept[:, None] - torch.arange(size)[None]) % size]
