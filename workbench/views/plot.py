"""Draws curves: from series of numbers to pixels, for the screen and for exports alike.

We paint ourselves rather than with pyqtgraph: importing that costs 0.8 s, all our views 0.04 s, and
what is painted here comes out the same on the screen, in a PNG and in an SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen, QPolygonF
from shiboken6 import VoidPtr

from workbench import theme
from workbench.views import axis
from workbench.views.pyramid import Floats, Pyramid, Smoother
from workbench.views.text import number, percent, tick

Range = tuple[float, float]
POINTS = 2000
"""About as many points a curve is drawn with at most."""

FAR = 30_000.0
"""Pixels beyond which a coordinate is cut: the rasteriser slows down on huge ones."""


@dataclass
class Curve:
    """One series: its values as they came, and smoothed."""

    label: str
    color: str
    dashed: bool = False
    raw: Pyramid = field(default_factory=Pyramid)
    smooth: Pyramid = field(default_factory=Pyramid)
    smoother: Smoother = field(default_factory=lambda: Smoother(1))
    waiting: list[tuple[Sequence[float], Sequence[float]]] = field(default_factory=list)

    def absorb(self, strength: float) -> bool:
        """Take in what is waiting; True if there was something. `strength` scales the smoothing
        (0 is none). A step that comes again replaces what was there from it on: a resumed run
        repeats what came after its checkpoint."""
        arrived, self.waiting = self.waiting, []
        for steps, values in arrived:
            x = np.asarray(steps, dtype=np.float64)
            y = np.asarray(values, dtype=np.float64)
            if not len(x):
                continue
            if len(self.raw) and x[0] <= self.raw.x[-1]:
                keep = int(np.searchsorted(self.raw.x, x[0], "left"))
                x = np.concatenate((self.raw.x[:keep], x))
                y = np.concatenate((self.raw.y[:keep], y))
                self.raw, self.smooth = Pyramid(), Pyramid()
                self.smoother = Smoother(self.smoother.span)
            self.raw.append(x, y)
            self.smooth.append(x, self.smoother.extend(y))
        self.resmooth(strength)
        return bool(arrived)

    def resmooth(self, strength: float) -> None:
        """Smooth anew if the series has outgrown its smoothing. The span doubles as the series
        does, so all this work stays proportional to its length."""
        span = span_for(len(self.raw), strength)
        if span != self.smoother.span:
            self.smoother = Smoother(span)
            self.smooth = Pyramid()
            self.smooth.append(self.raw.x, self.smoother.extend(self.raw.y))

    @property
    def smoothed(self) -> bool:
        return self.smoother.span > 1

    def at(self, step: float) -> float | None:
        """The smoothed value at the step nearest to `step`; None where the curve is not."""
        x = self.smooth.x
        if not len(x):
            return None
        right = int(np.searchsorted(x, step))
        near = min(
            (i for i in (right - 1, right) if 0 <= i < len(x)), key=lambda i: abs(x[i] - step)
        )
        reach = (x[-1] - x[0]) * 0.03 + 1
        if not x[0] - reach <= step <= x[-1] + reach:
            return None
        return float(self.smooth.y[near])


def span_for(count: int, strength: float) -> float:
    """How many neighbours to average in a series of `count` values."""
    if count < 48 or strength <= 0:
        return 1
    return max(1.0, 2.0 ** math.floor(math.log2(count / 24 * strength)))


@dataclass
class Frame:
    """Everything that decides how the curves are drawn, but their values."""

    x: Range = (0.0, 1.0)
    y: Range = (0.0, 1.0)  # of log10(value) where `log`
    log: bool = False
    percent: bool = False
    unit: str = ""
    lines: dict[str, float] = field(default_factory=dict)
    area: QRectF = field(default_factory=QRectF)

    def pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where values are drawn. NaN where they cannot be (a logarithm of nothing)."""
        if self.log:
            with np.errstate(invalid="ignore", divide="ignore"):
                y = np.where(y > 0, np.log10(np.maximum(y, 1e-300)), np.nan)
        a = self.area
        px = a.left() + (x - self.x[0]) * (a.width() / (self.x[1] - self.x[0]))
        py = a.bottom() - (y - self.y[0]) * (a.height() / (self.y[1] - self.y[0]))
        return np.clip(px, -FAR, FAR), np.clip(py, -FAR, FAR)

    def step_at(self, pixel: float) -> float:
        """The position on the x axis that is drawn at `pixel`."""
        share = (pixel - self.area.left()) / max(self.area.width(), 1)
        return self.x[0] + share * (self.x[1] - self.x[0])

    def y_at(self, pixel: float) -> float:
        share = (self.area.bottom() - pixel) / max(self.area.height(), 1)
        return self.y[0] + share * (self.y[1] - self.y[0])

    def text(self, value: float) -> str:
        """A value as it is read out."""
        if self.percent:
            return percent(value)
        return number(value) + (f"\u202f{self.unit}" if self.unit else "")

    def marks(self) -> list[tuple[float, str]]:
        """The ticks of the y axis: where (in units of `y`), and their labels."""
        room = max(self.area.height() / theme.px(19), 2)
        if self.log:
            found = axis.log_ticks(*self.y, room)
            return [
                (
                    math.log10(v),
                    tick(v * 100 if self.percent else v, v * (100 if self.percent else 1)),
                )
                for v in found
            ]
        by = 100 if self.percent else 1
        values, step = axis.ticks(self.y[0] * by, self.y[1] * by, room)
        return [(v / by, tick(v, step)) for v in values]


def value_range(curves: Sequence[Curve], frame: Frame, within: Range | None = None) -> Range:
    """Least and greatest of what is drawn, in units of the y axis. Raw traces of smoothed curves
    count by their extremes; NaN where there is nothing."""
    lows, highs = [], []
    for curve in curves:
        start, stop = curve.raw.span(*within) if within else (0, len(curve.raw))
        low, high = curve.raw.extremes(start, stop)
        if frame.log and low <= 0:
            seen = curve.raw.y[start:stop]
            seen = seen[seen > 0]
            low = float(seen.min()) if len(seen) else math.nan
        lows.append(low)
        highs.append(high)
    for value in frame.lines.values():
        lows.append(value)
        highs.append(value)
    if frame.log:
        lows = [math.log10(v) if v > 0 else math.nan for v in lows]
        highs = [math.log10(v) if v > 0 else math.nan for v in highs]
    lows = [v for v in lows if math.isfinite(v)]
    highs = [v for v in highs if math.isfinite(v)]
    return (min(lows), max(highs)) if lows and highs else (math.nan, math.nan)


def polygons(x: Floats, y: Floats) -> list[QPolygonF]:
    """Polylines through points in pixels; a NaN ends one and begins the next."""
    seen = np.isfinite(y)
    if seen.all():
        parts = [(x, y)] if len(x) else []
    else:
        edges = np.flatnonzero(np.diff(np.concatenate(([0], seen.view(np.int8), [0]))))
        parts = [(x[a:b], y[a:b]) for a, b in zip(edges[::2], edges[1::2])]
    made = []
    for px, py in parts:
        polygon = QPolygonF()
        polygon.resize(len(px))
        memory = np.frombuffer(VoidPtr(polygon.data(), len(px) * 16, True), dtype=np.float64)
        memory = memory.reshape(-1, 2)
        memory[:, 0] = px
        memory[:, 1] = py
        made.append(polygon)
    return made


@dataclass
class Shape:
    """A curve in pixels."""

    raw: list[QPolygonF]
    smooth: list[QPolygonF]


def shape(curve: Curve, frame: Frame) -> Shape:
    """The polylines of a curve; its raw trace apart only where the smoothed one differs."""

    def lines(series: Pyramid) -> list[QPolygonF]:
        return polygons(*frame.pixels(*series.outline(*series.span(*frame.x), POINTS)))

    return Shape(lines(curve.raw) if curve.smoothed else [], lines(curve.smooth))


def plot_area(whole: QRectF, frame: Frame, legend: bool) -> QRectF:
    """Where in `whole` the curves go: what axis labels and a legend leave."""
    metrics = QFontMetricsF(theme.font(11))
    px = theme.px
    top = px(20) if legend else px(6)
    bottom = px(20)
    draft = Frame(frame.x, frame.y, frame.log, frame.percent, frame.unit)
    draft.area = QRectF(0, 0, whole.width(), max(whole.height() - top - bottom, 1))
    widest = max((metrics.horizontalAdvance(label) for _, label in draft.marks()), default=0)
    left = max(widest + px(10), px(30))
    return whole.adjusted(left, top, -px(6), -bottom)


def paint(
    painter: QPainter,
    curves: Mapping[str, Curve],
    shapes: Mapping[str, Shape],
    frame: Frame,
    *,
    smooth: bool,
    legend: bool,
) -> None:
    """Axes, budget lines, curves and legend. `smooth` costs six times as much: for what stands."""
    paint_axes(painter, frame)
    painter.save()
    painter.setClipRect(frame.area.adjusted(0, -2, 2, 1))
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, smooth)
    width = 1.6 * theme.manager.scale if smooth else 1
    for key, drawn in shapes.items():
        _trace(painter, drawn.raw, theme.color(curves[key].color, 0.24), 1, False)
    for key, drawn in shapes.items():
        curve = curves[key]
        _trace(painter, drawn.smooth, theme.color(curve.color), width, curve.dashed)
        _dots(painter, curve, drawn, smooth)
    painter.restore()
    paint_lines(painter, frame)
    if legend:
        paint_legend(painter, list(curves.values()), frame)


def _trace(
    painter: QPainter, parts: list[QPolygonF], color: QColor, width: float, dashed: bool
) -> None:
    pen = QPen(color, width)
    pen.setCosmetic(True)
    if dashed:
        pen.setDashPattern([4, 2.5])
    painter.setPen(pen)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for polygon in parts:
        painter.drawPolyline(polygon)


def _dots(painter: QPainter, curve: Curve, drawn: Shape, smooth: bool) -> None:
    """Single values would be invisible as a line, and few of them are told apart by dots."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(theme.color(curve.color))
    few = smooth and len(curve.raw) <= 24
    radius = theme.manager.scale * 2.2
    for polygon in drawn.smooth:
        if few or polygon.size() == 1:
            for index in range(polygon.size()):
                painter.drawEllipse(polygon.at(index), radius, radius)


def paint_axes(painter: QPainter, frame: Frame) -> None:
    px, area = theme.px, frame.area
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
    painter.setFont(theme.font(11))
    metrics = QFontMetricsF(theme.font(11))
    grid, ink, rule = theme.color("line"), theme.color("faint"), theme.color("border")
    for value, label in frame.marks():
        y = area.bottom() - (value - frame.y[0]) * area.height() / (frame.y[1] - frame.y[0])
        painter.setPen(QPen(grid, 1))
        painter.drawLine(QPointF(area.left(), round(y)), QPointF(area.right(), round(y)))
        painter.setPen(ink)
        box = QRectF(area.left() - px(86), y - px(8), px(80), px(16))
        painter.drawText(box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, label)
    values, step = axis.ticks(*frame.x, max(area.width() / px(72), 2))
    for value in values:
        label = tick(value, step)
        x = area.left() + (value - frame.x[0]) * area.width() / (frame.x[1] - frame.x[0])
        half = metrics.horizontalAdvance(label) / 2 + 1
        left = min(max(x - half, area.left() - px(8)), area.right() - 2 * half + px(4))
        painter.drawText(
            QRectF(left, area.bottom() + px(4), 2 * half, px(16)),
            Qt.AlignmentFlag.AlignCenter,
            label,
        )
    painter.setPen(QPen(rule, 1))
    painter.drawLine(area.topLeft(), area.bottomLeft())
    painter.drawLine(area.bottomLeft(), area.bottomRight())


def paint_lines(painter: QPainter, frame: Frame) -> None:
    """Named dashed lines, as for a budget."""
    metrics = QFontMetricsF(theme.font(11, 500))
    for name, value in frame.lines.items():
        _, ys = frame.pixels(np.zeros(1), np.array([value]))
        y = float(ys[0])
        if not frame.area.top() - 1 <= y <= frame.area.bottom() + 1:
            continue
        pen = QPen(theme.color("warning"), 1)
        pen.setDashPattern([4, 3])
        painter.setPen(pen)
        painter.drawLine(QPointF(frame.area.left(), y), QPointF(frame.area.right(), y))
        text = f"{name} {frame.text(value)}".strip()
        width = metrics.horizontalAdvance(text) + 2
        above = y - theme.px(17)
        top = above if above >= frame.area.top() - theme.px(6) else y + theme.px(2)
        painter.setFont(theme.font(11, 500))
        painter.drawText(
            QRectF(frame.area.right() - width - theme.px(4), top, width, theme.px(15)),
            Qt.AlignmentFlag.AlignCenter,
            text,
        )


def paint_legend(painter: QPainter, curves: Sequence[Curve], frame: Frame) -> None:
    """One line above the curves, right-aligned; names that do not fit are shortened."""
    px = theme.px
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    font = theme.font(11, 500)
    metrics = QFontMetricsF(font)
    painter.setFont(font)
    room = frame.area.width() / max(len(curves), 1) - px(22)
    names = [
        metrics.elidedText(c.label, Qt.TextElideMode.ElideRight, max(room, px(12))) for c in curves
    ]
    x = frame.area.right() - sum(metrics.horizontalAdvance(n) + px(22) for n in names) + px(4)
    y = frame.area.top() - px(11)
    for curve, name in zip(curves, names):
        pen = QPen(theme.color(curve.color), 2.4)
        pen.setCapStyle(Qt.PenCapStyle.FlatCap if curve.dashed else Qt.PenCapStyle.RoundCap)
        if curve.dashed:
            pen.setDashPattern([1.6, 1])
        painter.setPen(pen)
        painter.drawLine(QPointF(x, y), QPointF(x + px(10), y))
        painter.setPen(theme.color("muted"))
        wide = metrics.horizontalAdvance(name)
        painter.drawText(
            QRectF(x + px(15), y - px(8), wide + 2, px(16)), Qt.AlignmentFlag.AlignVCenter, name
        )
        x += wide + px(22)
