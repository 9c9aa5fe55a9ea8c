"""How an autoencoder is drawn (see `autoencoder_panel`)."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QGridLayout, QWidget

from engine.events import Array, Images
from engine.store import RunInfo
from workbench import theme
from workbench.i18n import mark
from workbench.panels.latent_card import LatentCard
from workbench.panels.live import Curve, LiveView
from workbench.runs.record import Record
from workbench.views.card import seat
from workbench.views.codes import Codes, CodesCard
from workbench.views.film import Film
from workbench.views.mosaic import Caption, Link, Mosaic
from workbench.views.timeline import Timeline

MAIN_ROW = 0
SAVED = ("done", "cancelled")
"""Ends of a run after which its decoder can be asked."""


class AutoencoderView(LiveView):
    """The codes beside what the plane of codes decodes to, images beside their reconstructions,
    the decoder between four codes, and curves."""

    first_row = 10

    def __init__(self, parent: QWidget | None = None) -> None:
        link = Link()
        self.codes, self.timeline = CodesCard(), Timeline()
        self.plane = Film(
            mark("Decoded plane"), empty=mark("What places of the plane decode to appears here.")
        )
        self.plane.view.largest = 4096
        self.plane.view.link.selected = -1  # of one picture none is chosen
        self.plane.offer(False)
        self.originals = Mosaic(
            mark("Originals"), link=link, badges=False, empty=mark("Test images appear here.")
        )
        self.reconstructions = Film(
            mark("Reconstructions"),
            link=link,
            empty=mark("What is made of the codes of test images appears here."),
        )
        self.latents = LatentCard()
        self._arrays: dict[str, Array] = {}
        self._course: list[Array] = []
        self._asked = ""
        self._codes_old = False
        super().__init__(
            parent,
            curves=(Curve("reconstruction", mark("Reconstruction")),),
            hidden=("images_per_second",),
            empty=mark("Drawn while an autoencoder trains. Set it up and press Start run."),
        )
        link.setParent(self)
        self._lay_out()
        self.reconstructions.want(_is_reconstruction)
        self.timeline.changed.connect(self._show_codes)
        self.reconstructions.timeline.changed.connect(self._show_originals)
        self.latents.ask = lambda question, answer: self.ask(question, answer)

    def _lay_out(self) -> None:
        px = theme.px
        self.codes.foot.addWidget(self.timeline)
        self.timeline.hide()
        main = QWidget(self)
        grid = QGridLayout(main)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(10)
        for place, card in enumerate(
            (self.codes, self.plane, self.originals, self.reconstructions)
        ):
            card.setMinimumHeight(px(400 if place < 2 else 240))
            grid.addWidget(card, place // 2, place % 2)
            grid.setColumnStretch(place % 2, 1)
        self.latents.setMinimumHeight(px(300))
        grid.addWidget(self.latents, 2, 0, 1, 2)
        self.grid.addWidget(main, MAIN_ROW, 0, 1, 2)

    # --- a run

    def show_run(self, info: RunInfo, record: Record, color: str) -> None:
        self._kept = info.id
        super().show_run(info, record, color)
        self._show_codes()
        self._ask_latents(info)
        self._explain_emptiness()

    _kept = ""
    """The run whose latents may stay, as it is only drawn anew."""

    def show_nothing(self) -> None:
        kept, self._kept = self._kept, ""
        super().show_nothing()
        self._arrays.clear()
        self._course = []
        self.codes.show_codes(None)
        self.timeline.clear()
        self.timeline.hide()
        for card in (self.plane, self.originals, self.reconstructions):
            card.clear()
        if not kept or kept != self._asked:
            self._asked = ""
            self.latents.clear()

    def update_info(self, info: RunInfo) -> None:
        super().update_info(info)
        self._ask_latents(info)

    def draw(self) -> None:
        super().draw()
        if self._codes_old:
            self._show_codes()

    def rest(self) -> None:
        super().rest()
        self._show_codes()

    def _explain_emptiness(self) -> None:
        """What only other runs had, nobody waits for."""
        super()._explain_emptiness()
        drawn = {self._card_of(name) for name in self._known}
        for name, card in self.curves.items():
            seat(card).setVisible(name in drawn or name == "reconstruction")
        self._arrange()

    def _in_order(self, cells: list[QWidget]) -> list[QWidget]:
        return sorted(cells, key=lambda cell: seat(cell).isHidden())

    def _append(
        self, name: str, steps: Sequence[int], values: Sequence[float], replace: bool = False
    ) -> None:
        fresh = name not in self._known
        super()._append(name, steps, values, replace)
        if fresh and name in self._known:
            seat(self.curves[self._card_of(name)]).show()
            self._arrange()

    def _declare(self, name: str) -> None:
        super()._declare(name)
        if name.startswith("critic"):
            card = self.curves[self._card_of(name)]
            card.set_series(name, self._label(name), "muted", dashed=False)

    # --- what it says

    def show_array(self, array: Array, course: Sequence[Array]) -> None:
        if array.name not in ("latents", "prior"):
            super().show_array(array, course)
            return
        self._arrays[array.name] = array
        if array.name == "latents":
            if course:
                self._course = sorted(course, key=lambda each: each.step)
            elif array.keep and (not self._course or array.step > self._course[-1].step):
                self._course.append(array)
        self._codes_old = True

    def show_images(self, images: Images, frames: Sequence[Images]) -> None:
        if images.name == "plane":
            self.plane.take(images, frames)
        elif images.name == "reconstructions":
            self.reconstructions.take(images, frames)
            self._show_originals()
        else:
            super().show_images(images, frames)

    def _show_originals(self) -> None:
        images = self.reconstructions.moment()
        if images is not None:
            places = [k for k, c in enumerate(images.captions) if not _is_reconstruction(c)]
            captions = [images.captions[k] for k in places]
            self.originals.set_images(images.pixels[places], captions)

    def _show_codes(self) -> None:
        self._codes_old = False
        newest, prior = self._arrays.get("latents"), self._arrays.get("prior")
        steps = [each.step for each in self._course]
        self.timeline.set_steps(steps)
        self.timeline.setVisible(len(steps) > 1)
        step = self.timeline.step
        if step is not None:
            newest = next((each for each in self._course if each.step == step), newest)
        if newest is None:
            self.codes.show_codes(None)
            return
        about = newest.about
        self.codes.show_codes(
            Codes(
                newest.values,
                tuple(int(label) for label in about.get("labels", ())),
                tuple(str(name) for name in about.get("classes", ())),
                prior.values if prior is not None else None,
                newest.step,
            )
        )

    def _ask_latents(self, info: RunInfo) -> None:
        """When there is a decoder that can be asked."""
        has = info.status in SAVED and any(a.get("name") == "model" for a in info.artifacts)
        if not has or self._asked == info.id:
            return
        self._asked = info.id
        labels = info.spec.get("labels") or {}
        newest = self._arrays.get("latents")
        names = newest.about.get("classes", ()) if newest is not None else ()
        told = [str(name) for name in names] if labels.get("use") == "head" else []
        prior = self._arrays.get("prior")
        deviation = float(prior.values.std()) if prior is not None else 1.0
        size = int(info.spec.get("latent") or 2)
        self.latents.begin(info.id, {"size": size, "deviation": deviation}, told)


def _is_reconstruction(caption: Caption) -> bool:
    return bool(caption.get("reconstruction"))
