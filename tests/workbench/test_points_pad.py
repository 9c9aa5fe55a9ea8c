"""The pad on which a person draws points, and its field in a form."""

from __future__ import annotations

import math

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from engine.generative.spec.gan import Gan
from workbench.forms.editors import PointsEditor
from workbench.forms.form import SpecForm
from workbench.forms.reading import shape_of
from workbench.views.points_pad import APART, PointsPad


@pytest.fixture
def pad(qtbot: QtBot) -> PointsPad:
    pad = PointsPad()
    qtbot.addWidget(pad)
    pad.resize(200, 200)
    pad.show()
    return pad


def at(pad: PointsPad, x: float, y: float) -> QPoint:
    return pad.pixel((x, y)).toPoint()


def test_a_click_sets_a_point_and_the_right_button_takes_it_away(pad: PointsPad, qtbot: QtBot):
    with qtbot.waitSignal(pad.changed):
        qtbot.mouseClick(pad, Qt.MouseButton.LeftButton, pos=at(pad, 0.5, -0.25))
    (point,) = pad.points
    assert point == pytest.approx((0.5, -0.25), abs=0.01)
    with qtbot.waitSignal(pad.changed):
        qtbot.mouseClick(pad, Qt.MouseButton.RightButton, pos=at(pad, 0.5, -0.25))
    assert pad.points == []


def test_a_stroke_is_one_change_and_its_points_stand_apart(pad: PointsPad, qtbot: QtBot):
    told: list[int] = []
    pad.changed.connect(lambda: told.append(len(pad.points)))
    QTest.mousePress(pad, Qt.MouseButton.LeftButton, pos=at(pad, -0.8, 0))
    for step in range(1, 81):
        QTest.mouseMove(pad, at(pad, -0.8 + step / 50, 0))
    QTest.mouseRelease(pad, Qt.MouseButton.LeftButton, pos=at(pad, 0.8, 0))
    assert told == [len(pad.points)]
    assert 15 <= len(pad.points) <= 28
    gaps = [math.dist(a, b) for a, b in zip(pad.points, pad.points[1:])]
    assert min(gaps) >= APART


def test_points_stay_on_the_pad_and_far_ones_widen_it(pad: PointsPad):
    assert pad.place(QPointF(-50, 900)) == (-1.0, -1.0)
    pad.set_points([(3.0, 0.0), (0.0, -1.0)])
    assert pad.reach == 3.0
    assert pad.place(pad.pixel((3.0, 0.0))) == pytest.approx((3.0, 0.0), abs=0.01)


def test_points_are_drawn_by_keyboard(pad: PointsPad, qtbot: QtBot):
    pad.setFocus()
    qtbot.keyClick(pad, Qt.Key.Key_Space)
    for _ in range(4):
        qtbot.keyClick(pad, Qt.Key.Key_Right)
    qtbot.keyClick(pad, Qt.Key.Key_Up)
    assert pad.accessibleDescription() == "0.200, 0.050"
    qtbot.keyClick(pad, Qt.Key.Key_Space)
    assert pad.points == [(0.0, 0.0), (0.2, 0.05)]
    qtbot.keyClick(pad, Qt.Key.Key_Space)
    assert pad.points == [(0.0, 0.0)]
    qtbot.keyClick(pad, Qt.Key.Key_Delete)
    assert pad.points == []


def test_a_form_has_a_pad_for_ones_own_points_and_undoes_a_stroke(qtbot: QtBot):
    form = SpecForm(Gan)
    qtbot.addWidget(form)
    form.resize(300, 800)
    form.show()
    form.set_values({"data": {"kind": "drawn", "points": [[0, 0], [0.5, 0.5]]}})
    editor = form.findChild(PointsEditor)
    assert editor is not None
    assert editor.value() == [[0.0, 0.0], [0.5, 0.5]]
    assert shape_of(Gan.model_fields["seeds"]).type == "int"
    qtbot.mouseClick(editor.pad, Qt.MouseButton.LeftButton, pos=at(editor.pad, -0.5, -0.5))
    assert len(form.values()["data"]["points"]) == 3
    task = form.spec()
    assert task is not None
    assert task.data.points[2] == pytest.approx((-0.5, -0.5), abs=0.02)
    form.undo()
    assert editor.value() == [[0.0, 0.0], [0.5, 0.5]]
    assert editor.pad.accessibleName() == "Points"


def test_too_few_points_are_refused_beside_the_pad(qtbot: QtBot):
    form = SpecForm(Gan)
    qtbot.addWidget(form)
    form.set_values({"data": {"kind": "drawn", "points": [[0, 0]]}})
    assert form.spec() is None
    assert any("at least" in problem.text for problem in form.problems)
