"""The embedding and the table of an attack's samples, beside its mosaics: the same filters, the
same selected sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QItemSelectionModel, QObject

from engine.store import RunInfo
from workbench.i18n import mark, tr
from workbench.panels.live import Ask
from workbench.refusals import error_text
from workbench.runs.book import ENDED
from workbench.views.comparison import Comparison
from workbench.views.embedding import LATER, NOTHING, START, EmbeddingCard, read_answer
from workbench.views.filters import OUTCOMES, Filter, Rules, Sample
from workbench.views.mosaic import NONE_KEPT, class_name
from workbench.views.table import TableCard
from workbench.words import measure

COLUMNS = ("sample", "true_class", "before", "after", "outcome", "size_of_change")
PERIOD = 10
"""Ticks between two looks at the table while an attack runs."""


class Atlas(QObject):
    """Fills the two pages. `ask` puts a question to the engine that is there at that time, `drop`
    gives one up."""

    def __init__(self, comparison: Comparison, ask: Ask, drop: Callable[[str], None]) -> None:
        super().__init__(comparison)
        self.embedding = EmbeddingCard()
        self.table = TableCard(mark("Sample by sample"))
        self._comparison, self._ask, self._drop = comparison, ask, drop
        self._info: RunInfo | None = None
        self._turn = 0
        """Counts what was begun: an answer to something older is not wanted any more."""
        self._stale = False
        self._filled_for = Filter()
        self._ticks = 0
        self._choosing = False
        comparison.add_page(mark("Table"), self.table)
        comparison.add_page(mark("Embedding"), self.embedding)
        comparison.sifted.connect(self._sift)
        comparison.sample_changed.connect(self._select)
        comparison.page_changed.connect(self._turned)
        comparison.further = self._pair
        self.embedding.wanted.connect(self._compute)
        self.embedding.stopped.connect(self._stop)
        self.embedding.plane.picked.connect(comparison.select)
        self.table.table.selectionModel().currentRowChanged.connect(self._row_chosen)

    def set_run(self, info: RunInfo | None) -> None:
        """The run that is shown now, or what became of it."""
        if info is None or self._info is None or info.id != self._info.id:
            self._forget()
        self._info = info
        ended = info is not None and info.status in ENDED
        if info is not None:
            self._comparison.set_rules(rules_of(info))
            self.embedding.plane.measure = _measure(info)
        self.embedding.explain(NOTHING if info is None else START if ended else LATER)
        self.embedding.allow(ended)

    def draw(self) -> None:
        """Called on every tick while the view can be seen."""
        self._ticks += 1
        if self._stale and self._ticks % PERIOD == 0:
            self.fill()

    # --- what the filters leave

    def _sift(self) -> None:
        found, wanted = self.embedding.plane.found, self._comparison.filters.filter
        kept = None
        if found is not None and wanted:
            kept = [k for k, sample in enumerate(found.samples) if wanted.keeps(sample)]
        self.embedding.keep(kept)
        self._stale = True
        ended = self._info is None or self._info.status in ENDED
        if ended or wanted != self._filled_for:
            self.fill()

    def fill(self) -> None:
        """Put what is known of the samples into the table."""
        if self._comparison.page is not self.table:
            return
        self._stale = False
        self._filled_for = self._comparison.filters.filter
        samples, classes = self._comparison.samples, self._comparison.classes
        rows = [row_of(k, samples[k], classes) for k in self._comparison.kept]
        self.table.set_table(COLUMNS, rows)
        if samples and not rows:
            self.table.set_empty(tr(NONE_KEPT))
        self._select()

    def _turned(self) -> None:
        if self._comparison.page is self.table:
            self.fill()

    # --- the selected sample

    def _select(self) -> None:
        index = self._comparison.selected
        self.embedding.plane.select(index)
        view, kept = self.table.table, self._comparison.kept
        if index not in kept or self.table.model.rowCount() != len(kept):
            return
        proxy = view.model()
        place = proxy.mapFromSource(self.table.model.index(kept.index(index), 0))
        self._choosing = True
        flags = QItemSelectionModel.SelectionFlag
        view.selectionModel().setCurrentIndex(place, flags.ClearAndSelect | flags.Rows)
        self._choosing = False

    def _row_chosen(self, now: Any, before: Any) -> None:
        if not self._choosing and now.isValid():
            row = self.table.table.model().mapToSource(now).row()
            self._comparison.select(int(self.table.model.rows[row][0]) - 1)

    def _pair(self, index: int) -> Any:
        found = self.embedding.plane.found
        return found.pair(index) if found is not None else None

    # --- the engine

    def _compute(self, space: str, method: str) -> None:
        info = self._info
        if info is None:
            return
        self._turn += 1
        turn, rules = self._turn, rules_of(info)
        self.embedding.begin()

        def answered(answer: dict[str, Any], payload: bytes) -> None:
            if turn != self._turn:
                return
            if "error" in answer:
                trouble = error_text(str(answer["error"]))
                self.embedding.show_embedding(None, trouble[:1].upper() + trouble[1:])
                return
            found = read_answer(answer, payload, rules)
            self._comparison.set_beyond(len(found.samples))
            self.embedding.show_embedding(found)
            self._sift()
            self._select()

        self._ask({"kind": "embed", "run": info.id, "space": space, "method": method}, answered)

    def _stop(self) -> None:
        self._turn += 1
        self._drop("embed")

    def _forget(self) -> None:
        if self.embedding.computing:
            self._stop()
        self._turn += 1
        self.embedding.show_embedding(None)
        self._comparison.set_beyond(0)


def rules_of(info: RunInfo) -> Rules:
    """What counts as success in an attack."""
    attack = info.spec.get("attack") or {}
    eps = attack.get("eps")
    return Rules(
        targeted=bool(attack.get("targeted")),
        eps=float(eps) if isinstance(eps, int | float) else None,
        over=info.status in ("done", "rejected"),
    )


def row_of(index: int, sample: Sample, classes: tuple[str, ...]) -> tuple[Any, ...]:
    """A sample as a row of COLUMNS."""

    def called(label: int | None) -> str:
        if label is None:
            return ""
        return tr("no number") if label == -1 else class_name(label, classes)

    return (
        index + 1,
        called(sample.label),
        called(sample.before),
        called(sample.after),
        tr(OUTCOMES[sample.outcome]),
        sample.norm if sample.norm is not None else "",
    )


def _measure(info: RunInfo) -> str:
    norm = (info.spec.get("attack") or {}).get("norm")
    return measure(str(norm)) if norm else ""
