"""Test your own: the pad, the slider, the questions, and all of it in a real window."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QImage
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QSlider, QSpinBox

from tests.workbench.stored import attacked, trained
from tests.workbench.windows import Open, open_window
from workbench import i18n
from workbench.panels import own_view
from workbench.panels.own_view import OwnView, reach
from workbench.views.pad import Pad
from workbench.views.radius import Radius

__all__ = ["open_window"]

LONG = 60_000
CLASSES = ["zero", "one", "two"]


class Engine:
    """Stands in for the engine: keeps what is asked, and answers when it is told to."""

    def __init__(self, shape: tuple[int, int, int] = (1, 8, 8)) -> None:
        self.shape = shape
        self.open: list[tuple[dict[str, Any], Callable[[dict[str, Any], bytes], None]]] = []
        self.asked: list[dict[str, Any]] = []

    def __call__(self, question: Any, answer: Any) -> None:
        self.asked.append(dict(question))
        if question["kind"] == "meet_model":
            answer({"shape": list(self.shape), "classes": CLASSES, "data": "digits"}, b"")
            return
        # As the engine thread does: a newer one takes the place of an older one of its kind.
        self.open = [item for item in self.open if item[0]["kind"] != question["kind"]]
        self.open.append((dict(question), answer))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [question for question in self.asked if question["kind"] == kind]

    def answer(self, kind: str, **values: Any) -> dict[str, Any]:
        """Answer the question of this kind; what it was."""
        (item,) = [item for item in self.open if item[0]["kind"] == kind]
        self.open.remove(item)
        question, tell = item
        channels, height, width = self.shape
        if kind == "try_attack":
            flips = question["eps"] >= 0.1
            after = [0.2, 0.7, 0.1] if flips else [0.6, 0.3, 0.1]
            values = {
                "classes": CLASSES,
                "label": 0,
                "clean": {"prediction": 0, "probabilities": [0.9, 0.05, 0.05]},
                "adversarial": {"prediction": int(np.argmax(after)), "probabilities": after},
                "norm": question["eps"],
                "success": flips,
                "attacked": question["eps"] > 0,
                "scale": max(question["eps"], 1 / 255),
                "pixels": [2, height, width, channels],
                **values,
            }
        tell(values, np.full((2, height, width, channels), 128, np.uint8).tobytes())
        return question


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def view(qtbot: Any, engine: Engine) -> OwnView:
    view = OwnView()
    qtbot.addWidget(view)
    view.ask = engine
    view.resize(1100, 700)
    view.show()
    view.set_runs([("run-1", "plain"), ("run-2", "other")])
    return view


def draw(qtbot: Any, pad: Pad) -> None:
    """A line with the mouse, from the left top to the right bottom."""
    area = pad._area()
    points = [area.topLeft() + QPointF(k, k) * area.width() / 10 for k in range(2, 9)]
    qtbot.mousePress(pad, Qt.MouseButton.LeftButton, pos=points[0].toPoint())
    for point in points[1:]:
        qtbot.mouseMove(pad, point.toPoint())
    qtbot.mouseRelease(pad, Qt.MouseButton.LeftButton, pos=points[-1].toPoint())


# --- the pad


def test_a_pad_is_drawn_on_by_mouse(qtbot: Any) -> None:
    pad = Pad()
    qtbot.addWidget(pad)
    pad.resize(280, 280)
    pad.show()
    draw(qtbot, pad)
    assert pad.pixels is None, "there is nothing to draw on"
    pad.set_picture(np.zeros((28, 28, 1), np.uint8))
    with qtbot.waitSignal(pad.changed):
        draw(qtbot, pad)
    drawn = pad.pixels
    assert drawn is not None
    along = [int(drawn[k, k, 0]) for k in range(8, 22)]
    assert min(along) > 200, "the line is where the mouse was"
    assert int(drawn[4, 20, 0]) == int(drawn[20, 4, 0]) == 0
    width = (drawn[14, :, 0] > 100).sum()
    assert 2 <= width <= 4
    pad.erasing = True
    draw(qtbot, pad)
    assert int(pad.pixels.max()) < 100
    pad.undo()
    assert np.array_equal(pad.pixels, drawn)
    pad.undo()
    assert not pad.pixels.any()
    assert not pad.can_undo
    pad.set_picture(np.zeros((8, 8, 3), np.uint8))
    draw(qtbot, pad)
    assert not pad.pixels.any(), "a pen has no colour"


def test_a_pad_is_drawn_on_by_keys(qtbot: Any) -> None:
    pad = Pad()
    qtbot.addWidget(pad)
    pad.resize(200, 200)
    pad.show()
    pad.set_picture(np.zeros((8, 8, 1), np.uint8))
    pad.pen_width = 1.0
    for _ in range(9):
        qtbot.keyClick(pad, Qt.Key.Key_Left)
    assert pad.accessibleDescription() == "column 1, row 5"
    qtbot.keyClick(pad, Qt.Key.Key_Space)
    for _ in range(4):
        qtbot.keyClick(pad, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    lit = pad.pixels[..., 0] > 60
    assert lit[:, :4].any(axis=0).all()
    assert not lit[:, 6:].any()
    qtbot.keyClick(pad, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not (pad.pixels[..., 0] > 60)[:, 5].any()
    qtbot.keyClick(pad, Qt.Key.Key_Delete)
    assert not pad.pixels.any()
    assert pad.can_undo
    pad.invert()
    assert (pad.pixels == 255).all()


# --- the slider


def test_the_slider_is_finer_where_radii_are_small(qtbot: Any) -> None:
    radius = Radius()
    qtbot.addWidget(radius)
    radius.set_most(0.5)
    told: list[float] = []
    radius.changed.connect(told.append)
    radius.slider.setValue(500)
    assert told == [pytest.approx(0.125)]
    assert radius.field.text() == "0.125"
    qtbot.keyClick(radius.slider, Qt.Key.Key_Right)
    assert told[-1] == pytest.approx(0.5 * 0.505**2)
    radius.field.setText("0,031")
    radius.field.editingFinished.emit()
    assert told[-1] == radius.eps == pytest.approx(0.031)
    assert radius.slider.value() == round(1000 * (0.031 / 0.5) ** 0.5)
    for wrong in ("far", "-1", "nan"):
        radius.field.setText(wrong)
        radius.field.editingFinished.emit()
        assert radius.field.text() == "0.031"
    assert len(told) == 3
    assert radius.scale.ticks() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    places = [radius.scale.x_of(eps) for eps in (0, 0.1, 0.5)]
    assert places == sorted(places)
    assert reach("linf", 784) == 0.5
    assert reach("l2", 784) == 5.0
    assert reach("free", 784) == 1.0


# --- the questions


def test_draw_then_drag(qtbot: Any, view: OwnView, engine: Engine) -> None:
    assert engine.asked[0] == {"kind": "meet_model", "model": "run-1"}
    assert not engine.of("try_attack"), "nothing has been drawn"
    draw(qtbot, view.image.pad)
    question = engine.answer("try_attack")
    assert question["attack"] == {"kind": "pgd", "norm": "linf", "steps": 10}
    assert (question["eps"], "label" in question, "target" in question) == (0.0, False, False)
    image = question["image"]
    assert image["shape"] == [8, 8, 1]
    sent = np.frombuffer(base64.b64decode(image["pixels"]), np.uint8)
    assert sent.any()
    # While an answer is awaited, only the newest place of the slider is asked next.
    while engine.open and any(item[0]["kind"] == "try_attack" for item in engine.open):
        engine.answer("try_attack")
    before = len(engine.of("try_attack"))
    for place in range(100, 900, 100):
        view.radius.slider.setValue(place)
    assert len(engine.of("try_attack")) == before + 1
    assert engine.answer("try_attack")["eps"] == pytest.approx(0.005)
    assert engine.answer("try_attack")["eps"] == pytest.approx(0.32)
    assert len(engine.of("try_attack")) == before + 2
    assert (
        view.verdict.text()
        == "At epsilon 0.320 the model takes it for one (70\u202f%) instead of zero."
    )
    assert "Attacked is what the model says of your image" in view.details.text()
    assert view.bars.after == (0.2, 0.7, 0.1)
    assert view.bars.before == (0.9, 0.05, 0.05)
    assert view.adversarial.view.pixels.shape == (1, 8, 8, 1)
    assert view.perturbation.scale_bar.scale == pytest.approx(0.32)
    assert view.image.note.text() == "zero · 90\u202f%"
    assert view.radius.scale.mark == pytest.approx(0.32), "the smallest that was seen so far"
    qtbot.waitUntil(lambda: bool(engine.of("smallest_eps")), timeout=5000)
    assert engine.answer("smallest_eps", eps=0.11)["most"] == 0.5
    assert view.radius.scale.mark == 0.11
    assert "0.110" in view.found.text()
    view.radius.slider.setValue(300)
    engine.answer("try_attack")
    assert view.verdict.text().startswith("At epsilon 0.045 the model still takes it for zero")
    assert view.radius.scale.mark == 0.11
    view.steps.setValue(20)
    assert view.radius.scale.mark is None, "another attack may find another one"
    assert engine.answer("try_attack")["attack"]["steps"] == 20


def test_an_answer_that_takes_long_is_overtaken(
    qtbot: Any, view: OwnView, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_view, "OVERTAKE_MS", 20)
    draw(qtbot, view.image.pad)
    view.radius.slider.setValue(400)
    count = len(engine.of("try_attack"))
    view.radius.slider.setValue(700)
    newest = pytest.approx(0.5 * 0.49)
    qtbot.waitUntil(lambda: engine.of("try_attack")[-1]["eps"] == newest, timeout=5000)
    assert len(engine.of("try_attack")) >= count
    assert engine.answer("try_attack")["eps"] == newest


def test_classes_attacks_and_models(qtbot: Any, view: OwnView, engine: Engine) -> None:
    draw(qtbot, view.image.pad)
    view.label.setCurrentIndex(2)
    view.target.setCurrentIndex(3)
    view.label.activated.emit(2)
    while engine.answer("try_attack").get("label") != 1:
        pass
    assert engine.of("try_attack")[-1]["target"] == 2
    view.radius.slider.setValue(500)
    engine.answer("try_attack", label=1, success=True, attacked=False)
    assert view.verdict.text() == (
        "The model takes your image for zero, not one: wrong without an attack."
    )
    view.attack.set_value("fgsm")
    view.attack.activated.emit(0)
    assert not view.steps.isEnabled()
    view.attack.set_value("square")
    view.attack.activated.emit(0)
    assert view.steps.value() == own_view.CANDIDATES
    view.norm.setCurrentIndex(view.norm.findData("l2"))
    view.norm.activated.emit(0)
    assert view.radius.most == reach("l2", 64)
    while engine.answer("try_attack")["attack"]["kind"] != "square":
        pass
    view.steps.setValue(400)
    engine.answer(
        "try_attack", error="the target is the class that the image has; choose another one"
    )
    assert view.verdict.text().startswith("the target is the class")
    drawn = view.image.pad.pixels
    view.choose("run-2")
    assert engine.asked[-2]["model"] == "run-2" or engine.asked[-1]["model"] == "run-2"
    assert np.array_equal(view.image.pad.pixels, drawn), (
        "a model for the same images keeps the image"
    )
    view.set_runs([])
    assert view.chosen == ""
    assert "train or import one first" in view.verdict.text()


def test_files_and_test_images(
    qtbot: Any, view: OwnView, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.PNG"
    image = QImage(30, 20, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.white)
    image.save(str(path), "PNG")
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(tmp_path / "notes.txt")), QUrl.fromLocalFile(str(path))])
    where, keys = QPoint(200, 200), Qt.KeyboardModifier.NoModifier
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    enter = QDragEnterEvent(where, copy, data, left, keys)
    view.dragEnterEvent(enter)
    assert enter.isAccepted()
    view.dropEvent(QDropEvent(QPointF(where), copy, data, left, keys))
    pixels = np.full((1, 8, 8, 1), 200, np.uint8)
    ((question, tell),) = [item for item in engine.open if item[0]["kind"] == "fit_image"]
    assert base64.b64decode(question["file"]) == path.read_bytes()
    tell({"pixels": [1, 8, 8, 1]}, pixels.tobytes())
    assert (view.image.pad.pixels == 200).all()
    assert view.image.about.text() == "photo.PNG: 30 × 20 px, its centre in grey · 8 × 8 px"
    assert engine.open[-1][0]["kind"] == "try_attack"
    view.image.open_file(tmp_path / "absent.png")
    assert "cannot be read" in view.verdict.text()
    (tmp_path / "empty.png").write_bytes(b"")
    view.image.open_file(tmp_path / "empty.png")
    assert view.verdict.text() == "empty.png is empty, or larger than 64 MB."
    view.image.number.setText("7")
    qtbot.keyClick(view.image.number, Qt.Key.Key_Return)
    ((question, tell),) = [item for item in engine.open if item[0]["kind"] == "predict"]
    assert question == {"kind": "predict", "model": "run-1", "image": 7}
    tell({"label": 2, "count": 50, "pixels": [1, 8, 8, 1]}, (pixels // 2).tobytes())
    assert view.image.about.text() == "test image 7, labelled two · 8 × 8 px"
    view.image.take_another()
    assert 0 <= engine.of("predict")[-1]["image"] < 50
    i18n.set_language("zh")
    assert "测试图像 7" in view.image.about.text()


def test_colour_images_are_not_drawn(qtbot: Any) -> None:
    view, engine = OwnView(), Engine((3, 8, 8))
    qtbot.addWidget(view)
    view.ask = engine
    view.show()
    view.set_runs([("run-1", "plain")])
    assert not view.image._tools.isVisible()
    assert view.image.pad.hint.startswith("Drop an image here")
    view.image.take_test_image(0)
    ((_, tell),) = [item for item in engine.open if item[0]["kind"] == "predict"]
    tell({"label": 1, "count": 9, "pixels": [1, 8, 8, 3]}, np.full(192, 9, np.uint8).tobytes())
    assert engine.answer("try_attack")["image"]["shape"] == [8, 8, 3]
    assert view.adversarial.view.pixels.shape == (1, 8, 8, 3)


def test_everything_has_a_name(view: OwnView) -> None:
    kinds = (QAbstractButton, QComboBox, QLineEdit, QSlider, QSpinBox, Pad)
    parts = [part for kind in kinds for part in view.findChildren(kind)]
    inside = [p for p in parts if isinstance(p.parent(), QComboBox | QSpinBox)]
    assert len(parts) > 20
    assert [p for p in parts if p not in inside and not p.accessibleName()] == []


# --- in the window


def test_where_it_is_in_the_window(open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    other = trained(tmp_path / "w", "other")
    broken = attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    assert window.shown == broken.id
    assert not window.tester.isHidden(), "an attack is about a model"
    window.tester.click()
    assert window.place == "own"
    assert window.pages.currentWidget() is window.own
    assert window.own.chosen == plain.id, "the model of the run that was shown"
    assert window.inspector_place.isHidden()
    assert window.own.verdict.text() == "the engine is not running"
    window.choose_run(other.id)
    assert not window.inspector_place.isHidden()
    window.go("own")
    assert window.own.chosen == plain.id, "the place keeps what was chosen there"
    window.test_own(other.id)
    assert window.own.chosen == other.id
    titles = [command.shown for command in window._commands]
    assert "Test your own" in titles
    window.do.start()
    assert window.place != "own", "Start opens a form"


def test_a_drawn_digit_on_a_real_engine(qtbot: Any, open_window: Open) -> None:
    window = open_window()
    task = {
        "name": "plain",
        "kind": "train",
        "model": {"kind": "mlp", "width": 32, "depth": 1},
        "data": {"kind": "digits"},
        "epochs": 3,
    }
    with qtbot.waitSignal(window.session.ended, timeout=LONG):
        window.session.start([task])
    window.test_own()
    view = window.own
    qtbot.waitUntil(lambda: view._shape == (1, 8, 8), timeout=LONG)
    draw(qtbot, view.image.pad)
    qtbot.waitUntil(lambda: len(view.bars.after) == 10, timeout=LONG)
    assert sum(view.bars.after) == pytest.approx(1.0, abs=1e-3)
    for place in range(0, 1001, 50):
        view.radius.slider.setValue(place)
        qtbot.wait(1)

    def there() -> bool:
        return view._answer.get("eps") == view.radius.eps and not view._open

    qtbot.waitUntil(there, timeout=LONG)
    assert view._answer["norm"] <= 0.5 + 1e-6
    qtbot.waitUntil(lambda: view._searched, timeout=LONG)
    mark = view.radius.scale.mark
    assert mark is not None
    assert 0 < mark < 0.5
    view.radius.set_eps(mark)
    view.radius.changed.emit(mark)
    qtbot.waitUntil(there, timeout=LONG)
    assert view._answer["success"], "the mark is enough"
    # A run under way is not kept waiting, and the image is answered meanwhile.
    long = {**task, "name": "long", "epochs": 400}
    with qtbot.waitSignal(window.session.began, timeout=LONG):
        window.session.start([long])
    view.radius.slider.setValue(321)
    qtbot.waitUntil(there, timeout=LONG)
    assert window.session.current is not None
    with qtbot.waitSignal(window.session.ended, timeout=LONG):
        window.session.cancel()
