"""How a private training is drawn (see `privacy_panel`): its budget and what it buys above, then
what a training without privacy shows too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtWidgets import QWidget

from engine.events import Table
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.budget import (
    AHEAD,
    COMPUTING,
    NO_EPSILON,
    NOT_PRIVATE,
    PLAN,
    BudgetCard,
    bound_of,
)
from workbench.panels.live import NOTHING, Ask, Curve
from workbench.panels.tradeoff import TradeoffCard, data_of, identity, root_of
from workbench.panels.train_view import TrainView
from workbench.refusals import error_text
from workbench.runs.record import Record
from workbench.views.axes import Scale
from workbench.views.curves import CurveCard
from workbench.views.histogram import Bin, HistogramCard

NORMS = "gradient norms"
"""A table that is drawn in a way of its own."""
NORMS_COME = mark("How long the gradients of single images are, after each epoch.")
UNKNOWN = mark("It starts from a model of which this workspace does not say its data.")
ORDER = ("epsilon", "accuracy", "norms", "tradeoff", "loss", "clipped")
PRETENDED = ("epsilon", "accuracy", "tradeoff", "loss", "lr", "gradient_norm", "norms", "clipped")
BEFORE = ("epsilon", "tradeoff")
"""Cards in the order in which they are read: of a run, of a naive one, and before one."""


class PrivacyView(TrainView):
    """Budget and accuracy; what is clipped; accuracy against epsilon over the runs there are."""

    CURVES = (
        Curve("epsilon", mark("Privacy budget")),
        Curve("accuracy", mark("Accuracy"), percent=True),
        Curve("loss", mark("Loss")),
        Curve("clipped", mark("Clipped gradients"), percent=True),
        Curve("lr", mark("Learning rate"), smooth=False),
    )
    _previews = True

    def __init__(self, parent: QWidget | None = None) -> None:
        self.budget = BudgetCard()
        self.tradeoff = TradeoffCard()
        self.norms = HistogramCard(
            mark("Gradient norms"), Scale(mark("Norm / clipping norm"), log=True), empty=NORMS_COME
        )
        self._planned: Mapping[str, Any] = {}
        self._trouble = ""
        super().__init__(parent)
        self.tradeoff.picked.connect(lambda run_id: self.go_to(run_id))
        for card in (self.norms, self.tradeoff):
            self._place(card)
        for card in (self.budget, self.curves["accuracy"], self.norms, self.tradeoff):
            card.setMinimumHeight(theme.px(208))

    def _make_curve(self, curve: Curve) -> CurveCard:
        if curve.quantity != "epsilon":
            return super()._make_curve(curve)
        self.budget.setParent(self)
        return self.budget

    def _in_order(self, cells: list[QWidget]) -> list[QWidget]:
        """While there is no run, budget and price stand side by side. Naive noise looks at no
        gradient of a single image."""
        known: dict[str, QWidget] = {**self.curves, "norms": self.norms, "tradeoff": self.tradeoff}
        names = BEFORE if self._previews else PRETENDED if self._naive else ORDER
        first = [known[name] for name in names if known.get(name) in cells]
        return first + [cell for cell in cells if cell not in first]

    def _preview(self, on: bool) -> None:
        super()._preview(on)
        self._previews = on
        for name, card in self.curves.items():
            card.setVisible(name in BEFORE if on else not (self._naive and name == "clipped"))
        self.norms.setVisible(not on and not self._naive)
        self._arrange()

    # --- a run

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        super().show_run(info, record, color)
        self._about_run(info)

    def update_info(self, info: RunInfo) -> None:
        before = self.info
        super().update_info(info)
        if before is None or (before.status, before.summary) != (info.status, info.summary):
            self._about_run(info)

    def runs_changed(self) -> None:
        self._others_are_old = True
        if self.isVisible():
            self._look_at_others()

    def showEvent(self, event: object) -> None:
        if self._others_are_old:
            self._look_at_others()

    _others_are_old = False
    """Other runs have come to something while this was hidden."""

    def _look_at_others(self) -> None:
        self._others_are_old = False
        if self.info is not None:
            self._about_run(self.info)
        else:
            self._show_tradeoff()

    def show_nothing(self) -> None:
        super().show_nothing()
        self._planned, self._trouble = {}, ""
        self.norms.clear()
        self._show_tradeoff()

    def _about_run(self, info: RunInfo) -> None:
        self.budget.set_terms(info.spec.get("privacy") or {})
        self.budget.set_bound(bound_of(self.runs(), info.id))
        self._show_tradeoff()

    def _show_tradeoff(self) -> None:
        runs = self.runs()
        about = {info.id: info for info, _, _ in runs}
        if self.info is not None:
            data = data_of(about.get(self.info.id, self.info), about.get)
        elif self._values.get("init") and not self._values.get("data"):
            origin = self._origin(str(self._values["init"]))
            data = identity(origin.spec.get("data")) if origin is not None else None
        else:
            data = identity(self._values.get("data"))
        self.tradeoff.show_runs(runs, self.info.id if self.info is not None else None, data)

    def show_table(self, table: Table) -> None:
        if table.name == PLAN:
            steps, epsilon, renyi = zip(*table.rows, strict=True) if table.rows else ((), (), ())
            self.budget.set_planned(steps, epsilon, renyi, self._color)
        elif table.name == NORMS:
            self._show_norms(table)
        else:
            super().show_table(table)

    def _show_norms(self, table: Table) -> None:
        bins = [Bin(low, high, int(count)) for low, high, count in table.rows]
        self.norms.set_bins(bins, 1.0, tr("clipping norm"), (tr("kept"), tr("clipped")))
        self._norms = table

    _norms: Table | None = None

    def _declare(self, name: str) -> None:
        if name.startswith("privacy/"):
            card = self.curves[self._card_of(name)]
            card.set_series(name, self._label(name), self._color)
        else:
            super()._declare(name)

    def _label(self, name: str) -> str:
        return tr("Spent") if name == "privacy/epsilon" else super()._label(name)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "norms"):
            if self._norms is not None and not self.norms.is_empty:
                self._show_norms(self._norms)
            self._show_tradeoff()

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        naive = self._naive
        self.norms.explain(NOTHING if self._has_ended else NORMS_COME)
        self.budget.explain(self._why_no_epsilon(naive))

    @property
    def _naive(self) -> bool:
        """Whether the run that is shown is private in name only."""
        return self.info is not None and self._kind(self.info.spec) == "naive"

    def _why_no_epsilon(self, naive: bool) -> str:
        if naive or (self.info is None and self._kind(self._values) == "naive"):
            return NO_EPSILON
        return NOTHING if self._has_ended else self._trouble or AHEAD

    # --- before a run

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """Ask for the course of epsilon too. What was drawn stays until the answer is there."""
        super().preview(values, ask)
        privacy = values.get("privacy") or {}
        self._show_tradeoff()
        if self._kind(values) != "dpsgd":
            self._no_curve(privacy, "" if privacy else NOT_PRIVATE)
            return
        if not self._planned:
            self._no_curve(privacy, COMPUTING)
        data, model = values.get("data"), values.get("model")
        if values.get("init"):
            origin = self._origin(str(values["init"]))
            if origin is None:
                self._no_curve(privacy, tr(UNKNOWN))
                return
            data, model = data or origin.spec.get("data"), origin.spec.get("model")
        fields = {"data": data, "model": model, "privacy": privacy}
        fields |= {name: values.get(name) for name in ("batch_size", "epochs")}
        known = {name: value for name, value in fields.items() if value is not None}
        ask({"kind": "privacy_curve", **known}, self._curve_told)

    def _origin(self, ref: str) -> RunInfo | None:
        """The run that says what data and model one that starts from `ref` has; None if that is
        not known here."""
        runs = self.runs()
        about = {info.id: info for info, _, _ in runs}
        first = next((info for info, name, _ in runs if ref in (info.id, name)), None)
        return root_of(first, about.get) if first is not None else None

    def _no_curve(self, privacy: Mapping[str, Any], why: str) -> None:
        self._planned, self._trouble = {}, why.replace("{", "{{").replace("}", "}}")
        self.budget.clear()
        self.budget.set_terms(privacy)
        self._explain_emptiness()
        self._show_facts()

    def _curve_told(self, answer: dict[str, Any], payload: bytes) -> None:
        privacy = self._values.get("privacy") or {}
        if self.info is not None or self._kind(self._values) != "dpsgd":
            return
        if "error" in answer:
            self._no_curve(privacy, error_text(answer["error"]))
            return
        self._planned, self._trouble = answer, ""
        self.budget.show_plan(answer, privacy)
        self._explain_emptiness()
        self._show_facts()

    def _steps(self, images: int, batch: int) -> int:
        """Images are drawn, not dealt: as many steps as make up an epoch on average."""
        if self._kind(self._values) != "dpsgd":
            return super()._steps(images, batch)
        return max(1, round(images / batch))

    def _facts(self) -> list[tuple[str, Any]]:
        rows, told = super()._facts(), self._planned
        if not told:
            return rows
        own = [
            (tr("Noise multiplier"), float(told["noise_multiplier"])),
            (tr("Sample rate"), float(told["sample_rate"])),
            (tr("Steps until the budget is spent"), int(told["within"])),
        ]
        return own + rows

    @staticmethod
    def _kind(values: Mapping[str, Any]) -> str:
        return str((values.get("privacy") or {}).get("kind", ""))
