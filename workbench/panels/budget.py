"""The card of a privacy budget: epsilon against steps, before and while it is spent, with its
target and with what an audit has shown it to be at least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtWidgets import QWidget

from engine.store import RunInfo
from workbench.i18n import mark, tr
from workbench.runs.record import Record
from workbench.views.curves import CurveCard
from workbench.views.text import number, percent

PLAN = "budget"
"""The table of what is known before a run."""
SPENT, PLANNED, RENYI = "privacy/epsilon", "planned", "rdp"
"""The series: what has been said of the run, and what was known before it."""
AHEAD = mark(
    "Epsilon over the steps appears here as you fill in the form, before anything is spent."
)
NO_EPSILON = mark(
    "No guarantee: naive noise bounds nothing that one image can change, so there is no epsilon. "
    "Choose DP-SGD for one."
)
NOT_PRIVATE = mark("Privacy is off in the form. Switch it on to see what it would cost.")
COMPUTING = mark("Being computed…")


@dataclass(frozen=True, slots=True)
class Bound:
    """What an audit found: epsilon is at least `lower`, with this `confidence`; `audit` is what it
    is called."""

    lower: float
    confidence: float
    audit: str
    contradicts: bool = False
    """The audit itself says so, perhaps at another delta than the run's."""

    @classmethod
    def of(cls, info: RunInfo, name: str) -> Bound | None:
        """What the audit `info` found; None if it found no bound."""
        lower = _number(info.summary.get("epsilon_lower_bound"))
        if lower is None:
            return None
        sure = _number(info.summary.get("confidence")) or 0.999
        return cls(lower, sure, name, bool(info.summary.get("unmet")))


class BudgetCard(CurveCard):
    """Epsilon over steps: the planned course dashed, what is spent on top of it, that by Rényi
    accounting beside it. The last value stands large in the title, or that there is none."""

    def __init__(self, parent: QWidget | None = None, empty: str = AHEAD) -> None:
        self.delta_of: float | None = None
        self.target: float | None = None
        self.bound: Bound | None = None
        self.promises = True
        """Whether there is an epsilon at all."""
        self.endless = False
        """Whether it is beyond all bounds in the end."""
        self.stops: tuple[int, int] | None = None
        """After how many of the steps planned the target is reached, if before their end."""
        super().__init__(mark("Privacy budget"), smooth=False, empty=empty, parent=parent)

    def clear(self) -> None:
        self.delta_of = self.target = self.bound = self.stops = None
        self.endless = False
        self.promises = True
        super().clear()
        self.warn("")
        self.set_note("")

    def set_terms(self, privacy: Mapping[str, Any]) -> None:
        """What was asked for: the values of the `privacy` of a training."""
        self.promises = privacy.get("kind", "dpsgd") != "naive"
        self.delta_of = _number(privacy.get("delta")) if self.promises else None
        self.target = _number(privacy.get("epsilon")) if self.promises else None
        self._draw_lines()
        self._show_value()

    def set_planned(
        self,
        steps: Sequence[float],
        epsilon: Sequence[float | None],
        renyi: Sequence[float | None],
        color: str,
    ) -> None:
        """The course that is known beforehand; a value that is None, or not finite, is beyond
        all bounds."""
        for key, name, values, shade in (
            (PLANNED, tr("Planned"), epsilon, color),
            (RENYI, tr("By RDP, looser"), renyi, "faint"),
        ):
            known = [(s, v) for s, v in zip(steps, values, strict=True) if _number(v) is not None]
            self.set_series(key, name, shade, dashed=True)
            self.replace(key, [s for s, _ in known], [v for _, v in known])
        self.endless = bool(epsilon) and _number(epsilon[-1]) is None
        self._draw_lines()
        self._show_value()

    def show_plan(self, answer: Mapping[str, Any], privacy: Mapping[str, Any]) -> None:
        """The engine's answer to what `privacy` would cost: up to where the target stops it."""
        within, planned = int(answer["within"]), int(answer["planned"])
        kept = max(sum(step <= within for step in answer["steps"]), 1)
        steps, epsilon, renyi = (
            answer[name][:kept] for name in ("steps", "epsilon", "epsilon_rdp")
        )
        self.set_terms(privacy)
        self.stops = (within, planned) if within < planned else None
        self.set_planned(steps, epsilon, renyi, color="accent")

    def show_record(self, info: RunInfo, record: Record, color: str) -> None:
        """Everything that a private training said of its budget."""
        self.set_terms(info.spec.get("privacy") or {})
        if SPENT in record.scalars:
            self.set_series(SPENT, tr("Spent"), color)
        if PLAN in record.tables and record.tables[PLAN].rows:
            steps, epsilon, renyi = zip(*record.tables[PLAN].rows, strict=True)
            self.set_planned(steps, epsilon, renyi, color)
        if SPENT in record.scalars:
            self.replace(SPENT, *record.scalars[SPENT])
            self._show_value()

    def set_bound(self, bound: Bound | None) -> None:
        """What an audit has shown; None if there was none."""
        self.bound = bound
        self._draw_lines()
        self._show_value()

    @property
    def upper(self) -> float | None:
        """What the accountant says it is at most, by now."""
        for key in (SPENT, PLANNED):
            curve = self.plot.curves.get(key)
            if curve is not None and curve.waiting:
                return float(curve.waiting[-1][1][-1])
            if curve is not None and len(curve.raw):
                return float(curve.raw.y[-1])
        return None

    @property
    def contradicted(self) -> bool:
        """Whether an audit has shown more than the accountant promises."""
        bound, upper = self.bound, self.upper
        if bound is None or upper is None:
            return False
        return bound.contradicts or bound.lower > upper

    def _draw_lines(self) -> None:
        """The target, and what an audit found; not where there is no curve to be beside."""
        self.plot.frame.lines.clear()
        if self.target is not None and self.plot.curves:
            self.set_line(tr("Target"), self.target, left=True)
        if self.bound is not None:
            sure = tr("audit, {share} sure: ≥", share=sure_text(self.bound.confidence))
            wrong = self.contradicted
            name = f"{'✕' if wrong else '✓'} {sure}"
            self.set_line(name, self.bound.lower, "danger" if wrong else "success")
        self.plot.fit(live=self.plot.live)

    def _show_value(self) -> None:
        if not self.promises:
            self.set_value(f"✕ {tr('no guarantee')}")
            self.set_note("")
            return
        spent = math.inf if self.endless and not self._is_spending else self.upper
        if spent is None:
            self.set_value("")
            self.set_note("")
            return
        words = []
        if self.target is not None and self._is_spending:
            words.append(tr("{share} spent", share=percent(min(spent / self.target, 1.0), 0)))
        if self.stops is not None:
            steps, planned = self.stops
            words.append(tr("stops after {steps} of {planned} steps", steps=steps, planned=planned))
        if self.delta_of is not None:
            words.append(f"δ {delta_text(self.delta_of)}")
        self.set_note(" · ".join(words))
        self.set_value(f"ε {number(spent)}{' ✕' if self.contradicted else ''}")
        self._warn()

    @property
    def _is_spending(self) -> bool:
        curve = self.plot.curves.get(SPENT)
        return curve is not None and bool(len(curve.raw) or curve.waiting)

    def _warn(self) -> None:
        if self.bound is None or self.upper is None or not self.contradicted:
            self.warn("")
            return
        if self.bound.lower <= self.upper:
            words = tr(
                "{audit} contradicts what the accountant promises at a smaller delta: this run "
                "does not keep its promise.",
                audit=self.bound.audit,
            )
            self.warn(words, bad=True)
            return
        self.warn(
            tr(
                "{audit} found epsilon to be at least {lower} ({share} sure), more than the "
                "{upper} that the accountant promises: this run does not keep its promise.",
                audit=self.bound.audit,
                lower=number(self.bound.lower),
                share=sure_text(self.bound.confidence),
                upper=number(self.upper),
            ),
            bad=True,
        )

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "bound"):
            for key, name in ((PLANNED, tr("Planned")), (RENYI, tr("By RDP, looser"))):
                if key in self.plot.curves:
                    self.plot.curves[key].label = name
            self._draw_lines()


def bound_of(runs: Sequence[tuple[RunInfo, str, str]], run_id: str) -> Bound | None:
    """The highest lower bound that any audit of a run has shown."""
    about = [(info, name) for info, name, _ in runs if info.lineage.get("model") == run_id]
    found = [bound for info, name in about if (bound := Bound.of(info, name)) is not None]
    return max(found, key=lambda bound: (bound.contradicts, bound.lower), default=None)


def sure_text(confidence: float) -> str:
    """99.9 % for .999, and no more places than it has."""
    places = next(
        (p for p in range(4) if abs(round(confidence * 100, p) / 100 - confidence) < 1e-9), 4
    )
    return percent(confidence, places)


def delta_text(delta: float) -> str:
    """1e−5 rather than 1.00e−5."""
    return number(delta, 1) if 0 < delta < 1e-3 else number(delta)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None
