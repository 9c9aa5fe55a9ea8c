"""The same training under several seeds, side by side: a small picture each, and what it came to.
Is it the method, or the luck?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import pictures
from workbench.views.dots import draw_dots
from workbench.views.latent_square import draw_tiles
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.pictures import Pixels
from workbench.views.scene import Ground, Scene, draw_ground
from workbench.views.signs import paint_sign

EMPTY = mark("With more than one seed, a picture of each appears here.")
WORDS = 34
"""Height at scale 1 of the two lines below each."""
FEW = 700
"""Points of a small picture: more cannot be told apart in it."""


@dataclass(frozen=True, slots=True)
class Small:
    """One seed: its points in the plane or its samples (N, H, W, C), and figures as words."""

    seed: int
    scene: Scene | None = None
    pixels: Pixels | None = None
    words: str = ""
    trouble: bool = False


class SeedsView(Drawing):
    """A grid of small pictures. A click or Enter picks one; arrow keys go from one to the next."""

    picked = Signal(int)
    """The place of a seed, from 0."""
    still = True

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.seeds: tuple[Small, ...] = ()
        self.colors = ("series:1", "series:0")
        self.chosen = 0
        self.hovered = -1
        self.exact = False
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(200), theme.px(100))

    # --- places

    def boxes(self, whole: QRectF) -> list[QRectF]:
        """Where each stands: as large as there is room for, with a line of words below it."""
        count = max(len(self.seeds), 1)
        px, gap = theme.px, theme.px(10)

        def side(columns: int) -> float:
            rows = math.ceil(count / columns)
            wide = (whole.width() - gap * (columns - 1)) / columns
            return min(wide, (whole.height() - gap * (rows - 1)) / rows - px(WORDS))

        columns = max(range(1, count + 1), key=side)
        rows = math.ceil(count / columns)
        wide = (whole.width() - gap * (columns - 1)) / columns
        high = (whole.height() - gap * (rows - 1)) / rows
        return [
            QRectF(
                whole.left() + (k % columns) * (wide + gap),
                whole.top() + (k // columns) * (high + gap),
                wide,
                high,
            )
            for k in range(len(self.seeds))
        ]

    def _columns(self) -> int:
        boxes = self.boxes(QRectF(self.rect()))
        return max(sum(box.top() == boxes[0].top() for box in boxes), 1) if boxes else 1

    def _at(self, position: QPointF) -> int:
        boxes = self.boxes(QRectF(self.rect()))
        return next((k for k, box in enumerate(boxes) if box.contains(position)), -1)

    # --- painting

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        for place, (small, box) in enumerate(zip(self.seeds, self.boxes(whole))):
            self._draw_one(painter, box, small, place == self.chosen)

    def _draw_one(self, painter: QPainter, box: QRectF, small: Small, chosen: bool) -> None:
        px = theme.px
        room = box.adjusted(px(2), px(2), -px(2), -px(WORDS))
        painter.save()
        painter.setClipRect(room)
        if small.scene is not None:
            field = self._draw_scene(painter, room, small.scene)
        else:
            field = self._draw_samples(painter, room, small.pixels)
        painter.restore()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("accent" if chosen else "border"), 2 if chosen else 1))
        painter.drawRect(field)
        name = tr("seed {seed}", seed=small.seed)
        lines = (
            (theme.font(11, 600), "text" if chosen else "muted", name),
            (theme.font(11), "warning" if small.trouble else "faint", small.words),
        )
        foot = QRectF(box.left(), field.bottom() + px(2), box.width(), px(15))
        for font, color, text in lines:
            metrics = QFontMetricsF(font)
            shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width())
            painter.setFont(font)
            painter.setPen(theme.color(color))
            painter.drawText(foot, Qt.AlignmentFlag.AlignCenter, shown)
            if small.trouble and text == name:
                wide = min(metrics.horizontalAdvance(shown), box.width())
                at = QPointF(foot.center().x() + wide / 2 + px(8), foot.center().y())
                paint_sign(painter, "alarm", at, px(11), "warning")
            foot.translate(0, px(14))

    def _draw_scene(self, painter: QPainter, room: QRectF, scene: Scene) -> QRectF:
        real, generated = self.colors
        ground = Ground(scene.extent, room)
        draw_ground(painter, ground, scene, real, generated)
        for points, color, radius in (
            (scene.real, real, 1.0),
            (scene.generated, generated, 1.3),
        ):
            if points is not None:
                places = ground.pixels(points[:: max(1, len(points) // FEW)])
                size = radius * theme.manager.scale
                draw_dots(painter, ground.field, places, theme.color(color), size, exact=self.exact)
        return ground.field

    def _draw_samples(self, painter: QPainter, room: QRectF, pixels: Pixels | None) -> QRectF:
        """As many samples as are a square."""
        if pixels is None or not len(pixels):
            return room
        side = max(1, min(math.isqrt(len(pixels)), 5))
        packed = pictures.pack(pixels[: side * side], None)
        height, width = packed.shape[1:]
        scale = min(room.width() / width, room.height() / height)
        field = QRectF(0, 0, width * scale, height * scale)
        field.moveCenter(room.center())
        draw_tiles(painter, field, packed, side)
        return field

    def draw_hands(self, painter: QPainter) -> None:
        boxes = self.boxes(QRectF(self.rect()))
        if 0 <= self.hovered < len(boxes):
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("faint"), 1))
            painter.drawRect(boxes[self.hovered].adjusted(0.5, 0.5, -0.5, -0.5))

    # --- hands

    def choose(self, place: int) -> None:
        """Mark a seed as the one that is shown large."""
        if place != self.chosen:
            self.chosen = place
            self._describe()
            self.forget()

    def _describe(self) -> None:
        if 0 <= self.chosen < len(self.seeds):
            small = self.seeds[self.chosen]
            name = tr("seed {seed}", seed=small.seed)
            self.setAccessibleDescription(f"{name}, {small.words}")

    def _hover(self, place: int) -> None:
        if place != self.hovered:
            self.hovered = place
            self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._hover(self._at(event.position()))

    def leaveEvent(self, event: object) -> None:
        self._hover(-1)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = self._at(event.position())
        if place >= 0:
            self.picked.emit(place)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -self._columns(),
            Qt.Key.Key_Down: self._columns(),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is None:
            event.ignore()
        elif 0 <= self.chosen + move < len(self.seeds):
            self.picked.emit(self.chosen + move)


class SeedsCard(DrawnCard):
    """The seeds side by side. `picked` is emitted with the place of the one that a person wants to
    see large."""

    drawing: SeedsView

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Seeds side by side"), SeedsView(), parent)
        self._explain = EMPTY
        self.picked = self.drawing.picked
        self.fill_menu()
        self.show_menu_button()
        self._show_emptiness()

    def set_seeds(self, seeds: Sequence[Small]) -> None:
        """Draw these and no others."""
        was = bool(self.drawing.seeds)
        self.drawing.seeds = tuple(seeds)
        if was != bool(seeds):
            self._show_emptiness()
        self.drawing._describe()
        self.drawing.forget()

    def set_colors(self, real: str, generated: str) -> None:
        self.drawing.colors = real, generated
        self.drawing.forget()

    def _show_emptiness(self) -> None:
        self._give_way(not self.drawing.seeds, self.drawing)

    def retranslate(self) -> None:
        super().retranslate()
        name = tr("Seeds side by side: arrow keys choose the one that is shown large")
        self.drawing.setAccessibleName(name)
        self.drawing._describe()

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        self.drawing.exact = True
        try:
            super().paint_picture(painter, size)
        finally:
            self.drawing.exact = False

    def rows(self) -> Iterable[Sequence[Any]]:
        yield tr("Seed"), "x", "y"
        for small in self.drawing.seeds:
            if small.scene is not None and small.scene.generated is not None:
                for x, y in small.scene.generated.tolist():
                    yield small.seed, f"{x:.9g}", f"{y:.9g}"
