"""A slider for the radius of an attack, with ticks, a field, and the smallest that was enough."""

from __future__ import annotations

import math

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QStyle,
    QStyleOptionSlider,
    QVBoxLayout,
    QWidget,
)

from workbench import theme
from workbench.i18n import tr
from workbench.views.text import number

PLACES = 1000
"""Of the slider. Small radii have more of them than large ones: eps = most * (place / PLACES)^2."""


class Radius(QWidget):
    """A radius from 0 to `most`, in image units."""

    changed = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.most = 1.0
        self._eps = 0.0
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, PLACES)
        self.slider.setSingleStep(5)
        self.slider.setPageStep(50)
        self.slider.valueChanged.connect(self._moved)
        self.scale = Scale(self)
        self.sign = QLabel("ε")
        self.sign.setProperty("tone", "muted")
        self.field = QLineEdit()
        self.field.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.field.editingFinished.connect(self._entered)
        track = QVBoxLayout()
        track.setContentsMargins(0, 0, 0, 0)
        track.setSpacing(0)
        track.addWidget(self.slider)
        track.addWidget(self.scale)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        row.addLayout(track, 1)
        row.addWidget(self.sign, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.field, 0, Qt.AlignmentFlag.AlignTop)
        theme.manager.changed.connect(self._size)
        self._size()
        self.retranslate()
        self._show()

    @property
    def eps(self) -> float:
        return self._eps

    def set_most(self, most: float) -> None:
        """The largest radius that there is; what is beyond becomes that."""
        if most != self.most:
            self.most = most
            self.set_eps(min(self._eps, most))
            self.scale.update()

    def set_eps(self, eps: float) -> None:
        """Be at `eps`, which need not be one of the slider's places."""
        self._eps = min(max(eps, 0.0), self.most)
        blocked = self.slider.blockSignals(True)
        self.slider.setValue(round(self.share_of(self._eps) * PLACES))
        self.slider.blockSignals(blocked)
        self._show()

    def set_mark(self, eps: float | None) -> None:
        """The smallest radius that is known to be enough, if there is one."""
        self.scale.mark = eps
        self.scale.update()

    def share_of(self, eps: float) -> float:
        """Where along the slider a radius is, from 0 to 1."""
        return math.sqrt(min(max(eps / self.most, 0.0), 1.0))

    def retranslate(self) -> None:
        self.slider.setAccessibleName(tr("Epsilon"))
        self.field.setAccessibleName(tr("Epsilon"))
        self.scale.update()

    def _size(self) -> None:
        self.field.setFixedWidth(theme.px(84))
        self.scale.updateGeometry()

    def _moved(self, place: int) -> None:
        self._eps = self.most * (place / PLACES) ** 2
        self._show()
        self.changed.emit(self._eps)

    def _entered(self) -> None:
        try:
            eps = float(self.field.text().replace(",", "."))
        except ValueError:
            eps = math.nan
        if math.isnan(eps) or eps < 0 or number(eps) == number(self._eps):
            self._show()
            return
        self.set_eps(eps)
        self.changed.emit(self._eps)

    def _show(self) -> None:
        self.field.setText(number(self._eps))
        self.slider.setAccessibleDescription(number(self._eps))


class Scale(QWidget):
    """Ticks below the slider, and a triangle at the mark."""

    def __init__(self, radius: Radius) -> None:
        super().__init__(radius)
        self._radius = radius
        self.mark: float | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.manager.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(160), theme.px(38))

    def x_of(self, eps: float) -> float:
        """Where the middle of the slider's handle is at `eps`."""
        slider = self._radius.slider
        option = QStyleOptionSlider()
        slider.initStyleOption(option)
        style = slider.style()
        control, handle = QStyle.ComplexControl.CC_Slider, QStyle.SubControl.SC_SliderHandle
        wide = style.subControlRect(control, option, handle, slider).width()
        return wide / 2 + self._radius.share_of(eps) * (slider.width() - wide)

    def ticks(self) -> list[float]:
        """Even radii, about five."""
        rough = self._radius.most / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
        return [step * k for k in range(int(self._radius.most / step + 1e-6) + 1)]

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        px = theme.px
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        painter.setFont(font)
        for eps in self.ticks():
            x = self.x_of(eps)
            painter.setPen(QPen(theme.color("border"), 1))
            painter.drawLine(QPointF(x, 0), QPointF(x, px(4)))
            text = f"{eps:g}"
            wide = metrics.horizontalAdvance(text)
            left = min(max(x - wide / 2, 0), self.width() - wide)
            painter.setPen(theme.color("faint"))
            painter.drawText(QPointF(left, px(15)), text)
        if self.mark is not None:
            self._draw_mark(painter, self.mark, metrics)
        painter.end()

    def _draw_mark(self, painter: QPainter, eps: float, metrics: QFontMetricsF) -> None:
        px = theme.px
        x, top = self.x_of(eps), px(19)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("danger"))
        arm, high = px(4.5), px(7)
        painter.drawPolygon(
            QPolygonF([QPointF(x, top), QPointF(x + arm, top + high), QPointF(x - arm, top + high)])
        )
        painter.setPen(QPen(theme.color("danger"), 1))
        painter.drawLine(QPointF(x, 0), QPointF(x, top))
        text = tr("changes from {eps}", eps=number(eps))
        wide = metrics.horizontalAdvance(text)
        left = x + px(9) if x + px(9) + wide < self.width() else x - px(9) - wide
        painter.drawText(
            QRectF(left, px(17), wide + 2, px(18)), Qt.AlignmentFlag.AlignVCenter, text
        )
