"""One sample of an attack, large: what it was, what it became, and what the model thinks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QFontMetricsF, QImage, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QSlider, QToolButton, QWidget

from workbench import theme
from workbench.i18n import mark, tr
from workbench.views import pictures
from workbench.views.card import Card
from workbench.views.mosaic import class_name, is_correct
from workbench.views.pictures import Pixels
from workbench.views.text import percent
from workbench.words import measure

REPLAY_MS = 4000
"""How long a replay takes, about, whatever the number of its iterations."""


class Magnifier(Card):
    """Clean and adversarial picture, class probabilities, norm, and the replay of iterations."""

    iteration_changed = Signal(int)
    """The place among the stored iterations that a person (or the replay) has moved to."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Magnifier"), parent)
        self.portraits = Portraits()
        self.bars = Probabilities()
        self.body.addWidget(self.portraits)
        self.body.addWidget(self.bars, 1)
        self.replay = Replay()
        self.replay.moved.connect(self.iteration_changed)
        self.body.addWidget(self.replay)
        self._norm = "linf"
        self.explain(mark("Select a sample to see it enlarged."))

    def set_norm(self, norm: str) -> None:
        """The norm that captions report: linf, l2, l1 or l0."""
        self._norm = norm

    def show_sample(
        self,
        index: int,
        clean: tuple[Pixels, Mapping[str, Any]] | None,
        adversarial: tuple[Pixels, Mapping[str, Any]] | None,
        classes: Sequence[str],
    ) -> None:
        """Each is a (H, W, C) picture with its caption. Either may be missing."""
        self.portraits.show_pair(clean, adversarial, classes)
        self._show_emptiness()
        before = clean[1] if clean else {}
        after = adversarial[1] if adversarial else before
        self.bars.show_probabilities(
            after.get("probabilities") or (),
            before.get("probabilities") or (),
            classes,
            after.get("label"),
            after.get("prediction"),
        )
        norm = after.get("norm")
        note = f"#{index + 1}"
        if isinstance(norm, int | float):
            measured = measure(str(after.get("measured", self._norm)))
            note = f"{measured} {float(norm):.3g} · {note}"
        self.set_note(note if clean or adversarial else "")

    def retranslate(self) -> None:
        super().retranslate()
        if hasattr(self, "replay"):
            self.replay.retranslate()
            self.portraits.update()
            self._show_emptiness()

    def _show_emptiness(self) -> None:
        empty = all(picture is None for picture in self.portraits.pair)
        self._give_way(empty, self.portraits, self.bars)
        self.replay.setVisible(not empty and self.replay.count > 1)


class Portraits(QWidget):
    """The clean picture and the adversarial one side by side, with what the model says of each."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.pair: tuple[QImage | None, QImage | None] = (None, None)
        self._texts: list[tuple[str, bool | None]] = [("", None), ("", None)]
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        theme.manager.changed.connect(self.updateGeometry)

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return min((width - theme.px(6)) // 2, theme.px(220)) + theme.px(18)

    def sizeHint(self) -> QSize:
        return QSize(theme.px(180), self.heightForWidth(theme.px(180)))

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(100), theme.px(60))

    def show_pair(
        self,
        clean: tuple[Pixels, Mapping[str, Any]] | None,
        adversarial: tuple[Pixels, Mapping[str, Any]] | None,
        classes: Sequence[str],
    ) -> None:
        images: list[QImage | None] = []
        for at, item in enumerate((clean, adversarial)):
            if item is None:
                images.append(None)
                self._texts[at] = ("", None)
                continue
            images.append(pictures.image(pictures.pack(item[0][None], None)[0]))
            self._texts[at] = _verdict(item[1], classes)
        self.pair = (images[0], images[1])
        self.setAccessibleName(tr("Clean and adversarial picture"))
        self.setAccessibleDescription(" / ".join(text for text, _ in self._texts))
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        px = theme.px
        side = min((self.width() - px(6)) / 2, self.height() - px(18))
        left = (self.width() - 2 * side - px(6)) / 2
        font = theme.font(11, 500)
        metrics = QFontMetricsF(font)
        for at, (image, (text, correct)) in enumerate(zip(self.pair, self._texts)):
            box = QRectF(left + at * (side + px(6)), 0, side, side)
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, False)
            if image is None:
                painter.fillRect(box, theme.color("raised"))
                continue
            scale = min(side / image.width(), side / image.height())
            width, height = image.width() * scale, image.height() * scale
            painter.drawImage(
                QRectF(box.center().x() - width / 2, box.center().y() - height / 2, width, height),
                image,
            )
            caption = QRectF(box.left(), side + px(2), side, px(16))
            mark_width = px(14) if correct is not None else 0
            if metrics.horizontalAdvance(text) > side - mark_width:
                text = text.partition(" · ")[0]  # the bars below say how sure it is
            shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, side - mark_width)
            wide = metrics.horizontalAdvance(shown)
            start = box.center().x() - (wide + mark_width) / 2
            if correct is not None:
                token = "success" if correct else "danger"
                name = "check" if correct else "cross"
                glyph = theme.pixmap(name, token, 12)
                painter.drawPixmap(QPointF(start - px(1), caption.top() + px(2)), glyph)
                painter.setPen(theme.color(token))
            else:
                painter.setPen(theme.color("muted"))
            painter.setFont(font)
            painter.drawText(
                QRectF(start + mark_width, caption.top(), wide + 2, caption.height()),
                Qt.AlignmentFlag.AlignVCenter,
                shown,
            )
        painter.end()


def _verdict(caption: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, bool | None]:
    prediction = caption.get("prediction")
    if prediction is None:
        label = caption.get("label")
        return ("" if label is None else class_name(label, classes)), None
    text = class_name(prediction, classes)
    probabilities = caption.get("probabilities") or ()
    if isinstance(prediction, int) and prediction < len(probabilities):
        text += f" · {percent(float(probabilities[prediction]), 0)}"
    return text, is_correct(caption)


class Probabilities(QWidget):
    """A bar a class; a tick marks what the clean picture got. The true class is checked, a wrong
    prediction crossed. Where not all fit, the most probable are shown."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.after: tuple[float, ...] = ()
        self.before: tuple[float, ...] = ()
        self.classes: tuple[str, ...] = ()
        self.label: int | None = None
        self.prediction: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.manager.changed.connect(self.update)

    def minimumSizeHint(self) -> QSize:
        return QSize(theme.px(100), theme.px(36))

    def sizeHint(self) -> QSize:
        return QSize(theme.px(180), theme.px(14) * min(max(len(self.after), 2), 10))

    def show_probabilities(
        self,
        after: Sequence[float],
        before: Sequence[float],
        classes: Sequence[str],
        label: int | None,
        prediction: int | None,
    ) -> None:
        if len(after) != len(self.after):
            self.updateGeometry()
        self.after, self.before = tuple(after), tuple(before)
        self.classes, self.label, self.prediction = tuple(classes), label, prediction
        self.setAccessibleName(tr("Class probabilities"))
        top = sorted(range(len(after)), key=lambda i: -after[i])[:3]
        self.setAccessibleDescription(
            ", ".join(f"{class_name(i, self.classes)} {percent(after[i], 0)}" for i in top)
        )
        self.update()

    def shown(self, room: int) -> list[int]:
        """The classes to show in `room` rows, in their own order where all fit."""
        if len(self.after) <= room:
            return list(range(len(self.after)))
        order = sorted(range(len(self.after)), key=lambda i: -self.after[i])
        order.sort(key=lambda i: i not in (self.label, self.prediction))
        return sorted(order[: max(room, 1)], key=lambda i: -self.after[i])

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.after:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        px = theme.px
        legend = px(15) if self.before and self.height() >= px(15 + 25) else 0
        room = self.height() - legend
        rows = self.shown(int(room // px(12.5)))
        line = min(room / len(rows), px(26))
        font = theme.font(11)
        metrics = QFontMetricsF(font)
        names = [class_name(i, self.classes) for i in rows]
        widest = max(metrics.horizontalAdvance(name) for name in names)
        name_width = min(widest, self.width() * 0.34)
        left = name_width + px(20)
        value_width = metrics.horizontalAdvance(percent(1.0, 0)) + px(6)
        full = max(self.width() - left - value_width, 1)
        for row, (index, name) in enumerate(zip(rows, names)):
            top = row * line
            true, wrong = index == self.label, index == self.prediction != self.label
            token = "success" if true else "danger" if wrong else "faint"
            painter.setFont(font)
            painter.setPen(theme.color("text" if true or wrong else "muted"))
            shown = metrics.elidedText(name, Qt.TextElideMode.ElideRight, name_width + 1)
            painter.drawText(
                QRectF(0, top, name_width + 2, line), Qt.AlignmentFlag.AlignVCenter, shown
            )
            if true or wrong:
                glyph = theme.pixmap("check" if true else "cross", token, 11)
                painter.drawPixmap(QPointF(name_width + px(4), top + (line - px(11)) / 2), glyph)
            high = max(min(line * 0.5, px(9)), px(4))
            track = QRectF(left, top + (line - high) / 2, full, high)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("raised"))
            painter.drawRoundedRect(track, 2, 2)
            value = min(max(float(self.after[index]), 0.0), 1.0)
            painter.setBrush(theme.color(token))
            painter.drawRoundedRect(
                QRectF(track.left(), track.top(), max(full * value, px(2)), high), 2, 2
            )
            if index < len(self.before) and self.before[index] >= 0.02:
                x = track.left() + full * min(max(float(self.before[index]), 0.0), 1.0)
                painter.setPen(QPen(theme.color("text"), 1.2))
                painter.drawLine(QPointF(x, track.top() - 1.5), QPointF(x, track.bottom() + 1.5))
            painter.setPen(theme.color("text" if true or wrong else "muted"))
            painter.drawText(
                QRectF(self.width() - value_width, top, value_width, line),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                percent(value, 0),
            )
        if legend:
            self._explain_tick(painter, QRectF(left, len(rows) * line, full, legend))
        painter.end()

    def _explain_tick(self, painter: QPainter, place: QRectF) -> None:
        """Below the bars: what the tick on them means."""
        px = theme.px
        x, middle = place.left() + px(2), place.center().y()
        painter.setPen(QPen(theme.color("text"), 1.2))
        painter.drawLine(QPointF(x, middle - px(4)), QPointF(x, middle + px(4)))
        painter.setFont(theme.font(11))
        painter.setPen(theme.color("muted"))
        painter.drawText(
            QRectF(x + px(6), place.top(), self.width() - x - px(6), place.height()),
            Qt.AlignmentFlag.AlignVCenter,
            tr("clean picture"),
        )


class Replay(QWidget):
    """A slider over the iterations that were kept, and a button that plays them."""

    moved = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._steps: tuple[int, ...] = ()
        self.button = QToolButton()
        self.button.setProperty("look", "quiet")
        self.button.clicked.connect(self.toggle)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 0)
        self.slider.valueChanged.connect(self._on_value)
        self.slider.sliderPressed.connect(self.stop)
        self.label = QLabel()
        self.label.setProperty("tone", "faint")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(theme.px(6))
        row.addWidget(self.button)
        row.addWidget(self.slider, 1)
        row.addWidget(self.label)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._advance)
        self._show()
        self.retranslate()

    @property
    def count(self) -> int:
        """How many iterations there are."""
        return len(self._steps)

    @property
    def playing(self) -> bool:
        return self._timer.isActive()

    @property
    def at_end(self) -> bool:
        return self.slider.value() >= self.slider.maximum()

    def set_steps(self, steps: Sequence[int], follow: bool) -> None:
        """The iterations that can be shown. With `follow`, the slider goes to the last."""
        self._steps = tuple(steps)
        blocked = self.slider.blockSignals(True)
        self.slider.setRange(0, max(len(steps) - 1, 0))
        self.slider.setPageStep(max(len(steps) // 10, 1))
        if follow:
            self.slider.setValue(max(len(steps) - 1, 0))
        self.slider.blockSignals(blocked)
        self._show()

    def toggle(self) -> None:
        """Play from here, or from the start if at the end; or stop."""
        if self.playing:
            self.stop()
        elif len(self._steps) > 1:
            if self.at_end:
                self.slider.setValue(0)
            self._timer.start(min(max(REPLAY_MS // len(self._steps), 40), 300))
            self._show()

    def stop(self) -> None:
        self._timer.stop()
        self._show()

    def hideEvent(self, event: object) -> None:
        self.stop()

    def retranslate(self) -> None:
        playing = tr("Stop the replay") if self.playing else tr("Replay the iterations")
        self.button.setToolTip(playing)
        self.button.setAccessibleName(playing)
        self.slider.setAccessibleName(tr("Iteration of the attack"))

    def _advance(self) -> None:
        if self.at_end:
            self.stop()
        else:
            self.slider.setValue(self.slider.value() + 1)

    def _on_value(self, value: int) -> None:
        self._show()
        self.moved.emit(value)

    def _show(self) -> None:
        enabled = len(self._steps) > 1
        self.slider.setEnabled(enabled)
        self.button.setEnabled(enabled)
        theme.set_icon(self.button, "pause" if self.playing else "play", "muted", 14)
        if self._steps:
            step, last = self._steps[self.slider.value()], self._steps[-1]
            self.label.setText(f"{step}/{last}")
        else:
            self.label.setText("")
        self.retranslate()
