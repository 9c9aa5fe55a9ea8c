"""Pictures of an evaluation: its first samples while the attacks run, then the worst that was found
for each sample that was broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from engine.events import Images, Progress
from workbench.i18n import mark, tr
from workbench.views.comparison import Comparison
from workbench.views.text import number, percent
from workbench.views.widgets import Elided, Segmented
from workbench.words import measure

LIVE = ("clean", "adversarial", "perturbation")
WORST = "worst_"
"""What the names of the pictures of the worst case begin with."""
DURING, AFTER = range(2)
TALLEST = 425
"""Height at scale 1 that the pictures may take: what they came to is below them."""
ABSENT = mark("No pictures: {field} was 0. With 1 or more, samples are seen and explained here.")
NONE = mark("No attack broke a sample, or nobody wanted pictures.")


class StageView(QWidget):
    """Two comparisons that take turns, below a line that says who attacks. `name` gives an attack's
    name in words. Hidden where a run has no pictures."""

    def __init__(self, name: Callable[[str], str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = name
        self._absent = False
        self.during, self.after = Comparison(), Comparison()
        self.words = Elided()
        self.words.setProperty("tone", "muted")
        self.tabs = Segmented(["", ""])
        self.tabs.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.tabs.changed.connect(self._turn)
        for comparison in (self.during, self.after):
            comparison.tallest = TALLEST
            for mosaic in (comparison.clean, comparison.adversarial, comparison.perturbation):
                mosaic.view.high = 290
        self.after.explain(NONE)
        self.after.link.selected_changed.connect(self._say)
        head = QHBoxLayout()
        head.setContentsMargins(4, 0, 0, 0)
        head.setSpacing(8)
        head.addWidget(self.words, 1)
        head.addWidget(self.tabs)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(head)
        for comparison in (self.during, self.after):
            column.addWidget(comparison)
        self.after.hide()
        self.clear()

    def clear(self) -> None:
        self._running: tuple[Any, ...] = ()
        self._over: tuple[int, int] | None = None
        self._progress: Progress | None = None
        self._captions: tuple[Mapping[str, Any], ...] = ()
        self.set_absent(False)
        self.during.clear()
        self.after.clear()
        self.tabs.set_current(DURING)
        self.hide()
        self._say()

    def set_classes(self, names: Sequence[str]) -> None:
        for comparison in (self.during, self.after):
            comparison.set_classes(names)

    def show_frames(self, frames: Mapping[str, Sequence[Images]]) -> None:
        """What the store kept: the pictures after each attack."""
        if all(frames.get(name) for name in LIVE[1:]):
            self.during.set_frames(frames["adversarial"], frames["perturbation"])

    def show_images(self, images: Images) -> bool:
        """Take in pictures; False if they belong elsewhere."""
        if images.name in LIVE:
            self.during.show_images(images)
        elif images.name.startswith(WORST):
            self.after.show_images(replace(images, name=images.name.removeprefix(WORST)))
            if images.name.endswith("adversarial"):
                self._captions = images.captions
                self.tabs.set_current(AFTER)
        else:
            return False
        self.show()
        self._say()
        return True

    def set_absent(self, absent: bool) -> None:
        """There are no pictures, since nobody wanted any: say so where they would be."""
        if absent != self._absent:
            self._absent = absent
            self.tabs.setHidden(absent)
            self._turn(self.tabs.current)
            self.setVisible(absent)

    def show_running(self, row: Sequence[Any]) -> None:
        """An attack has begun: its name, number, how many samples it attacks, how many are still
        correct, of how many; and how many were before all attacks."""
        self._running, self._progress = tuple(row[:5]), None
        self._over = None
        self._say()

    def show_attacks(self, rows: Sequence[Sequence[Any]], share: int) -> None:
        """The attacks that are over, with the robust accuracy after each at place `share`."""
        if self._running and len(rows) >= int(self._running[1]):
            samples = int(self._running[4])
            self._over = round(float(rows[-1][share]) * samples), samples
            self._say()

    def show_progress(self, progress: Progress) -> None:
        if self._running and progress.unit == f"by {self._running[0]}":
            self._progress = progress
            self._say()

    def _turn(self, tab: int) -> None:
        # Not a stack: that would be as high as the higher of the two.
        self.during.setVisible(tab == DURING and not self._absent)
        self.after.setVisible(tab == AFTER and not self._absent)
        self._say()

    def retranslate(self) -> None:
        self.tabs.set_options([tr("During the attacks"), tr("Worst case")])
        self.tabs.setAccessibleName(tr("Pictures"))
        self._say()

    def _say(self, *_: object) -> None:
        if self._absent:
            field = tr("Shown samples")
            self.words.setText(tr(ABSENT, field=field))
        else:
            self.words.setText(self._about_sample() or self._about_attack())

    def _about_sample(self) -> str:
        """Who broke the selected sample of the worst case."""
        place = self.after.selected
        if self.tabs.current != AFTER or not 0 <= place < len(self._captions):
            return ""
        caption = self._captions[place]
        return tr(
            "Sample {number} of {count}, broken by {attack}: {norm} {size}",
            number=place + 1,
            count=len(self._captions),
            attack=self._name(str(caption.get("attack", ""))),
            norm=measure(str(caption.get("measured", ""))),
            size=number(float(caption.get("norm", 0.0))),
        )

    def _about_attack(self) -> str:
        if self._over is not None:
            left, samples = self._over
            return tr(
                "{left} of {samples} samples withstood the attacks.", left=left, samples=samples
            )
        if not self._running:
            return ""
        name, _, attacked, left, samples = self._running
        done = self._progress.fraction if self._progress is not None else 0.0
        return tr(
            "{attack} is attacking {attacked} samples, {share} done; {left} of {samples} were left "
            "before it.",
            attack=self._name(str(name)),
            share=percent(done, 0),
            attacked=attacked,
            left=left,
            samples=samples,
        )
