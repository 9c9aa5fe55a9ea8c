"""A picture of few pixels, large, that can be drawn on: by mouse, tablet or keyboard."""

from __future__ import annotations

import math

import numpy as np
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QImage,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPointingDevice,
    QTabletEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views import pictures
from workbench.views.pictures import Pixels

STEPS = 60
"""Strokes that can be taken back."""
LIGHTEST = 0.25
"""Share of its width that a pen has at the lightest touch."""
GRID_FROM = 9
"""Width that a pixel of the picture must have on the screen for lines between them, at scale 1."""


class Pad(QWidget):
    """Shows a picture; grey ones can be drawn on. Arrow keys move a cross, Space sets a dot there,
    with Shift they draw; Delete clears, Ctrl+Z takes back."""

    changed = Signal()
    """A person has changed the picture."""
    undoable = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.pen_width = 2.0
        """In pixels of the picture."""
        self.erasing = False
        self.hint = ""
        """What is said while there is no picture, or nothing on it (already translated)."""
        self._pixels: Pixels | None = None
        self._shown: QImage | None = None
        self._past: list[Pixels] = []
        self._last: QPointF | None = None
        self._cross: QPointF | None = None
        self._from_tablet = False
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAttribute(Qt.WidgetAttribute.WA_AcceptTouchEvents, False)
        theme.manager.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(150), theme.px(150))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(96), theme.px(96))

    # --- the picture

    @property
    def pixels(self) -> Pixels | None:
        """(H, W, C) uint8."""
        return self._pixels

    @property
    def can_draw(self) -> bool:
        """Whether there is a picture, and it is grey."""
        return self._pixels is not None and self._pixels.shape[2] == 1

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    def set_picture(self, pixels: Pixels | None) -> None:
        """Show another picture, (H, W, C) uint8; what was drawn before is no more."""
        self._past.clear()
        self._last = None
        self._put(pixels)
        self.undoable.emit(False)

    def replace(self, pixels: Pixels) -> None:
        """Change the picture, as a person asked; can be undone."""
        self._remember()
        self._put(pixels)
        self.changed.emit()

    def clear(self) -> None:
        """Black everywhere."""
        if self._pixels is not None:
            self.replace(np.zeros_like(self._pixels))

    def invert(self) -> None:
        """Dark for light."""
        if self._pixels is not None:
            self.replace(255 - self._pixels)

    def undo(self) -> None:
        if self._past:
            self._put(self._past.pop())
            self.undoable.emit(self.can_undo)
            self.changed.emit()

    def _put(self, pixels: Pixels | None) -> None:
        if pixels is not None and (self._pixels is None or pixels.shape != self._pixels.shape):
            self._cross = QPointF(pixels.shape[1] / 2, pixels.shape[0] / 2)
        self._pixels = None if pixels is None else np.ascontiguousarray(pixels)
        self._shown = None
        self.update()

    def _remember(self) -> None:
        if self._pixels is not None:
            self._past = [*self._past[-STEPS + 1 :], self._pixels]
            self.undoable.emit(True)

    # --- drawing

    def stroke(self, start: QPointF, end: QPointF, width: float | None = None) -> None:
        """A line between two points of the picture, in its pixels, by the pen or the eraser."""
        if not self.can_draw:
            return
        assert self._pixels is not None
        height, wide = self._pixels.shape[:2]
        canvas = QImage(wide, height, QImage.Format.Format_Grayscale8)
        rows = np.frombuffer(canvas.bits(), np.uint8).reshape(height, canvas.bytesPerLine())
        rows[:, :wide] = self._pixels[..., 0]
        painter = QPainter(canvas)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        color = QColor("black" if self.erasing else "white")
        pen = QPen(color, self.pen_width if width is None else width)
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        # A line without length is not drawn, and a point is square to some.
        painter.drawLine(start, end if end != start else end + QPointF(0.01, 0))
        painter.end()
        self._put(rows[:, :wide, None].copy())
        self.changed.emit()

    def _area(self) -> QRectF:
        """Where the picture is, whole pixels large where there is room for that."""
        shape = (1, 1) if self._pixels is None else self._pixels.shape[:2]
        factor = min(self.width() / shape[1], self.height() / shape[0])
        factor = math.floor(factor) if factor >= 2 else factor
        width, height = shape[1] * factor, shape[0] * factor
        left, top = (self.width() - width) // 2, (self.height() - height) // 2
        return QRectF(left, top, width, height)

    def place_of(self, position: QPointF) -> QPointF:
        """A position in the widget as one in the picture, in its pixels."""
        area = self._area()
        assert self._pixels is not None
        factor = area.width() / self._pixels.shape[1]
        return (position - area.topLeft()) / factor

    def _begin(self, position: QPointF, width: float) -> None:
        if self.can_draw:
            self._remember()
            self._last = self.place_of(position)
            self.stroke(self._last, self._last, width)

    def _go_on(self, position: QPointF, width: float) -> None:
        if self._last is not None:
            now = self.place_of(position)
            self.stroke(self._last, now, width)
            self._last = now

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and not self._from_tablet:
            self._begin(event.position(), self.pen_width)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if not self._from_tablet:
            self._go_on(event.position(), self.pen_width)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._last = None

    def tabletEvent(self, event: QTabletEvent) -> None:
        """A pen presses; its other end erases."""
        width = self.pen_width * max(LIGHTEST, event.pressure())
        other_end = event.pointerType() == QPointingDevice.PointerType.Eraser
        was, self.erasing = self.erasing, self.erasing or other_end
        if event.type() == QEvent.Type.TabletPress:
            self._from_tablet = True  # Qt makes a mouse of it, too
            self._begin(event.position(), width)
        elif event.type() == QEvent.Type.TabletMove:
            self._go_on(event.position(), width)
        elif event.type() == QEvent.Type.TabletRelease:
            self._from_tablet, self._last = False, None
        self.erasing = was
        event.accept()

    # --- keys

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            undo = event.matches(QKeySequence.StandardKey.Undo)
            if undo or (event.key() == Qt.Key.Key_Space and self.can_draw):
                event.accept()  # else it would be the form's, or pause a run
                return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: QPointF(-1, 0),
            Qt.Key.Key_Right: QPointF(1, 0),
            Qt.Key.Key_Up: QPointF(0, -1),
            Qt.Key.Key_Down: QPointF(0, 1),
        }
        move = moves.get(Qt.Key(event.key()))
        if event.matches(QKeySequence.StandardKey.Undo):
            self.undo()
        elif not self.can_draw or self._cross is None:
            event.ignore()
        elif move is not None:
            self._move_cross(move, bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier))
        elif event.key() == Qt.Key.Key_Space:
            self._remember()
            self.stroke(self._cross, self._cross)
        elif event.key() == Qt.Key.Key_Delete:
            self.clear()
        else:
            event.ignore()

    def _move_cross(self, move: QPointF, drawing: bool) -> None:
        assert self._pixels is not None
        assert self._cross is not None
        height, width = self._pixels.shape[:2]
        goal = self._cross + move
        goal = QPointF(min(max(goal.x(), 0.5), width - 0.5), min(max(goal.y(), 0.5), height - 0.5))
        before, self._cross = self._cross, goal
        if drawing:
            self._remember()
            self.stroke(before, goal)
        self.setAccessibleDescription(
            tr("column {x}, row {y}", x=int(goal.x()) + 1, y=int(goal.y()) + 1)
        )
        self.update()

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()

    # --- painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        area = self._area()
        if self._pixels is None:
            painter.fillRect(area, theme.color("raised"))
        else:
            if self._shown is None:
                self._shown = pictures.image(pictures.pack(drawable(self._pixels)[None], None)[0])
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
            painter.drawImage(area, self._shown)
            self._draw_lines(painter, area)
        if self.hint and (self._pixels is None or not self._pixels.any()):
            painter.setFont(theme.font(12))
            painter.setPen(theme.color("muted") if self._pixels is None else QColor("#a9b3c1"))
            room = area.adjusted(theme.px(16), 0, -theme.px(16), 0)
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(room, flags, self.hint)
        color = theme.color("accent" if self.hasFocus() else "border")
        painter.setPen(QPen(color, 2 if self.hasFocus() else 1))
        painter.drawRect(area.adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _draw_lines(self, painter: QPainter, area: QRectF) -> None:
        """Where one pixel ends and the next begins; and the cross of the keys."""
        assert self._pixels is not None
        factor = area.width() / self._pixels.shape[1]
        if self.can_draw and factor >= theme.px(GRID_FROM):
            line = QColor("#8894a5")
            line.setAlphaF(0.22)
            painter.setPen(QPen(line, 1))
            for column in range(1, self._pixels.shape[1]):
                x = area.left() + column * factor
                painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
            for row in range(1, self._pixels.shape[0]):
                y = area.top() + row * factor
                painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        if self.hasFocus() and self.can_draw and self._cross is not None:
            centre, arm = area.topLeft() + self._cross * factor, theme.px(6)
            painter.setPen(QPen(theme.color("accent"), 2))
            painter.drawLine(centre - QPointF(arm, 0), centre + QPointF(arm, 0))
            painter.drawLine(centre - QPointF(0, arm), centre + QPointF(0, arm))


def drawable(pixels: Pixels) -> Pixels:
    """(..., C) with one or three channels, which can be shown."""
    channels = pixels.shape[-1]
    if channels in (1, 3):
        return pixels
    shown: Pixels = pixels[..., : 3 if channels > 3 else 1]
    return shown
