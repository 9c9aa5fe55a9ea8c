from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QImage
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from engine.events import Images
from workbench import theme
from workbench.views import pictures
from workbench.views.comparison import Comparison
from workbench.views.mosaic import Link, Mosaic, describe
from workbench.views.pictures import arrange


def captions(count: int, wrong: int, norm: float = 0.0) -> tuple[dict[str, Any], ...]:
    made = []
    for index in range(count):
        label = index % 10
        prediction = (label + 1) % 10 if index < wrong else label
        probabilities = [0.02] * 10
        probabilities[prediction] = 0.82
        made.append(
            {
                "label": label,
                "prediction": prediction,
                "correct": prediction == label,
                "probabilities": probabilities,
                "norm": norm,
            }
        )
    return tuple(made)


def pixels(count: int, side: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def frame(name: str, step: int, wrong: int = 0, count: int = 24) -> Images:
    scale = 0.3 if name == "perturbation" else None
    return Images(
        name, pixels(count, seed=step), captions(count, wrong, 0.3), step, scale, keep=True
    )


@pytest.fixture
def comparison(qtbot: QtBot) -> Comparison:
    made = Comparison()
    qtbot.addWidget(made)
    made.set_classes([f"class {index}" for index in range(10)])
    made.resize(900, 320)
    made.show()
    made.show_images(frame("clean", 0))
    for step in range(5):
        made.show_images(frame("adversarial", step, wrong=step))
        made.show_images(frame("perturbation", step))
    return made


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 24, 100, 256])
@pytest.mark.parametrize("area", [(200, 240), (700, 90), (64, 400), (1000, 1000)])
def test_every_tile_is_inside_and_apart(count: int, area: tuple[int, int]) -> None:
    grid = arrange(count, (8, 8), area, 2, 140)
    places = [grid.place(index) for index in range(count)]
    for left, top, width, height in places:
        assert left >= 0
        assert top >= 0
        if grid.tile_width > 1:
            assert left + width <= area[0] + 1
            assert top + height <= area[1] + 1
    assert len({(left, top) for left, top, _, _ in places}) == count
    for index, (left, top, width, height) in enumerate(places):
        assert grid.index_at(left + width / 2, top + height / 2, count) == index
    assert grid.index_at(-5, -5, count) == -1


def test_tiles_are_whole_multiples_where_that_wastes_little() -> None:
    grid = arrange(24, (8, 8), (200, 240), 2, 140)
    assert grid.crisp
    assert grid.tile_width % 8 == 0


def test_a_crisp_mosaic_shows_the_very_pixels() -> None:
    source = pixels(6, side=4)
    grid = arrange(6, (4, 4), (120, 90), 2, 140)
    image = pictures.compose(pictures.pack(source, None), grid, (120, 90), 0xFFABCDEF)
    for index in range(6):
        left, top, width, _ = grid.place(index)
        factor = int(width // 4)
        for row in range(4):
            for column in range(4):
                at = (int(left) + column * factor, int(top) + row * factor)
                value = int(source[index, row, column, 0])
                assert image.pixelColor(*at) == QColor(value, value, value)
    assert image.pixelColor(0, 0).name() == "#abcdef" or grid.left == 0


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_no_perturbation_is_the_cards_own_ground(mode: Any) -> None:
    theme.manager.set_mode(mode)
    negative, zero, positive = theme.manager.theme.diverging
    assert zero == theme.manager.theme.card
    shown = pictures.pack(np.array([[[[128], [255], [1]]]], dtype=np.uint8), 0.3)[0, 0]
    assert [QColor(int(c)).name() for c in shown] == [zero, positive, negative]


def test_colour_pictures_keep_their_channels() -> None:
    packed = pictures.pack(np.array([[[[10, 20, 30]]]], dtype=np.uint8), None)
    assert packed[0, 0, 0] == 0xFF0A141E


# --- one mosaic ---------------------------------------------------------------------------------


def test_a_wrong_prediction_is_said_by_more_than_colour(qtbot: QtBot) -> None:
    card = Mosaic("Adversarial")
    qtbot.addWidget(card)
    card.resize(300, 320)
    card.show()
    card.set_images(pixels(24), captions(24, wrong=3))
    assert card.wrong == 3
    assert card.note.text() == "3/24 wrong"
    for width in range(300, 80, -10):
        card.resize(width, 320)
        assert QLabel.text(card.note) in ("3/24 wrong", "3/24", "")
    card.resize(300, 320)
    text = describe(captions(1, wrong=1)[0], ["cat", "dog"])
    assert text == "true class cat, predicted dog ✕"
    badge_good = card.view._stamp("1", True, 40)
    badge_bad = card.view._stamp("1", False, 40)
    assert badge_good is not None
    assert badge_bad is not None
    assert badge_bad.width() > badge_good.width(), "the wrong one carries a cross"
    assert card.view._stamp("a long name", True, 20) is None
    assert card.view._stamp("a long name", False, 20) is not None


def test_arrows_move_the_selection(qtbot: QtBot) -> None:
    card = Mosaic("Clean")
    qtbot.addWidget(card)
    card.resize(260, 320)
    card.show()
    card.set_images(pixels(24), captions(24, 0))
    columns = card.view.grid().columns
    link = card.view.link
    for key, expected in (
        (Qt.Key.Key_Right, 1),
        (Qt.Key.Key_Down, 1 + columns),
        (Qt.Key.Key_Left, columns),
        (Qt.Key.Key_Up, 0),
        (Qt.Key.Key_Left, 0),
    ):
        qtbot.keyClick(card.view, key)
        assert link.selected == expected
    assert card.view.accessibleDescription().startswith("#1 · true class 0, predicted 0")


def test_a_smaller_set_takes_the_selection_back(qtbot: QtBot) -> None:
    card = Mosaic("Clean")
    qtbot.addWidget(card)
    card.set_images(pixels(24))
    card.view.link.select(20)
    card.set_images(pixels(4))
    assert card.view.link.selected == 0
    card.clear()
    assert not card.view.isVisibleTo(card)


def test_zoom_keeps_the_pointer_where_it_was(qtbot: QtBot) -> None:
    card = Mosaic("Clean")
    qtbot.addWidget(card)
    card.resize(300, 340)
    card.show()
    card.set_images(pixels(24))
    at = card.view.tile(9).center()
    card.view._zoom(2.0, at)
    assert card.view.index_at(at) == 9
    assert card.view.tile(9).width() > 60
    qtbot.keyClick(card.view, Qt.Key.Key_Home)
    assert card.view.link.zoom == 1.0


def test_a_mosaic_exports(qtbot: QtBot, tmp_path: Path) -> None:
    card = Mosaic("Clean")
    qtbot.addWidget(card)
    card.resize(300, 340)
    card.show()
    card.set_images(pixels(24), captions(24, 2))
    card.export(tmp_path / "clean.png")
    assert QImage(str(tmp_path / "clean.png")).width() == card.view.width()
    with pytest.raises(OSError):
        card.export(tmp_path / "none" / "clean.png")


@pytest.mark.parametrize("size", [(90, 90), (400, 120), (1200, 900)])
@pytest.mark.parametrize("shape", [(1, 8, 1), (24, 28, 1), (256, 28, 1), (24, 32, 3), (3, 224, 3)])
def test_any_size_can_be_painted(
    qtbot: QtBot, size: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    card = Mosaic("Clean")
    qtbot.addWidget(card)
    card.resize(*size)
    card.show()
    count, side, channels = shape
    card.set_images(pixels(count, side, channels), captions(count, 1))
    card.repaint()
    assert not card.view.grab().isNull()


# --- linked -------------------------------------------------------------------------------------


def test_mosaics_arrange_alike(comparison: Comparison) -> None:
    views = [comparison.clean.view, comparison.adversarial.view, comparison.perturbation.view]
    assert len({(v.grid().columns, v.grid().tile_width) for v in views}) == 1


def test_selecting_in_one_selects_in_all(comparison: Comparison, qtbot: QtBot) -> None:
    view = comparison.adversarial.view
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=view.tile(3).center().toPoint())
    assert comparison.selected == 3
    assert comparison.clean.view.link is view.link is comparison.perturbation.view.link
    assert comparison.magnifier.note.text().endswith("#4")
    bars = comparison.magnifier.bars
    assert (bars.label, bars.prediction) == (3, 4)


def test_hovering_and_zooming_are_linked(comparison: Comparison, qtbot: QtBot) -> None:
    clean, moved = comparison.clean.view, comparison.perturbation.view
    before = moved.grab().toImage()
    qtbot.mouseMove(clean, clean.tile(7).center().toPoint())
    assert comparison.link.hovered == 7
    assert moved.grab().toImage() != before
    clean._zoom(3.0, QPointF(40, 40))
    assert moved.tile(0).width() == pytest.approx(clean.tile(0).width())
    assert moved.tile(0).width() > 60


def test_live_frames_can_be_replayed_at_once(comparison: Comparison, qtbot: QtBot) -> None:
    replay = comparison.magnifier.replay
    assert replay.label.text() == "4/4"
    replay.slider.setValue(1)
    assert comparison.adversarial.wrong == 1
    np.testing.assert_array_equal(comparison.perturbation.view.pixels, pixels(24, seed=1))
    comparison.show_images(frame("adversarial", 5, wrong=5))
    assert replay.slider.value() == 1, "a person looking back is not disturbed"
    replay.slider.setValue(replay.slider.maximum())
    comparison.show_images(frame("adversarial", 6, wrong=6))
    assert comparison.adversarial.wrong == 6
    assert replay.at_end


def test_replay_plays_to_the_end_and_stops(comparison: Comparison, qtbot: QtBot) -> None:
    replay = comparison.magnifier.replay
    seen: list[int] = []
    replay.moved.connect(seen.append)
    replay._timer.setInterval(1)
    qtbot.mouseClick(replay.button, Qt.MouseButton.LeftButton)
    assert replay.playing
    replay._timer.setInterval(1)
    qtbot.waitUntil(lambda: not replay.playing, timeout=3000)
    assert seen == [0, 1, 2, 3, 4]


def test_hiding_stops_the_replay(comparison: Comparison) -> None:
    comparison.magnifier.replay.toggle()
    assert comparison.magnifier.replay.playing
    comparison.hide()
    assert not comparison.magnifier.replay.playing


def test_stored_frames_replace_live_ones(comparison: Comparison) -> None:
    comparison.set_frames(
        [frame("adversarial", step, wrong=2 * step) for step in (2, 0, 1)],
        [frame("perturbation", step) for step in range(3)],
    )
    assert comparison.magnifier.replay.label.text() == "2/2"
    assert comparison.adversarial.wrong == 4
    comparison.clear()
    assert comparison.magnifier.replay.label.text() == ""
    assert not comparison.magnifier.portraits.isVisibleTo(comparison.magnifier)


def test_a_new_attack_starts_over(comparison: Comparison) -> None:
    comparison.show_images(frame("adversarial", 0))
    assert comparison.magnifier.replay.slider.maximum() == 0


def test_the_norm_is_named(comparison: Comparison) -> None:
    comparison.set_norm("l2")
    assert comparison.magnifier.note.text().startswith("L2") or "₂" in (
        comparison.magnifier.note.text()
    )
    assert "0.3" in comparison.magnifier.note.text()


def test_most_probable_classes_are_shown_where_not_all_fit(comparison: Comparison) -> None:
    bars = comparison.magnifier.bars
    bars.show_probabilities([0.01 * i for i in range(100)], (), [], label=2, prediction=99)
    shown = bars.shown(5)
    assert len(shown) == 5
    assert shown[0] == 99
    assert 2 in shown


@pytest.mark.parametrize(("width", "columns"), [(500, 2), (900, 4)])
def test_layout_follows_the_width(comparison: Comparison, width: int, columns: int) -> None:
    comparison.resize(width, 600)
    tops = {card.y() for card in comparison.cards}
    comparison._grid.activate()
    tops = {card.y() for card in comparison.cards}
    assert len(tops) == 4 // columns


def test_a_link_stays_within_the_whole() -> None:
    link = Link()
    link.look(4.0, QPointF(2.0, -1.0))
    assert (link.origin.x(), link.origin.y()) == (0.75, 0.0)
    link.look(0.1, QPointF(0.5, 0.5))
    assert (link.zoom, link.origin.x()) == (1.0, 0.0)


def test_the_arrangement_is_the_largest_and_stays_while_a_card_changes_a_little() -> None:
    wide = arrange(24, (8, 8), (175, 400), 2, 240)
    factors = [
        min((175 - 2 * (c - 1)) / c, (400 - 2 * (-(-24 // c) - 1)) / -(-24 // c))
        for c in range(1, 25)
    ]
    assert wide.tile_width >= 0.8 * max(factors)
    edge = next(
        h for h in range(400, 200, -1) if arrange(24, (8, 8), (175, h), 2, 240).columns != 3
    )
    assert arrange(24, (8, 8), (175, edge), 2, 240, keep=3).columns == 3
    assert arrange(24, (8, 8), (175, edge // 2), 2, 240, keep=3).columns > 3


def test_what_was_wrong_anyway_is_marked_as_not_attacked(qtbot: QtBot) -> None:
    comparison = Comparison()
    qtbot.addWidget(comparison)
    pixels = np.full((2, 8, 8, 1), 128, np.uint8)
    moved = pixels.copy()
    moved[0] = 200
    captions = ({"label": 1, "prediction": 1}, {"label": 1, "prediction": 2})
    comparison.resize(900, 400)
    comparison.show()
    comparison.show_images(Images("clean", pixels, captions))
    comparison.show_images(Images("adversarial", pixels, captions, 1))
    comparison.show_images(Images("perturbation", moved, (), 1, 0.3))
    view = comparison.perturbation.view
    comparison.link.hover(1)
    assert "not attacked" in view.toolTip()
    comparison.link.hover(0)
    assert view.toolTip() == ""
    seen = view.picture().toImage()
    ratio = view.devicePixelRatioF()
    middle = view.tile(1).center() * ratio
    dash = seen.pixelColor(int(middle.x()), int(middle.y())).name()
    assert dash == theme.color("faint").name()
