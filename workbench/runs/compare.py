"""Runs side by side: accuracies as bars, summaries as a table, curves together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from engine.store import RunInfo
from workbench import i18n, theme
from workbench.i18n import mark, tr
from workbench.panels import detail_of
from workbench.panels.attack_panel import attack_of
from workbench.panels.details import flat, value_text
from workbench.panels.live import FRACTIONS, quantity
from workbench.panels.tradeoff import TradeoffCard
from workbench.runs.book import Book, has_model, word_of
from workbench.runs.record import Record
from workbench.views.bars import BarsCard
from workbench.views.card import Card, seat
from workbench.views.curves import CurveCard
from workbench.views.table import Percent, TableCard
from workbench.views.text import number, signed
from workbench.words import title, warning_of, word

GROUPS = ("validation", "train", "attack")
"""Of the series of one quantity, the one that runs are compared by."""
FIRST = ("accuracy", "loss", "attack robust_accuracy", "attack success_rate")
LEFT_OUT = ("lr", "images_per_second", "mean_norm", "gradient_norm")
COLUMNS = ("clean_accuracy", "robust_accuracy")
EPSILON = "epsilon"
"""The promise of a private run, beside its accuracy."""
TITLES = {
    "accuracy": mark("Validation accuracy"),
    "loss": mark("Validation loss"),
    "attack loss": mark("Loss under attack"),
    "attack robust_accuracy": mark("Robust accuracy over iterations"),
    "attack success_rate": mark("Success rate over iterations"),
}
REFRESH_MS = 1000


class CompareView(QWidget):
    """What is compared is what the book says; drawn when shown, and again when that changes."""

    export = Signal(str)
    """The run whose model a person wants to hand over."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.book: Book | None = None
        self._records: dict[str, Record] = {}
        self._read: Callable[[str], Record] | None = None
        self._cards: dict[str, CurveCard] = {}
        self.finding = Card(mark("What came out"), self)
        self._words = QLabel(self.finding)
        self._words.setWordWrap(True)
        self._words.setTextFormat(Qt.TextFormat.PlainText)
        self.exporter = QPushButton(self.finding)
        self.exporter.setProperty("look", "primary")
        theme.set_icon(self.exporter, "lock", "on_accent", 15, gap=4)
        self.exporter.clicked.connect(self._export)
        below = QHBoxLayout()
        below.addWidget(self.exporter)
        below.addStretch()
        self.finding.body.addWidget(self._words)
        self.finding.body.addStretch()
        self.finding.foot.addLayout(below)
        self.bars = BarsCard(mark("Accuracy, clean and under attack"))
        self.table = TableCard(mark("Summaries"), parent=self)
        self.tradeoff = TradeoffCard(self)
        """Where a private run is compared."""
        self.tradeoff.hide()
        self._nothing = QLabel(self)
        self._nothing.setProperty("tone", "muted")
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._nothing.setWordWrap(True)
        inside = QWidget()
        inside.setMinimumWidth(1)  # cards get narrower rather than leave the window
        self._grid = QGridLayout(inside)
        self._grid.setContentsMargins(12, 0, 12, 12)
        self._grid.setSpacing(10)
        for column in (0, 1):
            self._grid.setColumnStretch(column, 1)
        self._grid.addWidget(self.bars, 0, 0)
        self._grid.addWidget(self.finding, 0, 1)
        self._grid.addWidget(self.table, 1, 0, 1, 2)
        self._area = QScrollArea(self)
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._area.setWidget(inside)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._nothing, 1)
        column.addWidget(self._area, 1)
        self._later = QTimer(self, singleShot=True, interval=REFRESH_MS)
        self._later.timeout.connect(self.refresh)
        i18n.signals.changed.connect(self.refresh)
        theme.manager.changed.connect(self._size)
        self._size()

    def set_book(self, book: Book, read: Callable[[str], Record]) -> None:
        """`read` gives what the store has of a run."""
        self.book, self._read = book, read
        book.drawn.connect(self._changed)
        book.changed.connect(self._run_changed)
        self.refresh()

    def _size(self) -> None:
        for card in (self.bars, self.finding, self.tradeoff):
            card.setMinimumHeight(theme.px(230))
        self._size_table(len(self.table.model.rows))

    def _size_table(self, rows: int) -> None:
        """Room for every row, and for a scroll bar."""
        height = theme.px(96 + 26 * rows)
        self.table.setMinimumHeight(min(height, theme.px(260)))
        self.table.setMaximumHeight(height)

    # --- drawing

    def showEvent(self, event: object) -> None:
        self.refresh()

    def _changed(self) -> None:
        if self.isVisible():
            self.refresh()

    def _run_changed(self, run_id: str) -> None:
        if self.book is None or run_id not in self.book.compared:
            return
        self._records.pop(run_id, None)
        if self.isVisible() and not self._later.isActive():
            self._later.start()

    def refresh(self) -> None:
        """Draw everything again."""
        self.exporter.setText(tr("Export encrypted…"))
        self.exporter.setAccessibleName(tr("Export encrypted…"))
        self._nothing.setText(
            tr("Click the dot of a run in the list, or press C on it, to compare it here.")
        )
        infos = self._infos()
        self._nothing.setVisible(not infos)
        self._area.setVisible(bool(infos))
        if not infos or not self.isVisible():
            return
        self._show_bars(infos)
        self._show_table(infos)
        self._show_curves(infos)
        none = tr("No attack is compared. Click the dot of one in the list.")
        self._words.setText("\n\n".join(findings(infos)) or none)
        self.finding.warn("\n".join(warnings(infos)))
        self.exporter.setEnabled(self._handed_over(infos) is not None)

    def _infos(self) -> list[RunInfo]:
        if self.book is None:
            return []
        found = [self.book.info(run_id) for run_id in self.book.compared]
        named = [self._told_apart(info) for info in found if info is not None]
        return sorted(named, key=lambda info: info.id)

    def _told_apart(self, info: RunInfo) -> RunInfo:
        """The run with names, its own and its models', that no other run has."""
        from engine.task import with_references

        assert self.book is not None
        known = {field: self.book.label(run_id) for field, run_id in info.lineage.items()}
        spec = with_references(info.spec, known) if known else info.spec
        return replace(info, name=self.book.label(info.id), spec=spec)

    def _show_bars(self, infos: Sequence[RunInfo]) -> None:
        assert self.book is not None
        bars: list[tuple[str, float, str]] = []
        for info in infos:
            color = f"series:{self.book.color_index(info.id)}"
            clean, robust = (info.summary.get(f"{n}_accuracy") for n in ("clean", "robust"))
            if isinstance(robust, int | float):
                model = str(info.spec.get("model", ""))
                if isinstance(clean, int | float):
                    bars.append((tr("{model}, clean", model=model), float(clean), "faint"))
                attack = attack_of(info.spec)
                bars.append(
                    (tr("{model}, {attack}", model=model, attack=attack), float(robust), color)
                )
        if not bars:
            for info in infos:
                clean = info.summary.get("clean_accuracy")
                if isinstance(clean, int | float):
                    bars.append(
                        (info.name, float(clean), f"series:{self.book.color_index(info.id)}")
                    )
        self.bars.set_bars(bars)

    def _show_table(self, infos: Sequence[RunInfo]) -> None:
        self._size_table(len(infos))
        keys = [key for key in COLUMNS if any(key in info.summary for info in infos)]
        private = any(EPSILON in info.summary for info in infos)
        self.table.set_table(
            (
                tr("Name"),
                tr("What"),
                *(tr("{quantity}, %", quantity=word(key)) for key in keys),
                *([word(EPSILON)] if private else []),
            ),
            [
                (
                    info.name if info.status == "done" else f"{info.name} ({word_of(info.status)})",
                    detail_of(info.kind, info.spec),
                    *(_percent(info.summary.get(key)) for key in keys),
                    *([info.summary.get(EPSILON)] if private else []),
                )
                for info in infos
            ],
        )

    def _show_curves(self, infos: Sequence[RunInfo]) -> None:
        assert self.book is not None
        assert self._read is not None
        found: dict[str, list[tuple[RunInfo, str]]] = {}
        for info in infos:
            if info.id not in self._records:
                self._records[info.id] = self._read(info.id)
            for what, name in chosen_series(self._records[info.id].scalars).items():
                found.setdefault(what, []).append((info, name))
        wanted = sorted(
            found,
            key=lambda what: (what not in FIRST, FIRST.index(what) if what in FIRST else 0, what),
        )
        for what in [what for what in self._cards if what not in wanted]:
            card = self._cards.pop(what)
            self._grid.removeWidget(card)
            card.deleteLater()
        for place, what in enumerate(wanted):
            card = self._card(what)
            self._grid.addWidget(seat(card), 2 + place // 2, place % 2)
            card.clear()
            for info, name in found[what]:
                steps, values = self._records[info.id].scalars[name]
                color = f"series:{self.book.color_index(info.id)}"
                card.set_series(info.id, info.name, color)
                card.replace(info.id, steps, values)
        self._show_tradeoff(infos, len(wanted))

    def _show_tradeoff(self, infos: Sequence[RunInfo], place: int) -> None:
        """After the curves, what privacy costs, if there is any."""
        assert self.book is not None
        runs = [(i, i.name, f"series:{self.book.color_index(i.id)}") for i in infos]
        self.tradeoff.show_runs(runs, None, None)
        self._grid.addWidget(seat(self.tradeoff), 2 + place // 2, place % 2)
        self.tradeoff.setHidden(self.tradeoff.is_empty)

    def _card(self, what: str) -> CurveCard:
        if what not in self._cards:
            card = CurveCard(
                TITLES.get(what) or title(what), percent=what.endswith(FRACTIONS), parent=self
            )
            if what.startswith("attack "):
                card.plot.frame.counted = mark("Iteration")
            card.setMinimumHeight(theme.px(200))
            self._cards[what] = card
        return self._cards[what]

    # --- handing over

    def _handed_over(self, infos: Sequence[RunInfo]) -> str | None:
        """The model that stood up best: the one a person will want to export."""
        attacked = [
            (float(info.summary["robust_accuracy"]), info.lineage["model"])
            for info in infos
            if isinstance(info.summary.get("robust_accuracy"), int | float)
            and "model" in info.lineage
        ]
        if attacked:
            return max(attacked)[1]
        ready = [info.id for info in infos if has_model(info)]
        return ready[-1] if ready else None

    def _export(self) -> None:
        run_id = self._handed_over(self._infos())
        if run_id is not None:
            self.export.emit(run_id)


def chosen_series(scalars: Mapping[str, Any]) -> dict[str, str]:
    """The series to compare by, for each quantity. The loss of an attack is none of training."""
    chosen: dict[str, str] = {}
    for name in scalars:
        what = quantity(name)
        if what in LEFT_OUT or name.startswith("test/"):  # a result, and no course
            continue
        if name.startswith("attack/"):
            what = f"attack {what}"
        if what not in chosen or _rank(name) < _rank(chosen[what]):
            chosen[what] = name
    return chosen


def _percent(value: Any) -> Percent | None:
    return Percent(100 * float(value)) if isinstance(value, int | float) else None


def _rank(name: str) -> int:
    group = name.partition("/")[0]
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def findings(infos: Sequence[RunInfo]) -> list[str]:
    """What the compared attacks say, in sentences, and what privacy costs."""
    sentences = []
    for info in infos:
        summary = flat(info.summary)
        clean, robust = summary.get("clean_accuracy"), summary.get("robust_accuracy")
        if isinstance(clean, int | float) and isinstance(robust, int | float):
            sentences.append(
                tr(
                    "{model} is right on {clean} of {count} images, and on {robust} of them under "
                    "{attack}.",
                    count=summary.get("samples", "–"),
                    model=info.spec.get("model", ""),
                    clean=value_text("accuracy", clean),
                    robust=value_text("accuracy", robust),
                    attack=attack_of(info.spec),
                )
            )
    return sentences + _difference(infos) + _price(infos)


def _price(infos: Sequence[RunInfo]) -> list[str]:
    """What each private training comes to, beside the best of those without privacy."""
    trained = [
        info
        for info in infos
        if info.kind == "train" and isinstance(info.summary.get("clean_accuracy"), int | float)
    ]
    plain = [info for info in trained if not info.spec.get("privacy")]
    best = max(plain, key=lambda info: float(info.summary["clean_accuracy"]), default=None)
    sentences = []
    for info in trained:
        epsilon, clean = info.summary.get(EPSILON), float(info.summary["clean_accuracy"])
        if not isinstance(epsilon, int | float):
            continue
        text = tr(
            "{run} is right on {clean} of the test images, at an epsilon of {epsilon}.",
            run=info.name,
            clean=value_text("accuracy", clean),
            epsilon=number(float(epsilon)),
        )
        if best is not None:
            change = 100 * (clean - float(best.summary["clean_accuracy"]))
            points = signed(f"{change:.1f}".replace("-", "−"))
            text += " " + tr(
                "That is {points} points against {other}, without privacy.",
                points=points,
                other=best.name,
            )
        sentences.append(text)
    return sentences


def _difference(infos: Sequence[RunInfo]) -> list[str]:
    """Of exactly two models under the same attack, by how much the second stands up better."""
    attacked = [i for i in infos if isinstance(i.summary.get("robust_accuracy"), int | float)]
    if len(attacked) != 2:
        return []
    first, second = attacked
    asked = [[i.spec.get(name) for name in ("attack", "attacks", "samples")] for i in attacked]
    if asked[0] != asked[1] or first.spec.get("model") == second.spec.get("model"):
        return []
    change = second.summary["robust_accuracy"] - first.summary["robust_accuracy"]
    return [
        tr(
            "From {first} to {second}, accuracy under {attack} changes by {points} points.",
            first=first.spec.get("model", ""),
            second=second.spec.get("model", ""),
            attack=attack_of(first.spec),
            points=signed(f"{100 * change:.1f}".replace("-", "−")),
        )
    ]


def warnings(infos: Sequence[RunInfo]) -> list[str]:
    """What may mislead in the compared runs: each warning once, with the runs that it is about."""
    found: dict[str, list[str]] = {}
    for info in infos:
        if text := warning_of(info.summary):
            found.setdefault(text, []).append(info.name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]
