"""The part of a form that shows a list of specs: a section each, one more, one less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QToolButton, QVBoxLayout, QWidget

from engine.task import Spec
from workbench import theme
from workbench.forms.editors import RunChoice
from workbench.forms.reading import Values, defaults
from workbench.forms.row import Faulty, Owner, Path
from workbench.forms.section import Nodes, Section
from workbench.i18n import tr
from workbench.views.widgets import Elided


class Several(Faulty):
    """Specs of one family in their order. What is there is shown folded, what is added unfolded."""

    def __init__(
        self,
        owner: Owner,
        path: Path,
        title: str,
        help_text: str,
        members: Mapping[str, type[Spec]],
        start: Sequence[Values],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.path = path
        self._owner, self._title, self._help, self._members = owner, title, help_text, members
        self._sections: list[Section] = []
        self._rows: list[QWidget] = []
        self._name = Elided("", self)
        self._name.setProperty("tone", "heading")
        self._add = QPushButton(self)
        self._add.setProperty("look", "quiet")
        self._add.clicked.connect(self._one_more)
        head = QHBoxLayout()
        head.setSpacing(6)
        head.addWidget(self._name, 1)
        head.addWidget(self._add)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(6)
        self._layout.addLayout(head)
        self.set_value(start)

    # --- value

    def value(self) -> list[Values]:
        return [section.value() or {} for section in self._sections]

    def set_value(self, value: Any) -> None:
        wanted = [dict(each) for each in value or ()]
        for section, each in zip(self._sections, wanted):
            section.set_value(each)
        for each in wanted[len(self._sections) :]:
            self._append(each, folded=True)
        while len(self._sections) > len(wanted):
            self._drop(len(wanted))
        self.retranslate()

    def nodes(self) -> Nodes:
        return {str(place): section for place, section in enumerate(self._sections)}

    def open(self) -> None:
        """All of them can be seen."""

    # --- what a person does

    def _one_more(self) -> None:
        self._append(defaults(next(iter(self._members.values()))), folded=False)
        self.retranslate()
        self._owner.edited(self.path, False)

    def _remove(self, row: QWidget) -> None:
        if row in self._rows:
            values = self.value()
            del values[self._rows.index(row)]
            self.set_value(values)
            self._owner.edited(self.path, False)

    # --- parts

    def _append(self, values: Values, *, folded: bool) -> None:
        place = len(self._sections)
        row = QWidget(self)
        section = Section(
            self._owner,
            (*self.path, str(place)),
            str(place + 1),
            self._help,
            self._members,
            optional=False,
            start=values,
            folded=folded,
            parent=row,
        )
        less = QToolButton(row)
        less.setProperty("look", "quiet")
        theme.set_icon(less, "cross", "muted", 14)
        less.clicked.connect(lambda _=False, row=row: self._remove(row))
        layout = QHBoxLayout(row)
        layout.setContentsMargins(8, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(section, 1)
        layout.addWidget(less, 0, Qt.AlignmentFlag.AlignTop)
        self._layout.addWidget(row)
        section.set_runs(self._owner.runs)
        self._sections.append(section)
        self._rows.append(row)

    def _drop(self, place: int) -> None:
        row = self._rows.pop(place)
        del self._sections[place]
        self._layout.removeWidget(row)
        row.hide()
        row.deleteLater()

    @property
    def focus_target(self) -> QWidget:
        return self._add

    def set_runs(self, runs: tuple[RunChoice, ...]) -> None:
        for section in self._sections:
            section.set_runs(runs)

    def retranslate(self) -> None:
        self._name.setText(tr(self._title))
        self._name.setToolTip(tr(self._help))
        self._add.setText(tr("Add"))
        self._add.setAccessibleName(f"{tr(self._title)}: {tr('Add')}")
        for place, (row, section) in enumerate(zip(self._rows, self._sections)):
            less = row.findChild(QToolButton, options=Qt.FindChildOption.FindDirectChildrenOnly)
            less.setToolTip(tr("Remove"))
            less.setAccessibleName(f"{tr(self._title)} {place + 1}: {tr('Remove')}")
            section.retranslate()
