"""The drawings of a federation: its clients as a grid, its rounds, the plane of updates, and the
course of each client. All show the client that is chosen, and choose one by a click or Enter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPen, QPicture, QPolygonF
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.panels.federation import (
    NOT_PICKED,
    QUANTITIES,
    STATES,
    Chosen,
    Federation,
    figure,
)
from workbench.views.axes import AxesCard, AxesDrawing, Scale
from workbench.views.matrix import Matrix, shade
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.readout import paint_readout
from workbench.views.signs import paint_corner, paint_diamond, paint_sign
from workbench.views.table import cell
from workbench.views.widgets import Segmented

LARGEST_CELL = 52
SIGNED, NUMBERED = 11, 25
"""Sides of a client's cell, at scale 1: at most; to have a sign; to have its number too."""
MOST_TAKEN = 400
"""Points that names keep clear of, at most."""
FEW = 24
"""Up to so many updates have the client's number beside them, and a sign in their point."""
GRID_COMES = mark("A field for each client: who trains, who is kept, who drops out. Start a run.")
TIMELINE_COMES = mark("A column for each round, a row for each client. Start a run.")
PLANE_COMES = mark(
    "A point for each client's update: those that differ stand apart. It appears with the first "
    "round."
)
COURSES_COME = mark("A curve for each client, from the first round on.")
PARTITION_COMES = mark("Who has how many images of which class, as the form says it.")
HIDDEN = mark("Secure aggregation hides what single clients send: only their sum is known.")


class Grid(Drawing):
    """A cell for each client, coloured by its state; a folded corner says that it is hostile."""

    still = True

    def __init__(self, told: Federation, chosen: Chosen, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.told, self.chosen = told, chosen
        self._layout = (1, 1.0)
        self._hovered: int | None = None
        chosen.changed.connect(self.forget)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(120), theme.px(90))

    def _arrange(self, whole: QRectF) -> QRectF:
        """The largest cells that all fit, and where they are."""
        count = max(self.told.clients, 1)
        area = whole.adjusted(0, theme.px(2), 0, -theme.px(24))
        best = (1, 0.0)
        for columns in range(1, count + 1):
            side = min(area.width() / columns, area.height() / math.ceil(count / columns))
            if side > best[1]:
                best = columns, side
        columns, side = best[0], min(best[1], theme.px(LARGEST_CELL))
        if side >= theme.px(LARGEST_CELL):  # as wide as there is room for
            rows = math.ceil(count / max(1, int(area.width() / side)))
            columns = math.ceil(count / rows)
        self._layout = columns, side
        return area

    def box(self, client: int) -> QRectF:
        columns, side = self._layout
        gap = 0 if side < 4 else max(1.0, side * 0.07)
        row, column = divmod(client, columns)
        top = theme.px(2)
        return QRectF(column * side + gap / 2, top + row * side + gap / 2, side - gap, side - gap)

    def client_at(self, position: QPointF) -> int | None:
        columns, side = self._layout
        column, row = int(position.x() // side), int((position.y() - theme.px(2)) // side)
        client = row * columns + column
        inside = 0 <= column < columns and row >= 0 and client < self.told.clients
        return client if inside else None

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        told = self.told
        painter.translate(whole.topLeft())
        self._arrange(QRectF(0, 0, whole.width(), whole.height()))
        side = self._layout[1]
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, side >= 6)
        states = told.states
        for client, letter in enumerate(states):
            self._draw_client(painter, client, letter, side)
        if self.chosen.client is not None and self.chosen.client < told.clients:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("text"), 1.8 * theme.manager.scale))
            radius = min(side * 0.16, theme.px(6))
            painter.drawRoundedRect(self.box(self.chosen.client), radius, radius)
        self._draw_legend(painter, whole, states)

    def _draw_client(self, painter: QPainter, client: int, letter: str, side: float) -> None:
        state, box = STATES[letter], self.box(client)
        signed, numbered = side >= theme.px(SIGNED), side >= theme.px(NUMBERED)
        idle = letter == NOT_PICKED
        painter.setPen(Qt.PenStyle.NoPen)
        if signed:
            strength = 0.0 if idle else 0.2
            painter.setBrush(theme.color("raised") if idle else theme.color(state.color, strength))
        else:
            painter.setBrush(theme.color("raised" if idle else state.color))
        radius = min(side * 0.16, theme.px(6))
        painter.drawRoundedRect(box, radius, radius)
        if signed:
            size = side * (0.3 if numbered else 0.46)
            at = box.center() - QPointF(0, side * 0.14) if numbered else box.center()
            paint_sign(painter, state.sign, at, size, "faint" if idle else state.color)
        if numbered:
            painter.setFont(theme.font(10 if side < theme.px(34) else 11))
            painter.setPen(theme.color("faint" if idle else "text"))
            line = QRectF(box.left(), box.center().y() + side * 0.08, box.width(), side * 0.36)
            painter.drawText(line, Qt.AlignmentFlag.AlignCenter, str(client))
        if client in self.told.hostile:
            paint_corner(painter, box, max(side * 0.28, 3), "danger")

    def _draw_legend(self, painter: QPainter, whole: QRectF, states: str) -> None:
        """What stands for what, and how many there are of it."""
        px = theme.px
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        x, y = 0.0, whole.height() - px(9)
        entries = [
            (state.sign, "faint" if letter == NOT_PICKED else state.color, tr(state.name), count)
            for letter, state in STATES.items()
            if (count := states.count(letter))
        ]
        if self.told.hostile:
            entries.insert(0, ("corner", "danger", tr("hostile"), len(self.told.hostile)))
        for sign, color, name, count in entries:
            text = f"{name} {count}"
            wide = metrics.horizontalAdvance(text)
            if x + px(16) + wide > whole.width():
                break
            at = QPointF(x + px(6), y)
            if sign == "corner":
                around = QRectF(at.x() - px(4), at.y() - px(4), px(8), px(8))
                paint_corner(painter, around, px(8), color)
            else:
                paint_sign(painter, sign, at, px(10), color)
            painter.setPen(theme.color("muted"))
            line = QRectF(x + px(15), y - px(8), wide + 2, px(16))
            painter.drawText(line, Qt.AlignmentFlag.AlignVCenter, text)
            x += px(15) + wide + px(14)

    def draw_hands(self, painter: QPainter) -> None:
        client = self._hovered
        if client is None or client >= self.told.clients:
            return
        box = self.box(client)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("accent"), 1.6 * theme.manager.scale))
        radius = min(self._layout[1] * 0.16, theme.px(6))
        painter.drawRoundedRect(box, radius, radius)
        head, rows = self.told.named(client), self.told.said(client)
        whole = QRectF(self.rect())
        paint_readout(painter, whole, box.right(), box.top(), head, rows)

    # --- hands

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._hover(self.client_at(event.position()))

    def leaveEvent(self, event: object) -> None:
        self._hover(None)

    def focusOutEvent(self, event: object) -> None:
        self._hover(None)
        super().focusOutEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        client = self.client_at(event.position())
        if client is not None:
            self.chosen.toggle(client)

    def _hover(self, client: int | None) -> None:
        if client != self._hovered:
            self._hovered = client
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        columns, last = self._layout[0], self.told.clients - 1
        now = self.chosen.client
        moves = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -columns,
            Qt.Key.Key_Down: columns,
            Qt.Key.Key_Home: -last,
            Qt.Key.Key_End: last,
        }
        move = moves.get(Qt.Key(event.key()))
        if move is not None and last >= 0:
            client = 0 if now is None else min(max(now + move, 0), last)
            self.chosen.choose(client)
            self._hover(client)
            told = [f"{name} {value}" for _, name, value in self.told.said(client)]
            self.setAccessibleDescription(", ".join([self.told.named(client), *told]))
        elif event.key() == Qt.Key.Key_Escape and (now is not None or self._hovered is not None):
            self.chosen.choose(None)
            self._hover(None)
        else:
            event.ignore()


class ClientsCard(DrawnCard):
    """Who is in the round, and what became of each."""

    drawing: Grid

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        self._told = told
        super().__init__(mark("Clients"), Grid(told, chosen))
        self._explain = GRID_COMES
        self.fill_menu()
        self.show_menu_button()
        self.changed()

    def changed(self, answered: tuple[int, int] | None = None) -> None:
        """More is known. `answered`: how many of a round under way, of how many."""
        told = self._told
        self._show_emptiness()
        words = tr("round {number}", number=told.number) if told.number else ""
        value = ""
        if told.is_training:
            done, of = answered or (0, len(told.picked[1]))
            value = tr("{done} of {all} answered", done=done, all=of)
        elif told.rounds:
            last = told.rounds[-1]
            value = tr("{kept} of {picked} kept", kept=last.kept, picked=last.picked)
        self.set_note(words)
        self.set_value(value)
        self.drawing.forget()

    def clear(self) -> None:
        self.changed()

    def _show_emptiness(self) -> None:
        self._give_way(not (self._told.rounds or self._told.picked[0]), self.drawing)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_copy"):
            self.drawing.setAccessibleName(tr("Drawing of {card}", card=self.title.text()))
            self.changed()

    def rows(self) -> Iterable[Sequence[Any]]:
        told = self._told
        yield tr("Client"), tr("State"), tr("Hostile")
        for client, letter in enumerate(told.states):
            yield client, tr(STATES[letter].name), name_of(told.hostile.get(client, ""))


class Timeline(Matrix):
    """Rounds over clients."""

    least_cell = 7.0

    def __init__(self, told: Federation) -> None:
        super().__init__()
        self.told = told

    def shades(self) -> NDArray[np.uint8]:
        codes = {letter: place for place, letter in enumerate(STATES)}
        least = min(self.area.width() / self.count[1], self.area.height() / self.count[0])
        soft = 0.22 if least >= theme.px(self.least_cell) else 0.85
        colors = np.array(
            [
                shade("raised") if letter == NOT_PICKED else shade(state.color, soft)
                for letter, state in STATES.items()
            ],
            np.uint8,
        )
        rows, columns = self.count
        places = np.full((rows, columns), codes[NOT_PICKED], np.intp)
        for column, one in enumerate(self.told.rounds):
            letters = [codes.get(letter, codes[NOT_PICKED]) for letter in one.states[:rows]]
            places[: len(letters), column] = letters
        return colors[places]

    def draw_cell(self, painter: QPainter, row: int, column: int, box: QRectF) -> None:
        states = self.told.rounds[column].states
        letter = states[row] if row < len(states) else NOT_PICKED
        if letter != NOT_PICKED:
            size = min(box.width(), box.height(), theme.px(18)) * 0.66
            paint_sign(painter, STATES[letter].sign, box.center(), size, STATES[letter].color)

    def said(self, row: int, column: int) -> tuple[str, list[tuple[str, str, str]]]:
        one = self.told.rounds[column]
        letter = one.states[row] if row < len(one.states) else NOT_PICKED
        state = STATES[letter]
        rows = [(state.color, tr("State"), tr(state.name))]
        for quantity in QUANTITIES:
            rounds, values = self.told.courses.get(quantity, {}).get(row, ([], []))
            if one.number in rounds:
                value = values[rounds.index(one.number)]
                rows.append(("faint", name_of_quantity(quantity), figure(quantity, value)))
        name = self.told.named(row)
        return f"{tr('Round {number}', number=one.number)} · {name}", rows


def name_of_quantity(quantity: str) -> str:
    """What the curves of clients are of."""
    names = {
        "loss": tr("Loss"),
        "accuracy": tr("Accuracy"),
        "norm": tr("Norm"),
        "cosine": tr("Cosine"),
    }
    return names[quantity]


class MatrixCard(DrawnCard):
    """A card with a `Matrix`."""

    drawing: Matrix
    empty = ""

    def __init__(self, title: str, drawing: Matrix) -> None:
        super().__init__(title, drawing)
        self._explain = self.empty
        self.fill_menu()
        self.show_menu_button()
        self._show_emptiness()

    @property
    def is_empty(self) -> bool:
        return not (self.drawing.down and self.drawing.across)

    def _show_emptiness(self) -> None:
        self._give_way(self.is_empty, self.drawing)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_copy"):
            self.drawing.setAccessibleName(tr("Drawing of {card}", card=self.title.text()))
            self._name_axes()
            self._show_emptiness()

    def _name_axes(self) -> None:
        """In the person's language."""


class TimelineCard(MatrixCard):
    """Who took part in which round, and what became of it."""

    drawing: Timeline
    empty = TIMELINE_COMES

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        self._told, self._chosen = told, chosen
        super().__init__(mark("Rounds"), Timeline(told))
        self.drawing.picked.connect(self._picked)
        chosen.changed.connect(self._mark)
        self.changed()

    def _picked(self, row: int, column: int) -> None:
        self._chosen.toggle(row)

    def _mark(self) -> None:
        self.drawing.row = self._chosen.client
        self.drawing.forget()

    def changed(self) -> None:
        told = self._told
        self.drawing.across = [str(one.number) for one in told.rounds]
        self.drawing.down = [str(client) for client in range(told.clients)] if told.rounds else []
        self.drawing.marked = told.hostile.keys()
        skipped = sum(bool(one.skipped) for one in told.rounds)
        self.set_note(tr("{count} skipped", count=skipped) if skipped else "")
        self._show_emptiness()
        self._name_axes()
        self.drawing.forget()

    def clear(self) -> None:
        self.changed()

    def _name_axes(self) -> None:
        self.drawing.titles = (tr("Round"), tr("Client"))

    def rows(self) -> Iterable[Sequence[Any]]:
        yield tr("Round"), *(tr("Client {number}", number=k) for k in range(self._told.clients))
        for one in self._told.rounds:
            yield one.number, *(tr(STATES[letter].name) for letter in one.states)


class Parts(Matrix):
    """Clients over classes; the fuller the colour, the more images."""

    least_cell = 17.0

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros((0, 0), np.int64)
        """(classes, clients)"""
        self.hostile: Mapping[int, str] = {}

    def shades(self) -> NDArray[np.uint8]:
        most = max(int(self.counts.max()), 1)
        steps = np.array(
            [shade("accent", 0.08 + 0.92 * k / 255) if k else shade("raised") for k in range(256)],
            np.uint8,
        )
        strength = np.ceil(255 * np.sqrt(self.counts / most)).astype(np.intp)
        return steps[strength]

    def draw_cell(self, painter: QPainter, row: int, column: int, box: QRectF) -> None:
        count = int(self.counts[row, column])
        text = cell(count)
        painter.setFont(theme.font(10))
        if not count or painter.fontMetrics().horizontalAdvance(text) > box.width() - 2:
            return
        share = math.sqrt(count / max(int(self.counts.max()), 1))
        painter.setPen(theme.color(readable(shade("accent", 0.08 + 0.92 * share))))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def said(self, row: int, column: int) -> tuple[str, list[tuple[str, str, str]]]:
        own = int(self.counts[:, column].sum())
        count = int(self.counts[row, column])
        head = tr("Client {number}", number=self.across[column])
        rows = [
            ("accent", tr("Class {name}", name=self.down[row]), cell(count)),
            ("faint", tr("All of its images"), cell(own)),
        ]
        return head, rows


def readable(ground: Sequence[int]) -> str:
    """The token of text that is read best on a colour (blue, green, red)."""

    def light(blue: float, green: float, red: float) -> float:
        parts = [
            (x / 255 / 12.92) if x < 11 else ((x / 255 + 0.055) / 1.055) ** 2.4
            for x in (red, green, blue)
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def contrast(token: str) -> float:
        color = theme.color(token)
        one, other = light(*ground[:3]), light(color.blue(), color.green(), color.red())
        return (max(one, other) + 0.05) / (min(one, other) + 0.05)

    return max(("text", "on_accent"), key=contrast)


class PartitionCard(MatrixCard):
    """Who has how many images of which class."""

    drawing: Parts
    empty = PARTITION_COMES

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen
        super().__init__(mark("Images by client and class"), Parts())
        self.drawing.picked.connect(self._picked)
        chosen.changed.connect(self._mark)

    def _picked(self, row: int, column: int) -> None:
        self._chosen.toggle(column)

    def _mark(self) -> None:
        self.drawing.column = self._chosen.client
        self.drawing.forget()

    def set_counts(
        self, classes: Sequence[str], counts: Sequence[Sequence[int]], clients: int
    ) -> None:
        """A row a client, of all or the first of `clients`."""
        self.drawing.counts = np.array(counts, np.int64).reshape(len(counts), len(classes)).T
        self.drawing.down = list(classes) if len(counts) else []
        self.drawing.across = [str(client) for client in range(len(counts))]
        self._clients = clients
        self._remark()
        self._show_emptiness()
        self._name_axes()
        self.drawing.forget()

    _clients = 0

    def clear(self) -> None:
        self.set_counts((), (), 0)

    def _remark(self) -> None:
        shown = self.drawing.counts.shape[1] if self.drawing.counts.size else 0
        if not shown:
            self.set_note("")
            self.set_value("")
            return
        own = self.drawing.counts.sum(0)
        low, high = int(own.min()), int(own.max())
        words = (
            tr("{count} images each", count=cell(low))
            if low == high
            else tr("{low} to {high} images each", low=cell(low), high=cell(high))
        )
        if shown < self._clients:
            words = tr("the first {shown} of {all}", shown=cell(shown), all=cell(self._clients))
        self.set_note(words)
        self.set_value(tr("{count} clients", count=cell(self._clients)))

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_copy"):
            self._remark()

    def _name_axes(self) -> None:
        self.drawing.titles = (tr("Client"), tr("Class"))

    def rows(self) -> Iterable[Sequence[Any]]:
        yield tr("Client"), *self.drawing.down
        for client, row in enumerate(self.drawing.counts.T.tolist()):
            yield client, *row


class Updates(AxesDrawing):
    """Updates in their plane, at one scale along both axes: how far apart they stand is how far
    they differ. Round: honest; on its tip: hostile. Filled by what became of them."""

    still = True

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        x = Scale(mark("Along the first component"))
        y = Scale(mark("Along the second"))
        super().__init__(x, y)
        self.told, self.chosen = told, chosen
        self.dots: list[tuple[int, float, float, str]] = []
        chosen.changed.connect(self.forget)

    def take(self) -> None:
        """Place those of the newest round."""
        found = []
        for client, row in self.told.rows.items():
            x, y = row.get("x"), row.get("y")
            if x is not None and y is not None:
                found.append((client, float(x), float(y), str(row["state"])))
        self.dots = sorted(found, key=lambda dot: (dot[1], dot[0]))

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        self._fit(whole)
        tried = QPicture()  # how much room the axes leave is known when they have been drawn
        trying = QPainter(tried)
        area = self._draw_axes(trying, whole)
        trying.end()
        self._fit(area)
        super().draw(painter, whole)

    def _fit(self, area: QRectF) -> None:
        """Both axes as wide as the wider needs, in the shape of where they are drawn."""
        xs, ys = [dot[1] for dot in self.dots], [dot[2] for dot in self.dots]
        if not xs:
            return
        wide = max(max(xs) - min(xs), 1e-12)
        high = max(max(ys) - min(ys), 1e-12)
        shape = max(area.width(), 20.0) / max(area.height(), 20.0)
        high = max(high, wide / shape) * 1.24
        wide = high * shape
        middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
        self.x.low, self.x.high = middle[0] - wide / 2, middle[0] + wide / 2
        self.y.low, self.y.high = middle[1] - high / 2, middle[1] + high / 2

    def stops(self) -> Sequence[QPointF]:
        return [QPointF(x, y) for _, x, y, _ in self.dots]

    def _nearest(self, place: QPointF, reach: float) -> int | None:
        best, found = reach, None
        for index, (_, x, y, _) in enumerate(self.dots):
            gap = self.pixel(x, y) - place
            if math.hypot(gap.x(), gap.y()) <= best:
                best, found = math.hypot(gap.x(), gap.y()), index
        return found

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        index = self._nearest(place, reach)
        if index is None:
            return None
        client, x, y, state = self.dots[index]
        known = _state_of(state)
        rows = [(known.color, tr("State"), tr(known.name))]
        row = self.told.rows.get(client, {})
        for key, name in (
            ("norm", tr("Norm of the update")),
            ("cosine", tr("Cosine to the mean")),
            ("drift", tr("Drift")),
        ):
            if row.get(key) is not None:
                rows.append(("faint", name, figure(key, row[key])))
        return self.pixel(x, y), self.told.named(client), rows

    def named_at(self, place: QPointF, reach: float) -> str:
        index = self._nearest(place, reach)
        return str(self.dots[index][0]) if index is not None else ""

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        return ()

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        px = theme.px
        few = len(self.dots) <= FEW
        radius = px(7) if few else px(5)
        # Those that anybody looks for stand in front.
        order = sorted(self.dots, key=lambda d: (d[0] == self.chosen.client, d[0] in self.hostile))
        taken: list[QRectF] = []
        for client, x, y, state in order:
            at, known = self.pixel(x, y), _state_of(state)
            harm = client in self.hostile
            painter.setBrush(theme.color(known.color, 0.25))
            painter.setPen(QPen(theme.color("danger" if harm else known.color), px(1.4)))
            if harm:
                paint_diamond(painter, at, radius * 1.3)
            else:
                painter.drawEllipse(at, radius, radius)
            if few or state != "kept" or harm:
                paint_sign(painter, known.sign, at, radius, known.color)
            if client == self.chosen.client:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(theme.color("text"), 1.6 * theme.manager.scale))
                painter.drawEllipse(at, radius * 1.8, radius * 1.8)
            if len(taken) < MOST_TAKEN:
                taken.append(QRectF(at.x() - radius, at.y() - radius, 2 * radius, 2 * radius))
        for client, x, y, _ in reversed(order):
            if few or client in self.hostile or client == self.chosen.client:
                reach = radius * 1.8 if client == self.chosen.client else radius
                self._draw_name(painter, area, client, self.pixel(x, y), reach, taken)
        self._draw_key(painter, area)

    @property
    def hostile(self) -> Mapping[int, str]:
        return self.told.hostile

    def _draw_name(
        self,
        painter: QPainter,
        area: QRectF,
        client: int,
        at: QPointF,
        radius: float,
        taken: list[QRectF],
    ) -> None:
        px = theme.px
        strong = client == self.chosen.client or client in self.hostile
        font = theme.font(11, 600 if strong else 400)
        wide = QFontMetricsF(font).horizontalAdvance(str(client)) + 1
        high = px(14)
        for left, top in (
            (at.x() + radius + px(4), at.y() - high / 2),
            (at.x() - radius - px(4) - wide, at.y() - high / 2),
            (at.x() - wide / 2, at.y() - radius - px(4) - high),
            (at.x() - wide / 2, at.y() + radius + px(4)),
        ):
            box = QRectF(left, top, wide, high)
            if area.contains(box) and not any(box.intersects(other) for other in taken):
                taken.append(box)
                painter.setFont(font)
                painter.setPen(theme.color("text" if strong else "muted"))
                painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, str(client))
                return

    def _draw_key(self, painter: QPainter, area: QRectF) -> None:
        """What a diamond is, where there is one."""
        if not any(client in self.hostile for client, *_ in self.dots):
            return
        px = theme.px
        painter.setFont(theme.font(11, 500))
        text = tr("hostile")
        wide = painter.fontMetrics().horizontalAdvance(text)
        box = QRectF(area.right() - wide - px(24), area.top() + px(2), wide + px(22), px(17))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("card", 0.85))
        painter.drawRect(box)
        painter.setPen(QPen(theme.color("danger"), px(1.4)))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        paint_diamond(painter, QPointF(box.left() + px(9), box.center().y()), px(5))
        painter.setPen(theme.color("muted"))
        painter.drawText(box.adjusted(px(19), 0, 2, 0), Qt.AlignmentFlag.AlignVCenter, text)


def _state_of(word: str) -> Any:
    from workbench.panels.federation import LETTERS

    return STATES[LETTERS.get(word, NOT_PICKED)]


class UpdatesCard(AxesCard):
    """The updates of the newest round, in the plane in which they differ most."""

    drawing: Updates
    can_be_log = False

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        super().__init__(mark("Updates"), Updates(told, chosen), PLANE_COMES)
        self._told, self._chosen = told, chosen
        self.drawing.picked.connect(lambda client: chosen.toggle(int(client)))

    @property
    def is_empty(self) -> bool:
        return not self.drawing.dots

    def take(self) -> None:
        """There may be a newer round."""
        self.drawing.take()
        self.set_note(self._words())
        self.changed()

    def _words(self) -> str:
        told = self._told
        if not self.drawing.dots or not told.rounds:
            return ""
        return tr("principal components, round {number}", number=told.rounds[-1].number)

    def clear(self) -> None:
        self.take()

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_told"):
            self.set_note(self._words())

    def rows(self) -> Iterable[Sequence[Any]]:
        yield tr("Client"), "x", "y", tr("State"), tr("Hostile")
        for client, x, y, state in self.drawing.dots:
            kind = self._told.hostile.get(client, "")
            yield client, repr(x), repr(y), tr(_state_of(state).name), name_of(kind)


class Courses(AxesDrawing):
    """A line for each client over the rounds: faint; dashed in red, hostile; strong, the chosen."""

    still = True

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        super().__init__(Scale(mark("Round")), Scale(""))
        self.told, self.chosen = told, chosen
        self.quantity = QUANTITIES[0]
        chosen.changed.connect(self.forget)

    @property
    def lines(self) -> Mapping[int, tuple[list[float], list[float]]]:
        return self.told.courses.get(self.quantity, {})

    def fit(self) -> None:
        lines = self.lines.values()
        self.y.percent = self.quantity == "accuracy"
        rounds = [x for xs, _ in lines for x in (xs[0], xs[-1])]
        self.x.low, self.x.high = min(rounds, default=0.0), max(rounds, default=1.0)
        if self.x.high <= self.x.low:
            self.x.low, self.x.high = max(self.x.low - 1, 0.0), self.x.low + 1
        self.y.fit(value for _, values in lines for value in values)

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        entries = []
        if any(client in self.told.hostile for client in self.lines):
            entries.append((tr("hostile"), "danger", True))
        if self.chosen.client in self.lines:
            name = tr("Client {number}", number=self.chosen.client)
            entries.append((name, "accent", False))
        return entries

    def stops(self) -> Sequence[QPointF]:
        """Those of the chosen client."""
        course = self.lines.get(-1 if self.chosen.client is None else self.chosen.client)
        return [QPointF(x, y) for x, y in zip(*course, strict=True)] if course else []

    def _places(self, client: int) -> tuple[list[float], list[float]]:
        """Where its line goes: pixels from the left, and from above."""
        xs, ys = (np.array(part, float) for part in self.lines[client])
        area, x, y = self.area, self.x, self.y
        across = area.left() + (xs - x.low) / (x.high - x.low) * area.width()
        down = area.bottom() - (ys - y.low) / (y.high - y.low) * area.height()
        return across.tolist(), down.tolist()

    def _nearest(self, place: QPointF, reach: float) -> tuple[int, int] | None:
        """The client, and the place in its course, of the point nearest to `place`."""
        best, found = reach, None
        for client in self.lines:
            across, down = self._places(client)
            gaps = np.hypot(np.subtract(across, place.x()), np.subtract(down, place.y()))
            index = int(gaps.argmin())
            if gaps[index] <= best:
                best, found = float(gaps[index]), (client, index)
        return found

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        found = self._nearest(place, reach)
        if found is None:
            return None
        client, index = found
        xs, ys = self.lines[client]
        color = "danger" if client in self.told.hostile else "accent"
        rows = [(color, name_of_quantity(self.quantity), figure(self.quantity, ys[index]))]
        head = f"{tr('Round {number}', number=int(xs[index]))} · {self.told.named(client)}"
        return self.pixel(xs[index], ys[index]), head, rows

    def named_at(self, place: QPointF, reach: float) -> str:
        found = self._nearest(place, reach)
        return str(found[0]) if found is not None else ""

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        many = len(self.lines) > FEW
        order = sorted(
            self.lines,
            key=lambda client: (client == self.chosen.client, client in self.told.hostile),
        )
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for client in order:
            chosen = client == self.chosen.client
            hostile = client in self.told.hostile
            color, alpha, width = "faint", 0.32 if many else 0.6, 1.0
            if hostile:
                color, alpha = "danger", 0.85
            if chosen:
                color, alpha, width = "danger" if hostile else "accent", 1.0, 2.4
            pen = QPen(theme.color(color, alpha), width * theme.manager.scale)
            if hostile:
                pen.setDashPattern([4.0, 3.0])
            painter.setPen(pen)
            # Many faint lines are told apart no better when they are smooth.
            painter.setRenderHint(QPainter.RenderHint.Antialiasing, chosen or not many)
            points = [QPointF(x, y) for x, y in zip(*self._places(client), strict=True)]
            if len(points) == 1:
                painter.drawEllipse(points[0], theme.px(2), theme.px(2))
            else:
                painter.drawPolyline(QPolygonF(points))


class CoursesCard(AxesCard):
    """Of each client, how it fares."""

    drawing: Courses
    can_be_log = False

    def __init__(self, told: Federation, chosen: Chosen) -> None:
        self.tabs = Segmented([""] * len(QUANTITIES))
        super().__init__(mark("By client"), Courses(told, chosen), COURSES_COME)
        self._told = told
        self.header.insertWidget(2, self.tabs, 0, Qt.AlignmentFlag.AlignVCenter)
        self.tabs.changed.connect(self._turn)
        self.drawing.picked.connect(lambda client: chosen.toggle(int(client)))
        self.retranslate()

    @property
    def is_empty(self) -> bool:
        return not self.drawing.lines

    def _turn(self, index: int) -> None:
        self.drawing.quantity = QUANTITIES[index]
        self.take()

    def take(self) -> None:
        """There may be more of it."""
        self.drawing.fit()
        self.changed()

    def clear(self) -> None:
        self.take()

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_told"):
            self.tabs.set_options([name_of_quantity(name) for name in QUANTITIES])
            self.tabs.setAccessibleName(tr("Quantity"))

    def rows(self) -> Iterable[Sequence[Any]]:
        lines = self.drawing.lines
        yield tr("Round"), *(tr("Client {number}", number=client) for client in lines)
        rounds = sorted({x for xs, _ in lines.values() for x in xs})
        known = {c: dict(zip(xs, ys, strict=True)) for c, (xs, ys) in lines.items()}
        for number in rounds:
            yield (
                int(number),
                *(repr(known[c][number]) if number in known[c] else "" for c in lines),
            )
