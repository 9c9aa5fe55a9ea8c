"""Draws curves: from series of numbers to the items of pyqtgraph that show them.

Importing pyqtgraph costs 0.5 s of processor time, so this module is loaded after the first paint.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QGraphicsScene, QGraphicsSimpleTextItem

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import axis
from workbench.views.pyramid import Floats, Pyramid, Smoother
from workbench.views.text import MINUS, number, percent, tick

Range = tuple[float, float]
POINTS = 2000
"""About as many points a curve is drawn with at most."""

FAR = 50.0
"""Heights of the plot beyond which a value is cut."""
DASHES = (4, 2.5)
FEW = 24
"""As many values are told apart by dots."""

pg.setConfigOptions(useOpenGL=False, antialias=False)


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


@dataclass(frozen=True, slots=True)
class Line:
    """A dashed line across the curves, named at its right end, or its `left` one."""

    value: float
    color: str = "warning"
    left: bool = False


@dataclass
class Frame:
    """Everything that decides how the curves are drawn, but their values."""

    x: Range = (0.0, 1.0)
    y: Range = (0.0, 1.0)  # of log10(value) where `log`
    log: bool = False
    percent: bool = False
    unit: str = ""
    over: str = ""  # what x is (English), where it is no step
    counted: str = mark("Step")  # else what is counted along x
    lines: dict[str, Line] = field(default_factory=dict)
    area: QRectF = field(default_factory=QRectF)

    def heights(self, y: Floats) -> Floats:
        """Values in units of the y axis. NaN where they cannot be drawn (a logarithm of nothing);
        what is far outside is cut, since the rasteriser slows down on huge distances."""
        if self.log:
            with np.errstate(invalid="ignore", divide="ignore"):
                y = np.where(y > 0, np.log10(np.maximum(y, 1e-300)), np.nan)
        far = FAR * (self.y[1] - self.y[0])
        return np.clip(y, self.y[0] - far, self.y[1] + far)

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
        return [(v / by, label(v, step)) for v in values]

    def steps(self) -> list[tuple[float, str]]:
        """The ticks of the x axis, and their labels."""
        room = max(self.area.width() / theme.px(72), 2)
        values, step = axis.ticks(*self.x, room, whole=not self.over)
        return [(v, tick(v, step)) for v in values]


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
    for line in frame.lines.values():
        lows.append(line.value)
        highs.append(line.value)
    if frame.log:
        lows = [math.log10(v) if v > 0 else math.nan for v in lows]
        highs = [math.log10(v) if v > 0 else math.nan for v in highs]
    lows = [v for v in lows if math.isfinite(v)]
    highs = [v for v in highs if math.isfinite(v)]
    if not (lows and highs):
        return math.nan, math.nan
    return axis.spread(min(lows), max(highs), frame.log, frame.percent)


def label(value: float, step: float) -> str:
    """The label of a tick, with enough places to tell small values apart that lie close."""
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(step)) if value else 0
    if abs(value) >= 1e-3 or places <= 0:
        return tick(value, step)
    mantissa, exponent = f"{value:.{places}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)


class Axis(pg.AxisItem):
    """An axis whose ticks are set by hand; their labels may reach beyond its ends."""

    def __init__(self, orientation: str) -> None:
        super().__init__(orientation, maxTickLength=0)
        self.enableAutoSIPrefix(False)
        self.setStyle(autoExpandTextSpace=False, autoReduceTextSpace=False, tickAlpha=255)

    def boundingRect(self) -> QRectF:
        room = theme.px(30)  # a label that is not wholly inside is left out
        return super().boundingRect().adjusted(-room, -room, room, room)

    def dress(self) -> None:
        """Take the colours and the font of the theme."""
        self.setPen(QPen(theme.color("border"), 1))
        self.setTickPen(QPen(theme.color("line"), 1))
        self.setTextPen(QPen(theme.color("faint"), 1))
        self.setStyle(
            tickFont=theme.font(11), tickTextOffset=theme.px(6 if self.orientation == "left" else 5)
        )


class Legend(pg.GraphicsWidget):
    """One line above the curves, right-aligned; names that do not fit are shortened."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: list[Curve] = []

    def paint(self, painter: QPainter, *_: object) -> None:
        px = theme.px
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        font = theme.font(11, 500)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        room = self.size().width() / max(len(self.curves), 1) - px(22)
        names = [
            metrics.elidedText(c.label, Qt.TextElideMode.ElideRight, max(room, px(12)))
            for c in self.curves
        ]
        x = self.size().width() - sum(metrics.horizontalAdvance(n) + px(22) for n in names) + px(4)
        y = self.size().height() - px(11)
        for curve, name in zip(self.curves, names):
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


class Trace:
    """What draws one curve: its raw values faint where they are smoothed, the line, the dots."""

    def __init__(self, box: pg.ViewBox) -> None:
        self.raw = pg.PlotCurveItem(connect="finite")
        self.line = pg.PlotCurveItem(connect="finite")
        self.dots = pg.ScatterPlotItem(pen=None, useCache=False)
        for height, item in enumerate((self.raw, self.line, self.dots)):
            item.setZValue(height)
            box.addItem(item, ignoreBounds=True)

    def show(self, curve: Curve, frame: Frame, smooth: bool) -> None:
        """Draw the curve anew. `smooth` costs six times as much: for what stands."""
        width = 1.6 * theme.manager.scale if smooth else 1
        color = theme.color(curve.color)
        self.raw.setVisible(curve.smoothed)
        if curve.smoothed:
            faint = theme.color(curve.color, 0.24)
            self.raw.setData(*_outline(curve.raw, frame), pen=_pen(faint, 1), antialias=smooth)
        x, y = _outline(curve.smooth, frame)
        self.line.setData(
            x, y, pen=_pen(color, width, DASHES if curve.dashed else ()), antialias=smooth
        )
        dotted = np.isfinite(y)
        if not (smooth and len(curve.raw) <= FEW):  # lone values would be invisible as a line
            gaps = np.concatenate(([True], ~dotted, [True]))
            dotted &= gaps[:-2] & gaps[2:]
        self.dots.setVisible(bool(dotted.any()))
        if self.dots.isVisible():
            size = theme.manager.scale * 4.4
            self.dots.setData(x[dotted], y[dotted], size=size, brush=color, antialias=True)

    def remove(self, box: pg.ViewBox) -> None:
        for item in (self.raw, self.line, self.dots):
            box.removeItem(item)


def _outline(series: Pyramid, frame: Frame) -> tuple[Floats, Floats]:
    x, y = series.outline(*series.span(*frame.x), POINTS)
    return x, frame.heights(y)


def _pen(color: QColor, width: float, dashes: Sequence[float] = ()) -> QPen:
    pen = QPen(color, width)
    pen.setCosmetic(True)  # the width is of the screen, not of the values
    if dashes:
        pen.setDashPattern(dashes)
    return pen


class Chart:
    """Axes, legend, named lines and curves, laid out in a scene."""

    def __init__(self, scene: QGraphicsScene, frame: Frame) -> None:
        self.scene, self.frame = scene, frame
        self.box = pg.ViewBox(enableMouse=False, enableMenu=False, defaultPadding=0)
        self.box.disableAutoRange()
        self.left, self.bottom, self.legend = Axis("left"), Axis("bottom"), Legend()
        self.left.setGrid(255)
        self.traces: dict[str, Trace] = {}
        self._lines: list[pg.InfiniteLine] = []
        self._dress: object = None
        self.under = QGraphicsSimpleTextItem()
        scene.addItem(self.under)
        for item in (self.box, self.left, self.bottom, self.legend):
            scene.addItem(item)
        for ruler in (self.left, self.bottom):
            ruler.setZValue(self.box.zValue() - 1)  # the grid is behind the curves
            ruler.linkToView(self.box)

    def lay_out(self, whole: QRectF, curves: Mapping[str, Curve]) -> None:
        """Put everything in its place in `whole`, and set the axes to the frame's ranges."""
        frame, px = self.frame, theme.px
        dress = (theme.manager.theme, theme.manager.scale)
        if self._dress != dress:
            self._dress = dress
            self.left.dress()
            self.bottom.dress()
        self.legend.curves = list(curves.values()) if len(curves) > 1 else []
        top, below = px(20) if self.legend.curves else px(6), px(20)
        self._name_steps(whole)
        if self.under.isVisible():
            below += px(13)
        frame.area = whole.adjusted(0, top, -px(6), -below)
        metrics = QFontMetricsF(theme.font(11))
        widest = max((metrics.horizontalAdvance(text) for _, text in frame.marks()), default=0)
        margin = math.ceil(max(widest + px(10), px(30)))
        # The last label of the x axis is centred under its tick, which may stand at the very edge.
        frame.area = frame.area.adjusted(margin, 0, 0, 0)
        widest = max((metrics.horizontalAdvance(text) for _, text in frame.steps()), default=0)
        right = whole.right() - max(math.ceil(widest / 2) + 1, px(6))
        frame.area.setRight(max(right, frame.area.left() + 1))
        area = frame.area
        self.box.setGeometry(area)
        self.box.setRange(xRange=frame.x, yRange=frame.y, padding=0)
        self.left.setWidth(margin)
        self.left.setGeometry(QRectF(whole.left(), area.top(), margin, area.height()))
        self.left.setTicks([frame.marks()])
        self.bottom.setHeight(below)
        self.bottom.setGeometry(QRectF(area.left(), area.bottom(), area.width(), below))
        self.bottom.setTicks([frame.steps()])
        wide = self.under.boundingRect().width()
        self.under.setPos(area.center().x() - wide / 2, whole.bottom() - px(15))
        self.legend.setGeometry(QRectF(area.left(), whole.top(), area.width(), top))
        self._draw_lines()

    def _name_steps(self, whole: QRectF) -> None:
        """Say what the x axis counts, where there is room for a line below it."""
        self.under.setVisible(whole.height() >= theme.px(130))
        self.under.setText(tr(self.frame.over or self.frame.counted))
        self.under.setFont(theme.font(11))
        self.under.setBrush(theme.color("faint"))

    def _draw_lines(self) -> None:
        """Named dashed lines, as for a budget."""
        for line in self._lines:
            self.box.removeItem(line)
        self._lines.clear()
        for name, wanted in self.frame.lines.items():
            text = f"{name} {self.frame.text(wanted.value)}".strip()
            height = float(self.frame.heights(np.array([wanted.value]))[0])
            if not math.isfinite(height):
                continue
            color, end = theme.color(wanted.color), 0.0 if wanted.left else 1.0
            line = pg.InfiniteLine(
                height,
                angle=0,
                pen=_pen(color, 1, (4, 3)),
                label=text.replace("{", "{{").replace("}", "}}"),
                labelOpts={"position": end, "color": color, "anchors": [(end, 0), (end, 1)]},
            )
            line.label.setFont(theme.font(11, 500))
            line.setZValue(3)
            self.box.addItem(line, ignoreBounds=True)
            self._lines.append(line)

    def draw(self, key: str, curve: Curve, smooth: bool) -> None:
        """Draw one curve anew."""
        if key not in self.traces:
            self.traces[key] = Trace(self.box)
        self.traces[key].show(curve, self.frame, smooth)

    def keep(self, keys: Collection[str]) -> None:
        """Take away all other curves."""
        for key in self.traces.keys() - set(keys):
            self.traces.pop(key).remove(self.box)

    def render(self, painter: QPainter, target: QRectF, source: QRectF) -> None:
        """Paint what is laid out in `source`."""
        self.scene.prepareForPaint()
        self.scene.render(painter, target, source)
