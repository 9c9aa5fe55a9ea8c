"""A card with counts in bins, and a named line that parts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.axes import DASHES, AxesCard, AxesDrawing, Scale, line_pen
from workbench.views.table import cell
from workbench.views.text import percent


@dataclass(frozen=True, slots=True)
class Bin:
    """From `low` up to `high`, None where it has no end, and how many are in it; and of a second
    kind, where there are two."""

    low: float | None
    high: float | None
    count: int
    other: int = 0


class Histogram(AxesDrawing):
    """Bars over bins; those beyond `edge` in another colour. Or two kinds, one in front of the
    other (`paired`). Bins without an end are as wide as their neighbours."""

    def __init__(self, x: Scale, y: Scale, parent: QWidget | None = None) -> None:
        super().__init__(x, y, parent)
        self.bins: tuple[Bin, ...] = ()
        self.paired = False
        self.edge: float | None = None
        self.edge_name = ""
        self.colors = ("accent", "warning")
        self.names = ("", "")
        """What the bars below and beyond the edge are called, or the two kinds (already
        translated)."""

    def ends(self, index: int) -> tuple[float, float]:
        """Where a bin is drawn from and to, as values."""
        one = self.bins[index]
        low, high = one.low, one.high
        # A logarithm does not reach to zero: as good as no end.
        if self.x.log and low is not None and low <= 0:
            low = None
        if low is None or high is None:
            width = self._usual_width()
            if low is None and high is not None:
                low = high / width if self.x.log else high - width
            elif high is None and low is not None:
                high = low * width if self.x.log else low + width
        return (low if low is not None else self.x.low), (high if high is not None else self.x.high)

    def _usual_width(self) -> float:
        """Of a bin with two ends: a factor on a logarithm, else a difference."""
        for one in self.bins:
            if one.low is not None and one.high is not None and (one.low > 0 or not self.x.log):
                return one.high / one.low if self.x.log else one.high - one.low
        return 2.0 if self.x.log else 1.0

    def is_beyond(self, index: int) -> bool:
        low, high = self.ends(index)
        middle = math.sqrt(low * high) if self.x.log else (low + high) / 2
        return self.edge is not None and middle > self.edge

    def stops(self) -> Sequence[QPointF]:
        places = []
        for index, one in enumerate(self.bins):
            low, high = self.ends(index)
            middle = math.sqrt(low * high) if self.x.log else (low + high) / 2
            places.append(QPointF(middle, one.count))
        return places

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        entries = zip(self.names, self.colors, strict=True)
        parted = self.paired or self.edge is not None
        return [(name, color, False) for name, color in entries if name and parted]

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        total = sum(one.count for one in self.bins)
        others = sum(one.other for one in self.bins)
        if not (total or others) or not self.area.adjusted(-1, -1, 1, 1).contains(place):
            return None
        for index, one in enumerate(self.bins):
            low, high = self.ends(index)
            left, right = self.pixel(low, 0).x(), self.pixel(high, 0).x()
            if left <= place.x() < right:
                if self.paired:
                    names = (self.names[0], one.count), (self.names[1], one.other)
                    rows = [(c, n, cell(k)) for c, (n, k) in zip(self.colors, names, strict=True)]
                else:
                    color = self.colors[self.is_beyond(index)]
                    rows = [(color, percent(one.count / total), cell(one.count))]
                return QPointF((left + right) / 2, place.y()), self._range(index), rows
        return None

    def _range(self, index: int) -> str:
        one, x = self.bins[index], self.x
        if one.low is None or (x.log and one.low <= 0):
            return "" if one.high is None else tr("up to {value}", value=x.text(one.high))
        if one.high is None:
            return tr("above {value}", value=x.text(one.low))
        return f"{x.text(one.low)} – {x.text(one.high)}"

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        for index, one in enumerate(self.bins):
            if self.paired:
                self._draw_bar(painter, index, one.count, self.colors[0], 0.62)
                self._draw_bar(painter, index, one.other, self.colors[1], 0.62)
            else:
                self._draw_bar(painter, index, one.count, self.colors[self.is_beyond(index)], 1.0)
        if self.edge is not None and self.bins:
            self._draw_edge(painter, area, self.edge)

    def _draw_bar(
        self, painter: QPainter, index: int, count: int, color: str, alpha: float
    ) -> None:
        if not count:
            return
        low, high = self.ends(index)
        foot, top = self.pixel(low, 0), self.pixel(high, count)
        gap = min(theme.px(1.5), (top.x() - foot.x()) / 4)
        bar = QRectF(foot.x() + gap / 2, top.y(), top.x() - foot.x() - gap, foot.y() - top.y())
        if bar.height() < 1.5:  # one in ten thousand is not none
            bar.setTop(foot.y() - 1.5)
        painter.setBrush(theme.color(color, alpha))
        painter.drawRoundedRect(bar, theme.px(1.5), theme.px(1.5))

    def _draw_edge(self, painter: QPainter, area: QRectF, edge: float) -> None:
        px = theme.px
        x = self.pixel(edge, 0).x()
        painter.setPen(line_pen("text", 1, DASHES))
        painter.drawLine(QPointF(x, area.top() - px(4)), QPointF(x, area.bottom()))
        font = theme.font(11, 500)
        wide = QFontMetricsF(font).horizontalAdvance(self.edge_name)
        right = x + px(6) + wide < area.right()
        box = QRectF(x + px(6) if right else x - px(6) - wide, area.top() - px(4), wide + 2, px(15))
        box.moveLeft(max(box.left(), area.left()))
        painter.fillRect(box, theme.color("card", 0.8))
        painter.setFont(font)
        painter.setPen(theme.color("text"))
        painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, self.edge_name)


class HistogramCard(AxesCard):
    """Counts over `x`. With an `edge`, the share beyond it stands large in the title."""

    drawing: Histogram

    def __init__(
        self,
        title: str,
        x: Scale,
        counted: str = mark("Images"),
        empty: str = mark("Bars appear here while a run works."),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(title, Histogram(x, Scale(counted)), empty, parent)

    can_be_log = False  # the bins say along which axis they are even

    @property
    def is_empty(self) -> bool:
        return not any(one.count or one.other for one in self.drawing.bins)

    def set_bins(
        self,
        bins: Iterable[Bin],
        edge: float | None = None,
        edge_name: str = "",
        names: tuple[str, str] = ("", ""),
    ) -> None:
        """Draw these bins, ascending. `edge` parts them, with the names of both sides (already
        translated)."""
        drawing = self.drawing
        drawing.edge, drawing.edge_name, drawing.paired = edge, edge_name, False
        drawing.colors = ("accent", "warning")
        self._put(bins, names)
        total = sum(one.count for one in drawing.bins)
        beyond = sum(b.count for k, b in enumerate(drawing.bins) if drawing.is_beyond(k))
        shown = total and edge is not None
        self.set_value(percent(beyond / total) if shown else "", names[1] if shown else "")

    def set_pair(
        self, bins: Iterable[Bin], names: tuple[str, str], colors: tuple[str, str]
    ) -> None:
        """Draw two kinds, with their names (already translated)."""
        drawing = self.drawing
        drawing.edge, drawing.paired, drawing.colors = None, True, colors
        self._put(bins, names)
        self.set_value("")

    def _put(self, bins: Iterable[Bin], names: tuple[str, str]) -> None:
        drawing = self.drawing
        drawing.bins, drawing.names = tuple(bins), names
        if drawing.bins:
            places = [end for k in range(len(drawing.bins)) for end in drawing.ends(k)]
            drawing.x.low, drawing.x.high = min(places), max(places)
            drawing.y.low = 0.0
            drawing.y.high = 1.08 * max(1, *(max(one.count, one.other) for one in drawing.bins))
        self.changed()

    def clear(self) -> None:
        self.set_bins(())

    def rows(self) -> Iterable[Sequence[Any]]:
        drawing = self.drawing
        paired = drawing.paired
        yield tr("from"), tr("to"), *(drawing.names if paired else (tr(drawing.y.name),))
        for one in drawing.bins:
            counts = (one.count, one.other) if paired else (one.count,)
            yield _end(one.low), _end(one.high), *counts


def _end(value: float | None) -> str:
    return "" if value is None else repr(value)
