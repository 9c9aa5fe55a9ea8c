"""A slider over what was kept of a training: back to any moment, or along with it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from workbench import i18n, theme
from workbench.i18n import tr
from workbench.views.text import number


class Timeline(QWidget):
    """Moments of a training, by their steps. At its right end it goes along with what is new."""

    changed = Signal()
    """Another moment is wanted: see `step`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._steps: tuple[int, ...] = ()
        self._along = True
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 0)
        self.slider.setPageStep(5)
        self.slider.valueChanged.connect(self._moved)
        self.words = QLabel()
        self.words.setProperty("tone", "faint")
        self.newest = QPushButton()
        self.newest.setProperty("look", "chip")
        self.newest.clicked.connect(self.go_along)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.slider, 1)
        row.addWidget(self.words)
        row.addWidget(self.newest)
        theme.manager.changed.connect(self._size)
        i18n.signals.changed.connect(self.retranslate)
        self._size()
        self.retranslate()

    @property
    def step(self) -> int | None:
        """The moment that is wanted; None: the newest."""
        return None if self._along or not self._steps else self._steps[self.slider.value()]

    def set_steps(self, steps: Sequence[int]) -> None:
        """What can be gone back to, in order. The moment that is looked at stays."""
        if tuple(steps) == self._steps:
            return
        step = self.step
        self._steps = tuple(steps)
        last = max(len(steps) - 1, 0)
        blocked = self.slider.blockSignals(True)
        self.slider.setRange(0, last)
        place = last if step is None else max(bisect_right(self._steps, step) - 1, 0)
        self.slider.setValue(place)
        self.slider.blockSignals(blocked)
        self._show()

    def clear(self) -> None:
        self._along = True
        self.set_steps(())

    def go_along(self) -> None:
        """Show the newest from now on."""
        self._along = True
        self.slider.setValue(self.slider.maximum())
        self._show()
        self.changed.emit()

    def go_to(self, step: int | None) -> None:
        """Show the moment at or before a step; None goes along."""
        if step == self.step or not self._steps:
            return
        if step is None:
            self.go_along()
        else:
            self.slider.setValue(max(bisect_right(self._steps, step) - 1, 0))

    def _moved(self, place: int) -> None:
        self._along = place == self.slider.maximum()
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        can = len(self._steps) > 1
        self.slider.setEnabled(can)
        at = self._steps[self.slider.value()] if self._steps else None
        self.words.setText("" if at is None else tr("step {step}", step=number(at)))
        self.slider.setAccessibleDescription(self.words.text())
        self.newest.setEnabled(can and not self._along)

    def _size(self) -> None:
        self.words.setMinimumWidth(theme.px(72))

    def retranslate(self) -> None:
        self.slider.setAccessibleName(tr("Time of training"))
        self.slider.setToolTip(tr("Back to an earlier moment of the training"))
        self.newest.setText(tr("Newest"))
        self.newest.setToolTip(tr("Go along with the training"))
        self._show()
