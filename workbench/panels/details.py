"""Everything that is recorded of a run, as text and tables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QGridLayout, QPlainTextEdit, QWidget

from engine.store import RunInfo
from workbench import i18n
from workbench.bars import size as size_text
from workbench.i18n import mark, name_of, tr
from workbench.panels.live import NOTHING
from workbench.recipes import recipe_text
from workbench.refusals import error_text
from workbench.runs.book import ENDED, word_of
from workbench.views.card import Card
from workbench.views.table import TableCard, cell
from workbench.views.text import number, percent
from workbench.words import word

CHOOSE = mark("Choose a run in the list.")
RESULTS = mark("What the run finds out appears here.")
FILES = mark("The files that the run writes appear here.")
FOUND = "tpr_at_fpr"
"""What the names of true positives at a rate of false ones begin with."""
AGREEMENT = mark("Agreement with the model")
"""Of an extraction; in tables of an evaluation it is that with other seeds."""
SHARES = ("agreement", "recognised", "recognised_originals", "labels_right", "confidence")
"""Quantities that are shares, beside those whose names say so."""
SAID = {
    "noise_source": {"seed": mark("the seed"), "system": mark("the operating system")},
    "guarantee": {"none": mark("none")},
}
"""What some quantities that are words can be."""


class DetailsView(QWidget):
    """Results, origin, surroundings, spec and note of one run."""

    noted = Signal(str, str)
    """Run id and what a person wrote about it."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._info: RunInfo | None = None
        self._names: Mapping[str, str] = {}
        self.results = TableCard(mark("Results"), parent=self)
        self.origin = TableCard(mark("This run"), parent=self)
        self.files = TableCard(mark("Files"), parent=self)
        self._spec_card = Card(mark("Settings"), self)
        self.spec = self._text(self._spec_card)
        self._note_card = Card(mark("Note"), self)
        self.note = self._text(self._note_card)
        self.note.setReadOnly(False)
        self.note.textChanged.connect(self._typed)
        grid = QGridLayout(self)
        grid.setContentsMargins(12, 0, 12, 12)
        grid.setSpacing(10)
        grid.addWidget(self.results, 0, 0)
        grid.addWidget(self.origin, 0, 1)
        grid.addWidget(self._spec_card, 1, 0, 2, 1)
        grid.addWidget(self.files, 1, 1)
        grid.addWidget(self._note_card, 2, 1)
        for column in (0, 1):
            grid.setColumnStretch(column, 1)
        grid.setRowStretch(0, 3)
        grid.setRowStretch(1, 2)
        grid.setRowStretch(2, 1)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def _text(self, card: Card) -> QPlainTextEdit:
        text = QPlainTextEdit(card)
        text.setProperty("look", "log")
        text.setReadOnly(True)
        card.body.addWidget(text)
        return text

    def show_run(self, info: RunInfo | None, names: Mapping[str, str]) -> None:
        """`names` are what runs are called, by id, for the lineage."""
        other = info is None or self._info is None or info.id != self._info.id
        self._info, self._names = info, names
        if other:
            self.note.blockSignals(True)
            self.note.setPlainText(info.note if info else "")
            self.note.blockSignals(False)
        self.refresh()

    def refresh(self) -> None:
        info = self._info
        self.note.setPlaceholderText(tr("What you want to remember about this run."))
        self.note.setAccessibleName(tr("Note"))
        self.spec.setAccessibleName(tr("Settings"))
        self.note.setEnabled(info is not None)
        if info is None:
            for table in (self.results, self.origin, self.files):
                table.explain(CHOOSE)
                table.set_table((), ())
            self.spec.setPlainText(tr(CHOOSE))
            return
        for table, promise in ((self.results, RESULTS), (self.files, FILES)):
            table.explain(NOTHING if info.status in ENDED else promise)
        self.results.set_table(
            (tr("Quantity"), tr("Value")),
            [(called(k), value_text(k, v)) for k, v in flat(info.summary).items()],
        )
        self.origin.set_table((tr("Property"), tr("Value")), self._origin(info))
        self.files.set_table(
            (tr("Name"), tr("Path"), tr("Size")),
            [
                (a.get("name", ""), a.get("path", ""), size_text(float(a.get("size", 0))))
                for a in info.artifacts
            ],
        )
        self.spec.setPlainText(recipe_text([{"name": info.name, **info.spec}], self._names))

    def _origin(self, info: RunInfo) -> list[tuple[str, str]]:
        rows = [
            (tr("Id"), info.id),
            (tr("Kind"), name_of(info.kind)),
            (tr("Status"), word_of(info.status)),
            (tr("Created"), local_time(info.created)),
            (tr("Took"), duration(info.started, info.ended)),
        ]
        rows += [
            (tr("From ({field})", field=tr(called(field))), self._names.get(parent, parent))
            for field, parent in info.lineage.items()
        ]
        rows += [(word(key), str(value)) for key, value in flat(info.environment).items()]
        if info.error:
            rows.insert(0, (tr("Error"), error_text(info.error)))
        return [row for row in rows if row[1]]

    def _typed(self) -> None:
        if self._info is not None:
            self.noted.emit(self._info.id, self.note.toPlainText())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the names joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def called(key: str) -> str:
    """What a quantity of a summary is called, as in "Robust accuracy after: PGD 2" or "Certified
    accuracy: 0.05"."""
    from workbench.panels.evaluate_view import attack_name
    from workbench.panels.gan_words import TROUBLES

    group, dot, which = key.partition(".")
    if key == "agreement":
        return tr(AGREEMENT)
    if group.startswith("troubles") and which in TROUBLES:
        return f"{word(group)}: {tr(TROUBLES[which][0])}"
    if not dot or key.startswith(FOUND):
        return word(key)
    return f"{word(group)}: {which if which[:1].isdigit() else attack_name(which)}"


def value_text(key: str, value: Any) -> str:
    """A summary's value as a person reads it: accuracies and rates in percent."""
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    if isinstance(value, int | float) and _is_share(key):
        return percent(float(value))
    if isinstance(value, list | tuple):
        return ", ".join(value_text(key, part) for part in value)
    if key == "unmet":
        from workbench.panels.evaluate_view import unmet_text

        return unmet_text(str(value))
    if key == "by_attack":
        return tr(str(value))
    if key in SAID:
        return tr(SAID[key].get(str(value), str(value)))
    if key == "method":
        return name_of(str(value))
    if key == "size":
        return size_text(float(value))
    if isinstance(value, int):
        return cell(value)
    if isinstance(value, float):
        return f"{number(value, 4)} s" if key == "seconds" else number(value, 4)
    return str(value)


def _is_share(key: str) -> bool:
    ends = ("accuracy", "_rate", "_interval", "_by_attack")
    if key.startswith("auc"):  # an area, and its interval
        return False
    if key == "sample_rate":  # tiny, and never in percent where it is spoken of
        return False
    return key in SHARES or key.startswith(FOUND) or key.partition(".")[0].endswith(ends)


def local_time(text: str) -> str:
    """A UTC time in ISO form, where the person is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(started: str, ended: str) -> str:
    """How long it took, or nothing if that is not known."""
    try:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    except ValueError:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
