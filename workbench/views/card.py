"""The frame that everything in the centre of the window stands in."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.i18n import tr
from workbench.views.widgets import Elided


class Card(QFrame):
    """A titled frame: title left; note, delta, large value and menu right; `body` below.

    `title` is the English text (written `mark("...")` by the caller): it is shown translated and
    follows a change of language. What is added to `menu` shows the menu button.
    """

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self._english = title
        self.title = Elided()
        self.title.setProperty("tone", "card")
        # The title is shortened last, the note first.
        self.title.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.note = Elided()
        self.note.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.note.setProperty("tone", "faint")
        self.delta = QLabel()
        self.delta.setProperty("tone", "faint")
        self.value = QLabel()
        self.value.setProperty("tone", "value")
        self.delta.hide()
        self.value.hide()
        self.menu = QMenu(self)
        self.more = QToolButton()
        self.more.setProperty("look", "quiet")
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setMenu(self.menu)
        theme.set_icon(self.more, "more", "faint", 16)
        self.menu.aboutToShow.connect(self._before_menu)
        self.more.hide()

        self.header = QHBoxLayout()
        self.header.addWidget(self.title)
        self.header.addWidget(self.note, 1)
        for item in (self.delta, self.value, self.more):
            self.header.addWidget(item, 0, Qt.AlignmentFlag.AlignVCenter)
        self.body = QVBoxLayout()
        self._layout = QVBoxLayout(self)
        self._layout.addLayout(self.header)
        self._layout.addLayout(self.body, 1)
        self._space()
        self._name()
        theme.manager.changed.connect(self._space)
        i18n.signals.changed.connect(self.retranslate)

    def set_title(self, title: str) -> None:
        """Another title, in English as for the constructor."""
        self._english = title
        self._name()

    def set_value(self, text: str, delta: str = "") -> None:
        """The large current value, and its change in small before it; empty texts hide them."""
        for label, shown in ((self.value, text), (self.delta, delta)):
            if label.text() != shown:
                label.setText(shown)
                label.setVisible(bool(shown))

    def set_note(self, text: str) -> None:
        """A faint remark at the right of the title, as in "24 · 28 x 28"."""
        if self.note.text() != text:
            self.note.setText(text)

    def set_empty(self, text: str) -> None:
        """While there is nothing to show: what will appear and how to start it. Empty ends it."""
        self._empty_label().setText(text)
        self._empty_label().setVisible(bool(text))

    def show_menu_button(self) -> None:
        """Call once `menu` has been filled."""
        self.more.show()

    def retranslate(self) -> None:
        """The language has changed. Views that hold text of their own extend this."""
        self._name()

    def _before_menu(self) -> None:
        """The menu is about to open. Views that tick items as they are extend this."""

    def _empty_label(self) -> QLabel:
        if not hasattr(self, "_empty"):
            self._empty = QLabel()
            self._empty.setProperty("tone", "muted")
            self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
            self._empty.setWordWrap(True)
            self.body.addWidget(self._empty, 1)
        return self._empty

    def _name(self) -> None:
        shown = tr(self._english)
        self.title.setText(shown)
        self.setAccessibleName(shown)
        self.more.setAccessibleName(tr("Menu of {card}", card=shown))
        self.more.setToolTip(tr("More"))

    def _space(self) -> None:
        px = theme.px
        self._layout.setContentsMargins(px(14), px(8), px(10), px(10))
        self._layout.setSpacing(px(4))
        self.header.setSpacing(px(8))
        self.title.setMinimumHeight(px(26))
