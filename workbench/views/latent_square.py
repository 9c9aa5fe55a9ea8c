"""A square between four latents: what a generator makes of every mixture of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QImage, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views import pictures
from workbench.views.painted import Drawing
from workbench.views.pictures import Packed, Pixels
from workbench.views.text import percent

SIDE = 7
"""Pictures in a row of the square."""
STEP = 0.05
"""Of the arrow keys, as a share of the square."""


class LatentSquare(Drawing):
    """The square, filled with pictures of it, and beside it the picture of the place that is held.
    It is dragged, or moved by the arrow keys; Home brings it to the middle."""

    moved = Signal(float, float)
    """A person wants the picture at another place: from left to right and from top to bottom, both
    0 to 1."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.at = QPointF(0.5, 0.5)
        self._plane: Packed | None = None
        self._one: QImage | None = None
        self._field = QRectF()
        self.setCursor(Qt.CursorShape.CrossCursor)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(240), theme.px(150))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(480), theme.px(260))

    @property
    def is_empty(self) -> bool:
        return self._plane is None

    def set_plane(self, pixels: Pixels | None) -> None:
        """SIDE * SIDE pictures, (N, H, W, C), row by row from the upper left; None for none."""
        self._plane = None if pixels is None else pictures.pack(pixels, None)
        if pixels is None:
            self._one = None
        self.forget()

    def set_one(self, pixels: Pixels) -> None:
        """The picture of the place that is held, (H, W, C)."""
        self._one = pictures.image(pictures.pack(pixels[None], None)[0])
        self.forget()

    def place(self, at: QPointF, *, quiet: bool = False) -> None:
        """Hold another place; what lies outside becomes the edge."""
        self.at = QPointF(min(max(at.x(), 0.0), 1.0), min(max(at.y(), 0.0), 1.0))
        self.setAccessibleDescription(
            tr("{x} to the right, {y} down", x=percent(self.at.x(), 0), y=percent(self.at.y(), 0))
        )
        self.update()
        if not quiet:
            self.moved.emit(self.at.x(), self.at.y())

    # --- painting

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        px = theme.px
        if self._plane is None:
            return
        gap = px(16)
        side = min(whole.height() - px(4), (whole.width() - gap) * 0.62)
        large = min(whole.height() - px(4), whole.width() - gap - side)
        left = whole.left() + (whole.width() - side - gap - large) / 2
        field = QRectF(left, whole.top() + (whole.height() - side) / 2, side, side)
        if whole == QRectF(self.rect()):
            self._field = field
        draw_tiles(painter, field, self._plane, SIDE)
        beside = QRectF(field.right() + gap, 0, large, large)
        beside.moveTop(whole.top() + (whole.height() - large) / 2)
        if self._one is not None:
            crisp = large >= 4 * self._one.width()
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, not crisp)
            painter.drawImage(beside, self._one)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("border"), 1))
        for box in (field, beside):
            painter.drawRect(box)
        at = QPointF(
            field.left() + self.at.x() * field.width(), field.top() + self.at.y() * field.height()
        )
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for color, wide in (("card", 4.0), ("accent", 2.0)):
            painter.setPen(QPen(theme.color(color), wide * theme.manager.scale))
            painter.drawEllipse(at, px(8), px(8))

    # --- hands

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._drag(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._drag(event)

    def _drag(self, event: QMouseEvent) -> None:
        field = self._field
        if not self.is_empty and field.width() > 0:
            way = event.position() - field.topLeft()
            self.place(QPointF(way.x() / field.width(), way.y() / field.height()))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: QPointF(-STEP, 0),
            Qt.Key.Key_Right: QPointF(STEP, 0),
            Qt.Key.Key_Up: QPointF(0, -STEP),
            Qt.Key.Key_Down: QPointF(0, STEP),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is not None:
            self.place(self.at + move)
        elif event.key() == Qt.Key.Key_Home:
            self.place(QPointF(0.5, 0.5))
        else:
            event.ignore()


def draw_tiles(painter: QPainter, field: QRectF, packed: Packed, side: int) -> None:
    """side * side pictures, (N, H, W) packed, fill a field, a pixel apart."""
    wide, high = field.width() / side, field.height() / side
    crisp = wide >= 3 * packed.shape[2]
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, not crisp)
    for k in range(min(side * side, len(packed))):
        row, column = divmod(k, side)
        left, top = field.left() + column * wide, field.top() + row * high
        box = QRectF(round(left), round(top), round(left + wide) - round(left) - 1, 1)
        box.setHeight(round(top + high) - round(top) - 1)
        painter.drawImage(box, pictures.image(packed[k]))


def mixed(
    corners: NDArray[np.float64], across: NDArray[np.float64], down: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Between four latents, (4, D): upper left, upper right, lower left, lower right. `across` and
    `down`, (N,), 0 to 1, to (N, D). The first `size` numbers go along arcs around the origin, since
    normal latents lie near a shell (White 2016, section 2.1); the codes behind them straight."""
    upper = _between(corners[0], corners[1], across, size)
    lower = _between(corners[2], corners[3], across, size)
    return _between(upper, lower, down, size)


def _between(
    one: NDArray[np.float64], other: NDArray[np.float64], at: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    a, b = (np.broadcast_to(each, (len(at), each.shape[-1])) for each in (one, other))
    share = at[:, None]
    straight = a + share * (b - a)
    p, q = a[:, :size], b[:, :size]
    lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    cosine = (p * q).sum(1) / np.where(lengths > 0, lengths, 1.0)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None]
    sine = np.sin(angle)
    flat = (sine < 1e-6) | (lengths[:, None] == 0)
    below = np.where(flat, 1.0, sine)
    arc = (np.sin((1 - share) * angle) * p + np.sin(share * angle) * q) / below
    straight[:, :size] = np.where(flat, straight[:, :size], arc)
    return straight
