"""A mosaic over time: the same samples as they were at any moment of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QContextMenuEvent
from PySide6.QtWidgets import QMenu, QWidget

from engine.events import Images
from workbench.i18n import mark, tr
from workbench.views.mosaic import Caption, Link, Mosaic
from workbench.views.timeline import Timeline


class Film(Mosaic):
    """Of the pictures those are shown whose captions are wanted (`want`)."""

    sent = Signal(int)
    """A person wants this picture, by its place among those that are shown, to be attacked."""

    def __init__(
        self,
        title: str,
        parent: QWidget | None = None,
        *,
        link: Link | None = None,
        badges: bool = False,
        empty: str = "",
    ) -> None:
        self.timeline = Timeline()
        super().__init__(title, parent, link=link, badges=badges, empty=empty)
        self.frames: list[Images] = []
        self.newest: Images | None = None
        self._wants: Callable[[Caption], bool] | None = None
        self.foot.addWidget(self.timeline)
        self.timeline.changed.connect(self._show_moment)
        self._send = self.menu.addAction("")
        self._send.triggered.connect(lambda: self.sent.emit(self.view.link.selected))
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.DefaultContextMenu)
        self.timeline.hide()
        self.retranslate()

    def take(self, images: Images, frames: Sequence[Images]) -> None:
        """The newest pictures; `frames`: all that were kept, where they are known."""
        if frames:
            self.frames = sorted(frames, key=lambda each: each.step)
        elif images.keep and (not self.frames or images.step > self.frames[-1].step):
            self.frames.append(images)
        self.newest = images
        self.timeline.set_steps([each.step for each in self.frames])
        self.timeline.setVisible(len(self.frames) > 1)
        if self.timeline.step is None:
            self._show_moment()

    def want(self, wants: Callable[[Caption], bool] | None) -> None:
        """Show the pictures alone whose captions are wanted; None shows all."""
        self._wants = wants
        self._show_moment()

    def moment(self) -> Images | None:
        """What is looked at."""
        step = self.timeline.step
        if step is None:
            return self.newest
        return next((each for each in self.frames if each.step == step), self.newest)

    def _show_moment(self) -> None:
        images = self.moment()
        if images is None:
            return
        places = self.places(images)
        captions = [images.captions[k] for k in places] if images.captions else []
        self.set_images(images.pixels[places], captions, images.scale)

    def places(self, images: Images) -> list[int]:
        """Which of the pictures are shown."""
        every = range(len(images.pixels))
        if self._wants is None or not images.captions:
            return list(every)
        return [k for k in every if self._wants(images.captions[k])]

    def clear(self) -> None:
        super().clear()
        self.frames, self.newest = [], None
        self.timeline.clear()
        self.timeline.hide()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        where = self.view.mapFrom(self, event.pos())
        place = self.view.index_at(where.toPointF())
        if place >= 0:
            self.view.link.select(place)
            self.tile_menu().exec(event.globalPos())

    def tile_menu(self) -> QMenu:
        """What can be done with the selected picture."""
        menu = QMenu(self)
        menu.addAction(self._send)
        return menu

    def offer(self, on: bool) -> None:
        """Whether pictures can be sent to be attacked."""
        self._send.setVisible(on)

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_send"):
            self._send.setText(tr("Send to attack"))


EMPTY = mark("Samples of the same latents, as the generator learns. Press Start run.")
