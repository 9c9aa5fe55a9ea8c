"""Many small pictures in one: a mosaic, alone or linked with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QObject, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QWheelEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import pictures
from workbench.views.card import Card
from workbench.views.picture import write_png
from workbench.views.pictures import Grid, Packed, Pixels

Caption = Mapping[str, Any]
NO_PICTURES = np.zeros((0, 1, 1, 1), dtype=np.uint8)
ZERO = 128
"""No perturbation, in signed pictures."""
NONE_KEPT = mark("No sample passes the filters. Choose others, or clear them.")
MAX_ZOOM = 12.0
LARGEST_TILE = 240
"""Pixels at scale 1: few pictures do not fill a screen."""


class Link(QObject):
    """What linked mosaics share: the selected and the hovered picture, zoom and place."""

    selected_changed = Signal(int)
    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.selected = 0
        self.hovered = -1
        self.zoom = 1.0
        self.origin = QPointF(0.0, 0.0)
        """Left top of what is seen, as a share of the whole."""
        self.beyond = 0
        """How many can be selected, pictures or not; 0 is as many as there are pictures."""
        self.alike = True
        """Every view arranges its pictures as the smallest one must."""
        self.columns, self.count = 0, 0
        """How the pictures were arranged last, and how many there were."""
        self.views: list[MosaicView] = []

    def select(self, index: int) -> None:
        if index != self.selected:
            self.selected = index
            self.changed.emit()
            self.selected_changed.emit(index)

    def hover(self, index: int) -> None:
        if index != self.hovered:
            self.hovered = index
            self.changed.emit()

    def look(self, zoom: float, origin: QPointF) -> None:
        """Show a part: 1/zoom of the whole, from `origin` on, kept within the whole."""
        self.zoom = min(max(zoom, 1.0), MAX_ZOOM)
        room = 1 - 1 / self.zoom
        self.origin = QPointF(min(max(origin.x(), 0), room), min(max(origin.y(), 0), room))
        for view in self.views:
            view.forget()
        self.changed.emit()


def describe(caption: Caption, classes: Sequence[str]) -> str:
    """What a caption says, in words."""
    prediction, label = caption.get("prediction"), caption.get("label")
    if prediction is None:
        return "" if label is None else class_name(label, classes)
    shown = class_name(prediction, classes)
    if label is None:
        return tr("predicted {prediction}", prediction=shown)
    text = tr(
        "true class {label}, predicted {prediction}",
        label=class_name(label, classes),
        prediction=shown,
    )
    return f"{text} {'✓' if is_correct(caption) else '✕'}"


def is_correct(caption: Caption) -> bool:
    """Whether the model was right; without a label, nobody can say it was wrong."""
    if "correct" in caption:
        return bool(caption["correct"])
    label, prediction = caption.get("label"), caption.get("prediction")
    return label is None or prediction is None or label == prediction


def class_name(index: Any, classes: Sequence[str]) -> str:
    known = isinstance(index, int) and 0 <= index < len(classes)
    return str(classes[index]) if known else str(index)


class MosaicView(QWidget):
    """Paints pictures in a grid, in one go. Arrow keys move the selection; the wheel and + - zoom,
    dragging moves, a double click or Home shows all."""

    def __init__(
        self, link: Link | None = None, badges: bool = True, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.link = link or Link(self)
        self.link.views.append(self)
        self.link.changed.connect(self._follow)
        self.badges = badges
        self.classes: tuple[str, ...] = ()
        self.pixels: Pixels = NO_PICTURES
        self.captions: tuple[Caption, ...] = ()
        self.scale: float | None = None
        self.wrong_before: frozenset[int] = frozenset()
        """Pictures that the model got wrong by themselves: they are not attacked."""
        self.kept: tuple[int, ...] | None = None
        """The pictures that are shown; None is all."""
        self._packed: Packed | None = None
        self._base: QPixmap | None = None
        self._grid: Grid | None = None
        self.words: Callable[[Caption], str] | None = None
        """What stands at the foot of each picture that is large enough, from its caption."""
        self._stamps: dict[tuple[str, bool, int], QPixmap | None] = {}
        self._drag: QPointF | None = None
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self._recolor)

    high = 240
    """Height at scale 1 that it asks for."""
    largest = LARGEST_TILE
    """Pixels at scale 1 that a picture may be high or wide."""

    def sizeHint(self) -> QSize:
        return QSize(theme.px(200), theme.px(self.high))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(80), theme.px(80))

    def set_images(
        self, pixels: Pixels, captions: Sequence[Caption] = (), scale: float | None = None
    ) -> None:
        """`pixels` is (N, H, W, C) uint8; see `engine.events.Images`."""
        if pixels.shape[:3] != self.pixels.shape[:3]:
            for view in self.link.views:
                view._grid = None
        self.pixels, self.captions, self.scale = pixels, tuple(captions), scale
        self._packed = None
        self._base = None
        if self.link.selected >= max(len(pixels), self.link.beyond) > 0:
            self.link.select(0)
        self.update()

    def keep(self, kept: Sequence[int] | None) -> None:
        """Show these pictures alone, in this order; None shows all. They keep their places in what
        the link says."""
        chosen = None if kept is None else tuple(kept)
        if chosen != self.kept:
            self.kept = chosen
            self._packed = None
            self.forget()

    @property
    def order(self) -> Sequence[int]:
        """The pictures that are shown, as they are arranged."""
        count = len(self.pixels)
        return range(count) if self.kept is None else [k for k in self.kept if k < count]

    def forget(self) -> None:
        """Everything must be drawn anew."""
        self._grid = None
        self._base = None
        self.update()

    def _recolor(self) -> None:
        self._packed = None
        self._stamps.clear()
        self.forget()

    def _follow(self) -> None:
        index = self.link.hovered if self.link.hovered >= 0 else self.link.selected
        if 0 <= index < len(self.captions):
            self._say(f"#{index + 1} · {describe(self.captions[index], self.classes)}")
        elif self._is_untouched(index):
            self._say(f"#{index + 1} · {tr('not attacked: already wrong')}")
        elif self.scale is not None:
            self._say("")
        self.update()

    def _say(self, text: str) -> None:
        self.setToolTip(text)
        self.setAccessibleDescription(text)

    def _is_untouched(self, index: int) -> bool:
        """Whether this shows a perturbation that is none, as the picture was wrong anyway."""
        shown = self.scale is not None and index in self.wrong_before and index < len(self.pixels)
        return shown and bool((self.pixels[index] == ZERO).all())

    # --- geometry, all in device pixels ---

    def _area(self) -> tuple[int, int]:
        """Width and height that every linked view of this window has, so that all arrange
        alike."""
        ratio, window = self.devicePixelRatioF(), self.window()
        near = [v for v in self.link.views if v.window() is window and self.link.alike]
        shown = [v for v in near if v.isVisibleTo(window)] or [self]
        return (
            int(min(v.width() for v in shown) * ratio),
            int(min(v.height() for v in shown) * ratio),
        )

    def grid(self) -> Grid:
        """Where the tiles are now, with the zoom."""
        if self._grid is None:
            ratio = self.devicePixelRatioF()
            (height, width), count = self.pixels.shape[1:3], len(self.order)
            area, zoom = self._area(), self.link.zoom
            gap = max(1, round((2 if count <= 100 else 1) * ratio))
            most = theme.px(self.largest) * ratio
            kept = self.link.columns if self.link.count == count else 0
            fit = pictures.arrange(count, (height, width), area, gap, most, kept)
            self.link.columns, self.link.count = fit.columns, count
            inset = ((self.width() * ratio - area[0]) // 2, (self.height() * ratio - area[1]) // 2)
            if zoom > 1:
                self._grid = Grid(
                    fit.columns,
                    fit.rows,
                    fit.tile_width * zoom,
                    fit.tile_height * zoom,
                    round(gap * zoom),
                    inset[0] + (fit.left - self.link.origin.x() * area[0]) * zoom,
                    inset[1] + (fit.top - self.link.origin.y() * area[1]) * zoom,
                    False,
                )
            else:
                self._grid = Grid(
                    fit.columns,
                    fit.rows,
                    fit.tile_width,
                    fit.tile_height,
                    gap,
                    inset[0] + fit.left,
                    inset[1] + fit.top,
                    fit.crisp,
                )
        return self._grid

    def tile(self, index: int) -> QRectF:
        """The rectangle of a picture, in the widget's own coordinates."""
        ratio = self.devicePixelRatioF()
        left, top, width, height = self.grid().place(self.order.index(index))
        return QRectF(left / ratio, top / ratio, width / ratio, height / ratio)

    def index_at(self, position: QPointF) -> int:
        ratio = self.devicePixelRatioF()
        order = self.order
        place = self.grid().index_at(position.x() * ratio, position.y() * ratio, len(order))
        return order[place] if place >= 0 else -1

    # --- painting ---

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        if len(self.order):
            if self._base is None:
                self._base = self.picture()
            painter.drawPixmap(0, 0, self._base)
            self._outline(painter, self.link.hovered, "text", 1)
            strength = 3 if self.hasFocus() else 2
            self._outline(painter, self.link.selected, "accent", strength)
        painter.end()

    def _outline(self, painter: QPainter, index: int, token: str, width: float) -> None:
        if index not in self.order:
            return
        pen = QPen(theme.color(token), width)
        pen.setJoinStyle(Qt.PenJoinStyle.MiterJoin)
        painter.setPen(pen)
        out = width / 2
        painter.drawRect(self.tile(index).adjusted(-out, -out, out, out))

    def picture(self) -> QPixmap:
        """All that is seen, without selection, as one picture."""
        if self._packed is None:
            shown = self.pixels if self.kept is None else self.pixels[list(self.order)]
            self._packed = pictures.pack(shown, self.scale)
        ratio = self.devicePixelRatioF()
        grid = self.grid()
        size = self.size() * ratio
        area = (size.width(), size.height())
        ground = theme.color("card")
        if grid.crisp:
            base = QPixmap.fromImage(pictures.compose(self._packed, grid, area, ground.rgb()))
        else:
            base = QPixmap(size)
            base.fill(ground)
            self._draw_scaled(base, grid, area)
        if self.badges and self.captions:
            self._draw_badges(base, grid, area)
        if self.words is not None and self.captions:
            self._draw_words(base, grid)
        self._mark_untouched(base, grid)
        base.setDevicePixelRatio(ratio)
        return base

    def _mark_untouched(self, base: QPixmap, grid: Grid) -> None:
        """A hole would look like a fault: a quiet dash says that nothing was done there."""
        for number, index in enumerate(self.order):
            if index not in self.wrong_before or not self._is_untouched(index):
                continue
            place = QRectF(*grid.place(number))
            painter = QPainter(base)
            painter.fillRect(place, theme.color("raised"))
            painter.setPen(QPen(theme.color("faint"), max(place.height() / 16, 1.0)))
            reach = QPointF(place.width() / 6, 0)
            painter.drawLine(place.center() - reach, place.center() + reach)
            painter.end()

    def _draw_scaled(self, base: QPixmap, grid: Grid, area: tuple[int, int]) -> None:
        assert self._packed is not None
        count, height, width = self._packed.shape
        atlas = pictures.image(self._packed.reshape(count * height, width))
        painter = QPainter(base)
        # Little enlargement looks uneven when pixels are only repeated, much of it blurred.
        painter.setRenderHint(
            QPainter.RenderHint.SmoothPixmapTransform, grid.tile_width < 4 * width
        )
        for index in range(count):
            place = QRectF(*grid.place(index))
            if place.intersects(QRectF(0, 0, *area)):
                painter.drawImage(place, atlas, QRectF(0, index * height, width, height))
        painter.end()

    def _draw_badges(self, base: QPixmap, grid: Grid, area: tuple[int, int]) -> None:
        ratio = self.devicePixelRatioF()
        painter = QPainter(base)
        for number, index in enumerate(self.order):
            caption = self.captions[index] if index < len(self.captions) else {}
            if caption.get("prediction") is None:
                continue
            left, top, width, height = grid.place(number)
            if left > area[0] or top > area[1] or left + width < 0 or top + height < 0:
                continue
            stamp = self._stamp(
                class_name(caption["prediction"], self.classes),
                is_correct(caption),
                int(width / ratio),
            )
            if stamp is not None:
                size = stamp.size()
                painter.drawPixmap(
                    int(left + width - size.width()), int(top + height - size.height()), stamp
                )
        painter.end()

    def _draw_words(self, base: QPixmap, grid: Grid) -> None:
        """A strip along the foot of each picture; none where it would hide a third of it."""
        assert self.words is not None
        ratio = self.devicePixelRatioF()
        font = theme.font(11, 600)
        font.setPixelSize(round(font.pixelSize() * ratio))
        metrics = QFontMetricsF(font)
        high = metrics.height() + 2 * ratio
        painter = QPainter(base)
        painter.setFont(font)
        for number, index in enumerate(self.order):
            place = QRectF(*grid.place(number))
            text = self.words(self.captions[index]) if index < len(self.captions) else ""
            if not text or high > place.height() / 3:
                continue
            strip = QRectF(place.left(), place.bottom() - high, place.width(), high)
            painter.fillRect(strip, QColor(0, 0, 0, 168))
            painter.setPen(QColor("#ffffff"))
            shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, place.width() - 6 * ratio)
            painter.drawText(strip, Qt.AlignmentFlag.AlignCenter, shown)
        painter.end()

    def _stamp(self, text: str, correct: bool, room: int) -> QPixmap | None:
        """The badge of a prediction for a tile `room` wide: a name, and a cross on wrong ones.
        Where a name would hide the picture only the cross remains; on tiny tiles nothing."""
        if room < theme.px(9):
            return None
        key = (text, correct, room)
        if key not in self._stamps:
            metrics = QFontMetricsF(theme.font(10, 700))
            wide = metrics.horizontalAdvance(text) + theme.px(5 if correct else 13)
            if room < theme.px(26) or (wide > room * 0.72 and room < theme.px(64)):
                text = ""
            self._stamps[key] = (
                None
                if correct and not text
                else _badge(text, correct, room, self.devicePixelRatioF())
            )
        return self._stamps[key]

    # --- hands ---

    def resizeEvent(self, event: object) -> None:
        for view in self.link.views:
            view.forget()

    def showEvent(self, event: object) -> None:
        for view in self.link.views:
            view.forget()

    def wheelEvent(self, event: QWheelEvent) -> None:
        turn = event.angleDelta().y() or event.angleDelta().x()
        if turn and len(self.pixels):
            self._zoom(1.25 ** (turn / 120), event.position())
        event.accept()

    def _zoom(self, factor: float, at: QPointF) -> None:
        link = self.link
        share = QPointF(at.x() / max(self.width(), 1), at.y() / max(self.height(), 1))
        zoom = min(max(link.zoom * factor, 1.0), MAX_ZOOM)
        link.look(zoom, link.origin + share / link.zoom - share / zoom)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.link.look(1.0, QPointF())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        index = self.index_at(event.position())
        if index >= 0:
            self.link.select(index)
        self._drag = event.position() if self.link.zoom > 1 else None

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._drag = None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._drag is not None:
            moved = event.position() - self._drag
            self._drag = event.position()
            share = QPointF(moved.x() / max(self.width(), 1), moved.y() / max(self.height(), 1))
            self.link.look(self.link.zoom, self.link.origin - share / self.link.zoom)
        self.link.hover(self.index_at(event.position()))

    def leaveEvent(self, event: object) -> None:
        self.link.hover(-1)

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        columns = self.grid().columns
        steps = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -columns,
            Qt.Key.Key_Down: columns,
        }
        key = Qt.Key(event.key())
        middle = QPointF(self.width() / 2, self.height() / 2)
        if key in steps:
            order = self.order
            here = order.index(self.link.selected) if self.link.selected in order else -1
            target = here + steps[key] if here >= 0 else 0
            if 0 <= target < len(order):
                self.link.select(order[target])
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self._zoom(1.25, middle)
        elif key == Qt.Key.Key_Minus:
            self._zoom(0.8, middle)
        elif key == Qt.Key.Key_Home:
            self.link.look(1.0, QPointF())
        else:
            event.ignore()


def _badge(text: str, correct: bool, room: int, ratio: float) -> QPixmap:
    px = theme.px
    font = theme.font(10, 700)
    metrics = QFontMetricsF(font)
    size = px(14) if text else min(max(round(room * 0.42), px(5)), px(11))
    cross = 0 if correct else size / 2
    pad = size * 0.18
    shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, room - 3 * pad - cross)
    width = (
        size if not text else metrics.horizontalAdvance(shown) + cross + (3 if cross else 2) * pad
    )
    stamp = QPixmap(QSize(round(width * ratio), round(size * ratio)))
    stamp.setDevicePixelRatio(ratio)
    stamp.fill(theme.color("badge_good" if correct else "badge_bad"))
    painter = QPainter(stamp)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if cross:
        arm = size * 0.19
        x, y = (pad + cross / 2 if text else size / 2), size / 2
        pen = QPen(QColor("#ffffff"), max(size * 0.11, 1.0))
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        painter.drawLine(QPointF(x - arm, y - arm), QPointF(x + arm, y + arm))
        painter.drawLine(QPointF(x - arm, y + arm), QPointF(x + arm, y - arm))
    painter.setPen(QColor("#ffffff"))
    painter.setFont(font)
    left = cross + pad if cross else 0
    painter.drawText(QRectF(left, 0, width - left, size), Qt.AlignmentFlag.AlignCenter, shown)
    painter.end()
    # Stamped onto a canvas in device pixels.
    stamp.setDevicePixelRatio(1)
    return stamp


class ScaleBar(QWidget):
    """What the colours of a perturbation mean: from -scale to +scale."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.scale = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.hide()
        theme.manager.changed.connect(self.update)

    def set_scale(self, scale: float | None) -> None:
        if scale != self.scale:
            self.scale = scale or 0.0
            self.setVisible(bool(scale))
            self.setAccessibleName(
                tr("Colours from {low} to {high}", low=-self.scale, high=self.scale)
            )
            self.updateGeometry()
            self.update()

    def _texts(self) -> tuple[str, str]:
        size = f"{self.scale:.3f}" if self.scale < 0.1 else f"{self.scale:.2f}"
        return f"−{size}", f"+{size}"

    def sizeHint(self) -> QSize:
        metrics = QFontMetricsF(theme.font(11))
        texts = sum(metrics.horizontalAdvance(text) for text in self._texts())
        return QSize(int(texts) + theme.px(56), theme.px(18))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(24), theme.px(18))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        px = theme.px
        low, high = self._texts()
        metrics = QFontMetricsF(theme.font(11))
        texts = metrics.horizontalAdvance(low) + metrics.horizontalAdvance(high) + px(10)
        whole = QRectF(self.rect())
        whole.setLeft(max(whole.right() - self.sizeHint().width(), 0.0))
        left, right = whole.left(), whole.right()
        both = f"±{high[1:]}"
        short = metrics.horizontalAdvance(both) + px(6)
        if whole.width() > texts + px(16):
            painter.setFont(theme.font(11))
            painter.setPen(theme.color("faint"))
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(whole, middle | Qt.AlignmentFlag.AlignLeft, low)
            painter.drawText(whole, middle | Qt.AlignmentFlag.AlignRight, high)
            left += metrics.horizontalAdvance(low) + px(5)
            right -= metrics.horizontalAdvance(high) + px(5)
        elif whole.width() > short + px(16):
            painter.setFont(theme.font(11))
            painter.setPen(theme.color("faint"))
            painter.drawText(
                whole, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, both
            )
            right -= short
            left = max(left, right - px(40))
        bar = QRectF(left, (self.height() - px(7)) / 2, right - left, px(7))
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for at, color in zip((0.0, 0.5, 1.0), theme.manager.theme.diverging):
            gradient.setColorAt(at, QColor(color))
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(gradient)
        painter.drawRoundedRect(bar, 2, 2)
        painter.end()


class Mosaic(Card):
    """A card with a mosaic. `link` joins it with others, `badges` shows predictions."""

    def __init__(
        self,
        title: str,
        parent: QWidget | None = None,
        *,
        link: Link | None = None,
        badges: bool = True,
        empty: str = "",
    ) -> None:
        super().__init__(title, parent)
        self.view = MosaicView(link, badges)
        self.body.addWidget(self.view, 1)
        self.scale_bar = ScaleBar()
        self.header.insertWidget(1, self.scale_bar, 100)
        self._explain = empty
        self._export = self.menu.addAction("")
        self._export.triggered.connect(self._ask_picture)
        self.retranslate()
        self._show_emptiness()

    def set_classes(self, classes: Sequence[str]) -> None:
        self.view.classes = tuple(classes)
        self.view.forget()

    def set_images(
        self, pixels: Pixels, captions: Sequence[Caption] = (), scale: float | None = None
    ) -> None:
        """(N, H, W, C) uint8; `scale` makes them signed (128 is zero, 255 is +scale)."""
        self.view.set_images(pixels, captions, scale)
        self.scale_bar.set_scale(scale)
        self._show_emptiness()
        self._remark()
        if len(pixels):
            self.show_menu_button()

    def keep(self, kept: Sequence[int] | None) -> None:
        """Show these pictures alone; None shows all."""
        self.view.keep(kept)
        self._remark()
        self._show_emptiness()

    def clear(self) -> None:
        self.set_images(NO_PICTURES)
        self.more.hide()

    @property
    def wrong(self) -> int:
        """How many of the pictures the model gets wrong."""
        captions = self.view.captions
        shown = (captions[k] for k in self.view.order if k < len(captions))
        return sum(1 for caption in shown if not is_correct(caption))

    def _remark(self) -> None:
        view = self.view
        (height, width), count = view.pixels.shape[1:3], len(view.order)
        if not count or view.scale is not None:
            self.set_note("")
        elif self.wrong and view.badges:
            text = tr("{wrong}/{count} wrong", wrong=self.wrong, count=count)
            self.set_note(text, f"{self.wrong}/{count}", "")
        else:
            size = f"{width} × {height} px"
            self.set_note(*((f"{count} · {size}", f"{count}") if count > 1 else (size,)), "")

    def _show_emptiness(self) -> None:
        empty = not len(self.view.order)
        self._give_way(empty, self.view)
        if empty and len(self.view.pixels):
            self.set_empty(tr(NONE_KEPT))

    def retranslate(self) -> None:
        super().retranslate()
        self._export.setText(tr("Export picture…"))
        self.view.setAccessibleName(tr("Pictures: {card}", card=self.title.text()))
        self._remark()
        self._show_emptiness()

    def _ask_picture(self) -> None:
        self.ask_and_write(tr("Export picture"), ("png",), self.export)

    def export(self, target: Path) -> None:
        """Write the mosaic as it is seen as .png. Raises OSError if it cannot be written."""
        write_png(target, self.view.picture().toImage())
