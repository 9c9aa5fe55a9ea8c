"""Asks the engine about the selected sample of an attack or evaluation: what its decision rests on,
and the loss around it. Only the page that can be seen asks; an answer that comes when another
sample is selected is thrown away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject

from engine.store import RunInfo
from workbench.i18n import mark, tr
from workbench.panels.live import Ask
from workbench.refusals import error_text
from workbench.runs.book import ENDED
from workbench.views.comparison import Comparison
from workbench.views.explanation import METHODS, ExplanationCard, read_answer
from workbench.views.surface import SurfaceCard

NO_RUN = mark("Run an attack and select a sample to see what its decision rests on.")
NO_PLANE = mark("Run an attack and select a sample to see the loss around it.")
NO_PICTURES = mark("This run recorded no pictures.")
LATER = mark("Drawn when the run is over: the engine then has its examples.")
COMPUTING = mark("Being computed…")
FIRST = mark("Being computed… The engine loads what explains first, which takes some seconds.")


class Lens(QObject):
    """Fills the two pages. `ask` puts a question to the engine that is there at that time.
    `broken`: the comparison shows those samples of the run alone that were broken."""

    explained = False
    """The engine has answered once since the window was opened: what it needs is loaded."""

    def __init__(self, comparison: Comparison, ask: Ask, *, broken: bool = False) -> None:
        super().__init__(comparison)
        self.explanation = ExplanationCard()
        self.surface = SurfaceCard()
        self._comparison, self._ask = comparison, ask
        self._info: RunInfo | None = None
        self._turn = 0
        """Counts what was begun: an answer to something older is not wanted any more."""
        self._asked: dict[object, tuple[str, int]] = {}
        """Of each page, the run and sample that it shows or waits for."""
        self._troubles: dict[object, tuple[tuple[str, int], str]] = {}
        """Of each page, why there is nothing of which sample."""
        self._of: dict[str, Any] = {"broken": True} if broken else {}
        self._seed = 0
        comparison.add_page(mark("Explain"), self.explanation)
        comparison.add_page(mark("Surface"), self.surface)
        comparison.page_changed.connect(self.refresh)
        comparison.sample_changed.connect(self.refresh)
        self.explanation.maps.stepped.connect(comparison.step)
        self.surface.surface.stepped.connect(comparison.step)
        self.surface.redrawn.connect(self._redraw)
        self.set_run(None)

    def set_run(self, info: RunInfo | None) -> None:
        """The run that is shown now, or what became of it."""
        if info is None or self._info is None or info.id != self._info.id:
            self._forget()
        self._info = info
        self.refresh()

    def _forget(self) -> None:
        self._turn += 1
        self._asked.clear()
        self._troubles.clear()
        self.explanation.clear()
        self.surface.clear()

    def refresh(self) -> None:
        """Ask for what the page shows, if it can be known and is not there yet."""
        page, info = self._comparison.page, self._info
        ended = info is not None and info.status in ENDED
        key = (info.id if info is not None else "", self._comparison.selected)
        for card, promise in ((self.explanation, NO_RUN), (self.surface, NO_PLANE)):
            about, trouble = self._troubles.get(card, (None, ""))
            nothing = promise if info is None else NO_PICTURES if ended else LATER
            card.explain(trouble if about == key else nothing)
        seen = not self._comparison.isHidden()
        if not seen or page is None or info is None or not ended or not self._comparison.count:
            return
        if self._asked.get(page) == key:
            return
        self._asked[page] = key
        self._troubles.pop(page, None)
        self._turn += 1
        # What the other page still waited for will not come any more: it asks again when shown.
        for other in [o for o, k in self._asked.items() if o is not page]:
            if not self._is_full(other):
                del self._asked[other]
        if page is self.explanation:
            self.explanation.show_sample(
                key[1], *self._comparison.pictures, self._comparison.classes
            )
            self.explanation.maps.waiting = COMPUTING if Lens.explained else FIRST
            self._explain(key, list(METHODS))
        else:
            self.surface.begin(key[1], self._comparison.classes)
            self.surface.explain(COMPUTING)
            self._survey(key, 0)

    def _is_full(self, page: object) -> bool:
        if page in self._troubles:
            return True
        if page is self.explanation:
            return len(self.explanation.maps.found) == len(METHODS)
        grid = self.surface.surface.grid
        return grid is not None and grid.complete

    def _redraw(self) -> None:
        """Another random direction."""
        self._seed += 1
        self._asked.pop(self.surface, None)
        self.refresh()

    # --- questions ---

    def _while_wanted(
        self, then: Callable[[dict[str, Any], bytes], None]
    ) -> Callable[[dict[str, Any], bytes], None]:
        """`then`, unless something else has been begun by the time of the answer."""
        turn = self._turn

        def answered(answer: dict[str, Any], payload: bytes) -> None:
            if turn == self._turn:
                then(answer, payload)

        return answered

    def _refuse(
        self, card: ExplanationCard | SurfaceCard, key: tuple[str, int], answer: dict[str, Any]
    ) -> None:
        """Say why there is nothing of the sample `key`."""
        trouble = trouble_of(answer)
        self._troubles[card] = key, trouble
        card.clear()
        card.explain(trouble)

    def _explain(self, key: tuple[str, int], methods: list[str]) -> None:
        """One method after another: each is a question of its own, so that the first is seen at
        once and a run under way never waits long."""
        if not methods:
            return
        method, *rest = methods

        def add(answer: dict[str, Any], payload: bytes) -> None:
            if "error" in answer:  # the others would say the same
                self._refuse(self.explanation, key, answer)
                return
            Lens.explained = True
            self.explanation.maps.waiting = COMPUTING
            self.explanation.add(method, read_answer(answer, payload))
            self._explain(key, rest)

        question = {"kind": "explain", "run": key[0], "sample": key[1], "method": method} | self._of
        self._ask(question, self._while_wanted(add))

    def _survey(self, key: tuple[str, int], start: int) -> None:
        """The points from `start` on, coarse to fine, in as many questions as it takes."""

        def take_in(answer: dict[str, Any], payload: bytes) -> None:
            if "error" in answer:
                self._refuse(self.surface, key, answer)
                return
            self.surface.take_in(answer, payload)
            if answer["done"] < answer["side"] ** 2:
                self._survey(key, answer["done"])

        question = {
            "kind": "surface",
            "run": key[0],
            "sample": key[1],
            "seed": self._seed,
            "start": start,
        } | self._of
        self._ask(question, self._while_wanted(take_in))


def trouble_of(answer: dict[str, Any]) -> str:
    """Why there is no answer, as a sentence in the person's language."""
    text = error_text(str(answer["error"])) or tr("the engine gave no answer")
    return text[:1].upper() + text[1:]
