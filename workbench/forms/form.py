"""A task's form: what is shown, undone and validated as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication, QKeySequence, QShortcut, QUndoCommand, QUndoStack
from PySide6.QtWidgets import (
    QHBoxLayout,
    QMenu,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.errors import Problem, SpecError
from engine.task import Spec, Task, extra_of, kind_of, parse
from workbench import i18n, theme
from workbench.forms.editors import RunChoice
from workbench.forms.presets import Preset, presets_of
from workbench.forms.reading import (
    Values,
    complete,
    defaults,
    problem_line,
    problem_text,
    without_nothing,
)
from workbench.forms.row import Path, Row, problem_label
from workbench.forms.section import Fields, Section, walk
from workbench.forms.several import Several
from workbench.i18n import mark, tr

MISSING = "this field must be given"


class SpecForm(QWidget):
    """The form of a spec. `values()` is always what it shows; `changed` says that that differs."""

    changed = Signal()
    """A value has changed, by a person, an undo, a preset or `set_values`."""

    def __init__(
        self,
        spec: type[Spec],
        parent: QWidget | None = None,
        *,
        first: Sequence[str] = (),
        start: Mapping[str, Any] | None = None,
        presets: str = "",
    ) -> None:
        """`first`: sections that stand above all others. `start`: what it begins with, and goes
        back to, where that is not the spec's default. `presets`: of which place it offers
        them, unless that is the spec's kind."""
        super().__init__(parent)
        self.spec_class = spec
        self._start = dict(start or {})
        self.runs: tuple[RunChoice, ...] = ()
        self.undo_stack = QUndoStack(self)
        self._kind = kind_of(spec) or ""
        self._presets = presets_of(presets or self._kind)
        self._problems: tuple[Problem, ...] | None = None
        self._told: tuple[Problem, ...] = ()
        self._touched: set[Path] = set()
        self._reveal = False
        self._scroll = QScrollArea(self)
        begin = complete(spec, self._start)
        self._fields = Fields(
            self, (), spec, begin, self._scroll, groups=mark("Run"), leading=first
        )
        self._fields.setContentsMargins(12, 4, 12, 12)
        self._known = self.values()
        self._banner = problem_label(self)
        self._banner.setContentsMargins(12, 0, 12, 0)
        self._banner.hide()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setWidget(self._fields)
        self._scroll.verticalScrollBar().rangeChanged.connect(self._make_room)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._make_bar())
        layout.addWidget(self._banner)
        layout.addWidget(self._scroll, 1)
        self._retranslate()
        i18n.signals.changed.connect(self._retranslate)
        # The first validation builds the spec's validators: after the form is on the screen.
        QTimer.singleShot(0, self, self._validate)

    def _make_room(self, _: int, last: int) -> None:
        """Have the scroll bar stand in the margin, so that the fields keep their width."""
        bar = self._scroll.verticalScrollBar().sizeHint().width() if last else 0
        self._fields.setContentsMargins(12, 4, max(12 - bar, 2), 12)

    # --- bar: preset, undo, menu

    def _make_bar(self) -> QWidget:
        bar = QWidget(self)
        layout = QHBoxLayout(bar)
        layout.setContentsMargins(12, 0, 8, 0)
        layout.setSpacing(2)
        self._preset_button = QPushButton(bar)
        self._preset_button.setProperty("look", "chip")
        self._preset_menu = QMenu(self)
        self._preset_menu.setToolTipsVisible(True)
        self._preset_actions = [
            self._preset_menu.addAction("", lambda chosen=preset: self.apply_preset(chosen))
            for preset in self._presets
        ]
        self._preset_button.setMenu(self._preset_menu)
        self._preset_button.setVisible(bool(self._presets))
        layout.addWidget(self._preset_button)
        layout.addStretch(1)
        self._tools: list[tuple[QToolButton, str]] = []
        for icon, text, do in (
            ("undo", mark("Undo"), self.undo),
            ("redo", mark("Redo"), self.redo),
            ("refresh", mark("Reset to defaults"), self.reset),
            ("copy", mark("Copy as recipe"), self.copy_recipe),
        ):
            button = QToolButton(bar)
            theme.set_icon(button, icon, "muted", 16)
            button.clicked.connect(do)
            layout.addWidget(button)
            self._tools.append((button, text))
        for (button, _), key, can in (
            (self._tools[0], QKeySequence.StandardKey.Undo, self.undo_stack.canUndoChanged),
            (self._tools[1], QKeySequence.StandardKey.Redo, self.undo_stack.canRedoChanged),
        ):
            button.setEnabled(False)
            can.connect(button.setEnabled)
            shortcut = QShortcut(key, self, context=Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(button.click)
        return bar

    # --- values

    def values(self) -> Values:
        """Everything the form says, complete, with `kind`; may not be valid."""
        own = {"kind": self._kind} if self._kind else {}
        return without_nothing(own | self._fields.value())

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show `values` (of any run); what they leave out has its default. Can be undone."""
        self._replace(dict(values), tr("Restore settings"))

    def reset(self) -> None:
        """Everything as the spec has it by default, apart from references that must be given."""
        fields = self.spec_class.model_fields
        kept = {k: v for k, v in self._references().items() if fields[k].is_required()}
        self._replace(self._start | kept, tr("Reset to defaults"))

    def apply_preset(self, preset: Preset) -> None:
        """The preset, and defaults for the rest; references stay."""
        self._replace(self._start | self._references() | preset.values, tr(preset.name))

    def spec(self) -> Task | None:
        """What is shown, as a task, or None, and then every problem is shown."""
        try:
            return parse(self.spec_class, self.values())  # type: ignore[return-value]
        except SpecError:
            self._reveal = True
            self._validate()
            return None

    def recipe(self) -> str:
        """What is shown, as the text of a recipe."""
        from workbench.recipes import recipe_text

        name = self._kind or "task"
        names = {run: shown for run, shown, _ in self.runs}
        return recipe_text([{"name": name, **self.values()}], names)

    def copy_recipe(self) -> None:
        """Put the text of a recipe on the clipboard."""
        QGuiApplication.clipboard().setText(self.recipe())

    def set_runs(self, runs: Sequence[RunChoice]) -> None:
        """The runs (id, name, kind) that reference fields offer."""
        self.runs = tuple(runs)
        for node in self._fields.nodes.values():
            node.set_runs(self.runs)

    def _references(self) -> Values:
        fields = self.spec_class.model_fields
        shown = self.values()
        return {
            name: shown[name]
            for name in shown
            if name in fields and extra_of(fields[name]).get("reference")
        }

    def say_unset(self, words: Mapping[str, str]) -> None:
        """What the sections of these fields stand for while they are off."""
        for name, node in self._fields.nodes.items():
            if isinstance(node, Section):
                node.say_unset(words.get(name, ""))

    def start_of(self, path: Path, members: Mapping[str, type[Spec]]) -> Values:
        """What an optional section holds when it is switched on: what the first preset has
        there, else the first kind's defaults."""
        for preset in self._presets:
            found: Any = preset.values
            for part in path:
                found = found.get(part) if isinstance(found, dict) else None
            if isinstance(found, dict):
                return complete(members[found.get("kind", "")], found)
        return defaults(next(iter(members.values())))

    # --- changes

    def edited(self, path: Path, typing: bool) -> None:
        """A person has changed the field at `path`: remember it, so that it can be undone."""
        self._touched.add(path)
        now = self.values()
        before, after = _at(self._known, path), _at(now, path)
        if before != after:
            self.undo_stack.push(_Change(self, path, before, after, typing))
        else:
            self._validate()

    def undo(self) -> None:
        self.undo_stack.undo()

    def redo(self) -> None:
        self.undo_stack.redo()

    def _replace(self, values: Values, text: str) -> None:
        before = self.values()
        self._fields.set_value({n: v for n, v in values.items() if n != "kind"})
        after = self.values()
        if before != after:
            command = _Change(self, (), before, after, False)
            command.setText(text)
            self.undo_stack.push(command)

    def put(self, path: Path, value: Any) -> None:
        """Show `value` at `path` without noting it (for undo)."""
        if not path:
            self._fields.set_value({n: v for n, v in value.items() if n != "kind"})
            return
        node = self._node(path)
        if node is not None:
            node.set_value(value)
            self.reveal(path)

    def settled(self) -> None:
        """A change has been done, undone or done again."""
        self._known = self.values()
        self._told = ()
        self._validate()
        self._show_preset()
        self.changed.emit()

    def _node(self, path: Path) -> Row | Section | Several | None:
        """The row or section at `path`, made and unfolded if need be."""
        nodes, node = self._fields.nodes, None
        fields: Fields | None = self._fields
        for part in path:
            if fields is not None and part not in nodes and fields.is_rare(part):
                fields.open_more()
            node = nodes.get(part)
            if node is None or isinstance(node, Row):
                return node
            if part != path[-1]:
                node.open()
            nodes = node.nodes()
            fields = node._body if isinstance(node, Section) else None
        return node

    def reveal(self, path: Path) -> None:
        """Unfold and scroll to the field at `path`."""
        node = self._node(path)
        if node is not None and self.isVisible():
            self._scroll.ensureWidgetVisible(node.focus_target, 0, 40)

    # --- validation

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the values, also with fields that do not show it yet."""
        if self._problems is None:
            self._validate()
        return self._problems or ()

    def show_problems(self, problems: Sequence[tuple[Sequence[str], str]]) -> None:
        """Show faults that somebody else has found (the engine): (path, text) each. They go with
        the next change."""
        self._told = tuple(Problem(tuple(path), text) for path, text in problems)
        self._reveal = True
        self._validate()
        self.focus_problem()

    def focus_problem(self) -> None:
        """Show every problem, and put the cursor into the first field that has one."""
        self._reveal = True
        self._validate()
        for problem in (*self.problems, *self._told):
            node = self._node(problem.path)
            if node is not None:
                self._validate()
                self.reveal(problem.path)
                node.focus_target.setFocus(Qt.FocusReason.OtherFocusReason)
                return

    def focus_field(self, path: Path) -> None:
        """Put the cursor into the field at `path`; where the section that has it is off or of
        another kind, into what would change that."""
        node = self._node(path) or self._nearest(path)
        if node is None:
            return
        chooser = node.kind_chooser if isinstance(node, Section) and node.path != path else None
        target = chooser or node.focus_target
        target.setFocus(Qt.FocusReason.OtherFocusReason)
        # What has just been unfolded has its place after the next layout.
        QTimer.singleShot(0, target, lambda: self._scroll.ensureWidgetVisible(target, 0, 40))

    def _validate(self) -> None:
        try:
            parse(self.spec_class, self.values())
            self._problems = ()
        except SpecError as error:
            self._problems = error.problems
        texts: dict[int, str] = {}
        banner = []
        for problem in (*self._problems, *self._told):
            quiet = problem.text == MISSING and problem.path not in self._touched
            if quiet and not self._reveal:
                continue
            node = self._nearest(problem.path)
            if node is None:
                banner.append(str(problem))
            else:
                inner = ".".join(problem.path[len(node.path) :])
                text = f"{inner}: {problem_text(problem.text)}" if inner else problem.text
                texts.setdefault(id(node), text)
        for node in walk(self._fields.nodes):
            node.set_problem(texts.get(id(node), ""))
        self._banner.setText("\n".join(map(problem_line, banner)))
        self._banner.setVisible(bool(banner))

    def _nearest(self, path: Path) -> Row | Section | Several | None:
        """The innermost row or section on the way to `path` that exists."""
        nodes, found = self._fields.nodes, None
        for part in path:
            node = nodes.get(part)
            if node is None:
                break
            found = node
            nodes = {} if isinstance(node, Row) else node.nodes()
        return found

    # --- language

    def _retranslate(self) -> None:
        for button, text in self._tools:
            button.setToolTip(tr(text))
            button.setAccessibleName(tr(text))
        for preset, action in zip(self._presets, self._preset_actions):
            action.setText(tr(preset.name))
            action.setToolTip("\n".join(filter(None, [tr(preset.help), preset.cite])))
        for node in self._fields.nodes.values():
            node.retranslate()
        self._fields.retranslate_more()
        self._show_preset()
        if self._problems is not None:
            self._validate()

    def _show_preset(self) -> None:
        """The name of the preset that is shown unchanged, if one is."""
        shown = self._known | {"seed": 0}
        usual = complete(self.spec_class, self._start) | self._references()
        fitting = (p for p in self._presets if _same(usual | p.values, shown))
        preset = next(fitting, None)
        text = tr(preset.name) if preset else tr("Preset")
        button = self._preset_button
        room = theme.px(96)
        button.setText(button.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, room))
        button.setToolTip(text)
        button.setAccessibleName(tr("Preset: {name}", name=text) if preset else text)


class _Change(QUndoCommand):
    """The value at one path, before and after. Letters typed into one field are one change."""

    def __init__(self, form: SpecForm, path: Path, before: Any, after: Any, typing: bool) -> None:
        super().__init__()
        self._form, self._path = form, path
        self._before, self._after = before, after
        self._typing = typing
        self._done = True

    def id(self) -> int:
        return 1 if self._typing else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        if not isinstance(other, _Change) or other._path != self._path:
            return False
        self._after = other._after
        return True

    def undo(self) -> None:
        self._form.put(self._path, self._before)
        self._form.settled()

    def redo(self) -> None:
        if self._done:  # Pushing a command does it; this one has been done by a person.
            self._done = False
        else:
            self._form.put(self._path, self._after)
        self._form.settled()


def _at(values: Any, path: Path) -> Any:
    for part in path:
        if isinstance(values, list):
            values = values[int(part)] if int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _same(preset: Values, shown: Values) -> bool:
    """Whether `shown` is the preset, and nothing beside it is switched on."""
    return shown.keys() <= preset.keys() and _within(preset, shown)


def _within(part: Any, whole: Any) -> bool:
    """Whether `whole` says everything that `part` says."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(_within(value, whole.get(name)) for name, value in part.items())
    if isinstance(part, list | tuple) and isinstance(whole, list | tuple):
        return len(part) == len(whole) and all(map(_within, part, whole))
    return bool(part == whole)
