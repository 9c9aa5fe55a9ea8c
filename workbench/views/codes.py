"""Codes of images in the plane, coloured by class, in front of the prior that they are given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import axis
from workbench.views.dots import draw_dots
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.plane import class_color
from workbench.views.readout import paint_readout
from workbench.views.scene import Floats, Ground, extent_of
from workbench.views.text import number, tick

NEAR = 10.0
"""Pixels at scale 1 within which the pointer finds a code."""
EMPTY = mark("The codes of test images appear here while an autoencoder trains.")


@dataclass(frozen=True)
class Codes:
    """The first two numbers of codes, (N, 2), the classes of their images as places in `classes`,
    and draws of the prior, (M, 2), or None."""

    places: Floats
    labels: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    prior: Floats | None = None
    step: int = 0


class CodesView(Drawing):
    """Paints them. The pointer finds a code; Left and Right go from class to class, which dims the
    others, Escape ends that."""

    still = True

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.codes: Codes | None = None
        self.lit: int | None = None
        """The class that stands out."""
        self.exact = False
        self.ground: Ground | None = None
        self.pointer: QPointF | None = None

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(200), theme.px(180))

    def show_codes(self, codes: Codes | None) -> None:
        self.codes = codes
        self.forget()

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        codes = self.codes
        if codes is None:
            return
        px = theme.px
        known = [codes.places] if codes.prior is None else [codes.places, codes.prior]
        ground = Ground(extent_of(known, 0.08), whole.adjusted(px(36), px(2), -px(4), -px(44)))
        if not self.exact:
            self.ground = ground
        field, scale = ground.field, theme.manager.scale
        painter.save()
        painter.setClipRect(field)
        if codes.prior is not None:
            faint = theme.color("faint", 0.4)
            places = ground.pixels(codes.prior)
            draw_dots(painter, field, places, faint, 1.8 * scale, exact=self.exact)
        labels = np.asarray(codes.labels if codes.labels else [-1] * len(codes.places))
        for label in np.unique(labels).tolist():
            strength = 1.0 if self.lit is None or label == self.lit else 0.14
            color = class_color(label, strength)
            places = ground.pixels(codes.places[labels == label])
            draw_dots(painter, field, places, color, 2.2 * scale, exact=self.exact)
        painter.restore()
        self._draw_axes(painter, ground)
        self._draw_legend(
            painter, QRectF(whole.left(), whole.bottom() - px(20), whole.width(), px(18))
        )

    def _draw_axes(self, painter: QPainter, ground: Ground) -> None:
        px, field = theme.px, ground.field
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(field)
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("faint"))
        x0, x1, y0, y1 = ground.extent
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        values, step = axis.ticks(x0, x1, field.width() / px(64))
        for value in values:
            at = ground.pixel(value, y0)
            box = QRectF(at.x() - px(30), at.y() + px(3), px(60), px(14))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, tick(value, step))
        values, step = axis.ticks(y0, y1, field.height() / px(64))
        for value in values:
            at = ground.pixel(x0, value)
            box = QRectF(at.x() - px(46), at.y() - px(8), px(41), px(16))
            painter.drawText(box, right, tick(value, step))

    def _draw_legend(self, painter: QPainter, line: QRectF) -> None:
        """The classes, and what the faint dots are, in as much of a line as they need."""
        codes = self.codes
        if codes is None:
            return
        px = theme.px
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        entries = [(class_color(k), name) for k, name in enumerate(codes.classes)]
        if codes.prior is not None:
            entries.append((theme.color("faint", 0.6), tr("prior")))
        end = Qt.TextElideMode.ElideRight
        names = [name for _, name in entries]
        if sum(metrics.horizontalAdvance(name) + px(20) for name in names) > line.width():
            room = line.width() / max(len(entries), 1) - px(20)
            names = [metrics.elidedText(name, end, max(room, px(10))) for name in names]
        wide = sum(metrics.horizontalAdvance(text) + px(20) for text in names)
        x = line.center().x() - wide / 2
        for (color, _), text in zip(entries, names):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawEllipse(QPointF(x + px(4), line.center().y()), px(3.5), px(3.5))
            painter.setPen(theme.color("muted"))
            long = metrics.horizontalAdvance(text)
            box = QRectF(x + px(11), line.top(), long + 2, line.height())
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, text)
            x += long + px(20)

    # --- reading out

    def nearest(self, at: QPointF) -> int:
        """The code at the pointer, -1 where there is none."""
        codes, ground = self.codes, self.ground
        if codes is None or ground is None or not len(codes.places):
            return -1
        places = ground.pixels(codes.places)
        away = np.hypot(places[:, 0] - at.x(), places[:, 1] - at.y())
        best = int(away.argmin())
        return best if away[best] <= theme.px(NEAR) else -1

    def draw_hands(self, painter: QPainter) -> None:
        if self.pointer is None or self.codes is None or self.ground is None:
            return
        near = self.nearest(self.pointer)
        if near < 0:
            return
        at = QPointF(*self.ground.pixels(self.codes.places[near]).tolist())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("text"), 1.4))
        painter.drawEllipse(at, theme.px(6), theme.px(6))
        label = self.codes.labels[near] if self.codes.labels else -1
        x, y = self.codes.places[near].tolist()
        color = class_color(label).name()
        rows = [(color, tr("Class"), self.name(label))] if label >= 0 else []
        rows.append((color, tr("Place"), f"{number(x)}, {number(y)}"))
        head = tr("test image")
        paint_readout(painter, QRectF(self.rect()), at.x(), at.y(), head, rows)

    def name(self, label: int) -> str:
        classes = self.codes.classes if self.codes is not None else ()
        return classes[label] if 0 <= label < len(classes) else str(label)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.pointer = event.position()
        self.update()

    def leaveEvent(self, event: object) -> None:
        self.pointer = None
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        count = len(self.codes.classes) if self.codes is not None else 0
        if event.key() in (Qt.Key.Key_Left, Qt.Key.Key_Right) and count:
            way = 1 if event.key() == Qt.Key.Key_Right else -1
            start = -1 if way > 0 else count
            self.lit = ((self.lit if self.lit is not None else start) + way) % count
            self.setAccessibleDescription(self.name(self.lit))
            self.forget()
        elif event.key() == Qt.Key.Key_Escape and self.lit is not None:
            self.lit = None
            self.forget()
        else:
            event.ignore()


class CodesCard(DrawnCard):
    """The codes, and how to take them away."""

    drawing: CodesView

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Codes of test images"), CodesView(), parent)
        self._explain = EMPTY
        self.fill_menu()
        self.show_menu_button()
        self._show_emptiness()

    def show_codes(self, codes: Codes | None) -> None:
        """Draw these; None says what will appear."""
        was = self.drawing.codes
        self.drawing.show_codes(codes)
        if (was is None) != (codes is None):
            self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(self.drawing.codes is None, self.drawing)

    def retranslate(self) -> None:
        super().retranslate()
        self.drawing.setAccessibleName(tr("Drawing of {card}", card=self.title.text()))

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        self.drawing.exact = True
        try:
            super().paint_picture(painter, size)
        finally:
            self.drawing.exact = False

    def rows(self) -> Iterable[Sequence[Any]]:
        yield "set", "class", "x", "y"
        codes = self.drawing.codes
        if codes is None:
            return
        labels = codes.labels or (-1,) * len(codes.places)
        for label, (x, y) in zip(labels, codes.places.tolist()):
            yield "code", self.drawing.name(label), f"{x:.9g}", f"{y:.9g}"
        if codes.prior is not None:
            yield from (("prior", "", f"{x:.9g}", f"{y:.9g}") for x, y in codes.prior.tolist())
