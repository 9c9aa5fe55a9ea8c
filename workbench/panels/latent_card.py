"""A card on which a person drags between four latents of a generator that is trained.

One question is open at a time and the newest that waits is asked next, as in "Test your own".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QWidget

from workbench.i18n import mark, tr
from workbench.panels.live import Ask, nobody_answers
from workbench.refusals import error_text
from workbench.views.card import Card
from workbench.views.latent_square import SIDE, LatentSquare, mixed

LATER = mark("When the run is over: drag between four latents, and see what is made of them.")
ASKING = mark("The generator is being asked…")
OVERTAKE_MS = 1500
"""A question that has been open for longer gives way to a newer one."""


class LatentCard(Card):
    """`begin` with a run that is over; the corners are drawn anew by a button."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(mark("Between four latents"), parent)
        self.ask: Ask = nobody_answers
        self.square = LatentSquare()
        self.square.moved.connect(lambda *_: self._want())
        self.classes = QComboBox()
        self.classes.activated.connect(lambda _: self._begin_plane())
        self._class = QLabel()
        self._class.setProperty("tone", "small")
        self.again = QPushButton()
        self.again.setProperty("look", "chip")
        self.again.clicked.connect(self.draw_corners)
        row = QHBoxLayout()
        row.setSpacing(6)
        row.addStretch(1)
        for part in (self._class, self.classes, self.again):
            row.addWidget(part)
        self.body.addWidget(self.square, 1)
        self.foot.addLayout(row)
        self.run = ""
        self._size = self._codes = 0
        self._scale = self._deviation = 1.0
        self._uniform = False
        self._corners = np.zeros((4, 0))
        self._draws = 0
        self._open = self._wanted = False
        self._plane_open = False
        self._failure = ""
        self._overtake = QTimer(self, singleShot=True, interval=OVERTAKE_MS)
        self._overtake.timeout.connect(self._give_up)
        self.retranslate()
        self.clear()

    # --- what is asked about

    def clear(self) -> None:
        """There is no generator to ask."""
        self.run, self._failure = "", ""
        self._open = self._wanted = self._plane_open = False
        self._overtake.stop()
        self.square.set_plane(None)
        self._show_emptiness()

    def begin(self, run_id: str, latent: Mapping[str, Any], classes: Sequence[str] = ()) -> None:
        """Ask the generator of this run. `latent`: its `size`, `distribution`, `codes` and
        `code_scale`, as its spec has them, and its `deviation` where that is not 1; `classes`: what
        it can be told, none where it is told nothing."""
        self.clear()
        self.run = run_id
        self._size, self._codes = int(latent.get("size", 2)), int(latent.get("codes", 0))
        self._scale = float(latent.get("code_scale", 1.0))
        self._deviation = float(latent.get("deviation", 1.0))
        self._uniform = latent.get("distribution") == "uniform"
        self.classes.clear()
        self.classes.addItems(list(map(str, classes)))
        for part in (self.classes, self._class):
            part.setVisible(bool(classes))
        self._draws = 0
        self.draw_corners()

    def draw_corners(self) -> None:
        """Four other latents. The same ones each time that a run is opened."""
        random = np.random.default_rng((7, self._draws))
        self._draws += 1
        shape = 4, self._size
        normal = random.uniform(-1, 1, shape) if self._uniform else random.standard_normal(shape)
        normal *= self._deviation
        codes = np.zeros((4, self._codes))
        if self._codes:
            codes[np.arange(4), random.integers(0, self._codes, 4)] = self._scale
        self._corners = np.concatenate([normal, codes], 1)
        self._begin_plane()

    def latents(self, across: Sequence[float], down: Sequence[float]) -> list[list[float]]:
        """The latents at places of the square."""
        at = mixed(self._corners, np.asarray(across, float), np.asarray(down, float), self._size)
        return [[round(value, 6) for value in row] for row in at.tolist()]

    # --- asking

    def _question(self, latents: list[list[float]]) -> dict[str, Any]:
        question: dict[str, Any] = {"kind": "generate", "model": self.run, "latents": latents}
        if self.classes.count():
            question["labels"] = [self.classes.currentIndex()] * len(latents)
        return question

    def _begin_plane(self) -> None:
        if not self.run:
            return
        steps = np.linspace(0, 1, SIDE)
        down, across = (each.ravel().tolist() for each in np.meshgrid(steps, steps, indexing="ij"))
        middle = self.square.at
        latents = self.latents([*across, middle.x()], [*down, middle.y()])
        run, self._plane_open, self._open, self._wanted = self.run, True, False, False
        self._show_emptiness()
        self.ask(self._question(latents), lambda answer, data: self._told(run, answer, data))

    def _want(self) -> None:
        self._wanted = True
        self._pump()

    def _give_up(self) -> None:
        self._open = False
        self._pump()

    def _pump(self) -> None:
        if not self._wanted or self._open or self._plane_open or not self.run:
            return
        at = self.square.at
        run, self._open, self._wanted = self.run, True, False
        self._overtake.start()
        question = self._question(self.latents([at.x()], [at.y()]))
        self.ask(question, lambda answer, data: self._told(run, answer, data))

    def _told(self, run: str, answer: Mapping[str, Any], data: bytes) -> None:
        if run != self.run:
            return
        self._overtake.stop()
        self._open = self._plane_open = False
        if answer.get("error"):
            self._failure = error_text(str(answer["error"]))
            self.square.set_plane(None)
        else:
            self._failure = ""
            pixels = np.frombuffer(data, np.uint8).reshape(answer["pixels"])
            if len(pixels) > SIDE * SIDE:
                self.square.set_plane(pixels[: SIDE * SIDE])
            self.square.set_one(pixels[-1])
        self._show_emptiness()
        self._pump()

    # --- showing

    def _show_emptiness(self) -> None:
        empty = self.square.is_empty
        self._explain = ASKING if self.run and not self._failure else LATER
        self._give_way(empty, self.square)
        if empty and self._failure:
            self.set_empty(self._failure)
        self.again.setVisible(bool(self.run))
        for part in (self.classes, self._class):
            part.setVisible(bool(self.run) and self.classes.count() > 0)

    def retranslate(self) -> None:
        super().retranslate()
        if not hasattr(self, "_failure"):
            return
        self.again.setText(tr("Other corners"))
        self.again.setToolTip(tr("Draw four other latents"))
        self._class.setText(tr("Class"))
        self.classes.setAccessibleName(tr("Class"))
        name = tr("Square between four latents: drag, or use the arrow keys")
        self.square.setAccessibleName(name)
        self._show_emptiness()
