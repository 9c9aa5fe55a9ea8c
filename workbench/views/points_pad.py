"""A pad on which a person draws points in the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views.text import number

Point = tuple[float, float]
APART = 0.06
"""Between two points of one stroke, as a share of the pad's reach."""
NEAR = 8.0
"""Pixels at scale 1 within which a point is meant."""
MOST = 1000
STEP = 0.05


class PointsPad(QWidget):
    """A click sets a point, dragging sets many, a click with the right button takes one away. Arrow
    keys move a cross, Space sets a point there or takes it away, Delete clears."""

    changed = Signal()
    """A person has drawn: at the end of a stroke."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._points: list[Point] = []
        self._stroke = 0
        """Points that there were before the stroke; what is drawn meanwhile is not told yet."""
        self._cross = QPointF(0, 0)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.CrossCursor)
        theme.manager.changed.connect(self.updateGeometry)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(180), theme.px(180))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(96), theme.px(180))

    @property
    def points(self) -> list[Point]:
        return list(self._points)

    def set_points(self, points: Sequence[Point]) -> None:
        """Show these; what was drawn before is no more."""
        self._points = [(float(x), float(y)) for x, y in points]
        self._describe()
        self.update()

    def clear(self) -> None:
        if self._points:
            self._points = []
            self._tell()

    @property
    def reach(self) -> float:
        """The pad goes from minus this to this: 1, or as far as the points do."""
        return max([1.0, *(abs(value) for point in self._points for value in point)])

    # --- places

    def _area(self) -> QRectF:
        side = min(self.width(), self.height()) - 2
        return QRectF((self.width() - side) / 2, (self.height() - side) / 2, side, side)

    def pixel(self, point: Point) -> QPointF:
        area, reach = self._area(), self.reach * 1.08
        return QPointF(
            area.left() + (point[0] / reach + 1) / 2 * area.width(),
            area.bottom() - (point[1] / reach + 1) / 2 * area.height(),
        )

    def place(self, position: QPointF) -> Point:
        """Kept within the reach, and to three decimals: nobody draws finer."""
        area, reach = self._area(), self.reach
        x = ((position.x() - area.left()) / area.width() * 2 - 1) * reach * 1.08
        y = ((area.bottom() - position.y()) / area.height() * 2 - 1) * reach * 1.08
        return round(min(max(x, -reach), reach), 3), round(min(max(y, -reach), reach), 3)

    # --- hands

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.RightButton:
            self._take_away(event.position())
        elif event.button() == Qt.MouseButton.LeftButton:
            self._stroke = len(self._points)
            self._add(self.place(event.position()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            at = self.place(event.position())
            last = self._points[-1] if len(self._points) > self._stroke else None
            if last is None or math.dist(at, last) >= APART * self.reach:
                self._add(at)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and len(self._points) != self._stroke:
            self._tell()

    def contextMenuEvent(self, event: QEvent) -> None:
        event.accept()  # the right button takes away

    def _add(self, point: Point) -> None:
        if len(self._points) < MOST and point not in self._points:
            self._points.append(point)
            self.update()

    def _take_away(self, position: QPointF) -> None:
        def away(point: Point) -> float:
            gap = self.pixel(point) - position
            return math.hypot(gap.x(), gap.y())

        if self._points:
            nearest = min(self._points, key=away)
            if away(nearest) <= theme.px(NEAR):
                self._points.remove(nearest)
                self._tell()

    def _tell(self) -> None:
        self._describe()
        self.update()
        self.changed.emit()

    def _describe(self) -> None:
        self.setAccessibleDescription(tr("{count} points", count=len(self._points)))

    def event(self, event: QEvent) -> bool:
        asked = event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent)
        if asked and event.key() == Qt.Key.Key_Space:
            event.accept()  # else it would pause a run
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: QPointF(-1, 0),
            Qt.Key.Key_Right: QPointF(1, 0),
            Qt.Key.Key_Up: QPointF(0, 1),
            Qt.Key.Key_Down: QPointF(0, -1),
        }
        move, reach = moves.get(Qt.Key(event.key())), self.reach
        if move is not None:
            at = self._cross + move * STEP * reach
            at = QPointF(min(max(at.x(), -reach), reach), min(max(at.y(), -reach), reach))
            self._cross = at
            self.setAccessibleDescription(f"{number(at.x())}, {number(at.y())}")
            self.update()
        elif event.key() == Qt.Key.Key_Space:
            here = round(self._cross.x(), 3), round(self._cross.y(), 3)
            if here in self._points:
                self._points.remove(here)
            else:
                self._add(here)
            self._tell()
        elif event.key() == Qt.Key.Key_Delete:
            self.clear()
        else:
            event.ignore()

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()

    # --- painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = self._area()
        painter.setPen(QPen(theme.color("accent" if self.hasFocus() else "border"), 1))
        painter.setBrush(theme.color("field"))
        painter.drawRoundedRect(area, theme.px(6), theme.px(6))
        painter.setPen(QPen(theme.color("line"), 1))
        middle = self.pixel((0.0, 0.0))
        painter.drawLine(QPointF(area.left(), middle.y()), QPointF(area.right(), middle.y()))
        painter.drawLine(QPointF(middle.x(), area.top()), QPointF(middle.x(), area.bottom()))
        painter.setFont(theme.font(11))
        if not self._points:
            painter.setPen(theme.color("faint"))
            room = area.adjusted(theme.px(14), 0, -theme.px(14), 0)
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(room, flags, tr("Click or drag to draw points."))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("series:1"))
        for point in self._points:
            painter.drawEllipse(self.pixel(point), theme.px(2.6), theme.px(2.6))
        if self.hasFocus():
            at, arm = self.pixel((self._cross.x(), self._cross.y())), theme.px(6)
            painter.setPen(QPen(theme.color("accent"), 1.6))
            painter.drawLine(at - QPointF(arm, 0), at + QPointF(arm, 0))
            painter.drawLine(at - QPointF(0, arm), at + QPointF(0, arm))
        painter.end()
