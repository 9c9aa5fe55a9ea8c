"""Which modes of the data the samples fall into: a bar each, and what each should have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.axes import AxesCard, AxesDrawing, Scale
from workbench.views.signs import paint_sign
from workbench.views.text import percent

EMPTY = mark("A bar appears here for each mode of the data.")


class Named(Scale):
    """Places 0, 1, 2… along one side, each with a name."""

    names: tuple[str, ...] = ()

    def set_names(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.low, self.high = -0.6, max(len(names), 1) - 0.4

    def ticks(self, room: float) -> list[tuple[float, str]]:
        return [(float(k), name) for k, name in enumerate(self.names)]


class Modes(AxesDrawing):
    """Shares of the samples as bars, the expected shares as lines across them, and a cross where a
    mode has no sample at all."""

    x: Named

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Named(mark("Mode")), Scale("", percent=True), parent)
        self.shares: tuple[float, ...] = ()
        self.expected: tuple[float, ...] = ()
        self.colors = ("series:1", "series:0")
        """Of what is expected, and of what there is."""

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        return (
            (tr("Data"), self.colors[0], False),
            (tr("Samples"), self.colors[1], False),
        )

    def stops(self) -> Sequence[QPointF]:
        return [QPointF(k, share) for k, share in enumerate(self.shares)]

    def _box(self, k: int) -> QRectF:
        wide = self.area.width() / (self.x.high - self.x.low)
        middle, foot = self.pixel(k, 0.0), self.pixel(k, self.shares[k])
        half = min(wide * 0.36, theme.px(18))
        return QRectF(middle.x() - half, foot.y(), 2 * half, middle.y() - foot.y())

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        wide = area.width() / (self.x.high - self.x.low)
        for k, share in enumerate(self.shares):
            box = self._box(k)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color(self.colors[1]))
            painter.drawRect(box)
            if share <= 0:
                size = min(theme.px(9), wide * 0.7)
                at = QPointF(box.center().x(), area.bottom() - size)
                paint_sign(painter, "cross", at, size, "danger")
            if k < len(self.expected):
                y = self.pixel(k, self.expected[k]).y()
                half = min(wide * 0.46, theme.px(22))
                painter.setPen(QPen(theme.color(self.colors[0]), 2 * theme.manager.scale))
                painter.drawLine(
                    QPointF(box.center().x() - half, y), QPointF(box.center().x() + half, y)
                )

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        if not self.shares or not self.area.contains(place):
            return None
        k = round(self.x.value((place.x() - self.area.left()) / self.area.width()))
        k = min(max(k, 0), len(self.shares) - 1)
        rows = [(self.colors[1], tr("Samples"), percent(self.shares[k]))]
        if k < len(self.expected):
            rows.append((self.colors[0], tr("Data"), percent(self.expected[k])))
        return self.pixel(k, 0), tr("mode {name}", name=self.x.names[k]), rows


class ModesCard(AxesCard):
    """The histogram, and in its title how many modes have a sample."""

    drawing: Modes
    can_be_log = False

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Samples by mode"), Modes(), EMPTY, parent)

    @property
    def is_empty(self) -> bool:
        return not self.drawing.shares

    def set_modes(
        self, shares: Sequence[float], expected: Sequence[float], names: Sequence[str]
    ) -> None:
        """A share a mode, what it should be, and what the mode is called (its number where that is
        not said)."""
        drawing = self.drawing
        count = len(shares)
        named = list(map(str, names)) if len(names) == count else [str(k + 1) for k in range(count)]
        drawing.shares = tuple(float(np.nan_to_num(share)) for share in shares)
        drawing.expected = tuple(map(float, expected)) if len(expected) == count else ()
        drawing.x.set_names(named)
        most = max((*drawing.shares, *drawing.expected), default=0.0) or 1.0
        # Ends that move seldom: a histogram that jumps cannot be watched.
        drawing.y.low, drawing.y.high = 0.0, min(2.0 ** np.ceil(np.log2(1.1 * most)), 1.06)
        missing = sum(share <= 0 for share in drawing.shares)
        self.set_note(tr("{count} without a sample", count=missing) if missing else "", "")
        stop, self.drawing.stop = drawing.stop, None
        self.changed()
        drawing.stop = stop

    def clear(self) -> None:
        self.set_modes((), (), ())

    def set_colors(self, real: str, generated: str) -> None:
        if self.drawing.colors != (real, generated):
            self.drawing.colors = real, generated
            self.drawing.forget()

    def rows(self) -> Iterable[Sequence[Any]]:
        drawing = self.drawing
        yield tr("Mode"), tr("Samples"), tr("Data")
        for k, (name, share) in enumerate(zip(drawing.x.names, drawing.shares)):
            wanted = repr(drawing.expected[k]) if k < len(drawing.expected) else ""
            yield name, repr(share), wanted
