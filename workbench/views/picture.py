"""What a card draws, as a picture in memory or as an SVG file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from PySide6.QtCore import QRect, QSize
from PySide6.QtGui import QImage, QPainter
from PySide6.QtSvg import QSvgGenerator

from workbench import theme
from workbench.i18n import tr

Draw: TypeAlias = Callable[[QPainter, QSize], None]


def picture_of(size: QSize, draw: Draw) -> QImage:
    """At twice the size, on the card's colour."""
    image = QImage(size * 2, QImage.Format.Format_RGB32)
    image.setDevicePixelRatio(2)
    image.fill(theme.color("card"))
    painter = QPainter(image)
    draw(painter, size)
    painter.end()
    return image


def write_png(target: Path, image: QImage) -> None:
    """Raises OSError if it cannot be written."""
    if not image.save(str(target), "PNG"):
        raise _unwritable(target)


def write_svg(
    target: Path, title: str, size: QSize, draw: Draw, resolution: int | None = None
) -> None:
    """`resolution` in dots an inch, where the drawing keeps pictures of its own. Raises OSError if
    it cannot be written."""
    whole = QRect(0, 0, size.width(), size.height())
    generator = QSvgGenerator()
    generator.setFileName(str(target))
    generator.setSize(size)
    if resolution is not None:
        generator.setResolution(resolution)
    generator.setViewBox(whole)
    generator.setTitle(title)
    painter = QPainter()
    if not painter.begin(generator):
        raise _unwritable(target)
    painter.fillRect(whole, theme.color("card"))
    draw(painter, size)
    painter.end()


def _unwritable(target: Path) -> OSError:
    return OSError(None, tr("the folder is missing, full or read-only"), str(target))
