"""The list of runs beside the cards: search, status, progress and queue.

A run that is drawn has a filled dot in the colour of its curves. A click on the dot adds the run
to the comparison; runs that wait can be dragged into another order.
"""

from __future__ import annotations

from PySide6.QtCore import (
    QAbstractListModel,
    QByteArray,
    QEvent,
    QMimeData,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetrics,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPen,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from engine.store import RunInfo
from workbench import i18n, theme
from workbench.bars import tool_button
from workbench.i18n import mark, tr
from workbench.panels import detail_of
from workbench.runs.book import GLYPHS, Book, word_of

ROW_HEIGHT = 56
MIME = "application/x-crucible-run"
Index = QModelIndex | QPersistentModelIndex
IdRole = Qt.ItemDataRole.UserRole


class RunModel(QAbstractListModel):
    """The book's runs that match a search, by id."""

    moved = Signal(str, int)
    """A waiting run was dropped: its id and its new place in the queue."""

    def __init__(self, book: Book, parent: QWidget) -> None:
        super().__init__(parent)
        self.book = book
        self._ids: list[str] = []
        self._search = ""
        book.listed.connect(self.refill)
        book.changed.connect(self._row_changed)
        book.drawn.connect(self._all_changed)

    def refill(self) -> None:
        """Take the runs from the book again."""
        ids = [info.id for info in self.book.infos() if self._matches(info)]
        if ids == self._ids:
            self._all_changed()
            return
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        known = self._ids
        self._ids = ids
        places = {run_id: row for row, run_id in enumerate(ids)}
        after = [
            self.index(places[known[index.row()]])
            if known[index.row()] in places
            else QModelIndex()
            for index in before
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def search(self, text: str) -> None:
        self._search = text.casefold().strip()
        self.refill()

    def _matches(self, info: RunInfo) -> bool:
        detail, status = self.detail(info), word_of(info.status)
        text = f"{info.name} {info.kind} {info.note} {info.id} {status} {detail}"
        return all(word in text.casefold() for word in self._search.split())

    def detail(self, info: RunInfo) -> str:
        """In a few words, what the run is."""
        return detail_of(info.kind, self.book.named(info).spec)

    def row_of(self, run_id: str) -> int:
        return self._ids.index(run_id) if run_id in self._ids else -1

    def id_at(self, index: Index) -> str | None:
        return self._ids[index.row()] if index.isValid() and index.row() < len(self._ids) else None

    def _row_changed(self, run_id: str) -> None:
        row = self.row_of(run_id)
        if row >= 0:
            self.dataChanged.emit(self.index(row), self.index(row))

    def _all_changed(self) -> None:
        if self._ids:
            self.dataChanged.emit(self.index(0), self.index(len(self._ids) - 1))

    # --- what Qt asks

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._ids)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        run_id = self.id_at(index)
        info = self.book.info(run_id) if run_id else None
        if info is None:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return info.name
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{info.name}, {word_of(info.status)}, {self.detail(info)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(
                filter(None, (info.name, self.detail(info), info.note, info.error, info.id))
            )
        if role == IdRole:
            return info.id
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        flags = super().flags(index)
        if self.id_at(index) in self.book.queue:
            flags |= Qt.ItemFlag.ItemIsDragEnabled
        return flags | Qt.ItemFlag.ItemIsDropEnabled

    def supportedDropActions(self) -> Qt.DropAction:
        return Qt.DropAction.MoveAction

    def mimeTypes(self) -> list[str]:
        return [MIME]

    def mimeData(self, indexes: list[QModelIndex]) -> QMimeData:
        data = QMimeData()
        ids = [run_id for index in indexes if (run_id := self.id_at(index))]
        data.setData(MIME, QByteArray("\n".join(ids).encode()))
        return data

    def dropMimeData(
        self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: Index
    ) -> bool:
        run_id = bytes(data.data(MIME).data()).decode().split("\n")[0]
        if run_id not in self.book.queue:
            return False
        row = parent.row() if parent.isValid() else row
        # The list shows the last of the queue on top.
        place = max(0, len(self.book.queue) - 1 - max(0, row))
        self.moved.emit(run_id, place)
        return False  # the engine says the new order; Qt must not remove rows itself


class RunDelegate(QStyledItemDelegate):
    """Draws one run: dot, name, what it is, status; a thin bar while it goes."""

    def __init__(self, model: RunModel, parent: QListView) -> None:
        super().__init__(parent)
        self._model, self._view = model, parent

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(100, theme.px(ROW_HEIGHT))

    def dot(self, row: QRect) -> QRect:
        """Where the dot of a row can be clicked."""
        return QRect(row.left() + 4, row.top() + 4, theme.px(24), theme.px(30))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        book, tokens = self._model.book, theme.manager.theme
        run_id = self._model.id_at(index)
        info = book.info(run_id) if run_id else None
        if info is None:
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        row: QRect = option.rect.adjusted(8, 1, -8, -3)  # type: ignore[attr-defined]
        state: QStyle.StateFlag = option.state  # type: ignore[attr-defined]
        selected = bool(state & QStyle.StateFlag.State_Selected)
        hovered = bool(state & QStyle.StateFlag.State_MouseOver)
        if selected or hovered:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(tokens.selection if selected else tokens.raised))
            painter.drawRoundedRect(QRectF(row), 7, 7)
        if selected and self._view.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(tokens.accent), 1))
            painter.drawRoundedRect(QRectF(row).adjusted(0.5, 0.5, -0.5, -0.5), 7, 7)
        compared = info.id in book.compared
        self._paint_dot(painter, row, info, compared or selected, compared)
        self._paint_words(painter, row, info)
        rate = book.rate(info.id)
        if info.status == "running" and rate is not None and rate.total:
            self._paint_bar(painter, row, rate.fraction)
        painter.restore()

    def _paint_dot(
        self, painter: QPainter, row: QRect, info: RunInfo, filled: bool, compared: bool
    ) -> None:
        tokens = theme.manager.theme
        center = QPointF(row.left() + theme.px(14), row.top() + theme.px(16))
        size = theme.px(10) / 2
        if filled:
            color = QColor(tokens.series[self._model.book.color_index(info.id)])
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawEllipse(center, size, size)
            if compared:
                painter.setPen(QPen(color, 1.2))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawEllipse(center, size * 1.5, size * 1.5)
        else:
            painter.setPen(QPen(QColor(tokens.faint), 1.4))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawEllipse(center, size * 0.9, size * 0.9)

    def _paint_words(self, painter: QPainter, row: QRect, info: RunInfo) -> None:
        tokens, book = theme.manager.theme, self._model.book
        font, small = theme.font(13, 500), theme.font(11.5)
        left, right = row.left() + theme.px(28), row.right() - 8
        half = row.height() // 2
        top = QRect(left, row.top() + 3, right - left, half - 2)
        bottom = QRect(left, row.top() + half - 1, right - left, half - 6)
        status, token = self._status(info)
        painter.setFont(small)
        painter.setPen(QColor(getattr(tokens, token)))
        painter.drawText(top, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, status)
        taken = QFontMetrics(small).horizontalAdvance(status) + 8
        painter.setFont(font)
        painter.setPen(QColor(tokens.text))
        self._elided(painter, font, top.adjusted(0, 0, -taken, 0), info.name)
        painter.setFont(small)
        painter.setPen(QColor(tokens.muted))
        detail = self._model.detail(info)
        if info.id in book.queue:
            place = book.queue.index(info.id) + 1
            detail = tr("{place}. in the queue", place=place) + (f" · {detail}" if detail else "")
        self._elided(painter, small, bottom, detail)

    def _status(self, info: RunInfo) -> tuple[str, str]:
        """The words at the right end of a row, and the token of their colour."""
        rate = self._model.book.rate(info.id)
        if info.status == "running" and rate is not None and rate.total:
            return f"{rate.fraction:.0%}", "accent"
        token = {
            "running": "accent",
            "done": "success",
            "rejected": "danger",
            "failed": "danger",
            "damaged": "danger",
            "interrupted": "warning",
        }.get(info.status, "muted")
        return f"{GLYPHS.get(info.status, '')} {word_of(info.status)}", token

    def _elided(self, painter: QPainter, font: QFont, rect: QRect, text: str) -> None:
        shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideRight, rect.width())
        painter.drawText(rect, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)

    def _paint_bar(self, painter: QPainter, row: QRect, fraction: float) -> None:
        tokens = theme.manager.theme
        left = theme.px(28)
        track = QRectF(row.left() + left, row.bottom() - 5, row.width() - left - 8, 2.5)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(tokens.border))
        painter.drawRoundedRect(track, 1.25, 1.25)
        painter.setBrush(QColor(tokens.accent))
        track.setWidth(track.width() * fraction)
        painter.drawRoundedRect(track, 1.25, 1.25)


class RunView(QListView):
    """The list itself: keys, dots, drops."""

    dot_clicked = Signal(str)
    removed = Signal()
    shifted = Signal(int)
    """Alt+Up (+1: later shown on top, earlier in the list) or Alt+Down."""
    renamed = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("runs")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setMouseTracking(True)
        self.setUniformItemSizes(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.setDropIndicatorShown(True)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = event.position().toPoint()
        index = self.indexAt(place)
        delegate = self.itemDelegate()
        if (
            event.button() == Qt.MouseButton.LeftButton
            and index.isValid()
            and isinstance(delegate, RunDelegate)
            and delegate.dot(self.visualRect(index).adjusted(8, 1, -8, -3)).contains(place)
        ):
            self.dot_clicked.emit(str(index.data(IdRole)))
            return
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        alt = event.modifiers() & Qt.KeyboardModifier.AltModifier
        if alt and event.key() == Qt.Key.Key_Up:
            self.shifted.emit(1)
        elif alt and event.key() == Qt.Key.Key_Down:
            self.shifted.emit(-1)
        elif event.key() == Qt.Key.Key_Delete:
            self.removed.emit()
        elif event.key() == Qt.Key.Key_F2:
            self.renamed.emit()
        elif event.key() in (Qt.Key.Key_C, Qt.Key.Key_Plus) and not event.modifiers():
            index = self.currentIndex()
            if index.isValid():
                self.dot_clicked.emit(str(index.data(IdRole)))
        elif event.key() == Qt.Key.Key_Space:
            event.ignore()  # pause, wherever the focus is
        else:
            super().keyPressEvent(event)


class RunList(QWidget):
    """The whole pane: heading with count, new run, search, list."""

    selected = Signal(str)
    """A person chose a run."""
    asked_new = Signal()
    asked_menu = Signal(list, QPoint)
    """Ids under a menu, and where it opens."""
    asked_rename = Signal(str)
    asked_delete = Signal(list)
    asked_order = Signal(list)
    """The queue in its new order."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("runlist")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.model: RunModel | None = None
        self._title = QLabel(self)
        self._title.setProperty("tone", "title")
        self._count = QLabel("0", self)
        self._count.setProperty("tone", "chip")
        self._new = tool_button("plus", mark("New run"), self)
        self._new.setProperty("keys", "Ctrl+N")
        self._new.clicked.connect(self.asked_new)
        self.search = QLineEdit(self)
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._search)
        self.view = RunView(self)
        self._empty = QLabel(self)
        self._empty.setProperty("tone", "small")
        self._empty.setWordWrap(True)
        self._empty.setContentsMargins(16, 4, 16, 0)
        self._empty.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignHCenter)
        head = QHBoxLayout()
        head.setContentsMargins(16, 0, 12, 0)
        head.setSpacing(8)
        head.addWidget(self._title)
        head.addWidget(self._count, 0, Qt.AlignmentFlag.AlignVCenter)
        head.addStretch()
        head.addWidget(self._new)
        searching = QHBoxLayout()
        searching.setContentsMargins(12, 0, 12, 0)
        searching.addWidget(self.search)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(8)
        column.addLayout(head)
        column.addLayout(searching)
        column.addWidget(self._empty)
        column.addWidget(self.view, 1)
        theme.manager.changed.connect(self.refresh)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def set_book(self, book: Book) -> None:
        """Show the runs of `book`."""
        self.model = RunModel(book, self)
        self.view.setModel(self.model)
        self.view.setItemDelegate(RunDelegate(self.model, self.view))
        self.view.selectionModel().selectionChanged.connect(self._selection_changed)
        self.view.customContextMenuRequested.connect(self._menu)
        self.view.dot_clicked.connect(self._dot)
        self.view.removed.connect(self._remove)
        self.view.renamed.connect(self._rename)
        self.view.shifted.connect(self._shift)
        self.model.moved.connect(self._moved)
        book.listed.connect(self._counted)
        self.model.refill()
        self._counted()

    def current(self) -> str | None:
        return self.model.id_at(self.view.currentIndex()) if self.model else None

    def chosen(self) -> list[str]:
        """Ids of all selected runs."""
        if self.model is None:
            return []
        rows = self.view.selectionModel().selectedIndexes()
        return [run_id for index in rows if (run_id := self.model.id_at(index))]

    def select(self, run_id: str | None) -> None:
        """Mark a run as the one that is shown, without telling anybody."""
        if self.model is None:
            return
        row = self.model.row_of(run_id) if run_id else -1
        selection = self.view.selectionModel()
        blocked = selection.blockSignals(True)
        if row < 0:
            self.view.clearSelection()
            self.view.setCurrentIndex(QModelIndex())
        else:
            self.view.setCurrentIndex(self.model.index(row))
            self.view.scrollTo(self.model.index(row))
        selection.blockSignals(blocked)
        self.view.viewport().update()

    def refresh(self) -> None:
        self._title.setText(tr("Runs"))
        self.search.setPlaceholderText(tr("Search runs…"))
        self.search.setAccessibleName(tr("Search runs…"))
        self.view.setAccessibleName(tr("Runs"))
        self._new.setToolTip(f"{tr('New run')} (Ctrl+N)")
        self._new.setAccessibleName(tr("New run"))
        self._counted()
        self.view.viewport().update()

    def _counted(self) -> None:
        count = len(self.model.book.infos()) if self.model else 0
        self._count.setText(str(count))
        shown = self.model.rowCount() if self.model else 0
        self._empty.setText(
            tr("No run matches.") if count else tr("Runs appear here as soon as one is started.")
        )
        self._empty.setVisible(self.model is not None and shown == 0)

    def _search(self, text: str) -> None:
        if self.model is not None:
            self.model.search(text)
            self._counted()

    def _selection_changed(self, *_: object) -> None:
        chosen = self.chosen()
        if len(chosen) == 1:
            self.selected.emit(chosen[0])
        elif len(chosen) > 1 and self.model is not None:
            self.model.book.compare_only(list(reversed(chosen)))

    def _dot(self, run_id: str) -> None:
        assert self.model is not None
        self.model.book.compare(run_id, run_id not in self.model.book.compared)

    def _menu(self, place: QPoint) -> None:
        if self.model is None:
            return
        ids = self.chosen()
        under = self.model.id_at(self.view.indexAt(place))
        if under and under not in ids:
            self.view.setCurrentIndex(self.view.indexAt(place))
            ids = [under]
        if ids:
            self.asked_menu.emit(ids, self.view.viewport().mapToGlobal(place))

    def _remove(self) -> None:
        if ids := self.chosen():
            self.asked_delete.emit(ids)

    def _rename(self) -> None:
        if run_id := self.current():
            self.asked_rename.emit(run_id)

    def _shift(self, up: int) -> None:
        """Alt+Up moves a waiting run up in the list, which is towards the end of the queue."""
        run_id = self.current()
        if self.model is None or run_id not in self.model.book.queue:
            return
        place = self.model.book.queue.index(run_id) + up
        self._moved(run_id, min(max(place, 0), len(self.model.book.queue) - 1))

    def _moved(self, run_id: str, place: int) -> None:
        assert self.model is not None
        order = [other for other in self.model.book.queue if other != run_id]
        order.insert(place, run_id)
        self.asked_order.emit(order)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.PaletteChange:
            self.view.viewport().update()
        return super().event(event)
