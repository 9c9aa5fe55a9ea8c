"""One field of a form: its label, its editor, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from engine.task import Spec, extra_of
from workbench.forms.editors import (
    Checks,
    Combo,
    Editor,
    History,
    PathEditor,
    PointsEditor,
    RunChoice,
    RunEditor,
    SwitchEditor,
    TextEditor,
)
from workbench.forms.reading import Values, help_of, problem_line, problem_text, shape_of
from workbench.i18n import tr
from workbench.runs.book import MAKES_MODELS, WANTED
from workbench.views.widgets import Elided

Path: TypeAlias = tuple[str, ...]


class Owner(History, Protocol):
    """The form, as its parts see it."""

    runs: tuple[RunChoice, ...]

    def edited(self, path: Path, typing: bool) -> None: ...
    def start_of(self, path: Path, members: Mapping[str, type[Spec]]) -> Values: ...


class Row:
    """One field: its label, its editor, and below it what is wrong with it."""

    def __init__(self, owner: Owner, path: Path, spec: type[Spec], parent: QWidget) -> None:
        self.path = path
        self._field = spec.model_fields[path[-1]]
        kind = spec.model_fields.get("kind")
        self._task = str(kind.default) if kind is not None else ""
        self._shape = shape_of(self._field)
        self._extra = extra_of(self._field)
        self._problem: QLabel | None = None
        self._shown = ""
        self.label = Elided("", parent)
        self.label.setProperty("tone", "muted")
        self.editor: Any = self._make_editor(owner, parent)
        self.retranslate()

    def _make_editor(self, owner: Owner, parent: QWidget) -> Editor:
        def edited(*_: object) -> None:
            owner.edited(self.path, self.editor.typing)

        if self._extra.get("reference") and not self._shape.many:
            examples = self._extra["reference"] == "examples"
            wanted = WANTED.get((self._task, self.path[-1]), MAKES_MODELS)
            editor = RunEditor(edited, owner, parent, examples=examples, wanted=wanted)
            editor.set_runs(owner.runs)
            return editor
        if self._extra.get("path"):
            return PathEditor(str(self._extra["path"]), edited, owner, parent)
        if self._shape.type == "points":
            return PointsEditor(edited, parent)
        if self._shape.type == "bool":
            return SwitchEditor(edited, parent)
        if self._shape.type == "choice":
            made = Checks if self._shape.many else Combo
            return made(self._shape.choices, edited, parent)
        unit = str(self._extra.get("unit", ""))
        return TextEditor(self._shape, edited, owner, parent, unit)

    def place(self, grid: QGridLayout, line: int) -> None:
        """Put label, editor and the room for a problem into lines `line` and `line + 1`."""
        self._grid, self._line = grid, line
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if not grid.columnStretch(0):
            self.label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        grid.addWidget(self.label, line, 0)
        if self._shape.type == "bool":
            grid.addWidget(self.editor, line, 1, right)
        elif self._shape.type == "points":  # as wide as label and editor together
            grid.addWidget(self.editor, line + 2, 0, 1, 2)
        else:
            grid.addWidget(self.editor, line, 1)

    def value(self) -> Any:
        value = self.editor.value()
        # An emptied field does not silently mean its default, unless nothing is meant by nothing.
        must = not self._shape.optional and not self._field.is_required()
        return "" if value is None and must else value

    def set_value(self, value: Any) -> None:
        self.editor.set_value(value)

    def set_runs(self, runs: tuple[RunChoice, ...]) -> None:
        if isinstance(self.editor, RunEditor):
            self.editor.set_runs(runs)

    def set_problem(self, text: str) -> None:
        """Show what is wrong, or that nothing is."""
        if text == self._shown:
            return
        self._shown = text
        editor = self.editor
        target = getattr(editor, "combo", getattr(editor, "line", editor))
        target.setProperty("invalid", bool(text))
        target.style().unpolish(target)
        target.style().polish(target)
        if text and self._problem is None:
            self._problem = problem_label(self.label.parentWidget())
            self._grid.addWidget(self._problem, self._line + 1, 0, 1, 2)
        if self._problem is not None:
            self._problem.setText(problem_line(text))
            self._problem.setVisible(bool(text))
        self.editor.setAccessibleDescription(problem_text(text) if text else "")

    @property
    def focus_target(self) -> QWidget:
        return self.editor  # type: ignore[no-any-return]

    def retranslate(self) -> None:
        title, help_text = tr(self._field.title or self.path[-1]), help_of(self._field)
        self.label.setText(title)
        for widget in (self.label, self.editor):
            widget.setToolTip(help_text)
            widget.setWhatsThis(help_text)
        for widget in (self.editor, self.editor.focusProxy() or self.editor):
            widget.setAccessibleName(title)
        self.editor.retranslate()
        shown, self._shown = self._shown, ""
        self.set_problem(shown)


def field_grid(holder: QWidget, *, wide: bool = False) -> QGridLayout:
    """For labels and editors: in columns that line up down the form, or (`wide`) with all the room
    that the labels leave for the editors."""
    grid = QGridLayout(holder)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setHorizontalSpacing(8)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(0, 0 if wide else 5)
    grid.setColumnStretch(1, 1 if wide else 6)
    return grid


def rule(parent: QWidget) -> QFrame:
    line = QFrame(parent)
    line.setProperty("role", "rule")
    line.setFixedHeight(1)
    return line


class Faulty(QWidget):
    """What says below its head what is wrong with it."""

    _layout: QVBoxLayout
    _problem: QLabel | None = None

    def set_problem(self, text: str) -> None:
        """Show what is wrong, or that nothing is."""
        if text and self._problem is None:
            self._problem = problem_label(self)
            self._layout.insertWidget(1, self._problem)
        if self._problem is not None:
            self._problem.setText(problem_line(text))
            self._problem.setVisible(bool(text))


def problem_label(parent: QWidget | None) -> QLabel:
    label = QLabel(parent)
    label.setProperty("tone", "bad")
    label.setWordWrap(True)
    return label
