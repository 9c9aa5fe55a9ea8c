"""Which samples of an attack are shown: by class, by what became of them, by what marks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtGui import QFontMetricsF
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QWidget

from workbench import i18n, theme
from workbench.i18n import mark, name_of, tr
from workbench.views.mosaic import class_name, is_correct

Caption = Mapping[str, Any]

OUTCOMES = {
    "broken": mark("Was broken"),
    "withstood": mark("Withstood"),
    "wrong": mark("Was wrong already"),
    "waiting": mark("Not attacked"),
}
"""What can become of a sample."""

MARKS = {
    "border": mark("At the ball's border"),
    "inside": mark("Inside the ball"),
    "nan": mark("Output is no number"),
    "missed": mark("Wrong, but not the target"),
    "surrogate": mark("Surrogate fooled"),
}
"""What else can be said of a sample."""

BY = "by:"
"""What the mark begins with that says which attack of several broke a sample."""

EDGE = 1e-4
"""Share of the radius by which a sample at the ball's border may stay below it: rounding."""


@dataclass(frozen=True)
class Rules:
    """What an attack counts as success, and where its ball ends. `over`: it has come to its end, so
    that who was not changed by it withstood it."""

    targeted: bool = False
    eps: float | None = None
    over: bool = False


@dataclass(frozen=True)
class Sample:
    """What is known of a sample. `label`, `before` and `after` are classes: the true one, and what
    the model makes of the clean image and of the adversarial one."""

    label: int | None
    before: int | None
    after: int | None
    outcome: str
    marks: frozenset[str]
    norm: float | None = None


def sample_of(clean: Caption, adversarial: Caption, classes: int, rules: Rules) -> Sample:
    """What the captions of its two pictures say of a sample, of a model with so many `classes`."""
    label, before, after = (
        clean.get("label"),
        clean.get("prediction"),
        adversarial.get("prediction"),
    )
    norm = adversarial.get("norm")
    marks = set()
    missed = False
    reached = not is_correct(adversarial) and after is not None and after >= 0
    if rules.targeted and reached and label is not None and classes:
        missed = after != (label + 1) % classes
        reached = not missed
    reached = bool(adversarial.get("success", reached))
    if not is_correct(clean):
        outcome = "wrong"
    elif reached:
        outcome = "broken"
    elif rules.over or (norm or 0) > 0:
        outcome = "withstood"
    else:
        outcome = "waiting"
    if -1 in (before, after):
        marks.add("nan")
    if missed and outcome != "wrong":
        marks.add("missed")
    if rules.eps and norm and outcome in ("broken", "withstood"):
        marks.add("border" if norm >= rules.eps * (1 - EDGE) else "inside")
    if adversarial.get("surrogate"):
        marks.add("surrogate")
    if adversarial.get("attack"):
        marks.add(f"{BY}{adversarial['attack']}")
    return Sample(label, before, after, outcome, frozenset(marks), norm)


def mark_text(name: str) -> str:
    """A mark in the person's language."""
    if name in MARKS:
        return tr(MARKS[name])
    attack = name.removeprefix(BY)
    if attack == "curve":
        return tr("Broken by the curve alone")
    if attack == "checks":
        return tr("Broken by the checks alone")
    kind, dash, number = attack.rpartition("-")
    shown = f"{name_of(kind)} {number}" if dash and number.isdigit() else name_of(attack)
    return tr("Broken by {attack}", attack=shown)


@dataclass(frozen=True)
class Filter:
    """Who is shown; what is None is not asked for."""

    label: int | None = None
    after: int | None = None
    outcome: str | None = None
    mark: str | None = None

    def __bool__(self) -> bool:
        return self != Filter()

    def keeps(self, sample: Sample) -> bool:
        return (
            self.label in (None, sample.label)
            and self.after in (None, sample.after)
            and self.outcome in (None, sample.outcome)
            and (self.mark is None or self.mark in sample.marks)
        )


class FilterBar(QWidget):
    """One line: a field a property, how many samples pass, and a button that clears all."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.filter = Filter()
        self._classes: tuple[str, ...] = ()
        self._marks: tuple[str, ...] = ()
        self._fields: dict[str, QComboBox] = {}
        self._counted = (0, 0)
        self._filling = False
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        self.title = QLabel()
        self.title.setProperty("tone", "muted")
        row.addWidget(self.title)
        for name in ("label", "after", "outcome", "mark"):
            field = QComboBox()
            field.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
            field.currentIndexChanged.connect(self._chosen)
            self._fields[name] = field
            row.addWidget(field)
        self.clear_button = QToolButton()
        self.clear_button.setProperty("look", "quiet")
        theme.set_icon(self.clear_button, "cross", "muted", 14)
        self.clear_button.clicked.connect(self.clear)
        kept = self.clear_button.sizePolicy()
        kept.setRetainSizeWhenHidden(True)  # the line keeps its height
        self.clear_button.setSizePolicy(kept)
        row.addWidget(self.clear_button)
        row.addStretch(1)
        self.count = QLabel()
        self.count.setProperty("tone", "muted")
        row.addWidget(self.count)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        i18n.signals.changed.connect(self._fill)
        theme.manager.changed.connect(self._widths)
        self._fill()

    # --- what is offered

    def set_classes(self, names: Sequence[str]) -> None:
        """The classes to choose from. A choice of a class ends where they are others than before;
        what else was chosen stays."""
        if names and tuple(names) != self._classes:
            if self._classes:
                self.filter = replace(self.filter, label=None, after=None)
            self._classes = tuple(names)
            self._fill()

    def offer_marks(self, marks: Sequence[str]) -> None:
        """The marks that samples have; one that is chosen stays on offer."""
        if tuple(marks) != self._marks:
            self._marks = tuple(marks)
            self._fill()

    def say_count(self, passing: int, total: int) -> None:
        """How many of how many samples are shown."""
        if self._counted != (passing, total):
            self._counted = passing, total
            self._tell()

    def set_filter(self, chosen: Filter) -> None:
        if chosen != self.filter:
            self.filter = chosen
            self._fill()
            self.changed.emit()

    def clear(self) -> None:
        """Show all again."""
        self.set_filter(Filter())

    # --- inside

    def _options(self, name: str) -> list[tuple[str, Any]]:
        match name:
            case "label" | "after":
                every = tr("Any class") if name == "label" else tr("Taken for any class")
                shown = [(class_name(k, self._classes), k) for k in range(len(self._classes))]
                if name == "after":
                    shown = [(tr("Taken for {name}", name=words), k) for words, k in shown]
                return [(every, None), *shown]
            case "outcome":
                return [(tr("Any outcome"), None), *((tr(t), k) for k, t in OUTCOMES.items())]
        known = {*self._marks, self.filter.mark} - {None}
        order = [*MARKS]
        marks = sorted(known, key=lambda k: (order.index(k) if k in MARKS else len(order), k))
        return [(tr("Any mark"), None), *((mark_text(k), k) for k in marks)]

    def _fill(self) -> None:
        """Set every field's choices, and what is chosen."""
        self._filling = True
        names = {
            "label": tr("True class"),
            "after": tr("Predicted class after the attack"),
            "outcome": tr("Outcome"),
            "mark": tr("Mark"),
        }
        for name, field in self._fields.items():
            options = self._options(name)
            if [field.itemText(k) for k in range(field.count())] != [text for text, _ in options]:
                field.clear()
                for text, value in options:
                    field.addItem(text, value)
            wanted = getattr(self.filter, name)
            field.setCurrentIndex([value for _, value in options].index(wanted))
            field.setAccessibleName(tr("Filter: {field}", field=names[name]))
            field.setToolTip(names[name])
        self._fields["mark"].setVisible(self._fields["mark"].count() > 1)
        self.title.setText(tr("Show"))
        self.clear_button.setToolTip(tr("Clear the filters"))
        self.clear_button.setAccessibleName(tr("Clear the filters"))
        self._filling = False
        self._tell()

    def _widths(self) -> None:
        """Every field as wide as what is chosen, so that four of them have room; its list is as
        wide as the longest."""
        for field in self._fields.values():
            field.ensurePolished()
            metrics = QFontMetricsF(field.font())
            every = [field.itemText(k) for k in range(field.count())]
            longest = max(map(metrics.horizontalAdvance, every), default=0.0)
            field.setFixedWidth(
                round(metrics.horizontalAdvance(field.currentText())) + theme.px(38)
            )
            field.view().setMinimumWidth(round(longest) + theme.px(38))

    def _chosen(self) -> None:
        if not self._filling:
            values = {name: field.currentData() for name, field in self._fields.items()}
            self.filter = Filter(**values)
            self._tell()
            self.changed.emit()

    def _tell(self) -> None:
        self.clear_button.setVisible(bool(self.filter))
        self._widths()
        passing, total = self._counted
        words = tr("{passing} of {total} samples", passing=passing, total=total)
        if passing == total:
            words = tr("{total} samples shown", total=total)
        self.count.setText(words if total else "")
