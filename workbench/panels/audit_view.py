"""How an audit is drawn (see `audit_panel`): by the cards of its kind, then curves and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QLabel, QWidget

from engine.events import Images, Table
from engine.store import RunInfo
from workbench.i18n import mark, name_of, tr
from workbench.panels.audit_parts import STRENGTH, Part, parts
from workbench.panels.budget import sure_text
from workbench.panels.evaluate_view import unmet_text
from workbench.panels.live import Ask, LiveView
from workbench.runs.record import Record
from workbench.views.table import cell
from workbench.views.text import number, percent
from workbench.words import warning_of, word

NOT_DRAWN = ("flags",)
"""Tables that the first line says already."""
DEFAULT = "membership"


class AuditView(LiveView):
    """The verdict, what is drawn by the kind of the audit, and the course of its search."""

    first_row = 10
    table_rows = 12

    def __init__(self, parent: QWidget | None = None) -> None:
        self.parts = parts()
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self._kind = DEFAULT
        self._values: Mapping[str, Any] = {}
        self._drawn: dict[str, Table] = {}
        self._read: tuple[str, Record] = ("", Record())
        """What was read of the run that is audited."""
        super().__init__(
            parent,
            hidden=("agreement", "accuracy"),
            empty=mark(
                "Drawn while an audit runs. Choose a model in the form and press Start run."
            ),
        )
        for part in self.parts.values():
            self.curves |= part.curves
        self.grid.addWidget(self.verdict, 0, 0, 1, 2)
        for row, part in enumerate(self.parts.values(), start=1):
            self.grid.addWidget(part, row, 0, 1, 2)
        self.show_kind(DEFAULT)

    @property
    def part(self) -> Part:
        """What draws the kind that is shown."""
        return self.parts[self._kind]

    def show_kind(self, kind: str) -> None:
        """Show the cards of this kind of audit."""
        self._kind = kind if kind in self.parts else DEFAULT
        for name, part in self.parts.items():
            part.setVisible(name == self._kind)

    # --- a run

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        self.show_kind(_kind_of(info.spec))
        super().show_run(info, record, color)
        self._about(info)

    def update_info(self, info: RunInfo) -> None:
        before = self.info
        super().update_info(info)
        if before is None or (before.status, before.summary) != (info.status, info.summary):
            self._about(info)

    def show_nothing(self) -> None:
        self._drawn.clear()
        super().show_nothing()
        for part in self.parts.values():
            part.clear()
        self.verdict.hide()
        self.part.about(None, self._audited(str(self._values.get("model") or "")))

    def _about(self, info: RunInfo) -> None:
        self.part.about(info, self._audited(info.lineage.get("model", "")))
        self._show_verdict(info)

    def _audited(self, run_id: str) -> tuple[RunInfo, Record, str] | None:
        """A run, what it recorded (read once while it does not change), and its colour."""
        for info, name, color in self.runs() if run_id else ():
            if run_id in (info.id, name):
                key = f"{info.id} {info.status}"
                if self._read[0] != key:
                    self._read = key, self.read(info.id)
                return info, self._read[1], color
        return None

    def show_table(self, table: Table) -> None:
        if table.name in self.part.tables:
            self._drawn[table.name] = table
            self.part.show_table(table)
        elif table.name not in NOT_DRAWN:
            super().show_table(table)

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if not self.part.show_images(images):
            super().show_images(images, frames)

    def draw(self) -> None:
        super().draw()
        self.part.draw()

    def _card_of(self, name: str) -> str:
        """`auc/lira` is the AUC by that method, and no loss."""
        return "auc" if name.startswith("auc/") else super()._card_of(name)

    def _declare(self, name: str) -> None:
        card = self.curves[self._card_of(name)]
        color = f"series:{_strength(name)}" if name.startswith("auc/") else self._color
        card.set_series(name, self._label(name), color)
        if card is self.curves["auc"]:
            known = [key for key in card.plot.curves if key.startswith("auc/")]
            card.set_primary(min(known, key=_strength))
            card.set_line(tr("Guessing"), 0.5, "faint", left=True)

    def _label(self, name: str) -> str:
        return name_of(name.removeprefix("auc/")) if name.startswith("auc/") else word(name)

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        for part in self.parts.values():
            part.explain(self._has_ended)

    def retranslate(self) -> None:
        super().retranslate()
        for table in list(self._drawn.values()):
            self.part.show_table(table)
        if self.info is not None:
            self._show_verdict(self.info)

    # --- before a run

    def preview(self, values: Mapping[str, Any], ask: Ask) -> None:
        """What an audit of the kind in the form will show; of the run in it, what it promises."""
        self._values = values
        self.show_kind(_kind_of(values))
        self.part.about(None, self._audited(str(values.get("model") or "")))
        self._explain_emptiness()

    def runs_changed(self) -> None:
        if self.info is None and self.isVisible():
            self.part.about(None, self._audited(str(self._values.get("model") or "")))

    # --- what it came to

    def _show_verdict(self, info: RunInfo) -> None:
        """The first line; nothing while nothing is known."""
        words, tone = verdict_of(info.summary, self._kind)
        doubt = warning_of(info.summary)
        self.verdict.setProperty("tone", tone)
        self.verdict.style().unpolish(self.verdict)
        self.verdict.style().polish(self.verdict)
        self.verdict.setText("\n".join(filter(None, (words, doubt))))
        self.verdict.setVisible(bool(words or doubt))


def _strength(name: str) -> int:
    """The place of a method, the strongest first."""
    method = name.removeprefix("auc/")
    return STRENGTH.index(method) if method in STRENGTH else len(STRENGTH)


def _kind_of(spec: Mapping[str, Any]) -> str:
    return str((spec.get("audit") or {}).get("kind", DEFAULT))


def verdict_of(summary: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """What an audit came to, in a sentence, and its tone."""
    if unmet := summary.get("unmet"):
        return "✕ " + tr("Rejected: {why}", why="; ".join(unmet_text(str(u)) for u in unmet)), "bad"
    try:
        match kind:
            case "canaries":
                return _about_canaries(summary)
            case "membership":
                return _about_members(summary), ""
            case "extraction":
                return _about_copy(summary), ""
            case "inversion":
                return _about_images(summary), ""
    except (KeyError, TypeError, ValueError):
        pass  # it was stopped before it knew
    return "", ""


def _about_canaries(summary: Mapping[str, Any]) -> tuple[str, str]:
    lower = number(float(summary["epsilon_lower_bound"]))
    share = sure_text(float(summary["confidence"]))
    upper = summary.get("epsilon")
    if upper is None:
        return tr("Epsilon is at least {lower}, {share} sure.", lower=lower, share=share), ""
    text = tr(
        "Not contradicted: the canaries show an epsilon of at least {lower} ({share} sure), and "
        "{upper} is promised.",
        lower=lower,
        share=share,
        upper=number(float(upper)),
    )
    noise = summary.get("noise_share")
    if noise is not None:
        text += " " + tr("The noise is {found} of what was promised.", found=percent(float(noise)))
    elif summary.get("canary") == "sample":
        text += " " + tr("Whether noise is missing, canaries of this kind do not show.")
    return f"✓ {text}", "good"


def _about_members(summary: Mapping[str, Any]) -> str:
    return tr(
        "{share} of the training images are found while one of a thousand others is taken for one "
        "({low} to {high}); guessing finds 0.1 %.",
        share=percent(float(summary["tpr_at_fpr_0.001"])),
        low=percent(float(summary["tpr_at_fpr_0.001_interval"][0])),
        high=percent(float(summary["tpr_at_fpr_0.001_interval"][1])),
    )


def _about_copy(summary: Mapping[str, Any]) -> str:
    return tr(
        "A copy that learnt from {count} answers agrees with the model on {share} of the images.",
        count=cell(int(summary["queries"])),
        share=percent(float(summary["agreement"])),
    )


def _about_images(summary: Mapping[str, Any]) -> str:
    text = tr(
        "{count} images were reconstructed, on average to {psnr} dB.",
        count=int(summary["images"]),
        psnr=number(float(summary["psnr"])),
    )
    if summary.get("recognised") is None:
        return text
    seen = percent(float(summary["recognised"]), 0)
    return f"{text} {tr('A classifier recognises {share} of them.', share=seen)}"
