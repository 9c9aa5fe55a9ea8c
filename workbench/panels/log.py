"""The log below the cards: what was said, what went wrong, and the present numbers."""

from __future__ import annotations

import html
import time
from collections import deque

from PySide6.QtCore import Qt
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import (
    QHBoxLayout,
    QPlainTextEdit,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.bars import tool_button
from workbench.i18n import mark, tr
from workbench.runs.record import Record
from workbench.views.text import number
from workbench.views.widgets import Segmented

LIMIT = 2000
LEVELS = {"info": "accent", "warning": "warning", "error": "danger"}
WORDS = {"info": mark("info"), "warning": mark("warning"), "error": mark("error")}
TABS = (mark("Log"), mark("Problems"), mark("Metrics"))


class LogPane(QWidget):
    """Three tabs. Lines are kept as they were said, and shown in the colours of the theme."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("logpane")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self._lines: deque[tuple[float, str, str, str]] = deque(maxlen=LIMIT)
        self._record: Record | None = None
        self._seen_problems = 0
        self.tabs = Segmented([], parent=self)
        self.tabs.changed.connect(self._turn)
        self.fold = tool_button("chevron-down", mark("Fold the log away"), self, 16)
        self.clear = tool_button("trash", mark("Clear the log"), self, 15)
        self.clear.clicked.connect(self.empty)
        self.texts = [self._text(), self._text(), self._text()]
        self._stack = QStackedWidget(self)
        for text in self.texts:
            self._stack.addWidget(text)
        head = QHBoxLayout()
        head.setContentsMargins(8, 4, 8, 0)
        head.addWidget(self.tabs)
        head.addStretch()
        head.addWidget(self.clear)
        head.addWidget(self.fold)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(head)
        column.addWidget(self._stack, 1)
        theme.manager.changed.connect(self.refresh)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def _text(self) -> QPlainTextEdit:
        text = QPlainTextEdit(self)
        text.setProperty("look", "log")
        text.setReadOnly(True)
        text.setMaximumBlockCount(LIMIT)
        text.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        text.document().setDocumentMargin(10)
        return text

    def add(self, when: float, level: str, source: str, text: str) -> None:
        """One more line; an error or warning is also a problem."""
        line = (when, level, source, text)
        self._lines.append(line)
        self._write(self.texts[0], line)
        if level != "info":
            self._write(self.texts[1], line)
            if self.tabs.current != 1:
                self._seen_problems += 1
                self._name_tabs()

    def empty(self) -> None:
        self._lines.clear()
        self._seen_problems = 0
        self.refresh()

    def plain(self) -> str:
        """Everything that was said, as text."""
        return "\n".join(
            f"{time.strftime('%H:%M:%S', time.localtime(when))} {level} {source} {text}"
            for when, level, source, text in self._lines
        )

    def show_metrics(self, record: Record | None) -> None:
        """The newest value of every series of a run."""
        self._record = record
        if self.tabs.current == 2:
            self._write_metrics()

    def refresh(self) -> None:
        self._name_tabs()
        self.clear.setToolTip(tr("Clear the log"))
        self.fold.setToolTip(tr("Fold the log away"))
        for text in self.texts:
            text.clear()
        for line in self._lines:
            self._write(self.texts[0], line)
            if line[1] != "info":
                self._write(self.texts[1], line)
        self._write_metrics()

    def _name_tabs(self) -> None:
        names = [tr(tab) for tab in TABS]
        if self._seen_problems:
            names[1] += f" ({self._seen_problems})"
        self.tabs.set_options(names)
        self.tabs.setAccessibleName(tr("Log"))
        for text, name in zip(self.texts, names):
            text.setAccessibleName(name)

    def _turn(self, index: int) -> None:
        self._stack.setCurrentIndex(index)
        if index == 1:
            self._seen_problems = 0
            self._name_tabs()
        elif index == 2:
            self._write_metrics()

    def _write(self, view: QPlainTextEdit, line: tuple[float, str, str, str]) -> None:
        when, level, source, text = line
        tokens = theme.manager.theme
        color = getattr(tokens, LEVELS.get(level, "muted"))
        clock = time.strftime("%H:%M:%S", time.localtime(when))
        shown = html.escape(text).replace("  ", " &nbsp;").replace("\n", "<br>")
        word = tr(WORDS.get(level, level))
        bar = view.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 4
        view.appendHtml(
            f'<span style="color:{tokens.faint}">{clock}</span>&nbsp;&nbsp;'
            f'<span style="color:{color}">{html.escape(word)}</span>&nbsp;&nbsp;'
            f'<span style="color:{tokens.faint}">{html.escape(source)}</span>&nbsp;&nbsp;'
            f'<span style="color:{tokens.text}">{shown}</span>'
        )
        if at_end:
            view.moveCursor(QTextCursor.MoveOperation.End)

    def _write_metrics(self) -> None:
        record = self._record
        lines = []
        for name, (steps, values) in sorted(record.scalars.items()) if record else ():
            if values:
                finite = [value for value in values if value == value]
                low, high = (min(finite), max(finite)) if finite else (values[-1], values[-1])
                lines.append(
                    f"{name:<32} {number(values[-1], 4):>12}   "
                    f"{tr('step')} {steps[-1]:<8} "
                    f"{tr('least')} {number(low, 4):>10}   {tr('most')} {number(high, 4):>10}"
                )
        text = "\n".join(lines) or tr("The numbers of the run that is shown appear here.")
        view = self.texts[2]
        if view.toPlainText() != text:
            place = view.verticalScrollBar().value()
            view.setPlainText(text)
            view.verticalScrollBar().setValue(place)
