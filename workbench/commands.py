"""Commands: everything a person can do, by name, by key, and through the palette (Ctrl+K)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QObject, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QGraphicsDropShadowEffect,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from workbench import theme
from workbench.i18n import tr

SHOWN = 60


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Command:
    """Something that can be done. `title` is English unless `own` says it is a person's word (a
    run's name); `keys` are as a person reads them, the first one is the main one."""

    key: str
    title: str
    call: Callable[[], object]
    icon: str = "bolt"
    keys: str = ""
    note: str = ""
    own: bool = False
    enabled: Callable[[], bool] = _always
    words: str = ""
    """Further words it is found by."""

    @property
    def shown(self) -> str:
        return self.title if self.own else tr(self.title)


def score(query: str, text: str) -> float:
    """How well `text` answers `query`, both as a person wrote them; 0 if not at all.

    All letters must come in order; a word's beginning, and letters side by side, count more.
    """
    query, text = query.casefold().strip(), text.casefold()
    if not query:
        return 1.0
    at = text.find(query)
    if at >= 0:
        starts_word = at == 0 or not text[at - 1].isalnum()
        return 100.0 + (50.0 if at == 0 else 30.0 if starts_word else 0.0) - 0.1 * len(text)
    total, place, last = 0.0, 0, -2
    for letter in query:
        if letter == " ":
            continue
        place = text.find(letter, place)
        if place < 0:
            return 0.0
        beside = place == last + 1
        first = place == 0 or not text[place - 1].isalnum()
        total += 3.0 if beside else 2.0 if first else 0.5
        last = place
        place += 1
    # Scattered letters in a long text are no answer.
    return total if total >= 1.4 * len(query.replace(" ", "")) else 0.0


def matching(commands: Iterable[Command], query: str) -> list[Command]:
    """The commands that answer `query`, the best first; equal ones stay in their order."""
    scored = [
        (max(score(query, c.shown), 0.9 * score(query, c.title), 0.5 * score(query, c.words)), c)
        for c in commands
    ]
    found = [(value, command) for value, command in scored if value > 0 and command.enabled()]
    found.sort(key=lambda pair: -pair[0])
    return [command for _, command in found[:SHOWN]]


class Palette(QWidget):
    """A field and a list over the window; it takes the keyboard until it is closed."""

    closed = Signal()

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._commands: Sequence[Command] = ()
        self._found: list[Command] = []
        self._before: QWidget | None = None
        self.box = QFrame(self)
        self.box.setObjectName("palette")
        shadow = QGraphicsDropShadowEffect(self.box, blurRadius=40, offset=QPoint(0, 12))
        shadow.setColor(QColor(0, 0, 0, 90))
        self.box.setGraphicsEffect(shadow)
        self.field = QLineEdit(self.box)
        self.field.textChanged.connect(self._search)
        self.field.installEventFilter(self)
        self.list = QListWidget(self.box)
        self.list.setItemDelegate(_Row(self))
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setMouseTracking(True)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.itemClicked.connect(lambda _: self._take())
        self.list.itemEntered.connect(self.list.setCurrentItem)
        self.nothing = QLabel(self.box)
        self.nothing.setProperty("tone", "muted")
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column = QVBoxLayout(self.box)
        column.setContentsMargins(10, 10, 10, 10)
        column.setSpacing(8)
        column.addWidget(self.field)
        column.addWidget(self.list, 1)
        column.addWidget(self.nothing, 1)
        window.installEventFilter(self)
        self.hide()

    def open(self, commands: Sequence[Command], query: str = "") -> None:
        """Show the palette with these commands."""
        self._commands = commands
        self._before = self.window().focusWidget()
        self.field.setPlaceholderText(tr("Type a command, a run, a setting…"))
        self.field.setAccessibleName(tr("Search or run a command"))
        self.list.setAccessibleName(tr("Commands"))
        self.nothing.setText(tr("Nothing goes by that name."))
        self.field.setText(query)
        self._search(query)
        self._place()
        self.show()
        self.raise_()
        self.field.setFocus()
        self.field.selectAll()

    def close_palette(self) -> None:
        if self.isVisible():
            self.hide()
            if self._before is not None:
                self._before.setFocus()
            self.closed.emit()

    def command(self, row: int) -> Command | None:
        return self._found[row] if 0 <= row < len(self._found) else None

    def _place(self) -> None:
        window = self.window()
        self.setGeometry(0, 0, window.width(), window.height())
        width = min(theme.px(600), window.width() - 40)
        rows = max(2, min(len(self._found), 10))
        height = min(theme.px(66 + 38 * rows), window.height() - 80)
        self.box.setGeometry((window.width() - width) // 2, theme.px(96), width, height)

    def _search(self, text: str) -> None:
        self._found = matching(self._commands, text)
        self.list.clear()
        for command in self._found:
            item = QListWidgetItem(command.shown)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{command.shown} {command.keys}")
            self.list.addItem(item)
        self.list.setVisible(bool(self._found))
        self.nothing.setVisible(not self._found)
        self.list.setCurrentRow(0)
        self._place()

    def _take(self) -> None:
        command = self.command(self.list.currentRow())
        self.close_palette()
        if command is not None:
            command.call()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.parent() and event.type() == QEvent.Type.Resize and self.isVisible():
            self._place()
        if (
            watched is self.field
            and isinstance(event, QKeyEvent)
            and event.type() == QEvent.Type.KeyPress
        ):
            return self._key(event)
        return False

    def _key(self, event: QKeyEvent) -> bool:
        rows = self.list.count()
        row = self.list.currentRow()
        match event.key():
            case Qt.Key.Key_Down:
                self.list.setCurrentRow((row + 1) % max(rows, 1))
            case Qt.Key.Key_Up:
                self.list.setCurrentRow((row - 1) % max(rows, 1))
            case Qt.Key.Key_PageDown:
                self.list.setCurrentRow(min(row + 8, rows - 1))
            case Qt.Key.Key_PageUp:
                self.list.setCurrentRow(max(row - 8, 0))
            case Qt.Key.Key_Return | Qt.Key.Key_Enter:
                self._take()
            case Qt.Key.Key_Escape:
                self.close_palette()
            case _:
                return False
        return True

    def mousePressEvent(self, event: object) -> None:
        self.close_palette()

    def paintEvent(self, event: object) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(0, 0, 0, 110 if theme.manager.theme.dark else 70))
        painter.end()


class _Row(QStyledItemDelegate):
    """Icon, name, keys."""

    def __init__(self, palette: Palette) -> None:
        super().__init__(palette)
        self._palette = palette

    def sizeHint(self, option: QStyleOptionViewItem, index: object) -> object:
        size = super().sizeHint(option, index)  # type: ignore[arg-type]
        size.setHeight(theme.px(38))
        return size

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: object) -> None:
        command = self._palette.command(index.row())  # type: ignore[attr-defined]
        if command is None:
            return
        rect: QRect = option.rect  # type: ignore[attr-defined]
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if option.state & QStyle.StateFlag.State_Selected:  # type: ignore[attr-defined]
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("selection"))
            painter.drawRoundedRect(rect.adjusted(0, 1, 0, -1), 6, 6)
        side = theme.px(16)
        icon = theme.pixmap(command.icon, "muted", 16)
        painter.drawPixmap(rect.left() + theme.px(14), rect.center().y() - side // 2, icon)
        left = rect.left() + theme.px(44)
        small = theme.font(11.5, mono=bool(command.keys))
        right = rect.right() - theme.px(14)
        font, middle = theme.font(13, 500), Qt.AlignmentFlag.AlignVCenter
        metrics, end = QFontMetrics(font), Qt.TextElideMode.ElideRight
        title = metrics.elidedText(command.shown, end, right - left - theme.px(80))
        beside = left + metrics.horizontalAdvance(title) + theme.px(16)
        painter.setFont(font)
        painter.setPen(theme.color("text"))
        painter.drawText(QRect(left, rect.top(), right - left, rect.height()), middle, title)
        note = command.keys or command.note
        painter.setFont(small)
        painter.setPen(theme.color("faint"))
        room = QRect(beside, rect.top(), right - beside, rect.height())
        shown = QFontMetrics(small).elidedText(note, end, room.width())
        painter.drawText(room, middle | Qt.AlignmentFlag.AlignRight, shown)
        painter.restore()


def keyboard_list(commands: Sequence[Command], parent: QWidget) -> QDialog:
    """Every key there is, in a small window (F1)."""
    dialog = QDialog(parent)
    dialog.setWindowTitle(tr("Keyboard"))
    with_keys = [command for command in commands if command.keys]
    table = QTableWidget(len(with_keys), 2, dialog)
    table.setAccessibleName(tr("Keyboard"))
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setShowGrid(False)
    table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
    table.verticalHeader().hide()
    table.horizontalHeader().hide()
    table.horizontalHeader().setStretchLastSection(True)
    for row, command in enumerate(with_keys):
        table.setItem(row, 0, QTableWidgetItem(command.keys))
        table.setItem(row, 1, QTableWidgetItem(command.shown))
    table.resizeColumnToContents(0)
    layout = QHBoxLayout(dialog)
    layout.addWidget(table)
    dialog.resize(theme.px(520), theme.px(560))
    return dialog
