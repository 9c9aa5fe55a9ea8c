"""A card with points in a plane of two quantities: what each of many runs came to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.axes import AxesCard, AxesDrawing, Scale, draw_level

LABELS = 16
"""With more points than this only the marked one has its name beside it."""
SPREAD = 6.0
"""How far apart the values along x are, as a factor, from which on they stand on a logarithm."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point: its key, name, values and colour. The marked one is what all is about."""

    key: str
    name: str
    x: float
    y: float
    color: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A named dashed line at a value of y, for what has no x."""

    name: str
    y: float
    color: str = "faint"


class Scatter(AxesDrawing):
    """Points with their names beside them where there is room; a ring around the marked one."""

    def __init__(self, x: Scale, y: Scale, parent: QWidget | None = None) -> None:
        super().__init__(x, y, parent)
        self.dots: tuple[Dot, ...] = ()
        self.levels: tuple[Level, ...] = ()

    def stops(self) -> Sequence[QPointF]:
        return [QPointF(dot.x, dot.y) for dot in self.dots]

    def nearest(self, place: QPointF, reach: float) -> Dot | None:
        """The dot nearest to `place`, if it is within `reach` pixels."""
        best, found = reach, None
        for dot in self.dots:
            gap = self.pixel(dot.x, dot.y) - place
            if math.hypot(gap.x(), gap.y()) <= best:
                best, found = math.hypot(gap.x(), gap.y()), dot
        return found

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        dot = self.nearest(place, reach)
        if dot is None:
            return None
        rows = [
            (dot.color, tr(self.x.name), self.x.text(dot.x)),
            (dot.color, tr(self.y.name), self.y.text(dot.y)),
        ]
        return self.pixel(dot.x, dot.y), dot.name, rows

    def named_at(self, place: QPointF, reach: float) -> str:
        dot = self.nearest(place, reach)
        return dot.key if dot is not None else ""

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        px = theme.px
        reach = px(6)
        taken = [
            QRectF(place.x() - reach, place.y() - reach, 2 * reach, 2 * reach)
            for place in (self.pixel(dot.x, dot.y) for dot in self.dots)
        ]
        # The names of two that lie close stand on either side of both.
        for number, level in enumerate(sorted(self.levels, key=lambda level: -level.y)):
            y, below = self.pixel(self.x.low, level.y).y(), number > 0
            name, color = level.name, level.color
            taken.append(draw_level(painter, area, y, name, color, below=below, taken=taken))
        for dot in self.dots:
            place = self.pixel(dot.x, dot.y)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color(dot.color))
            painter.drawEllipse(place, px(4.5), px(4.5))
            if dot.marked:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(theme.color("text"), 1.4 * theme.manager.scale))
                painter.drawEllipse(place, px(8), px(8))
        for dot in sorted(self.dots, key=lambda dot: not dot.marked):
            if dot.marked or len(self.dots) <= LABELS:
                self._draw_name(painter, area, dot, taken)

    def _draw_name(self, painter: QPainter, area: QRectF, dot: Dot, taken: list[QRectF]) -> None:
        """Beside its point, left or right of it, above or below: wherever nothing stands yet."""
        px = theme.px
        font = theme.font(11, 600 if dot.marked else 400)
        metrics = QFontMetricsF(font)
        name = metrics.elidedText(dot.name, Qt.TextElideMode.ElideRight, area.width() * 0.45)
        wide, high = metrics.horizontalAdvance(name) + 2, px(15)
        at = self.pixel(dot.x, dot.y)
        for left, top in (
            (at.x() + px(11), at.y() - high / 2),
            (at.x() - px(11) - wide, at.y() - high / 2),
            (at.x() - wide / 2, at.y() - px(10) - high),
            (at.x() - wide / 2, at.y() + px(10)),
        ):
            box = QRectF(left, top, wide, high)
            if area.contains(box) and not any(box.intersects(other) for other in taken):
                taken.append(box)
                painter.setFont(font)
                painter.setPen(theme.color("text" if dot.marked else "muted"))
                painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, name)
                return


class ScatterCard(AxesCard):
    """`x` and `y` say what the points lie over. `picked` is emitted with the key of a point that a
    person clicks on, or goes to with the arrow keys and Enter."""

    drawing: Scatter

    def __init__(
        self,
        title: str,
        x: Scale,
        y: Scale,
        empty: str = mark("A point appears here for each run."),
        parent: QWidget | None = None,
    ) -> None:
        self._chosen_log: bool | None = None
        super().__init__(title, Scatter(x, y), empty, parent)
        self.picked = self.drawing.picked

    @property
    def is_empty(self) -> bool:
        return not self.drawing.dots

    def set_dots(self, dots: Iterable[Dot], levels: Iterable[Level] = ()) -> None:
        """Draw these and no others; whose values are not finite are left out."""
        drawing = self.drawing
        known = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
        drawing.dots = tuple(sorted(known, key=lambda dot: (dot.x, dot.key)))
        drawing.levels = tuple(levels)
        self._fit()
        self.changed()

    def set_log(self, log: bool) -> None:
        self._chosen_log = log
        self._fit()
        self.changed()

    def _fit(self) -> None:
        drawing = self.drawing
        xs = [dot.x for dot in drawing.dots]
        wide = bool(xs) and min(xs) > 0 and max(xs) >= SPREAD * min(xs)
        drawing.x.log = wide if self._chosen_log is None else self._chosen_log
        self._log.setChecked(drawing.x.log)
        drawing.x.fit(xs, 0.12)
        drawing.y.fit([dot.y for dot in drawing.dots] + [lv.y for lv in drawing.levels], 0.16)

    def rows(self) -> Iterable[Sequence[Any]]:
        drawing = self.drawing
        yield tr("Run"), tr(drawing.x.name), tr(drawing.y.name)
        for dot in drawing.dots:
            yield dot.name, repr(dot.x), repr(dot.y)
        for level in drawing.levels:
            yield level.name, "", repr(level.y)
