"""Two axes painted by hand, linear or logarithmic, for drawings that are no curves over steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QAction, QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views import axis
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.readout import paint_readout
from workbench.views.text import number, percent, tick

DASHES = (4.0, 3.0)


@dataclass
class Scale:
    """Values along one side: from `low` to `high`, both above 0 where it is logarithmic. `percent`:
    fractions, read as percent. `name` (English) stands at the axis; `sign` before a value that is
    read out."""

    name: str = ""
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    percent: bool = False
    sign: str = ""

    @property
    def title(self) -> str:
        """Its name, and its unit, in the person's language."""
        return f"{tr(self.name)}, %" if self.percent else tr(self.name)

    def fit(self, values: Iterable[float], share: float = 0.06) -> None:
        """Reach over `values` and a little more; what cannot be drawn is left out."""
        seen = [v for v in values if math.isfinite(v) and (v > 0 or not self.log)]
        if not seen:
            self.low, self.high = (0.1, 10.0) if self.log else (0.0, 1.0)
        elif self.log:
            low, high = axis.spread(math.log10(min(seen)), math.log10(max(seen)), log=True)
            room = (high - low) * share
            self.low, self.high = 10.0 ** (low - room), 10.0 ** (high + room)
        else:
            low, high = axis.spread(min(seen), max(seen), percent=self.percent)
            self.low, self.high = axis.padded(low, high, share)

    def share(self, value: float) -> float:
        """Where `value` lies along the side, 0 to 1 within it; what a logarithm does not know lies
        at the beginning."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            return 0.0
        return math.log(value / self.low) / math.log(self.high / self.low)

    def value(self, share: float) -> float:
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)

    def text(self, value: float) -> str:
        """A value as it is read out."""
        return f"{self.sign}{percent(value) if self.percent else number(value)}"

    def ticks(self, room: float) -> list[tuple[float, str]]:
        """Values that have a label, about `room` of them."""
        by = 100.0 if self.percent else 1.0
        if self.log:
            found = axis.log_ticks(math.log10(self.low * by), math.log10(self.high * by), room)
            return [(v / by, _log_label(v)) for v in found]
        values, step = axis.ticks(self.low * by, self.high * by, room)
        return [(v / by, tick(v, step)) for v in values if not self.percent or 0 <= v <= 100]


def _log_label(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    return tick(value, value)


class AxesDrawing(Drawing):
    """Axes, what stands between them (`draw_inside`), and a read-out (`said_at`) that follows the
    pointer, and the keyboard: Left and Right walk through `stops`, Escape ends that."""

    picked = Signal(str)
    """A person wants what the read-out is about: a click, or Enter."""

    def __init__(self, x: Scale, y: Scale, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.x, self.y = x, y
        self.area = QRectF()
        """Between the axes, where it was painted last."""
        self.stop: int | None = None
        self._pointer: QPointF | None = None

    # --- what extends this says

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        """What stands between the axes."""
        raise NotImplementedError

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        """Name, colour and whether it is dashed, of what needs a name above the axes."""
        return ()

    def stops(self) -> Sequence[QPointF]:
        """Places that the keyboard goes to, from left to right, as values."""
        return ()

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        """What stands at `place` (pixels) or, within `reach`, near it: where exactly, a heading and
        rows as in `paint_readout`."""
        return None

    def named_at(self, place: QPointF, reach: float) -> str:
        """The key of what can be picked there, if anything can."""
        return ""

    # --- places

    def pixel(self, x: float, y: float) -> QPointF:
        area = self.area
        return QPointF(
            area.left() + self.x.share(x) * area.width(),
            area.bottom() - self.y.share(y) * area.height(),
        )

    def _at(self) -> tuple[QPointF, float] | None:
        """The place that is looked at, and how near to it counts."""
        stops = self.stops()
        if self.stop is not None and self.stop < len(stops):
            stop = stops[self.stop]
            return self.pixel(stop.x(), stop.y()), theme.px(2)
        return None if self._pointer is None else (self._pointer, theme.px(18))

    # --- painting

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.area = self._draw_axes(painter, whole)
        painter.save()
        painter.setClipRect(self.area.adjusted(-1, -theme.px(6), theme.px(6), 1))
        self.draw_inside(painter, self.area)
        painter.restore()

    def _draw_axes(self, painter: QPainter, whole: QRectF) -> QRectF:
        px = theme.px
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        named = whole.height() >= px(110)
        legend = self._legend_lines(whole.width() - px(40))
        top = px(4) + px(16) * len(legend) if legend else px(8)
        beside = px(16) if self.y.name and whole.height() >= px(150) else 0
        area = whole.adjusted(beside, top, -px(8), -px(33 if named else 20))
        ys = self.y.ticks(max(area.height() / px(22), 2))
        widest = max((metrics.horizontalAdvance(text) for _, text in ys), default=0.0)
        area.setLeft(area.left() + math.ceil(max(widest + px(10), px(30))))
        xs = self.x.ticks(max(area.width() / px(56), 2))
        if area.width() < 8 or area.height() < 8:
            return area
        for place, line in enumerate(legend):
            y = whole.top() + px(16) * place
            self._draw_legend(painter, QRectF(area.left(), y, area.width(), px(18)), line)
        painter.setFont(font)
        for value, text in ys:
            y = area.bottom() - self.y.share(value) * area.height()
            painter.setPen(QPen(theme.color("line"), 1))
            painter.drawLine(
                QPointF(area.left(), round(y) + 0.5), QPointF(area.right(), round(y) + 0.5)
            )
            painter.setPen(theme.color("faint"))
            wide = metrics.horizontalAdvance(text)
            box = QRectF(area.left() - px(6) - wide, y - px(8), wide + 1, px(16))
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, text)
        end = -math.inf
        for value, text in xs:
            x = area.left() + self.x.share(value) * area.width()
            wide = metrics.horizontalAdvance(text)
            left = min(x - wide / 2, whole.right() - wide)
            painter.setPen(QPen(theme.color("border"), 1))
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + px(3)))
            if left < end:
                continue  # no room for its label
            end = left + wide + px(6)
            painter.setPen(theme.color("faint"))
            painter.drawText(QPointF(left, area.bottom() + px(5) + metrics.ascent()), text)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawLine(area.topLeft(), area.bottomLeft())
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        if named:
            painter.setPen(theme.color("faint"))
            under = QRectF(area.left(), area.bottom() + px(19), area.width(), px(14))
            painter.drawText(under, Qt.AlignmentFlag.AlignCenter, self.x.title)
        if beside:
            painter.save()
            painter.setPen(theme.color("faint"))
            painter.translate(whole.left(), area.bottom())
            painter.rotate(-90)
            upward = QRectF(0, 0, area.height(), px(14))
            painter.drawText(upward, Qt.AlignmentFlag.AlignCenter, self.y.title)
            painter.restore()
        return area

    def _legend_lines(self, room: float) -> list[list[tuple[str, str, bool]]]:
        """The entries, in as many lines as they need."""
        metrics = QFontMetricsF(theme.font(11, 500))
        lines: list[list[tuple[str, str, bool]]] = []
        left = 0.0
        for entry in self.legend():
            wide = metrics.horizontalAdvance(entry[0]) + 1 + theme.px(22)
            if not lines or wide > left:
                lines.append([])
                left = room
            lines[-1].append(entry)
            left -= wide
        return lines

    def _draw_legend(
        self, painter: QPainter, room: QRectF, entries: Sequence[tuple[str, str, bool]]
    ) -> None:
        """One line of it, right-aligned."""
        px = theme.px
        font = theme.font(11, 500)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        most = max(room.width() - px(22), px(12))
        names = [metrics.elidedText(n, Qt.TextElideMode.ElideRight, most) for n, _, _ in entries]
        x = room.right() - sum(metrics.horizontalAdvance(n) + px(22) for n in names) + px(4)
        y = room.center().y()
        for name, (_, color, dashed) in zip(names, entries, strict=True):
            painter.setPen(line_pen(color, 2.4, (1.6, 1.0) if dashed else ()))
            painter.drawLine(QPointF(x, y), QPointF(x + px(10), y))
            painter.setPen(theme.color("muted"))
            wide = metrics.horizontalAdvance(name)
            box = QRectF(x + px(15), room.top(), wide + 2, room.height())
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, name)
            x += wide + px(22)

    def draw_hands(self, painter: QPainter) -> None:
        at = self._at()
        said = self.said_at(*at) if at is not None else None
        if said is None:
            return
        place, head, rows = said
        painter.setPen(QPen(theme.color("faint", 0.7), 1))
        painter.drawLine(
            QPointF(place.x(), self.area.top()), QPointF(place.x(), self.area.bottom())
        )
        paint_readout(painter, QRectF(self.rect()), place.x(), self.area.top(), head, rows)

    # --- hands

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._pointer, self.stop = event.position(), None
        at = self._at()
        can = at is not None and bool(self.named_at(*at))
        shape = Qt.CursorShape.PointingHandCursor if can else Qt.CursorShape.ArrowCursor
        self.setCursor(shape)
        self.update()

    def leaveEvent(self, event: object) -> None:
        self._pointer = None
        self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._pointer, self.stop = event.position(), None
        self._pick()

    def _pick(self) -> None:
        at = self._at()
        name = self.named_at(*at) if at is not None else ""
        if name:
            self.picked.emit(name)

    def focusOutEvent(self, event: object) -> None:
        self.stop = None
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        count = len(self.stops())
        match event.key():
            case Qt.Key.Key_Left | Qt.Key.Key_Right if count:
                step = 1 if event.key() == Qt.Key.Key_Right else -1
                before = self.stop if self.stop is not None else (-1 if step > 0 else count)
                self._go(min(max(before + step, 0), count - 1))
            case Qt.Key.Key_Home if count:
                self._go(0)
            case Qt.Key.Key_End if count:
                self._go(count - 1)
            case Qt.Key.Key_Return | Qt.Key.Key_Enter if self.stop is not None:
                self._pick()
            case Qt.Key.Key_Escape if self.stop is not None:
                self.stop = None
                self.update()
            case _:
                event.ignore()

    def _go(self, stop: int) -> None:
        self.stop = stop
        at = self._at()
        said = self.said_at(*at) if at is not None else None
        if said is not None:
            _, head, rows = said
            words = [head, *(f"{name} {value}".strip() for _, name, value in rows)]
            self.setAccessibleDescription(", ".join(words))
        self.update()


def line_pen(color: str, width: float, dashes: Sequence[float] = ()) -> QPen:
    """A pen of the theme's; dashes are in widths."""
    pen = QPen(theme.color(color), width * theme.manager.scale)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap if dashes else Qt.PenCapStyle.RoundCap)
    if dashes:
        pen.setDashPattern(list(dashes))
    return pen


def draw_level(
    painter: QPainter,
    area: QRectF,
    y: float,
    name: str,
    color: str,
    *,
    below: bool = False,
    taken: Sequence[QRectF] = (),
) -> QRectF:
    """A named dashed line across the area at `y` (pixels): its name above it, or `below` it, at the
    right end, or at the left one where something stands in the way. Where the name stands."""
    px = theme.px
    painter.setPen(line_pen(color, 1, DASHES))
    painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
    painter.setFont(theme.font(11, 500))
    painter.setPen(theme.color(color))
    wide = min(painter.fontMetrics().horizontalAdvance(name) + 2, area.width() - px(8))
    box = QRectF(area.right() - px(4) - wide, y + px(1) if below else y - px(16), wide, px(15))
    if any(box.intersects(other) for other in taken):
        box.moveLeft(area.left() + px(4))
    painter.fillRect(box, theme.color("card", 0.85))
    shown = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, int(wide))
    painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, shown)
    return box


class AxesCard(DrawnCard):
    """A card with such a drawing. `empty` (English) says what will appear and how to start it."""

    drawing: AxesDrawing
    can_be_log = True
    """Whether the menu offers both kinds of axes."""

    def __init__(
        self, title: str, drawing: AxesDrawing, empty: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(title, drawing, parent)
        self._explain = empty
        self._log = QAction(self)
        self._log.setCheckable(True)
        self._log.setChecked(drawing.x.log)
        self._log.triggered.connect(self.set_log)
        if self.can_be_log:
            self.menu.addAction(self._log)
            self.menu.addSeparator()
        self.fill_menu()
        self.show_menu_button()
        self._show_emptiness()

    @property
    def is_empty(self) -> bool:
        raise NotImplementedError

    def set_log(self, log: bool) -> None:
        """Draw along logarithmic axes, or linear ones."""
        raise NotImplementedError

    def changed(self) -> None:
        """What is drawn is another."""
        self.drawing.stop = None
        self._show_emptiness()
        self.drawing.forget()

    def _show_emptiness(self) -> None:
        self._give_way(self.is_empty, self.drawing)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_log"):
            self._log.setText(tr("Logarithmic scale"))
            self.drawing.setAccessibleName(tr("Drawing of {card}", card=self.title.text()))
            self._show_emptiness()
