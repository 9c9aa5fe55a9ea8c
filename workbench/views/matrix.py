"""A drawing of a table of cells, each with a colour of its own: who has how much of what."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QImage, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.views.painted import Drawing
from workbench.views.readout import Row as Said
from workbench.views.readout import paint_readout

GAP = 5.0
"""Side of a cell, in pixels, from which on cells stand apart."""
STEPS = (1, 2, 5)


class Matrix(Drawing):
    """Columns over rows; what extends this says the colours and what is read out. Arrow keys move
    from cell to cell, Home and End to the first and last column, Enter picks, Escape ends it."""

    picked = Signal(int, int)
    """A person clicked on a cell, or pressed Enter there: its row and column."""
    still = True

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.across: Sequence[str] = ()
        self.down: Sequence[str] = ()
        """What columns and rows are called."""
        self.titles = ("", "")
        """Of the columns' names and of the rows', already translated."""
        self.row: int | None = None
        self.column: int | None = None
        """What is marked as chosen."""
        self.marked: Collection[int] = ()
        """Rows whose names stand out."""
        self.area = QRectF()
        self._at: tuple[int, int] | None = None
        self._by_key = False

    # --- what extends this says

    def shades(self) -> NDArray[np.uint8]:
        """The colours, (rows, columns, 4): blue, green, red, opacity."""
        raise NotImplementedError

    def said(self, row: int, column: int) -> tuple[str, list[Said]]:
        """A heading and rows, as in `paint_readout`."""
        raise NotImplementedError

    def draw_cell(self, painter: QPainter, row: int, column: int, box: QRectF) -> None:
        """What stands in a cell, where there is room for it."""

    least_cell = math.inf
    """Shorter side of a cell from which on `draw_cell` is called, at scale 1."""

    # --- places

    @property
    def count(self) -> tuple[int, int]:
        return len(self.down), len(self.across)

    def cell(self, row: int, column: int) -> QRectF:
        rows, columns = self.count
        area = self.area
        left = area.left() + area.width() * column / columns
        right = area.left() + area.width() * (column + 1) / columns
        top = area.top() + area.height() * row / rows
        bottom = area.top() + area.height() * (row + 1) / rows
        return QRectF(left, top, right - left, bottom - top)

    def place_at(self, position: QPointF) -> tuple[int, int] | None:
        rows, columns = self.count
        area = self.area
        if not rows or not columns or not area.contains(position):
            return None
        row = int((position.y() - area.top()) / area.height() * rows)
        column = int((position.x() - area.left()) / area.width() * columns)
        return min(row, rows - 1), min(column, columns - 1)

    # --- painting

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        rows, columns = self.count
        px = theme.px
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        widest = max((metrics.horizontalAdvance(name) for name in self.down), default=0.0)
        widest = min(widest, whole.width() * 0.25)
        beside = px(16) if whole.height() >= px(110) else 0
        self.area = whole.adjusted(math.ceil(beside + widest + px(8)), px(4), -px(4), -px(34))
        if not rows or not columns or self.area.width() < 8 or self.area.height() < 8:
            return
        self._draw_cells(painter)
        painter.setPen(theme.color("faint"))
        self._draw_names(painter, metrics, widest)
        under = QRectF(self.area.left(), self.area.bottom() + px(19), self.area.width(), px(14))
        painter.drawText(under, Qt.AlignmentFlag.AlignCenter, self.titles[0])
        if beside:
            painter.save()
            painter.translate(whole.left(), self.area.bottom())
            painter.rotate(-90)
            upward = QRectF(0, 0, self.area.height(), px(14))
            painter.drawText(upward, Qt.AlignmentFlag.AlignCenter, self.titles[1])
            painter.restore()
        self._draw_choice(painter)

    def _draw_cells(self, painter: QPainter) -> None:
        rows, columns = self.count
        shades = np.ascontiguousarray(self.shades())
        image = QImage(shades.data, columns, rows, 4 * columns, QImage.Format.Format_ARGB32)
        wide, high = self.area.width() / columns, self.area.height() / rows
        # Cells below a pixel are mixed, larger ones stay sharp.
        smooth = min(wide, high) < 1
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth)
        painter.drawImage(self.area, image)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(theme.color("card"), 1))
        if wide >= GAP:
            for column in range(1, columns):
                x = round(self.area.left() + column * wide)
                painter.drawLine(QPointF(x, self.area.top()), QPointF(x, self.area.bottom()))
        if high >= GAP:
            for row in range(1, rows):
                y = round(self.area.top() + row * high)
                painter.drawLine(QPointF(self.area.left(), y), QPointF(self.area.right(), y))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        if min(wide, high) >= theme.px(self.least_cell) if self.least_cell < math.inf else False:
            for row in range(rows):
                for column in range(columns):
                    self.draw_cell(painter, row, column, self.cell(row, column))

    def _draw_names(self, painter: QPainter, metrics: QFontMetricsF, widest: float) -> None:
        """As many of them as there is room for."""
        px, area = theme.px, self.area
        rows, columns = self.count
        every = _every(area.height() / rows, px(14))
        taken: list[float] = []
        # Those that stand out come first; others stand where there is still room.
        for row in [*sorted(r for r in self.marked if r < rows), *range(0, rows, every)]:
            middle = self.cell(row, 0).center().y()
            if any(abs(middle - other) < px(11) for other in taken):
                continue
            taken.append(middle)
            painter.setPen(theme.color("danger" if row in self.marked else "faint"))
            box = self.cell(row, 0)
            name = metrics.elidedText(self.down[row], Qt.TextElideMode.ElideRight, widest + 1)
            left = area.left() - px(6) - metrics.horizontalAdvance(name)
            line = QRectF(left, box.center().y() - px(8), widest + 2, px(16))
            painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, name)
        painter.setPen(theme.color("faint"))
        longest = max(metrics.horizontalAdvance(name) for name in self.across)
        every = _every(area.width() / columns, longest + px(8))
        for column in range(0, columns, every):
            middle = self.cell(0, column).center().x()
            line = QRectF(middle - px(60), area.bottom() + px(3), px(120), px(16))
            painter.drawText(line, Qt.AlignmentFlag.AlignCenter, self.across[column])

    def _draw_choice(self, painter: QPainter) -> None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("text"), 1.4 * theme.manager.scale))
        rows, columns = self.count
        if self.row is not None and self.row < rows:
            box = self.cell(self.row, 0).united(self.cell(self.row, columns - 1))
            painter.drawRect(box.adjusted(-1, -1, 1, 1))
        if self.column is not None and self.column < columns:
            box = self.cell(0, self.column).united(self.cell(rows - 1, self.column))
            painter.drawRect(box.adjusted(-1, -1, 1, 1))

    def draw_hands(self, painter: QPainter) -> None:
        if self._at is None or self._at[0] >= self.count[0] or self._at[1] >= self.count[1]:
            return
        box = self.cell(*self._at)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("accent"), 1.6 * theme.manager.scale))
        painter.drawRect(box)
        head, rows = self.said(*self._at)
        top = box.top() if box.top() < self.height() / 2 else 0
        paint_readout(painter, QRectF(self.rect()), box.center().x(), top, head, rows)

    # --- hands

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._by_key = False
        self._look_at(self.place_at(event.position()))

    def leaveEvent(self, event: object) -> None:
        if not self._by_key:
            self._look_at(None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if (at := self.place_at(event.position())) is not None:
            self.picked.emit(*at)

    def focusOutEvent(self, event: object) -> None:
        self._look_at(None)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        rows, columns = self.count
        moves = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
            Qt.Key.Key_Home: (0, -columns),
            Qt.Key.Key_End: (0, columns),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is not None and rows and columns:
            self._by_key = True
            row, column = self._at if self._at is not None else (0, 0)
            if self._at is not None:
                row, column = row + move[0], column + move[1]
            self._look_at((min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)))
            head, told = self.said(*self._at or (0, 0))
            words = [head, *(f"{name} {value}".strip() for _, name, value in told)]
            self.setAccessibleDescription(", ".join(words))
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._at is not None:
            self.picked.emit(*self._at)
        elif event.key() == Qt.Key.Key_Escape and self._at is not None:
            self._look_at(None)
        else:
            event.ignore()

    def _look_at(self, place: tuple[int, int] | None) -> None:
        if place != self._at:
            self._at = place
            self.update()


def _every(size: float, room: float) -> int:
    """Of names `size` apart that need `room` each: every so many of them."""
    power = 1
    while True:
        for step in STEPS:
            if step * power * size >= room:
                return step * power
        power *= 10


def shade(color: str, share: float = 1.0) -> tuple[int, int, int, int]:
    """`share` of a colour on the card's own ground, as `Matrix.shades` has it."""
    ground, full = theme.color("card"), theme.color(color)
    return (
        round(ground.blue() + share * (full.blue() - ground.blue())),
        round(ground.green() + share * (full.green() - ground.green())),
        round(ground.red() + share * (full.red() - ground.red())),
        255,
    )
