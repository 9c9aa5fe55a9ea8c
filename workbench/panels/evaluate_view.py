"""How an evaluation is drawn (see `evaluate_panel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtWidgets import QLabel, QVBoxLayout, QWidget

from engine.events import Table
from engine.robustness.flags import FLAGS
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, matched, name_of, tr, tr_like
from workbench.panels.live import NOTHING, LiveView
from workbench.runs.record import Record
from workbench.views.bars import BarsCard
from workbench.views.card import Card
from workbench.views.curves import CurveCard
from workbench.views.table import Percent
from workbench.words import warning_of, word

OWN = ("curve", "flags", "classes")
"""Tables that are drawn in a way of their own, or not at all."""
UNMET = (
    mark(
        "{what} >= {least} is required; it is {share} on {count} samples, so at least {low}",
    ),
    mark("{what} >= {least} is required; it is {share}, but the checks doubt that: {flags}"),
)
EVIDENCE = (
    mark(
        "two passes of the same images differ by up to {number}; {share} of the predictions changed"
    ),
    mark("all outputs lie between 0 and 1 and add up to 1"),
    mark("all outputs lie between 0 and 1, as out of a sigmoid"),
    mark("of the margin, at {zero} of {all} clean images"),
    mark("of cross-entropy, at {zero} of {all} clean images"),
    mark(
        "of {all} small steps along the gradient, {off} changed the margin by less than half or "
        "more than twice of what it foretold (median {ratio} of it)"
    ),
    mark("seen: {what}"),
    mark("alone and among {count} images, answers differ by up to {number}"),
    mark("changed by a pass: {names}"),
    mark("with and without gradients, answers differ by up to {number}"),
    mark("{withstand} of {all} samples withstand epsilon {eps}"),
    mark("{bad} of {all} clean images"),
    mark(
        "with {share} of the probabilities rounded to 1, broken by the margin alone: {more} of "
        "{all} samples against {fewer} the other way round"
    ),
    mark("broken by one step alone: {more} of {all} samples against {fewer} the other way round"),
    mark(
        "broken by APGD of 100 steps alone: {more} of {all} samples against {fewer} the other way "
        "round"
    ),
    mark(
        "broken by 4 further starts alone: {more} of {all} samples against {fewer} the other way "
        "round"
    ),
    mark(
        "broken by {count} queries without gradients alone: {more} of {all} samples against "
        "{fewer} the other way round"
    ),
    mark("broken by the checks alone: {more} of {all} samples against {fewer} the other way round"),
)
"""What the checks measure, for translation."""

CORRUPTIONS = {
    "gaussian_noise": mark("Gaussian noise"),
    "shot_noise": mark("Shot noise"),
    "impulse_noise": mark("Impulse noise"),
    "defocus_blur": mark("Defocus blur"),
    "glass_blur": mark("Glass blur"),
    "motion_blur": mark("Motion blur"),
    "zoom_blur": mark("Zoom blur"),
    "snow": mark("Snow"),
    "fog": mark("Fog"),
    "brightness": mark("Brightness"),
    "contrast": mark("Contrast"),
    "elastic_transform": mark("Elastic transform"),
    "pixelate": mark("Pixelate"),
    "jpeg_compression": mark("JPEG compression"),
    "gaussian": mark("Gaussian"),
    "uniform": mark("Uniform"),
    "weights": mark("Weights"),
}
"""What corruptions and kinds of noise are called."""


class FlagsCard(Card):
    """Why the figures may mislead: each flag with its evidence, what it means and what to try."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Can it be believed?"), parent)
        self._explain = mark("What the checks of the evaluation find appears here.")
        self._rows: tuple[tuple[Any, ...], ...] | None = None
        self._list = QWidget(self)
        self._layout = QVBoxLayout(self._list)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(10)
        self.body.addWidget(self._list, 1)
        self._show_emptiness()

    def set_flags(self, rows: Sequence[Sequence[Any]] | None) -> None:
        """Rows of flag, evidence and p; None while nothing is known."""
        self._rows = None if rows is None else tuple(map(tuple, rows))
        self.retranslate()

    def retranslate(self) -> None:
        super().retranslate()
        if not hasattr(self, "_list"):
            return
        while (item := self._layout.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for row in self._rows or ():
            self._layout.addWidget(_flag(*row, parent=self._list))
        if self._rows == ():
            text = tr("The checks found nothing that speaks against these figures.")
            self._layout.addWidget(_words(text, "good", self._list))
        self.set_value(str(len(self._rows)) if self._rows else "")
        self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(self._rows is None, self._list)


def _flag(name: str, evidence: str, p: float | None, parent: QWidget) -> QWidget:
    known = FLAGS.get(name)
    box = QWidget(parent)
    column = QVBoxLayout(box)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(2)
    column.addWidget(_words(tr(known.title) if known else name, "warn", box))
    shown = tr_like(evidence, EVIDENCE)
    found = shown if p is None else f"{shown} (p = {p:.2g})"
    column.addWidget(_words(found[:1].upper() + found[1:], "muted", box))
    if known is not None:
        column.addWidget(_words(tr(known.means), "", box))
        column.addWidget(_words(tr("Try: {advice}", advice=tr(known.advice)), "", box))
    return box


def _words(text: str, tone: str, parent: QWidget) -> QLabel:
    label = QLabel(text, parent)
    label.setWordWrap(True)
    if tone:
        label.setProperty("tone", tone)
    return label


class EvaluateView(LiveView):
    """The curve over the radius, the accuracies by attack, the flags, and every table."""

    first_row = 3

    def __init__(self, parent: QWidget | None = None) -> None:
        self.curve = CurveCard(
            mark("Robust accuracy over epsilon"),
            percent=True,
            smooth=False,
            over=mark("Epsilon"),
            empty=mark("Drawn when the attacks are over."),
        )
        self.accuracies = BarsCard(
            mark("Accuracy by attack"), empty=mark("Drawn when an attack is over.")
        )
        self.flags = FlagsCard()
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.hide()
        self._curve: Table | None = None
        super().__init__(
            parent,
            tables={"attacks": mark("Attacks"), "by_class": mark("By class")},
            empty=mark("Drawn while a model is judged. Choose one in the form and press Start."),
        )
        for card in (self.curve, self.accuracies):
            card.setMinimumHeight(theme.px(220))
        self.grid.addWidget(self.verdict, 0, 0, 1, 2)
        self.grid.addWidget(self.curve, 1, 0)
        self.grid.addWidget(self.accuracies, 1, 1)
        self.grid.addWidget(self.flags, 2, 0, 1, 2)

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        super().show_run(info, record, color)
        self._show_summary(info)

    def show_nothing(self) -> None:
        super().show_nothing()
        self._curve = None
        self.curve.clear()
        self.accuracies.set_bars([])
        self.accuracies.warn("")
        self.flags.set_flags(None)
        self.verdict.hide()

    def show_table(self, table: Table) -> None:
        if table.name == "curve":
            self._draw_curve(table)
        elif table.name == "flags":
            self.flags.set_flags(table.rows)
        elif table.name not in OWN:
            super().show_table(shares_as_percent(table))

    def draw(self) -> None:
        super().draw()
        self.curve.draw()

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._show_summary(info)

    def retranslate(self) -> None:
        super().retranslate()
        if self.info is not None:
            self._show_summary(self.info)

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        if self._has_ended:
            for card in (self.curve, self.accuracies, self.flags):
                card.explain(NOTHING)

    def beside_changed(self) -> None:
        if self._curve is not None:
            self._draw_curve(self._curve)

    def _draw_curve(self, table: Table) -> None:
        """This run's curve, and those of the runs that it is compared with."""
        self._curve = table
        self.curve.clear()
        name = self.info.name if self.info is not None else ""
        self._add_curve_of("", name, self._color, table)
        for info, record, color in self.beside():
            if "curve" in record.tables:
                self._add_curve_of(info.id, info.name, color, record.tables["curve"])
        self.curve.set_primary("")

    def _add_curve_of(self, key: str, name: str, color: str, table: Table) -> None:
        self.curve.set_series(key, name, color)
        radii = [float(row[0]) for row in table.rows]
        self.curve.replace(key, radii, [float(row[1]) for row in table.rows])

    def _show_summary(self, info: RunInfo) -> None:
        summary = info.summary
        bars = []
        if isinstance(summary.get("clean_accuracy"), int | float):
            bars.append((tr("Clean"), float(summary["clean_accuracy"]), "faint"))
        found = summary.get("robust_accuracy_by_attack")
        for name, share in found.items() if isinstance(found, dict) else ():
            bars.append((attack_name(str(name)), float(share), self._color))
        if isinstance(summary.get("robust_accuracy"), int | float) and len(bars) > 2:
            bars.append((tr("Worst case"), float(summary["robust_accuracy"]), self._color))
        self.accuracies.set_bars(bars)
        self.accuracies.warn(warning_of(summary))
        self._show_verdict(info)

    def _show_verdict(self, info: RunInfo) -> None:
        """The first line: whether the model is as required; nothing where nothing was."""
        unmet, words, tone = info.summary.get("unmet"), "", "bad"
        if isinstance(unmet, list):
            words = tr("Rejected: {why}", why="; ".join(unmet_text(str(each)) for each in unmet))
        elif info.spec.get("require") and info.status == "done":
            words, tone = tr("Accepted: the model is as required."), "good"
        self.verdict.setProperty("tone", tone)
        self.verdict.style().unpolish(self.verdict)
        self.verdict.style().polish(self.verdict)
        self.verdict.setText(words)
        self.verdict.setVisible(bool(words))


def unmet_text(text: str) -> str:
    """What was required and is not so, in the person's language."""
    for pattern in UNMET:
        if (found := matched(text, pattern)) is not None:
            inside = {"what": _accuracy, "flags": _titles}
            return tr(pattern, **{k: inside.get(k, str)(v) for k, v in found.items()})
    return text


def _accuracy(words: str) -> str:
    return word(words.replace(" ", "_"))


def _titles(titles: str) -> str:
    return ", ".join(map(tr, titles.split(", ")))


def attack_name(name: str) -> str:
    """As in "PGD", or "PGD 2" for the second of its kind."""
    kind, dash, number = name.rpartition("-")
    return f"{name_of(kind)} {number}" if dash and number.isdigit() else name_of(name)


def shares_as_percent(table: Table) -> Table:
    """The same table with accuracies and their like in percent, and attacks by their names."""
    shares = [
        place
        for place, column in enumerate(table.columns)
        if column.endswith(("accuracy", "agreement", "transfer", "low", "high", "mean"))
        or column.startswith("severity")
    ]
    rows = []
    for row in table.rows:
        shown = list(row)
        for place in shares:
            if isinstance(shown[place], float):
                shown[place] = Percent(100 * shown[place])
        if table.columns[0] in ("corruption", "noise"):
            shown[0] = tr(CORRUPTIONS.get(str(shown[0]), str(shown[0])))
        if table.columns[0] == "attack":
            shown[:2] = attack_name(str(shown[0])), name_of(str(shown[1]))
        rows.append(tuple(shown))
    return Table(table.name, table.columns, tuple(rows))
