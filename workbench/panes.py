"""A splitter that tells what a person has set apart from what a small window forces."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QSplitter, QWidget

from workbench import theme


class Panes(QSplitter):
    """Panes beside or below a middle that takes what is left. A small window squeezes them, but
    what it takes from them it gives back when it grows."""

    def __init__(self, orientation: Qt.Orientation, parent: QWidget | None = None) -> None:
        super().__init__(orientation, parent)
        self.setHandleWidth(1)
        self._middle: QWidget | None = None
        self._comfort = 0.0
        self._wanted: dict[int, float] = {}
        """Width or height of each pane at scale 1, by its place: as set by a person, 0 where it is
        folded away."""
        self._given: list[int] = []
        self.splitterMoved.connect(self._moved)

    def set_middle(self, widget: QWidget, comfort: float = 0) -> None:
        """Add the part that takes what the panes leave; it cannot be folded away. Where it would
        measure less than `comfort` at scale 1, the panes give what they can spare."""
        self.addWidget(widget)
        self._middle, self._comfort = widget, comfort
        self.setCollapsible(self.indexOf(widget), False)
        self.setStretchFactor(self.indexOf(widget), 1)

    def wanted(self, pane: QWidget) -> float:
        """What the pane measures at scale 1 where there is room for it; 0 when folded away."""
        return self._wanted.get(self.indexOf(pane), 0)

    def set_wanted(self, pane: QWidget, size: float) -> None:
        """Give the pane `size` at scale 1, as far as there is room; 0 folds it away."""
        self._wanted[self.indexOf(pane)] = size
        self.settle()

    def settle(self) -> None:
        """Give every pane what it wants, as far as there is room."""
        across = "width" if self.orientation() == Qt.Orientation.Horizontal else "height"
        whole: int = getattr(self, across)()
        sizes = [
            theme.px(size) if (size := self._wanted.get(place)) else 0
            for place in range(self.count())
        ]
        if self._middle is not None:
            whole -= self.handleWidth() * (self.count() - 1)
            lacking = theme.px(self._comfort) - (whole - sum(sizes)) if self._comfort else 0
            spare = [
                max(size - getattr(self.widget(place).minimumSize(), across)(), 0) if size else 0
                for place, size in enumerate(sizes)
            ]
            if lacking > 0 and any(spare):
                share = min(lacking / sum(spare), 1)
                sizes = [size - round(share * some) for size, some in zip(sizes, spare)]
            # Not 0, which would fold it away.
            sizes[self.indexOf(self._middle)] = max(whole - sum(sizes), 1)
        self.setSizes(sizes)
        self._given = self.sizes()

    def _moved(self) -> None:
        """A person has moved an edge: only what that has changed is meant."""
        for place, (before, now) in enumerate(zip(self._given, self.sizes())):
            if place in self._wanted and before != now:
                self._wanted[place] = now / theme.manager.scale
        self._given = self.sizes()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.settle()
