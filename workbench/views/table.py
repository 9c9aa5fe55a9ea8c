"""A card with a table that sorts, copies and exports."""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    QSize,
    QSortFilterProxyModel,
    Qt,
)
from PySide6.QtGui import QFontMetricsF, QGuiApplication, QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QTableView, QWidget

from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.views.card import Card
from workbench.views.text import NARROW, number

Row = Sequence[Any]
_Index = QModelIndex | QPersistentModelIndex


HEADINGS = {
    "layer": mark("Layer"),
    "type": mark("Type"),
    "output": mark("Output"),
    "parameters": mark("Parameters"),
    "flops": mark("FLOPs"),
    "epsilon": mark("Epsilon"),
    "norm": mark("Norm"),
    "attack": mark("Attack"),
    "attacked": mark("Attacked"),
    "broken": mark("Broken"),
    "found": mark("Found"),
    "clean_accuracy": mark("Clean, %"),
    "robust_accuracy": mark("Robust, %"),
    "certified_accuracy": mark("Proved, %"),
    "interval": mark("95 % interval"),
    "radius": mark("Radius"),
    "distance": mark("Distance"),
    "certified_as": mark("Certified as"),
    "taken_for": mark("Taken for"),
    "chance": mark("Chance"),
    "accuracy": mark("Accuracy, %"),
    "agreement": mark("Agreement, %"),
    "transfer": mark("Transfer, %"),
    "low": mark("Low, %"),
    "high": mark("High, %"),
    "mean": mark("Mean, %"),
    "largest_norm": mark("Largest"),
    "mean_queries": mark("Queries"),
    "seconds": mark("Seconds"),
    "class": mark("Class"),
    "samples": mark("Samples"),
    "corruption": mark("Corruption"),
    "noise": mark("Noise"),
    "level": mark("Level"),
    "run": mark("Run"),
    "sample": mark("No."),
    "true_class": mark("True"),
    "before": mark("Before"),
    "after": mark("After"),
    "outcome": mark("Outcome"),
    "size_of_change": mark("Size"),
    "method": mark("Method"),
    "auc": mark("AUC"),
    "balanced_accuracy": mark("Balanced, %"),
    "tpr_at_fpr_0.001": mark("Found at 0.1 % false, %"),
    "tpr_at_fpr_0.01": mark("Found at 1 % false, %"),
    "queries": mark("Queries"),
    "delta": "δ",
    "epsilon_promised": mark("Promised at most"),
    "epsilon_lower_bound": mark("Shown at least"),
    "promised": mark("Promised"),
    "limit": mark("Could be chance"),
    "guesses": mark("Guesses"),
    "right": mark("Right"),
    "canaries": mark("Canaries"),
    "gradient": mark("Gradient"),
    "label": mark("Label"),
    "psnr": "PSNR",
    "ssim": "SSIM",
    "recognised": mark("Recognised"),
    "client": mark("Client"),
    "state": mark("State"),
    "hostile": mark("Hostile"),
    "images": mark("Images"),
    "loss": mark("Loss"),
    "cosine": mark("Cosine"),
    "drift": mark("Drift"),
    "sent": mark("Sent, kB"),
    "received": mark("Got, kB"),
    "source": mark("Source"),
    "answers": mark("Answers"),
    "lowest_accuracy": mark("Lowest, %"),
    "highest_accuracy": mark("Highest, %"),
    "deviation": mark("Deviation, %"),
    "differs": mark("Differ, %"),
    "entropy": mark("Entropy, bits"),
    "prediction": mark("Prediction"),
    "quantity": mark("Quantity"),
    "value": mark("Value"),
}
"""Columns whose names mean something else in a form."""


def heading(column: str) -> str:
    """What a column is called."""
    severity = re.fullmatch(r"severity (\d)", column)
    if severity:
        return tr("Severity {number}", number=severity[1])
    return tr(HEADINGS[column]) if column in HEADINGS else name_of(column)


EMPTY_HEIGHT = 120
"""Of a card that stands as high as its rows need, while there are none; at scale 1."""
LEAST = 72
"""Width at scale 1 below which a column of texts is not shortened."""
_SHAPE = re.compile(r"\d+(x\d+)+")
"""A shape as the engine writes it."""


class Percent(float):
    """Of a hundred; shown with one place, so that a column of them lines up."""


def cell(value: Any) -> str:
    """A value as a person reads it: grouped figures, "8 × 16 × 16" for a shape."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    if isinstance(value, int):
        return f"{value:,}".replace(",", NARROW).replace("-", "−")
    if isinstance(value, Percent):
        return f"{value:.1f}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return " × ".join(cell(part) for part in value)
    text = str(value)
    return text.replace("x", " × ") if _SHAPE.fullmatch(text) else text


ROLES = frozenset(
    {
        Qt.ItemDataRole.DisplayRole,
        Qt.ItemDataRole.ToolTipRole,
        Qt.ItemDataRole.UserRole,
        Qt.ItemDataRole.TextAlignmentRole,
    }
)
"""What a cell answers to."""
TO_THE_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)


class TableModel(QAbstractTableModel):
    """Rows of plain values; sorts by the value, shows its text."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.columns: tuple[str, ...] = ()
        self.rows: tuple[Row, ...] = ()
        self._numeric: dict[int, bool] = {}
        """By column: whether there are numbers in it. Qt asks that of every cell."""

    def set_table(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self.beginResetModel()
        self.columns, self.rows = tuple(columns), tuple(rows)
        self._numeric = {column: self._has_numbers(column) for column in range(len(columns))}
        self.endResetModel()

    def rowCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def numeric(self, column: int) -> bool:
        return self._numeric.get(column, False)

    def _has_numbers(self, column: int) -> bool:
        return any(
            isinstance(row[column], int | float) and not isinstance(row[column], bool)
            for row in self.rows[:50]
        )

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role not in ROLES:  # most of what Qt asks for
            return None
        value = self.rows[index.row()][index.column()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return cell(value)
        if role == Qt.ItemDataRole.UserRole:
            return value if isinstance(value, int | float) else cell(value)
        if role == Qt.ItemDataRole.TextAlignmentRole and self.numeric(index.column()):
            return TO_THE_RIGHT
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if orientation == Qt.Orientation.Horizontal:
            if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
                return heading(self.columns[section])
            if role == Qt.ItemDataRole.TextAlignmentRole:
                side = (
                    Qt.AlignmentFlag.AlignRight
                    if self.numeric(section)
                    else Qt.AlignmentFlag.AlignLeft
                )
                return int(side | Qt.AlignmentFlag.AlignVCenter)
        return None


class _Table(QTableView):
    """Copies the selected rows on Ctrl+C, and lets Tab leave it."""

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            rows = sorted({index.row() for index in self.selectedIndexes()})
            QGuiApplication.clipboard().setText(self._text(rows))
        else:
            super().keyPressEvent(event)

    most_rows: int | None = None
    """As many rows are seen without scrolling where there is room; None takes what there is."""

    def sizeHint(self) -> QSize:
        size = super().sizeHint()
        if self.most_rows is not None:
            rows = min(self.model().rowCount(), self.most_rows)
            high = self.verticalHeader().defaultSectionSize() * rows
            size.setHeight(high + self.horizontalHeader().sizeHint().height() + theme.px(4))
        return size

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.spread()

    def spread(self) -> None:
        """Every column as wide as its contents, and what is left shared among them. Where there
        is too little room, long texts are shortened rather than columns left out of sight."""
        header, count = self.horizontalHeader(), self.model().columnCount()
        if not count:
            return
        model = self.model().sourceModel()
        contents = [self.sizeHintForColumn(c) + theme.px(8) for c in range(count)]
        # Qt's own hint keeps room for the arrow of sorting in every column.
        metrics = QFontMetricsF(theme.font(12, 600))
        heads = [metrics.horizontalAdvance(heading(name)) for name in model.columns]
        wanted = [max(w, ceil(head) + theme.px(22)) for w, head in zip(contents, heads)]
        room = self.viewport().width()
        # A number is never shortened, its heading may be; what a row is called only where that
        # would take more than two thirds of the room, or what others need.
        least = [w if model.numeric(c) else theme.px(LEAST) for c, w in enumerate(contents)]
        least[0] = max(least[0], min(contents[0], 2 * room // 3, room - sum(least[1:])))

        def shortened(longest: int) -> list[int]:
            return [min(w, max(longest, low)) for w, low in zip(wanted, least)]

        most = range(max(wanted) + 1)
        wanted = shortened(bisect_right(most, room, key=lambda w: sum(shortened(w))) - 1)
        spare = max(room - sum(wanted), 0)
        for column, width in enumerate(wanted):
            header.resizeSection(column, width + spare // count)

    def _text(self, rows: Sequence[int]) -> str:
        model = self.model()
        columns = range(model.columnCount())
        lines = ["\t".join(str(model.index(row, c).data()) for c in columns) for row in rows]
        return "\n".join(lines)


EMPTY = mark("The table appears here when the run has started.")


class TableCard(Card):
    """A table. `empty` (English) says what will appear here and how to start it."""

    def __init__(
        self,
        title: str,
        empty: str = EMPTY,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(title, parent)
        self._explain = empty
        self.model = TableModel(self)
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self.model)
        self._proxy.setSortRole(Qt.ItemDataRole.UserRole)
        self.table = _Table()
        self.table.setModel(self._proxy)
        self.table.setSortingEnabled(True)
        self.table.setShowGrid(False)
        self.table.setTabKeyNavigation(False)
        self.table.setWordWrap(False)  # else a text that is too long ends after a word
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setHighlightSections(False)
        self.table.horizontalHeader().setTextElideMode(Qt.TextElideMode.ElideRight)
        self.table.horizontalHeader().setSortIndicatorClearable(True)
        self.table.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.body.addWidget(self.table, 1)
        self._export = self.menu.addAction("")
        self._export.triggered.connect(self._ask)
        self.show_menu_button()
        theme.manager.changed.connect(self._heights)
        self._heights()
        self.retranslate()

    def set_table(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Replace everything. Column names are identifiers, shown as words."""
        self.model.set_table(columns, rows)
        self._show_emptiness()
        self.table.spread()
        self._fit()

    def fit(self, most: int) -> None:
        """From now on stand as high as the rows need, up to `most` of them."""
        self.table.most_rows = most
        self._fit()

    def _fit(self) -> None:
        if self.table.most_rows is None:
            return
        around = self._layout.contentsMargins()
        high = self.table.sizeHint().height() + around.top() + around.bottom()
        high += self.title.minimumHeight() + self._layout.spacing()
        self.setMinimumHeight(high if self.model.rows else theme.px(EMPTY_HEIGHT))
        self.table.updateGeometry()

    def clear(self) -> None:
        self.set_table((), ())

    def retranslate(self) -> None:
        super().retranslate()
        self._export.setText(tr("Export values…"))
        self.table.setAccessibleName(tr("Table: {card}", card=self.title.text()))
        if self.model.columns:
            last = len(self.model.columns) - 1
            self.model.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, last)
        self._show_emptiness()

    def export(self, target: Path) -> None:
        """Write all rows as .csv, in their own order. Raises OSError if it cannot be written."""
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.model.columns)
            for row in self.model.rows:
                writer.writerow(
                    "x".join(map(str, v)) if isinstance(v, list | tuple) else v for v in row
                )

    def _ask(self) -> None:
        self.ask_and_write(tr("Export values"), ("csv",), self.export)

    def _show_emptiness(self) -> None:
        self._give_way(not self.model.rows, self.table)

    def _heights(self) -> None:
        self.table.verticalHeader().setDefaultSectionSize(theme.px(26))
        self._fit()
