"""Points in a plane with arrows: clean images, and where an attack moves them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QLineF, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import axis, pictures
from workbench.views.filters import OUTCOMES, Caption, Sample
from workbench.views.mosaic import class_name
from workbench.views.pictures import Pixels
from workbench.views.text import number, percent, tick

UNREADABLE = mark("t-SNE: no units; distances between groups say nothing")
NEAR = 12.0
"""Pixels at scale 1 within which the pointer finds a point."""
SMOOTH, HEADS = 3000, 1500
"""Samples up to which lines are smooth, and arrows have heads."""
LEGEND = 12
"""Classes that the legend names at most."""


@dataclass(frozen=True)
class Embedding:
    """N samples in the plane, clean and adversarial.

    places: float32 (2, N, 2). samples: what is known of each. shares: of the variance that the axes
    explain, (2,), zeros for t-SNE. pixels: uint8 (2, N, H, W, C). probabilities: (2, N, K), or none
    of them. of: how many samples there are altogether; width, layer: how many numbers an image was,
    and the layer whose inputs they were (empty for pixels).
    """

    method: str
    places: NDArray[np.float32]
    samples: tuple[Sample, ...]
    shares: tuple[float, float]
    pixels: Pixels
    probabilities: NDArray[np.float16] | None
    classes: tuple[str, ...]
    of: int
    width: int
    layer: str
    captions: tuple[tuple[Caption, Caption], ...] = field(default=())

    def pair(self, index: int) -> tuple[tuple[Pixels, Caption], tuple[Pixels, Caption]] | None:
        """A sample's clean and adversarial picture with their captions."""
        if not 0 <= index < len(self.samples):
            return None
        found = []
        for end in (0, 1):
            known = dict(self.captions[index][end])
            if self.probabilities is not None:
                known["probabilities"] = self.probabilities[end, index].astype(float).tolist()
            found.append((self.pixels[end, index], known))
        return found[0], found[1]


class Plane(QWidget):
    """Paints the points. Wheel and + - zoom, dragging moves, a double click or Home shows all; the
    pointer or Left and Right find a sample, a click or Enter chooses it."""

    picked = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.found: Embedding | None = None
        self.kept: tuple[int, ...] | None = None
        self.selected = -1
        self.hovered = -1
        self.measure = ""
        """What the size of a change is called, as "L∞"."""
        self._view: QRectF | None = None
        self._base: QPixmap | None = None
        self._drag: QPointF | None = None
        self._moved = False
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.forget)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(160), theme.px(80))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(420), theme.px(190))

    # --- what is shown

    @property
    def order(self) -> Sequence[int]:
        """The samples that are shown."""
        count = len(self.found.samples) if self.found is not None else 0
        return range(count) if self.kept is None else [k for k in self.kept if k < count]

    def show_embedding(self, found: Embedding | None) -> None:
        self.found, self.hovered, self._view = found, -1, None
        self.forget()

    def keep(self, kept: Sequence[int] | None) -> None:
        chosen = None if kept is None else tuple(kept)
        if chosen != self.kept:
            self.kept, self.hovered = chosen, -1
            self.forget()

    def select(self, index: int) -> None:
        if index != self.selected:
            self.selected = index
            self.update()

    def forget(self) -> None:
        """Everything must be drawn anew."""
        self._base = None
        self.update()

    def fit(self) -> None:
        """Show all points."""
        self._view = None
        self.forget()

    # --- places

    def _area(self, whole: QRectF) -> QRectF:
        px = theme.px
        scaled = self.found is not None and self.found.method == "pca"
        return whole.adjusted(px(46 if scaled else 6), px(6), -px(8), -px(76))

    def _bounds(self) -> QRectF:
        """What is seen, in the units of the plane: of all samples, whichever pass the filters, so
        that a point stays where it is."""
        if self._view is not None:
            return self._view
        assert self.found is not None
        points = self.found.places.reshape(-1, 2)
        low, high = points.min(0).astype(float), points.max(0).astype(float)
        room = np.maximum((high - low) * 0.05, 1e-6)
        low, high = low - room, high + room
        return QRectF(low[0], low[1], high[0] - low[0], high[1] - low[1])

    def _on_screen(self, area: QRectF) -> NDArray[np.float64]:
        """Where the points are, (2, N, 2)."""
        assert self.found is not None
        seen = self._bounds()
        share = (self.found.places.astype(float) - (seen.left(), seen.top())) / (
            seen.width(),
            seen.height(),
        )
        x = area.left() + share[..., 0] * area.width()
        y = area.bottom() - share[..., 1] * area.height()
        return np.stack((x, y), axis=-1)

    def _nearest(self, position: QPointF) -> int:
        order = np.asarray(self.order, dtype=int)
        if self.found is None or not len(order):
            return -1
        places = self._on_screen(self._area(QRectF(self.rect())))[:, order]
        away = np.hypot(places[..., 0] - position.x(), places[..., 1] - position.y()).min(0)
        best = int(away.argmin())
        return int(order[best]) if away[best] <= theme.px(NEAR) else -1

    # --- painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if self.found is not None and self.order:
            if self._base is None:
                ratio = self.devicePixelRatioF()
                self._base = QPixmap(self.size() * ratio)
                self._base.setDevicePixelRatio(ratio)
                self._base.fill(theme.color("card"))
                inner = QPainter(self._base)
                self.paint_into(inner, QRectF(self.rect()))
                inner.end()
            painter.drawPixmap(0, 0, self._base)
            area = self._area(QRectF(self.rect()))
            places = self._on_screen(area)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._ring(painter, area, places, self.selected, "accent")
            self._ring(painter, area, places, self.hovered, "text")
            if self.hovered >= 0:
                self._tell(painter, places[1, self.hovered])
        if self.hasFocus():
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        painter.end()

    def paint_into(self, painter: QPainter, whole: QRectF) -> None:
        """Axes, points, arrows and legend in `whole`."""
        area = self._area(whole)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_axes(painter, whole, area)
        painter.save()
        painter.setClipRect(area)
        self._paint_points(painter, area)
        painter.restore()
        self._paint_legend(
            painter, QRectF(area.left(), area.bottom() + theme.px(36), area.width(), theme.px(38))
        )

    def _paint_axes(self, painter: QPainter, whole: QRectF, area: QRectF) -> None:
        assert self.found is not None
        px, middle = theme.px, Qt.AlignmentFlag.AlignCenter
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(area)
        painter.setFont(theme.font(11))
        if self.found.method == "tsne":
            painter.setPen(theme.color("muted"))
            below = QRectF(area.left(), area.bottom() + px(10), area.width(), px(16))
            painter.drawText(below, middle, tr(UNREADABLE))
            return
        seen = self._bounds()
        for upright in (False, True):
            low, size = (seen.top(), seen.height()) if upright else (seen.left(), seen.width())
            long = area.height() if upright else area.width()
            values, step = axis.ticks(low, low + size, max(long / px(70), 2))
            for value in values:
                share = (value - low) / size
                text = tick(value, step)
                if upright:
                    y = area.bottom() - share * area.height()
                    line = QLineF(area.left(), y, area.right(), y)
                    place = QRectF(
                        whole.left(), y - px(8), area.left() - whole.left() - px(5), px(16)
                    )
                    side = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                else:
                    x = area.left() + share * area.width()
                    line = QLineF(x, area.top(), x, area.bottom())
                    place = QRectF(x - px(30), area.bottom() + px(3), px(60), px(14))
                    side = middle
                painter.setPen(QPen(theme.color("line"), 1))
                painter.drawLine(line)
                painter.setPen(theme.color("faint"))
                painter.drawText(place, side, text)
        painter.setPen(theme.color("muted"))
        names = [
            tr("Component {number}: {share} of the variance", number=k + 1, share=percent(share))
            for k, share in enumerate(self.found.shares)
        ]
        below = QRectF(area.left(), area.bottom() + px(18), area.width(), px(16))
        painter.drawText(below, middle, names[0])
        painter.save()
        painter.translate(whole.left() + px(8), area.center().y())
        painter.rotate(-90)
        painter.drawText(
            QRectF(-area.height() / 2, -px(8), area.height(), px(16)), middle, names[1]
        )
        painter.restore()

    def _paint_points(self, painter: QPainter, area: QRectF) -> None:
        """A class at a time and all of a sort at once, which is many times faster than one by one:
        arrows below, then where they begin, then where they end."""
        assert self.found is not None
        places, samples = self._on_screen(area), self.found.samples
        rows: dict[int | None, dict[str, list[int]]] = {}
        for k in self.order:
            rows.setdefault(samples[k].label, {}).setdefault(samples[k].outcome, []).append(k)
        many = len(self.order)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, many <= SMOOTH)
        size = 3.0 if many <= 400 else 2.4 if many <= 1500 else 1.8
        size *= theme.manager.scale
        moved = [(label, k) for label, each in rows.items() for k in each if k != "wrong"]
        for label, outcome in moved:
            painter.setPen(QPen(class_color(label, 0.42 if many <= 400 else 0.22), 1.1))
            painter.drawLines([_line(places, k) for k in rows[label][outcome]])
        for label, each in rows.items():
            still = [k for name, found in each.items() if name != "wrong" for k in found]
            _dots(painter, places[0, still], class_color(label), 2 * size)
        for label, outcome in moved:
            if many <= HEADS:
                painter.setPen(QPen(class_color(label), 1.1))
                painter.drawLines(_heads(places[:, rows[label][outcome]], size))
        for label, each in rows.items():
            for outcome, found in each.items():
                end = places[0 if outcome == "wrong" else 1, found]
                _signs(painter, end, outcome, class_color(label), size)

    def _paint_legend(self, painter: QPainter, box: QRectF) -> None:
        """Classes in the first line, what the signs mean in the second."""
        assert self.found is not None
        px = theme.px
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        line, y = px(18), box.top() + px(9)
        x = box.left()
        shown = sorted({s.label for s in self.found.samples if s.label is not None})
        more = len(shown) - LEGEND
        for label in shown[:LEGEND]:
            text = metrics.elidedText(
                class_name(label, self.found.classes), Qt.TextElideMode.ElideRight, px(80)
            )
            wide = metrics.horizontalAdvance(text)
            if x + px(14) + wide > box.right():
                more = max(more, 1)
                break
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(class_color(label))
            painter.drawEllipse(QPointF(x + px(4), y), px(4), px(4))
            painter.setPen(theme.color("muted"))
            painter.drawText(QPointF(x + px(12), y + px(4)), text)
            x += px(12) + wide + px(14)
        if more > 0:
            painter.setPen(theme.color("faint"))
            painter.drawText(QPointF(x, y + px(4)), "…")
        x, y = box.left(), y + line
        ink = theme.color("muted")
        for kind, words in (
            ("clean", tr("clean")),
            ("broken", tr(OUTCOMES["broken"])),
            ("withstood", tr(OUTCOMES["withstood"])),
            ("wrong", tr(OUTCOMES["wrong"])),
        ):
            at = np.array([[x + px(6), y]])
            if kind == "clean":
                _dots(painter, at, ink, 2 * px(3))
            else:
                _signs(painter, at, kind, ink, px(3))
            painter.setPen(theme.color("muted"))
            painter.drawText(QPointF(x + px(15), y + px(4)), words)
            x += px(15) + metrics.horizontalAdvance(words) + px(16)

    def _ring(
        self, painter: QPainter, area: QRectF, places: NDArray[np.float64], index: int, token: str
    ) -> None:
        if index not in self.order:
            return
        painter.save()
        painter.setClipRect(area)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color(token), 1.6))
        painter.drawLine(_line(places, index))
        for end in (0, 1):
            painter.drawEllipse(QPointF(*places[end, index]), theme.px(7), theme.px(7))
        painter.restore()

    def _tell(self, painter: QPainter, place: NDArray[np.float64]) -> None:
        """Beside the pointer: the sample, clean and adversarial, and what became of it."""
        found, px, k = self.found, theme.px, self.hovered
        assert found is not None
        lines = self.words_of(k)
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        side, line = px(56), px(16)
        wide = max(2 * side + px(8), *(metrics.horizontalAdvance(text) for text in lines)) + px(16)
        high = side + px(6) + line * len(lines) + px(14)
        left = place[0] + px(14)
        if left + wide > self.width() - 2:
            left = place[0] - px(14) - wide
        top = min(max(place[1] - high / 2, 2.0), max(self.height() - high - 2, 2.0))
        box = QRectF(max(left, 2.0), top, wide, high)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(theme.color("card", 0.97))
        painter.drawRoundedRect(box, px(6), px(6))
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
        for end in (0, 1):
            image = pictures.image(pictures.pack(found.pixels[end, k][None], None)[0])
            scale = min(side / image.width(), side / image.height())
            room = QRectF(box.left() + px(8) + end * (side + px(8)), box.top() + px(8), side, side)
            picture = QRectF(0, 0, image.width() * scale, image.height() * scale)
            picture.moveCenter(room.center())
            painter.drawImage(picture, image)
        painter.setFont(font)
        y = box.top() + px(8) + side + px(6)
        for number_of, text in enumerate(lines):
            painter.setPen(theme.color("text" if number_of == 0 else "muted"))
            painter.drawText(
                QRectF(box.left() + px(8), y, wide, line), Qt.AlignmentFlag.AlignVCenter, text
            )
            y += line

    def words_of(self, index: int) -> list[str]:
        """What is said of a sample."""
        found = self.found
        assert found is not None
        sample = found.samples[index]

        def called(label: int | None) -> str:
            return tr("no number") if label == -1 else class_name(label, found.classes)

        after = "" if sample.outcome == "wrong" else f" → {called(sample.after)}"
        change = f"{self.measure} {number(sample.norm)}".strip() if sample.norm else ""
        outcome = tr(OUTCOMES[sample.outcome])
        return [
            f"#{index + 1} · {tr('true class {label}', label=called(sample.label))}",
            f"{called(sample.before)}{after} · {outcome}",
            *([change] if change else []),
        ]

    # --- hands

    def resizeEvent(self, event: object) -> None:
        self.forget()

    def wheelEvent(self, event: QWheelEvent) -> None:
        turn = event.angleDelta().y() or event.angleDelta().x()
        if turn and self.found is not None:
            self._zoom(0.8 ** (turn / 120), event.position())
        event.accept()

    def _zoom(self, factor: float, at: QPointF) -> None:
        area, seen = self._area(QRectF(self.rect())), self._bounds()
        x = seen.left() + (at.x() - area.left()) / max(area.width(), 1) * seen.width()
        y = seen.top() + (area.bottom() - at.y()) / max(area.height(), 1) * seen.height()
        self._view = QRectF(
            x + (seen.left() - x) * factor,
            y + (seen.top() - y) * factor,
            seen.width() * factor,
            seen.height() * factor,
        )
        self.forget()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.fit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._drag, self._moved = event.position(), False

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self.found is None:
            return
        if self._drag is not None:
            moved = event.position() - self._drag
            if self._moved or abs(moved.x()) + abs(moved.y()) > 3:
                self._moved, self._drag = True, event.position()
                area, seen = self._area(QRectF(self.rect())), self._bounds()
                self._view = seen.translated(
                    -moved.x() / max(area.width(), 1) * seen.width(),
                    moved.y() / max(area.height(), 1) * seen.height(),
                )
                self.forget()
                return
        self._hover(self._nearest(event.position()))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self._drag is not None and not self._moved:
            index = self._nearest(event.position())
            if index >= 0:
                self.picked.emit(index)
        self._drag = None

    def leaveEvent(self, event: object) -> None:
        self._hover(-1)

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self._hover(-1)
        self.update()

    def _hover(self, index: int) -> None:
        if index != self.hovered:
            self.hovered = index
            if index >= 0:
                self.setAccessibleDescription(", ".join(self.words_of(index)))
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        order = list(self.order)
        middle = self._area(QRectF(self.rect())).center()
        match event.key():
            case Qt.Key.Key_Left | Qt.Key.Key_Right if order:
                by = 1 if event.key() == Qt.Key.Key_Right else -1
                start = self.hovered if self.hovered >= 0 else self.selected
                at = order.index(start) + by if start in order else 0
                self._hover(order[min(max(at, 0), len(order) - 1)])
            case Qt.Key.Key_Return | Qt.Key.Key_Enter if self.hovered >= 0:
                self.picked.emit(self.hovered)
            case Qt.Key.Key_Plus | Qt.Key.Key_Equal if order:
                self._zoom(0.8, middle)
            case Qt.Key.Key_Minus if order:
                self._zoom(1.25, middle)
            case Qt.Key.Key_Home:
                self.fit()
            case Qt.Key.Key_Escape if self.hovered >= 0:
                self._hover(-1)
            case _:
                event.ignore()


def class_color(label: int | None, alpha: float = 1.0) -> QColor:
    """The colour of a class: the theme's series colours by turns, every second turn in another
    brightness, so that sixteen can be told apart."""
    if label is None or label < 0:
        return theme.color("faint", alpha)
    count = len(theme.manager.theme.series)
    color = theme.color(f"series:{label % count}")
    if label // count % 2:
        color = color.darker(140 if theme.manager.theme.dark else 175)
    color.setAlphaF(alpha)
    return color


def _line(places: NDArray[np.float64], index: int) -> QLineF:
    return QLineF(QPointF(*places[0, index]), QPointF(*places[1, index]))


def _points(places: NDArray[np.float64]) -> list[QPointF]:
    return [QPointF(x, y) for x, y in places.tolist()]


def _dots(
    painter: QPainter,
    places: NDArray[np.float64],
    color: QColor,
    width: float,
    cap: Qt.PenCapStyle = Qt.PenCapStyle.RoundCap,
) -> None:
    """A dot at each of `places`, (M, 2)."""
    pen = QPen(color, width)
    pen.setCapStyle(cap)
    painter.setPen(pen)
    painter.drawPoints(_points(places))


def _heads(places: NDArray[np.float64], size: float) -> list[QLineF]:
    """The heads of arrows that have room for one; `places` are (2, M, 2)."""
    way = places[1] - places[0]
    long = np.hypot(*way.T)
    way, tip = way[long > 5 * size], places[1][long > 5 * size]
    angle = np.arctan2(way[:, 1], way[:, 0]) + math.pi
    tip = tip + 1.5 * size * np.stack((np.cos(angle), np.sin(angle)), 1)
    lines = []
    for turn in (-0.45, 0.45):
        end = tip + 2.6 * size * np.stack((np.cos(angle + turn), np.sin(angle + turn)), 1)
        lines += [QLineF(*one, *other) for one, other in zip(tip.tolist(), end.tolist())]
    return lines


def _signs(
    painter: QPainter, places: NDArray[np.float64], outcome: str, color: QColor, size: float
) -> None:
    """At each of `places`, (M, 2): a cross for what was broken, a square for what was wrong before,
    else a ring."""
    if outcome == "broken":
        painter.setPen(QPen(color, 1.7))
        arm = size * 1.15
        lines = [QLineF(x - arm, y - arm, x + arm, y + arm) for x, y in places.tolist()]
        lines += [QLineF(x - arm, y + arm, x + arm, y - arm) for x, y in places.tolist()]
        painter.drawLines(lines)
        return
    wrong = outcome == "wrong"
    cap = Qt.PenCapStyle.SquareCap if wrong else Qt.PenCapStyle.RoundCap
    _dots(painter, places, color, 2.4 * size + 1.6, cap)
    _dots(painter, places, theme.color("card"), 2.4 * size - 1.6, cap)
