"""The widgets that hold one value each.

Every editor has `value()`, `set_value()`, `retranslate()` and calls `edited` after a person, not
the program, has changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent, QWheelEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from workbench import theme
from workbench.forms.reading import Shape, text_of, value_of
from workbench.i18n import mark, name_of, tr
from workbench.runs.book import MAKES_EXAMPLES, MAKES_MODELS
from workbench.views.points_pad import PointsPad
from workbench.views.widgets import Switch

Edited: TypeAlias = Callable[[], None]
RunChoice: TypeAlias = tuple[str, str, str]
"""Id, name and kind of a run."""


class History(Protocol):
    def undo(self) -> None: ...
    def redo(self) -> None: ...


class Editor(Protocol):
    typing: bool
    """Changes come letter by letter, and are undone together."""

    def value(self) -> Any: ...
    def set_value(self, value: Any) -> None: ...
    def retranslate(self) -> None: ...


class TextEditor(QLineEdit):
    """One line: text, a number or numbers, with its unit inside at the right."""

    typing = True

    def __init__(
        self,
        shape: Shape,
        edited: Edited,
        history: History,
        parent: QWidget | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(parent)
        self.shape = shape
        self._history = history
        self._unit = unit
        self._unit_label: QLabel | None = None
        if unit:
            self._unit_label = QLabel(self)
            self._unit_label.setProperty("tone", "faint")
            self._unit_label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.textEdited.connect(edited)
        self.retranslate()

    def value(self) -> Any:
        text = self.text().strip()
        if not text and not self.shape.many:
            return None
        return value_of(text, self.shape)

    def set_value(self, value: Any) -> None:
        if value != self.value() or not self.text():
            self.setText(text_of(value))
            self.setCursorPosition(0)

    def retranslate(self) -> None:
        if self._unit_label is not None:
            self._unit_label.setText(tr(self._unit))
            self._place_unit()

    def _place_unit(self) -> None:
        if self._unit_label is not None:
            size = self._unit_label.sizeHint()
            self._unit_label.setGeometry(
                self.width() - size.width() - 8, 0, size.width(), self.height()
            )
            self.setTextMargins(0, 0, size.width() + 6, 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_unit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        # The line's own undo knows only its letters; the form's knows everything.
        if event.matches(QKeySequence.StandardKey.Undo):
            self._history.undo()
        elif event.matches(QKeySequence.StandardKey.Redo):
            self._history.redo()
        else:
            super().keyPressEvent(event)


class SwitchEditor(Switch):
    typing = False

    def __init__(self, edited: Edited, parent: QWidget | None = None) -> None:
        super().__init__(parent=parent)
        self.clicked.connect(edited)

    def value(self) -> bool:
        return self.isChecked()

    def set_value(self, value: Any) -> None:
        self.setChecked(bool(value))

    def retranslate(self) -> None:
        pass


class Combo(QComboBox):
    """One of a few values. The wheel scrolls the form unless the combo has been clicked."""

    typing = False

    def __init__(
        self, choices: Sequence[Any], edited: Edited, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.choices = tuple(choices)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(4)
        self.addItems([name_of(str(choice)) for choice in self.choices])
        self.activated.connect(edited)

    def value(self) -> Any:
        return self.choices[self.currentIndex()] if self.currentIndex() >= 0 else None

    def set_value(self, value: Any) -> None:
        self.setCurrentIndex(self.choices.index(value) if value in self.choices else -1)

    def retranslate(self) -> None:
        for index, choice in enumerate(self.choices):
            self.setItemText(index, name_of(str(choice)))

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Checks(QWidget):
    """Any of a few values, in the order in which they are offered."""

    typing = False

    def __init__(
        self, choices: Sequence[Any], edited: Edited, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.choices = tuple(choices)
        self.boxes = tuple(QCheckBox(self) for _ in self.choices)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2, 0, 2)
        column.setSpacing(4)
        for box in self.boxes:
            box.clicked.connect(edited)
            column.addWidget(box)
        self.setFocusProxy(self.boxes[0])

    def value(self) -> list[Any]:
        return [c for c, box in zip(self.choices, self.boxes) if box.isChecked()]

    def set_value(self, value: Any) -> None:
        for choice, box in zip(self.choices, self.boxes):
            box.setChecked(choice in (value or ()))

    def retranslate(self) -> None:
        for choice, box in zip(self.choices, self.boxes):
            box.setText(name_of(str(choice)))
            box.setAccessibleName(name_of(str(choice)))


class RunEditor(QWidget):
    """A run, chosen by its name, or an exported file: one of the `wanted` kinds, by default those
    that have a classifier; or, with `examples`, a run that has adversarial examples."""

    typing = True

    def __init__(
        self,
        edited: Edited,
        history: History,
        parent: QWidget | None = None,
        *,
        examples: bool = False,
        wanted: Sequence[str] = MAKES_MODELS,
    ) -> None:
        super().__init__(parent)
        self._edited = edited
        self._examples = examples
        self._wanted = MAKES_EXAMPLES if examples else tuple(wanted)
        self._runs: tuple[RunChoice, ...] = ()
        self.combo = QComboBox(self)
        self.combo.setEditable(True)
        self.combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(4)
        self.combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.line = TextEditor(Shape("str"), edited, history, self.combo)
        self.line.setStyleSheet("border: none; padding: 0; background: transparent;")
        self.combo.setLineEdit(self.line)
        self.combo.activated.connect(edited)
        self._browse = browse_button(self, self._choose_file)
        self._browse.setVisible(not examples)
        row(self, self.combo, self._browse)
        self.setFocusProxy(self.combo)
        self.retranslate()

    def value(self) -> str | None:
        text = self.line.text().strip()
        for index, shown in enumerate(self._shown()):
            if shown == text:
                return self._runs[index][0]
        return text or None

    def set_value(self, value: Any) -> None:
        ids = [run[0] for run in self._runs]
        if value in ids:
            self.combo.setCurrentIndex(ids.index(value))
            self.line.setText(self._shown()[ids.index(value)])
        else:
            self.combo.setCurrentIndex(-1)
            self.line.setText(text_of(value))
        self.line.setCursorPosition(0)

    def set_runs(self, runs: Sequence[RunChoice]) -> None:
        """Offer those of these that can be meant; what has been chosen stays."""
        offered = tuple(run for run in runs if run[2] in self._wanted)
        if offered != self._runs:
            chosen = self.value()
            self._runs = offered
            self.combo.clear()
            self.combo.addItems(self._shown())
            self.set_value(chosen)

    def _shown(self) -> list[str]:
        """The names; where two are alike, with the end of the id as everywhere in the window."""
        names = [name for _, name, _ in self._runs]
        short = [f"{name} · {run[-4:]}" for run, name, _ in self._runs]
        return [
            name if names.count(name) == 1 else end if short.count(end) == 1 else f"{name} · {run}"
            for (run, name, _), end in zip(self._runs, short)
        ]

    def retranslate(self) -> None:
        self.line.setPlaceholderText(tr("Run") if self._examples else tr("Run or file"))
        name_button(self._browse)

    def _choose_file(self) -> None:
        path = QFileDialog.getOpenFileName(self, tr("Choose a model file"))[0]
        if path:
            self.set_value(path)
            self._edited()


class PathEditor(QWidget):
    """A path, typed or chosen."""

    typing = True

    def __init__(
        self, sort: str, edited: Edited, history: History, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._sort = sort
        self._edited = edited
        self.line = TextEditor(Shape("str"), edited, history, self)
        self._browse = browse_button(self, self._choose)
        row(self, self.line, self._browse)
        self.setFocusProxy(self.line)
        self.retranslate()

    def value(self) -> str | None:
        text = self.line.text().strip()
        return text or None

    def set_value(self, value: Any) -> None:
        self.line.setText(text_of(value))

    def retranslate(self) -> None:
        name_button(self._browse)

    def _choose(self) -> None:
        before = self.line.text()
        if self._sort == "folder":
            path = QFileDialog.getExistingDirectory(self, tr("Choose a folder"), before)
        elif self._sort == "save":
            path = QFileDialog.getSaveFileName(self, tr("Choose where the file goes"), before)[0]
        else:
            path = QFileDialog.getOpenFileName(self, tr("Choose a file"), before)[0]
        if path:
            # `file.py:function`: another file keeps the function that was named.
            _, colon, function = before.rpartition(".py:")
            self.set_value(f"{path}:{function}" if colon and path.endswith(".py") else path)
            self._edited()


class PointsEditor(QWidget):
    """Points in the plane, drawn on a pad."""

    typing = False

    def __init__(self, edited: Edited, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.pad = PointsPad(self)
        self.pad.changed.connect(self._count)
        self.pad.changed.connect(edited)
        self._words = QLabel(self)
        self._words.setProperty("tone", "faint")
        self._clear = QToolButton(self)
        theme.set_icon(self._clear, "trash", "muted", 14)
        self._clear.clicked.connect(self.pad.clear)
        foot = QHBoxLayout()
        foot.setContentsMargins(0, 0, 0, 0)
        foot.addWidget(self._words, 1)
        foot.addWidget(self._clear)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.pad)
        column.addLayout(foot)
        self.setFocusProxy(self.pad)
        self.retranslate()

    def value(self) -> list[list[float]]:
        return [list(point) for point in self.pad.points]

    def set_value(self, value: Any) -> None:
        if value != self.value():
            pairs = [pair for pair in value or () if len(pair) == 2]
            self.pad.set_points([(float(x), float(y)) for x, y in pairs])
        self._count()

    def _count(self) -> None:
        self._words.setText(tr("{count} points", count=len(self.pad.points)))
        self._clear.setEnabled(bool(self.pad.points))

    def retranslate(self) -> None:
        self._clear.setToolTip(tr("Clear (Del)"))
        self._clear.setAccessibleName(tr("Clear (Del)"))
        self._count()


BROWSE = mark("Browse…")


def browse_button(parent: QWidget, choose: Callable[[], None]) -> QToolButton:
    button = QToolButton(parent)
    theme.set_icon(button, "folder", "muted", 16)
    button.clicked.connect(choose)
    return button


def name_button(button: QToolButton) -> None:
    button.setToolTip(tr(BROWSE))
    button.setAccessibleName(tr(BROWSE))


def row(parent: QWidget, *widgets: QWidget) -> None:
    layout = QHBoxLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for index, widget in enumerate(widgets):
        layout.addWidget(widget, 0 if index else 1)
