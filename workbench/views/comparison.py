"""Clean | adversarial | perturbation, linked, with a magnifier: what an attack does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.events import Images
from workbench import i18n, theme
from workbench.i18n import mark, tr
from workbench.views.card import Card, seat
from workbench.views.filters import FilterBar, Rules, Sample, sample_of
from workbench.views.magnifier import Magnifier
from workbench.views.mosaic import Link, Mosaic, is_correct
from workbench.views.pictures import Pixels
from workbench.views.widgets import Segmented

Pair: TypeAlias = tuple[tuple[Pixels, Mapping[str, Any]], tuple[Pixels, Mapping[str, Any]]]
"""A clean picture, (H, W, C), with its caption, and the adversarial one with its own."""
KEPT_BYTES = 64 * 2**20
"""Iterations seen live are kept for the replay up to this much; `set_frames` brings all."""

PROMISES = (
    mark("The samples that an attack starts from."),
    mark("What the attack makes of them, changing with every iteration."),
    mark("The difference between the two. Start an attack to see it."),
)
"""What will appear in the three mosaics."""
FOUR_IN_A_ROW = 630
"""Width at scale 1 from which the three mosaics and the magnifier stand side by side."""
LEAST_PAGE = 200
"""Height at scale 1 of a page."""
UNLIMITED = 16_777_215
"""Qt's own largest height."""
SAMPLES = mark("All samples")
"""The page that the three mosaics are."""


class Comparison(QWidget):
    """Three linked mosaics and a magnifier. Feed it live by `show_images`, or at once with what
    the store kept by `set_frames`; the slider replays the iterations. Further pages about the
    selected sample take the place of the mosaics (`add_page`)."""

    page_changed = Signal()
    sample_changed = Signal()
    """Another sample is selected."""
    sifted = Signal()
    """Other samples pass the filters than before, or more is known of them."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.link = Link(self)
        self.clean = Mosaic(mark("Clean"), link=self.link)
        self.adversarial = Mosaic(mark("Adversarial"), link=self.link)
        self.perturbation = Mosaic(mark("Perturbation"), link=self.link, badges=False)
        self.magnifier = Magnifier()
        self.explain()
        self.cards = (self.clean, self.adversarial, self.perturbation, self.magnifier)
        self._classes: tuple[str, ...] = ()
        self._clean: Images | None = None
        self._adversarial: list[Images] = []
        self._perturbation: dict[int, Images] = {}
        self._columns = 0
        self._pages: list[tuple[str, Card]] = []
        self._export: QAction | None = None
        self.tallest: int | None = None
        """Height at scale 1 that four in a row may take; by default all there is."""
        self.filters = FilterBar(self)
        self.filters.changed.connect(self._sift)
        self.filters.hide()
        self.rules = Rules()
        self.samples: list[Sample] = []
        """What is known of each sample now, whichever iteration is shown."""
        self.kept: list[int] = []
        """Places of those that pass the filters."""
        self.further: Callable[[int], Pair | None] = lambda index: None
        """Knows the pictures of samples that the mosaics do not show."""
        self.tabs = Segmented([], parent=self)
        self.tabs.changed.connect(self._turn)
        self._steps = Steps(self)
        self._steps.stepped.connect(self.step)
        bar = QHBoxLayout()
        bar.addWidget(self.tabs)
        bar.addStretch(1)
        bar.addWidget(self._steps)
        self.tabs.hide()
        self._steps.hide()
        self._grid = QGridLayout()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addLayout(bar)
        column.addWidget(self.filters)
        column.addLayout(self._grid, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.link.selected_changed.connect(self._magnify)
        self.link.selected_changed.connect(self.sample_changed)
        self.magnifier.iteration_changed.connect(self._show_iteration)
        theme.manager.changed.connect(self._arrange)
        i18n.signals.changed.connect(self.retranslate)
        self._arrange()

    # --- pages ---

    def add_page(self, title: str, card: Card) -> None:
        """A further page of the given English title, which `card` is."""
        self._pages.append((title, card))
        card.setMinimumHeight(theme.px(LEAST_PAGE))
        card.setParent(self)
        card.hide()
        self.tabs.show()
        self.retranslate()

    def add_export(self, export: Callable[[], None]) -> None:
        """Offer to write all samples of the run, in the menu of the adversarial ones."""
        self._export = self.adversarial.menu.addAction("")
        self._export.triggered.connect(lambda _=False: export())
        self.retranslate()

    @property
    def titles(self) -> list[str]:
        """The English titles of the pages, the mosaics first."""
        return [SAMPLES, *(title for title, _ in self._pages)]

    @property
    def page(self) -> Card | None:
        """The card that is shown in the place of the mosaics; None while those are."""
        return self._pages[self.tabs.current - 1][1] if self.tabs.current else None

    def _turn(self) -> None:
        self._columns = 0
        self._arrange()
        self._steps.setVisible(self.page is not None)
        self.page_changed.emit()

    def retranslate(self) -> None:
        self.tabs.set_options([tr(SAMPLES), *(tr(title) for title, _ in self._pages)])
        self.tabs.setAccessibleName(tr("Samples, or one of them"))
        self._steps.retranslate()
        if self._export is not None:
            self._export.setText(tr("Export adversarial set…"))

    # --- what is shown ---

    def explain(self, text: str = "") -> None:
        """What the mosaics say while they are empty, in English as for a card; by default what
        will appear in them."""
        for card, promise in zip((self.clean, self.adversarial, self.perturbation), PROMISES):
            card.explain(text or promise)

    def set_classes(self, names: Sequence[str]) -> None:
        self._classes = tuple(names)
        for card in (self.clean, self.adversarial, self.perturbation):
            card.set_classes(names)
        self.filters.set_classes(names)
        self._sift()
        self._magnify()

    def set_rules(self, rules: Rules) -> None:
        """What counts as success in the attack that is shown."""
        if rules != self.rules:
            self.rules = rules
            self._sift()

    def set_norm(self, norm: str) -> None:
        """The norm that the captions report: linf, l2, l1 or l0."""
        self.magnifier.set_norm(norm)
        self._magnify()

    def show_images(self, images: Images) -> None:
        """Take in a live event named clean, adversarial or perturbation; others are ignored."""
        if images.name == "clean":
            self._clean = images
            self.clean.set_images(images.pixels, images.captions)
            wrong = (i for i, caption in enumerate(images.captions) if not is_correct(caption))
            self.perturbation.view.wrong_before = frozenset(wrong)
            self.perturbation.view.forget()
            self._sift()
            self._magnify()
        elif images.name == "adversarial":
            self._keep(images)
        elif images.name == "perturbation":
            self._perturbation[images.step] = images
            shown = self._shown()
            if shown is None or shown.step == images.step:
                self.perturbation.set_images(images.pixels, (), images.scale)

    def set_frames(self, adversarial: Sequence[Images], perturbation: Sequence[Images]) -> None:
        """All iterations that the store kept, in order; the last one is shown."""
        self._adversarial = sorted(adversarial, key=lambda images: images.step)
        self._perturbation = {images.step: images for images in perturbation}
        self._follow(True)

    def clear(self) -> None:
        self._clean = None
        self._adversarial, self._perturbation = [], {}
        self.link.beyond = 0
        for card in (self.clean, self.adversarial, self.perturbation):
            card.clear()
        self._follow(True)

    @property
    def selected(self) -> int:
        return self.link.selected

    def select(self, index: int) -> None:
        self.link.select(index)

    def step(self, by: int) -> None:
        """Select the sample `by` places on, where there is one."""
        beyond = range(self.count, max(self.count, self.link.beyond))
        order = [*self.kept, *beyond] if self.filters.filter else range(self.most)
        past = [k for k in order if (k - self.selected) * by > 0]
        if past:
            self.select(min(past) if by > 0 else max(past))

    @property
    def count(self) -> int:
        """How many samples are shown."""
        return 0 if self._clean is None else len(self._clean.pixels)

    def set_beyond(self, count: int) -> None:
        """How many samples can be selected all in all, where others are known than are shown."""
        self.link.beyond = count
        self._steps.show_place(self.selected, self.most)

    @property
    def most(self) -> int:
        """How many can be selected: those that are shown, and further ones."""
        return max(self.count, self.link.beyond)

    @property
    def pictures(self) -> tuple[Pixels | None, Pixels | None]:
        """The clean and the adversarial picture of the selected sample, (H, W, C)."""
        at = self.selected
        both = (self._clean, self._adversarial[-1] if self._adversarial else None)
        further = self.further(at) if at >= self.count else None
        if further is not None:
            return further[0][0], further[1][0]
        clean, adversarial = (
            None if images is None or at >= len(images.pixels) else images.pixels[at]
            for images in both
        )
        return clean, adversarial

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    # --- iterations ---

    def _keep(self, images: Images) -> None:
        """A person who looks at an earlier iteration is left there; else the newest is shown."""
        replay = self.magnifier.replay
        follow = replay.at_end and not replay.playing
        known = self._adversarial
        if known and images.step <= known[-1].step:
            known[:] = [item for item in known if item.step < images.step]
        if len(known) * images.pixels.nbytes > KEPT_BYTES:
            self._perturbation.pop(known.pop().step, None)
        known.append(images)
        self._follow(follow)

    def _follow(self, follow: bool) -> None:
        replay = self.magnifier.replay
        replay.set_steps([images.step for images in self._adversarial], follow)
        self._sift()
        self._show_iteration(replay.slider.value())

    def _shown(self) -> Images | None:
        place = self.magnifier.replay.slider.value()
        return self._adversarial[place] if place < len(self._adversarial) else None

    def _show_iteration(self, place: int) -> None:
        images = self._shown()
        if images is not None:
            self.adversarial.set_images(images.pixels, images.captions)
            moved = self._perturbation.get(images.step)
            if moved is not None:
                self.perturbation.set_images(moved.pixels, (), moved.scale)
        self._magnify()

    def _magnify(self) -> None:
        index = self.link.selected

        def sample(images: Images | None) -> tuple[Pixels, Mapping[str, Any]] | None:
            if images is None or not 0 <= index < len(images.pixels):
                return None
            caption = images.captions[index] if index < len(images.captions) else {}
            return images.pixels[index], caption

        pair = sample(self._clean), sample(self._shown())
        if index >= self.count:
            pair = self.further(index) or pair
        self.magnifier.show_sample(index, *pair, self._classes)
        self._steps.show_place(index, self.most)

    # --- filters ---

    def _sift(self) -> None:
        """Find out anew what is known of the samples and which of them pass the filters. What
        became of one is read from the newest iteration: the replay shows the same samples."""
        clean = self._clean.captions if self._clean is not None else ()
        newest = self._adversarial[-1].captions if self._adversarial else ()
        if len(newest) != len(clean):
            newest = clean
        many = len(self._classes)
        self.samples = [sample_of(*both, many, self.rules) for both in zip(clean, newest)]
        wanted = self.filters.filter
        self.kept = [k for k, sample in enumerate(self.samples) if wanted.keeps(sample)]
        for card in (self.clean, self.adversarial, self.perturbation):
            card.keep(self.kept if wanted else None)
        self.filters.offer_marks(sorted({m for sample in self.samples for m in sample.marks}))
        self.filters.say_count(len(self.kept), len(self.samples))
        self.filters.setVisible(bool(self.samples))
        if self.kept and self.selected < self.count and self.selected not in self.kept:
            self.select(self.kept[0])
        self.sifted.emit()

    # --- layout ---

    def resizeEvent(self, event: object) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Four in a row where there is room, else two by two."""
        self._grid.setSpacing(theme.px(10))
        columns = 4 if self.width() >= theme.px(FOUR_IN_A_ROW) else 2
        most = theme.px(self.tallest) if self.tallest and columns == 4 else UNLIMITED
        self.setMaximumHeight(most)
        if columns == self._columns:
            return
        self._columns = columns
        page = self.page
        for index, card in enumerate(self.cards[:3]):
            seat(card).setVisible(page is None)
            self._grid.addWidget(seat(card), index // columns, index % columns)
        for _, card in self._pages:
            seat(card).setVisible(card is page)
        if page is None:
            self._grid.addWidget(seat(self.magnifier), 3 // columns, 3 % columns)
        elif columns == 4:
            self._grid.addWidget(seat(page), 0, 0, 1, 3)
            self._grid.addWidget(seat(self.magnifier), 0, 3)
        else:
            self._grid.addWidget(seat(page), 0, 0, 1, 2)
            self._grid.addWidget(seat(self.magnifier), 1, 0, 1, 2)
        for column in range(4):
            wide = 4 if column == 3 else 5
            self._grid.setColumnStretch(
                column, (wide if columns == 4 else 5) if column < columns else 0
            )
        for row in range(2):
            self._grid.setRowStretch(row, 1 if row < 4 // columns else 0)
        self.setMinimumHeight(theme.px(220 if columns == 4 else 470))


class Steps(QWidget):
    """Which of the samples is selected, and buttons to the ones beside it."""

    stepped = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.back, self.on = QToolButton(self), QToolButton(self)
        self.label = QLabel(self)
        self.label.setProperty("tone", "faint")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        for item in (self.back, self.label, self.on):
            row.addWidget(item, 0, Qt.AlignmentFlag.AlignVCenter)
        for button, icon in ((self.back, "chevron-left"), (self.on, "chevron-right")):
            button.setProperty("look", "quiet")
            theme.set_icon(button, icon, "muted", 14)
        self.back.clicked.connect(self._go_back)
        self.on.clicked.connect(self._go_on)
        self._place = (0, 0)
        self.retranslate()

    def _go_back(self) -> None:
        self.stepped.emit(-1)

    def _go_on(self) -> None:
        self.stepped.emit(1)

    def show_place(self, index: int, count: int) -> None:
        self._place = (index, count)
        self.back.setEnabled(index > 0)
        self.on.setEnabled(index + 1 < count)
        self.retranslate()

    def retranslate(self) -> None:
        index, count = self._place
        text = tr("sample {index} of {count}", index=index + 1, count=count)
        self.label.setText(text if count else "")
        for button, name in (
            (self.back, tr("Previous sample")),
            (self.on, tr("Next sample")),
        ):
            button.setAccessibleName(name)
            button.setToolTip(name)
