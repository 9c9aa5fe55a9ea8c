"""What each kind of audit is drawn by, curves over its steps aside (see `audit_view`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QGridLayout, QSizePolicy, QWidget

from engine.events import Images, Table
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, name_of, tr
from workbench.panels.budget import Bound, BudgetCard, delta_text
from workbench.panels.live import NOTHING
from workbench.runs.record import Record
from workbench.views.axes import Scale
from workbench.views.card import Card, seat
from workbench.views.curves import CurveCard
from workbench.views.histogram import Bin, HistogramCard
from workbench.views.mosaic import Link, Mosaic
from workbench.views.roc import RocCard
from workbench.views.table import Percent, TableCard
from workbench.views.text import number

STRENGTH = ("lira", "lira_offline", "calibrated", "loss")
"""Methods of membership inference, the strongest first."""
MEMBERS, OTHERS = "series:1", "series:0"
"""Colours of training images, or canaries that were in, and of others."""
ROC_COMES = mark(
    "True over false positives of each method, when the shadow models are trained. Choose a model "
    "in the form and press Start run."
)
AUC_COMES = mark(
    "How well members are told from others, as more and more shadow models are trained; .5 is "
    "guessing."
)
SCORES_COME = mark("How the scores of training images and of others lie, when they are known.")
EXPOSED_COME = mark("The training images that stand out most.")
FIGURES_COME = mark("The figures of each method, with their intervals, when they are known.")
COURSE_COMES = mark(
    "The epsilon that the run promises, and what the canaries show that it is at least. Choose a "
    "run that was trained with canaries."
)
NO_COURSE = mark("The audited run says nothing of an epsilon.")
CANARIES_COME = mark("How the scores of canaries that were in and of those that were out lie.")
BOUNDS_COME = mark("What was promised and what was shown, when it is known.")
NOISE_COMES = mark(
    "How large the noise was, as canaries that were left out show it, beside what was promised."
)
NO_NOISE = mark("Canaries of this kind do not show the noise.")
WHERE = {
    "each_step": mark("In each step"),
    "all_steps": mark("Over all steps"),
    "between_steps": mark("Sum over all steps, over independent draws"),
}
"""What the tests of the noise are called."""
ORIGINALS_COME = mark("The images that a gradient was taken of. Start an audit to see them.")
FOUND_COME = mark("What the gradient alone shows of them, changing as the search goes on.")
LIKENESS_COMES = mark("PSNR: above 20 dB an image is well known again.")
STRUCTURE_COMES = mark("SSIM: 1 is the very same image.")
DISTANCE_COMES = mark("How far the gradient of what was found is from the one that was seen.")
IMAGES_COME = mark("Each reconstruction, and whether a classifier recognises it, when it is over.")
COPY_COMES = mark("How far a copy agrees with the model, over the answers that it learnt from.")


class Part(QWidget):
    """The cards of one kind, two in a row."""

    tables: tuple[str, ...] = ()
    """Names of the tables that it draws."""

    def __init__(
        self,
        cards: Mapping[Card, str],
        *,
        wide: Sequence[Card] = (),
        curves: Mapping[str, CurveCard] | None = None,
    ) -> None:
        """`cards` with what will appear in each, in English; those that are `wide` take a row.
        `curves` among them belong to a quantity: the view draws its series there."""
        super().__init__()
        self.cards, self.curves = dict(cards), dict(curves or {})
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(10)
        for column in (0, 1):
            self._grid.setColumnStretch(column, 1)
        row = column = 0
        for card in self.cards:
            card.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
            if not isinstance(card, TableCard):
                card.setMinimumHeight(theme.px(230))
            if card in wide:
                row, column = row + bool(column), 0
                self._grid.addWidget(seat(card), row, 0, 1, 2)
                self._grid.setRowStretch(row, 0 if isinstance(card, TableCard) else 1)
                row += 1
            else:
                self._grid.addWidget(seat(card), row, column)
                self._grid.setRowStretch(row, 1)
                row, column = row + column, 1 - column

    def clear(self) -> None:
        """No run."""
        for card in self.cards:
            card.clear()  # type: ignore[attr-defined]

    def about(self, info: RunInfo | None, audited: tuple[RunInfo, Record, str] | None) -> None:
        """The audit that is shown, or that there is none yet; and the run that it is about, with
        what it recorded and its colour."""

    def show_table(self, table: Table) -> None:
        """Draw one of `tables`."""

    def show_images(self, images: Images) -> bool:
        """Draw pictures, if they belong here."""
        return False

    def draw(self) -> None:
        """Called on every tick while this can be seen."""

    def explain(self, has_ended: bool) -> None:
        """What to say where there is nothing."""
        for card, promise in self.cards.items():
            card.explain(NOTHING if has_ended else promise)


class MembershipPart(Part):
    """Who was a member: at what price how many are found, by which method."""

    tables = ("membership", "roc", "scores")

    def __init__(self) -> None:
        self.roc = RocCard(mark("Members found"))
        self.scores = HistogramCard(mark("Scores"), Scale(mark("Score")))
        self.figures = TableCard(mark("By method"))
        self.figures.fit(4)
        self.exposed = Mosaic(mark("Training images that stand out"))
        self.auc = CurveCard(mark("AUC over shadow models"), smooth=False)
        self.auc.plot.frame.counted = mark("Shadow models")
        super().__init__(
            {
                self.roc: ROC_COMES,
                self.auc: AUC_COMES,
                self.figures: FIGURES_COME,
                self.scores: SCORES_COME,
                self.exposed: EXPOSED_COME,
            },
            wide=(self.figures,),
            curves={"auc": self.auc},
        )
        self.exposed.view.words = lambda caption: number(float(caption.get("score", 0.0)))

    def show_table(self, table: Table) -> None:
        if table.name == "roc":
            self._show_roc(table)
        elif table.name == "scores":
            self._show_scores(table)
        else:
            self._show_figures(table)

    def show_images(self, images: Images) -> bool:
        if images.name == "exposed":
            self.exposed.set_images(images.pixels, images.captions, images.scale)
        return images.name == "exposed"

    def _show_roc(self, table: Table) -> None:
        points: dict[str, tuple[list[float], list[float]]] = {}
        for method, false, true in table.rows:
            xs, ys = points.setdefault(str(method), ([], []))
            xs.append(float(false))
            ys.append(float(true))
        self.roc.set_curves(
            {
                name_of(method): (f"series:{_place(method)}", *points[method])
                for method in _by_strength(points)
            }
        )

    def _show_scores(self, table: Table) -> None:
        """Of the strongest method."""
        methods = _by_strength({str(row[0]): None for row in table.rows})
        if methods:
            bins = [Bin(r[1], r[2], int(r[3]), int(r[4])) for r in table.rows if r[0] == methods[0]]
            self.scores.set_note(name_of(methods[0]))
            names = tr("training images"), tr("others")
            self.scores.set_pair(bins, names, (MEMBERS, OTHERS))

    def _show_figures(self, table: Table) -> None:
        rows = []
        for row in table.rows:
            told = dict(zip(table.columns, row, strict=True))
            rows.append(
                (
                    name_of(str(told["method"])),
                    f"{told['auc']:.3f} ({told['low']:.3f}–{told['high']:.3f})",
                    Percent(100 * told["balanced_accuracy"]),
                    *(_with_interval(told, rate) for rate in ("0.001", "0.01")),
                )
            )
        columns = ("method", "auc", "balanced_accuracy", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01")
        self.figures.set_table(columns, rows)


def _with_interval(told: Mapping[str, Any], rate: str) -> str:
    share, low, high = (told[f"{part}_{rate}"] for part in ("tpr_at_fpr", "low", "high"))
    return f"{100 * share:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _place(method: str) -> int:
    return STRENGTH.index(method) if method in STRENGTH else len(STRENGTH)


def _by_strength(methods: Mapping[str, Any]) -> list[str]:
    """The strongest first; what is not known last."""
    return sorted(methods, key=_place)


class CanaryPart(Part):
    """Whether epsilon can be true: the course of the run's own, and the bound from its canaries."""

    tables = ("bounds", "noise", "canaries")

    def __init__(self) -> None:
        self.budget = BudgetCard(empty=COURSE_COMES)
        self.scores = HistogramCard(
            mark("Scores of the canaries"), Scale(mark("Score")), mark("Canaries")
        )
        self.bounds = TableCard(mark("Bounds"))
        self.bounds.fit(1)
        self.noise = TableCard(mark("Noise, in clipping norms"))
        self.noise.fit(3)
        super().__init__(
            {
                self.budget: COURSE_COMES,
                self.scores: CANARIES_COME,
                self.bounds: BOUNDS_COME,
                self.noise: NOISE_COMES,
            },
            wide=(self.bounds, self.noise),
        )

    def clear(self) -> None:
        super().clear()
        self.budget.promises = True

    def about(self, info: RunInfo | None, audited: tuple[RunInfo, Record, str] | None) -> None:
        self.budget.clear()
        if audited is not None:
            run, record, color = audited
            self.budget.set_note(run.name)
            self.budget.show_record(run, record, color)
        lower = info.summary.get("epsilon_lower_bound") if info is not None else None
        if info is not None and isinstance(lower, int | float):
            self.budget.set_bound(Bound.of(info, info.name))
        self.budget.rest()

    def explain(self, has_ended: bool) -> None:
        super().explain(has_ended)
        self.noise.explain(NO_NOISE if has_ended else NOISE_COMES)
        self.budget.explain(NO_COURSE if has_ended else COURSE_COMES)

    def show_table(self, table: Table) -> None:
        if table.name == "bounds":
            columns = [c if c != "epsilon" else "epsilon_promised" for c in table.columns]
            rows = [(delta_text(float(row[0])), *row[1:]) for row in table.rows]
            self.bounds.set_table(columns, rows)
        elif table.name == "noise":
            named = [(tr(WHERE.get(str(row[0]), str(row[0]))), *row[1:]) for row in table.rows]
            self.noise.set_table(table.columns, named)
        else:
            bins = [Bin(low, high, int(inside), int(out)) for low, high, inside, out in table.rows]
            self.scores.set_pair(bins, (tr("in"), tr("out")), (MEMBERS, OTHERS))

    def draw(self) -> None:
        self.budget.draw()


class ExtractionPart(Part):
    """How good a copy gets, over the number of answers it learnt from."""

    tables = ("extraction",)

    def __init__(self) -> None:
        self.curve = CurveCard(
            mark("The copy, over the answers it learnt from"),
            percent=True,
            smooth=False,
            over=mark("Queries"),
            empty=COPY_COMES,
        )
        self.figures = TableCard(mark("By number of queries"))
        self.figures.fit(8)
        cards = {self.curve: COPY_COMES, self.figures: FIGURES_COME}
        super().__init__(cards, wide=tuple(cards))
        self._color = "series:0"
        self._table: Table | None = None
        self._model: float | None = None

    def clear(self) -> None:
        super().clear()
        self._table = self._model = None

    def about(self, info: RunInfo | None, audited: tuple[RunInfo, Record, str] | None) -> None:
        found = info.summary.get("model_accuracy") if info is not None else None
        self._model = float(found) if isinstance(found, int | float) else None
        if self._table is not None:
            self.show_table(self._table)

    def show_table(self, table: Table) -> None:
        self._table = table
        queries = [float(row[0]) for row in table.rows]
        self.curve.clear()
        for key, name, place, color in (
            ("agreement", tr("agrees with the model"), 1, "series:0"),
            ("accuracy", tr("is right"), 4, "series:1"),
        ):
            self.curve.set_series(key, name, color)
            self.curve.replace(key, queries, [float(row[place]) for row in table.rows])
        if self._model is not None:
            self.curve.set_line(tr("the model itself"), self._model, "muted")
        if table.rows:
            self.curve.set_value(self.curve.plot.frame.text(float(table.rows[-1][1])))
        self.figures.set_table(
            ("queries", "agreement", "interval", "accuracy"),
            [
                (n, Percent(100 * a), f"{100 * low:.1f}–{100 * high:.1f}", Percent(100 * right))
                for n, a, low, high, right in table.rows
            ],
        )

    def draw(self) -> None:
        self.curve.draw()


class InversionPart(Part):
    """The images that a gradient was taken of, beside what it alone shows of them."""

    def __init__(self) -> None:
        link = Link()
        self.original = Mosaic(mark("Original"), link=link)
        self.reconstruction = Mosaic(mark("Reconstruction"), link=link)
        self.likeness = CurveCard(mark("Likeness to the originals"), unit="dB", smooth=False)
        self.structure = CurveCard(mark("Structural similarity"), smooth=False)
        self.distance = CurveCard(mark("Distance of the gradients"), smooth=False)
        self.figures = TableCard(mark("By image"))
        super().__init__(
            {
                self.original: ORIGINALS_COME,
                self.reconstruction: FOUND_COME,
                self.likeness: LIKENESS_COMES,
                self.structure: STRUCTURE_COMES,
                self.distance: DISTANCE_COMES,
                self.figures: IMAGES_COME,
            },
            curves={"psnr": self.likeness, "ssim": self.structure, "loss": self.distance},
        )
        link.setParent(self)
        self.reconstruction.view.words = likeness
        self.distance.set_log(True)
        for card in (self.original, self.reconstruction):
            card.setMinimumHeight(theme.px(290))
        for card in (self.likeness, self.structure, self.distance, self.figures):
            card.setMinimumHeight(theme.px(180))

    tables = ("reconstructions",)

    def show_table(self, table: Table) -> None:
        self.figures.set_table(table.columns, table.rows)

    def show_images(self, images: Images) -> bool:
        card = {"original": self.original, "reconstruction": self.reconstruction}.get(images.name)
        if card is None:
            return False
        card.set_images(images.pixels, images.captions, images.scale)
        return True


def likeness(caption: Mapping[str, Any]) -> str:
    """As in "21.3 dB · .87"."""
    parts = []
    if isinstance(caption.get("psnr"), int | float):
        parts.append(f"{number(float(caption['psnr']))}\u202fdB")
    if isinstance(caption.get("ssim"), int | float):
        parts.append(f"SSIM {float(caption['ssim']):.2f}".replace("-", "−"))
    return " · ".join(parts)


def parts() -> dict[str, Part]:
    """One part a kind of audit."""
    return {
        "membership": MembershipPart(),
        "canaries": CanaryPart(),
        "inversion": InversionPart(),
        "extraction": ExtractionPart(),
    }
