"""Which pixels a decision rests on: for the clean picture, the adversarial one, and where it moved.

One row a method. All maps are shares of a decision: in a map the sizes add up to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QImage,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPen,
)
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr, tr_like
from workbench.views import pictures
from workbench.views.mosaic import class_name
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.pictures import Pixels
from workbench.views.text import percent, signed

METHODS = {
    "saliency": mark("Saliency"),
    "integrated_gradients": mark("Integrated gradients"),
    "grad_cam": mark("Grad-CAM"),
}
"""In the order of their rows."""
COLUMNS = (mark("Clean"), mark("Adversarial"), mark("Moved to"))
PLACES = (
    (mark("the upper left"), mark("the top"), mark("the upper right")),
    (mark("the left"), mark("the middle"), mark("the right")),
    (mark("the lower left"), mark("the bottom"), mark("the lower right")),
)
MISSING = (
    mark(
        "Grad-CAM looks at what the last convolution sees, and this model has no convolution that "
        "keeps a picture."
    ),
    mark(
        "The gradient of this model cannot be taken: some step of it is not differentiable "
        "({cause})."
    ),
)
"""What the engine says in the place of a map, for translation."""
STILL = 0.1
"""Share of a decision that may move before we say that it did."""
GHOST = 0.2
"""How strongly the picture shows below its map."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Explained:
    """maps: (3, H, W), shares of clean and adversarial, and their difference; said: the rest of the
    engine's answer."""

    maps: Floats
    said: Mapping[str, Any]


def read_answer(answer: Mapping[str, Any], payload: bytes) -> Explained:
    """The engine's answer to the question `explain`, without an error."""
    maps = np.frombuffer(payload, "<f4").reshape(answer["shape"])
    return Explained(maps, answer)


def in_words(found: Explained) -> str:
    """What a person is told of one method's maps."""
    said = found.said
    if said["missing"]:
        return tr_like(said["missing"], MISSING)
    clean, adversarial = said["empty"]
    if clean and adversarial:
        return tr("No pixel speaks for what the model says of either picture.")
    if clean or adversarial:
        which = tr("clean picture") if clean else tr("adversarial picture")
        return tr("No pixel speaks for what the model says of the {which}.", which=which)
    moved = float(said["moved"])
    if moved == 0:
        return tr("Nothing has moved: both pictures are the same.")
    if moved < STILL:
        return tr(
            "The decision rests on nearly the same pixels: {share} of it has moved.",
            share=percent(moved, 0),
        )
    lost, gained = (tr(PLACES[row][column]) for row, column in said["places"])
    return tr(
        "{share} of the decision rests on other pixels now: less on {lost}, more on {gained}.",
        share=percent(moved, 0),
        lost=lost,
        gained=gained,
    )


class Maps(Drawing):
    """The maps, the words beside them, and what their colours mean. Left and Right step through
    the samples."""

    stepped = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.ghosts: tuple[Pixels | None, Pixels | None] = (None, None)
        self.found: dict[str, Explained] = {}
        self.classes: tuple[str, ...] = ()
        self.waiting = mark("Being computed…")
        """What stands beside maps that are not there yet, in English."""
        self.pointer: tuple[str, int, int] | None = None
        """Method, row and column of the pixel under the pointer."""
        self._images: dict[tuple[str, int], QImage] = {}
        self._boxes: dict[tuple[str, int], QRectF] = {}
        theme.manager.changed.connect(self.forget)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(280), theme.px(240))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(560), theme.px(300))

    def forget(self) -> None:
        self._images.clear()
        self.update()

    # --- painting ---

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        px = theme.px
        head, foot, gap = px(34), px(24), px(8)
        room = (whole.height() - head - foot - gap * len(METHODS)) / len(METHODS)
        # The words take what the maps leave, but a third of the width in any case.
        side = max(min(room, (whole.width() * 0.66 - 3 * gap) / 3), px(24))
        row_height = max(room, side)
        boxes: dict[tuple[str, int], QRectF] = {}
        for at in range(3):
            left = whole.left() + at * (side + gap)
            self._draw_head(painter, at, QRectF(left, whole.top(), side, head))
        for row, method in enumerate(METHODS):
            top = whole.top() + head + row * (row_height + gap)
            for at in range(3):
                box = QRectF(whole.left() + at * (side + gap), top, side, side)
                boxes[method, at] = self._draw_map(painter, method, at, box)
            words = QRectF(whole.left() + 3 * (side + gap) + px(6), top, 0, row_height)
            words.setRight(whole.right())
            self._draw_words(painter, method, words)
        self._draw_foot(
            painter, QRectF(whole.left(), whole.bottom() - px(18), whole.width(), px(18))
        )
        if whole == QRectF(self.rect()):
            self._boxes = boxes

    def _draw_head(self, painter: QPainter, at: int, box: QRectF) -> None:
        """The column's name, and what the model says of its picture."""
        px = theme.px
        font = theme.font(11)
        painter.setFont(font)
        painter.setPen(theme.color("faint"))
        metrics = QFontMetricsF(font)
        text = metrics.elidedText(tr(COLUMNS[at]), Qt.TextElideMode.ElideRight, box.width())
        painter.drawText(box, Qt.AlignmentFlag.AlignTop, text)
        said = next((f.said for f in self.found.values()), None)
        if said is None or at == 2:
            return
        prediction = said["predictions"][at]
        right = prediction == said["label"]
        token = "success" if right else "danger"
        line = QRectF(box.left(), box.top() + px(14), box.width(), px(17))
        painter.drawPixmap(
            QPointF(line.left(), line.top() + px(3)),
            theme.pixmap("check" if right else "cross", token, 11),
        )
        painter.setFont(theme.font(12, 600))
        painter.setPen(theme.color(token))
        bold = QFontMetricsF(theme.font(12, 600))
        name = bold.elidedText(
            class_name(prediction, self.classes), Qt.TextElideMode.ElideRight, line.width() - px(15)
        )
        painter.drawText(line.adjusted(px(15), 0, 2, 0), Qt.AlignmentFlag.AlignVCenter, name)

    def _draw_map(self, painter: QPainter, method: str, at: int, box: QRectF) -> QRectF:
        """Draws a map into `box`, in its own proportions; where it is."""
        image = self._image(method, at)
        if image is None:
            painter.fillRect(box, theme.color("raised"))
            painter.setPen(QPen(theme.color("faint"), max(box.height() / 40, 1.0)))
            reach = QPointF(box.width() / 12, 0)
            painter.drawLine(box.center() - reach, box.center() + reach)
            return box
        scale = min(box.width() / image.width(), box.height() / image.height())
        size = image.width() * scale, image.height() * scale
        place = QRectF(box.center().x() - size[0] / 2, box.center().y() - size[1] / 2, *size)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
        painter.drawImage(place, image)
        return place

    def _image(self, method: str, at: int) -> QImage | None:
        found = self.found.get(method)
        if found is None or found.said["missing"]:
            return None
        if at == 2 and any(found.said["empty"]):
            return None  # against nothing there is nothing to compare
        if (method, at) not in self._images:
            maps = found.maps
            most = np.abs(maps[2] if at == 2 else maps[:2]).max()
            ghost = self.ghosts[1 if at == 2 else at]
            self._images[method, at] = heat(maps[at] / most if most > 0 else maps[at], ghost)
        return self._images[method, at]

    def _draw_words(self, painter: QPainter, method: str, box: QRectF) -> None:
        px = theme.px
        found = self.found.get(method)
        painter.setFont(theme.font(12, 600))
        painter.setPen(theme.color("text"))
        painter.drawText(QRectF(box.left(), box.top(), box.width(), px(16)), 0, tr(METHODS[method]))
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("muted"))
        words = in_words(found) if found is not None else tr(self.waiting)
        wrap = Qt.TextFlag.TextWordWrap
        place = box.adjusted(0, px(18), 0, 0)
        painter.drawText(place, wrap, words)
        if found is not None and found.said["gaps"] and not found.said["missing"]:
            used = painter.boundingRect(place, wrap, words).height()
            painter.setPen(theme.color("faint"))
            text = tr(
                "The sums meet the outputs within {share} ({steps} steps).",
                share=percent(max(found.said["gaps"]), 1),
                steps=found.said["steps"],
            )
            painter.drawText(place.adjusted(0, used + px(3), 0, 0), wrap, text)

    def _draw_foot(self, painter: QPainter, box: QRectF) -> None:
        """What the colours mean; instead, the pixel under the pointer."""
        px = theme.px
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        middle = Qt.AlignmentFlag.AlignVCenter
        text = self._pixel_text()
        if text:
            painter.setPen(theme.color("text"))
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width())
            painter.drawText(box, middle, text)
            return
        left = tr("against the class, or less now")
        right = tr("for the class, or more now")
        painter.setPen(theme.color("faint"))
        x = box.left()
        painter.drawText(QRectF(x, box.top(), box.width(), box.height()), middle, left)
        x += metrics.horizontalAdvance(left) + px(6)
        bar = QRectF(x, box.center().y() - px(3.5), px(90), px(7))
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for at, color in zip((0.0, 0.5, 1.0), theme.manager.theme.diverging):
            gradient.setColorAt(at, QColor(color))
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(gradient)
        painter.drawRoundedRect(bar, 2, 2)
        painter.setPen(theme.color("faint"))
        x = bar.right() + px(6)
        painter.drawText(QRectF(x, box.top(), box.right() - x, box.height()), middle, right)

    def _pixel_text(self) -> str:
        if self.pointer is None:
            return ""
        method, row, column = self.pointer
        found = self.found.get(method)
        if found is None:
            return ""
        clean, adversarial, moved = (float(part[row, column]) for part in found.maps)
        return tr(
            "{method}, pixel {x}, {y}: clean {clean}, adversarial {adversarial}, moved {moved}",
            method=tr(METHODS[method]),
            x=column,
            y=row,
            clean=percent(clean, 2),
            adversarial=percent(adversarial, 2),
            moved=signed(percent(moved, 2)),
        )

    def draw_hands(self, painter: QPainter) -> None:
        """The same pixel in all three maps of the row."""
        if self.pointer is None:
            return
        method, row, column = self.pointer
        found = self.found.get(method)
        if found is None:
            return
        height, width = found.maps.shape[1:]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("text"), 1))
        for at in range(3):
            box = self._boxes[method, at]
            wide, high = box.width() / width, box.height() / height
            painter.drawRect(QRectF(box.left() + column * wide, box.top() + row * high, wide, high))

    # --- hands ---

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._point(self.pixel_at(event.position()))

    def leaveEvent(self, event: object) -> None:
        self._point(None)

    def pixel_at(self, position: QPointF) -> tuple[str, int, int] | None:
        """Method, row and column of what is drawn at `position`."""
        for (method, _), box in self._boxes.items():
            found = self.found.get(method)
            if found is None or found.said["missing"]:
                continue
            if box.contains(position):
                height, width = found.maps.shape[1:]
                row = int((position.y() - box.top()) / box.height() * height)
                column = int((position.x() - box.left()) / box.width() * width)
                return method, min(row, height - 1), min(column, width - 1)
        return None

    def _point(self, pointer: tuple[str, int, int] | None) -> None:
        if pointer != self.pointer:
            self.pointer = pointer
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}
        step = steps.get(Qt.Key(event.key()))
        if step is None:
            event.ignore()
        else:
            self.stepped.emit(step)


def heat(values: Floats, ghost: Pixels | None) -> QImage:
    """`values`, (H, W) of -1 to 1, in the theme's diverging colours, over a ghost of a picture."""
    low, ground, high = (
        np.array([c.red(), c.green(), c.blue()], dtype=np.float64)
        for c in map(QColor, theme.manager.theme.diverging)
    )
    height, width = values.shape
    below = np.broadcast_to(ground, (height, width, 3))
    if ghost is not None:
        rows = np.arange(height) * ghost.shape[0] // height
        columns = np.arange(width) * ghost.shape[1] // width
        gray = ghost[rows][:, columns].mean(axis=-1, keepdims=True)
        below = ground * (1 - GHOST) + gray * GHOST
    # The square root lifts what is small off the ground, as in mosaics of perturbations.
    share = np.sqrt(np.clip(np.abs(values), 0, 1))[..., None]
    rgb = np.where(values[..., None] < 0, low, high) * share + below * (1 - share)
    return pictures.image(pictures.pack(np.rint(rgb).astype(np.uint8)[None], None)[0])


class ExplanationCard(DrawnCard):
    """The maps of one sample."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.maps = Maps()
        super().__init__(mark("What the decision rests on"), self.maps, parent)
        self.fill_menu()
        self.clear()

    def show_sample(
        self, index: int, clean: Pixels | None, adversarial: Pixels | None, classes: Sequence[str]
    ) -> None:
        """Begin with a sample: its pictures, (H, W, C); what is explained is added as it comes."""
        self.maps.ghosts = (clean, adversarial)
        self.maps.classes = tuple(classes)
        self.maps.found = {}
        self.maps.pointer = None
        self.maps.forget()
        self.set_note(f"#{index + 1}")
        self.more.hide()
        self._shown = True
        self._show_emptiness()

    def add(self, method: str, found: Explained) -> None:
        self.maps.found[method] = found
        self.maps.forget()
        self.show_menu_button()
        texts = (f"{tr(METHODS[m])}: {in_words(f)}" for m, f in self.maps.found.items())
        self.maps.setAccessibleDescription(" ".join(texts))

    def clear(self) -> None:
        self.maps.found, self.maps.ghosts = {}, (None, None)
        self.maps.forget()
        self.set_note("")
        self.more.hide()
        self._shown = False
        self._show_emptiness()

    def rows(self) -> Iterable[Sequence[Any]]:
        yield "method", "row", "column", "clean", "adversarial", "moved"
        for method, found in self.maps.found.items():
            if not found.said["missing"]:
                for (row, column), _ in np.ndenumerate(found.maps[0]):
                    yield method, row, column, *(float(v) for v in found.maps[:, row, column])

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_shown"):
            self.maps.setAccessibleName(tr("Maps of what the decision rests on"))
            self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(not self._shown, self.maps)
