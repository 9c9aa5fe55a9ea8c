"""A card with what is found at what price: true over false positives, on logarithmic axes, since an
attacker who is right about a few and never wrong is what matters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPolygonF
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.axes import DASHES, AxesCard, AxesDrawing, Scale, line_pen
from workbench.views.text import percent

AT = (0.001, 0.01)
"""Rates of false positives at which it is read off."""
LEAST = 1e-4
"""The lowest rate that is drawn on a logarithm, unless there are finer ones."""


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Rates of false and true positives, ascending, in [0, 1]."""

    name: str
    color: str
    fpr: np.ndarray
    tpr: np.ndarray

    def at(self, rate: float) -> float:
        """The best rate of true positives at no more than `rate` false ones."""
        place = int(np.searchsorted(self.fpr, rate, side="right")) - 1
        return float(self.tpr[: place + 1].max()) if place >= 0 else 0.0


class Roc(AxesDrawing):
    """Steps of each curve, guessing as a dashed diagonal, and a dot where it is read off."""

    def __init__(self, parent: QWidget | None = None) -> None:
        fpr = Scale(mark("False positive rate"), LEAST, 1.0, log=True, percent=True)
        tpr = Scale(mark("True positive rate"), LEAST, 1.0, log=True, percent=True)
        super().__init__(fpr, tpr, parent)
        self.curves: tuple[RocCurve, ...] = ()

    def stops(self) -> Sequence[QPointF]:
        rates = np.geomspace(self.x.low, 1, 40) if self.x.log else np.linspace(0, 1, 41)
        return [QPointF(float(rate), self.y.low) for rate in (rates if self.curves else ())]

    def legend(self) -> Sequence[tuple[str, str, bool]]:
        return [*((c.name, c.color, False) for c in self.curves), (tr("Guessing"), "faint", True)]

    def said_at(
        self, place: QPointF, reach: float
    ) -> tuple[QPointF, str, list[tuple[str, str, str]]] | None:
        area = self.area
        if not self.curves or not area.adjusted(-1, -1, 1, 2).contains(place):
            return None
        rate = self.x.value((place.x() - area.left()) / area.width())
        head = tr("at {rate} false positives", rate=_rate(rate))
        return place, head, [(c.color, c.name, percent(c.at(rate))) for c in self.curves]

    def draw_inside(self, painter: QPainter, area: QRectF) -> None:
        px = theme.px
        for rate in AT:
            if rate < self.x.low or not self.x.log:
                continue
            x = self.pixel(rate, 1).x()
            painter.setPen(line_pen("border", 1, DASHES))
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
        painter.setPen(line_pen("faint", 1, DASHES))
        steps = np.geomspace(max(self.x.low, self.y.low, 1e-9), 1, 60) if self.x.log else (0.0, 1.0)
        painter.drawPolyline(QPolygonF([self.pixel(float(v), float(v)) for v in steps]))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for curve in reversed(self.curves):  # the first is on top
            painter.setPen(line_pen(curve.color, 1.6))
            painter.drawPolyline(QPolygonF(self._outline(curve)))
        painter.setPen(Qt.PenStyle.NoPen)
        for curve in self.curves:
            painter.setBrush(theme.color(curve.color))
            for rate in AT:
                found = curve.at(rate)
                if rate >= self.x.low and found >= self.y.low and self.x.log:
                    painter.drawEllipse(self.pixel(rate, found), px(3), px(3))

    def _outline(self, curve: RocCurve) -> list[QPointF]:
        """As steps: between two thresholds nothing better is known."""
        points, last = [], None
        for fpr, tpr in zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True):
            place = self.pixel(max(fpr, self.x.low), max(tpr, self.y.low))
            if last is not None and place.x() > last.x():
                points.append(QPointF(place.x(), last.y()))
            points.append(place)
            last = place
        return points


class RocCard(AxesCard):
    """One curve a method; what is found at 0.1 % false positives by the first stands large in the
    title."""

    drawing: Roc

    def __init__(
        self,
        title: str,
        empty: str = mark("Curves appear here when members have been told from others."),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(title, Roc(), empty, parent)

    @property
    def is_empty(self) -> bool:
        return not self.drawing.curves

    def set_curves(
        self, curves: Mapping[str, tuple[str, Sequence[float], Sequence[float]]]
    ) -> None:
        """By name: colour, rates of false positives and of true ones. The first is what the title
        is about."""
        drawing = self.drawing
        made = []
        for name, (color, fpr, tpr) in curves.items():
            x, y = np.asarray(fpr, np.float64), np.asarray(tpr, np.float64)
            order = np.lexsort((y, x))
            made.append(RocCurve(name, color, x[order], y[order]))
        drawing.curves = tuple(made)
        self._fit()
        self._show_value()
        self.changed()

    def clear(self) -> None:
        self.set_curves({})

    def set_log(self, log: bool) -> None:
        self.drawing.x.log = self.drawing.y.log = log
        self._log.setChecked(log)
        self._fit()
        self.changed()

    def _fit(self) -> None:
        """Down to what so many images can tell."""
        drawing = self.drawing
        least = LEAST
        finest = [float(c.fpr[c.fpr > 0].min()) for c in drawing.curves if (c.fpr > 0).any()]
        if finest:
            least = min(max(10.0 ** math.floor(math.log10(min(finest))), 1e-6), AT[0])
        for scale in (drawing.x, drawing.y):
            scale.low, scale.high = (least if scale.log else 0.0), 1.0

    def _show_value(self) -> None:
        curve = next(iter(self.drawing.curves), None)
        if curve is None:
            self.set_value("")
            return
        rate = percent(AT[0], 1)
        self.set_value(percent(curve.at(AT[0])), tr("at {rate} false", rate=rate))

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "_log"):
            self._show_value()

    def rows(self) -> Iterable[Sequence[Any]]:
        yield tr("Method"), tr("False positive rate"), tr("True positive rate")
        for curve in self.drawing.curves:
            for fpr, tpr in zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True):
                yield curve.name, repr(fpr), repr(tpr)


def _rate(rate: float) -> str:
    """A small rate with as many places as it needs."""
    return percent(rate, max(0, 1 - math.floor(math.log10(max(rate * 100, 1e-9)))))
