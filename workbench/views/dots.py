"""Many round dots at once: stamped into a picture, a tenth of the price of painting each."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPen

ROOM = 8
"""Pixels around the picture, for dots at its edge."""


def draw_dots(
    painter: QPainter,
    area: QRectF,
    places: NDArray[np.float64],
    color: QColor,
    radius: float,
    *,
    exact: bool = False,
) -> None:
    """A dot of `radius` at each of `places`, (M, 2) in the painter's coordinates, within `area`.
    They stand on whole device pixels, unless `exact` paints each by itself, as for an export."""
    if not len(places):
        return
    if exact:
        pen = QPen(color, 2 * radius)
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.save()
        painter.setClipRect(area)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(pen)
        painter.drawPoints([QPointF(x, y) for x, y in places.tolist()])
        painter.restore()
        return
    ratio = painter.device().devicePixelRatioF()
    size = math.ceil(area.width() * ratio), math.ceil(area.height() * ratio)
    shown = (places - (area.left(), area.top())) * ratio
    image = stamped(shown, size, color, radius * ratio)
    image.setDevicePixelRatio(ratio)
    painter.drawImage(area.topLeft() - QPointF(ROOM, ROOM) / ratio, image)


def stamped(
    places: NDArray[np.float64], size: tuple[int, int], color: QColor, radius: float
) -> QImage:
    """Dots at `places`, (M, 2) in pixels of a picture of `size` (width, height), which has ROOM
    around it on every side; clear elsewhere. Where dots cover each other they add nothing."""
    width, height = size[0] + 2 * ROOM, size[1] + 2 * ROOM
    width += -width % 4  # a line of an image begins at every fourth byte
    cover = np.zeros((height, width), np.uint8)
    flat = cover.reshape(-1)
    mask = _mask(min(radius, ROOM - 2))
    x, y = np.floor(places.T)
    inside = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])
    spots = (y[inside].astype(np.intp) + ROOM) * width + x[inside].astype(np.intp) + ROOM
    for right, down, strength in mask:
        at = spots + (down * width + right)
        # All that is written at a time is the same, so that it does not matter what comes last.
        flat[at] = 255 if strength == 255 else np.maximum(flat[at], strength)
    image = QImage(flat.data, width, height, width, QImage.Format.Format_Indexed8)
    image.setColorTable(_table(color.rgba()))
    return image.convertToFormat(QImage.Format.Format_ARGB32_Premultiplied)


@functools.lru_cache(64)
def _mask(radius: float) -> tuple[tuple[int, int, int], ...]:
    """Where a dot covers how much: right, down, 1 to 255."""
    reach = math.ceil(radius)
    found = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            strength = min(max(radius + 0.5 - math.hypot(right, down), 0.0), 1.0)
            if strength > 0:
                found.append((right, down, max(round(255 * strength), 1)))
    return tuple(found)


@functools.lru_cache(64)
def _table(rgba: int) -> list[int]:
    """The colour at every strength."""
    color = QColor.fromRgba(rgba)
    base, most = color.rgb() & 0xFFFFFF, color.alpha()
    return [(most * strength // 255) << 24 | base for strength in range(256)]
