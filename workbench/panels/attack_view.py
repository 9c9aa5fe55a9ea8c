"""How an attack is drawn (see `attack_panel`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from engine.events import Images, Table
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.atlas import Atlas
from workbench.panels.lens import Lens
from workbench.panels.live import NOTHING, Curve, LiveView
from workbench.runs.record import Record
from workbench.views.bars import BarsCard
from workbench.views.card import seat
from workbench.views.comparison import Comparison
from workbench.views.mosaic import Mosaic
from workbench.words import warning_of, word

PICTURES = ("clean", "adversarial", "perturbation")
NO_PICTURES = mark("This run recorded no pictures.")
ACCURACIES = mark("Clean and under attack, when the attack is over.")
FAREWELL = 4.0
"""Seconds that the replay of a finished attack is shown before the view goes on."""


PATTERN = "pattern"
"""The pictures of the one perturbation, of attacks that fit one for all images."""
FITTED = "train_samples"
"""The field that only the specs of these have."""
ONE_FOR_ALL = mark("The perturbation")
THE_PATCH = mark("The patch")


class AttackView(LiveView):
    """The comparison above; success and loss over the iterations, and the accuracies, below. Beside
    them the one perturbation, of an attack that has one for all images."""

    counted = mark("Iteration")

    def __init__(self, parent: QWidget | None = None) -> None:
        self.comparison = Comparison()
        self.comparison.add_export(self._export_set)
        self.atlas = Atlas(
            self.comparison,
            lambda question, answer: self.ask(question, answer),
            lambda kind: self.drop(kind),
        )
        self.lens = Lens(self.comparison, lambda question, answer: self.ask(question, answer))
        self.accuracies = BarsCard(mark("Accuracy"))
        self.pattern = Mosaic(ONE_FOR_ALL, badges=False, empty=mark("Fitted to training images."))
        self.pattern.view.link.selected = -1  # one picture needs no mark
        self.pattern.view.high = 120
        super().__init__(
            parent,
            curves=(
                Curve("success_rate", mark("Success rate"), percent=True),
                Curve("loss", mark("Loss")),
            ),
            hidden=("mean_norm", "robust_accuracy"),
            empty=mark(
                "Drawn while an attack runs. Choose a model in the form and press Start run."
            ),
        )

        self.pages = self.comparison

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        self.show_nothing()
        attack = info.spec.get("attack", {})
        self.comparison.set_norm(str(attack.get("norm", "linf")))
        super().show_run(info, record, color)
        self._expect_pattern(attack)
        if all(record.frames.get(name) for name in PICTURES[1:]):
            self.comparison.set_frames(record.frames["adversarial"], record.frames["perturbation"])
        self._show_accuracies(info)
        self.lens.set_run(info)
        self.atlas.set_run(info)

    def show_nothing(self) -> None:
        super().show_nothing()
        self.comparison.clear()
        self.pattern.clear()
        self._expect_pattern({})
        self.lens.set_run(None)
        self.atlas.set_run(None)
        self.accuracies.set_bars([])
        self.accuracies.warn("")

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if images.name in PICTURES:
            self.comparison.show_images(images)
        elif images.name == PATTERN:
            self.pattern.set_images(images.pixels, (), images.scale)
        else:
            super().show_images(images, frames)

    def show_table(self, table: Table) -> None:
        if table.name == "classes":
            self.comparison.set_classes([str(row[-1]) for row in table.rows])
        else:
            super().show_table(table)

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._show_accuracies(info)
        self.lens.set_run(info)
        self.atlas.set_run(info)

    def _explain_emptiness(self) -> None:
        super()._explain_emptiness()
        self.comparison.explain(NO_PICTURES if self._has_ended else "")
        self.accuracies.explain(NOTHING if self._has_ended else ACCURACIES)

    def retranslate(self) -> None:
        super().retranslate()
        if self.info is not None:
            self._show_accuracies(self.info)

    def _expect_pattern(self, attack: Mapping[str, Any]) -> None:
        """Make room for what the run is about, if it has one perturbation for all images."""
        fitted = FITTED in attack
        self.pattern.set_title(THE_PATCH if attack.get("kind") == "patch" else ONE_FOR_ALL)
        self.pattern.setVisible(fitted)
        self._column.setStretch(1, 3 if fitted else 2)

    def _label(self, name: str) -> str:
        if self.info is None or FITTED not in self.info.spec.get("attack", {}):
            return super()._label(name)
        return word("train" if name.startswith("train/") else "test")

    def _declare(self, name: str) -> None:
        super()._declare(name)
        if not name.startswith("train/"):  # what it does to test images is the result
            self.curves[self._card_of(name)].set_primary(name)

    def draw(self) -> None:
        super().draw()
        self.atlas.draw()

    def farewell(self) -> float:
        """Play the iterations once."""
        self.comparison.magnifier.replay.toggle()
        return FAREWELL

    def _export_set(self) -> None:
        if self.info is not None:
            self.save_set(self.info.id)

    def _show_accuracies(self, info: RunInfo) -> None:
        bars = [
            (words, float(info.summary[name]), color)
            for name, words, color in (
                ("clean_accuracy", tr("Clean"), "faint"),
                ("robust_accuracy", tr("Under attack"), self._color),
            )
            if isinstance(info.summary.get(name), int | float)
        ]
        self.accuracies.set_bars(bars)
        self.accuracies.warn(warning_of(info.summary))

    def _make_grid(self) -> QGridLayout:
        column = self._column = QVBoxLayout(self._make_scrolled())
        column.setContentsMargins(12, 0, 12, 12)
        column.setSpacing(10)
        column.addWidget(self.comparison, 5)
        lower = QWidget(self)
        lower.setMinimumHeight(theme.px(150))
        row = QHBoxLayout(lower)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        grid = QGridLayout()
        grid.setSpacing(10)
        row.addWidget(seat(self.pattern), 9)
        row.addLayout(grid, 20)
        row.addWidget(self.accuracies, 10)
        column.addWidget(lower, 2)
        return grid
