"""A card with curves that grow while a run works."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QMarginsF, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QAction,
    QActionGroup,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import axis, plot
from workbench.views.picture import PictureCard
from workbench.views.plot import Chart, Curve, Frame, Line, Range
from workbench.views.readout import paint_readout
from workbench.views.text import number, signed

SMOOTHING: tuple[tuple[str, float], ...] = (
    (mark("No smoothing"), 0.0),
    (mark("Light smoothing"), 0.25),
    (mark("Automatic smoothing"), 1.0),
    (mark("Strong smoothing"), 4.0),
)
IDLE_TICKS = 15
"""Ticks without news after which a live plot is drawn smoothly and fitted."""


class CurveCard(PictureCard):
    """Named series over steps. `percent` shows fractions as percent; `empty` (English) says what
    will appear here and how to start it. Without `smooth`, values are drawn as they are: for what
    has no noise, as a schedule. `over` (English) names what the values are over where that is no
    step; nothing then has a last value, and none stands in the title.

    Values are appended as they come and cost nothing then; `draw()` is called on every tick of
    the window and takes in one series at a time, and none while the card is hidden. `rest()`
    draws everything at its best, when the run has ended.
    """

    def __init__(
        self,
        title: str,
        unit: str = "",
        percent: bool = False,
        empty: str = mark("Curves appear here while a run works."),
        parent: QWidget | None = None,
        smooth: bool = True,
        over: str = "",
    ) -> None:
        super().__init__(title, parent)
        self.plot = Plot(Frame(unit=unit, percent=percent, over=over))
        self._smooth = smooth
        self.plot.strength = 1.0 if smooth else 0.0
        self.body.addWidget(self.plot, 1)
        self._explain = empty
        self._turn = 0
        self._idle = 0
        self._primary: str | None = None
        self.fill_menu()
        self._show_emptiness()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    # --- what is shown ---

    def set_series(self, key: str, label: str, color: str = "", dashed: bool = False) -> None:
        """Declare a series, or change how it looks. `color` is a token or #rrggbb; without it the
        next of the theme's series colours is taken."""
        color = color or f"series:{len(self.plot.curves)}"
        curve = self.plot.curves.get(key)
        if curve is None:
            self.plot.curves[key] = Curve(label, color, dashed)
        else:
            curve.label, curve.color, curve.dashed = label, color, dashed
        self.plot.forget()

    def set_primary(self, key: str) -> None:
        """The series whose last value stands in the title; else it is the first one."""
        self._primary = key
        self._show_value()

    def append(self, key: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Add values at the end of a series; they are drawn by a later `draw()`."""
        if key not in self.plot.curves:
            self.set_series(key, key)
        if len(steps):
            self.plot.curves[key].waiting.append((steps, values))

    def replace(self, key: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Give a series other values altogether, and draw it at rest."""
        old = self.plot.curves.get(key)
        if old is None:
            self.set_series(key, key)
            old = self.plot.curves[key]
        self.plot.curves[key] = Curve(old.label, old.color, old.dashed, waiting=[(steps, values)])
        self.rest()

    def remove(self, key: str) -> None:
        self.plot.curves.pop(key, None)
        self.rest()

    def clear(self) -> None:
        """Forget all series and lines."""
        self.plot.curves.clear()
        self.plot.frame.lines.clear()
        self.plot.view = None
        self.set_value("")
        self.rest()

    def set_line(
        self, name: str, value: float | None, color: str = "warning", *, left: bool = False
    ) -> None:
        """A dashed line with a name, as for a budget, at its right end or its `left` one; None
        takes it away."""
        if value is None:
            self.plot.frame.lines.pop(name, None)
        else:
            self.plot.frame.lines[name] = Line(value, color, left)
        self.plot.fit(live=self.plot.live)

    def set_log(self, log: bool) -> None:
        self._log.setChecked(log)

    def set_smoothing(self, strength: float) -> None:
        """0 is none, 1 what the length of the series suggests, more is more."""
        self.plot.strength = strength
        for curve in self.plot.curves.values():
            curve.resmooth(strength)
        self.plot.fit(live=self.plot.live)
        self._show_value()

    # --- ticks ---

    def draw(self) -> None:
        """Take in one series that has news, and show it. Does nothing while hidden."""
        if not self.isVisible():
            return
        keys = list(self.plot.curves)
        for offset in range(len(keys)):
            index = (self._turn + offset) % len(keys)
            curve = self.plot.curves[keys[index]]
            if curve.waiting:
                self._turn = index + 1
                self._idle = 0
                curve.absorb(self.plot.strength)
                self.plot.grow(keys[index])
                self._show_emptiness()
                self._show_value()
                return
        if self.plot.live:
            self._idle += 1
            if self._idle >= IDLE_TICKS:
                self.rest()

    def rest(self) -> None:
        """Take in everything, fit the axes, draw smoothly."""
        for curve in self.plot.curves.values():
            curve.absorb(self.plot.strength)
        self._idle = 0
        self._show_emptiness()
        self.plot.fit(live=False)
        self._show_value()

    def _show_value(self) -> None:
        curves = self.plot.curves
        curve = curves.get(self._primary or "") or next(iter(curves.values()), None)
        if curve is None or not len(curve.smooth) or self.plot.frame.over:
            self.set_value("")
            return
        values = curve.smooth.y
        last = float(values[-1])
        before = float(values[max(0, len(values) - 1 - max(1, len(values) // 10))])
        change = ""
        if len(values) > 1 and math.isfinite(last) and math.isfinite(before):
            shift = last - before
            places = _places(self.plot.frame.text(last))
            if self.plot.frame.percent:
                change = signed(number_fixed(shift * 100, 1))
            elif places is not None:
                change = signed(number_fixed(shift, places))
            else:
                change = signed(number(shift))
        if not change.strip("+−0."):
            change = ""  # nothing that could be seen has changed
        self.set_value(self.plot.frame.text(last), change)
        self.delta.setToolTip(tr("Change over the last tenth of the run"))

    def _show_emptiness(self) -> None:
        empty = not any(len(c.raw) or c.waiting for c in self.plot.curves.values())
        self._give_way(empty, self.plot)

    # --- menu ---

    def fill_menu(self) -> None:
        self._log = QAction(self)
        self._log.setCheckable(True)
        self._log.toggled.connect(self.plot.set_log)
        self.menu.addAction(self._log)
        self._smoothing = QActionGroup(self)
        self._smoothing_menu = self.menu.addMenu("")
        for _, strength in SMOOTHING:
            action = QAction(self)
            action.setCheckable(True)
            action.setChecked(strength == self.plot.strength)
            action.setData(strength)
            self._smoothing.addAction(action)
            self._smoothing_menu.addAction(action)
        self._smoothing.triggered.connect(self._choose_smoothing)
        self._smoothing_menu.menuAction().setVisible(self._smooth)
        self._fit = self.menu.addAction("")
        self._fit.triggered.connect(self.plot.reset)
        self.menu.addSeparator()
        super().fill_menu()
        self.show_menu_button()

    def retranslate(self) -> None:
        super().retranslate()
        self._log.setText(tr("Logarithmic scale"))
        self._smoothing_menu.setTitle(tr("Smoothing"))
        for action, (english, _) in zip(self._smoothing.actions(), SMOOTHING):
            action.setText(tr(english))
        self._fit.setText(tr("Fit"))
        self.plot.setAccessibleName(tr("Curves of {card}", card=self.title.text()))
        self._show_emptiness()
        self._show_value()

    def _choose_smoothing(self, action: QAction) -> None:
        self.set_smoothing(float(action.data()))

    # --- exports ---

    def export(self, target: Path) -> None:
        self.rest()
        super().export(target)

    def rows(self) -> Iterable[Sequence[Any]]:
        curves = self.plot.curves
        rows: dict[float, dict[str, float]] = {}
        for key, curve in curves.items():
            for step, value in zip(curve.raw.x.tolist(), curve.raw.y.tolist()):
                rows.setdefault(step, {})[key] = value
        yield self.plot.frame.over.lower() or "step", *(c.label for c in curves.values())
        for step in sorted(rows):
            yield f"{step:.15g}", *(repr(rows[step][k]) if k in rows[step] else "" for k in curves)

    def picture_size(self) -> QSize:
        return self.size().expandedTo(QSize(480, 260))

    def resolution(self) -> int:
        """That of the pictures pyqtgraph's axes keep."""
        return self.logicalDpiX()

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        px = theme.px
        painter.setFont(theme.font(13, 600))
        painter.setPen(theme.color("muted"))
        head = QRectF(px(14), px(8), size.width() - px(28), px(24))
        painter.drawText(head, Qt.AlignmentFlag.AlignVCenter, self.title.text())
        painter.setFont(theme.font(18, 500))
        painter.setPen(theme.color("text"))
        painter.drawText(
            head, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, self.value.text()
        )
        inner = QRectF(0, 0, size.width(), size.height())
        self.plot.paint_into(
            painter, inner.marginsRemoved(QMarginsF(px(10), px(36), px(12), px(8)))
        )


class Plot(pg.GraphicsView):
    """The curves themselves: paints, zooms, and reads out under the pointer or a keyboard cursor.

    Wheel and + - zoom about the pointer (Shift: the value axis), dragging moves, a double click or
    Home fits, Left and Right step through the values, Escape ends that.
    """

    def __init__(self, frame: Frame, parent: QWidget | None = None) -> None:
        super().__init__(parent, background=None)
        self.frame = frame
        self.curves: dict[str, Curve] = {}
        self.strength = 1.0
        self.live = False
        self.view: tuple[Range, Range] | None = None
        self.cursor_step: float | None = None
        self._chart = Chart(self.scene(), frame)
        self._drawn: set[str] = set()
        self._begun = False
        self._laid_out = False
        self._base: QPixmap | None = None
        self._drag: QPointF | None = None
        # What is drawn is kept in a picture, for the pointer to move over: we say when it is old.
        self.setViewportUpdateMode(self.ViewportUpdateMode.NoViewportUpdate)
        self.viewport().setFocusPolicy(Qt.FocusPolicy.NoFocus)  # it is the view that has it
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.forget)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(120), theme.px(80))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(360), theme.px(160))

    # --- ranges ---

    def fit(self, live: bool) -> None:
        """Let the axes fit the values (unless a person has zoomed), and draw anew."""
        self.live = live
        self._begun = any(len(c.raw) for c in self.curves.values())
        if self.view is None:
            xs = [c.raw.x for c in self.curves.values() if len(c.raw)]
            left = min((float(x[0]) for x in xs), default=0.0)
            right = max((float(x[-1]) for x in xs), default=1.0)
            left = _from_zero(left, right)
            if right <= left:  # steps are counted: none is below zero
                left, right = max(left - 1, min(left, 0.0)), right + 1
            room = (right - left) * 0.02
            self.frame.x = (left - room, right + room)
            self.frame.y = axis.padded(*plot.value_range(list(self.curves.values()), self.frame))
        self.forget()

    def grow(self, key: str) -> None:
        """Series `key` has grown: draw it, and move the axes only if it has left them."""
        if not self.live:
            self.live = True
            self.forget()
        curve, frame = self.curves[key], self.frame
        if self.view is None and len(curve.raw):
            first, last = float(curve.raw.x[0]), float(curve.raw.x[-1])
            first = _from_zero(first, last)
            # The first values of all decide the axes; later ones only stretch them.
            others = any(len(other.raw) for other in self.curves.values() if other is not curve)
            lone = not self._begun and not others
            self._begun = True
            x = (first, max(last, first + 1)) if lone else frame.x
            if last > x[1] or lone:
                x = (x[0], first + (last - first or 1) * axis.GROWTH)
            x = (min(x[0], first), x[1])
            low, high = plot.value_range(list(self.curves.values()), frame)
            y = axis.grown(None if lone else frame.y, low, high) if low <= high else frame.y
            if (x, y) != (frame.x, frame.y) or lone:
                frame.x, frame.y = x, y
                self.forget()
                return
        self._drawn.discard(key)
        self._base = None
        self.viewport().update()

    def set_log(self, log: bool) -> None:
        self.frame.log = log
        self.view = None
        self.fit(self.live)

    def reset(self) -> None:
        """Undo all zooming."""
        self.view = None
        self.fit(self.live)

    def zoom(self, factor: float, center: QPointF, values: bool = False) -> None:
        """Show `factor` times as much of the x axis (or of the `values`), `center` staying put."""
        self.view = (self.frame.x, self.frame.y)
        if values:
            middle = self.frame.y_at(center.y())
            self.frame.y = _scaled(self.frame.y, middle, factor)
        else:
            middle = self.frame.step_at(center.x())
            self.frame.x = _scaled(self.frame.x, middle, factor)
            low, high = plot.value_range(list(self.curves.values()), self.frame, self.frame.x)
            if low <= high:
                self.frame.y = axis.padded(low, high)
        self.forget()

    def forget(self) -> None:
        """Everything must be drawn anew."""
        self._drawn.clear()
        self._laid_out = False
        self._base = None
        self.viewport().update()

    # --- read-out ---

    def readout(self, step: float) -> tuple[float, list[tuple[str, str, str]]]:
        """The recorded step nearest to `step`, and (colour, label, value) of every series there."""
        nearest = step
        best = math.inf
        for curve in self.curves.values():
            if len(curve.raw):
                index = int(min(max(curve.raw.x.searchsorted(step), 1), len(curve.raw) - 1))
                for x in curve.raw.x[max(index - 1, 0) : index + 1]:
                    if abs(x - step) < best:
                        nearest, best = float(x), abs(float(x) - step)
        rows = []
        for curve in self.curves.values():
            value = curve.at(nearest)
            if value is not None:
                rows.append((curve.color, curve.label, self.frame.text(value)))
        return nearest, rows

    # --- painting ---

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._base is None:
            self._base = self._draw_base()
        painter = QPainter(self.viewport())
        painter.drawPixmap(0, 0, self._base)
        if self.cursor_step is not None and self.curves:
            self._paint_readout(painter, self.cursor_step)
        if self.hasFocus():
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        painter.end()

    def _draw_base(self) -> QPixmap:
        ratio = self.devicePixelRatioF()
        base = QPixmap(self.size() * ratio)
        base.setDevicePixelRatio(ratio)
        base.fill(theme.color("card"))
        self._arrange(QRectF(self.rect()), not self.live)
        painter = QPainter(base)
        self._chart.render(painter, QRectF(self.rect()), QRectF(self.rect()))
        painter.end()
        return base

    def _arrange(self, whole: QRectF, smooth: bool) -> None:
        """Bring the scene up to date."""
        if not self._laid_out:
            self._chart.lay_out(whole, self.curves)
            self._chart.keep(self.curves.keys())
            self._laid_out = True
        for key, curve in self.curves.items():
            if key not in self._drawn:
                self._chart.draw(key, curve, smooth)
                self._drawn.add(key)

    def paint_into(self, painter: QPainter, target: QRectF) -> None:
        """The curves as in `target`, smooth; for exports."""
        self.forget()
        whole = QRectF(QPointF(), target.size())
        self._arrange(whole, True)
        self._chart.render(painter, target, whole)
        self.forget()

    def _paint_readout(self, painter: QPainter, wanted: float) -> None:
        frame = self.frame
        step, rows = self.readout(wanted)
        x = frame.area.left() + (step - frame.x[0]) * frame.area.width() / (frame.x[1] - frame.x[0])
        if not rows or not frame.area.left() - 1 <= x <= frame.area.right() + 1:
            return
        painter.setPen(QPen(theme.color("faint", 0.7), 1))
        painter.drawLine(QPointF(x, frame.area.top()), QPointF(x, frame.area.bottom()))
        head = tr("step {step}", step=f"{step:,.0f}".replace(",", "\u202f"))
        if self.frame.over:
            head = f"{tr(self.frame.over)} {number(step)}"
        paint_readout(painter, QRectF(self.rect()), x, frame.area.top(), head, rows)

    # --- hands ---

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        super().resizeEvent(event)
        if event is not None:  # pyqtgraph calls this itself, while it makes the view
            self.forget()

    def wheelEvent(self, event: QWheelEvent) -> None:
        turn = event.angleDelta().y() or event.angleDelta().x()
        if turn:
            shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
            self.zoom(0.8 ** (turn / 120), event.position(), shift)
        event.accept()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.reset()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._drag = event.position()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._drag = None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._drag is not None:
            moved = event.position() - self._drag
            if abs(moved.x()) + abs(moved.y()) > 2:
                self._drag = event.position()
                self._pan(moved)
        self.cursor_step = self.frame.step_at(event.position().x())
        self.viewport().update()

    def _pan(self, moved: QPointF) -> None:
        area, frame = self.frame.area, self.frame
        x = moved.x() / max(area.width(), 1) * (frame.x[1] - frame.x[0])
        y = moved.y() / max(area.height(), 1) * (frame.y[1] - frame.y[0])
        frame.x = (frame.x[0] - x, frame.x[1] - x)
        frame.y = (frame.y[0] + y, frame.y[1] + y)
        self.view = (frame.x, frame.y)
        self.forget()

    def leaveEvent(self, event: object) -> None:
        self.cursor_step = None
        self.viewport().update()

    def focusInEvent(self, event: object) -> None:
        self.viewport().update()

    def focusOutEvent(self, event: object) -> None:
        self.cursor_step = None
        self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        match event.key():
            case Qt.Key.Key_Left | Qt.Key.Key_Right:
                self._walk(1 if event.key() == Qt.Key.Key_Right else -1)
            case Qt.Key.Key_Plus | Qt.Key.Key_Equal:
                self.zoom(0.8, self.frame.area.center())
            case Qt.Key.Key_Minus:
                self.zoom(1.25, self.frame.area.center())
            case Qt.Key.Key_Home:
                self.reset()
            case Qt.Key.Key_Escape if self.cursor_step is not None:
                self.cursor_step = None
                self.viewport().update()
            case _:
                event.ignore()

    def _walk(self, direction: int) -> None:
        """Move the read-out by a fiftieth of what is shown, or by one value where they are few."""
        left, right = self.frame.x
        start = self.cursor_step if self.cursor_step is not None else (left + right) / 2
        now, rows = self.readout(start + direction * (right - left) / 50)
        self.cursor_step = min(max(now, left), right)
        self.setAccessibleDescription(", ".join(f"{label} {value}" for _, label, value in rows))
        self.viewport().update()


def _from_zero(first: float, last: float) -> float:
    """Where an axis begins: at zero, if what is shown begins near it."""
    return 0.0 if 0 < first <= 0.1 * last else first


def _scaled(now: Range, middle: float, factor: float) -> Range:
    return middle + (now[0] - middle) * factor, middle + (now[1] - middle) * factor


def _places(text: str) -> int | None:
    """How many decimals a number was shown with; None if in powers of ten."""
    digits = text.split("\u202f")[0] if "." in text else text
    if "e" in digits:
        return None
    return len(digits.split(".")[1]) if "." in digits else 0


def number_fixed(value: float, places: int) -> str:
    return f"{value:.{places}f}".replace("-", "−")
