"""Small controls of our own: a row of choices, a switch, a label that shortens itself."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QLabel, QSizePolicy, QWidget

from workbench import theme


class Elided(QLabel):
    """One line that ends in … where it does not fit, unless there is a shorter text to take its
    place; the whole text is its tool tip then."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = text
        self._shorter: tuple[str, ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setText(text)

    def setText(self, text: str, *shorter: str) -> None:
        """`shorter`: texts that may stand for it, each shorter than the one before. Half of a
        number is another number: what holds one gives shorter texts, the last of them empty."""
        self._text, self._shorter = text, shorter
        self._fit()
        self.updateGeometry()

    def text(self) -> str:
        """The whole text."""
        return self._text

    def sizeHint(self) -> QSize:
        # Not the label's own hint: it keeps the least height of a scale that is no more.
        metrics = QFontMetrics(self.font())
        return QSize(metrics.horizontalAdvance(self._text) + 2, metrics.height())

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(24) if self._text else 0, QFontMetrics(self.font()).height())

    def resizeEvent(self, event: object) -> None:
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)  # forgets the size it had in another font
        self._fit()

    def _fit(self) -> None:
        room = max(self.contentsRect().width(), 0)
        metrics = QFontMetrics(self.font())
        for text in (self._text, *self._shorter):
            shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, room)
            if shown == text:
                break
        if shown != super().text():
            super().setText(shown)
            self.setToolTip(self._text if shown != self._text else "")
        self.setAccessibleName(self._text)


class Switch(QAbstractButton):
    """On or off, for what takes effect by itself. Space toggles it."""

    def __init__(self, checked: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(checked)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.manager.changed.connect(self._restyle)

    def _restyle(self) -> None:
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(theme.px(34), theme.px(20))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        height = min(self.height(), theme.px(20)) - 2
        width = min(self.width(), theme.px(34)) - 2
        track = QRectF(1, (self.height() - height) / 2, width, height)
        on, enabled = self.isChecked(), self.isEnabled()
        painter.setPen(QPen(theme.color("accent" if on or self.hasFocus() else "border"), 1))
        painter.setBrush(theme.color("accent" if on else "raised", 1.0 if enabled else 0.5))
        painter.drawRoundedRect(track, height / 2, height / 2)
        radius = height / 2 - theme.px(3)
        x = track.right() - height / 2 if on else track.left() + height / 2
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("on_accent" if on else "faint"))
        painter.drawEllipse(QPointF(x, track.center().y()), radius, radius)
        if self.hasFocus():
            painter.setPen(QPen(theme.color("text"), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(track, height / 2, height / 2)
        painter.end()


class Segmented(QWidget):
    """A few exclusive choices side by side, as tabs or as a field. Arrow keys move the choice."""

    changed = Signal(int)

    def __init__(
        self, options: Sequence[str] = (), current: int = 0, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._options: tuple[str, ...] = ()
        self._current = current
        self._hover = -1
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.set_options(options)
        theme.manager.changed.connect(self._restyle)

    @property
    def current(self) -> int:
        return self._current

    def set_options(self, options: Sequence[str]) -> None:
        """The texts to choose from; the choice stays at its place where it still exists."""
        self._options = tuple(options)
        self._current = min(self._current, max(len(options) - 1, 0))
        self._restyle()

    def set_current(self, index: int) -> None:
        if 0 <= index < len(self._options) and index != self._current:
            self._current = index
            self._describe()
            self.update()
            self.changed.emit(index)

    def sizeHint(self) -> QSize:
        return QSize(sum(self._widths()) or theme.px(40), theme.px(28))

    def minimumSizeHint(self) -> QSize:
        return QSize(round(self.sizeHint().width() * 0.75), theme.px(28))

    def _restyle(self) -> None:
        self._describe()
        self.updateGeometry()
        self.update()

    def _describe(self) -> None:
        if self._options:
            self.setAccessibleDescription(self._options[self._current])

    def _widths(self) -> list[int]:
        metrics = QFontMetrics(theme.font(13, 600))
        return [metrics.horizontalAdvance(text) + theme.px(24) for text in self._options]

    def _rects(self) -> list[QRectF]:
        widths = self._widths()
        squeeze = min(1.0, self.width() / max(sum(widths), 1))
        rects, x = [], 0.0
        for width in widths:
            rects.append(QRectF(x, 0, width * squeeze, self.height()))
            x += width * squeeze
        return rects

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for index, (text, rect) in enumerate(zip(self._options, self._rects())):
            chosen = index == self._current
            box = rect.adjusted(1, 1, -1, -1)
            if chosen:
                focus = self.hasFocus()
                painter.setPen(QPen(theme.color("accent" if focus else "border"), 1))
                painter.setBrush(theme.color("card"))
                painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
            lit = chosen or index == self._hover
            painter.setPen(theme.color("text" if lit else "faint"))
            font = theme.font(13, 600 if chosen else 500)
            painter.setFont(font)
            inner = box.adjusted(4, 0, -4, 0)
            shown = QFontMetrics(font).elidedText(
                text, Qt.TextElideMode.ElideRight, int(inner.width()) + 1
            )
            painter.drawText(inner, Qt.AlignmentFlag.AlignCenter, shown)
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.set_current(self._at(event.position()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        index = self._at(event.position())
        if index != self._hover:
            self._hover = index
            self.update()

    def leaveEvent(self, event: object) -> None:
        self._hover = -1
        self.update()

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        moves = {
            Qt.Key.Key_Left: self._current - 1,
            Qt.Key.Key_Right: self._current + 1,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: len(self._options) - 1,
        }
        target = moves.get(Qt.Key(event.key()))
        if target is None:
            event.ignore()
        else:
            self.set_current(target)

    def _at(self, position: QPointF) -> int:
        return next((i for i, r in enumerate(self._rects()) if r.contains(position)), -1)
