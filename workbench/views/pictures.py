"""Pictures as arrays: their colours, and where a mosaic puts them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QColor, QImage

from workbench import theme

Pixels = NDArray[np.uint8]
Packed = NDArray[np.uint32]
"""0xffRRGGBB, as QImage.Format_RGB32 has it."""
SHARP, STAY = 0.8, 0.9
"""Share of the largest size that pictures may shrink to, to be sharp and to stay in place."""


def gray_table() -> Packed:
    """Brightness 0 to 255 as packed colours."""
    return _packed(np.arange(256)[:, None].repeat(3, axis=1))


def diverging_table(negative: str, zero: str, positive: str) -> Packed:
    """Signed values (128 is zero) as packed colours between the three given."""
    ends = [
        np.array([c.red(), c.green(), c.blue()], dtype=np.float64)
        for c in (QColor(negative), QColor(zero), QColor(positive))
    ]
    value = np.clip((np.arange(256) - 128.0) / 127.0, -1, 1)[:, None]
    # The square root lifts small perturbations off the ground: most of a picture's are small.
    share = np.sqrt(np.abs(value))
    rgb = np.where(value < 0, ends[0], ends[2]) * share + ends[1] * (1 - share)
    return _packed(np.rint(rgb))


def pack(pixels: Pixels, scale: float | None) -> Packed:
    """(N, H, W, C) uint8 as (N, H, W) packed colours. With a `scale` the pictures are signed and
    drawn in the theme's diverging colours; of three channels their mean is shown."""
    if scale is not None:
        signed = pixels[..., 0] if pixels.shape[-1] == 1 else np.rint(pixels.mean(axis=-1))
        return diverging_table(*theme.manager.theme.diverging)[signed.astype(np.uint8)]
    if pixels.shape[-1] == 1:
        return gray_table()[pixels[..., 0]]
    return _packed(pixels)


def _packed(rgb: NDArray[Any]) -> Packed:
    """(..., 3) values of 0 to 255 as packed colours."""
    wide = rgb.astype(np.uint32)
    packed: Packed = np.uint32(0xFF000000) | wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed


def image(packed: Packed) -> QImage:
    """(H, W) packed colours as a picture of its own memory."""
    packed = np.ascontiguousarray(packed)
    height, width = packed.shape
    return QImage(packed.data, width, height, width * 4, QImage.Format.Format_RGB32).copy()


@dataclass(frozen=True)
class Grid:
    """Where the tiles of a mosaic are, in device pixels."""

    columns: int
    rows: int
    tile_width: float
    tile_height: float
    gap: int
    left: float
    top: float
    crisp: bool  # tiles are integer multiples of their pictures

    def place(self, index: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of a tile."""
        row, column = divmod(index, self.columns)
        return (
            self.left + column * (self.tile_width + self.gap),
            self.top + row * (self.tile_height + self.gap),
            self.tile_width,
            self.tile_height,
        )

    def index_at(self, x: float, y: float, count: int) -> int:
        """The tile under a point, -1 where there is none."""
        column = math.floor((x - self.left) / (self.tile_width + self.gap))
        row = math.floor((y - self.top) / (self.tile_height + self.gap))
        index = row * self.columns + column
        inside = 0 <= column < self.columns and row >= 0
        return index if inside and index < count else -1


def arrange(
    count: int,
    size: tuple[int, int],
    area: tuple[int, int],
    gap: int,
    largest: float,
    keep: int = 0,
) -> Grid:
    """The grid that shows `count` pictures of `size` (height, width) largest in `area` (width,
    height). Whole multiples of the picture are preferred unless they waste a fifth. No tile is
    higher or wider than `largest`. As many columns as there were (`keep`) stay while that costs
    less than a tenth, so that pictures do not move about with every pixel of a card."""
    height, width = size

    def factor_of(columns: int) -> float:
        rows = math.ceil(count / columns)
        return min(
            (area[0] - gap * (columns - 1)) / (columns * width),
            (area[1] - gap * (rows - 1)) / (rows * height),
            largest / max(width, height),
        )

    columns = max(range(1, max(count, 1) + 1), key=factor_of)
    if 0 < keep <= count and factor_of(keep) > STAY * factor_of(columns):
        columns = keep
    factor = factor_of(columns)
    crisp = factor >= 1 and math.floor(factor) >= SHARP * factor
    factor = max(math.floor(factor) if crisp else factor, 1 / max(width, height))
    rows = math.ceil(count / columns) if count else 0
    tile_width, tile_height = factor * width, factor * height
    if not crisp:
        tile_width, tile_height = math.floor(tile_width) or 1, math.floor(tile_height) or 1
    total_width = columns * tile_width + gap * (columns - 1)
    total_height = rows * tile_height + gap * (rows - 1)
    return Grid(
        columns,
        rows,
        tile_width,
        tile_height,
        gap,
        max((area[0] - total_width) // 2, 0),
        max((area[1] - total_height) // 2, 0),
        crisp,
    )


def compose(packed: Packed, grid: Grid, area: tuple[int, int], ground: int) -> QImage:
    """All tiles of a crisp grid in one picture of `area` (width, height)."""
    count, _, width = packed.shape
    factor = int(grid.tile_width // width)
    canvas = np.full((area[1], area[0]), ground, dtype=np.uint32)
    enlarged = packed.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else packed
    for index in range(count):
        left, top, wide, high = (int(v) for v in grid.place(index))
        target = canvas[top : top + high, left : left + wide]
        target[...] = enlarged[index, : target.shape[0], : target.shape[1]]
    return QImage(canvas.data, area[0], area[1], area[0] * 4, QImage.Format.Format_RGB32).copy()
