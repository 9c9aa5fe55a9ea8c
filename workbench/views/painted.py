"""A card whose content is one drawing, which paints itself by hand."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench import theme
from workbench.views.picture import PictureCard

LEAST = QSize(640, 420)
"""Size of an exported picture, at scale 1, where the card is smaller."""


class Drawing(QWidget):
    """Draws itself into any rectangle: the widget's own, a picture, an SVG."""

    still = False
    """Whether what `draw` painted is kept, for the pointer to move over, until `forget`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._base: QPixmap | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.forget)

    def draw(self, painter: QPainter, whole: QRectF) -> None:
        """Everything but what belongs to the pointer or the keyboard."""
        raise NotImplementedError

    def draw_hands(self, painter: QPainter) -> None:
        """What the pointer and the keyboard add."""

    def forget(self) -> None:
        """What is drawn is another."""
        self._base = None
        self.update()

    def _kept(self) -> QPixmap:
        """What `draw` paints, painted once."""
        ratio = self.devicePixelRatioF()
        if self._base is None or self._base.size() != self.size() * ratio:
            self._base = QPixmap(self.size() * ratio)
            self._base.setDevicePixelRatio(ratio)
            self._base.fill(theme.color("card"))
            painter = QPainter(self._base)
            self.draw(painter, QRectF(self.rect()))
            painter.end()
        return self._base

    def paintEvent(self, event: QPaintEvent) -> None:
        base = self._kept() if self.still else None
        painter = QPainter(self)
        if base is not None:
            painter.drawPixmap(0, 0, base)
        else:
            self.draw(painter, QRectF(self.rect()))
        self.draw_hands(painter)
        if self.hasFocus():
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(theme.color("accent"), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        painter.end()

    def focusInEvent(self, event: object) -> None:
        self.update()

    def focusOutEvent(self, event: object) -> None:
        self.update()


class DrawnCard(PictureCard):
    """Shows a `Drawing`, and exports it below title and note."""

    def __init__(self, title: str, drawing: Drawing, parent: QWidget | None = None) -> None:
        super().__init__(title, parent)
        self.drawing = drawing
        self.body.addWidget(drawing, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def retranslate(self) -> None:
        super().retranslate()
        self.drawing.forget()

    def picture_size(self) -> QSize:
        return self.size().expandedTo(LEAST * theme.manager.scale)

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        px = theme.px
        painter.setFont(theme.font(13, 600))
        painter.setPen(theme.color("muted"))
        head = QRectF(px(14), px(8), size.width() - px(28), px(24))
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(head, middle, self.title.text())
        painter.setFont(theme.font(11))
        painter.drawText(head, middle | Qt.AlignmentFlag.AlignRight, self.note.text())
        inner = QRectF(px(14), px(36), size.width() - px(28), size.height() - px(46))
        self.drawing.draw(painter, inner)
