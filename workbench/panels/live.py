"""The standard live view: one card of curves a quantity, mosaics and tables, from events alone.

Series that end in the same name (`train/loss`, `validation/loss`) have the same unit and share a
card. A view is told what to draw by `show_run` and `news`; the window calls `draw` at most 30
times a second while the view can be seen, and `rest` when nothing moves any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from engine.events import Array, Images, Table
from engine.store import RunInfo
from workbench import i18n, theme
from workbench.i18n import mark, tr
from workbench.mailbox import News
from workbench.runs.book import ENDED
from workbench.runs.record import Record
from workbench.views.card import seat
from workbench.views.curves import CurveCard
from workbench.views.mosaic import Mosaic
from workbench.views.table import EMPTY as TABLE_EMPTY
from workbench.views.table import TableCard
from workbench.words import title, word

if TYPE_CHECKING:
    from workbench.views.comparison import Comparison

Ask: TypeAlias = Callable[[Mapping[str, Any], Callable[[dict[str, Any], bytes], None]], None]
"""Puts a question to the engine; the second argument gets the answer and its bytes."""
Beside: TypeAlias = Callable[[], Sequence[tuple[RunInfo, Record, str]]]
"""The runs that a person compares, of the kind that is shown: what is known of each, its colour."""
FRACTIONS = ("accuracy", "rate", "share", "fraction", "high_quality")
"""Ends of names of quantities that are fractions in files and percent on screen."""
PREVIEW_ROW, TABLES_ROW = 50, 60
"""Rows of the grid below all curves and pictures. (Two widgets that take turns must not share a
cell: Qt then forgets the spacing.)"""
Runs: TypeAlias = Callable[[], Sequence[tuple[RunInfo, str, str]]]
"""Every run of the workspace, newest first: what is known of it, what it is called, its colour."""
OWN_GROUPS = ("train/", "attack/")
"""Beginnings of names of the series that a run is about."""
NOTHING = mark("This run recorded no {card}.")
EMPTY = mark("Drawn while a run works. Fill in the form on the right and press Start run.")


def nobody_answers(
    question: Mapping[str, Any], answer: Callable[[dict[str, Any], bytes], None]
) -> None:
    """What a question comes to where there is no engine."""
    answer({"error": tr("the engine is not running")}, b"")


@dataclass(frozen=True)
class Hands:
    """What a view can do beside showing: to the run under way, and in other places."""

    control: Callable[[str, float], None] = lambda name, value: None
    """Sets a live value of the run under way."""
    pause: Callable[[bool], None] = lambda on: None
    step: Callable[[], None] = lambda: None
    """One step of the run under way, which is paused by that."""
    pace: Callable[[float], None] = lambda steps_per_second: None
    """Slow motion; 0 is as fast as it goes."""
    again: Callable[[str, int | None], None] = lambda run_id, seed: None
    """Begins a run again, with its seed or another one; if it is under way it is stopped."""
    attack: Callable[[Any, str], None] = lambda pixels, source: None
    """Opens the place for an image of one's own with these pixels, (H, W, C) uint8; `source` says
    what they are."""


@dataclass(frozen=True)
class Curve:
    """A card of curves: the last part of the series' names, and its English title."""

    quantity: str
    title: str
    percent: bool = False
    unit: str = ""
    smooth: bool = True


class LiveView(QWidget):
    """Draws one run. Cards that are named stand in their place from the start; others are added
    when something for them is said."""

    counted = mark("Step")
    """What the curves count along x."""
    first_row = 0
    """Rows of the grid above it belong to a custom view."""
    table_rows: int | None = None
    """Tables stand as high as up to so many rows need, and scroll with the page; None shares out
    the room there is."""

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        curves: Sequence[Curve] = (),
        tables: Mapping[str, str] | None = None,
        hidden: Sequence[str] = (),
        empty: str = EMPTY,
    ) -> None:
        super().__init__(parent)
        self.info: RunInfo | None = None
        self.beside: Beside = lambda: ()
        self.ask: Ask = nobody_answers
        self.drop: Callable[[str], None] = lambda kind: None
        """Gives up the question of a kind that is open."""
        self.pages: Comparison | None = None
        """Whose pages can be turned to by name."""
        self.save_set: Callable[[str], None] = lambda run_id: None
        """Asks where the adversarial examples of a run are to be written."""
        self.runs: Runs = lambda: ()
        self.read: Callable[[str], Record] = lambda run_id: Record()
        """What the store has of a run."""
        self.go_to: Callable[[str], None] = lambda run_id: None
        """Shows another run, in its own view."""
        self.set_up: Callable[[str, Mapping[str, Any]], None] = lambda place, values: None
        """Opens the form of a place, with values filled in."""
        self.hands = Hands()
        self._color = "series:0"
        self._hidden, self._empty = tuple(hidden), empty
        self._titles = dict(tables or {})
        self.curves: dict[str, CurveCard] = {}
        self.tables: dict[str, TableCard] = {}
        self.mosaics: dict[str, Mosaic] = {}
        self._known: set[str] = set()
        self._turn = 0
        self._cells: list[tuple[QWidget, bool]] = []
        self.grid = self._make_grid()
        for curve in curves:
            self._add_curve(curve)
        for name in self._titles:
            self._table(name)
        i18n.signals.changed.connect(self.retranslate)
        self.show_nothing()

    # --- what the window calls

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        """Draw `record` from the start, in the run's colour (a token, as "series:2")."""
        self.show_nothing()
        self.info, self._color = info, color
        for name, (steps, values) in record.scalars.items():
            self._append(name, steps, values, replace=True)
        for table in record.tables.values():
            self.show_table(table)
        for name, images in record.images.items():
            self.show_images(images, record.frames.get(name, []))
        for name, array in record.arrays.items():
            self.show_array(array, record.courses.get(name, []))
        if info.status != "running":
            self.rest()
        self._explain_emptiness()

    def show_nothing(self) -> None:
        """No run: the cards say what will appear in them."""
        self.info = None
        self._known.clear()
        for card in self.curves.values():
            card.clear()
        for table in self.tables.values():
            table.clear()
        for mosaic in self.mosaics.values():
            mosaic.hide()
        self._explain_emptiness()
        self.retranslate()

    def news(self, news: News) -> None:
        """More of the run that is shown. Drawn by the next `draw`s."""
        for name, (steps, values) in news.scalars.items():
            self._append(name, steps, values)
        for table in news.tables.values():
            self.show_table(table)
        for images in news.images.values():
            self.show_images(images, [])
        for array in news.arrays.values():
            self.show_array(array, [])

    def draw(self) -> None:
        """Called on every tick while this can be seen: every other card takes in one series."""
        self._turn = 1 - self._turn
        for card in list(self.curves.values())[self._turn :: 2]:
            card.draw()

    def rest(self) -> None:
        """The run has ended: draw as for print."""
        for card in self.curves.values():
            card.rest()

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """No run is shown and the form says `values`: show what can be known before starting.
        `ask` puts a question to the engine."""

    def beside_changed(self) -> None:
        """Other runs are compared now than before: see `beside`."""

    def runs_changed(self) -> None:
        """Runs came or went, or one has ended: see `runs`."""

    def state_changed(self, current: str | None, paused: bool) -> None:
        """Another run is under way (its id, or none), or it was paused or goes on."""

    def farewell(self) -> float:
        """The run that is followed has ended well: seconds that a person should have to see it
        before the view goes on to the next."""
        return 0.0

    def update_info(self, info: RunInfo) -> None:
        """Status or summary of the shown run changed."""
        self.info = info
        self._explain_emptiness()

    def retranslate(self) -> None:
        """Set texts again, after the language changed."""
        for name in self._known:
            self._declare(name)

    def _explain_emptiness(self) -> None:
        """Nothing more will come of a run that has ended: its empty cards no longer promise it."""
        for card in self.curves.values():
            card.explain(NOTHING if self._has_ended else self._empty)
        for name, table in self.tables.items():
            table.explain(NOTHING if self._has_ended else TABLE_EMPTY)
            # Of a run that has ended nothing more comes; what only others had, nobody waits for.
            waits = name in self._titles and not self._has_ended
            seat(table).setVisible(waits or bool(table.model.rows))

    @property
    def _has_ended(self) -> bool:
        return self.info is not None and self.info.status in ENDED

    def turn_to(self, title: str) -> bool:
        """Show the page of this English title; False where there is none."""
        if self.pages is None or title not in self.pages.titles:
            return False
        self.pages.tabs.set_current(self.pages.titles.index(title))
        return True

    # --- parts, which custom views build on

    def show_table(self, table: Table) -> None:
        card = self._table(table.name)
        card.set_table(table.columns, table.rows)
        seat(card).show()

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        mosaic = self.mosaics.get(images.name)
        if mosaic is None:
            mosaic = self.mosaics[images.name] = Mosaic(title(images.name), self)
            mosaic.setMinimumHeight(theme.px(240))
            self._place(mosaic)
        mosaic.set_images(images.pixels, images.captions, images.scale)
        mosaic.show()

    def show_array(self, array: Array, course: Sequence[Array]) -> None:
        """Numbers that are drawn, with those that were stored before them: a view that knows what
        they mean does."""

    def _append(
        self, name: str, steps: Sequence[int], values: Sequence[float], replace: bool = False
    ) -> None:
        what = self._card_of(name)
        if what in self._hidden:
            return
        if what not in self.curves:
            self._add_curve(Curve(what, title(what), percent=what.endswith(FRACTIONS)))
        card = self.curves[what]
        if name not in self._known:
            self._known.add(name)
            self._declare(name)
        if replace:
            card.replace(name, steps, values)
        else:
            card.append(name, steps, values)

    def _declare(self, name: str) -> None:
        """Name a series in its card. All have the run's colour; what is not trained on is
        dashed."""
        own = name.startswith(OWN_GROUPS)
        card = self.curves[self._card_of(name)]
        card.set_series(name, self._label(name), self._color, dashed=not own)

    def _card_of(self, name: str) -> str:
        """The quantity in whose card a series is drawn."""
        return quantity(name)

    def _label(self, name: str) -> str:
        """What a series is called in its card."""
        return label_of(name)

    def _table(self, name: str) -> TableCard:
        if name not in self.tables:
            card = TableCard(self._titles.get(name) or title(name), parent=self)
            card.setMinimumHeight(theme.px(200))
            if self.table_rows is not None:
                card.fit(self.table_rows)
            self.tables[name] = card
            self._place(card, wide=True)
        return self.tables[name]

    def _add_curve(self, curve: Curve) -> None:
        card = self._make_curve(curve)
        card.plot.frame.counted = self.counted
        card.setMinimumHeight(theme.px(150))
        self.curves[curve.quantity] = card
        self._place(card)

    def _make_curve(self, curve: Curve) -> CurveCard:
        return CurveCard(
            curve.title,
            unit=curve.unit,
            percent=curve.percent,
            smooth=curve.smooth,
            empty=self._empty,
            parent=self,
        )

    def _make_grid(self) -> QGridLayout:
        """Two columns that scroll when they are higher than the window."""
        grid = QGridLayout(self._make_scrolled())
        grid.setContentsMargins(12, 0, 12, 12)
        grid.setSpacing(10)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        return grid

    def _make_scrolled(self) -> QWidget:
        """A page that scrolls when it is higher than the window."""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        page = QWidget()
        page.setMinimumWidth(1)  # cards get narrower rather than leave the window
        area.setWidget(page)
        column.addWidget(area)
        return page

    def _place(self, card: QWidget, wide: bool = False) -> None:
        """Put a card into the grid: curves and pictures two in a row, tables below them."""
        card.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._cells.append((card, wide))
        self._arrange()

    def _arrange(self) -> None:
        narrow = self._in_order([cell for cell, is_wide in self._cells if not is_wide])
        rest = [cell for cell, is_wide in self._cells if is_wide]
        for place, cell in enumerate(narrow):
            self.grid.addWidget(seat(cell), self.first_row + place // 2, place % 2)
        for place, cell in enumerate(rest):
            self.grid.addWidget(seat(cell), TABLES_ROW + place, 0, 1, 2)

    def _in_order(self, cells: list[QWidget]) -> list[QWidget]:
        """The cards that stand two in a row, in the order in which they are read."""
        return cells


def quantity(name: str) -> str:
    """The last part of a series' name."""
    return name.rpartition("/")[2]


def label_of(name: str) -> str:
    """What a series is called in its card: its group, in words."""
    return word(name.partition("/")[0])
