"""How prediction stability is drawn (see `stability_panel`): how far accuracy and single answers
move with each source, and the samples that move most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from engine.events import Array, Images, Table
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.diagnostics_cards import PlaneCard
from workbench.panels.live import LiveView
from workbench.views import axis
from workbench.views.card import seat
from workbench.views.mosaic import Mosaic
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.readout import paint_readout
from workbench.views.table import Percent
from workbench.views.text import number, percent
from workbench.words import word

SPREAD, UNSTABLE, CLASSES, PLANE = "stability", "unstable", "classes", "loss_plane"
CURVATURE = "curvature"
SPREAD_ROW, PLANE_ROW = 0, 40
SOURCES = {
    "seeds": mark("Seeds"),
    "orders": mark("Batch orders"),
    "input_noise": mark("Input noise"),
    "weight_noise": mark("Weight noise"),
}
PERCENTS = ("accuracy", "lowest_accuracy", "highest_accuracy", "deviation", "differs", "agreement")
COME = mark(
    "How far accuracy and single answers move over seeds, batch orders and noise. Choose a model "
    "in the form and press Start run."
)
NONE_MOVES = mark("The samples whose answers differ the most.")


@dataclass(frozen=True, slots=True)
class Spread:
    """A row of the engine's table."""

    source: str
    level: float | None
    answers: int
    accuracy: float
    lowest: float
    highest: float
    deviation: float
    differs: float
    agreement: float
    entropy: float

    @property
    def title(self) -> str:
        """As in "Input noise 0.05"."""
        source = tr(SOURCES[self.source]) if self.source in SOURCES else self.source
        return source if self.level is None else f"{source} {number(self.level)}"


class Spreads(Drawing):
    """A line a source: the accuracies as a bar from the lowest to the highest with a tick at the
    mean, and how many samples not all answers agree on. The pointer, or the up and down keys, read
    a line out."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spreads: tuple[Spread, ...] = ()
        self._at: int | None = None

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(320), theme.px(72 + 24 * max(len(self.spreads), 4)))

    def sizeHint(self) -> QSize:
        return self.minimumSizeHint()

    def show_spreads(self, spreads: Sequence[Spread]) -> None:
        self.spreads = tuple(spreads)
        self.updateGeometry()
        self.forget()

    def _lines(self, whole: QRectF) -> list[QRectF]:
        px = theme.px
        room = whole.height() - px(22) - px(26)
        high = min(room / max(len(self.spreads), 1), px(40))
        top = whole.top() + px(22)
        return [
            QRectF(whole.left(), top + place * high, whole.width(), high)
            for place in range(len(self.spreads))
        ]

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        if not self.spreads:
            return
        px, font = theme.px, theme.font(11)
        metrics = QFontMetricsF(font)
        names = max(metrics.horizontalAdvance(one.title) for one in self.spreads) + px(14)
        names = min(names, whole.width() * 0.3)
        left = QRectF(whole.left() + names, whole.top(), (whole.width() - names) * 0.48, 0)
        right = QRectF(left.right() + px(28), whole.top(), 0, 0)
        right.setRight(whole.right() - px(52))
        low = min(one.lowest for one in self.spreads)
        high = max(one.highest for one in self.spreads)
        low, high = axis.padded(low, high, 0.08) if high > low else (low - 0.01, high + 0.01)
        low, high = max(low, 0.0), min(high, 1.0)
        lines = self._lines(whole)
        painter.setFont(theme.font(11, 600))
        painter.setPen(theme.color("muted"))
        for box, text in (
            (left, tr("Accuracy, lowest to highest")),
            (right, tr("Samples that differ")),
        ):
            head = QRectF(box.left(), whole.top(), whole.right() - box.left(), px(16))
            if box is left:
                head.setRight(right.left() - px(8))
            shown = QFontMetricsF(theme.font(11, 600)).elidedText(
                text, Qt.TextElideMode.ElideRight, head.width()
            )
            painter.drawText(head, Qt.AlignmentFlag.AlignVCenter, shown)
        self._draw_ticks(painter, left, lines, low, high)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        most = max(*(one.differs for one in self.spreads), 1e-9)
        for one, line in zip(self.spreads, lines, strict=True):
            y = line.center().y()
            painter.setFont(font)
            painter.setPen(theme.color("text"))
            name = metrics.elidedText(one.title, Qt.TextElideMode.ElideRight, names - px(12))
            box = QRectF(line.left(), line.top(), names - px(12), line.height())
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, name)
            ends = [left.left() + (v - low) / (high - low) * left.width() for v in _ends(one)]
            thick = min(px(8), line.height() * 0.4)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("accent", 0.55))
            bar = QRectF(ends[0], y - thick / 2, max(ends[2] - ends[0], px(2)), thick)
            painter.drawRoundedRect(bar, thick / 2, thick / 2)
            painter.setPen(QPen(theme.color("text"), 2 * theme.manager.scale))
            painter.drawLine(QPointF(ends[1], y - thick), QPointF(ends[1], y + thick))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("raised"))
            track = QRectF(right.left(), y - thick / 2, right.width(), thick)
            painter.drawRoundedRect(track, thick / 2, thick / 2)
            if one.differs > 0:
                painter.setBrush(theme.color("warning"))
                track.setWidth(max(right.width() * one.differs / most, px(2)))
                painter.drawRoundedRect(track, thick / 2, thick / 2)
            painter.setFont(theme.font(11, 600))
            painter.setPen(theme.color("text"))
            value = QRectF(right.right(), line.top(), px(52), line.height())
            end = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(value, end, percent(one.differs))

    def _draw_ticks(
        self, painter: QPainter, box: QRectF, lines: Sequence[QRectF], low: float, high: float
    ) -> None:
        px = theme.px
        places, step = axis.ticks(low, high, max(box.width() / px(56), 3))
        digits = 0 if step >= 0.01 else 1 if step >= 0.001 else 2
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setFont(theme.font(11))
        bottom = lines[-1].bottom()
        for value in places:
            x = round(box.left() + (value - low) / (high - low) * box.width())
            painter.setPen(theme.color("border"))
            painter.drawLine(QPointF(x, lines[0].top()), QPointF(x, bottom + px(3)))
            painter.setPen(theme.color("faint"))
            under = QRectF(x - px(40), bottom + px(4), px(80), px(16))
            painter.drawText(under, Qt.AlignmentFlag.AlignCenter, percent(value, digits))

    def draw_hands(self, painter: QPainter) -> None:
        if self._at is None or self._at >= len(self.spreads):
            return
        one, line = self.spreads[self._at], self._lines(QRectF(self.rect()))[self._at]
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("accent", 0.08))
        painter.drawRoundedRect(line, 4, 4)
        middle = line.left() + line.width() * 0.45
        paint_readout(painter, QRectF(self.rect()), middle, line.bottom(), one.title, _said(one))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        lines = self._lines(QRectF(self.rect()))
        inside = (k for k, line in enumerate(lines) if line.contains(event.position()))
        self._look_at(next(inside, None))

    def leaveEvent(self, event: object) -> None:
        self._look_at(None)

    def focusOutEvent(self, event: object) -> None:
        self._look_at(None)
        super().focusOutEvent(event)

    def keyPressEvent(self, event: Any) -> None:
        moves = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        move = moves.get(Qt.Key(event.key()))
        if move is not None and self.spreads:
            place = 0 if self._at is None else self._at + move
            self._look_at(min(max(place, 0), len(self.spreads) - 1))
        elif event.key() == Qt.Key.Key_Escape and self._at is not None:
            self._look_at(None)
        else:
            event.ignore()

    def _look_at(self, place: int | None) -> None:
        if place != self._at:
            self._at = place
            if place is not None and place < len(self.spreads):
                one = self.spreads[place]
                words = [one.title, *(f"{name} {value}" for _, name, value in _said(one))]
                self.setAccessibleDescription(", ".join(words))
            self.update()


def _ends(one: Spread) -> tuple[float, float, float]:
    return one.lowest, one.accuracy, one.highest


def _said(one: Spread) -> list[tuple[str, str, str]]:
    return [
        ("accent", tr("Accuracy"), percent(one.accuracy)),
        ("accent", tr("Lowest"), percent(one.lowest)),
        ("accent", tr("Highest"), percent(one.highest)),
        ("warning", tr("Answers differ"), percent(one.differs)),
        ("faint", tr("Two answers agree"), percent(one.agreement)),
        ("faint", tr("Entropy, bits"), number(one.entropy)),
        ("faint", tr("Answers"), str(one.answers)),
    ]


class SpreadCard(DrawnCard):
    """How far accuracy and answers move, by source."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.spreads = Spreads()
        super().__init__(mark("What moves the answers"), self.spreads, parent)
        self._explain = COME
        self.fill_menu()
        self._show_emptiness()

    def show_table(self, table: Table) -> None:
        self.spreads.show_spreads([Spread(*row) for row in table.rows])
        if table.rows:
            self.show_menu_button()
        self._show_emptiness()

    def rows(self) -> Iterable[Sequence[Any]]:
        yield "source", "level", "lowest", "accuracy", "highest", "differs", "agreement", "entropy"
        for one in self.spreads.spreads:
            yield (
                one.source,
                "" if one.level is None else one.level,
                *_ends(one),
                one.differs,
                one.agreement,
                one.entropy,
            )

    def _show_emptiness(self) -> None:
        self._give_way(not self.spreads.spreads, self.spreads)


class StabilityView(LiveView):
    """The spreads, the least stable samples, and what was measured around the weights."""

    first_row = 10
    table_rows = 12

    def __init__(self, parent: QWidget | None = None) -> None:
        self.spread = SpreadCard()
        self.samples = Mosaic(mark("Least stable samples"), empty=NONE_MOVES)
        self.plane = PlaneCard()
        super().__init__(parent, tables={SPREAD: mark("Spread")}, empty=COME)
        self.mosaics[UNSTABLE] = self.samples
        self.grid.addWidget(self.spread, SPREAD_ROW, 0)
        self.grid.addWidget(self.samples, SPREAD_ROW, 1)
        self.grid.addWidget(self.plane, PLANE_ROW, 0, 1, 2)
        for card in (self.spread, self.samples, self.plane):
            card.setMinimumHeight(theme.px(320))
        self.show_nothing()

    def show_nothing(self) -> None:
        super().show_nothing()
        if hasattr(self, "samples") and hasattr(self, "grid"):
            self.spread.show_table(Table(SPREAD, (), ()))
            self.samples.clear()
            self.samples.show()
            self.plane.clear()
            seat(self.plane).hide()

    def show_table(self, table: Table) -> None:
        if table.name == CLASSES:
            self.samples.set_classes([str(row[1]) for row in table.rows])
            return
        if table.name == SPREAD:
            self.spread.show_table(table)
            table = _in_words(table)
        elif table.name == UNSTABLE:
            columns = [_source_in_words(name) for name in table.columns]
            table = Table(table.name, tuple(columns), table.rows)
        elif table.name == CURVATURE:
            rows = tuple((word(name.replace("/", "_")), value) for name, value in table.rows)
            table = Table(table.name, table.columns, rows)
        super().show_table(table)

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if images.name == UNSTABLE:
            self.samples.set_images(images.pixels, images.captions)
        else:
            super().show_images(images, frames)

    def show_array(self, array: Array, course: Sequence[Array]) -> None:
        if array.name == PLANE:
            self.plane.show_plane(array)
            seat(self.plane).show()


def _source_in_words(name: str) -> str:
    """As in "Input noise 0.05", of "input_noise 0.05"; other columns are named by the table."""
    source, _, level = name.partition(" ")
    return f"{tr(SOURCES[source])} {level}".strip() if source in SOURCES else name


def _in_words(table: Table) -> Table:
    """Sources in words, fractions in percent."""
    rows = []
    for row in table.rows:
        said = dict(zip(table.columns, row, strict=True))
        source = str(said["source"])
        said["source"] = tr(SOURCES[source]) if source in SOURCES else source
        for name in PERCENTS:
            said[name] = Percent(100 * said[name])
        rows.append(tuple(said.values()))
    return Table(table.name, table.columns, tuple(rows))
