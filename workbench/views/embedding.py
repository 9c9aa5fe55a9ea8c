"""Where a model puts clean images and their adversarial examples: a plane with arrows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QRectF, QSize, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QWidget

from workbench.i18n import mark, tr
from workbench.views.filters import Rules, sample_of
from workbench.views.mosaic import NONE_KEPT
from workbench.views.picture import PictureCard
from workbench.views.plane import Embedding, Plane
from workbench.views.widgets import Segmented

SPACES = ("features", "pixels")
METHODS = ("pca", "tsne")
START = mark("Shows where the model puts each image, and where the attack moves it. Press Compute.")
LATER = mark("Can be drawn when the attack is over: its examples are kept then.")
NOTHING = mark("Run an attack to see how it moves images through the features of the model.")
COMPUTING = mark("Being computed…")
STOPPED = mark("Stopped. Press Compute to begin again.")
COLUMNS = (
    "sample",
    "label",
    "before",
    "after",
    "outcome",
    "marks",
    "norm",
    "clean_x",
    "clean_y",
    "adversarial_x",
    "adversarial_y",
)
"""Of the values that are exported."""


def read_answer(answer: Mapping[str, Any], payload: bytes, rules: Rules) -> Embedding:
    """What the engine answered to the question `embed`."""
    count, known = int(answer["count"]), int(answer["known"])
    places = np.frombuffer(payload, "<f4", 4 * count).reshape(2, count, 2)
    at = places.nbytes
    said = None
    if known:
        said = np.frombuffer(payload, "<f2", 2 * count * known, at).reshape(2, count, known)
        at += said.nbytes
    pixels = np.frombuffer(payload, np.uint8, offset=at).reshape(answer["pixels"])
    fooled = answer["surrogate"] or [False] * count
    captions = tuple(
        (
            {"label": label, "prediction": before, "correct": label == before},
            {
                "label": label,
                "prediction": after,
                "correct": label == after,
                "norm": norm,
                "success": success,
                "surrogate": surrogate,
            },
        )
        for label, before, after, norm, success, surrogate in zip(
            *(answer[name] for name in ("labels", "before", "after", "norms", "success")), fooled
        )
    )
    classes = tuple(answer["classes"])
    return Embedding(
        method=str(answer["method"]),
        places=places,
        samples=tuple(sample_of(*both, len(classes), rules) for both in captions),
        shares=(float(answer["shares"][0]), float(answer["shares"][1])),
        pixels=pixels,
        probabilities=said,
        classes=classes,
        of=int(answer["of"]),
        width=int(answer["width"]),
        layer=str(answer["layer"]),
        captions=captions,
    )


class EmbeddingCard(PictureCard):
    """The plane, what it shows, and a button that has it computed or stops that."""

    wanted = Signal(str, str)
    """Space and method that a person wants to see."""
    stopped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Embedding"), parent)
        self.plane = Plane()
        self.spaces, self.methods = Segmented(), Segmented()
        self.button = QPushButton()
        self.button.clicked.connect(self._pressed)
        self.computing = False
        self._can = False
        self._explain = NOTHING
        row = QHBoxLayout()
        row.setSpacing(8)
        for item in (self.spaces, self.methods, self.button):
            row.addWidget(item)
        row.addStretch(1)
        self.body.addLayout(row)
        self.body.addWidget(self.plane, 1)
        self._fit = self.menu.addAction("")
        self._fit.triggered.connect(self.plane.fit)
        self.menu.addSeparator()
        self.fill_menu()

    # --- what is shown

    def allow(self, can: bool) -> None:
        """Whether there are examples that could be drawn."""
        self._can = can
        self._show_state()

    def begin(self) -> None:
        """It is being computed now."""
        self.computing = True
        self._show_state()

    def show_embedding(self, found: Embedding | None, trouble: str = "") -> None:
        """What was computed; None takes it away, for `trouble` (already translated) if there is."""
        self.computing = False
        self.plane.show_embedding(found)
        self.warn(trouble)
        if found is not None:
            self.show_menu_button()
        else:
            self.more.hide()
        self._remark()
        self._show_state()

    def keep(self, kept: Sequence[int] | None) -> None:
        """Show these samples alone; None shows all."""
        self.plane.keep(kept)
        self._remark()
        self._show_state()

    def _remark(self) -> None:
        found = self.plane.found
        if found is None:
            self.set_note("")
            return
        shown, count = len(self.plane.order), len(found.samples)
        words = tr("{passing} of {total} samples", passing=shown, total=count)
        if count < found.of:
            words = tr("{passing} of the first {total} samples", passing=shown, total=count)
        if found.layer:
            words += " · " + tr("{width} inputs of {layer}", width=found.width, layer=found.layer)
        else:
            words += " · " + tr("{width} pixel values", width=found.width)
        self.set_note(words)

    def _show_emptiness(self) -> None:
        if hasattr(self, "plane"):
            self._show_state()

    def _show_state(self) -> None:
        found = self.plane.found
        none_kept = found is not None and not self.plane.order
        self._give_way(found is None or none_kept, self.plane)
        if none_kept:
            self.set_empty(tr(NONE_KEPT))
        elif found is None and self.computing:
            self.set_empty(tr(COMPUTING))
        self.button.setText(tr("Stop") if self.computing else tr("Compute"))
        self.button.setEnabled(self._can)
        self.spaces.setEnabled(self._can and not self.computing)
        self.methods.setEnabled(self._can and not self.computing)

    def retranslate(self) -> None:
        super().retranslate()
        if not hasattr(self, "button"):
            return
        self.spaces.set_options([tr("Features"), tr("Pixels")])
        self.spaces.setAccessibleName(tr("What is projected"))
        self.spaces.setToolTip(
            tr("The inputs of the model's last layer, or the values of the pixels.")
        )
        self.methods.set_options(["PCA", "t-SNE"])
        self.methods.setAccessibleName(tr("How it is projected"))
        self.methods.setToolTip(
            tr("PCA takes any number of samples, t-SNE up to 2,000 points: two a sample.")
        )
        self._fit.setText(tr("Fit"))
        self.plane.setAccessibleName(tr("Plane of {card}", card=self.title.text()))
        self.plane.forget()
        self._remark()
        self._show_state()

    def _pressed(self) -> None:
        if self.computing:
            self.computing = False
            self._explain = STOPPED
            self._show_state()
            self.stopped.emit()
        else:
            self.wanted.emit(SPACES[self.spaces.current], METHODS[self.methods.current])

    # --- exports

    def picture_size(self) -> QSize:
        return self.plane.size().expandedTo(QSize(480, 320))

    def paint_picture(self, painter: QPainter, size: QSize) -> None:
        self.plane.paint_into(painter, QRectF(0, 0, size.width(), size.height()))

    def rows(self) -> Iterable[Sequence[Any]]:
        yield COLUMNS
        found = self.plane.found
        for k in self.plane.order if found is not None else ():
            sample = found.samples[k]
            ends = (repr(float(value)) for value in found.places[:, k].ravel())
            known = (sample.label, sample.before, sample.after, sample.outcome)
            yield k + 1, *known, " ".join(sorted(sample.marks)), sample.norm, *ends
