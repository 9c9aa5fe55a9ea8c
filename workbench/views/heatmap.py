"""Something of every layer at every step that was looked at, in colours: blue is too little, red
too much, and what is as it should be is as dark, or as light, as the card."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPen
from PySide6.QtWidgets import QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.matrix import Matrix
from workbench.views.text import number, percent

Floats = NDArray[np.float64]

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
RAMP = 127
"""Colours on each side of the middle."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How a quantity is coloured. log: by its size in powers of ten from the middle on, `reach` of
    them to each side, or up to `most` where the values go that far; else from -reach to reach, or 0
    to reach where nothing can be negative. The middle is told by `middle`, from the values, which
    are (layers, steps)."""

    title: str
    """In English."""
    log: bool = True
    reach: float = 4.0
    most: float = 0.0
    middle: Callable[[Floats], float] = lambda values: 1.0
    said: str = ""
    """What the middle is, in English; `{value}` in it is how much."""
    fraction: bool = False

    def shares(self, values: Floats) -> Floats:
        """-1 to 1; NaN where there is nothing."""
        middle = self.middle(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                found = np.log10(np.abs(values) / middle) / self._reach(values)
            else:
                found = (values - middle) / self._reach(values)
        found = np.where(np.isnan(values), np.nan, np.nan_to_num(found, posinf=1.0, neginf=-1.0))
        return np.clip(found, -1.0, 1.0)

    def _reach(self, values: Floats) -> float:
        """How far it goes to each side: without a reach of its own, as far as the values."""
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                decades = np.abs(np.log10(np.abs(values) / self.middle(values)))
            far = float(decades[np.isfinite(decades)].max(initial=0.0))
            return max(self.reach, min(math.ceil(far - 0.01), self.most))
        if self.reach:
            return self.reach
        finite = np.abs(values[np.isfinite(values)])
        return float(finite.max()) if finite.size and finite.max() else 1.0

    def ends(self, values: Floats) -> tuple[str, str, str]:
        """What stands below the colours: the low end, the middle, the high end."""
        middle = self.middle(values)
        if self.fraction:
            return "", percent(middle, 0), percent(middle + self._reach(values), 0)
        if self.log:
            power = f"{self._reach(values):g}".translate(RAISED)
            return f"× 10⁻{power}", number(middle, 2), f"× 10{power}"
        reach = self._reach(values)
        return number(middle - reach, 2), number(middle, 2), number(middle + reach, 2)

    def text(self, value: float) -> str:
        return percent(value) if self.fraction and math.isfinite(value) else number(value)


def of_the_last(values: Floats) -> float:
    """The middle one of what the last layer has."""
    if not len(values):
        return 1.0
    last = values[-1]
    known = last[np.isfinite(last) & (last > 0)]
    return float(np.median(known)) if known.size else 1.0


def of_all(values: Floats) -> float:
    """The middle one of all."""
    known = values[np.isfinite(values) & (values > 0)]
    return float(np.median(known)) if known.size else 1.0


SCALES: dict[str, Scale] = {
    "gradient_norm": Scale(
        mark("Gradient norm"),
        most=12.0,
        middle=of_the_last,
        said=mark("The middle is the last layer's, {value}: blue vanishes, red explodes."),
    ),
    "update_ratio": Scale(
        mark("Update / weight"),
        reach=3.0,
        middle=lambda values: 1e-3,
        said=mark("The middle, {value}, is about what trains well: blue stands still."),
    ),
    "weight_norm": Scale(
        mark("Weight norm"),
        reach=1.0,
        middle=of_all,
        said=mark("The middle is the median, {value}."),
    ),
    "spectral_norm": Scale(
        mark("Spectral norm"),
        reach=1.0,
        most=3.0,
        said=mark("How far a layer can stretch its input: red does, blue shrinks it."),
    ),
    "activation_mean": Scale(
        mark("Activation mean"),
        log=False,
        reach=0.0,
        middle=lambda values: 0.0,
        said=mark("What a layer gives on, on average."),
    ),
    "activation_variance": Scale(
        mark("Activation variance"),
        reach=3.0,
        said=mark("The middle, {value}, keeps a signal as it is: in blue it dies away."),
    ),
    "saturation": Scale(
        mark("Saturation"),
        log=False,
        reach=1.0,
        middle=lambda values: 0.0,
        said=mark("Share of values where the activation function passes on no gradient."),
        fraction=True,
    ),
    "dead": Scale(
        mark("Dead units"),
        log=False,
        reach=1.0,
        middle=lambda values: 0.0,
        said=mark("Share of units that pass on no gradient for any sample of the batch."),
        fraction=True,
    ),
}


class Heatmap(Matrix):
    """Steps over layers, the first layer on top. Above it stands what the colours mean."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.quantity = "gradient_norm"
        self.values: Floats = np.zeros((0, 0))
        """(layers, steps)"""
        self.steps: Sequence[int] = ()

    def show_values(self, values: Floats, layers: Sequence[str], steps: Sequence[int]) -> None:
        """Draw `values`, (layers, steps)."""
        self.values, self.steps = values, steps
        self.down = tuple(layers)
        self.across = tuple(f"{step:,}".replace(",", "\u202f") for step in steps)
        self.titles = (tr("step"), tr("layer"))
        self.forget()

    @property
    def scale(self) -> Scale:
        return SCALES[self.quantity]

    def shades(self) -> NDArray[np.uint8]:
        ramp = colour_ramp()
        shares = self.scale.shares(self.values)
        places = np.where(np.isnan(shares), len(ramp) - 1, np.rint((shares + 1) * RAMP))
        return ramp[places.astype(np.intp)]

    def said(self, row: int, column: int) -> tuple[str, list[tuple[str, str, str]]]:
        value = float(self.values[row, column])
        head = tr("{layer}, step {step}", layer=self.down[row], step=self.across[column])
        if math.isnan(value):
            return head, [("faint", tr(self.scale.title), tr("does not apply"))]
        rows = [(self._dot(row, column), tr(self.scale.title), self.scale.text(value))]
        last = float(self.values[-1, column])
        if self.scale.middle is of_the_last and row != len(self.down) - 1 and last > 0:
            rows.append(("faint", tr("of the last layer's"), number(value / last)))
        return head, rows

    def _dot(self, row: int, column: int) -> str:
        blue, green, red, _ = (int(part) for part in self.shades()[row, column])
        return QColor(red, green, blue).name()

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        if not self.values.size:
            return
        strip = theme.px(38)
        super().draw(painter, whole.adjusted(0, strip, 0, 0))
        self._draw_key(painter, QRectF(self.area.left(), whole.top(), self.area.width(), strip))

    def _draw_key(self, painter: QPainter, box: QRectF) -> None:
        """The colours, their ends, and a word on what the middle is."""
        px = theme.px
        low, middle, high = self.scale.ends(self.values)
        ramp = colour_ramp()[:-1]
        one_sided = not low
        shown = np.ascontiguousarray(ramp[RAMP:] if one_sided else ramp)[None]
        bar = QRectF(box.left(), box.top() + px(2), min(px(150), box.width() / 2), px(8))
        image = QImage(
            shown.tobytes(), shown.shape[1], 1, 4 * shown.shape[1], QImage.Format.Format_ARGB32
        )
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, True)
        painter.drawImage(bar, image.copy())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(bar)
        font = theme.font(11)
        painter.setFont(font)
        painter.setPen(theme.color("faint"))
        under = QRectF(bar.left(), bar.bottom() + px(3), bar.width(), px(15))
        painter.drawText(under, Qt.AlignmentFlag.AlignLeft, low or middle)
        painter.drawText(under, Qt.AlignmentFlag.AlignRight, high)
        if not one_sided:
            painter.drawText(under, Qt.AlignmentFlag.AlignHCenter, middle)
        metrics = QFontMetricsF(font)
        room = box.right() - bar.right() - px(16)
        text = tr(self.scale.said, value=middle)
        painter.setPen(theme.color("muted"))
        painter.drawText(
            QPointF(bar.right() + px(14), bar.top() + metrics.capHeight()),
            metrics.elidedText(text, Qt.TextElideMode.ElideRight, room),
        )


def colour_ramp() -> NDArray[np.uint8]:
    """The theme's diverging colours from low to high, then that of what does not apply; each blue,
    green, red, opacity."""
    low, ground, high = (QColor(name) for name in theme.manager.theme.diverging)
    share = np.linspace(-1, 1, 2 * RAMP + 1)[:, None]
    ends = [np.array([c.blue(), c.green(), c.red(), 255.0]) for c in (low, ground, high)]
    mixed = np.where(share < 0, ends[0], ends[2]) * np.abs(share) + ends[1] * (1 - np.abs(share))
    hole = theme.color("raised")
    last = np.array([[hole.blue(), hole.green(), hole.red(), 255]])
    return np.concatenate([np.rint(mixed), last]).astype(np.uint8)
