"""The part of a form that shows one spec: its rows, and the sections of the specs inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.task import Spec, about_spec, extra_of
from workbench import theme
from workbench.forms.editors import Combo, RunChoice
from workbench.forms.reading import (
    Values,
    complete,
    defaults,
    help_text,
    is_many,
    is_optional,
    member_of,
    members_of,
)
from workbench.forms.row import Faulty, Owner, Path, Row, field_grid, rule
from workbench.i18n import name_of, tr
from workbench.views.widgets import Elided, Switch

if TYPE_CHECKING:
    from workbench.forms.several import Several

Nodes: TypeAlias = "dict[str, Row | Section | Several]"


class Heading(QAbstractButton):
    """The title of a section; pressing it folds the section. Space does too."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        theme.manager.changed.connect(self.updateGeometry)

    def sizeHint(self) -> QSize:
        metrics = QFontMetrics(theme.font(13, 600))
        return QSize(metrics.horizontalAdvance(self.text()) + 2, metrics.height() + 6)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(48), self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(theme.font(13, 600))
        painter.setPen(theme.color("accent" if self.hasFocus() else "text"))
        left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        end = Qt.TextElideMode.ElideRight
        shown = painter.fontMetrics().elidedText(self.text(), end, self.width())
        painter.drawText(self.rect(), left, shown)
        painter.end()


class Section(Faulty):
    """A spec inside a spec: a header to fold it, its kind where there are several, its fields.

    The fields are made when they are first seen; until then `value()` is what was set.
    """

    def __init__(
        self,
        owner: Owner,
        path: Path,
        title: str,
        help_text: str,
        members: Mapping[str, type[Spec]],
        *,
        optional: bool,
        start: Values | None,
        folded: bool,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.path = path
        self._owner = owner
        self._title, self._help = title, help_text
        self._members = members
        self._optional = optional
        self._on = start is not None
        self._values: Values = dict(start) if start is not None else {}
        self._folded = folded
        self._body: Fields | None = None
        self._kind: Combo | None = None
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(6)
        self._layout.addWidget(self._make_header())
        self.retranslate()
        self._show()

    def _make_header(self) -> QWidget:
        header = QWidget(self)
        self._name = Heading(header)
        self._name.clicked.connect(self._toggle)
        self._chip = QLabel(header)
        self._chip.setProperty("tone", "chip-accent")
        self._off = QLabel(header)
        self._off.setProperty("tone", "chip")
        self._arrow = QToolButton(header)
        self._arrow.setProperty("look", "quiet")
        self._arrow.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._arrow.clicked.connect(self._toggle)
        layout = QHBoxLayout(header)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self._name)
        layout.addStretch(1)
        layout.addWidget(self._chip)
        layout.addWidget(self._off)
        self._switch: Switch | None = None
        if self._optional:
            self._switch = Switch(self._on, header)
            self._switch.clicked.connect(self._switched)
            layout.addWidget(self._switch)
        layout.addWidget(self._arrow)
        return header

    # --- value

    def value(self) -> Values | None:
        if not self._on:
            return None
        if self._body is None:
            return dict(self._values)
        own = {"kind": self._values["kind"]} if "kind" in self._values else {}
        return own | self._body.value()

    def set_value(self, value: Values | None) -> None:
        self._on = value is not None
        if value is not None:
            member = self._member(value.get("kind", ""))
            same = member is not None and member is self._member(self._values.get("kind", ""))
            # What is not given has its default. A kind that is not known is left for the spec's
            # own validation to refuse.
            self._values = complete(member, value) if member else dict(value)
            if self._body is not None and same:
                self._body.set_value(self._values)
            else:
                self._drop_body()
        self._show()

    def _member(self, kind: str) -> type[Spec] | None:
        return member_of(self._members, kind)

    def nodes(self) -> Nodes:
        return self._body.nodes if self._body is not None else {}

    def open(self) -> None:
        """Unfold, so that every field is there to be seen."""
        if self._folded:
            self._toggle()

    # --- what a person does

    def _toggle(self) -> None:
        self._folded = not self._folded
        self._show()

    def _switched(self) -> None:
        self._on = not self._on
        if self._on:
            self._folded = False
            if not self._values:
                self._values = self._owner.start_of(self.path, self._members)
        self._show()
        self._owner.edited(self.path, False)

    def _kind_chosen(self, *_: object) -> None:
        assert self._kind is not None
        before = self.value() or {}
        old, new = self._member(before["kind"]), self._members[self._kind.value()]
        usual = defaults(old) if old else {}
        # What a person has set goes over to a kind that has it too; what was a default does not.
        kept = {
            name: value
            for name, value in before.items()
            if name in new.model_fields and name != "kind" and usual.get(name) != value
        }
        self._values = defaults(new) | kept
        self._drop_body()
        self._show()
        self._owner.edited(self.path, False)

    # --- showing

    def _show(self) -> None:
        shown = self._on and not self._folded
        kind = self._values.get("kind", "")
        if shown and self._body is None and self._member(kind) is not None:
            self._make_body()
        if self._body is not None:
            self._body.setVisible(shown)
        if self._kind is not None:
            self._kind.set_value(kind)
            self._kind_row.setVisible(shown)
        self._chip.setText(name_of(kind))
        self._chip.setVisible(bool(kind) and self._on)
        self._off.setVisible(bool(self._off.text()) and not self._on)
        if self._switch is not None:
            self._switch.setChecked(self._on)
        self._arrow.setVisible(self._on)
        theme.set_icon(
            self._arrow, "chevron-right" if self._folded else "chevron-down", "muted", 14
        )
        state = tr("folded") if self._folded else tr("unfolded")
        off = self._off.text() or tr("off")
        self._name.setAccessibleDescription(state if self._on else off)

    def _make_body(self) -> None:
        if len(self._members) > 1 and self._kind is None:
            self._kind_row = QWidget(self)
            self._kind = Combo(tuple(self._members), self._kind_chosen, self._kind_row)
            self._kind_label = Elided("", self._kind_row)
            self._kind_label.setProperty("tone", "muted")
            grid = field_grid(self._kind_row)
            grid.addWidget(self._kind_label, 0, 0)
            grid.addWidget(self._kind, 0, 1)
            self._layout.addWidget(self._kind_row)
            self._retranslate_kind()
        member = self._member(self._values.get("kind", ""))
        assert member is not None
        self._body = Fields(self._owner, self.path, member, self._values, self)
        self._layout.addWidget(self._body)
        self._retranslate_kind()

    def _drop_body(self) -> None:
        if self._body is not None:
            self._layout.removeWidget(self._body)
            self._body.hide()
            self._body.deleteLater()
            self._body = None

    @property
    def focus_target(self) -> QWidget:
        return self._name

    @property
    def kind_chooser(self) -> QWidget | None:
        """Where its kind is chosen, or whether it is on at all; None where there is no choice."""
        return self._kind if self._on else self._switch

    def say_unset(self, words: str) -> None:
        """What it stands for while it is off."""
        if words != self._off.text():
            self._off.setText(words)
            self._show()

    def set_runs(self, runs: tuple[RunChoice, ...]) -> None:
        for node in self.nodes().values():
            node.set_runs(runs)

    def retranslate(self) -> None:
        self._name.setText(tr(self._title))
        for widget in (self._name, self._switch, self._arrow):
            if widget is not None:
                widget.setAccessibleName(tr(self._title))
                widget.setToolTip(tr(self._help))
                widget.setWhatsThis(tr(self._help))
        self._chip.setText(name_of(self._values.get("kind", "")))
        self._retranslate_kind()
        for node in self.nodes().values():
            node.retranslate()
        if self._body is not None:
            self._body.retranslate_more()

    def _retranslate_kind(self) -> None:
        if self._kind is not None:
            self._kind.retranslate()
            self._kind_label.setText(tr("Kind"))
            self._kind.setAccessibleName(f"{tr(self._title)}: {tr('Kind')}")
            member = self._member(self._values.get("kind", ""))
            about = help_text(about_spec(member), cite=member.cite) if member else ""
            self._kind.setToolTip(about)
            self._kind_label.setToolTip(about)


class Fields(QWidget):
    """The fields of one spec: rows first come first shown, rarely needed ones under "More".

    With `groups` (at the top of a form) references come first, then the sections `leading`, plain
    fields stand together under a header of their own, and sections are ruled off.
    """

    def __init__(
        self,
        owner: Owner,
        path: Path,
        spec: type[Spec],
        values: Values,
        parent: QWidget,
        *,
        groups: str = "",
        leading: Sequence[str] = (),
    ) -> None:
        super().__init__(parent)
        self._owner, self._path, self._spec = owner, path, spec
        self._leading = tuple(leading)
        self._start = complete(spec, values)
        self.nodes: Nodes = {}
        self._more: QWidget | None = None
        self._more_button: QToolButton | None = None
        self._group_title = groups
        self._group: QLabel | None = None
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(8)
        names = [name for name in spec.model_fields if name != "kind"]
        plain: list[str] = []
        self._rare: list[str] = []
        for name in names:
            rare = extra_of(spec.model_fields[name]).get("advanced")
            (self._rare if rare else plain).append(name)
        if groups:
            self._fill_in_groups(plain)
        else:
            self._fill(self._layout, plain)
        if self._rare:
            self._make_more()
        if groups:
            self._layout.addStretch(1)

    def _fill_in_groups(self, names: list[str]) -> None:
        fields = self._spec.model_fields
        inside = [name for name in names if members_of(fields[name]) is not None]
        first = [
            name
            for name in names
            if name not in inside
            and (extra_of(fields[name]).get("reference") or fields[name].is_required())
        ]
        # `seed` comes last: it is inherited, and seldom what somebody looks for first.
        rest = [name for name in names if name not in inside and name not in first]
        rest.sort(key=lambda name: name == "seed")
        self._fill(self._layout, first, wide=True)  # names of runs and paths are long
        before = [n for n in inside if rest and names.index(n) < self._place_of_rest(names, rest)]
        leading = [name for name in self._leading if name in inside]
        before = leading + [name for name in before if name not in leading]
        for name in before:
            self._add_section(self._layout, name, ruled=bool(self._layout.count()))
        if rest:
            if self._layout.count():
                self._layout.addWidget(rule(self))
            self._group = QLabel(tr(self._group_title), self)
            self._group.setProperty("tone", "heading")
            self._layout.addWidget(self._group)
            self._fill(self._layout, rest)
        for name in inside:
            if name not in before:
                self._add_section(self._layout, name, ruled=True)

    @staticmethod
    def _place_of_rest(names: list[str], rest: list[str]) -> int:
        own = [name for name in rest if name != "seed"]
        return names.index(own[0]) if own else len(names)

    def _fill(self, layout: QVBoxLayout, names: list[str], *, wide: bool = False) -> None:
        grid: QGridLayout | None = None
        for name in names:
            if members_of(self._spec.model_fields[name]) is not None:
                grid = None
                self._add_section(layout, name, ruled=False)
                continue
            if grid is None:
                holder = QWidget(layout.parentWidget())
                grid = field_grid(holder, wide=wide)
                layout.addWidget(holder)
            node = Row(self._owner, (*self._path, name), self._spec, holder)
            node.place(grid, grid.rowCount() + 1)
            node.set_value(self._start.get(name))
            self.nodes[name] = node

    def _add_section(self, layout: QVBoxLayout, name: str, *, ruled: bool) -> None:
        field = self._spec.model_fields[name]
        members = members_of(field)
        assert members is not None
        if ruled:
            layout.addWidget(rule(layout.parentWidget()))
        start = self._start.get(name)
        if is_many(field):
            self._add_several(layout, name, members, start or ())
            return
        section = Section(
            self._owner,
            (*self._path, name),
            field.title or name,
            field.description or "",
            members,
            optional=is_optional(field),
            start=start,
            folded="" in members,
            parent=layout.parentWidget(),
        )
        if self._path:
            section.setContentsMargins(8, 0, 0, 0)
        if start is None and not is_optional(field):
            section.set_value(self._owner.start_of(section.path, members))
        layout.addWidget(section)
        self.nodes[name] = section

    def _add_several(
        self,
        layout: QVBoxLayout,
        name: str,
        members: Mapping[str, type[Spec]],
        start: Sequence[Values],
    ) -> None:
        from workbench.forms.several import Several

        field = self._spec.model_fields[name]
        title, help_text = field.title or name, field.description or ""
        path, parent = (*self._path, name), layout.parentWidget()
        node = Several(self._owner, path, title, help_text, members, start, parent)
        layout.addWidget(node)
        self.nodes[name] = node

    def _make_more(self) -> None:
        self._more_button = QToolButton(self)
        self._more_button.setProperty("look", "quiet")
        self._more_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._more_button.clicked.connect(self.toggle_more)
        self._layout.addWidget(self._more_button)
        self.retranslate_more()

    def toggle_more(self) -> None:
        if self._more is None:
            self._more = QWidget(self)
            layout = QVBoxLayout(self._more)
            layout.setContentsMargins(0, 0, 0, 0)
            layout.setSpacing(8)
            self._fill(layout, self._rare)
            assert self._more_button is not None
            self._layout.insertWidget(self._layout.indexOf(self._more_button) + 1, self._more)
            self._more.show()
        else:
            self._more.setVisible(not self._more.isVisibleTo(self))
        self.retranslate_more()

    def open_more(self) -> None:
        if self._rare and (self._more is None or not self._more.isVisibleTo(self)):
            self.toggle_more()

    def retranslate_more(self) -> None:
        if self._more_button is not None:
            unfolded = self._more is not None and self._more.isVisibleTo(self)
            self._more_button.setText(tr("Less") if unfolded else tr("More"))
            arrow = "chevron-down" if unfolded else "chevron-right"
            theme.set_icon(self._more_button, arrow, "muted", 12)
        if self._group is not None:
            self._group.setText(tr(self._group_title))

    def is_rare(self, name: str) -> bool:
        return name in self._rare

    def value(self) -> Values:
        unseen = {name: self._start.get(name) for name in self._rare if name not in self.nodes}
        return unseen | {name: node.value() for name, node in self.nodes.items()}

    def set_value(self, values: Values) -> None:
        self._start = complete(self._spec, values)
        for name, node in self.nodes.items():
            value = self._start.get(name)
            if value is None and isinstance(node, Section) and not node._optional:
                value = self._owner.start_of(node.path, node._members)
            node.set_value(value)


def walk(nodes: Nodes) -> Iterator[Row | Section | Several]:
    """Every row and section there is by now, outer ones first."""
    for node in nodes.values():
        yield node
        if not isinstance(node, Row):
            yield from walk(node.nodes())
