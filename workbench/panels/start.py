"""The first page: what can be done with an empty workspace. Needs nothing but Qt."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from workbench import i18n, theme
from workbench.i18n import mark, tr

STEPS = (
    ("flask", mark("Train")),
    ("bolt", mark("Attack")),
    ("shield", mark("Harden")),
    ("bolt", mark("Attack again")),
    ("compare", mark("Compare")),
    ("lock", mark("Export encrypted")),
)

MARGIN = 24
TILES = 540
"""Width at scale 1 from which three tiles stand side by side."""


class Tile(QPushButton):
    """A large button: icon, heading, one sentence."""

    def __init__(
        self, icon: str, title: str, text: str, parent: QWidget, main: bool = False
    ) -> None:
        super().__init__(parent)
        self.setObjectName("startTile")
        self.setProperty("main", main)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self._title, self._text = title, text
        sign = QLabel()
        theme.set_icon(sign, icon, "accent", 26 if main else 20)
        self._heading, self._words = QLabel(), QLabel()
        self._heading.setProperty("tone", "title" if main else "heading")
        self._heading.setWordWrap(True)
        self._words.setProperty("tone", "small")
        self._words.setWordWrap(True)
        column = QVBoxLayout()
        column.setSpacing(3)
        column.addWidget(self._heading)
        column.addWidget(self._words)
        column.addStretch()
        self._row = QHBoxLayout(self)
        self._row.addWidget(sign, 0, Qt.AlignmentFlag.AlignTop)
        self._row.addLayout(column, 1)
        for part in (sign, self._heading, self._words):
            part.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        theme.manager.changed.connect(self.refresh)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        self._heading.setText(tr(self._title))
        self._words.setText(tr(self._text))
        self.setAccessibleName(tr(self._title))
        self.setAccessibleDescription(tr(self._text))
        margin = theme.px(14)
        self._row.setContentsMargins(margin, margin, margin, margin)
        self._row.setSpacing(theme.px(12))
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        return self._row.sizeHint()

    def minimumSizeHint(self) -> QSize:
        return self._row.minimumSize()

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._row.heightForWidth(width)


class StartPage(QWidget):
    """Run the demo, open a recipe, new task, choose a data set."""

    demo = Signal()
    recipe = Signal()
    task = Signal()
    data = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._title, self._text, self._state = QLabel(), QLabel(), QLabel()
        self._title.setProperty("tone", "display")
        self._title.setWordWrap(True)
        self._text.setProperty("tone", "muted")
        self._text.setWordWrap(True)
        self._state.setProperty("tone", "faint")
        self._state.setWordWrap(True)
        self._ready = False
        self.run_demo = Tile(
            "play",
            mark("Run the demo"),
            mark(
                "Trains a small network on handwritten digits, attacks it while you watch, trains "
                "it against the attack, attacks it again and exports it encrypted. Less than a "
                "minute on two cores."
            ),
            self,
            main=True,
        )
        self.open_recipe = Tile(
            "folder",
            mark("Open a recipe…"),
            mark("A TOML file that lists tasks. Drop one on the window for the same."),
            self,
        )
        self.new_task = Tile(
            "plus", mark("New task"), mark("Fill in a form: data, model, training."), self
        )
        self.choose_data = Tile(
            "image",
            mark("Choose a data set…"),
            mark("Digits, MNIST, CIFAR-10, or a folder of your own images."),
            self,
        )
        self.run_demo.clicked.connect(self.demo)
        self.open_recipe.clicked.connect(self.recipe)
        self.new_task.clicked.connect(self.task)
        self.choose_data.clicked.connect(self.data)

        inside = QWidget(self)
        inside.setMaximumWidth(theme.px(760))
        column = QVBoxLayout(inside)
        column.setSpacing(12)
        column.addWidget(self._title)
        column.addWidget(self._text)
        column.addSpacing(4)
        column.addWidget(self.run_demo)
        self._steps = self._make_steps()
        column.addWidget(self._steps)
        column.addSpacing(8)
        self._tiles = QGridLayout()
        self._tiles.setSpacing(12)
        column.addLayout(self._tiles)
        column.addSpacing(8)
        column.addWidget(self._state)
        page = QWidget()
        outer = QVBoxLayout(page)
        outer.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        outer.addStretch(2)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(inside, 20)
        row.addStretch(1)
        outer.addLayout(row)
        outer.addStretch(3)
        area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(page)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(area)
        i18n.signals.changed.connect(self.refresh)
        self.refresh()

    def _make_steps(self) -> QWidget:
        steps = QWidget(self)
        row = QHBoxLayout(steps)
        row.setSpacing(6)
        row.setContentsMargins(2, 0, 2, 0)
        self._names: list[QLabel] = []
        for place, (icon, _) in enumerate(STEPS):
            if place:
                arrow = QLabel()
                theme.set_icon(arrow, "chevron-right", "faint", 12)
                row.addWidget(arrow)
            sign, name = QLabel(), QLabel()
            theme.set_icon(sign, icon, "faint", 14)
            name.setProperty("tone", "small")
            self._names.append(name)
            row.addWidget(sign)
            row.addWidget(name)
        row.addStretch()
        return steps

    def resizeEvent(self, event: object) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Where there is little room the tiles stand below each other, without the steps."""
        room = self.width() - 2 * MARGIN
        self._steps.setVisible(room >= self._steps.sizeHint().width())
        tiles = (self.open_recipe, self.new_task, self.choose_data)
        wide = room >= theme.px(TILES)
        for place, tile in enumerate(tiles):
            self._tiles.addWidget(tile, *((0, place) if wide else (place, 0)))
            self._tiles.setColumnStretch(place, 1 if wide or not place else 0)

    def set_ready(self, ready: bool, why: str = "") -> None:
        """Whether the engine can take work; `why` it cannot, in the person's language."""
        self._ready = ready
        self._why = why
        self.run_demo.setEnabled(not why)
        self.refresh()

    _why = ""

    def refresh(self) -> None:
        self._title.setText(tr("What will your model do under fire?"))
        self._text.setText(
            tr(
                "Train a network, attack it, defend it, and hand it over encrypted. Everything you "
                "do here can also be done from a recipe file or the command line."
            )
        )
        for label, (_, name) in zip(self._names, STEPS):
            label.setText(tr(name))
        self._arrange()
        self._state.setText(
            self._why
            or (
                tr("The engine is ready.")
                if self._ready
                else tr("The engine is starting: what you start now begins as soon as it is ready.")
            )
        )
