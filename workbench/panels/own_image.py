"""The image of a person's own: drawn, read from a file, dropped, or taken from the test set."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QBuffer, QIODevice, QSize, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QImage, QImageReader
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSlider,
    QToolButton,
    QWidget,
)

from workbench import theme
from workbench.i18n import mark, tr
from workbench.panels.live import Ask, nobody_answers
from workbench.views import pictures
from workbench.views.card import Card
from workbench.views.pad import Pad
from workbench.views.pictures import Pixels
from workbench.views.widgets import Elided

LARGEST_FILE = 64 * 2**20
"""Bytes of an image file."""
EMPTY = mark("Draw, drop an image here, or take one from the test set.")
NO_PEN = mark("Drop an image here, or take one from the test set.")
NO_MODEL = mark("There is no model yet: train or import one first.")
FILES = "*.png *.jpg *.jpeg *.bmp *.gif *.webp *.tif *.tiff *.ppm *.pgm"


class OwnImage(Card):
    """A pad, the tools to draw on it, and where else an image can come from. It is one of a model's
    images (`set_model`); the engine converts what is not."""

    changed = Signal()
    """The image is another one, or what the model is asked about has changed."""
    failed = Signal(str)
    """Why an image could not be taken."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Your image"), parent)
        self.ask: Ask = nobody_answers
        self.model = ""
        self.shape: tuple[int, int, int] | None = None
        """(C, H, W) of the model's images; None while there is no model."""
        self.classes: tuple[str, ...] = ()
        self._source: tuple[str, dict[str, Any]] = ("", {})
        """What the image is, in words to translate."""
        self._count = 0
        """Images of the test split, as far as they are known."""
        self._make()
        theme.manager.changed.connect(self._widths)
        self._widths()
        self.retranslate()

    def _make(self) -> None:
        self.pad = Pad()
        self.pad.changed.connect(self._drawn)
        self.opens = QPushButton()
        self.opens.clicked.connect(self._choose_file)
        self.number = QLineEdit()
        self.number.returnPressed.connect(self._number_entered)
        self.another = QToolButton()
        theme.set_icon(self.another, "refresh", "muted", 16)
        self.another.clicked.connect(self.take_another)
        self._test = QLabel()
        self._test.setProperty("tone", "small")
        sources = QHBoxLayout()
        sources.setSpacing(4)
        sources.addWidget(self.opens)
        sources.addStretch(1)
        for part in (self._test, self.number, self.another):
            sources.addWidget(part)
        self._buttons: list[tuple[QToolButton, str]] = []
        self.pen = self._tool("edit", mark("Pen"), lambda: self._hold(False))
        self.eraser = self._tool("eraser", mark("Eraser"), lambda: self._hold(True))
        for button in (self.pen, self.eraser):
            button.setCheckable(True)
        self.pen.setChecked(True)
        self.width_of_pen = QSlider(Qt.Orientation.Horizontal)
        self.width_of_pen.setRange(5, 80)
        self.width_of_pen.valueChanged.connect(self._widen)
        self.inverts = self._tool("invert", mark("Dark for light"), self.pad.invert)
        self.undoes = self._tool("undo", mark("Take back (Ctrl+Z)"), self.pad.undo)
        self.clears = self._tool("trash", mark("Clear (Del)"), self._clear)
        self.pad.undoable.connect(self.undoes.setEnabled)
        self.undoes.setEnabled(False)
        tools = QHBoxLayout()
        tools.setSpacing(2)
        for part in (self.pen, self.eraser):
            tools.addWidget(part)
        tools.addWidget(self.width_of_pen, 1)
        for part in (self.inverts, self.undoes, self.clears):
            tools.addWidget(part)
        self._tools = QWidget()
        self._tools.setLayout(tools)
        tools.setContentsMargins(0, 0, 0, 0)
        self.about = Elided()
        self.about.setProperty("tone", "faint")
        self.body.addLayout(sources)
        self.body.addWidget(self.pad, 1)
        self.body.addWidget(self._tools)
        self.body.addWidget(self.about)

    def _tool(self, icon: str, words: str, call: Callable[[], object]) -> QToolButton:
        button = QToolButton()
        theme.set_icon(button, icon, "muted", 16)
        button.clicked.connect(lambda _=False: call())
        self._buttons.append((button, words))
        return button

    def _widths(self) -> None:
        self.number.setFixedWidth(theme.px(56))

    def set_model(
        self, run_id: str, shape: tuple[int, int, int] | None, classes: Sequence[str]
    ) -> None:
        """From now on it is an image for this model."""
        self.model, self.shape, self.classes = run_id, shape, tuple(classes)
        self.show_image()

    def begin(self) -> None:
        """A black image to draw on, where the model's images are grey."""
        assert self.shape is not None
        channels, height, width = self.shape
        self._fit_pen()
        blank = np.zeros((height, width, channels), np.uint8)
        self.set_picture(blank if channels == 1 else None)

    def set_picture(
        self, pixels: Pixels | None, source: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        """Take this image, (H, W, C) uint8 as the model has it; `source` says what it is, in
        English with `facts` to be filled in."""
        self.pad.set_picture(pixels)
        self._source = source, dict(facts or {})
        self.show_image()
        self.changed.emit()

    @property
    def has_image(self) -> bool:
        """Whether there is something to ask about: a black pad is none."""
        return self.pad.pixels is not None and bool(self.pad.pixels.any())

    def _drawn(self) -> None:
        if not self._source[0]:
            self._source = mark("drawn"), {}
        if not self.has_image:
            self._source = "", {}
        self.show_image()
        self.changed.emit()

    def _clear(self) -> None:
        self._source = "", {}
        self.pad.clear()

    def _hold(self, eraser: bool) -> None:
        self.pad.erasing = eraser
        self.eraser.setChecked(eraser)
        self.pen.setChecked(not eraser)

    def _widen(self, tenths: int) -> None:
        self.pad.pen_width = tenths / 10
        self.width_of_pen.setAccessibleDescription(f"{tenths / 10:g} px")

    def _fit_pen(self) -> None:
        """A pen that goes with the size of the model's images: 2 pixels of 28."""
        assert self.shape is not None
        self.width_of_pen.setValue(round(10 * max(0.9, 2.2 * min(self.shape[1:]) / 28)))

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Open an image"), "", f"{tr('Images')} ({FILES})"
        )
        if path:
            self.open_file(Path(path))

    def open_file(self, path: Path) -> None:
        """Take an image file, converted by the engine as it converts images to train on."""
        try:
            size = path.stat().st_size
            content = path.read_bytes() if size <= LARGEST_FILE else b""
        except OSError as error:
            self.failed.emit(tr("{file} cannot be read: {cause}", file=path, cause=error.strerror))
            return
        if not content:
            limit = LARGEST_FILE // 2**20
            text = tr("{file} is empty, or larger than {limit} MB.", file=path.name, limit=limit)
            self.failed.emit(text)
            return
        reader = QImageReader(str(path))
        self._take_file(path.name, reader.size(), content)

    def bring(self, pixels: Pixels, name: str) -> None:
        """Take an image, (H, W, C) uint8, that was made elsewhere: a sample of `name`. The engine
        converts what is not one of the model's images."""
        if self.shape is not None and pixels.shape == (*self.shape[1:], self.shape[0]):
            self.set_picture(pixels, mark("a sample of {name}"), {"name": name})
            return
        image = pictures.image(pictures.pack(pixels[None], None)[0])
        self._take_file(name, image.size(), _png(image))

    def _take_file(self, name: str, size: QSize, content: bytes) -> None:
        question = {
            "kind": "fit_image",
            "model": self.model,
            "file": base64.b64encode(content).decode(),
        }
        run_id = self.model
        self.ask(question, lambda answer, data: self._fitted(run_id, name, size, answer, data))

    def _fitted(
        self, run_id: str, name: str, size: QSize, answer: Mapping[str, Any], data: bytes
    ) -> None:
        if answer.get("error"):
            self.failed.emit(str(answer["error"]))
        elif run_id == self.model:
            pixels = np.frombuffer(data, np.uint8).reshape(answer["pixels"])[0]
            facts = {"name": name, "wide": size.width(), "high": size.height()}
            if not size.isValid():
                source = mark("{name}, its centre")
            elif pixels.shape[2] == 1:
                source = mark("{name}: {wide} × {high} px, its centre in grey")
            else:
                source = mark("{name}: {wide} × {high} px, its centre in colour")
            self.set_picture(pixels, source, facts)

    def take_test_image(self, place: int) -> None:
        """Take the image at `place` of the test split of the model's own data."""
        run_id = self.model
        if run_id:
            question = {"kind": "predict", "model": run_id, "image": place}
            self.ask(question, lambda answer, data: self._taken(run_id, place, answer, data))

    def _taken(self, run_id: str, place: int, answer: Mapping[str, Any], data: bytes) -> None:
        if answer.get("error"):
            self.failed.emit(str(answer["error"]))
        elif run_id == self.model:
            self._count = int(answer.get("count") or 0)
            self.number.setText(str(place))
            pixels = np.frombuffer(data, np.uint8).reshape(answer["pixels"])[0]
            facts = {"place": place, "label": class_of(answer.get("label"), self.classes)}
            self.set_picture(pixels, mark("test image {place}, labelled {label}"), facts)

    def take_another(self) -> None:
        """Any image of the test split; at first the one at the start."""
        self.take_test_image(random.randrange(self._count) if self._count else 0)

    def _number_entered(self) -> None:
        if self.number.text().strip().isdigit():
            self.take_test_image(int(self.number.text()))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        data = event.mimeData()
        files = [url.toLocalFile() for url in data.urls()]
        if self.shape is not None and (data.hasImage() or any(_is_image(path) for path in files)):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        data = event.mimeData()
        for url in data.urls():
            if _is_image(url.toLocalFile()):
                event.acceptProposedAction()
                self.open_file(Path(url.toLocalFile()))
                return
        if data.hasImage():
            event.acceptProposedAction()
            image = QImage(data.imageData())
            self._take_file(tr("dropped image"), image.size(), _png(image))

    def show_image(self) -> None:
        draws = self.shape is not None and self.shape[0] == 1
        self._tools.setVisible(draws)
        self.pad.hint = tr(NO_MODEL if not self.model else EMPTY if draws else NO_PEN)
        for part in (self.opens, self.number, self.another):
            part.setEnabled(self.shape is not None)
        source, facts = self._source
        shape = self.shape
        size = f"{shape[2]} × {shape[1]} px" if shape else " "
        self.about.setText(f"{tr(source, **facts)} · {size}" if source else size)
        self.pad.update()

    def retranslate(self) -> None:
        super().retranslate()
        if not hasattr(self, "about"):
            return
        for button, words in self._buttons:
            button.setToolTip(tr(words))
            button.setAccessibleName(tr(words))
        self.opens.setText(tr("Open…"))
        self.opens.setAccessibleName(tr("Open an image"))
        self.opens.setToolTip(tr("Open an image; or drop one here"))
        self._test.setText(tr("Test image"))
        self.number.setAccessibleName(tr("Number of the test image"))
        self.number.setPlaceholderText("0")
        self.another.setToolTip(tr("Another test image"))
        self.another.setAccessibleName(tr("Another test image"))
        self.width_of_pen.setToolTip(tr("Width of the pen"))
        self.width_of_pen.setAccessibleName(tr("Width of the pen"))
        self.pad.setAccessibleName(tr("Your image: draw with the arrow keys and Space"))
        self.show_image()


def _png(image: QImage) -> bytes:
    """A picture as a file."""
    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    image.save(buffer, "PNG")  # type: ignore[call-overload]
    return bytes(buffer.data().data())


def class_of(index: Any, classes: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    known = isinstance(index, int) and 0 <= index < len(classes)
    return classes[index] if known else str(index)


def _is_image(path: str) -> bool:
    return f"*{Path(path).suffix.lower()}" in FILES.split() if path else False
