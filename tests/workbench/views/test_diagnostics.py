"""The instruments in the window: the map of the layers, the plane of the loss, how answers move."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from engine.events import Array, Images, Scalars, Table
from engine.robustness.stability import COLUMNS
from engine.store import RunInfo
from engine.training.diagnostics.layers import QUANTITIES
from tests.workbench.stored import make_run
from workbench import i18n, theme
from workbench.panels import detail_of
from workbench.panels.diagnostics_cards import BENDS, LayersCard, PlaneCard
from workbench.panels.stability_view import StabilityView
from workbench.panels.train_view import TrainView
from workbench.runs.record import Record, load
from workbench.views.heatmap import RAMP, SCALES, Scale, colour_ramp

LAYERS, STEPS = ("front", "middle", "back"), (1, 11, 21, 31)


def layers(**more: Any) -> Array:
    """The gradient falls by 1,000 from layer to layer, from back to front."""
    values = np.full((len(QUANTITIES), len(STEPS), len(LAYERS)), np.nan, np.float32)
    values[0] = [1e-6, 1e-3, 1.0]
    values[QUANTITIES.index("dead")] = [0.0, 0.5, np.nan]
    values[QUANTITIES.index("activation_mean")] = [-2.0, 0.0, 1.0]
    about = {"quantities": list(QUANTITIES), "layers": list(LAYERS), "steps": list(STEPS)}
    return Array("layers", values, 31, about=about | {"interval": 10} | more)


def plane(side: int = 5) -> Array:
    places = np.linspace(-1, 1, side)
    values = (0.1 * 10 ** (places[:, None] ** 2 + places[None] ** 2)).astype(np.float32)
    return Array("loss_plane", values, 31, about={"extent": [-1, 1, -1, 1], "samples": 64})


@pytest.fixture
def card(qtbot: QtBot) -> LayersCard:
    card = LayersCard()
    qtbot.addWidget(card)
    card.resize(700, 340)
    card.show()
    return card


def test_every_quantity_of_the_engine_can_be_drawn() -> None:
    assert list(SCALES) == list(QUANTITIES) or set(SCALES) == set(QUANTITIES)


def test_vanishing_is_blue_exploding_red_and_the_last_layer_the_ground() -> None:
    scale = SCALES["gradient_norm"]
    values = np.array([[1e-6], [0.0], [1e6], [np.nan], [np.inf], [1.0]])
    shares = scale.shares(values)[:, 0]
    assert shares[0] == pytest.approx(-1.0)  # the reach has grown to what is there
    assert shares[1] == -1.0  # nothing at all
    assert shares[2] == pytest.approx(1.0)
    assert math.isnan(shares[3])
    assert shares[4] == 1.0
    assert shares[5] == 0.0
    assert scale.shares(np.array([[1e-2], [1.0]]))[0, 0] == pytest.approx(-0.5)  # of 4 decades
    assert scale.shares(np.array([[1e-30], [1e-6], [1.0]]))[1, 0] == pytest.approx(-0.5)  # of 12
    assert Scale("", log=False, reach=0.0, middle=lambda v: 0.0).shares(
        np.array([[-2.0, 1.0]])
    ).tolist() == [[-1.0, 0.5]]


@pytest.mark.parametrize("mode", ["dark", "light"])
def test_the_colours_are_the_themes(mode: str) -> None:
    theme.manager.set_mode(mode)
    ramp = colour_ramp()
    for place, name in ((0, 0), (RAMP, 1), (2 * RAMP, 2)):
        color = QColor(theme.manager.theme.diverging[name])
        assert ramp[place, :3].tolist() == [color.blue(), color.green(), color.red()]


def test_a_cell_is_read_out_and_a_quantity_chosen(card: LayersCard, qtbot: QtBot) -> None:
    assert card.map.isHidden()
    card.show_layers(layers())
    assert not card.map.isHidden()
    assert card.map.count == (3, 4)
    assert "every 10 steps" in card.note.text()
    head, rows = card.map.said(0, 1)
    assert head == "front, step 11"
    assert [row[1:] for row in rows] == [
        ("Gradient norm", "1.00e−6"),
        ("of the last layer's", "1.00e−6"),
    ]
    shades = card.map.shades()
    ramp = colour_ramp()
    assert (shades[2, 0] == ramp[RAMP]).all()
    assert (shades[0, 0] == ramp[0]).all()
    card.choose("dead")
    assert card.map.said(1, 0)[1][0][1:] == ("Dead units", "50.0\u202f%")
    assert card.map.said(2, 0)[1][0][2] == "does not apply"
    card.map.setFocus()
    qtbot.keyClick(card.map, Qt.Key.Key_Right)
    assert "front, step 1" in card.map.accessibleDescription()
    card.grab()  # which lays it out
    place = card.map.cell(1, 2).center()
    assert card.map.place_at(QPointF(place)) == (1, 2)


def test_the_choice_stays_over_news_and_languages(card: LayersCard) -> None:
    card.show_layers(layers())
    card.choose("activation_mean")
    card.show_layers(layers())
    assert card.map.quantity == "activation_mean"
    i18n.set_language("zh")
    assert card.map.quantity == "activation_mean"
    assert card.choice.currentText() == "激活均值"
    card.clear()
    assert card.map.isHidden()


def test_values_are_exported(card: LayersCard, tmp_path: Path) -> None:
    card.show_layers(layers())
    for name in ("layers.csv", "layers.png"):
        card.export(tmp_path / name)
    rows = list(csv.reader((tmp_path / "layers.csv").open(encoding="utf-8")))
    assert rows[0] == ["quantity", "layer", "step", "value"]
    assert ["gradient_norm", "middle", "21", "0.00100000005"] in rows
    assert len(rows) == 1 + len(QUANTITIES) * len(STEPS) * len(LAYERS)


def test_the_plane_is_in_decades_around_the_model(qtbot: QtBot) -> None:
    card = PlaneCard()
    qtbot.addWidget(card)
    card.resize(560, 340)
    card.show()
    assert card.valley.isHidden()
    card.show_plane(plane())
    valley = card.valley
    assert valley.centre == pytest.approx(0.1)
    assert valley._range() == pytest.approx((-2.0, 2.0), rel=1e-5)
    assert valley._share(valley._values())[2, 2] == pytest.approx(0.0, abs=1e-6)
    assert dict(valley.readout(0, 0)) == {
        "right": "−1.00",
        "up": "−1.00",
        "loss": "10.0",
        "of the model's": "100.0",
    }
    assert not card.grab().isNull()
    half = Array("loss_plane", plane().values.copy(), 1, about=plane().about)
    half.values[0] = np.nan
    half.values[1, 0] = np.inf
    card.show_plane(half)
    assert not card.grab().isNull()


def info(status: str, **spec: Any) -> RunInfo:
    return RunInfo(
        id="a1",
        name="a",
        kind="train",
        status=status,
        created="2025-01-01T00:00:00Z",
        spec={"kind": "train", **spec},
    )


def test_a_training_shows_its_instruments_when_it_has_them(qtbot: QtBot) -> None:
    view = TrainView()
    qtbot.addWidget(view)
    assert view.layers.isHidden()
    view.show_run(info("running", diagnostics="off"), Record(), "series:1")
    assert view.layers.isHidden()
    view.show_run(info("running", diagnostics="full"), Record(), "series:1")
    assert not view.layers.isHidden()
    assert view.plane.isHidden()
    assert view.bends.isHidden()
    record = Record(
        scalars={name: ([20], [3.0]) for name in BENDS},
        arrays={"layers": layers(), "loss_plane": plane()},
        tables={"layers": Table("layers", ("layer", *QUANTITIES), ())},
    )
    view.show_run(info("done", diagnostics="full"), record, "series:1")
    assert not view.layers.isHidden()
    assert not view.plane.isHidden()
    assert not view.bends.isHidden()
    assert "layers" not in view.tables
    assert view.bends.curves["top"].value.text()
    view.show_run(info("done", diagnostics="light"), Record(), "series:1")
    assert view.layers.isHidden()
    assert view.bends.isHidden()


def spreads() -> Table:
    rows = (
        ("input_noise", 0.05, 6, 0.95, 0.94, 0.96, 0.005, 0.02, 0.99, 0.01),
        ("seeds", None, 3, 0.93, 0.90, 0.96, 0.03, 0.10, 0.92, 0.08),
    )
    return Table("stability", COLUMNS, rows)


def test_a_stored_stability_is_drawn(qtbot: QtBot, tmp_path: Path) -> None:
    spec = {"kind": "stability", "model": "runs/plain", "seeds": 2, "orders": 3}
    assert detail_of("stability", spec) == "on plain · 3 seeds · 4 batch orders"
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    captions = ({"label": 1, "prediction": 1}, {"label": 0, "prediction": 1})
    columns = ("sample", "label", "prediction", "entropy", "input_noise 0.05", "seeds")
    run = make_run(
        tmp_path / "workspace",
        "stable",
        spec,
        events=(
            Table("classes", ("index", "name"), ((0, "cat"), (1, "dog"))),
            spreads(),
            Table("unstable", columns, ((4, "dog", "dog", 0.9, 0.8, 1.0),)),
            Table("curvature", ("quantity", "value"), (("hessian/top", 3.5),)),
            Images("unstable", pixels, captions),
            Scalars(1, {"hessian/top": 1.0}),
        ),
    )
    view = StabilityView()
    qtbot.addWidget(view)
    view.resize(1100, 700)
    view.show()
    view.show_run(run.info(), load(run), "series:0")
    lines = view.spread.spreads
    assert [one.title for one in lines.spreads] == ["Input noise 0.050", "Seeds"]
    assert view.samples.wrong == 1
    shown = view.tables["stability"].model.rows
    assert shown[0][0] == "Input noise"
    assert shown[1][3] == 93.0
    assert view.tables["unstable"].model.columns[4] == "Input noise 0.05"
    assert view.tables["curvature"].model.rows[0][0] == "Steepest bend of the loss"
    lines.setFocus()
    qtbot.keyClick(lines, Qt.Key.Key_Down)
    qtbot.keyClick(lines, Qt.Key.Key_Down)
    said = lines.accessibleDescription()
    assert said.startswith("Seeds, Accuracy 93.0")
    assert "Answers differ 10.0" in said
    assert not view.grab().isNull()
    rows = list(view.spread.rows())
    assert rows[2][:3] == ("seeds", "", 0.90)
    view.show_nothing()
    assert view.spread.spreads.isHidden()
