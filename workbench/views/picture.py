"""A card that can be taken away: as a picture of what it draws, or as the values behind it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QRect, QSize
from PySide6.QtGui import QGuiApplication, QImage, QPainter
from PySide6.QtSvg import QSvgGenerator

from workbench import theme
from workbench.i18n import tr
from workbench.views.card import Card


class PictureCard(Card):
    """Its menu copies and exports it. What extends this says what is painted and what the values
    are, and calls `fill_menu` once its own entries stand there."""

    def rows(self) -> Iterable[Sequence[Any]]:
        """The values as a table, its columns' names first."""
        raise NotImplementedError

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        """All that an exported picture shows, on the card's colour."""
        raise NotImplementedError

    def picture_size(self) -> QSize:
        """Of an exported picture, before it is doubled."""
        raise NotImplementedError

    def resolution(self) -> int | None:
        """Of an SVG, in dots an inch, where the drawing keeps pictures of its own."""
        return None

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
                self._write_svg(target)
            case ".csv":
                with target.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(self.rows())
            case other:
                raise ValueError(f"cannot export {other!r}; expected .png, .svg or .csv")

    def picture(self) -> QImage:
        """The card as it is exported, at twice the size."""
        size = self.picture_size()
        image = QImage(size * 2, QImage.Format.Format_RGB32)
        image.setDevicePixelRatio(2)
        image.fill(theme.color("card"))
        painter = QPainter(image)
        self.paint_picture(painter, size)
        painter.end()
        return image

    def _write_svg(self, target: Path) -> None:
        size = self.picture_size()
        whole = QRect(0, 0, size.width(), size.height())
        generator = QSvgGenerator()
        generator.setFileName(str(target))
        generator.setSize(size)
        if (resolution := self.resolution()) is not None:
            generator.setResolution(resolution)
        generator.setViewBox(whole)
        generator.setTitle(self.title.text())
        painter = QPainter()
        if not painter.begin(generator):
            raise _unwritable(target)
        painter.fillRect(whole, theme.color("card"))
        self.paint_picture(painter, size)
        painter.end()


def write_png(target: Path, image: QImage) -> None:
    """Raises OSError if it cannot be written."""
    if not image.save(str(target), "PNG"):
        raise _unwritable(target)


def _unwritable(target: Path) -> OSError:
    return OSError(None, tr("the folder is missing, full or read-only"), str(target))
