"""The maps of one sample: what is said, drawn and exported."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from workbench import i18n, theme
from workbench.views.explanation import (
    METHODS,
    Explained,
    ExplanationCard,
    heat,
    in_words,
    read_answer,
)


def said(**fields: Any) -> dict[str, Any]:
    return {
        "label": 1,
        "predictions": [1, 2],
        "missing": "",
        "empty": [False, False],
        "moved": 0.4,
        "places": [[0, 0], [2, 1]],
        "gaps": None,
        "steps": 0,
        "shape": [3, 4, 4],
        **fields,
    }


def found(**fields: Any) -> Explained:
    maps = np.zeros((3, 4, 4), "<f4")
    maps[0, 0, 0], maps[0, 1, 2] = 0.75, -0.25
    maps[1, 3, 1] = 1.0
    maps[2] = np.abs(maps[1]) - np.abs(maps[0])
    return read_answer(said(**fields), maps.tobytes())


@pytest.fixture
def card(qtbot: QtBot) -> ExplanationCard:
    card = ExplanationCard()
    qtbot.addWidget(card)
    card.resize(640, 420)
    card.show()
    return card


def start(card: ExplanationCard) -> None:
    picture = np.full((4, 4, 1), 255, np.uint8)
    card.show_sample(6, picture, picture, ("a", "b", "c"))


def test_what_moved_is_said_in_words() -> None:
    assert in_words(found()) == (
        "40\u202f% of the decision rests on other pixels now: less on the upper left, more on the "
        "bottom."
    )
    assert "nearly the same pixels: 9\u202f%" in in_words(found(moved=0.09))
    assert in_words(found(moved=0.0)) == "Nothing has moved: both pictures are the same."
    assert "of the adversarial picture" in in_words(found(empty=[False, True], moved=None))
    assert "of either picture" in in_words(found(empty=[True, True], moved=None))
    i18n.set_language("zh")
    cause = "The gradient of this model cannot be taken: some step of it is not differentiable (x)."
    assert in_words(found(missing=cause)).startswith("无法求该模型的梯度")
    assert "x" in in_words(found(missing=cause))


def test_colours_say_for_and_against() -> None:
    low, ground, high = (QColor(c) for c in theme.manager.theme.diverging)
    image = heat(np.array([[-1.0, 0.0, 1.0]], np.float32), None)
    assert [image.pixelColor(x, 0) for x in range(3)] == [low, ground, high]
    ghost = heat(np.zeros((2, 2), np.float32), np.zeros((4, 4, 1), np.uint8))
    assert ghost.pixelColor(0, 0).lightness() < ground.lightness()


def test_it_says_what_will_appear_and_then_shows_it(card: ExplanationCard) -> None:
    card.explain("Later.")
    assert card.maps.isHidden()
    start(card)
    assert card.maps.isVisible()
    assert card.note.text() == "#7"
    assert card.more.isHidden()
    card.add("saliency", found())
    assert card.more.isVisible()
    assert "Saliency: 40" in card.maps.accessibleDescription()
    card.clear()
    assert card.maps.isHidden()


def test_the_pixel_under_the_pointer_is_read_out_in_all_maps(
    card: ExplanationCard, qtbot: QtBot
) -> None:
    start(card)
    card.add("saliency", found())
    before = card.maps.grab().toImage()
    box = card.maps._boxes["saliency", 1]
    place = box.topLeft() + (box.bottomRight() - box.topLeft()) * 0.99
    assert card.maps.pixel_at(place) == ("saliency", 3, 3)
    place = QPoint(int(box.left() + box.width() * 0.3), int(box.top() + box.height() * 0.9))
    qtbot.mouseMove(card.maps, place)
    assert card.maps.pointer == ("saliency", 3, 1)
    assert card.maps._pixel_text() == (
        "Saliency, pixel 1, 3: clean 0.00\u202f%, adversarial 100.00\u202f%, moved +100.00\u202f%"
    )
    assert card.maps.grab().toImage() != before
    empty = card.maps._boxes["grad_cam", 0].center()
    assert card.maps.pixel_at(empty) is None


def test_arrow_keys_step_through_the_samples(card: ExplanationCard, qtbot: QtBot) -> None:
    start(card)
    with qtbot.waitSignal(card.maps.stepped) as step:
        qtbot.keyClick(card.maps, Qt.Key.Key_Right)
    assert step.args == [1]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_exports(card: ExplanationCard, tmp_path: Path, mode: str) -> None:
    theme.manager.set_mode(mode)  # type: ignore[arg-type]
    start(card)
    card.add("saliency", found())
    card.add("integrated_gradients", found(gaps=[0.001, 0.002], steps=64))
    card.add("grad_cam", found(missing="No convolution.", moved=None))
    for suffix in ("png", "svg", "csv"):
        card.export(tmp_path / f"e.{suffix}")
    assert card.picture().width() == 2 * card.width()
    assert "What the decision rests on" in (tmp_path / "e.svg").read_text()
    rows = list(csv.reader((tmp_path / "e.csv").open()))
    assert rows[0] == ["method", "row", "column", "clean", "adversarial", "moved"]
    assert len(rows) == 1 + 2 * 16
    assert rows[1] == ["saliency", "0", "0", "0.75", "0.0", "-0.75"]
    with pytest.raises(ValueError):
        card.export(tmp_path / "e.txt")
    with pytest.raises(OSError):
        card.export(tmp_path / "nowhere" / "e.png")


def test_it_is_small_without_harm_and_speaks_chinese(card: ExplanationCard) -> None:
    start(card)
    for method in METHODS:
        card.add(method, found())
    card.resize(280, 240)
    card.grab()
    i18n.set_language("zh")
    assert card.title.text() == "判断的依据"
    card.grab()
