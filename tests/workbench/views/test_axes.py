"""Drawings between two axes: points, bins and what is found at what price."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from workbench import i18n, theme
from workbench.views.axes import AxesCard, Scale
from workbench.views.histogram import Bin, HistogramCard
from workbench.views.roc import RocCard
from workbench.views.scatter import Dot, Level, ScatterCard

DOTS = (
    Dot("a", "strict", 0.5, 0.90, "series:0"),
    Dot("b", "middle", 2.0, 0.95, "series:1", marked=True),
    Dot("c", "loose", 8.0, 0.97, "series:2"),
)


def shown(qtbot: QtBot, card: AxesCard, width: int = 480, height: int = 300) -> Any:
    qtbot.addWidget(card)
    card.resize(width, height)
    card.show()
    QApplication.processEvents()
    return card


@pytest.fixture
def scatter(qtbot: QtBot) -> ScatterCard:
    card = ScatterCard("Price", Scale("Epsilon", sign="ε "), Scale("Accuracy", percent=True))
    card.set_dots(DOTS, (Level("without privacy", 0.99),))
    made: ScatterCard = shown(qtbot, card)
    made.grab()
    return made


@pytest.fixture
def bins(qtbot: QtBot) -> HistogramCard:
    card = HistogramCard("Norms", Scale("Norm", log=True))
    open_ended = [(0.0, 0.5, 10), (0.5, 1.0, 30), (1.0, 2.0, 40), (2.0, None, 20)]
    card.set_bins([Bin(*each) for each in open_ended], 1.0, "clipping norm", ("kept", "clipped"))
    made: HistogramCard = shown(qtbot, card)
    made.grab()
    return made


@pytest.fixture
def roc(qtbot: QtBot) -> RocCard:
    card = RocCard("Members")
    false = [0.0, 0.0005, 0.002, 0.01, 0.1, 1.0]
    strong, weak = [0.01, 0.04, 0.06, 0.2, 0.5, 1.0], [0.0, 0.0, 0.002, 0.01, 0.1, 1.0]
    card.set_curves({"LiRA": ("series:0", false, strong), "Loss": ("series:3", false, weak)})
    made: RocCard = shown(qtbot, card)
    made.grab()
    return made


# --- scales


def test_values_lie_where_the_scale_says() -> None:
    plain, log = Scale(low=2.0, high=6.0), Scale(low=0.01, high=100.0, log=True)
    assert [plain.share(v) for v in (2, 3, 6)] == [0, 0.25, 1]
    assert [log.share(v) for v in (0.01, 1, 100)] == pytest.approx([0, 0.5, 1])
    assert log.share(0.0) == 0.0
    assert log.share(-1.0) == 0.0
    for scale in (plain, log):
        assert scale.value(scale.share(5.0)) == pytest.approx(5.0)


def test_a_scale_reaches_over_what_it_fits() -> None:
    log = Scale(log=True)
    log.fit([0.0, 0.1, 10.0, math.inf])  # zero and infinity have no place there
    assert 0.05 < log.low < 0.1
    assert 10.0 < log.high < 20.0
    share = Scale(percent=True)
    share.fit([0.97, 0.99], 0.3)
    assert share.high > 0.99
    assert all(value <= 1 for value, _ in share.ticks(8)), "there is nothing above 100 %"
    empty = Scale(log=True)
    empty.fit([])
    assert (empty.low, empty.high) == (0.1, 10.0)


def test_names_take_as_many_lines_as_they_need(roc: RocCard) -> None:
    assert len(roc.drawing._legend_lines(400)) == 1
    lines = roc.drawing._legend_lines(110)
    assert [[name for name, _, _ in line] for line in lines] == [["LiRA", "Loss"], ["Guessing"]]
    assert len(roc.drawing._legend_lines(1)) == 3
    roc.grab()
    high = roc.drawing.area.top()
    roc.resize(150, 300)
    roc.grab()
    assert roc.drawing.area.top() > high


# --- points


def test_points_stand_in_order_and_the_axis_becomes_logarithmic(scatter: ScatterCard) -> None:
    drawing = scatter.drawing
    assert drawing.x.log, "from .5 to 8 is more than a factor of six"
    places = [drawing.pixel(dot.x, dot.y) for dot in drawing.dots]
    assert [p.x() for p in places] == sorted(p.x() for p in places)
    assert [p.y() for p in places] == sorted((p.y() for p in places), reverse=True)
    assert all(drawing.area.contains(place) for place in places)
    scatter.set_log(False)
    assert not drawing.x.log
    scatter.set_dots(DOTS[1:])
    assert not drawing.x.log, "a person has chosen"


def test_what_has_no_value_is_left_out(scatter: ScatterCard) -> None:
    scatter.set_dots([*DOTS, Dot("d", "none", math.nan, 0.5, "accent")])
    assert [dot.key for dot in scatter.drawing.dots] == ["a", "b", "c"]
    scatter.set_dots([])
    assert scatter.is_empty
    assert scatter._empty.text().startswith("A point appears here")


def test_a_point_is_read_out_and_picked(qtbot: QtBot, scatter: ScatterCard) -> None:
    drawing = scatter.drawing
    place = drawing.pixel(2.0, 0.95)
    said = drawing.said_at(place + QPointF(5, 5), 18)
    assert said is not None
    _, head, rows = said
    assert head == "middle"
    assert [(name, value) for _, name, value in rows] == [
        ("Epsilon", "ε 2.00"),
        ("Accuracy", "95.0\u202f%"),
    ]
    assert drawing.said_at(drawing.area.center() + QPointF(0, 60), 3) is None
    with qtbot.waitSignal(scatter.picked) as picked:
        qtbot.mouseClick(drawing, Qt.MouseButton.LeftButton, pos=place.toPoint())
    assert picked.args == ["b"]


def test_points_are_walked_by_keyboard(qtbot: QtBot, scatter: ScatterCard) -> None:
    drawing = scatter.drawing
    drawing.setFocus()
    qtbot.keyClick(drawing, Qt.Key.Key_Right)
    assert drawing.accessibleDescription() == "strict, Epsilon ε 0.500, Accuracy 90.0\u202f%"
    qtbot.keyClick(drawing, Qt.Key.Key_End)
    qtbot.keyClick(drawing, Qt.Key.Key_Right)  # there is none beyond the last
    assert drawing.stop == 2
    with qtbot.waitSignal(scatter.picked) as picked:
        qtbot.keyClick(drawing, Qt.Key.Key_Return)
    assert picked.args == ["c"]
    qtbot.keyClick(drawing, Qt.Key.Key_Escape)
    assert drawing.stop is None
    assert not scatter.grab().isNull()


def test_the_marked_point_has_a_ring(scatter: ScatterCard) -> None:
    drawing = scatter.drawing
    image = drawing.grab().toImage()

    def ring(key: str) -> bool:
        dot = next(d for d in drawing.dots if d.key == key)
        place = drawing.pixel(dot.x, dot.y)
        edge = (place.y() - theme.px(8) + shift for shift in (-1, 0, 1))
        seen = (image.pixelColor(round(place.x()), round(y)).lightness() for y in edge)
        return min(seen) < 128  # dark on white

    assert ring("b")
    assert not ring("a")


# --- bins


def test_what_lies_beyond_the_edge_is_counted(bins: HistogramCard) -> None:
    assert bins.value.text() == "60.0\u202f%"
    assert [bins.drawing.is_beyond(k) for k in range(4)] == [False, False, True, True]


def test_bins_without_an_end_are_as_wide_as_others(bins: HistogramCard) -> None:
    drawing = bins.drawing
    assert drawing.ends(0) == (0.25, 0.5)
    assert drawing.ends(3) == (2.0, 4.0)
    assert (drawing.x.low, drawing.x.high) == (0.25, 4.0)
    said = []
    for stop in drawing.stops():
        found = drawing.said_at(drawing.pixel(stop.x(), stop.y()), 2)
        assert found is not None
        said.append((found[1], found[2][0][1:]))
    assert said[0] == ("up to 0.500", ("10.0\u202f%", "10"))
    assert said[1] == ("0.500 – 1.00", ("30.0\u202f%", "30"))
    assert said[3] == ("above 2.00", ("20.0\u202f%", "20"))


def test_a_single_one_is_seen(bins: HistogramCard) -> None:
    bins.set_bins([Bin(1.0, 2.0, 100_000), Bin(2.0, 4.0, 1)])
    image = bins.drawing.grab().toImage()
    drawing = bins.drawing
    foot = drawing.pixel(2.8, 0)
    assert image.pixelColor(round(foot.x()), round(foot.y()) - 1) != theme.color("card")
    assert bins.value.text() == ""


def test_two_kinds_stand_in_one_another(bins: HistogramCard) -> None:
    bins.set_pair([Bin(1.0, 2.0, 4, 9), Bin(2.0, 4.0, 7)], ("in", "out"), ("series:1", "series:0"))
    drawing = bins.drawing
    assert drawing.y.high > 9
    assert [name for name, _, _ in drawing.legend()] == ["in", "out"]
    drawing.grab()
    found = drawing.said_at(drawing.pixel(1.4, 2), 2)
    assert found is not None
    assert [row[1:] for row in found[2]] == [("in", "4"), ("out", "9")]
    bins.clear()
    assert bins.is_empty
    assert bins.value.text() == ""


# --- members


def test_what_is_found_at_a_rate_is_the_best_up_to_it(roc: RocCard) -> None:
    strong, weak = roc.drawing.curves
    assert strong.at(0.001) == 0.04
    assert strong.at(0.01) == 0.2
    assert strong.at(0.009) == 0.06
    assert weak.at(0.0001) == 0.0
    assert roc.value.text() == "4.0\u202f%"
    assert roc.delta.text() == "at 0.1\u202f% false"


def test_a_curve_is_read_off_under_the_pointer(roc: RocCard) -> None:
    drawing = roc.drawing
    place = drawing.pixel(0.0102, 0.1)
    said = drawing.said_at(place, 2)
    assert said is not None
    assert said[1] == "at 1.0\u202f% false positives"
    assert [row[1:] for row in said[2]] == [("LiRA", "20.0\u202f%"), ("Loss", "1.0\u202f%")]


def test_the_axes_of_members_reach_as_far_as_the_images_tell(roc: RocCard) -> None:
    assert roc.drawing.x.low == pytest.approx(1e-4)
    coarse = [0.0, 0.01, 1.0]
    roc.set_curves({"Loss": ("series:0", coarse, coarse)})
    assert roc.drawing.x.low == 0.001, "the rate in the title stands on the axis"
    roc.set_log(False)
    assert (roc.drawing.x.low, roc.drawing.y.low) == (0.0, 0.0)
    assert not roc.grab().isNull()


# --- all of them


@pytest.mark.parametrize("kind", ["scatter", "bins", "roc"])
def test_values_and_pictures_are_exported(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    card: AxesCard = request.getfixturevalue(kind)
    for suffix in ("png", "svg", "csv"):
        card.export(tmp_path / f"a.{suffix}")
        assert (tmp_path / f"a.{suffix}").stat().st_size > 50
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) > 3
    if kind == "scatter":
        assert rows[1:] == [
            ["strict", "0.5", "0.9"],
            ["middle", "2.0", "0.95"],
            ["loose", "8.0", "0.97"],
            ["without privacy", "", "0.99"],
        ]


@pytest.mark.parametrize("kind", ["scatter", "bins", "roc"])
def test_they_paint_in_every_dress_and_at_any_size(
    request: pytest.FixtureRequest, kind: str
) -> None:
    card: AxesCard = request.getfixturevalue(kind)
    assert card.drawing.accessibleName()
    for mode in ("light", "dark"):
        theme.manager.set_mode(mode)  # type: ignore[arg-type]
        for scale in (0.8, 1.6):
            theme.manager.set_scale(scale)
            for language in ("en", "zh"):
                i18n.set_language(language)  # type: ignore[arg-type]
                for width, height in ((120, 90), (200, 140), (900, 600)):
                    card.resize(width, height)
                    assert not card.grab().isNull()
    ground = QColor(theme.manager.theme.card)
    card.resize(600, 400)
    image = card.drawing.grab().toImage()
    colors = {image.pixelColor(x, y).name() for x in range(0, 560, 3) for y in range(0, 300, 3)}
    assert colors - {ground.name()}
