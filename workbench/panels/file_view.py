"""How a run that reads or writes a file is drawn: the file, and what the run found out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.details import RESULTS, called, flat, value_text
from workbench.panels.live import NOTHING, LiveView
from workbench.runs.record import Record
from workbench.views.card import Card
from workbench.views.table import TableCard

SHOWN_APART = ("file", "command")


class FileView(LiveView):
    """A card with the file and the command that opens it, a card with the results; tables and
    curves below as in the standard view. `hint` (English) says what to do while there is no run,
    below `title`."""

    first_row = 2

    def __init__(
        self, parent: QWidget | None = None, *, hint: str, title: str = mark("File")
    ) -> None:
        self._hint_text = hint
        self.card = Card(title)
        self._file, self._command = QLineEdit(), QLineEdit()
        self._labels: list[tuple[QLabel, str]] = []
        self._copies: list[QPushButton] = []
        self._hint = QLabel()
        self._hint.setWordWrap(True)
        self._hint.setProperty("tone", "muted")
        self._hint.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.card.body.addWidget(self._hint)
        self._rows = [
            self._row(self._file, mark("Written, read back and found right:")),
            self._row(self._command, mark("This opens it, with the key file or passphrase:")),
        ]
        self._open = QPushButton()
        theme.set_icon(self._open, "folder", "muted", 15, gap=4)
        self._open.clicked.connect(self._show_folder)
        foot = QHBoxLayout()
        foot.addWidget(self._open)
        foot.addStretch()
        self.card.body.addLayout(foot)
        self.card.body.addStretch()
        self.results = TableCard(mark("Results"))
        # One value at one step is a result, and no curve.
        super().__init__(parent, hidden=("accuracy",))
        self.grid.addWidget(self.card, 0, 0, 1, 2)
        self.grid.addWidget(self.results, 1, 0, 1, 2)
        self.card.setMinimumHeight(theme.px(110))
        self.results.setMinimumHeight(theme.px(240))
        self.grid.setRowStretch(1, 1)

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        super().show_run(info, record, color)
        self._show(info)

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        self.results.explain(NOTHING if self._has_ended else RESULTS)

    def show_nothing(self) -> None:
        super().show_nothing()
        self.results.clear()
        self._show(None)

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._show(info)

    def retranslate(self) -> None:
        super().retranslate()
        for label, text in self._labels:
            label.setText(tr(text))
        for field, name in ((self._file, tr("File")), (self._command, tr("Command"))):
            field.setAccessibleName(name)
        for copy in self._copies:
            copy.setAccessibleName(tr("Copy"))
            copy.setToolTip(tr("Copy"))
        self._open.setText(tr("Open folder"))
        self._hint.setText(tr(self._hint_text))
        if self.info is not None:
            self._show(self.info)

    def _show(self, info: RunInfo | None) -> None:
        summary: Mapping[str, Any] = info.summary if info else {}
        for field, name in ((self._file, "file"), (self._command, "command")):
            field.setText(str(summary.get(name, "")))
            field.setCursorPosition(0)
        for row, name in zip(self._rows, SHOWN_APART):
            row.setVisible(name in summary)
        self._open.setVisible("file" in summary)
        self._hint.setVisible("file" not in summary)
        self.card.setVisible("file" in summary or not summary)
        rest = {k: v for k, v in flat(summary).items() if k not in SHOWN_APART}
        if rest:
            self.results.set_table(
                (tr("Quantity"), tr("Value")),
                [(called(name), value_text(name, value)) for name, value in rest.items()],
            )

    def _row(self, field: QLineEdit, text: str) -> QWidget:
        field.setReadOnly(True)
        row, label, copy = QWidget(), QLabel(), QPushButton()
        theme.set_icon(copy, "copy", "muted", 15)
        copy.setProperty("look", "ghost")
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(field.text()))
        self._copies.append(copy)
        label.setProperty("tone", "small")
        label.setBuddy(field)
        self._labels.append((label, text))
        grid = QGridLayout(row)
        grid.setContentsMargins(0, 0, 0, 4)
        grid.setSpacing(4)
        grid.addWidget(label, 0, 0, 1, 2)
        grid.addWidget(field, 1, 0)
        grid.addWidget(copy, 1, 1)
        self.card.body.addWidget(row)
        return row

    def _show_folder(self) -> None:
        folder = Path(self._file.text()).parent
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
