"""What is drawn of a generator and its critic in the plane, without a run."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter
from pytestqt.qtbot import QtBot

from tests.workbench.played import plane_events
from workbench import i18n, theme
from workbench.views.codes import Codes, CodesCard
from workbench.views.dots import ROOM, draw_dots, stamped
from workbench.views.latent_square import LatentSquare, mixed
from workbench.views.modes import ModesCard
from workbench.views.scene import GENERATED, LAYERS, PULL, Ground, Scene, SceneCard, extent_of
from workbench.views.seeds import SeedsCard, Small
from workbench.views.timeline import Timeline


def scene(**given: object) -> Scene:
    said = {event.name: event.values for event in plane_events()}
    known = {name: said[name][0] for name in ("generated", "surface", "arrows", "manifold")}
    return Scene(**{"extent": (-1.6, 1.6, -1.6, 1.6), "real": said["real"], **known, **given})  # type: ignore[arg-type]


@pytest.fixture
def card(qtbot: QtBot) -> SceneCard:
    card = SceneCard()
    qtbot.addWidget(card)
    card.resize(480, 480)
    card.show()
    card.show_scene(scene())
    card.drawing.repaint()
    return card


def test_dots_are_stamped_where_they_lie_and_those_outside_leave_no_trace():
    places = np.array([[10.4, 20.7], [10.4, 20.7], [-5.0, 3.0], [400.0, 3.0], [np.nan, 1.0]])
    image = stamped(places, (60, 40), QColor("#ff0000"), 2.0)
    seen = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), -1, 4)[..., 3]
    rows, columns = np.nonzero(seen)
    assert rows.mean() - ROOM == pytest.approx(20, abs=0.01)
    assert columns.mean() - ROOM == pytest.approx(10, abs=0.01)
    assert seen[20 + ROOM, 10 + ROOM] == 255
    # The area of a disc, whose edge is soft.
    assert seen.sum() / 255 == pytest.approx(math.pi * 2**2, rel=0.1)


def test_stamped_dots_look_like_painted_ones(qtbot: QtBot):
    """Against Qt's own round points, each painted by itself."""
    random = np.random.default_rng(0)
    places = np.floor(random.uniform(0, 100, (40, 2))) + 0.5
    found = []
    for exact in (False, True):
        image = QImage(100, 100, QImage.Format.Format_RGB32)
        image.fill(QColor("white"))
        painter = QPainter(image)
        area = QRectF(0, 0, 100, 100)
        draw_dots(painter, area, places, QColor("black"), 3.0, exact=exact)
        painter.end()
        grey = image.convertToFormat(QImage.Format.Format_Grayscale8)
        rows = np.frombuffer(grey.constBits(), np.uint8).reshape(100, grey.bytesPerLine())
        found.append(255.0 - rows[:, :100])
    assert found[0].sum() == pytest.approx(found[1].sum(), rel=0.06)
    assert np.abs(found[0] - found[1]).mean() < 6


def test_both_axes_have_the_same_scale_and_places_are_found_again():
    ground = Ground((-2.0, 2.0, -1.0, 1.0), QRectF(10, 20, 300, 400))
    assert ground.field.width() == 300
    assert ground.field.height() == 150
    assert ground.pixel(0, 0) == ground.field.center()
    assert ground.pixel(-2, 1) == ground.field.topLeft()
    for place in ((0.3, -0.7), (-1.9, 0.9)):
        assert ground.place(ground.pixel(*place)) == pytest.approx(place)


def test_what_the_critic_says_is_read_between_its_points():
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64))
    plane = Scene((-1, 1, -1, 1), surface=(0.5 + 0.3 * x - 0.1 * y).astype(np.float32))
    for at in ((0.0, 0.0), (0.123, -0.456), (-1.0, 1.0), (0.999, 0.999)):
        assert plane.critic_at(*at) == pytest.approx(0.5 + 0.3 * at[0] - 0.1 * at[1], abs=1e-5)
    assert plane.critic_at(1.01, 0) is None
    assert Scene((-1, 1, -1, 1)).critic_at(0, 0) is None


def test_a_score_is_coloured_between_its_own_ends_and_nothing_breaks_on_nan():
    surface = np.array([[-3.0, 1.0], [np.nan, 5.0]], np.float32)
    assert Scene((0, 1, 0, 1), surface=surface, probability=False).range == (-3.0, 5.0)
    flat = np.full((2, 2), 7.0, np.float32)
    assert Scene((0, 1, 0, 1), surface=flat, probability=False).range == (6.5, 7.5)
    lost = np.full((2, 2), np.nan, np.float32)
    assert Scene((0, 1, 0, 1), surface=lost, probability=False).range == (0.0, 1.0)


def test_the_ground_has_the_colour_of_what_the_critic_takes_it_for(qtbot: QtBot):
    """Left of the middle it says generated, right of it real; up is up."""
    card = SceneCard()
    qtbot.addWidget(card)
    card.resize(480, 480)
    card.set_colors("#ff0000", "#0000ff")
    surface = np.zeros((64, 64), np.float32)
    surface[:, 32:] = 1.0  # right
    surface[:16] = 0.5  # low
    card.show_scene(Scene((-1, 1, -1, 1), surface=surface))
    card.show()
    picture = card.drawing.grab().toImage()
    ground = card.drawing.ground
    assert ground is not None

    def at(x: float, y: float) -> QColor:
        return picture.pixelColor(ground.pixel(x, y).toPoint())

    assert at(-0.5, 0.5).blue() > at(-0.5, 0.5).red() + 40
    assert at(0.5, 0.5).red() > at(0.5, 0.5).blue() + 40
    assert at(0.5, -0.8).name() == theme.color("card").name()


def test_the_pointer_and_the_keys_read_out_a_place(card: SceneCard, qtbot: QtBot):
    view = card.drawing
    assert view.ground is not None
    assert card.scene is not None
    at = QPointF(*view.ground.pixels(card.scene.generated[7]).tolist())
    near = view._nearest(at)
    assert np.allclose(card.scene.generated[near], card.scene.generated[7], atol=0.01)
    head, rows = view.said_at(at, near)
    assert head.startswith("generated point ")
    x, y = card.scene.generated[near].tolist()
    said = card.scene.critic_at(*view.ground.place(at))
    assert said is not None
    assert rows[-1][1:] == ("Critic: real", f"{said * 100:.1f}\u202f%")
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_Right)
    first = view.accessibleDescription()
    qtbot.keyClick(view, Qt.Key.Key_Up)
    assert view.accessibleDescription() != first
    assert "Critic: real" in first
    qtbot.keyClick(view, Qt.Key.Key_Escape)
    assert view.pointer is None


def test_layers_are_switched_off_and_on_by_buttons_with_names(card: SceneCard):
    before = card.drawing.grab().toImage()
    assert [button.accessibleName() for button in card.layers.values()] == list(LAYERS.values())
    card.layers[GENERATED].click()
    card.layers[PULL].click()
    without = card.drawing.grab().toImage()
    assert without != before
    card.layers[GENERATED].click()
    card.layers[PULL].click()
    assert card.drawing.grab().toImage() == before


def test_a_layer_that_is_not_known_cannot_be_chosen(card: SceneCard):
    card.show_scene(scene(arrows=None))
    assert not card.layers[PULL].isEnabled()
    assert card.layers[GENERATED].isEnabled()


@pytest.mark.parametrize("suffix", ["png", "svg", "csv"])
def test_it_is_exported(card: SceneCard, tmp_path: Path, suffix: str):
    target = tmp_path / f"scene.{suffix}"
    card.export(target)
    if suffix != "csv":
        assert target.stat().st_size > 5000
        return
    rows = list(csv.DictReader(target.open(encoding="utf-8")))
    counts = {layer: sum(row["layer"] == layer for row in rows) for layer in LAYERS}
    assert counts == {"critic": 4096, "real": 512, "generated": 512, "grid": 81, "pull": 64}
    assert card.scene is not None
    first = next(row for row in rows if row["layer"] == "pull")
    found = [float(first[name]) for name in ("x", "y", "dx", "dy")]
    assert found == pytest.approx(card.scene.arrows[0].tolist())


def test_without_a_scene_it_says_what_will_appear(qtbot: QtBot):
    card = SceneCard()
    qtbot.addWidget(card)
    assert "Press Start run" in card._empty.text()
    i18n.set_language("zh")
    assert card.layers[GENERATED].text() == "生成"


def test_the_extent_is_a_square_around_the_points():
    points = np.array([[0.0, 0.0], [4.0, 2.0], [np.nan, 1.0]], np.float32)
    x0, x1, y0, y1 = extent_of([points], 0.5)
    assert (x1 - x0, y1 - y0) == (6.0, 6.0)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == (2.0, 1.0)
    assert extent_of([]) == (-1.0, 1.0, -1.0, 1.0)


def test_modes_without_a_sample_are_counted_and_read_out(qtbot: QtBot):
    card = ModesCard()
    qtbot.addWidget(card)
    card.resize(360, 240)
    card.set_modes([0.5, 0.0, 0.5], [1 / 3] * 3, ["a", "b", "c"])
    card.show()
    assert card.note.text() == "1 without a sample"
    card.drawing.grab()
    card.drawing.setFocus()
    qtbot.keyClick(card.drawing, Qt.Key.Key_Home)
    qtbot.keyClick(card.drawing, Qt.Key.Key_Right)
    words = card.drawing.accessibleDescription()
    assert words == "mode b, Samples 0.0\u202f%, Data 33.3\u202f%"
    card.set_modes([0.4, 0.2, 0.4], [1 / 3] * 3, ["a", "b", "c"])
    assert card.note.text() == ""
    assert [row[1] for row in card.rows()][1:] == ["0.4", "0.2", "0.4"]


def test_seeds_are_picked_by_click_and_keys(qtbot: QtBot):
    card = SeedsCard()
    qtbot.addWidget(card)
    card.resize(800, 180)
    card.set_seeds([Small(5 + k, scene(), None, f"{k} modes", k == 2) for k in range(8)])
    card.show()
    boxes = card.drawing.boxes(QRectF(card.drawing.rect()))
    assert len({box.top() for box in boxes}) == 1  # one strip
    with qtbot.waitSignal(card.picked) as picked:
        qtbot.mouseClick(card.drawing, Qt.MouseButton.LeftButton, pos=boxes[3].center().toPoint())
    assert picked.args == [3]
    card.drawing.choose(3)
    assert card.drawing.accessibleDescription() == "seed 8, 3 modes"
    with qtbot.waitSignal(card.picked) as picked:
        qtbot.keyClick(card.drawing, Qt.Key.Key_Right)
    assert picked.args == [4]
    assert len(list(card.rows())) == 1 + 8 * 512


def test_the_timeline_goes_along_until_a_person_goes_back(qtbot: QtBot):
    line = Timeline()
    qtbot.addWidget(line)
    line.set_steps([0, 100, 200])
    assert line.step is None
    assert line.slider.accessibleDescription() == "step 200"
    line.slider.setValue(1)
    assert line.step == 100
    line.set_steps([0, 100, 200, 300])  # more has come: what is looked at stays
    assert line.step == 100
    line.newest.click()
    assert line.step is None
    assert line.slider.value() == 3
    line.go_to(250)
    assert line.step == 200


def test_between_four_latents_the_way_is_an_arc():
    """Against the formula for a single pair, and the corners themselves."""
    corners = np.array([[1.0, 0, 8, 0], [0, 1.0, 0, 8], [-1.0, 0, 8, 0], [0, -1.0, 0, 8]])
    zero, one, half = np.array([0.0]), np.array([1.0]), np.array([0.5])
    for k, (right, down) in enumerate(((zero, zero), (one, zero), (zero, one), (one, one))):
        assert mixed(corners, right, down, 2)[0] == pytest.approx(corners[k])
    middle = mixed(corners, half, zero, 2)[0]
    assert middle[:2] == pytest.approx([math.sqrt(0.5)] * 2)  # on the circle, not its chord
    assert middle[2:] == pytest.approx([4, 4])  # codes go straight
    same = np.repeat(corners[:1], 4, 0)
    assert mixed(same, half, half, 2)[0] == pytest.approx(corners[0])  # no arc between equals


def test_the_latent_square_is_dragged_and_moved_by_keys(qtbot: QtBot):
    square = LatentSquare()
    qtbot.addWidget(square)
    square.resize(500, 260)
    pixels = np.zeros((49, 8, 8, 1), np.uint8)
    square.set_plane(pixels)
    square.set_one(pixels[0])
    square.show()
    square.grab()
    field = square._field
    with qtbot.waitSignal(square.moved) as moved:
        corner = field.topLeft() + QPointF(field.width() / 4, field.height() / 2)
        qtbot.mouseClick(square, Qt.MouseButton.LeftButton, pos=corner.toPoint())
    assert moved.args == pytest.approx([0.25, 0.5], abs=0.02)
    with qtbot.waitSignal(square.moved):
        qtbot.keyClick(square, Qt.Key.Key_Down)
    qtbot.keyClick(square, Qt.Key.Key_Home)
    assert (square.at.x(), square.at.y()) == (0.5, 0.5)
    square.place(QPointF(3, -3))
    assert (square.at.x(), square.at.y()) == (1.0, 0.0)


def test_codes_are_drawn_by_class_in_front_of_the_prior(qtbot: QtBot, tmp_path: Path):
    card = CodesCard()
    qtbot.addWidget(card)
    card.resize(420, 420)
    assert "appear here" in card._empty.text()
    random = np.random.default_rng(0)
    places = random.normal(0, 1, (60, 2)).astype(np.float32)
    prior = random.normal(0, 2, (100, 2)).astype(np.float32)
    labels = tuple(k % 3 for k in range(60))
    card.show_codes(Codes(places, labels, ("cat", "dog", "fox"), prior))
    card.show()
    card.drawing.grab()
    ground = card.drawing.ground
    assert ground is not None
    near = card.drawing.nearest(QPointF(*ground.pixels(places[4]).tolist()))
    assert np.allclose(places[near], places[4], atol=0.05)
    card.drawing.setFocus()
    qtbot.keyClick(card.drawing, Qt.Key.Key_Right)
    assert card.drawing.lit == 0
    assert card.drawing.accessibleDescription() == "cat"
    qtbot.keyClick(card.drawing, Qt.Key.Key_Escape)
    assert card.drawing.lit is None
    target = tmp_path / "codes.csv"
    card.export(target)
    rows = list(csv.reader(target.open(encoding="utf-8")))
    assert len(rows) == 1 + 60 + 100
    assert rows[2][:2] == ["code", "dog"]
