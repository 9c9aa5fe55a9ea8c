from __future__ import annotations

import csv
import gc
import re
import weakref
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QImage, QWheelEvent
from pytestqt.qtbot import QtBot

from engine.store import RunInfo
from workbench import i18n, theme
from workbench.panels.attack_view import AttackView
from workbench.panels.train_view import TrainView
from workbench.runs.record import Record
from workbench.views import axis
from workbench.views.curves import IDLE_TICKS, CurveCard


@pytest.fixture
def card(qtbot: QtBot) -> CurveCard:
    made = CurveCard("Training loss", empty="Start a run to see its loss.")
    qtbot.addWidget(made)
    made.resize(480, 240)
    made.show()
    return made


def drawn(card: CurveCard) -> QImage:
    card.repaint()
    return card.plot.grab().toImage()


def wheel(card: CurveCard, at: QPointF, turn: int) -> None:
    where = card.plot.mapToGlobal(at.toPoint())
    event = QWheelEvent(
        at,
        QPointF(where),
        QPoint(),
        QPoint(0, turn),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    card.plot.wheelEvent(event)


def test_an_empty_card_says_how_to_fill_it(card: CurveCard) -> None:
    assert not card.plot.isVisible()
    assert card._empty_label().text() == "Start a run to see its loss."
    card.append("train", [0, 1], [1.0, 0.5])
    card.draw()
    assert card.plot.isVisible()
    assert not card._empty_label().isVisible()
    card.clear()
    assert not card.plot.isVisible()


def test_the_title_shows_the_last_value_and_its_change(card: CurveCard) -> None:
    card.set_series("train", "train", "accent")
    card.append("train", list(range(11)), [1 - 0.05 * i for i in range(11)])
    card.draw()
    assert card.value.text() == "0.500"
    assert card.delta.text() == "−0.050"


def test_percent_is_for_the_eye_only(qtbot: QtBot, tmp_path: Path) -> None:
    card = CurveCard("Accuracy", percent=True)
    qtbot.addWidget(card)
    card.replace("a", [1, 2], [0.9, 0.978])
    assert card.value.text() == "97.8\u202f%"
    card.export(tmp_path / "values.csv")
    rows = list(csv.reader((tmp_path / "values.csv").open()))
    assert rows == [["step", "a"], ["1", "0.9"], ["2", "0.978"]]


def test_one_curve_a_tick_and_none_while_hidden(card: CurveCard) -> None:
    for key in "abc":
        card.append(key, [0, 1, 2], [1.0, 2.0, 3.0])
    taken = []
    for _ in range(3):
        card.draw()
        taken.append([key for key in "abc" if len(card.plot.curves[key].raw)])
    assert taken == [["a"], ["a", "b"], ["a", "b", "c"]]
    card.hide()
    card.append("a", [3], [9.0])
    card.draw()
    assert len(card.plot.curves["a"].raw) == 3
    card.show()
    card.draw()
    assert len(card.plot.curves["a"].raw) == 4


def test_live_axes_move_seldom(card: CurveCard) -> None:
    rng = np.random.default_rng(0)
    moves, before = 0, None
    for step in range(0, 2000, 5):
        card.append("a", range(step, step + 5), rng.random(5).tolist())
        card.draw()
        card.plot.repaint()
        moves += before != card.plot.frame.x
        before = card.plot.frame.x
        assert card.plot.frame.x[1] >= step + 4
    assert moves < 40
    assert card.plot.live


def test_comes_to_rest_by_itself(card: CurveCard) -> None:
    card.append("a", range(100), np.linspace(0, 1, 100).tolist())
    card.draw()
    assert card.plot.live
    for _ in range(IDLE_TICKS):
        card.draw()
    assert not card.plot.live


def test_a_resumed_run_overwrites_what_it_repeats(card: CurveCard) -> None:
    card.append("a", [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0])
    card.append("a", [3, 4, 5], [30.0, 40.0, 50.0])
    card.rest()
    assert card.plot.curves["a"].raw.x.tolist() == [1, 2, 3, 4, 5]
    assert card.plot.curves["a"].raw.y.tolist() == [1, 2, 30, 40, 50]


def test_hovering_reads_out_every_series(card: CurveCard, qtbot: QtBot) -> None:
    card.set_series("a", "plain", "series:0")
    card.set_series("b", "hardened", "series:1")
    card.replace("a", [0, 10, 20], [1.0, 0.5, 0.25])
    card.replace("b", [0, 10, 20], [3.0, 2.0, 1.0])
    before = drawn(card)
    frame = card.plot.frame
    x = frame.area.left() + frame.area.width() * (11 - frame.x[0]) / (frame.x[1] - frame.x[0])
    qtbot.mouseMove(card.plot.viewport(), QPoint(int(x), int(frame.area.center().y())))
    step, rows = card.plot.readout(card.plot.cursor_step or 0)
    assert step == 10
    assert rows == [("series:0", "plain", "0.500"), ("series:1", "hardened", "2.00")]
    assert drawn(card) != before


def test_keys_walk_zoom_and_fit(card: CurveCard, qtbot: QtBot) -> None:
    card.replace("a", list(range(101)), [i / 100 for i in range(101)])
    drawn(card)
    qtbot.keyClick(card.plot, Qt.Key.Key_Right)
    assert card.plot.cursor_step is not None
    assert card.plot.accessibleDescription().startswith("a 0.5")
    whole = card.plot.frame.x
    qtbot.keyClick(card.plot, Qt.Key.Key_Plus)
    assert card.plot.frame.x[1] - card.plot.frame.x[0] < whole[1] - whole[0]
    qtbot.keyClick(card.plot, Qt.Key.Key_Home)
    assert card.plot.frame.x == whole


def test_wheel_zooms_about_the_pointer_and_double_click_fits(card: CurveCard, qtbot: QtBot) -> None:
    card.replace("a", list(range(1001)), np.sin(np.arange(1001) / 50).tolist())
    drawn(card)
    whole, at = card.plot.frame.x, card.plot.frame.area.center()
    under = card.plot.frame.step_at(at.x())
    wheel(card, at, 240)
    assert card.plot.frame.step_at(at.x()) == pytest.approx(under)
    assert card.plot.frame.x[1] - card.plot.frame.x[0] == pytest.approx(
        (whole[1] - whole[0]) * 0.64
    )
    card.append("a", [1001], [0.0])
    card.draw()
    assert card.plot.frame.x[1] < 1001, "a live value does not undo a person's zoom"
    qtbot.mouseDClick(card.plot.viewport(), Qt.MouseButton.LeftButton, pos=at.toPoint())
    assert card.plot.frame.x[0] <= 0
    assert card.plot.frame.x[1] >= 1001


def test_log_scale_leaves_out_what_has_no_logarithm(card: CurveCard) -> None:
    card.replace("lr", [0, 1, 2, 3], [1e-4, 0.0, 1e-2, 1.0])
    card.set_log(True)
    assert card.plot.frame.y[0] == pytest.approx(-4, abs=0.5)
    assert card.plot.frame.y[1] == pytest.approx(0, abs=0.5)
    labels = [label for _, label in card.plot.frame.marks()]
    drawn(card)
    assert len(labels) >= 2


@pytest.mark.parametrize(
    ("value", "percent", "log", "low", "high", "labels"),
    [
        (0.0, True, False, 0, 1, {"0", "100"}),
        (0.5, True, False, 0.45, 0.55, {"46", "50", "54"}),
        (1.0, True, False, 0.9, 1.0, {"90", "100"}),
        (0.0, False, False, 0, 1, {"0.0", "1.0", "0", "0.2"}),
        (0.002, False, False, 0.0018, 0.0022, {"0.0018", "0.0020", "0.0022"}),
        (0.0005, False, False, 0.00045, 0.00055, {"4.6e−4", "5.0e−4", "5.4e−4"}),
        (-5.0, False, False, -5.5, -4.5, {"−5.0"}),
        (0.002, False, True, -3.2, -2.2, {"1e−3", "0.002", "0.005"}),
    ],
)
def test_a_constant_has_a_sensible_range(
    qtbot: QtBot, value: float, percent: bool, log: bool, low: float, high: float, labels: set[str]
) -> None:
    card = CurveCard("Constant", percent=percent)
    qtbot.addWidget(card)
    card.resize(480, 240)
    card.show()
    card.set_log(log)
    rounding = value * (1 + 1e-8 * np.arange(5))
    for live in (True, False):
        card.clear()
        card.append("a", range(5), rounding.tolist())
        if live:
            card.draw()
        else:
            card.rest()
        drawn(card)
        frame = card.plot.frame
        assert frame.y == pytest.approx((low, high), abs=0.07 * (high - low))
        found = [text for _, text in frame.marks()]
        assert len(set(found)) == len(found), "each tick says something else"
        assert labels & set(found)


def test_a_constant_beside_a_small_curve_does_not_shake_the_axis(card: CurveCard) -> None:
    ranges = []
    for step in range(60):
        card.append("a", [step], [0.01 * (step % 2)])
        card.append("b", [step], [0.0])
        card.draw()
        card.draw()
        ranges.append(card.plot.frame.y)
    assert len(set(ranges[4:])) == 1
    assert ranges[-1][1] < 0.1


def test_steps_are_whole(card: CurveCard) -> None:
    for steps in ([0], [1], [7], [0, 1], [0, 1, 2]):
        for live in (True, False):
            card.clear()
            card.append("a", steps, [1.0] * len(steps))
            if live:
                card.draw()
            else:
                card.rest()
            drawn(card)
            assert card.plot.frame.x[0] > -0.1
            found = [text for _, text in card.plot.frame.steps()]
            assert found
            assert not any("." in text for text in found)
            assert len(set(found)) == len(found)
    card.plot.zoom(0.01, card.plot.frame.area.center())
    drawn(card)  # not one whole step is left
    assert all(v == int(v) for v, _ in card.plot.frame.steps())


@pytest.mark.parametrize("last", [6, 1000, 8000, 100_000])
def test_the_last_label_is_inside(card: CurveCard, last: int) -> None:
    card.replace("a", [0, last], [0.0, 1.0])
    card.plot.view = ((0.0, float(last)), (0.0, 1.0))  # the last tick at the very edge
    card.plot.frame.x, card.plot.frame.y = card.plot.view
    card.plot.forget()
    image = drawn(card)
    frame = card.plot.frame
    assert frame.steps()[-1][0] == last
    below = range(int(frame.area.bottom()) + 3, image.height())
    ink = [
        x
        for x in range(int(frame.area.right()) - 20, image.width())
        if any(image.pixelColor(x, y) != theme.color("card") for y in below)
    ]
    assert ink
    assert max(ink) < image.width() - 1, "nothing of it touches the edge"
    assert (min(ink) + max(ink)) / 2 == pytest.approx(frame.area.right(), abs=2), "it is whole"


def test_a_long_axis_has_few_ticks(card: CurveCard) -> None:
    card.resize(1900, 1000)
    for top in (1.0, 3.7, 9.9, 41.0):
        card.replace("a", list(range(997)), np.linspace(0, top, 997).tolist())
        drawn(card)
        assert 3 <= len(card.plot.frame.marks()) <= 8
        assert 3 <= len(card.plot.frame.steps()) <= 8
    for span in np.linspace(0.05, 12, 60):
        assert 1 <= len(axis.log_ticks(-4.03, -4.03 + span, 40)) <= 9


def test_a_schedule_is_not_smoothed(qtbot: QtBot) -> None:
    card = CurveCard("Learning rate", smooth=False)
    qtbot.addWidget(card)
    card.show()
    values = np.where(np.arange(3000) < 1500, 1e-2, 1e-3)
    card.replace("a", list(range(3000)), values.tolist())
    drawn(card)
    curve = card.plot.curves["a"]
    assert not curve.smoothed
    np.testing.assert_array_equal(curve.smooth.y, values)
    trace = card.plot._chart.traces["a"]
    assert not trace.raw.isVisible()
    assert trace.line.opts["pen"].color().alpha() == 255
    assert not card._smoothing_menu.menuAction().isVisible()
    view = TrainView()
    qtbot.addWidget(view)
    assert view.curves["lr"].plot.strength == 0
    assert view.curves["loss"].plot.strength == 1


def test_an_empty_text_can_be_set(card: CurveCard) -> None:
    card.explain("This run recorded no {card}.")
    assert card._empty_label().text() == "This run recorded no training loss."
    card.replace("a", [0, 1], [0.0, 1.0])
    card.explain("Something else.")
    assert not card._empty_label().isVisible(), "there is something to show"
    card.clear()
    assert card._empty_label().text() == "Something else."


@pytest.mark.parametrize(("kind", "view"), [("train", TrainView), ("attack", AttackView)])
def test_an_ended_run_promises_nothing(
    qtbot: QtBot, kind: str, view: type[TrainView | AttackView]
) -> None:
    shown = view()
    qtbot.addWidget(shown)

    def says() -> str:
        return shown.curves["loss"]._empty_label().text()

    def info(status: str) -> RunInfo:
        return RunInfo(
            id="a1", name="a", kind=kind, status=status, created="2025-01-01T00:00:00Z", spec={}
        )

    assert "press Start run" in says()
    shown.show_run(info("running"), Record(), "series:1")
    assert "press Start run" in says()
    shown.update_info(info("failed"))
    assert says() == "This run recorded no loss."
    if isinstance(shown, AttackView):
        assert shown.accuracies._empty_label().text() == "This run recorded no accuracy."
        clean = shown.comparison.clean
        assert clean._empty_label().text() == "This run recorded no pictures."
    else:
        layers = shown.tables["parameters"]._empty_label()
        assert layers.text() == "This run recorded no parameters."
    i18n.set_language("zh")
    assert says() == "此实验没有损失的记录。"
    i18n.set_language("en")
    shown.show_nothing()
    assert "press Start run" in says()
    if isinstance(shown, AttackView):
        assert "when the attack is over" in shown.accuracies._empty_label().text()
    shown.show_run(info("cancelled"), Record(), "series:1")
    assert says() == "This run recorded no loss."


def test_an_attack_on_changed_data_warns(qtbot: QtBot) -> None:
    view = AttackView()
    qtbot.addWidget(view)
    view.show()
    shown = RunInfo(id="a1", name="a", kind="attack", status="done", created="", spec={})
    found = {"clean_accuracy": 0.9, "robust_accuracy": 0.5}
    view.show_run(replace(shown, summary={**found, "data_changed": True}), Record(), "series:1")
    warning = view.accuracies._warning
    assert warning.isVisible()
    assert "split has changed" in warning.words.text()
    i18n.set_language("zh")
    assert "划分已改变" in warning.words.text()
    view.show_run(replace(shown, summary=found), Record(), "series:1")
    assert not warning.isVisible()


def test_few_and_hollow_values_can_be_drawn(card: CurveCard) -> None:
    for values in ([1.0], [float("nan")], [float("nan"), 2.0, float("nan")], [0.0, 0.0], [-5.0]):
        card.replace("a", list(range(len(values))), values)
        drawn(card)
    card.replace("a", [], [])
    assert not card.plot.isVisible()


def test_smoothing_can_be_chosen(card: CurveCard) -> None:
    noise = np.random.default_rng(0).standard_normal(2000)
    card.replace("a", list(range(2000)), noise.tolist())
    curve = card.plot.curves["a"]
    automatic = float(np.std(curve.smooth.y[200:]))
    card.set_smoothing(4.0)
    strong = float(np.std(curve.smooth.y[200:]))
    card.set_smoothing(0.0)
    assert strong < automatic < 0.5
    np.testing.assert_array_equal(curve.smooth.y, noise)


def test_a_budget_line_is_part_of_the_range(card: CurveCard) -> None:
    card.replace("epsilon", [0, 1], [0.0, 2.0])
    card.set_line("budget", 4.0)
    assert card.plot.frame.y[1] >= 4.0
    with_line = drawn(card)
    card.set_line("budget", None)
    assert card.plot.frame.y[1] < 4.0
    assert drawn(card) != with_line


def test_exports_are_whole(card: CurveCard, tmp_path: Path) -> None:
    card.set_series("a", "train <loss> & more", "series:0")
    card.replace("a", list(range(5000)), np.sin(np.arange(5000) / 300).tolist())
    card.replace("b", [0, 4999], [0.0, 1.0])
    for suffix in ("png", "svg", "csv"):
        card.export(tmp_path / f"picture.{suffix}")
    image = QImage(str(tmp_path / "picture.png"))
    assert image.width() == 2 * card.width()
    colors = {image.pixelColor(x, y).name() for x in range(0, 960, 3) for y in range(0, 480, 3)}
    assert len(colors) > 10
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert root.tag.endswith("svg")
    texts = "".join(root.itertext())
    assert "Training loss" in texts
    assert "train <loss> & more" in texts
    parts = [part for part in root.iter() if part.tag.endswith(("path", "polyline"))]
    lines = [
        re.findall(r"[\d.e+-]+,[\d.e+-]+", part.get("d") or part.get("points")) for part in parts
    ]
    assert sum(len(points) > 500 for points in lines) >= 2, "the raw trace and the smoothed one"
    ends = [float(point.split(",")[0]) for points in lines if len(points) == 2 for point in points]
    assert max(ends) > 0.9 * card.width(), "the grid is as wide as the curves"
    rows = list(csv.reader((tmp_path / "picture.csv").open()))
    assert rows[0] == ["step", "train <loss> & more", "b"]
    assert len(rows) == 5001
    assert rows[2][2] == ""


def test_an_export_that_fails_says_so(card: CurveCard, tmp_path: Path) -> None:
    card.replace("a", [0, 1], [0.0, 1.0])
    for suffix in ("png", "csv"):
        with pytest.raises(OSError):
            card.export(tmp_path / "no such folder" / f"a.{suffix}")
    with pytest.raises(ValueError, match=r"expected \.png, \.svg or \.csv"):
        card.export(tmp_path / "a.gif")


def test_theme_scale_and_language_are_followed(card: CurveCard) -> None:
    card.replace("a", [0, 1], [0.0, 1.0])
    light = drawn(card)
    theme.manager.set_mode("dark")
    dark = drawn(card)
    assert dark.pixelColor(2, dark.height() // 2).lightness() < 60
    assert light.pixelColor(2, light.height() // 2).lightness() > 200
    theme.manager.set_scale(1.6)
    card.repaint()
    assert card.plot.frame.area.left() > 40
    i18n.set_language("zh")
    assert card._fit.text() == i18n.tr("Fit")


def test_values_that_are_drawn_live_are_where_they_belong(card: CurveCard) -> None:
    """The pixel of a value carries the series' colour."""
    card.set_series("a", "a", "#ff0000")
    card.append("a", [0, 50, 100], [1.0, 1.0, 1.0])
    card.draw()
    image = drawn(card)
    frame = card.plot.frame
    x = frame.area.left() + (50 - frame.x[0]) / (frame.x[1] - frame.x[0]) * frame.area.width()
    y = frame.area.bottom() - (1 - frame.y[0]) / (frame.y[1] - frame.y[0]) * frame.area.height()
    near = {image.pixelColor(int(x), int(y) + d).name() for d in (-1, 0, 1)}
    assert "#ff0000" in near


def test_live_curves_are_thin_and_resting_ones_smooth(card: CurveCard) -> None:
    for key in ("a", "b"):
        card.append(key, range(3000), np.random.default_rng(0).random(3000).tolist())
    card.rest()

    def looks() -> set[tuple[float, bool]]:
        drawn(card)
        lines = [trace.line for trace in card.plot._chart.traces.values()]
        return {(line.opts["pen"].widthF(), line.opts["antialias"]) for line in lines}

    assert looks() == {(1.6, True)}
    card.append("a", [3000], [0.5])
    card.draw()
    assert looks() == {(1.0, False)}, "all curves, not only the one that has grown"
    x, _ = card.plot._chart.traces["a"].line.getData()
    assert 1000 < len(x) <= 2100, "the outline is drawn, not each value"
    card.rest()
    assert looks() == {(1.6, True)}


def test_hidden_curves_are_not_drawn(card: CurveCard) -> None:
    card.replace("a", range(100), np.linspace(0, 1, 100).tolist())
    drawn(card)
    card.hide()
    before = card.plot._chart.traces["a"].line.getData()[0]
    card.append("a", [100], [1.0])
    card.draw()
    card.rest()
    assert card.plot._chart.traces["a"].line.getData()[0] is before


def test_a_card_that_is_deleted_is_gone(qtbot: QtBot) -> None:
    made = CurveCard("Loss")
    made.show()
    made.replace("a", [0, 1], [0.0, 1.0])
    made.set_line("budget", 2.0)
    drawn(made)
    box = weakref.ref(made.plot._chart.box)
    made.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    del made
    gc.collect()
    assert box() is None
    theme.manager.set_mode("dark")


def test_the_axis_of_what_is_never_negative_ends_at_zero(card: CurveCard) -> None:
    card.append("norm", range(30), [0.01, *[5.0 + i / 10 for i in range(29)]])
    card.draw()
    assert card.plot.frame.y[0] >= 0
    card.rest()
    assert card.plot.frame.y[0] >= 0
    card.append("below", range(3), [-1, 0, 1])
    card.rest()
    assert card.plot.frame.y[0] < -1


def test_the_x_axis_says_what_it_counts_where_there_is_room(card: CurveCard, qtbot: QtBot) -> None:
    card.append("loss", range(30), range(30))
    card.resize(400, 300)
    card.rest()
    card.plot.grab()
    under = card.plot._chart.under
    assert under.isVisible()
    assert under.text() == "Step"
    card.resize(400, 120)
    card.plot.grab()
    assert not under.isVisible()


def test_adversarial_training_says_what_its_curves_are_taken_on(qtbot: QtBot) -> None:
    view = TrainView()
    qtbot.addWidget(view)
    spec = {"kind": "train", "adversarial": {"kind": "mixed", "attack": {"kind": "pgd"}}}
    shown = RunInfo(id="a1", name="a", kind="train", status="done", created="", spec=spec)
    record = Record()
    for name in ("train/loss", "train/accuracy", "train/robust_accuracy", "validation/accuracy"):
        record.scalars[name] = ([1, 2], [0.5, 0.6])
    view.show_run(shown, record, "series:1")
    labels = {k: c.label for card in view.curves.values() for k, c in card.plot.curves.items()}
    assert labels["train/loss"] == "Train (clean + adversarial)"
    assert labels["train/accuracy"] == "Train, clean"
    assert labels["validation/accuracy"] == "Validation, clean"
    assert labels["train/robust_accuracy"] == "Train, adversarial"
    assert "train/robust_accuracy" in view.curves["accuracy"].plot.curves
