"""Small signs that say beside a colour what it says, drawn at any size."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPen

from workbench import theme


def paint_sign(painter: QPainter, sign: str, at: QPointF, size: float, color: str) -> None:
    """`sign` (tick, minus, cross, ring, dots, alarm, play or dot) around `at`, within `size`."""
    half = size / 2
    pen = QPen(theme.color(color), max(size / 6, 1.0))
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    painter.setPen(pen)
    painter.setBrush(Qt.BrushStyle.NoBrush)

    def place(x: float, y: float) -> QPointF:
        return QPointF(at.x() + x * half, at.y() + y * half)

    match sign:
        case "tick":
            painter.drawPolyline([place(-0.8, 0.1), place(-0.25, 0.65), place(0.8, -0.6)])
        case "minus":
            painter.drawLine(place(-0.75, 0), place(0.75, 0))
        case "cross":
            painter.drawLine(place(-0.65, -0.65), place(0.65, 0.65))
            painter.drawLine(place(-0.65, 0.65), place(0.65, -0.65))
        case "ring":
            painter.drawEllipse(at, half * 0.7, half * 0.7)
        case "dots":
            _fill(painter, color)
            for x in (-0.75, 0.0, 0.75):
                painter.drawEllipse(place(x, 0), size / 10, size / 10)
        case "alarm":
            painter.drawLine(place(0, -0.8), place(0, 0.2))
            painter.drawPoint(place(0, 0.75))
        case "play":
            _fill(painter, color)
            painter.drawPolygon([place(-0.5, -0.7), place(0.75, 0), place(-0.5, 0.7)])
        case _:
            _fill(painter, color)
            painter.drawEllipse(at, size / 9, size / 9)


def paint_diamond(painter: QPainter, at: QPointF, radius: float) -> None:
    """A square on its tip, in the painter's own pen and brush."""
    painter.drawPolygon(
        [
            QPointF(at.x(), at.y() - radius),
            QPointF(at.x() + radius, at.y()),
            QPointF(at.x(), at.y() + radius),
            QPointF(at.x() - radius, at.y()),
        ]
    )


def paint_corner(painter: QPainter, box: QRectF, size: float, color: str) -> None:
    """The upper right corner of a box, folded."""
    _fill(painter, color)
    corner = box.topRight()
    painter.drawPolygon(
        [QPointF(corner.x() - size, corner.y()), corner, QPointF(corner.x(), corner.y() + size)]
    )


def _fill(painter: QPainter, color: str) -> None:
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(theme.color(color))
