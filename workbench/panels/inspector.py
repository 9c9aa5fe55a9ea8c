"""The form beside the cards: what the next run will be, and what can be changed while one goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from engine.errors import BadInput
from engine.store import RunInfo
from engine.task import Task, check_live, live_fields, parse_task
from workbench import i18n, theme
from workbench.forms import SpecForm
from workbench.i18n import tr
from workbench.panels import Panel
from workbench.views.widgets import Elided

SETTLE_MS = 300
"""How long a form must be left alone before questions about it are asked."""


class LiveControl(QWidget):
    """One value that can be changed while a run goes: a field, half, double. What is not `allowed`
    is not taken."""

    changed = Signal(str, float)

    def __init__(
        self,
        name: str,
        title: str,
        value: float,
        allowed: Callable[[float], bool],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.name, self._title, self._allowed = name, title, allowed
        self._label = Elided("", self)
        self.field = QLineEdit(f"{value:g}", self)
        self.field.setFixedWidth(theme.px(70))
        self.field.setCursorPosition(0)
        self.field.editingFinished.connect(self._entered)
        self.half, self.double = QPushButton("÷2", self), QPushButton("×2", self)
        self.half.clicked.connect(lambda: self._scale(0.5))
        self.double.clicked.connect(lambda: self._scale(2.0))
        self._value = value
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(2)
        row.addWidget(self._label, 1)
        for part in (self.half, self.double):
            part.setProperty("look", "chip")
            row.addWidget(part)
        row.addWidget(self.field)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        name = tr(self._title)
        self._label.setText(name)
        self.field.setAccessibleName(name)
        self.half.setAccessibleName(tr("Halve {name}", name=name))
        self.double.setAccessibleName(tr("Double {name}", name=name))

    def show_value(self, value: float) -> None:
        """The value was set elsewhere."""
        self._value = value
        self.field.setText(f"{value:g}")
        self.field.setCursorPosition(0)

    def _scale(self, factor: float) -> None:
        self.field.setText(f"{self._value * factor:.6g}")
        self._entered()

    def _entered(self) -> None:
        try:
            value = float(self.field.text().replace(",", "."))
        except ValueError:
            value = float("nan")
        if not self._allowed(value):
            self.field.setText(f"{self._value:g}")
        elif value != self._value:
            self._value = value
            self.changed.emit(self.name, value)


class Inspector(QWidget):
    """Heading, name, form, and the live values of the run that goes."""

    edited = Signal()
    """The form has been left alone for a moment after a change."""
    export = Signal()
    control = Signal(str, float)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("inspector")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.forms: dict[str, SpecForm] = {}
        self.kind = ""
        self._runs: tuple[tuple[str, str, str], ...] = ()
        self._heading = QLabel(self)
        self._heading.setProperty("tone", "title")
        self._what = QLabel(self)
        self._what.setProperty("tone", "chip-accent")
        self.name = QLineEdit(self)
        self.name.setClearButtonEnabled(True)
        self.live = QFrame(self)
        self._live_title = Elided("", self.live)
        self._live_title.setProperty("tone", "heading")
        self._live_rows = QVBoxLayout()
        self._live_id = ""
        self._set: dict[tuple[str, str], float] = {}
        """What a person has set, by run and name: a resumed run goes on with it."""
        inside = QVBoxLayout(self.live)
        inside.setContentsMargins(12, 0, 12, 4)
        inside.setSpacing(6)
        inside.addWidget(self._live_title)
        inside.addLayout(self._live_rows)
        self.live.hide()
        self._stack = QStackedWidget(self)
        self._waiting = QLabel(self)
        self._waiting.setProperty("tone", "small")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack.addWidget(self._waiting)
        self.exporter = QPushButton(self)
        self.exporter.clicked.connect(self.export)
        theme.set_icon(self.exporter, "lock", "muted", 15, gap=4)
        head = QHBoxLayout()
        head.setContentsMargins(14, 0, 12, 0)
        head.addWidget(self._heading)
        head.addStretch()
        head.addWidget(self._what)
        named = QHBoxLayout()
        named.setContentsMargins(12, 0, 12, 0)
        named.addWidget(self.name)
        foot = QHBoxLayout()
        foot.setContentsMargins(12, 0, 12, 10)
        foot.addWidget(self.exporter)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(8)
        column.addLayout(head)
        column.addLayout(named)
        column.addWidget(self.live)
        column.addWidget(self._stack, 1)
        column.addLayout(foot)
        self._settle = QTimer(self, singleShot=True, interval=SETTLE_MS)
        self._settle.timeout.connect(self.edited)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    @property
    def form(self) -> SpecForm | None:
        return self.forms.get(self.kind)

    def show_kind(self, panel: Panel) -> SpecForm:
        """The form of a task kind, made when it is first shown."""
        self.kind = panel.kind
        self._unset = panel.unset
        self._title = panel.title
        if panel.kind not in self.forms:
            form = SpecForm(
                panel.spec, self, first=panel.first, start=panel.start, presets=panel.kind
            )
            form.set_runs(self._runs)
            form.changed.connect(self._settle.start)
            form.changed.connect(self._say_unset)
            self.forms[panel.kind] = form
            self._stack.addWidget(form)
        self._stack.setCurrentWidget(self.forms[panel.kind])
        self.refresh()
        self._settle.start()
        return self.forms[panel.kind]

    def show_new(self, panel: Panel, values: Mapping[str, Any]) -> SpecForm:
        """The form of a run to come, filled with `values` and defaults for the rest, unless a
        person has changed it and not started it yet."""
        form = self.show_kind(panel)
        if not form.undo_stack.canUndo():
            form.set_values({name: value for name, value in values.items() if name != "kind"})
            form.undo_stack.clear()
        return form

    def show_run(self, panel: Panel, spec: Mapping[str, Any]) -> None:
        """The form of a run, filled with what it was started with, unless a person has changed
        the form and not started it yet."""
        self.show_new(panel, spec)

    def started(self) -> None:
        """What the form says has been started: it is nobody's draft any more."""
        self.name.clear()
        self.name.clearFocus()  # Space pauses now
        if self.form is not None:
            self.form.undo_stack.clear()

    def set_runs(self, runs: Sequence[tuple[str, str, str]]) -> None:
        """(id, name, kind) of the runs that reference fields may name."""
        if tuple(runs) != self._runs:
            self._runs = tuple(runs)
            for form in self.forms.values():
                form.set_runs(self._runs)

    def task(self) -> Task | None:
        """What is filled in, or None after its problems have been shown."""
        form = self.form
        if form is None:
            return None
        task = form.spec()
        if task is None:
            form.focus_problem()
        return task

    def show_live(self, info: RunInfo | None) -> None:
        """Offer the values of the run under way that may be changed; nothing for None."""
        run_id = info.id if info else ""
        if run_id == self._live_id:
            return
        self._live_id = run_id
        if self.live.isAncestorOf(QApplication.focusWidget() or self):
            self.setFocus()  # what goes away would hand the keys on to anything
        while item := self._live_rows.takeAt(0):
            if widget := item.widget():
                widget.hide()
                widget.deleteLater()
        task = task_of(info) if info else None
        found = live_fields(task) if task else {}
        for name, spec in found.items():
            title = type(spec).model_fields[name].title or name
            value = self._set.get((run_id, name), getattr(spec, name))
            row = LiveControl(name, title, value, partial(allows, task, name), self.live)
            row.changed.connect(self._control)
            self._live_rows.addWidget(row)
        self._live_name = info.name if info else ""
        self.live.setVisible(bool(found))
        self.refresh()

    def _control(self, name: str, value: float) -> None:
        self._set[self._live_id, name] = value
        self.control.emit(name, value)

    def heard(self, run_id: str, name: str, value: float) -> None:
        """A value of a run was set elsewhere."""
        self._set[run_id, name] = value
        for row in self.live_controls():
            if row.name == name and run_id == self._live_id:
                row.show_value(value)

    def live_controls(self) -> list[LiveControl]:
        """The values that can be changed now."""
        items = [self._live_rows.itemAt(index) for index in range(self._live_rows.count())]
        return [w for item in items if isinstance(w := item.widget(), LiveControl)]

    def _say_unset(self) -> None:
        if self.form is not None:
            self.form.say_unset(self._unset(self.form.values()))

    _title = _live_name = ""

    def refresh(self) -> None:
        self._say_unset()
        self._live_title.setText(tr("While {run} runs", run=self._live_name))
        self._heading.setText(tr("Configuration"))
        self._what.setText(tr(self._title))
        self._what.setVisible(bool(self._title))
        self.name.setPlaceholderText(tr("Name of the run"))
        self.name.setAccessibleName(tr("Name of the run"))
        self._waiting.setText(tr("Forms are being loaded…"))
        self.exporter.setText(tr("Export encrypted…"))
        self.exporter.setAccessibleName(tr("Export encrypted…"))
        self.exporter.setToolTip(f"{tr('Export encrypted…')} (Ctrl+Shift+E)")


def task_of(info: RunInfo) -> Task | None:
    """What a run was asked for; None if this version does not know it."""
    try:
        return parse_task(info.spec)
    except BadInput:
        return None


def allows(task: Task, name: str, value: float) -> bool:
    """Whether a live value may be set to this."""
    try:
        check_live(task, name, value)
    except BadInput:
        return False
    return True
