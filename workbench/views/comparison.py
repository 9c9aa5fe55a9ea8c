"""Clean | adversarial | perturbation, linked, with a magnifier: what an attack does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtWidgets import QGridLayout, QSizePolicy, QWidget

from engine.events import Images
from workbench import theme
from workbench.i18n import mark
from workbench.views.card import seat
from workbench.views.magnifier import Magnifier
from workbench.views.mosaic import Link, Mosaic, is_correct
from workbench.views.pictures import Pixels

KEPT_BYTES = 64 * 2**20
"""Iterations seen live are kept for the replay up to this much; `set_frames` brings all."""

PROMISES = (
    mark("The samples that an attack starts from."),
    mark("What the attack makes of them, changing with every iteration."),
    mark("The difference between the two. Start an attack to see it."),
)
"""What will appear in the three mosaics."""


class Comparison(QWidget):
    """Three linked mosaics and a magnifier. Feed it live by `show_images`, or at once with what
    the store kept by `set_frames`; the slider replays the iterations."""

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
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.link.selected_changed.connect(self._magnify)
        self.magnifier.iteration_changed.connect(self._show_iteration)
        theme.manager.changed.connect(self._arrange)
        self._arrange()

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
        self._magnify()

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
        for card in (self.clean, self.adversarial, self.perturbation):
            card.clear()
        self._follow(True)

    @property
    def selected(self) -> int:
        return self.link.selected

    def select(self, index: int) -> None:
        self.link.select(index)

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

        self.magnifier.show_sample(index, sample(self._clean), sample(self._shown()), self._classes)

    # --- layout ---

    def resizeEvent(self, event: object) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Four in a row where there is room, else two by two."""
        self._grid.setSpacing(theme.px(10))
        columns = 4 if self.width() >= theme.px(680) else 2
        if columns == self._columns:
            return
        self._columns = columns
        for index, card in enumerate(self.cards):
            self._grid.addWidget(seat(card), index // columns, index % columns)
        for column in range(4):
            wide = 4 if column == 3 else 5
            self._grid.setColumnStretch(
                column, (wide if columns == 4 else 5) if column < columns else 0
            )
        for row in range(2):
            self._grid.setRowStretch(row, 1 if row < 4 // columns else 0)
        self.setMinimumHeight(theme.px(220 if columns == 4 else 470))
