"""The loss around one sample: a coloured map of a plane, with the borders between what the model
says, the clean and the adversarial image, and the edge of the ball."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPen,
    QPolygonF,
)
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.views import axis, pictures
from workbench.views.mosaic import class_name
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.text import number, tick
from workbench.views.widgets import Segmented

LOSS, MARGIN = 0, 1
SHOWN = (mark("Loss"), mark("Margin"))
NAMED = 20
"""Cells that a region has at least for its class to be written into it."""

Floats = NDArray[np.float64]


@dataclass
class Grid:
    """What is known of the plane: `said` as the engine said it of all points; loss, margin and
    class (-1: no finite outputs), (side, side), a point of a coarser level standing for the points
    around it that are not known yet; `known` says which are. Rows count upwards."""

    said: Mapping[str, Any]
    loss: Floats
    margin: Floats
    label: NDArray[np.int64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Grid:
        side = int(said["side"])
        blank = np.full((side, side), np.nan)
        return cls(
            said,
            blank,
            blank.copy(),
            np.full((side, side), -1),
            np.zeros((side, side), dtype=np.bool_),
        )

    @property
    def side(self) -> int:
        return int(self.said["side"])

    @property
    def reach(self) -> float:
        return float(self.said["reach"])

    @property
    def complete(self) -> bool:
        return bool(self.known.all())

    def take_in(self, points: Floats) -> None:
        """Rows of: row, column, stride, loss, margin, class; coarse before fine."""
        for row, column, stride, loss, margin, label in points:
            half = int(stride) // 2
            r, c = int(row), int(column)
            part = (
                slice(max(r - half, 0), r + half + 1),
                slice(max(c - half, 0), c + half + 1),
            )
            self.loss[part], self.margin[part], self.label[part] = loss, margin, int(label)
            self.known[r, c] = True

    def place(self, row: int, column: int) -> tuple[float, float]:
        """The point (s, t) of a cell: along the attack, and across."""
        middle = (self.side - 1) / 2
        return (column - middle) / middle * self.reach, (row - middle) / middle * self.reach

    def cell(self, s: float, t: float) -> tuple[int, int] | None:
        """The row and column nearest to a point; None outside."""
        middle = (self.side - 1) / 2
        row, column = (math.floor(v / self.reach * middle + middle + 0.5) for v in (t, s))
        inside = 0 <= row < self.side and 0 <= column < self.side
        return (row, column) if inside else None


class Surface(Drawing):
    """The map, its axes and its key. Arrow keys move a read-out from cell to cell, Escape ends it;
    Page up and down step through the samples."""

    stepped = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.grid: Grid | None = None
        self.shown = LOSS
        self.classes: tuple[str, ...] = ()
        self.pointer: tuple[int, int] | None = None
        self._field = QRectF()
        self._image: QImage | None = None
        theme.manager.changed.connect(self.forget)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(280), theme.px(220))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(560), theme.px(280))

    def forget(self) -> None:
        self._image = None
        self.update()

    # --- painting ---

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        if self.grid is None:
            return
        px = theme.px
        metrics = QFontMetricsF(theme.font(11))
        marks = self._marks(whole.height())
        left = px(24) + max(metrics.horizontalAdvance(text) for _, text in marks)
        below = px(36)
        side = min(whole.height() - below - px(4), (whole.width() - left) * 0.68)
        field = QRectF(whole.left() + left, whole.top() + px(4), side, side)
        if whole == QRectF(self.rect()):
            self._field = field
        if self._image is None:
            self._image = self._colours()
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
        painter.drawImage(field, self._image)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(field)
        self._draw_axes(painter, field, marks)
        painter.save()
        painter.setClipRect(field)
        self._draw_borders(painter, field)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_ball(painter, field)
        self._draw_names(painter, field)
        painter.restore()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_places(painter, field)
        key = QRectF(field.right() + px(22), field.top(), 0, field.height() + below)
        key.setRight(whole.right())
        self._draw_key(painter, key)

    def _draw_places(self, painter: QPainter, field: QRectF) -> None:
        """The points that have a sign of their own."""
        assert self.grid is not None
        draw_clean(painter, self._at(field, 0.0, 0.0))
        _draw_adversarial(painter, self._at(field, float(self.grid.said["distance"]), 0.0))

    def _at(self, field: QRectF, s: float, t: float) -> QPointF:
        """Where a point of the plane is drawn: cells are drawn around their points."""
        assert self.grid is not None
        half = self.grid.reach * self.grid.side / (self.grid.side - 1)
        return QPointF(
            field.left() + (s + half) / (2 * half) * field.width(),
            field.bottom() - (t + half) / (2 * half) * field.height(),
        )

    def _values(self) -> Floats:
        assert self.grid is not None
        return self.grid.loss if self.shown == LOSS else self.grid.margin

    def _range(self) -> tuple[float, float]:
        """Between which values the colours run."""
        values = self._values()
        finite = values[np.isfinite(values)]
        if not len(finite):
            return 0.0, 1.0
        if self.shown == LOSS:
            return 0.0, max(float(finite.max()), 1e-9)
        most = max(float(np.abs(finite).max()), 1e-9)
        return -most, most

    def _colours(self) -> QImage:
        # A picture's rows count downwards.
        return colours(self._share(self._values()[::-1]))

    def _share(self, values: Floats) -> Floats:
        """How strongly, and to which side of zero, values are coloured: what is wrong by its margin
        is as red as a high loss."""
        _, high = self._range()
        share: Floats = values / (high if self.shown == LOSS else -high)
        return share

    def _marks(self, height: float) -> list[tuple[float, str]]:
        assert self.grid is not None
        reach = self.grid.reach
        found, step = axis.ticks(-reach, reach, max(height / theme.px(56), 2))
        return [(value, tick(value, step)) for value in found]

    def _draw_axes(
        self, painter: QPainter, field: QRectF, marks: Sequence[tuple[float, str]]
    ) -> None:
        assert self.grid is not None
        px = theme.px
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("faint"))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value, text in marks:
            x, y = self._at(field, value, 0).x(), self._at(field, 0, value).y()
            painter.drawText(
                QRectF(x - px(30), field.bottom() + px(3), px(60), px(15)),
                Qt.AlignmentFlag.AlignCenter,
                text,
            )
            painter.drawText(QRectF(field.left() - px(66), y - px(8), px(60), px(16)), right, text)
            painter.drawLine(QPointF(x, field.bottom()), QPointF(x, field.bottom() + px(3)))
            painter.drawLine(QPointF(field.left() - px(3), y), QPointF(field.left(), y))
        along, across = self._directions()
        metrics = QFontMetricsF(theme.font(11))
        elide = Qt.TextElideMode.ElideRight
        painter.drawText(
            QRectF(field.left(), field.bottom() + px(18), field.width(), px(16)),
            Qt.AlignmentFlag.AlignCenter,
            metrics.elidedText(along, elide, field.width()),
        )
        painter.save()
        widest = max(metrics.horizontalAdvance(text) for _, text in marks)
        painter.translate(field.left() - widest - px(22), field.center().y())
        painter.rotate(-90)
        painter.drawText(
            QRectF(-field.height() / 2, 0, field.height(), px(16)),
            Qt.AlignmentFlag.AlignCenter,
            metrics.elidedText(across, elide, field.height()),
        )
        painter.restore()

    def _directions(self) -> tuple[str, str]:
        """What lies to the right, and what upwards."""
        assert self.grid is not None
        norm = name_of(str(self.grid.said["norm"]))
        along = tr("along the attack ({norm} distance)", norm=norm)
        return along, tr("across, at random ({norm} distance)", norm=norm)

    def _draw_borders(self, painter: QPainter, field: QRectF) -> None:
        """A line between neighbours of which the model says different things."""
        assert self.grid is not None
        label, side = self.grid.label, self.grid.side
        cell = field.width() / side
        painter.setPen(QPen(theme.color("text"), max(theme.manager.scale * 1.4, 1.0)))
        for row, column in np.argwhere(label[:, 1:] != label[:, :-1]):
            x, y = field.left() + (column + 1) * cell, field.bottom() - row * cell
            painter.drawLine(QPointF(x, y), QPointF(x, y - cell))
        for row, column in np.argwhere(label[1:] != label[:-1]):
            x, y = field.left() + column * cell, field.bottom() - (row + 1) * cell
            painter.drawLine(QPointF(x, y), QPointF(x + cell, y))

    def _draw_ball(self, painter: QPainter, field: QRectF) -> None:
        assert self.grid is not None
        edge = self.grid.said["ball"]
        if edge:
            outline = QPolygonF([self._at(field, s, t) for s, t in edge])
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("card", 0.7), theme.px(3)))
            painter.drawPolygon(outline)
            painter.setPen(_dashed())
            painter.drawPolygon(outline)

    def _draw_names(self, painter: QPainter, field: QRectF) -> None:
        """The class of each large region, at its heart."""
        assert self.grid is not None
        px = theme.px
        font = theme.font(11, 600)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        for label, row, column in hearts(self.grid.label):
            at = self._at(field, *self.grid.place(row, column))
            name = class_name(label, self.classes)
            text = metrics.elidedText(name, Qt.TextElideMode.ElideRight, px(80))
            wide = metrics.horizontalAdvance(text) + px(10)
            chip = QRectF(at.x() - wide / 2, at.y() - px(8), wide, px(16))
            chip.moveLeft(min(max(chip.left(), field.left() + 2), field.right() - wide - 2))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("card", 0.82))
            painter.drawRoundedRect(chip, px(4), px(4))
            painter.setPen(theme.color("text"))
            painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, text)

    def _draw_key(self, painter: QPainter, box: QRectF) -> None:
        """What is what, and what the colours mean."""
        assert self.grid is not None
        px, grid = theme.px, self.grid
        y = box.top()
        metrics = QFontMetricsF(theme.font(11))
        low, high = self._range()
        name = class_name(grid.said["label"], self.classes)
        shown = (tr("Cross-entropy of {name}", name=name), tr("Lead of {name}", name=name))
        painter.setFont(theme.font(12, 600))
        painter.setPen(theme.color("text"))
        bold = QFontMetricsF(theme.font(12, 600))
        title = bold.elidedText(shown[self.shown], Qt.TextElideMode.ElideRight, max(box.width(), 1))
        painter.drawText(QPointF(box.left(), y + bold.ascent()), title)
        y += px(20)
        bar = QRectF(box.left(), y, min(box.width(), px(160)), px(8))
        painter.drawImage(bar, colours(self._share(np.linspace(low, high, 64)[None])))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(bar)
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("faint"))
        y = bar.bottom() + px(2)
        ends = QRectF(bar.left(), y, bar.width(), px(15))
        painter.drawText(ends, 0, number(low, 2))
        painter.drawText(ends, Qt.AlignmentFlag.AlignRight, number(high, 2))
        y += px(24)
        entries = [
            (draw_clean, tr("clean image")),
            (_draw_adversarial, tr("adversarial image")),
            (_draw_border, tr("border between classes")),
        ]
        if grid.said["ball"]:
            eps = tr("the ball of ε {eps}", eps=f"{grid.said['eps']:g}")
            entries.append((_draw_edge, eps))
        for sign, text in entries:
            sign(painter, QPointF(box.left() + px(8), y + px(8)))
            painter.setPen(theme.color("muted"))
            room = max(box.width() - px(22), 1)
            painter.drawText(
                QPointF(box.left() + px(22), y + px(8) + metrics.capHeight() / 2),
                metrics.elidedText(text, Qt.TextElideMode.ElideRight, room),
            )
            y += px(20)
        y += px(6)
        painter.setPen(theme.color("faint"))
        note = tr("Off the two images, values may leave 0 to 1: not every point is a picture.")
        painter.drawText(
            QRectF(box.left(), y, max(box.width(), 1), max(box.bottom() - y, 1)),
            Qt.TextFlag.TextWordWrap,
            note,
        )

    def readout(self, row: int, column: int) -> list[tuple[str, str]]:
        """What is known of a cell: names and values."""
        assert self.grid is not None
        grid = self.grid
        s, t = grid.place(row, column)
        label = int(grid.label[row, column])
        name = class_name(label, self.classes) if label >= 0 else tr("not finite")
        return [
            (tr("along"), number(s)),
            (tr("across"), number(t)),
            (tr("loss"), number(float(grid.loss[row, column]))),
            (tr("margin"), number(float(grid.margin[row, column]))),
            (tr("predicted"), name),
        ]

    def draw_hands(self, painter: QPainter) -> None:
        if self.grid is None or self.pointer is None:
            return
        px, field = theme.px, self._field
        at = self._at(field, *self.grid.place(*self.pointer))
        cell = field.width() / self.grid.side
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("accent"), 2))
        painter.drawRect(QRectF(at.x() - cell / 2, at.y() - cell / 2, cell, cell))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font, strong = theme.font(11), theme.font(11, 600)
        metrics, bold = QFontMetricsF(font), QFontMetricsF(strong)
        rows = self.readout(*self.pointer)
        names = max(metrics.horizontalAdvance(name) for name, _ in rows)
        values = min(max(bold.horizontalAdvance(value) for _, value in rows), px(110))
        width, line = names + values + px(32), px(17)
        height = line * len(rows) + px(8)
        left = at.x() + cell + px(6)
        if at.x() > field.center().x():  # beside the map stands its key
            left = at.x() - cell - px(6) - width
        top = min(max(at.y() - height / 2, 2.0), max(self.height() - height - 2.0, 2.0))
        box = QRectF(max(left, 2.0), top, width, height)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(theme.color("card", 0.96))
        painter.drawRoundedRect(box, px(6), px(6))
        y = box.top() + px(4)
        for name, value in rows:
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.setFont(font)
            painter.setPen(theme.color("muted"))
            painter.drawText(QRectF(box.left() + px(10), y, names + 4, line), middle, name)
            painter.setFont(strong)
            painter.setPen(theme.color("text"))
            painter.drawText(
                QRectF(box.left(), y, width - px(10), line),
                middle | Qt.AlignmentFlag.AlignRight,
                bold.elidedText(value, Qt.TextElideMode.ElideRight, values),
            )
            y += line

    # --- hands ---

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.point(self.cell_at(event.position()))

    def leaveEvent(self, event: object) -> None:
        self.point(None)

    def focusOutEvent(self, event: object) -> None:
        self.point(None)
        super().focusOutEvent(event)

    def cell_at(self, position: QPointF) -> tuple[int, int] | None:
        """The row and column under `position`."""
        if self.grid is None or not self._field.contains(position):
            return None
        field, grid = self._field, self.grid
        half = grid.reach * grid.side / (grid.side - 1)
        s = ((position.x() - field.left()) / field.width() * 2 - 1) * half
        t = ((field.bottom() - position.y()) / field.height() * 2 - 1) * half
        return grid.cell(s, t)

    def point(self, cell: tuple[int, int] | None) -> None:
        if cell != self.pointer:
            self.pointer = cell
            words = self.readout(*cell) if cell is not None and self.grid is not None else ()
            self.setAccessibleDescription(", ".join(f"{name} {value}" for name, value in words))
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (1, 0),
            Qt.Key.Key_Down: (-1, 0),
        }
        key = Qt.Key(event.key())
        if key in (Qt.Key.Key_PageUp, Qt.Key.Key_PageDown):
            self.stepped.emit(-1 if key == Qt.Key.Key_PageUp else 1)
        elif key == Qt.Key.Key_Escape and self.pointer is not None:
            self.point(None)
        elif key in moves and self.grid is not None:
            last = self.grid.side - 1
            row, column = self.pointer or (last // 2, last // 2)
            up, right = moves[key]
            self.point((min(max(row + up, 0), last), min(max(column + right, 0), last)))
        else:
            event.ignore()


def colours(share: Floats) -> QImage:
    """(H, W) of -1 to 1 in the theme's diverging colours; what is not finite is a hole."""
    low, ground, high, hole = (
        np.array([c.red(), c.green(), c.blue()], dtype=np.float64)
        for c in (*map(QColor, theme.manager.theme.diverging), theme.color("raised"))
    )
    holes = ~np.isfinite(share)
    # The square root lifts what is small off the ground, as in mosaics of perturbations.
    size = np.sqrt(np.abs(np.where(holes, 0, share)))[..., None]
    rgb = np.where(share[..., None] < 0, low, high) * size + ground * (1 - size)
    rgb[holes] = hole
    return pictures.image(pictures.pack(np.rint(rgb).astype(np.uint8)[None], None)[0])


def hearts(label: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Class, row and column of the cell of each region of NAMED cells or more that lies farthest
    from the region's edge. Regions are joined by their sides; -1 is no class."""
    rows, columns = label.shape
    seen = np.zeros(label.shape, dtype=np.bool_)
    found = []
    for start in np.ndindex(rows, columns):
        if seen[start] or label[start] < 0:
            continue
        region, pending = [], [start]
        seen[start] = True
        while pending:
            row, column = pending.pop()
            region.append((row, column))
            for near in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                inside = 0 <= near[0] < rows and 0 <= near[1] < columns
                if inside and not seen[near] and label[near] == label[start]:
                    seen[near] = True
                    pending.append(near)
        if len(region) >= NAMED:
            inner = set(region)
            while True:
                core = {
                    (r, c)
                    for r, c in inner
                    if {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} <= inner
                }
                if not core:
                    break
                inner = core
            middle = np.mean(sorted(inner), axis=0)
            row, column = min(sorted(inner), key=lambda cell: math.dist(cell, middle))
            found.append((int(label[start]), row, column))
    return found


def _dashed() -> QPen:
    pen = QPen(theme.color("warning"), 1.6 * theme.manager.scale)
    pen.setDashPattern([4, 3])
    return pen


def draw_clean(painter: QPainter, at: QPointF) -> None:
    painter.setPen(QPen(theme.color("card"), theme.px(2)))
    painter.setBrush(theme.color("text"))
    painter.drawEllipse(at, theme.px(5), theme.px(5))


def _draw_adversarial(painter: QPainter, at: QPointF) -> None:
    arm = theme.px(6)
    painter.setPen(QPen(theme.color("card"), theme.px(2)))
    painter.setBrush(theme.color("text"))
    corners = ((0, -arm), (arm, 0), (0, arm), (-arm, 0))
    painter.drawPolygon(QPolygonF([at + QPointF(*corner) for corner in corners]))


def _draw_border(painter: QPainter, at: QPointF) -> None:
    painter.setPen(QPen(theme.color("text"), max(theme.manager.scale * 1.4, 1.0)))
    painter.drawLine(at - QPointF(theme.px(7), 0), at + QPointF(theme.px(7), 0))


def _draw_edge(painter: QPainter, at: QPointF) -> None:
    painter.setPen(_dashed())
    painter.drawLine(at - QPointF(theme.px(8), 0), at + QPointF(theme.px(8), 0))


class SurfaceCard(DrawnCard):
    """The plane of one sample, drawn as soon as its coarsest points are there."""

    redrawn = Signal()
    """A person wants another random direction."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.surface = Surface()
        super().__init__(mark("Loss around the sample"), self.surface, parent)
        self.choice = Segmented((), 0, self)
        self.choice.changed.connect(self._choose)
        self.header.insertWidget(2, self.choice)
        self._again = self.menu.addAction("")
        self._again.triggered.connect(self.redrawn)
        self.menu.addSeparator()
        self._index = 0
        self.fill_menu()
        self.clear()

    def begin(self, index: int, classes: Sequence[str]) -> None:
        """Nothing is known yet of sample `index`."""
        self.surface.classes = tuple(classes)
        self._index = index
        self.clear()

    def take_in(self, answer: Mapping[str, Any], payload: bytes) -> None:
        """Some points more: an answer of the engine to `surface`, without an error."""
        if self.surface.grid is None or answer["start"] == 0:
            self.surface.grid = Grid.of(answer)
        points = np.frombuffer(payload, "<f4").reshape(answer["points"]).astype(np.float64)
        self.surface.grid.take_in(points)
        self.surface.forget()
        self._show_emptiness()
        self._remark()
        if self.surface.grid.complete:
            self.show_menu_button()

    def clear(self) -> None:
        self.surface.grid = None
        self.surface.pointer = None
        self.surface.forget()
        self.more.hide()
        self._remark()
        self._show_emptiness()

    def rows(self) -> Iterable[Sequence[Any]]:
        grid = self.surface.grid
        yield "along", "across", "loss", "margin", "predicted"
        if grid is not None:
            for row, column in np.ndindex(grid.side, grid.side):
                values = grid.loss[row, column], grid.margin[row, column]
                place = (f"{v:.9g}" for v in grid.place(row, column))
                yield *place, *(f"{v:.9g}" for v in values), int(grid.label[row, column])

    def _remark(self) -> None:
        grid = self.surface.grid
        if grid is None:
            self.set_note("")
        elif grid.complete:
            self.set_note(f"#{self._index + 1} · {grid.side} × {grid.side}")
        else:
            self.set_note(f"#{self._index + 1} · {int(grid.known.sum())} / {grid.side**2}")

    def _choose(self, index: int) -> None:
        self.surface.shown = index
        self.surface.forget()

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_index"):
            self.choice.set_options([tr(name) for name in SHOWN])
            self.choice.setAccessibleName(tr("What is drawn"))
            self._again.setText(tr("Another random direction"))
            self.surface.setAccessibleName(tr("Map of the loss around the sample"))
            self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(self.surface.grid is None, self.surface, self.choice)
