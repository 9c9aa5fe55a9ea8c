"""How an AdvGAN is drawn (see `advgan_panel`)."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QHBoxLayout, QWidget

from engine.events import Images
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.live import Curve, LiveView
from workbench.views.film import Film
from workbench.views.mosaic import Link

MAIN_ROW = 0


class AdvGanView(LiveView):
    """What the generator makes of test images, beside what it adds to them, and curves."""

    first_row = 10

    def __init__(self, parent: QWidget | None = None) -> None:
        link = Link()
        self.adversarial = Film(
            mark("Adversarial"),
            link=link,
            badges=True,
            empty=mark("Test images as the generator changes them appear here."),
        )
        self.perturbation = Film(
            mark("Perturbation"), link=link, empty=mark("What the generator adds appears here.")
        )
        super().__init__(
            parent,
            curves=(
                Curve("success_rate", mark("Success rate"), percent=True),
                Curve("loss", mark("Loss")),
            ),
            hidden=("images_per_second",),
            empty=mark("Drawn while a generator learns to deceive. Set it up and press Start run."),
        )
        link.setParent(self)
        main = QWidget(self)
        row = QHBoxLayout(main)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        for film in (self.adversarial, self.perturbation):
            film.setMinimumHeight(theme.px(320))
            row.addWidget(film, 1)
        self.grid.addWidget(main, MAIN_ROW, 0, 1, 2)
        self.perturbation.offer(False)
        self.adversarial.sent.connect(self._send)
        self.perturbation.timeline.changed.connect(self._follow)
        self.adversarial.timeline.changed.connect(self._lead)

    def _follow(self) -> None:
        self.adversarial.timeline.go_to(self.perturbation.timeline.step)

    def _lead(self) -> None:
        self.perturbation.timeline.go_to(self.adversarial.timeline.step)

    def show_nothing(self) -> None:
        super().show_nothing()
        for film in (self.adversarial, self.perturbation):
            film.clear()

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        films = {"adversarial": self.adversarial, "perturbation": self.perturbation}
        if images.name in films:
            films[images.name].take(images, frames)
        else:
            super().show_images(images, frames)

    def _declare(self, name: str) -> None:
        card = self.curves[self._card_of(name)]
        group = name.partition("/")[0]
        card.set_series(name, self._label(name), "muted" if group == "critic" else self._color)

    def _label(self, name: str) -> str:
        known = {
            "train/success_rate": tr("Training images"),
            "validation/success_rate": tr("Validation images"),
        }
        return known.get(name) or super()._label(name)

    def _send(self, place: int) -> None:
        images = self.adversarial.moment()
        if images is not None and self.info is not None and 0 <= place < len(images.pixels):
            self.hands.attack(images.pixels[place].copy(), self.info.name)
