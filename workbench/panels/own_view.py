"""Test your own: an image of a person's, a model, and a radius to drag.

One question is open at a time and the newest that waits is asked next, so that a person who drags
sees an answer as often as the engine can give one; only one that takes long is overtaken.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PySide6.QtCore import QElapsedTimer, Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from engine.attacks.spec import FixedBudget
from engine.task import kinds
from workbench import i18n, theme
from workbench.forms.editors import Combo
from workbench.forms.reading import shape_of
from workbench.i18n import mark, name_of, tr
from workbench.panels.live import Ask, nobody_answers
from workbench.panels.own_image import NO_MODEL, OwnImage, class_of
from workbench.refusals import error_text
from workbench.views.card import Card
from workbench.views.magnifier import Probabilities
from workbench.views.mosaic import Link, Mosaic
from workbench.views.pad import drawable
from workbench.views.pictures import Pixels
from workbench.views.radius import Radius
from workbench.views.text import number, percent
from workbench.views.widgets import Elided

OVERTAKE_MS = 400
"""A question that has been open for longer gives way to a newer one."""
SETTLE_MS = 250
"""How long everything but the radius must be left alone before the smallest one is looked for."""
STEPS, CANDIDATES = 10, 300
"""Of a gradient attack, and of a search at random, unless a person says more."""
PROMISE = mark("With an image: drag the slider, and see what the model says of it.")


class OwnView(QWidget):
    """The image, what an attack makes of it, and what the model says of both."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.ask: Ask = nobody_answers
        self._family: type[Any] = FixedBudget
        # What names another run, as AdvGAN its generator, has no field here.
        self._known = {
            kind: spec
            for kind, spec in kinds(self._family).items()
            if not any(field.is_required() for field in spec.model_fields.values())
        }
        self._runs: tuple[tuple[str, str], ...] = ()
        self._meeting = ""
        self._shape: tuple[int, int, int] | None = None
        self._classes: tuple[str, ...] = ()
        self._brought: tuple[Pixels, str] | None = None
        """An image that waits for a model to be met."""
        self._answer: dict[str, Any] = {}
        self._failure = ""
        self._wanted: dict[str, Any] | None = None
        self._open = False
        self._clock = QElapsedTimer()
        self._smallest: float | None = None
        self._searched = False
        self._subject = 0
        self._overtake = QTimer(self, singleShot=True, interval=OVERTAKE_MS)
        self._overtake.timeout.connect(self._pump)
        self._settle = QTimer(self, singleShot=True, interval=SETTLE_MS)
        self._settle.timeout.connect(self._look_for_smallest)
        self.setAcceptDrops(True)
        self._make_settings()
        self._make_pictures()
        self._make_lower()
        self._arrange()
        theme.manager.changed.connect(self._space)
        i18n.signals.changed.connect(self.retranslate)
        self._space()
        self.retranslate()
        self._attack_chosen()
        self.image.show_image()

    # --- parts

    def _make_settings(self) -> None:
        self.settings = Card(mark("Test your own"))
        self.model = QComboBox()
        self.model.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.model.setMinimumContentsLength(8)
        self.model.activated.connect(self._model_chosen)
        self.attack = Combo(tuple(self._known), self._attack_chosen)
        self.attack.set_value("pgd")
        self.norm = QComboBox()
        self.norm.activated.connect(self._norm_chosen)
        self.steps = QSpinBox()
        self.steps.setRange(1, 100_000)
        self.steps.setKeyboardTracking(False)
        self.steps.valueChanged.connect(self._subject_changed)
        self.label = QComboBox()
        self.target = QComboBox()
        for combo in (self.label, self.target):
            combo.activated.connect(self._subject_changed)
        self._fields: tuple[tuple[str, QWidget], ...] = (
            (mark("Model"), self.model),
            (mark("Attack"), self.attack),
            (mark("Norm"), self.norm),
            (mark("Steps"), self.steps),
            (mark("True class"), self.label),
            (mark("Target class"), self.target),
        )
        self._captions = [Elided() for _ in self._fields]
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(2)
        for column, (caption, (_, field)) in enumerate(zip(self._captions, self._fields)):
            caption.setProperty("tone", "small")
            grid.addWidget(caption, 0, column)
            grid.addWidget(field, 1, column)
            grid.setColumnStretch(column, 3 if column == 0 else 2)
        self.settings.body.addLayout(grid)
        self.settings.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def _make_pictures(self) -> None:
        self.image = OwnImage()
        self.image.changed.connect(self._subject_changed)
        self.image.failed.connect(self._fail)
        self.image.ask = lambda question, answer: self.ask(question, answer)
        link = Link(self)
        link.selected = -1  # of one picture none is chosen
        self.adversarial = Mosaic(
            mark("Adversarial"), link=link, empty=mark("What the attack makes of your image.")
        )
        self.perturbation = Mosaic(
            mark("Perturbation"),
            link=link,
            badges=False,
            empty=mark("The difference between the two."),
        )

    def _make_lower(self) -> None:
        self.strength = Card(mark("Epsilon"))
        self.radius = Radius()
        self.radius.changed.connect(self._refresh)
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setTextFormat(Qt.TextFormat.PlainText)
        self.details = QLabel()
        self.details.setWordWrap(True)
        self.details.setProperty("tone", "small")
        self.found = QLabel()
        self.found.setWordWrap(True)
        self.found.setProperty("tone", "small")
        body = self.strength.body
        body.addWidget(self.radius)
        body.addSpacing(4)
        body.addWidget(self.verdict)
        body.addWidget(self.details)
        body.addWidget(self.found)
        body.addStretch(1)
        self.probabilities = Card(mark("What the model says"))
        self.bars = Probabilities()
        self.probabilities.body.addWidget(self.bars, 1)
        self.probabilities.explain(mark("Class probabilities of your image, live."))

    def _arrange(self) -> None:
        for mosaic in (self.adversarial, self.perturbation):
            mosaic.view.high = 120
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        page = QWidget()
        page.setMinimumWidth(1)
        area.setWidget(page)
        column.addWidget(area)
        self._grid = QGridLayout(page)
        self._grid.setContentsMargins(12, 12, 12, 12)
        self._grid.setSpacing(10)
        self._grid.addWidget(self.settings, 0, 0, 1, 3)
        for column, card in enumerate((self.image, self.adversarial, self.perturbation)):
            self._grid.addWidget(card, 1, column)
            self._grid.setColumnStretch(column, 1)
            card.setMinimumWidth(1)
        self._grid.addWidget(self.strength, 2, 0, 1, 2)
        self._grid.addWidget(self.probabilities, 2, 2)
        self._grid.setRowStretch(1, 7)
        self._grid.setRowStretch(2, 3)

    def _space(self) -> None:
        self.steps.setMinimumWidth(theme.px(56))
        self.probabilities.setMinimumHeight(theme.px(192))
        self.image.setMinimumHeight(theme.px(270))

    # --- what the window says

    def set_runs(self, runs: Sequence[tuple[str, str]]) -> None:
        """(id, name) of the runs that have a model, the newest first. The chosen one stays."""
        if tuple(runs) == self._runs and self.model.count():
            return
        chosen = self.chosen
        self._runs = tuple(runs)
        self.model.clear()
        for run_id, name in self._runs:
            self.model.addItem(name, run_id)
        if not self._runs:
            self.model.addItem(tr("no model"), "")
        self.model.setEnabled(bool(self._runs))
        known = [run_id for run_id, _ in self._runs]
        self.choose(chosen if chosen in known else (known[0] if known else ""))

    @property
    def chosen(self) -> str:
        """Id of the run whose model is asked; nothing if there is none."""
        return str(self.model.currentData() or "")

    def choose(self, run_id: str) -> None:
        """Ask the model of this run from now on."""
        place = self.model.findData(run_id)
        if place >= 0:
            self.model.setCurrentIndex(place)
        self._model_chosen()

    def bring(self, pixels: Pixels, name: str) -> None:
        """Take an image, (H, W, C) uint8: a sample of `name`."""
        self._brought = pixels, name
        if self._shape is not None and self._meeting == self.chosen:
            self._take_brought()

    def _take_brought(self) -> None:
        if self._brought is not None:
            brought, self._brought = self._brought, None
            self.image.bring(*brought)

    def engine_changed(self) -> None:
        """There is an engine now, or another one: what was open will not be answered."""
        self._open = False
        self._meeting = ""
        if self.isVisible():
            self._model_chosen()

    def showEvent(self, event: object) -> None:
        self._model_chosen()

    # --- the model

    def _model_chosen(self, *_: object) -> None:
        run_id = self.chosen
        if not run_id:
            self._shape, self._classes, self._meeting = None, (), ""
            self.image.set_model("", None, ())
            self._subject_changed()
        elif run_id != self._meeting and self.isVisible():
            self._meeting = run_id
            self.image.set_model(run_id, self._shape, self._classes)
            self.ask(
                {"kind": "meet_model", "model": run_id},
                lambda answer, _, run_id=run_id: self._met(run_id, answer),
            )

    def _met(self, run_id: str, answer: Mapping[str, Any]) -> None:
        if run_id != self.chosen:
            return
        if answer.get("error"):
            self._meeting = ""
            self._shape = None
            self.image.set_model(run_id, None, ())
            self._fail(str(answer["error"]))
            return
        shape = tuple(int(side) for side in answer["shape"])
        same = shape == self._shape
        self._shape = (shape[0], shape[1], shape[2])
        names = tuple(map(str, answer["classes"]))
        if names != self._classes:
            self._classes = names
            self._fill_classes()
        self.image.set_model(run_id, self._shape, names)
        if not same:
            self._most()
            self.image.begin()
        self._take_brought()
        self._subject_changed()

    def _fill_classes(self) -> None:
        for combo, first in (
            (self.label, tr("as the model says")),
            (self.target, tr("any other")),
        ):
            kept = combo.currentIndex()
            combo.clear()
            combo.addItems([first, *self._classes])
            combo.setCurrentIndex(kept if 0 <= kept < combo.count() else 0)
        for mosaic in (self.adversarial, self.perturbation):
            mosaic.set_classes(self._classes)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        self.image.dragEnterEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:
        self.image.dropEvent(event)

    # --- the attack

    def _attack_chosen(self, *_: object) -> None:
        spec = self._known[str(self.attack.value())]
        kept = self.norm.currentData()
        self.norm.clear()
        for norm in shape_of(spec.model_fields["norm"]).choices or ("linf",):
            self.norm.addItem(name_of(norm), norm)
        self.norm.setCurrentIndex(max(self.norm.findData(kept), 0))
        field = spec.model_fields.get("steps")
        self.steps.setEnabled(field is not None)
        blocked = self.steps.blockSignals(True)
        if field is not None:
            usual = int(field.default)
            self.steps.setValue(min(usual, STEPS) if usual <= 100 else CANDIDATES)
        self.steps.blockSignals(blocked)
        self._norm_chosen()

    def _norm_chosen(self, *_: object) -> None:
        self._most()
        self._subject_changed()

    def _most(self) -> None:
        """As far as the slider goes, in the norm's own measure."""
        count = math.prod(self._shape) if self._shape else 784
        self.radius.set_most(reach(str(self.norm.currentData()), count))

    def _attack_values(self) -> dict[str, Any]:
        values = {"kind": self.attack.value(), "norm": self.norm.currentData()}
        if self.steps.isEnabled():
            values["steps"] = self.steps.value()
        return values

    # --- questions

    def _subject_changed(self, *_: object) -> None:
        """Something other than the radius is different: what was found is no more."""
        self._subject += 1
        self._failure = ""
        self._smallest, self._searched = None, False
        self.radius.set_mark(None)
        self._settle.start()
        self._refresh()

    def _refresh(self, *_: object) -> None:
        """Ask for what is set now."""
        if self._shape is None or not self.image.has_image or not self.chosen:
            self._wanted = None
            self._show_nothing()
            return
        self._wanted = {**self._question("try_attack"), "eps": self.radius.eps}
        self._pump()

    def _question(self, kind: str) -> dict[str, Any]:
        pixels = self.image.pad.pixels
        assert pixels is not None
        image = {
            "shape": list(pixels.shape),
            "pixels": base64.b64encode(pixels.tobytes()).decode(),
        }
        found = {"kind": kind, "model": self.chosen, "image": image}
        found["attack"] = self._attack_values()
        for name, combo in (("label", self.label), ("target", self.target)):
            if combo.currentIndex() > 0:
                found[name] = combo.currentIndex() - 1
        return found

    def _pump(self) -> None:
        """Ask what waits, unless an answer can be expected soon."""
        if self._wanted is None:
            return
        if self._open and self._clock.elapsed() < OVERTAKE_MS:
            if not self._overtake.isActive():
                self._overtake.start(max(1, OVERTAKE_MS - self._clock.elapsed()))
            return
        question, self._wanted = self._wanted, None
        self._open = True
        self._clock.start()
        subject, eps = self._subject, float(question["eps"])
        self.ask(question, lambda answer, data: self._answered(subject, eps, answer, data))

    def _answered(self, subject: int, eps: float, answer: dict[str, Any], data: bytes) -> None:
        self._open = False
        self._overtake.stop()
        if subject == self._subject and not self.image.has_image:
            return
        if answer.get("error"):
            if subject == self._subject:
                self._fail(str(answer["error"]))
        elif tuple(answer["classes"]) == self._classes:
            self._failure = ""
            self._answer = {**answer, "eps": eps}
            if subject == self._subject and answer["success"]:
                self._found_at(eps if answer["attacked"] else 0.0)
            self._show_answer(data)
        self._pump()

    def _look_for_smallest(self) -> None:
        if self._shape is None or not self.image.has_image or not self.chosen:
            return
        subject = self._subject
        question = {**self._question("smallest_eps"), "most": self.radius.most}

        def told(answer: dict[str, Any], _: bytes) -> None:
            if subject != self._subject or answer.get("error"):
                return
            self._searched = True
            if answer["eps"] is not None:
                self._found_at(float(answer["eps"]))
            self._show_found()

        self.ask(question, told)

    def _found_at(self, eps: float) -> None:
        if self._smallest is None or eps < self._smallest:
            self._smallest = eps
            self.radius.set_mark(eps)
            self._show_found()

    # --- what is shown

    def _fail(self, text: str) -> None:
        self._failure = text
        self._show_words()

    def _show_nothing(self) -> None:
        self._answer = {}
        for mosaic in (self.adversarial, self.perturbation):
            mosaic.clear()
        self.probabilities._give_way(True, self.bars)
        self.image.set_note("")
        self._show_words()

    def _show_answer(self, data: bytes) -> None:
        answer = self._answer
        pixels = np.frombuffer(data, np.uint8).reshape(answer["pixels"])
        after, before = answer["adversarial"], answer["clean"]
        label = int(answer["label"])
        caption = {"label": label, **after, "correct": after["prediction"] == label}
        self.adversarial.set_images(drawable(pixels[:1]), (caption,))
        self._show_notes()
        self.perturbation.set_images(drawable(pixels[1:]), (), float(answer["scale"]))
        self.probabilities._give_way(False, self.bars)
        self.bars.show_probabilities(
            after["probabilities"],
            before["probabilities"] if answer["eps"] else (),
            self._classes,
            label,
            after["prediction"],
        )
        self._show_words()

    def _show_notes(self) -> None:
        if self._answer:
            self.adversarial.set_note(self._said(self._answer["adversarial"]))
            self.image.set_note(self._said(self._answer["clean"]))

    def _said(self, answer: Mapping[str, Any]) -> str:
        """As in "7 · 95 %"."""
        prediction = int(answer["prediction"])
        sure = percent(float(answer["probabilities"][prediction]), 0)
        return f"{self._class(prediction)} · {sure}"

    def _show_words(self) -> None:
        answer, words, tone, details = self._answer, "", "", ""
        if self._failure:
            words, tone = error_text(self._failure), "bad"
        elif answer:
            words, tone, details = self._verdict(answer)
        else:
            words = tr(PROMISE) if self.chosen else tr(NO_MODEL)
        self.verdict.setText(words)
        if self.verdict.property("tone") != tone:
            self.verdict.setProperty("tone", tone)
            self.verdict.style().unpolish(self.verdict)
            self.verdict.style().polish(self.verdict)
        self.details.setText(details)
        self._show_found()

    def _verdict(self, answer: Mapping[str, Any]) -> tuple[str, str, str]:
        label, said = self._class(answer["label"]), self._class(answer["clean"]["prediction"])
        after = answer["adversarial"]
        now = self._class(after["prediction"])
        sure = percent(float(after["probabilities"][after["prediction"]]), 0)
        eps = number(float(answer["eps"]))
        facts = {
            "norm": name_of(str(self.norm.currentData())),
            "size": number(float(answer["norm"])),
        }
        if self.label.currentIndex() <= 0:
            about = mark("Size used: {norm} {size}. Attacked is what the model says of your image.")
        else:
            about = mark("Size used: {norm} {size}. Attacked is the class that you have given.")
        details = tr(about, **facts)
        if not answer["attacked"] and answer["success"]:
            text = tr(
                "The model takes your image for {said}, not {label}: wrong without an attack.",
                said=said,
                label=label,
            )
            return text, "bad", ""
        if not answer["eps"]:
            text = tr("The model takes your image for {said} ({sure}).", said=said, sure=sure)
            return text, "good", tr("Move the slider to attack it.")
        if answer["success"]:
            text = tr(
                "At epsilon {eps} the model takes it for {now} ({sure}) instead of {label}.",
                eps=eps,
                now=now,
                sure=sure,
                label=label,
            )
            return text, "bad", details
        if now != label:
            text = tr(
                "At epsilon {eps} the model takes it for {now}, but not for the target.",
                eps=eps,
                now=now,
            )
            return text, "good", details
        text = tr(
            "At epsilon {eps} the model still takes it for {label} ({sure}).",
            eps=eps,
            label=label,
            sure=sure,
        )
        return text, "good", details

    def _show_found(self) -> None:
        text = ""
        if self._answer and not self._failure:
            if self._smallest is not None and self._smallest > 0:
                text = tr(
                    "Smallest epsilon found so far that changes the answer: {eps}.",
                    eps=number(self._smallest),
                )
            elif self._searched and self._smallest is None:
                most = number(self.radius.most)
                text = tr("No epsilon up to {most} was found that does.", most=most)
        self.found.setText(text)

    def _class(self, index: Any) -> str:
        return class_of(index, self._classes)

    def retranslate(self) -> None:
        for caption, (words, field) in zip(self._captions, self._fields):
            caption.setText(tr(words))
            field.setAccessibleName(tr(words))
        self.attack.retranslate()
        for place in range(self.norm.count()):
            self.norm.setItemText(place, name_of(str(self.norm.itemData(place))))
        self._fill_classes()
        self.radius.retranslate()
        self._show_notes()
        self._show_words()


def reach(norm: str, count: int) -> float:
    """The largest radius that is worth dragging to, of images of `count` values: half of the range
    in linf; in l2 and l1 what is easy to see; the whole strength where nothing bounds it."""
    sizes = {"linf": 0.5, "l2": 0.18 * math.sqrt(count), "l1": 0.05 * count}
    return float(f"{sizes.get(norm, 1.0):.2g}")
