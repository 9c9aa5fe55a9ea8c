"""One card, full screen and enlarged, for a class to see (F11)."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QCursor, QKeyEvent
from PySide6.QtWidgets import QApplication, QLayout, QVBoxLayout, QWidget

from workbench import theme
from workbench.i18n import tr
from workbench.views.card import Card

ENLARGED = 1.6


class Presenter(QWidget):
    """Borrows a card from where it stands, and gives it back when closed."""

    closed = Signal()

    def __init__(self, card: Card) -> None:
        super().__init__(None, Qt.WindowType.Window)
        self.setObjectName("window")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setWindowTitle(card.accessibleName() or tr("Presentation"))
        self._card, self._gone = card, False
        self._scale = theme.manager.scale
        self._place = QWidget(card.parentWidget())
        self._place.setSizePolicy(card.sizePolicy())
        card.stand_in = self._place
        self._layout = _layout_of(card)
        if self._layout is not None:
            self._layout.replaceWidget(card, self._place)
        self._place.show()
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 24, 24, 24)
        column.addWidget(card)
        card.show()
        theme.manager.set_scale(ENLARGED)
        card.installEventFilter(self)
        card.destroyed.connect(self._card_gone)
        self.setGeometry(card.screen().geometry())  # where no window manager does it
        self.showFullScreen()
        self.activateWindow()
        card.setFocus()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        pressed = isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress
        if pressed and event.key() in (Qt.Key.Key_Escape, Qt.Key.Key_F11):
            self.close()
            return True
        return False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Escape, Qt.Key.Key_F11):
            self.close()

    def _card_gone(self) -> None:
        """Where it came from has no use for the card any more."""
        self._gone = True
        self.close()

    def closeEvent(self, event: object) -> None:
        theme.manager.set_scale(self._scale)
        if not self._gone:
            self._give_back()
        self._place.deleteLater()
        self.closed.emit()
        self.deleteLater()

    def _give_back(self) -> None:
        card = self._card
        card.stand_in = None
        card.removeEventFilter(self)
        card.destroyed.disconnect(self._card_gone)
        if self._layout is not None:
            self._layout.replaceWidget(self._place, card)
        card.show()


def _layout_of(widget: QWidget) -> QLayout | None:
    """The layout, however nested, that places `widget`."""
    parent = widget.parentWidget()
    pending = [parent.layout()] if parent is not None and parent.layout() is not None else []
    while pending:
        layout = pending.pop()
        for index in range(layout.count()):
            item = layout.itemAt(index)
            if item.widget() is widget:
                return layout
            if item.layout() is not None:
                pending.append(item.layout())
    return None


def card_to_present(page: QWidget) -> Card | None:
    """The card under the pointer, or with the keyboard, or the first one on `page`."""
    under = QApplication.widgetAt(QCursor.pos())
    for widget in (under, QApplication.focusWidget()):
        while widget is not None:
            if isinstance(widget, Card) and page.isAncestorOf(widget):
                return widget
            widget = widget.parentWidget()
    return next((card for card in page.findChildren(Card) if card.isVisible()), None)
