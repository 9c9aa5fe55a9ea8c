"""How an evaluation is drawn (see `evaluate_panel`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from engine.events import Images, Table
from engine.robustness.flags import FLAGS
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, matched, name_of, tr, tr_like
from workbench.mailbox import News
from workbench.panels.atlas import Atlas
from workbench.panels.lens import Lens
from workbench.panels.live import NOTHING, LiveView
from workbench.panels.stage import DURING, StageView
from workbench.runs.record import Record
from workbench.views.bars import BarsCard
from workbench.views.card import Card, seat
from workbench.views.curves import CurveCard
from workbench.views.table import Percent, TableCard, cell
from workbench.views.text import NARROW
from workbench.words import hidden_text, warning_of, word

OWN = ("curve", "flags", "unchecked", "classes", "certificate", "certified_curve", "certified")
"""Tables that are drawn in a way of their own, or not at all."""
CURVE = mark("Drawn when the attacks are over.")
ACCURACIES = mark("Drawn when an attack is over.")
CHECKS = mark("What the checks of the evaluation find appears here.")
CERTIFIED = mark("Drawn as samples are certified.")
"""What will appear in the cards."""
UNMET = (
    mark(
        "{what} >= {least} at {norm} {radius} is required; it is {share} on {count} samples, so "
        "at least {low}",
    ),
    mark(
        "{what} >= {least} at {norm} {radius} is required; it is {share}, but the certificate is "
        "contradicted"
    ),
    mark(
        "{what} >= {least} is required; it is {share} on {count} samples, so at least {low}",
    ),
    mark(
        "epsilon at most {upper} was promised at delta {delta}; the canaries show that it is at "
        "least {lower}, with a confidence of {sure}"
    ),
    mark(
        "the noise is smaller than promised: in each step, its deviation is {found} clipping norms "
        "a step, and {promised} was promised; {limit} could be chance"
    ),
    mark(
        "the noise is smaller than promised: over all steps, its deviation is {found} clipping "
        "norms a step, and {promised} was promised; {limit} could be chance"
    ),
    mark(
        "noise comes again: over all steps it adds up to {found} times as much as independent "
        "draws would, and up to {limit} could be chance"
    ),
    mark("{what} >= {least} is required; it is {share}, but the checks doubt that: {flags}"),
)
EVIDENCE = (
    mark(
        "{count} passes of the same images differ by up to {number}; up to {share} of the "
        "predictions changed"
    ),
    mark("all outputs lie between 0 and 1 and add up to 1"),
    mark("all outputs lie between 0 and 1, as out of a sigmoid"),
    mark("those of {some} of {all} images lie between 0 and 1 and add up to 1"),
    mark("of the margin, at {zero} of {all} clean images"),
    mark("of the margin, at {zero} of {all} images of the ball"),
    mark("of cross-entropy, at {zero} of {all} clean images"),
    mark("of cross-entropy, at {zero} of {all} images of the ball"),
    mark(
        "of {all} small steps along the gradient at clean images, {off} changed the margin by less "
        "than half or more than twice of what it foretold (median {ratio} of it)"
    ),
    mark(
        "of {all} small steps along the gradient at images of the ball, {off} changed the margin "
        "by less than half or more than twice of what it foretold (median {ratio} of it)"
    ),
    mark(
        "of {all} clean images, small steps in random directions change the margin of {off} by "
        "something else than the gradient foretold (median difference {share})"
    ),
    mark(
        "of {all} images of the ball, small steps in random directions change the margin of {off} "
        "by something else than the gradient foretold (median difference {share})"
    ),
    mark(
        "of {all} steps along the gradient at clean images, twice as long as it says the decision "
        "is away, {off} did not lead a tenth of the way there"
    ),
    mark(
        "of {all} steps along the gradient at images of the ball, twice as long as it says the "
        "decision is away, {off} did not lead a tenth of the way there"
    ),
    mark(
        "by their gradients, {far} of {all} clean images are more than {times} times as far from "
        "another class as it is on the way to another image (median {median})"
    ),
    mark("seen: {what}"),
    mark("in batches of {one} and of {other} images, answers differ by up to {number}"),
    mark("changed by a pass: {names}"),
    mark("answers to clean images differ from those before the attacks by up to {number}"),
    mark(
        "{off} of {all} images of the attacks are answered otherwise when they are asked again, by "
        "up to {number}"
    ),
    mark(
        "{off} of {all} images of the attacks are answered otherwise by a copy that was asked "
        "nothing before, by up to {number}"
    ),
    mark("a pass has changed the images that it was given"),
    mark("with and without gradients, answers to clean images differ by up to {number}"),
    mark("with and without gradients, answers to images of the ball differ by up to {number}"),
    mark("{withstand} of {all} samples withstand epsilon {eps}"),
    mark("{bad} of {all} clean images"),
    mark("{bad} of {all} images of the ball"),
    mark("of {bad} of {all} images, inside the attacks alone"),
    mark(
        "{missed} samples that count as robust were attacked by nothing, or by nothing to its end"
    ),
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
    mark(
        "broken by the checks alone, within {radius} in {norm}: {more} of {all} samples against "
        "{fewer} the other way round"
    ),
)
"""What the checks measure, for translation."""
UNCHECKED = (
    mark(
        "Too few samples to find a trick that acts on a part of them: {count} were looked at, and "
        "{needed} are needed."
    ),
    mark(
        "No samples were to be checked (checked = 0), so attacks were neither compared with each "
        "other nor tried without bounds, and these flags cannot be raised: {flags}. Two attacks "
        "have to differ on {least} samples that withstand, as {left} of {all} do: {needed} are "
        "needed."
    ),
    mark(
        "No samples were to be checked (checked = 0), so attacks were neither compared with each "
        "other nor tried without bounds, and these flags cannot be raised: {flags}."
    ),
    mark(
        "Too few samples to compare attacks: {standing} of {count} that were checked withstand, "
        "and two attacks have to differ on {least} for p < .01. As {left} of {all} withstand the "
        "evaluation, {needed} are needed."
    ),
    mark(
        "Whether the gradients at clean images are those of the model is not known: what they "
        "foretell drowns in rounding."
    ),
    mark(
        "Whether the gradients at images of the ball are those of the model is not known: what "
        "they foretell drowns in rounding."
    ),
    mark("The checks know no attack in {norm}: they looked at a ball of {other} of {eps}."),
    mark("The evaluation was stopped: its checks are incomplete."),
)
"""What the checks could not look at, for translation."""

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
    "weights": mark("Weights of the model"),
}
"""What corruptions and kinds of noise are called."""


class FlagsCard(Card):
    """Why the figures may mislead: each flag with its evidence, what it means and what to try."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Can it be believed?"), parent)
        self._explain = CHECKS
        self._rows: tuple[tuple[Any, ...], ...] | None = None
        self._unchecked: tuple[str, ...] = ()
        self._list = QWidget(self)
        self._column = QVBoxLayout(self._list)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(10)
        self.body.addWidget(self._list, 1)
        self._show_emptiness()

    def set_flags(self, rows: Sequence[Sequence[Any]] | None) -> None:
        """Rows of flag, evidence and p; None while nothing is known."""
        self._rows = None if rows is None else tuple(map(tuple, rows))
        self._unchecked = ()  # what could not be checked follows, if anything
        self.retranslate()

    def set_unchecked(self, rows: Sequence[Sequence[Any]]) -> None:
        """Rows of one sentence each, after the flags."""
        self._unchecked = tuple(str(row[0]) for row in rows)
        self.retranslate()

    def retranslate(self) -> None:
        super().retranslate()
        if not hasattr(self, "_list"):
            return
        while (item := self._column.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for row in self._rows or ():
            self._column.addWidget(_flag(*row, parent=self._list))
        for each in self._unchecked:
            self._column.addWidget(_words(tr_like(each, UNCHECKED), "warn", self._list))
        if self._rows == () and not self._unchecked:
            text = tr("The checks found nothing that speaks against these figures.")
            self._column.addWidget(_words(text, "good", self._list))
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
    shown = evidence_text(evidence)
    found = shown if p is None else f"{shown} (p = {p:.2g})"
    column.addWidget(_words(found[:1].upper() + found[1:], "muted", box))
    if known is not None:
        column.addWidget(_words(tr(known.means), "", box))
        column.addWidget(_words(tr("Try: {advice}", advice=tr(known.advice)), "", box))
    return box


def evidence_text(text: str) -> str:
    """What a check measured, in the person's language; also with "(p = ...)" behind it."""
    words, p, number = text.partition(" (p = ")
    return (hidden_text(words) or tr_like(words, EVIDENCE)) + p + number


def _words(text: str, tone: str, parent: QWidget) -> QLabel:
    label = QLabel(text, parent)
    label.setWordWrap(True)
    if tone:
        label.setProperty("tone", tone)
    return label


class CertifiedCards(QWidget):
    """What is proved: over the radius, beside what attacks on the same classifier left, and at the
    radii that were asked for. There are none where nothing is to be certified."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.curve = CurveCard(
            mark("Certified accuracy over the radius"),
            percent=True,
            smooth=False,
            over=mark("Radius"),
            empty=CERTIFIED,
        )
        self.table = TableCard(mark("Certified at the radii"))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        for card in (self.curve, self.table):
            card.setMinimumHeight(theme.px(284))
            card.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
            row.addWidget(seat(card), 1)
        self.hide()

    def show_certificate(self, table: Table) -> None:
        kind, norm, _ = table.rows[0]
        self.curve.set_note(f"{name_of(str(kind))} · {name_of(str(norm))}")
        self.show()

    def show_radii(self, table: Table) -> None:
        """One row a radius, its interval in one column."""
        rows = []
        for radius, share, low, high, left in table.rows:
            interval = f"{100 * low:.1f}–{100 * high:.1f}"
            withstood = None if left is None else Percent(100 * left)
            rows.append((radius, Percent(100 * share), interval, withstood))
        columns = ("radius", "certified_accuracy", "interval", "robust_accuracy")
        self.table.set_table(columns, rows)

    def clear(self) -> None:
        self.curve.clear()
        self.table.clear()
        self.hide()

    def add(self, key: str, name: str, color: str, tables: Mapping[str, Table]) -> None:
        """The curves of a run: proved, dashed, and attacked."""
        add_certified(self.curve, key, name, color, tables)
        radii, left = attacked_of(tables)
        if len(radii) > 1:
            self.curve.set_series(f"{key}/attacked", tr("{name}, attacked", name=name), color)
            self.curve.replace(f"{key}/attacked", radii, left)


def add_certified(
    card: CurveCard, key: str, name: str, color: str, tables: Mapping[str, Table]
) -> None:
    """The certified accuracy of a run, dashed."""
    if "certified_curve" in tables:
        rows = tables["certified_curve"].rows
        label = tr("{name}, certified", name=name)
        card.set_series(f"{key}/certified", label, color, dashed=True)
        radii, shares = [float(row[0]) for row in rows], [float(row[1]) for row in rows]
        card.replace(f"{key}/certified", radii, shares)


def attacked_of(tables: Mapping[str, Table]) -> tuple[list[float], list[float]]:
    """Radii at which the certified classifier was attacked, and what share withstood."""
    if "certified" not in tables:
        return [], []
    rows = [row for row in tables["certified"].rows if row[4] is not None]
    return [float(row[0]) for row in rows], [float(row[4]) for row in rows]


def beside_curve(tables: Mapping[str, Table]) -> bool:
    """Whether the certificate is about the same classifier and norm as the curve."""
    return "certificate" in tables and tables["certificate"].rows[0][2] == "curve"


class EvaluateView(LiveView):
    """The curve over the radius, the accuracies by attack, the flags, and every table."""

    first_row = 5
    table_rows = 20

    def __init__(self, parent: QWidget | None = None) -> None:
        self.curve = CurveCard(
            mark("Robust accuracy over epsilon"),
            percent=True,
            smooth=False,
            over=mark("Epsilon"),
            empty=CURVE,
        )
        self.accuracies = BarsCard(mark("Accuracy by attack"), empty=ACCURACIES)
        self.flags = FlagsCard()
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.hide()
        self.certified = CertifiedCards()
        self.stage = StageView(lambda name: attack_name(name))
        self.atlas = Atlas(
            self.stage.during,
            lambda question, answer: self.ask(question, answer),
            lambda kind: self.drop(kind),
        )
        self.lenses = (
            Lens(self.stage.during, lambda question, answer: self.ask(question, answer)),
            Lens(
                self.stage.after, lambda question, answer: self.ask(question, answer), broken=True
            ),
        )
        """About the first samples, and about those that were broken."""
        for lens in self.lenses:
            self.stage.tabs.changed.connect(lens.refresh)
        self.stage.during.add_export(self._export_set)
        self._curve: Table | None = None
        self._proved: dict[str, Table] = {}
        self._raw: dict[str, Table] = {}
        """Every table as it came, to be said again in another language."""
        self._contradicted = 0
        self._clean: float | None = None
        self._by_attack: dict[str, float] = {}
        """Robust accuracy after each attack that is over."""
        super().__init__(
            parent,
            tables={"attacks": mark("Attacks"), "by_class": mark("By class")},
            empty=mark("Drawn while a model is judged. Choose one in the form and press Start."),
        )
        for card in (self.curve, self.accuracies):
            card.setMinimumHeight(theme.px(220))
        self.grid.addWidget(self.verdict, 0, 0, 1, 2)
        self.grid.addWidget(self.stage, 1, 0, 1, 2)
        self.grid.addWidget(self.curve, 2, 0)
        self.grid.addWidget(self.accuracies, 2, 1)
        self.grid.addWidget(self.certified, 3, 0, 1, 2)
        self.grid.addWidget(self.flags, 4, 0, 1, 2)

        self.pages = self.stage.during

    def turn_to(self, title: str) -> bool:
        found = super().turn_to(title)
        if found:
            self.stage.tabs.set_current(DURING)
        return found

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        super().show_run(info, record, color)
        self.stage.show_frames(record.frames)
        self._show_samples(info)
        self._show_summary(info)

    def show_nothing(self) -> None:
        super().show_nothing()
        self._curve = None
        self._proved = {}
        self._raw.clear()
        self._contradicted = 0
        self._clean, self._by_attack = None, {}
        self.curve.clear()
        self.certified.clear()
        self.stage.clear()
        self._show_samples(None)
        self.accuracies.set_bars([])
        self.accuracies.warn("")
        self.flags.set_flags(None)
        self.verdict.hide()

    def show_table(self, table: Table) -> None:
        if table.name != "running":
            self._raw[table.name] = table
        if table.name == "curve":
            self._draw_curve(table)
        elif table.name in ("certificate", "certified_curve", "certified"):
            self._proved[table.name] = table
            self._draw_certified(table)
        elif table.name == "flags":
            self.flags.set_flags(table.rows)
        elif table.name == "unchecked":
            self.flags.set_unchecked(table.rows)
        elif table.name == "running":
            _, number, _, left, samples, *more = table.rows[0]
            correct = more[0] if more else left if number == 1 else None
            if correct is not None and samples:
                self._clean = correct / samples
                if self.info is not None:
                    self._show_summary(self.info)
            self.stage.show_running(table.rows[0])
        elif table.name not in OWN:
            if table.name == "contradictions":
                self._contradicted = len({row[0] for row in table.rows})
            super().show_table(shares_as_percent(table))

        if table.name == "classes":
            self.stage.set_classes([str(row[-1]) for row in table.rows])
        elif table.name == "attacks" and "robust_accuracy" in table.columns:
            self.stage.show_attacks(table.rows, table.columns.index("robust_accuracy"))
            self._by_attack = attacks_of(table)
            if self.info is not None:
                self._show_summary(self.info)

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if not self.stage.show_images(images):
            super().show_images(images, frames)

    def news(self, news: News) -> None:
        super().news(news)
        if news.progress is not None:
            self.stage.show_progress(news.progress)

    def draw(self) -> None:
        super().draw()
        self.curve.draw()
        self.certified.curve.draw()
        self.atlas.draw()

    def _export_set(self) -> None:
        if self.info is not None:
            self.save_set(self.info.id)

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._show_samples(info)
        self._show_summary(info)

    def _show_samples(self, info: RunInfo | None) -> None:
        """What can be seen of single samples, and why there is nothing to be seen."""
        self.atlas.set_run(info)
        for lens in self.lenses:
            lens.set_run(info)
        none = info is not None and self._has_ended and info.spec.get("show") == 0
        self.stage.set_absent(none)

    def retranslate(self) -> None:
        super().retranslate()
        self.stage.retranslate()
        if self.info is not None:
            for table in list(self._raw.values()):  # what the cells and curves are called
                self.show_table(table)
            self._show_summary(self.info)

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        for card, promise in (
            (self.curve, CURVE),
            (self.accuracies, ACCURACIES),
            (self.flags, CHECKS),
            (self.certified.curve, CERTIFIED),
        ):
            card.explain(NOTHING if self._has_ended else promise)

    def beside_changed(self) -> None:
        if self._curve is not None:
            self._draw_curve(self._curve)
        if "certified_curve" in self._proved:
            self._draw_certified(self._proved["certified_curve"])

    def _draw_certified(self, table: Table) -> None:
        """What is proved of this run, and of those that it is compared with: beside their curves
        where it is about the same."""
        if beside_curve(self._proved):
            if self._curve is not None:
                self._draw_curve(self._curve)
            return
        if table.name == "certificate":
            self.certified.show_certificate(table)
            return
        if table.name == "certified":
            self.certified.show_radii(table)
        card = self.certified.curve
        card.clear()
        name = self.info.name if self.info is not None else ""
        self.certified.add("", name, self._color, self._proved)
        for info, record, color in self.beside():
            if not beside_curve(record.tables):
                self.certified.add(info.id, info.name, color, record.tables)

    def _draw_curve(self, table: Table) -> None:
        """This run's curve, and those of the runs that it is compared with."""
        self._curve = table
        self.curve.clear()
        name = self.info.name if self.info is not None else ""
        self._add_curve_of("", name, self._color, table)
        if beside_curve(self._proved):
            add_certified(self.curve, "", name, self._color, self._proved)
        for info, record, color in self.beside():
            if "curve" in record.tables:
                self._add_curve_of(info.id, info.name, color, record.tables["curve"])
            if beside_curve(record.tables):
                add_certified(self.curve, info.id, info.name, color, record.tables)
        self.curve.set_primary("")

    def _add_curve_of(self, key: str, name: str, color: str, table: Table) -> None:
        self.curve.set_series(key, name, color)
        radii = [float(row[0]) for row in table.rows]
        self.curve.replace(key, radii, [float(row[1]) for row in table.rows])

    def _show_summary(self, info: RunInfo) -> None:
        summary = info.summary
        bars = []
        clean = summary.get("clean_accuracy", self._clean)
        if isinstance(clean, int | float):
            bars.append((tr("Clean"), float(clean), "faint"))
        found = summary.get("robust_accuracy_by_attack") or self._by_attack
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
        if self._contradicted:
            words = tr(
                "Contradicted: attacks changed answers that were proved not to change, on "
                "{count} images. Do not use these radii.",
                count=self._contradicted,
            )
        elif isinstance(unmet, list):
            words = tr("Rejected: {why}", why="; ".join(unmet_text(str(each)) for each in unmet))
        elif info.spec.get("require") and info.status == "done":
            words, tone = tr("Accepted: the model is as required."), "good"
        self.verdict.setProperty("tone", tone)
        self.verdict.style().unpolish(self.verdict)
        self.verdict.style().polish(self.verdict)
        self.verdict.setText(words)
        self.verdict.setVisible(bool(words))


def attacks_of(table: Table) -> dict[str, float]:
    """The robust accuracy after each attack of the table of attacks, by the attack's name."""
    share = table.columns.index("robust_accuracy")
    return {str(row[0]): float(row[share]) for row in table.rows}


def unmet_text(text: str) -> str:
    """What was required and is not so, in the person's language."""
    for pattern in UNMET:
        if (found := matched(text, pattern)) is not None:
            inside = {"what": _accuracy, "flags": _titles, "norm": name_of, "sure": _sure}
            inside |= dict.fromkeys(SHARES, _percent)
            return tr(pattern, **{k: inside.get(k, str)(v) for k, v in found.items()})
    return text


SHARES = ("least", "share", "low")
"""Of what is said there, the accuracies."""


def _percent(fraction: str) -> str:
    return f"{100 * float(fraction):.2f}".rstrip("0").rstrip(".") + f"{NARROW}%"


def _sure(share: str) -> str:
    return _percent(str(float(share.rstrip("%")) / 100))


def _accuracy(words: str) -> str:
    return word(words.replace(" ", "_"))


def _titles(titles: str) -> str:
    return ", ".join(map(tr, titles.split(", ")))


def attack_name(name: str) -> str:
    """As in "PGD", or "PGD 2" for the second of its kind, or "BPDA PGD" for straight through."""
    if name.endswith("-through"):
        return f"BPDA {attack_name(name.removesuffix('-through'))}"
    kind, dash, number = name.rpartition("-")
    return f"{name_of(kind)} {number}" if dash and number.isdigit() else name_of(name)


def shares_as_percent(table: Table) -> Table:
    """The same table with accuracies and their like in percent, the ends of an interval in one
    column, and attacks by their names."""
    shares = [
        place
        for place, column in enumerate(table.columns)
        if column.endswith(("accuracy", "agreement", "transfer", "low", "high", "mean"))
        or column.startswith("severity")
    ]
    columns, rows = list(table.columns), []
    bounds = columns.index("low") if {"low", "high"} <= set(columns) else None
    if bounds is not None:
        columns[bounds : bounds + 2] = ["interval"]
    for row in table.rows:
        shown = list(row)
        for place in shares:
            if isinstance(shown[place], float):
                shown[place] = Percent(100 * shown[place])
        if table.columns[0] in ("corruption", "noise"):
            shown[0] = tr(CORRUPTIONS.get(str(shown[0]), str(shown[0])))
        if table.columns[0] == "attack":
            shown[:2] = attack_name(str(shown[0])), name_of(str(shown[1]))
        if bounds is not None:
            ends = [cell(end) for end in shown[bounds : bounds + 2]]
            shown[bounds : bounds + 2] = ["–".join(ends)]
        rows.append(tuple(shown))
    return Table(table.name, tuple(columns), tuple(rows))
