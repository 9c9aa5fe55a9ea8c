"""The cards of the stability instruments: the layers of a network at every step that was looked at,
the loss around its weights, and how steep that bends. Every view of a training can have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QComboBox, QVBoxLayout, QWidget

from engine.events import Array
from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.live import Curve
from workbench.views.curves import CurveCard
from workbench.views.heatmap import SCALES, Heatmap
from workbench.views.painted import DrawnCard
from workbench.views.surface import Floats, Grid, Surface, colours, draw_clean
from workbench.views.text import number

LAYERS_COME = mark(
    "Gradient, update, weights and activations of every layer, while a model trains with "
    "diagnostics light or full."
)
PLANE_COMES = mark(
    "The loss around the weights, at the end of a run with diagnostics full, or by Prediction "
    "stability."
)


BENDS = {
    "hessian/top": Curve("top", mark("Steepest bend of the loss"), smooth=False),
    "hessian/trace": Curve("trace", mark("Sum of all bends"), smooth=False),
    "gradient/noise_scale": Curve("noise_scale", mark("Gradient noise scale"), smooth=False),
}
"""What is said at the ends of epochs: the largest eigenvalue and the trace of the Hessian, and the
batch size at which the gradient's noise is as large as itself."""


class BendsColumn(QWidget):
    """A curve each, below one another. `curves`: by quantity, for the view to fill."""

    def __init__(self, make: Callable[[Curve], CurveCard], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(10)
        self.curves: dict[str, CurveCard] = {}
        for curve in BENDS.values():
            card = self.curves[curve.quantity] = make(curve)
            column.addWidget(card)


class LayersCard(DrawnCard):
    """A heat map of layers over steps; which quantity, a person chooses."""

    def __init__(self, parent: QWidget | None = None, title: str = mark("Layers")) -> None:
        self.map = Heatmap()
        super().__init__(title, self.map, parent)
        self.array: Array | None = None
        self.choice = QComboBox(self)
        self.choice.currentIndexChanged.connect(self._choose)
        self.header.insertWidget(2, self.choice, 0, Qt.AlignmentFlag.AlignVCenter)
        self._explain = LAYERS_COME
        self.fill_menu()
        self.retranslate()

    def show_layers(self, array: Array) -> None:
        """What the engine said under `layers`: (quantities, steps, layers)."""
        self.array = array
        known = [name for name in array.about["quantities"] if name in SCALES]
        if known != self._known():
            self._fill(known)
        self._draw_choice()

    def clear(self) -> None:
        self.array = None
        self.more.hide()
        self.set_note("")
        self.map.show_values(np.zeros((0, 0)), (), ())
        self._show_emptiness()

    def choose(self, quantity: str) -> None:
        """Show a quantity by name."""
        self.choice.setCurrentIndex(self._known().index(quantity))

    def rows(self) -> Iterable[Sequence[Any]]:
        yield "quantity", "layer", "step", "value"
        if self.array is None:
            return
        about = self.array.about
        for q, quantity in enumerate(about["quantities"]):
            for layer, name in enumerate(about["layers"]):
                for place, step in enumerate(about["steps"]):
                    yield quantity, name, step, f"{self.array.values[q, place, layer]:.9g}"

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "choice"):
            self._fill(self._known() or list(SCALES))
            self.choice.setAccessibleName(tr("What is drawn"))
            self.map.setAccessibleName(tr("Map of the layers over the steps"))
            self._draw_choice()

    def _known(self) -> list[str]:
        return [self.choice.itemData(place) for place in range(self.choice.count())]

    def _fill(self, quantities: Sequence[str]) -> None:
        chosen = self.map.quantity
        self.choice.blockSignals(True)
        self.choice.clear()
        for name in quantities:
            self.choice.addItem(tr(SCALES[name].title), name)
        self.choice.setCurrentIndex(quantities.index(chosen) if chosen in quantities else 0)
        self.choice.blockSignals(False)
        self.map.quantity = self.choice.currentData()

    def _choose(self, index: int) -> None:
        if index >= 0:
            self.map.quantity = self.choice.itemData(index)
            self._draw_choice()

    def _draw_choice(self) -> None:
        if self.array is not None:
            about = self.array.about
            place = list(about["quantities"]).index(self.map.quantity)
            values = self.array.values[place].T.astype(np.float64)
            self.map.show_values(values, about["layers"], about["steps"])
            every = about.get("interval") or 1
            self.set_note(
                tr("{count} layers · every {every} steps", count=len(about["layers"]), every=every)
            )
            self.show_menu_button()
        self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(self.array is None, self.map, self.choice)


class Valley(Surface):
    """The loss on a plane through the weights, in powers of ten above and below the model's own."""

    def show_plane(self, array: Array) -> None:
        side, reach = len(array.values), float(array.about["extent"][1])
        self.grid = Grid.of({"side": side, "reach": reach, "ball": ()})
        self.grid.loss[:] = array.values
        self.grid.known[:] = ~np.isnan(array.values)
        self.forget()

    @property
    def centre(self) -> float:
        """The model's own loss."""
        assert self.grid is not None
        return float(self.grid.loss[self.grid.side // 2, self.grid.side // 2])

    def _decades(self) -> Floats:
        """Of the loss over the model's own."""
        assert self.grid is not None
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.log10(self.grid.loss / max(self.centre, 1e-12))
        return found

    def _range(self) -> tuple[float, float]:
        decades = self._decades()
        finite = decades[np.isfinite(decades)]
        most = max(float(np.abs(finite).max()) if finite.size else 1.0, 1e-3)
        return -most, most

    def _values(self) -> Floats:
        return self._decades()

    def _share(self, values: Floats) -> Floats:
        found: Floats = np.where(np.isposinf(values), 1.0, values / self._range()[1])
        return found

    def _directions(self) -> tuple[str, str]:
        length = tr("in lengths of the weights")
        return (
            tr("a random direction, {length}", length=length),
            tr("another one, {length}", length=length),
        )

    def _draw_places(self, painter: QPainter, field: QRectF) -> None:
        draw_clean(painter, self._at(field, 0.0, 0.0))

    def _draw_key(self, painter: QPainter, box: QRectF) -> None:
        px, most = theme.px, self._range()[1]
        metrics, bold = QFontMetricsF(theme.font(11)), QFontMetricsF(theme.font(12, 600))
        y, width = box.top(), max(box.width(), 1)
        painter.setFont(theme.font(12, 600))
        painter.setPen(theme.color("text"))
        title = bold.elidedText(tr("Loss"), Qt.TextElideMode.ElideRight, width)
        painter.drawText(QPointF(box.left(), y + bold.ascent()), title)
        y += px(20)
        bar = QRectF(box.left(), y, min(width, px(160)), px(8))
        painter.drawImage(bar, colours(np.linspace(-1, 1, 64)[None]))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(bar)
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("faint"))
        ends = QRectF(bar.left(), bar.bottom() + px(2), bar.width(), px(15))
        painter.drawText(ends, 0, number(self.centre / 10**most, 2))
        if width >= px(140):
            painter.drawText(ends, Qt.AlignmentFlag.AlignHCenter, number(self.centre, 2))
        painter.drawText(ends, Qt.AlignmentFlag.AlignRight, number(self.centre * 10**most, 2))
        y = bar.bottom() + px(26)
        draw_clean(painter, QPointF(box.left() + px(8), y + px(8)))
        painter.setPen(theme.color("muted"))
        text = metrics.elidedText(tr("the model"), Qt.TextElideMode.ElideRight, width - px(22))
        painter.drawText(QPointF(box.left() + px(22), y + px(8) + metrics.capHeight() / 2), text)
        y += px(26)
        painter.setPen(theme.color("faint"))
        painter.drawText(
            QRectF(box.left(), y, width, max(box.bottom() - y, 1)),
            Qt.TextFlag.TextWordWrap,
            tr("A wide, even floor is what trains well; the colours count in powers of ten."),
        )

    def readout(self, row: int, column: int) -> list[tuple[str, str]]:
        assert self.grid is not None
        s, t = self.grid.place(row, column)
        loss = float(self.grid.loss[row, column])
        return [
            (tr("right"), number(s)),
            (tr("up"), number(t)),
            (tr("loss"), number(loss)),
            (tr("of the model's"), number(loss / max(self.centre, 1e-12))),
        ]


class PlaneCard(DrawnCard):
    """The loss on a plane through the weights."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.valley = Valley()
        super().__init__(mark("Loss around the weights"), self.valley, parent)
        self._explain = PLANE_COMES
        self.fill_menu()
        self.clear()

    def show_plane(self, array: Array) -> None:
        self.valley.show_plane(array)
        side, samples = len(array.values), array.about.get("samples", 0)
        self.set_note(tr("{side} × {side} · {count} images", side=side, count=samples))
        self.show_menu_button()
        self._show_emptiness()

    def clear(self) -> None:
        self.valley.grid = None
        self.valley.pointer = None
        self.valley.forget()
        self.more.hide()
        self.set_note("")
        self._show_emptiness()

    def rows(self) -> Iterable[Sequence[Any]]:
        yield "right", "up", "loss"
        grid = self.valley.grid
        if grid is not None:
            for row, column in np.ndindex(grid.side, grid.side):
                place = (f"{value:.9g}" for value in grid.place(row, column))
                yield *place, f"{grid.loss[row, column]:.9g}"

    def retranslate(self) -> None:
        super().retranslate()
        self.valley.setAccessibleName(tr("Map of the loss around the weights"))
        self._show_emptiness()

    def _show_emptiness(self) -> None:
        self._give_way(self.valley.grid is None, self.valley)
