"""What a generator and its critic do in a plane: real and generated points, what the critic says of
every place, where it pulls the points to, and what the generator makes of a regular grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QLineF, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QIcon,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPen,
    QPixmap,
    QPolygonF,
)
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import axis, pictures
from workbench.views.dots import draw_dots
from workbench.views.painted import Drawing, DrawnCard
from workbench.views.readout import paint_readout
from workbench.views.text import number, percent, tick

Floats = NDArray[np.float32]
CRITIC, REAL, GENERATED, GRID, PULL = "critic", "real", "generated", "grid", "pull"
LAYERS: Mapping[str, str] = {
    CRITIC: mark("Critic"),
    REAL: mark("Real"),
    GENERATED: mark("Generated"),
    GRID: mark("Grid"),
    PULL: mark("Pull"),
}
"""What can be shown, from the ground up, and what it is called."""
TIPS: Mapping[str, str] = {
    CRITIC: mark("What the critic says of every place"),
    REAL: mark("Points of the data"),
    GENERATED: mark("Points that the generator makes, always of the same latents"),
    GRID: mark("What the generator makes of a regular grid of latents"),
    PULL: mark("Where the generator's loss falls fastest from a generated point"),
}
STRENGTH = 0.34
"""How much of its colour the ground has where the critic is sure."""
ARROW = 30.0
"""Length of the longest arrow, in pixels at scale 1."""
NEAR = 10.0
"""Pixels at scale 1 within which the pointer finds a point."""
EMPTY = mark("Drawn while a generator learns points in the plane. Press Start run.")


@dataclass(frozen=True)
class Scene:
    """One generator against one critic at one time. What is not known is None.

    real, generated: (N, 2). surface: (rows, columns), rows from low y to high y, over `extent`
    (x from, x to, y from, y to), its outer values at the extent's ends. `probability`: the surface
    is one that a point is real, 0 to 1, else a score that has no zero of its own. arrows: (M, 4),
    x, y, dx, dy. manifold: (K, G, G, 2), the images of K regular grids.
    """

    extent: tuple[float, float, float, float]
    real: Floats | None = None
    generated: Floats | None = None
    surface: Floats | None = None
    probability: bool = True
    arrows: Floats | None = None
    manifold: Floats | None = None
    step: int = 0

    @property
    def range(self) -> tuple[float, float]:
        """Between which values the colours run; what is between real and generated is in the
        middle."""
        if self.probability or self.surface is None:
            return 0.0, 1.0
        finite = self.surface[np.isfinite(self.surface)]
        if not len(finite):
            return 0.0, 1.0
        low, high = float(finite.min()), float(finite.max())
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    @property
    def outside(self) -> float:
        """The share of the generated points that no picture of the extent shows."""
        if self.generated is None or not len(self.generated):
            return 0.0
        x0, x1, y0, y1 = self.extent
        x, y = self.generated.T
        return 1.0 - float(((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).mean())

    def critic_at(self, x: float, y: float) -> float | None:
        """What the critic says at a place, between the points of its grid; None outside."""
        if self.surface is None:
            return None
        x0, x1, y0, y1 = self.extent
        rows, columns = self.surface.shape
        right, up = (x - x0) / (x1 - x0) * (columns - 1), (y - y0) / (y1 - y0) * (rows - 1)
        if not (0 <= right <= columns - 1 and 0 <= up <= rows - 1):
            return None
        c, r = min(int(right), columns - 2), min(int(up), rows - 2)
        near = self.surface[r : r + 2, c : c + 2].astype(float)
        a, b = right - c, up - r
        return float(np.array([1 - b, b]) @ near @ np.array([1 - a, a]))


def extent_of(points: Iterable[Floats], room: float = 0.3) -> tuple[float, float, float, float]:
    """A square around points, and a share of it more."""
    known = [each.reshape(-1, 2) for each in points if each.size]
    if not known:
        return -1.0, 1.0, -1.0, 1.0
    every = np.concatenate(known)
    every = every[np.isfinite(every).all(1)]
    if not len(every):
        return -1.0, 1.0, -1.0, 1.0
    low, high = every.min(0).astype(float), every.max(0).astype(float)
    half = max(float((high - low).max()) * (1 + room) / 2, 1e-6)
    middle = (low + high) / 2
    return (
        float(middle[0] - half),
        float(middle[0] + half),
        float(middle[1] - half),
        float(middle[1] + half),
    )


class Ground:
    """Where a scene is drawn: pixels of its places."""

    def __init__(self, extent: tuple[float, float, float, float], room: QRectF) -> None:
        """The largest field in `room` in which both axes have the same scale."""
        x0, x1, y0, y1 = extent
        scale = min(room.width() / (x1 - x0), room.height() / (y1 - y0))
        wide, high = (x1 - x0) * scale, (y1 - y0) * scale
        left = room.left() + (room.width() - wide) / 2
        self.extent, self.scale = extent, scale
        self.field = QRectF(left, room.top() + (room.height() - high) / 2, wide, high)

    def pixels(self, places: NDArray[Any]) -> NDArray[np.float64]:
        """(..., 2) places as pixels."""
        shown = np.empty(places.shape, np.float64)
        shown[..., 0] = self.field.left() + (places[..., 0] - self.extent[0]) * self.scale
        shown[..., 1] = self.field.bottom() - (places[..., 1] - self.extent[2]) * self.scale
        return shown

    def pixel(self, x: float, y: float) -> QPointF:
        return QPointF(*self.pixels(np.array([x, y])).tolist())

    def place(self, position: QPointF) -> tuple[float, float]:
        """A pixel as a place."""
        return (
            self.extent[0] + (position.x() - self.field.left()) / self.scale,
            self.extent[2] + (self.field.bottom() - position.y()) / self.scale,
        )


def ground_colors(real: str, generated: str) -> pictures.Packed:
    """256 colours of the critic's ground, from surely generated to surely real; nothing in the
    middle, where it cannot tell."""
    ground = theme.color("card")
    ends = [_mixed(ground, theme.color(name), STRENGTH).name() for name in (generated, real)]
    return pictures.diverging_table(ends[0], ground.name(), ends[1])


def _mixed(one: QColor, other: QColor, share: float) -> QColor:
    parts = zip(one.getRgb()[:3], other.getRgb()[:3])  # type: ignore[index]
    return QColor(*(round(a + (b - a) * share) for a, b in parts))


def draw_ground(painter: QPainter, ground: Ground, scene: Scene, real: str, generated: str) -> None:
    """What the critic says of every place."""
    if scene.surface is None:
        return
    low, high = scene.range
    share = np.nan_to_num((scene.surface - low) / (high - low), nan=0.5, posinf=1.0, neginf=0.0)
    index = (1 + 254 * np.clip(share, 0, 1) + 0.5).astype(np.uint8)
    image = pictures.image(ground_colors(real, generated)[index[::-1]])
    field = ground.field
    rows, columns = scene.surface.shape
    # The outer values are those at the edge: half a pixel of the picture lies beyond it.
    beyond = field.width() / (columns - 1) / 2, field.height() / (rows - 1) / 2
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.drawImage(field.adjusted(-beyond[0], -beyond[1], *beyond), image)


class SceneView(Drawing):
    """Paints a scene. The pointer, or the arrow keys (with Shift faster), read out a place: what
    the critic says there, and the generated point that is near. Escape ends it."""

    still = True

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.scene: Scene | None = None
        self.colors = ("series:1", "series:0")
        """Of what is real and of what is generated."""
        self.hidden: set[str] = set()
        """Layers that are not shown."""
        self.exact = False
        """Whether each dot is painted by itself, as in an export."""
        self.ground: Ground | None = None
        """Where it was drawn last on the screen."""
        self._real: tuple[object, QPixmap] | None = None
        self.pointer: QPointF | None = None
        self._by_key = False

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(200), theme.px(200))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(440), theme.px(420))

    def show_scene(self, scene: Scene | None) -> None:
        self.scene = scene
        self.forget()

    def shows(self, layer: str) -> bool:
        return layer not in self.hidden

    # --- painting

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        scene = self.scene
        if scene is None:
            return
        px = theme.px
        ground = Ground(scene.extent, whole.adjusted(px(38), px(2), -px(4), -px(38)))
        if not self.exact:
            self.ground = ground
        field = ground.field
        painter.save()
        painter.setClipRect(field)
        real, generated = self.colors
        if self.shows(CRITIC):
            draw_ground(painter, ground, scene, real, generated)
        if self.shows(REAL) and scene.real is not None:
            self._draw_real(painter, ground, scene.real)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.shows(GRID) and scene.manifold is not None:
            self._draw_grid(painter, ground, scene.manifold)
        if self.shows(GENERATED) and scene.generated is not None:
            places = ground.pixels(scene.generated)
            radius = self._radius(len(places))
            edge, color = theme.color("card", 0.8), theme.color(generated)
            draw_dots(painter, field, places, edge, radius + px(1), exact=self.exact)
            draw_dots(painter, field, places, color, radius, exact=self.exact)
        if self.shows(PULL) and scene.arrows is not None:
            self._draw_pull(painter, ground, scene.arrows)
        painter.restore()
        self._draw_axes(painter, whole, ground)
        self._draw_key(painter, ground)

    def _radius(self, count: int) -> float:
        return (2.6 if count <= 600 else 2.1) * theme.manager.scale

    def _draw_real(self, painter: QPainter, ground: Ground, real: Floats) -> None:
        """They never move: painted once for a size, and kept."""
        radius, color = 2.0 * theme.manager.scale, theme.color(self.colors[0])
        if self.exact:
            draw_dots(painter, ground.field, ground.pixels(real), color, radius, exact=True)
            return
        key = (id(real), ground.field.getRect(), color.rgba(), radius, self.devicePixelRatioF())
        if self._real is None or self._real[0] != key:
            ratio = self.devicePixelRatioF()
            drawn = QPixmap(self.size() * ratio)
            drawn.setDevicePixelRatio(ratio)
            drawn.fill(Qt.GlobalColor.transparent)
            inner = QPainter(drawn)
            places, edge = ground.pixels(real), theme.color("card", 0.6)
            draw_dots(inner, ground.field, places, edge, radius + theme.px(0.7))
            draw_dots(inner, ground.field, places, color, radius)
            inner.end()
            self._real = key, drawn
        painter.drawPixmap(0, 0, self._real[1])

    def _draw_grid(self, painter: QPainter, ground: Ground, manifold: Floats) -> None:
        places = ground.pixels(manifold)
        painter.setPen(QPen(theme.color(self.colors[1], 0.55), 1))
        for grid in places:
            for line in (*grid, *grid.transpose(1, 0, 2)):
                if np.isfinite(line).all():
                    painter.drawPolyline(QPolygonF([QPointF(x, y) for x, y in line.tolist()]))

    def _draw_pull(self, painter: QPainter, ground: Ground, arrows: Floats) -> None:
        """The longest is as long as ARROW, the others in proportion."""
        way = arrows[:, 2:].astype(np.float64) * (1, -1)
        long = np.hypot(*way.T)
        most = float(long[np.isfinite(long)].max(initial=0.0))
        if most <= 0:
            return
        start = ground.pixels(arrows[:, :2])
        way *= theme.px(ARROW) / most
        end = start + way
        seen = np.isfinite(end).all(1) & (long > 0)
        start, way, end = start[seen], way[seen], end[seen]
        lines = np.concatenate([start, end], 1)
        heads = np.hypot(*way.T) > theme.px(5)
        angle = np.arctan2(way[heads, 1], way[heads, 0]) + math.pi
        tip, size = end[heads], 3.6 * theme.manager.scale
        barbs = [
            np.concatenate(
                [tip, tip + size * np.stack((np.cos(angle + t), np.sin(angle + t)), 1)], 1
            )
            for t in (-0.5, 0.5)
        ]
        painter.setPen(QPen(theme.color("text", 0.9), 1.1 * theme.manager.scale))
        drawn = np.concatenate([lines, *barbs]).tolist()
        painter.drawLines([QLineF(*line) for line in drawn])

    def _draw_axes(self, painter: QPainter, whole: QRectF, ground: Ground) -> None:
        px, field = theme.px, ground.field
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(field)
        painter.setFont(theme.font(11))
        x0, x1, y0, y1 = ground.extent
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for low, high, upright in ((x0, x1, False), (y0, y1, True)):
            values, step = axis.ticks(low, high, field.height() / px(64))
            for value in values:
                at = ground.pixel(x0 if upright else value, value if upright else y0)
                painter.setPen(QPen(theme.color("border"), 1))
                out = QPointF(-px(3), 0) if upright else QPointF(0, px(3))
                painter.drawLine(at, at + out)
                painter.setPen(theme.color("faint"))
                if upright:
                    box = QRectF(at.x() - px(46), at.y() - px(8), px(40), px(16))
                    painter.drawText(box, right, tick(value, step))
                else:
                    box = QRectF(at.x() - px(30), at.y() + px(4), px(60), px(14))
                    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, tick(value, step))

    def _draw_key(self, painter: QPainter, ground: Ground) -> None:
        """What the colours of the ground mean, below it."""
        scene = self.scene
        if scene is None or scene.surface is None or not self.shows(CRITIC):
            return
        px, field = theme.px, ground.field
        low, high = scene.range
        metrics = QFontMetricsF(theme.font(11))
        ends = (
            f"{tr('generated')} {number(low, 2)}",
            f"{number(high, 2)} {tr('real')}",
        )
        wide = [metrics.horizontalAdvance(text) for text in ends]
        bar = QRectF(0, field.bottom() + px(26), px(72), px(7))
        bar.moveLeft(field.center().x() - bar.width() / 2 + (wide[0] - wide[1]) / 2)
        colors = ground_colors(self.colors[0], self.colors[1])[1:][None]
        painter.drawImage(bar, pictures.image(colors))
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(bar)
        painter.setPen(theme.color("faint"))
        middle = Qt.AlignmentFlag.AlignVCenter
        line = QRectF(0, bar.center().y() - px(8), wide[0] + 2, px(16))
        line.moveRight(bar.left() - px(6))
        painter.drawText(line, middle | Qt.AlignmentFlag.AlignRight, ends[0])
        line = QRectF(bar.right() + px(7), bar.center().y() - px(8), wide[1] + 2, px(16))
        painter.drawText(line, middle, ends[1])

    # --- reading out

    def draw_hands(self, painter: QPainter) -> None:
        at, ground = self.pointer, self.ground
        if at is None or ground is None or self.scene is None or not ground.field.contains(at):
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        near = self._nearest(at)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("text"), 1.4 * theme.manager.scale))
        if near >= 0 and self.scene.generated is not None:
            at = QPointF(*ground.pixels(self.scene.generated[near]).tolist())
            painter.drawEllipse(at, theme.px(6), theme.px(6))
        elif self._by_key:
            arm = theme.px(6)
            painter.drawLine(at - QPointF(arm, 0), at + QPointF(arm, 0))
            painter.drawLine(at - QPointF(0, arm), at + QPointF(0, arm))
        head, rows = self.said_at(at, near)
        paint_readout(painter, QRectF(self.rect()), at.x(), at.y() + theme.px(6), head, rows)

    def _nearest(self, at: QPointF) -> int:
        """The generated point at the pointer, -1 where there is none."""
        scene, ground = self.scene, self.ground
        if scene is None or ground is None or scene.generated is None or not len(scene.generated):
            return -1
        if not self.shows(GENERATED):
            return -1
        places = ground.pixels(scene.generated)
        away = np.hypot(places[:, 0] - at.x(), places[:, 1] - at.y())
        best = int(np.nanargmin(away)) if np.isfinite(away).any() else -1
        return best if best >= 0 and away[best] <= theme.px(NEAR) else -1

    def said_at(self, at: QPointF, near: int) -> tuple[str, list[tuple[str, str, str]]]:
        """A heading and rows, as in `paint_readout`."""
        assert self.scene is not None
        assert self.ground is not None
        x, y = self.ground.place(at)
        here = f"{number(x)}, {number(y)}"
        head = tr("generated point {number}", number=near + 1) if near >= 0 else here
        rows = [(self.colors[1], tr("Place"), here)] if near >= 0 else []
        said = self.scene.critic_at(x, y)
        if said is not None and self.scene.probability:
            color = self.colors[0] if said >= 0.5 else self.colors[1]
            rows.append((color, tr("Critic: real"), percent(said)))
        elif said is not None:
            rows.append(("faint", tr("Critic's score"), number(said)))
        return head, rows

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self.pointer, self._by_key = event.position(), False
        self.update()

    def leaveEvent(self, event: object) -> None:
        if not self._by_key:
            self.pointer = None
            self.update()

    def focusOutEvent(self, event: object) -> None:
        if self._by_key:
            self.pointer, self._by_key = None, False
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: (-1, 0),
            Qt.Key.Key_Right: (1, 0),
            Qt.Key.Key_Up: (0, -1),
            Qt.Key.Key_Down: (0, 1),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is not None and self.ground is not None and self.scene is not None:
            field = self.ground.field
            far = theme.px(32 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 8)
            at = (self.pointer or field.center()) + QPointF(*move) * far
            at.setX(min(max(at.x(), field.left()), field.right() - 1))
            at.setY(min(max(at.y(), field.top()), field.bottom() - 1))
            self.pointer, self._by_key = at, True
            head, rows = self.said_at(at, self._nearest(at))
            self.setAccessibleDescription(", ".join([head, *(f"{n} {v}" for _, n, v in rows)]))
            self.update()
        elif event.key() == Qt.Key.Key_Escape and self.pointer is not None:
            self.pointer, self._by_key = None, False
            self.update()
        else:
            event.ignore()


class SceneCard(DrawnCard):
    """A scene with a button for each layer, which is its legend too."""

    drawing: SceneView

    def __init__(self, parent: QWidget | None = None) -> None:
        self.layers: dict[str, QPushButton] = {}
        super().__init__(mark("Generator against critic"), SceneView(), parent)
        self._explain = EMPTY
        row = QHBoxLayout()
        row.setSpacing(4)
        for layer in LAYERS:
            button = QPushButton()
            button.setProperty("look", "toggle")
            button.setCheckable(True)
            button.setChecked(True)
            button.toggled.connect(lambda on, layer=layer: self.show_layer(layer, on))
            self.layers[layer] = button
            row.addWidget(button)
        row.addStretch(1)
        self.body.insertLayout(0, row)
        self.fill_menu()
        self.show_menu_button()
        theme.manager.changed.connect(self._mark_layers)
        self._mark_layers()
        self._show_emptiness()

    @property
    def scene(self) -> Scene | None:
        return self.drawing.scene

    def show_scene(self, scene: Scene | None) -> None:
        """Draw this one; None says what will appear."""
        was = self.scene
        self.drawing.show_scene(scene)
        if (was is None) != (scene is None):
            self._show_emptiness()
        if scene is not None:
            known = {
                CRITIC: scene.surface,
                REAL: scene.real,
                GENERATED: scene.generated,
                GRID: scene.manifold,
                PULL: scene.arrows,
            }
            for layer, values in known.items():
                self.layers[layer].setEnabled(values is not None)

    def show_layer(self, layer: str, on: bool) -> None:
        """Show a layer, or leave it out."""
        self.drawing.hidden.discard(layer) if on else self.drawing.hidden.add(layer)
        self.layers[layer].setChecked(on)
        self._mark_layers()
        self.drawing.forget()

    def set_colors(self, real: str, generated: str) -> None:
        """Tokens of the theme, as "series:2"."""
        if self.drawing.colors != (real, generated):
            self.drawing.colors = real, generated
            self._mark_layers()
            self.drawing.forget()

    def _mark_layers(self) -> None:
        """The sign of each layer in its own colour, faint where it is not shown."""
        real, generated = self.drawing.colors
        tokens = {CRITIC: "", REAL: real, GENERATED: generated, GRID: generated, PULL: "text"}
        for layer, button in self.layers.items():
            sign = _sign(layer, tokens[layer], (real, generated), button.isChecked())
            button.setIcon(sign)
            button.setIconSize(QSize(theme.px(15), theme.px(12)))

    def _show_emptiness(self) -> None:
        self._give_way(self.scene is None, self.drawing, *self.layers.values())

    def retranslate(self) -> None:
        super().retranslate()
        for layer, button in self.layers.items():
            button.setText(tr(LAYERS[layer]))
            button.setToolTip(tr(TIPS[layer]))
            button.setAccessibleName(tr(LAYERS[layer]))
            button.setAccessibleDescription(tr(TIPS[layer]))
        if self.layers:
            self.drawing.setAccessibleName(tr("Drawing of {card}", card=self.title.text()))
            self._show_emptiness()

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        self.drawing.exact = True
        try:
            super().paint_picture(painter, size)
        finally:
            self.drawing.exact = False

    def rows(self) -> Iterable[Sequence[Any]]:
        """Every layer in one table: what a row is, where, and the arrow or what the critic says."""
        yield "layer", "x", "y", "dx", "dy", "critic"
        scene = self.scene
        if scene is None:
            return
        for name, points in ((REAL, scene.real), (GENERATED, scene.generated)):
            if points is not None:
                yield from ((name, f"{x:.9g}", f"{y:.9g}", "", "", "") for x, y in points.tolist())
        if scene.arrows is not None:
            for arrow in scene.arrows.tolist():
                yield (PULL, *(f"{value:.9g}" for value in arrow), "")
        if scene.manifold is not None:
            for x, y in scene.manifold.reshape(-1, 2).tolist():
                yield GRID, f"{x:.9g}", f"{y:.9g}", "", "", ""
        if scene.surface is not None:
            x0, x1, y0, y1 = scene.extent
            rows, columns = scene.surface.shape
            xs, ys = np.linspace(x0, x1, columns), np.linspace(y0, y1, rows)
            for y, line in zip(ys.tolist(), scene.surface.tolist()):
                for x, value in zip(xs.tolist(), line):
                    yield CRITIC, f"{x:.9g}", f"{y:.9g}", "", "", f"{value:.9g}"


def _sign(layer: str, token: str, colors: tuple[str, str], shown: bool) -> QIcon:
    """The sign of a layer, as an icon with a little room on its right."""
    side = theme.px(12)
    drawn = QPixmap(2 * side + 2 * theme.px(3), 2 * side)
    drawn.fill(Qt.GlobalColor.transparent)
    drawn.setDevicePixelRatio(2)
    painter = QPainter(drawn)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setOpacity(1.0 if shown else 0.35)
    middle = side / 2
    if layer == CRITIC:
        half = QRectF(1, 2, middle - 1, side - 4)
        painter.fillRect(half, theme.color(colors[1], 0.7))
        painter.fillRect(half.translated(middle - 1, 0), theme.color(colors[0], 0.7))
    elif layer in (REAL, GENERATED):
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color(token))
        radius = side * (0.24 if layer == REAL else 0.34)
        painter.drawEllipse(QPointF(middle, middle), radius, radius)
    else:
        painter.setPen(QPen(theme.color(token), side / 9))
        if layer == GRID:
            for at in (0.2, 0.5, 0.8):
                painter.drawLine(QPointF(1, at * side), QPointF(side - 1, at * side))
                painter.drawLine(QPointF(at * side, 1), QPointF(at * side, side - 1))
        else:
            painter.drawLine(QPointF(1.5, middle), QPointF(side - 1.5, middle))
            for y in (0.22, 0.78):
                painter.drawLine(QPointF(side - 1.5, middle), QPointF(side * 0.58, side * y))
    painter.end()
    return QIcon(drawn)
