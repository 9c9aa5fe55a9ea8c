"""The little box that says what stands under the pointer."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPen

from workbench import theme

Row = tuple[str, str, str]
"""Colour (a token or #rrggbb), name and value."""


def paint_readout(
    painter: QPainter, within: QRectF, x: float, top: float, head: str, rows: Sequence[Row]
) -> None:
    """Beside `x`, from `top` down as far as there is room in `within`: a line of words, and a dot,
    a name and a value of each row."""
    px = theme.px
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    font, strong = theme.font(11), theme.font(11, 600)
    metrics, bold = QFontMetricsF(font), QFontMetricsF(strong)
    labels = [metrics.elidedText(row[1], Qt.TextElideMode.ElideRight, px(140)) for row in rows]
    names = max((metrics.horizontalAdvance(label) for label in labels), default=0.0)
    values = max((bold.horizontalAdvance(row[2]) for row in rows), default=0.0)
    line = px(17)
    width = max(names + values + px(42), metrics.horizontalAdvance(head) + px(20))
    height = line * (len(rows) + 1) + px(8)
    left = x + px(10) if x + px(10) + width < within.right() else x - px(10) - width
    left = min(max(left, within.left() + 2), max(within.right() - width - 2, within.left() + 2))
    y = min(top + 2, max(within.bottom() - height - 2, within.top()))
    box = QRectF(left, y, width, height)
    painter.setPen(QPen(theme.color("border"), 1))
    painter.setBrush(theme.color("card", 0.96))
    painter.drawRoundedRect(box, px(6), px(6))
    painter.setFont(font)
    painter.setPen(theme.color("faint"))
    y = box.top() + px(4)
    middle = Qt.AlignmentFlag.AlignVCenter
    painter.drawText(QRectF(box.left() + px(10), y, width, line), middle, head)
    for label, (color, _, value) in zip(labels, rows, strict=True):
        y += line
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color(color))
        painter.drawEllipse(QPointF(box.left() + px(14), y + line / 2), px(3.5), px(3.5))
        painter.setPen(theme.color("muted"))
        painter.setFont(font)
        painter.drawText(QRectF(box.left() + px(24), y, names + 4, line), middle, label)
        painter.setPen(theme.color("text"))
        painter.setFont(strong)
        painter.drawText(
            QRectF(box.left(), y, width - px(10), line),
            middle | Qt.AlignmentFlag.AlignRight,
            value,
        )
