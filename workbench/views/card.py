"""The frame that everything in the centre of the window stands in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QMessageBox,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.i18n import tr
from workbench.views.text import within_sentence
from workbench.views.widgets import Elided


class _Warning(QWidget):
    """A sign and some words."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.sign, self.words = QLabel(self), QLabel(self)
        self.words.setWordWrap(True)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 4)
        row.setSpacing(6)
        row.addWidget(self.sign, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.words, 1)
        self.hide()

    def set_text(self, text: str, bad: bool) -> None:
        theme.set_icon(self.sign, "warning", "danger" if bad else "warning", 14)
        self.words.setProperty("tone", "bad" if bad else "warn")
        self.words.style().unpolish(self.words)
        self.words.style().polish(self.words)
        self.words.setText(text)
        self.words.setAccessibleName(text)
        self.setVisible(bool(text))


def seat(card: QWidget) -> QWidget:
    """What a layout is to place for `card`: itself, or what stands in for it. Whoever arranges
    cards anew places this, else it would take back a card that is presented."""
    return getattr(card, "stand_in", None) or card


class Card(QFrame):
    """A titled frame: title left; note, delta, large value and menu right; `body` below.

    `title` is the English text (written `mark("...")` by the caller): it is shown translated and
    follows a change of language. What is added to `menu` shows the menu button.
    """

    _explain = ""
    stand_in: QWidget | None = None
    """What keeps the card's place in its layout while the card is shown elsewhere."""

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
        for part in (self.note, self.delta, self.value):
            part.hide()
        for part in (self.delta, self.value):  # what is spare belongs to title and note
            part.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
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
        self.foot = QVBoxLayout()
        """Below a warning that may stand under the body."""
        self._warning = _Warning(self)
        self._layout.addWidget(self._warning)
        self._layout.addLayout(self.foot)
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
        self._fit_header()

    def resizeEvent(self, event: object) -> None:
        self._fit_header()

    def _fit_header(self) -> None:
        """The change gives way first, then the note; title and value are seen as long as can be."""
        around = self._layout.contentsMargins()
        room = self.width() - around.left() - around.right() - self.title.sizeHint().width()
        if self.note.text():
            room -= self.note.minimumSizeHint().width() + self.header.spacing()
        for part in (self.value, self.more, self.delta):
            if not part.isHidden() or part is self.delta:
                room -= part.sizeHint().width() + self.header.spacing()
        self.delta.setVisible(bool(self.delta.text()) and room >= 0)

    def set_note(self, text: str, *shorter: str) -> None:
        """A faint remark at the right of the title, as in "24 · 28 x 28"; `shorter` where there is
        no room for it (`Elided`)."""
        if self.note.text() != text:
            self.note.setText(text, *shorter)
            self.note.setVisible(bool(text))  # it takes no room from the title
            self._fit_header()

    def set_empty(self, text: str) -> None:
        """While there is nothing to show: what will appear and how to start it. Empty ends it."""
        self._empty_label().setText(text)
        self._empty_label().setVisible(bool(text))

    def warn(self, text: str, *, bad: bool = False) -> None:
        """Below what is shown: why it may mislead (already translated), or, if it is `bad`, what is
        wrong with it. Empty takes it away."""
        self._warning.set_text(text, bad)

    def explain(self, text: str) -> None:
        """What to say from now on while there is nothing to show, in English; `{card}` in it stands
        for the title. The card itself sees when it is time to say it."""
        self._explain = text
        self._show_emptiness()

    def _show_emptiness(self) -> None:
        """What there is to show may have come or gone. Views that can be empty extend this."""

    def _give_way(self, empty: bool, *contents: QWidget) -> None:
        """Show `contents`, or in their place the explanation."""
        name = within_sentence(self.title.text())
        words = tr(self._explain, card=name) if self._explain else " "  # keeps its place
        self.set_empty(words if empty else "")
        for content in contents:
            content.setVisible(not empty)

    def show_menu_button(self) -> None:
        """Call once `menu` has been filled."""
        self.more.show()

    def ask_and_write(
        self, caption: str, suffixes: Sequence[str], write: Callable[[Path], None]
    ) -> None:
        """Ask for a file of one of `suffixes` (as "png"; the first is offered) and `write` it. An
        OSError is told; a name that ends in none of them gets the chosen one."""
        name = re.sub(r"[\s/]+", "-", self.title.text().lower())
        filters = {f"{suffix.upper()} (*.{suffix})": suffix for suffix in suffixes}
        chosen, kind = QFileDialog.getSaveFileName(
            self, caption, f"{name}.{suffixes[0]}", ";;".join(filters)
        )
        if not chosen:
            return
        target = Path(chosen)
        if target.suffix.lower().lstrip(".") not in suffixes:
            target = Path(f"{chosen}.{filters.get(kind, suffixes[0])}")
        try:
            write(target)
        except OSError as error:
            cause = error.strerror
            words = tr("{file} could not be written: {cause}", file=target, cause=cause)
            QMessageBox.warning(self, caption, words)

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
