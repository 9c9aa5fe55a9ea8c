"""A card with a few numbers side by side, as bars: the two robust accuracies of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views.card import Card
from workbench.views.text import number, percent, signed

Bar = tuple[str, float, str]
"""Label, value and colour (a token or #rrggbb)."""


class BarsCard(Card):
    """Bars from 0 to 1 (`percent_scale`) or to the greatest. With two, their difference stands in
    the title."""

    def __init__(
        self,
        title: str,
        percent_scale: bool = True,
        empty: str = mark("Bars appear here when there is something to compare."),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(title, parent)
        self._explain = empty
        self.view = Bars(percent_scale)
        self.body.addWidget(self.view, 1)
        self._show_emptiness()

    def set_bars(self, bars: Sequence[Bar]) -> None:
        self.view.set_bars(bars)
        self.view.setAccessibleName(self.title.text())
        self._show_emptiness()
        self._show_difference()

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "view"):
            self._show_emptiness()
            self._show_difference()

    def _show_difference(self) -> None:
        bars = self.view.bars
        if len(bars) == 2 and self.view.percent_scale:
            points = (bars[1][1] - bars[0][1]) * 100
            text = signed(f"{points:.1f}".replace("-", "−"))
            self.set_value(tr("{number} points", number=text))
        else:
            self.set_value("")

    def _show_emptiness(self) -> None:
        self._give_way(not self.view.bars, self.view)


class Bars(QWidget):
    def __init__(self, percent_scale: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.percent_scale = percent_scale
        self.bars: tuple[Bar, ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.update)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(120), theme.px(32) * max(len(self.bars), 1))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(240), theme.px(46) * max(len(self.bars), 1))

    def set_bars(self, bars: Sequence[Bar]) -> None:
        self.bars = tuple(bars)
        self.setAccessibleDescription(", ".join(f"{b[0]} {self.text(b[1])}" for b in self.bars))
        self.updateGeometry()
        self.update()

    def text(self, value: float) -> str:
        return percent(value) if self.percent_scale else number(value)

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.bars:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        px = theme.px
        most = 1.0 if self.percent_scale else max((b[1] for b in self.bars), default=1.0) or 1.0
        row = min(self.height() / len(self.bars), px(54))
        top = (self.height() - row * len(self.bars)) / 2
        strong = QFontMetricsF(theme.font(14, 600))
        values = max(strong.horizontalAdvance(self.text(b[1])) for b in self.bars) + px(12)
        full = max(self.width() - values, 1.0)
        names = QFontMetricsF(theme.font(12))
        for index, (label, value, color) in enumerate(self.bars):
            y = top + index * row
            text_high = px(17)
            bar_high = min(px(12), max(row - text_high - px(6), px(5)))
            painter.setFont(theme.font(12))
            painter.setPen(theme.color("muted"))
            shown = names.elidedText(label, Qt.TextElideMode.ElideRight, full)
            painter.drawText(QRectF(0, y, full, text_high), Qt.AlignmentFlag.AlignVCenter, shown)
            track = QRectF(0, y + text_high + px(1), full, bar_high)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("raised"))
            painter.drawRoundedRect(track, bar_high / 3, bar_high / 3)
            share = min(max(value / most, 0.0), 1.0)
            if share > 0:
                painter.setBrush(theme.color(color))
                painter.drawRoundedRect(
                    QRectF(0, track.top(), max(full * share, px(3)), bar_high),
                    bar_high / 3,
                    bar_high / 3,
                )
            painter.setFont(theme.font(14, 600))
            painter.setPen(theme.color("text"))
            painter.drawText(
                QRectF(full, track.center().y() - px(11), values, px(22)),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                self.text(value),
            )
        painter.end()
