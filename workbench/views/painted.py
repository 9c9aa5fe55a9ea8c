"""A card whose content is one drawing: it is exported as a picture or as the values behind it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QGuiApplication, QImage, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views.card import Card
from workbench.views.picture import picture_of, write_png, write_svg

LEAST = QSize(640, 420)
"""Size of an exported picture, at scale 1, where the card is smaller."""


class Drawing(QWidget):
    """Draws itself into any rectangle: the widget's own, a picture, an SVG."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.update)

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        """Everything but what belongs to the pointer or the keyboard."""
        raise NotImplementedError

    def draw_hands(self, painter: QPainter) -> None:
        """What the pointer and the keyboard add."""

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self.draw(painter, QRectF(self.rect()))
        self.draw_hands(painter)
        if self.hasFocus():
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        painter.end()

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()


class DrawnCard(Card):
    """Shows a `Drawing`; its menu copies and exports it. What extends this calls `fill_menu` once
    its own entries stand there, and says in `rows` what the values are."""

    def __init__(self, title: str, drawing: Drawing, parent: QWidget | None = None) -> None:
        super().__init__(title, parent)
        self.drawing = drawing
        self.body.addWidget(drawing, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def rows(self) -> Iterable[Sequence[Any]]:
        """The values as a table, its columns' names first."""
        raise NotImplementedError

    def fill_menu(self) -> None:
        self._copy = self.menu.addAction("")
        self._copy.triggered.connect(self.copy)
        self._picture = self.menu.addAction("")
        self._picture.triggered.connect(self._ask_picture)
        self._values = self.menu.addAction("")
        self._values.triggered.connect(self._ask_values)
        self.retranslate()

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_values"):
            self._copy.setText(tr("Copy as picture"))
            self._picture.setText(tr("Export picture…"))
            self._values.setText(tr("Export values…"))
            self.drawing.update()

    def _ask_picture(self) -> None:
        self.ask_and_write(tr("Export picture"), ("png", "svg"), self.export)

    def _ask_values(self) -> None:
        self.ask_and_write(tr("Export values"), ("csv",), self.export)

    def copy(self) -> None:
        """The card as a picture, on the clipboard."""
        QGuiApplication.clipboard().setImage(self.picture())

    def export(self, target: Path) -> None:
        """Write a .png (twice the size), a .svg or a .csv. Raises OSError if it cannot be written,
        ValueError for another suffix."""
        match target.suffix.lower():
            case ".png":
                write_png(target, self.picture())
            case ".svg":
                write_svg(target, self.title.text(), self._size(), self._draw_all)
            case ".csv":
                with target.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(self.rows())
            case other:
                raise ValueError(f"cannot export {other!r}; expected .png, .svg or .csv")

    def picture(self) -> QImage:
        """The card as it is exported."""
        return picture_of(self._size(), self._draw_all)

    def _size(self) -> QSize:
        return self.size().expandedTo(LEAST * theme.manager.scale)

    def _draw_all(self, painter: QPainter, size: QSize) -> None:
        px = theme.px
        painter.setFont(theme.font(13, 600))
        painter.setPen(theme.color("muted"))
        head = QRectF(px(14), px(8), size.width() - px(28), px(24))
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(head, middle, self.title.text())
        painter.setFont(theme.font(11))
        painter.drawText(head, middle | Qt.AlignmentFlag.AlignRight, self.note.text())
        inner = QRectF(px(14), px(36), size.width() - px(28), size.height() - px(46))
        self.drawing.draw(painter, inner)
