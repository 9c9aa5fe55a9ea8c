"""The plane through a sample: what is known of it, drawn, read out and exported."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from workbench import i18n, theme
from workbench.views.surface import MARGIN, Grid, SurfaceCard, hearts

SIDE = 9


def said(**fields: Any) -> dict[str, Any]:
    return {
        "label": 0,
        "side": SIDE,
        "reach": 0.4,
        "norm": "linf",
        "distance": 0.3,
        "eps": 0.3,
        "ball": [(0.3, 0.0), (0.0, 0.3), (-0.3, 0.0), (0.0, -0.3)],
        "start": 0,
        "points": [SIDE**2, 6],
        **fields,
    }


def points(strides: tuple[int, ...] = (4, 2, 1)) -> list[list[float]]:
    """Coarse to fine; the right third is another class. Loss is 10 * column + row."""
    found, known = [], set()
    for stride in strides:
        for row in range(0, SIDE, stride):
            for column in range(0, SIDE, stride):
                if (row, column) not in known:
                    known.add((row, column))
                    label = float(column >= 6)
                    found.append([row, column, stride, 10 * column + row, 3 - column, label])
    return found


def payload(rows: list[list[float]]) -> bytes:
    return np.array(rows, "<f4").tobytes()


@pytest.fixture
def card(qtbot: QtBot) -> SurfaceCard:
    card = SurfaceCard()
    qtbot.addWidget(card)
    card.begin(2, ("cat", "dog"))
    card.resize(640, 420)
    card.show()
    return card


def fill(card: SurfaceCard, **fields: Any) -> None:
    card.take_in(said(**fields), payload(points()))


def test_a_coarse_point_stands_for_its_surroundings_until_they_are_known() -> None:
    grid = Grid.of(said())
    rows = np.array(points((4, 2, 1)))
    coarse = rows[rows[:, 2] == 4]
    grid.take_in(coarse)
    assert np.isfinite(grid.loss).all()
    assert grid.loss[0, 0] == grid.loss[1, 1] == 0
    assert grid.loss[4, 8] == grid.loss[4, 7] == 84
    assert grid.known.sum() == 9
    grid.take_in(rows[rows[:, 2] < 4])
    assert grid.complete
    expected = 10 * np.arange(SIDE)[None] + np.arange(SIDE)[:, None]
    assert (grid.loss == expected).all()


def test_cells_and_points_belong_together() -> None:
    grid = Grid.of(said())
    assert grid.place(4, 4) == (0, 0)
    assert grid.place(8, 0) == pytest.approx((-0.4, 0.4))
    for cell in np.ndindex(SIDE, SIDE):
        assert grid.cell(*grid.place(*cell)) == cell
    assert grid.cell(0.46, 0) is None


def test_regions_are_named_at_their_hearts() -> None:
    label = np.zeros((9, 9), np.int64)
    label[:, 6:] = 1
    label[0, 0] = 2
    found = {name: (row, column) for name, row, column in hearts(label)}
    assert set(found) == {0, 1}
    assert found[1] == (4, 7)
    assert label[found[0]] == 0
    assert hearts(np.full((9, 9), -1)) == []


def test_it_appears_with_the_first_points(card: SurfaceCard) -> None:
    card.explain("Later.")
    assert card.surface.isHidden()
    first = [row for row in points() if row[2] == 4]
    card.take_in(said(points=[len(first), 6]), payload(first))
    assert card.surface.isVisible()
    assert card.note.text() == "#3 · 9 / 81"
    assert card.more.isHidden()
    rest = [row for row in points() if row[2] < 4]
    card.take_in(said(points=[len(rest), 6], start=9), payload(rest))
    assert card.note.text() == "#3 · 9 × 9"
    assert card.more.isVisible()


def test_a_cell_is_drawn_where_its_point_is(card: SurfaceCard) -> None:
    fill(card)
    card.surface.grab()
    surface = card.surface
    for cell in ((0, 0), (4, 4), (2, 7), (8, 8)):
        assert surface.cell_at(surface._at(surface._field, *surface.grid.place(*cell))) == cell
    assert surface.cell_at(QPointF(1, 1)) is None


def test_high_loss_and_wrong_classes_are_red(card: SurfaceCard) -> None:
    fill(card)
    red, blue = (QColor(theme.manager.theme.diverging[at]) for at in (2, 0))
    image = card.surface._colours()
    assert image.pixelColor(8, 0) == red  # the last row of the grid is the uppermost
    assert image.pixelColor(0, 8) == QColor(theme.manager.theme.diverging[1])
    card.choice.set_current(MARGIN)
    image = card.surface._colours()
    assert image.pixelColor(8, 4) == red
    assert image.pixelColor(0, 4).blue() > image.pixelColor(0, 4).red()
    assert blue.blue() > blue.red()


def test_what_is_not_finite_is_a_hole(card: SurfaceCard) -> None:
    rows = points()
    rows[-1][3:] = [float("nan"), float("nan"), -1]
    card.take_in(said(), payload(rows))
    assert card.surface._colours().pixelColor(7, 0) == theme.color("raised")
    assert dict(card.surface.readout(8, 7))["predicted"] == "not finite"
    card.surface.grab()


def test_keys_move_the_read_out(card: SurfaceCard, qtbot: QtBot) -> None:
    fill(card)
    surface = card.surface
    surface.setFocus()
    qtbot.keyClick(surface, Qt.Key.Key_Right)
    qtbot.keyClick(surface, Qt.Key.Key_Up)
    qtbot.keyClick(surface, Qt.Key.Key_Right)
    assert surface.pointer == (5, 6)
    words = dict(surface.readout(5, 6))
    assert words == {
        "along": "0.200",
        "across": "0.100",
        "loss": "65.0",
        "margin": "−3.00",
        "predicted": "dog",
    }
    assert surface.accessibleDescription().startswith("along 0.200, across 0.100")
    surface.grab()
    qtbot.keyClick(surface, Qt.Key.Key_Escape)
    assert surface.pointer is None
    with qtbot.waitSignal(surface.stepped) as step:
        qtbot.keyClick(surface, Qt.Key.Key_PageDown)
    assert step.args == [1]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("ball", [True, False])
def test_exports(card: SurfaceCard, tmp_path: Path, mode: str, ball: bool) -> None:
    theme.manager.set_mode(mode)  # type: ignore[arg-type]
    fill(card, **({} if ball else {"ball": [], "eps": None}))
    for suffix in ("png", "svg", "csv"):
        card.export(tmp_path / f"e.{suffix}")
    drawing = (tmp_path / "e.svg").read_text()
    assert "along the attack (L∞ distance)" in drawing
    assert ("the ball of" in drawing) == ball
    rows = list(csv.reader((tmp_path / "e.csv").open()))
    assert rows[0] == ["along", "across", "loss", "margin", "predicted"]
    assert len(rows) == 1 + SIDE**2
    assert rows[1] == ["-0.4", "-0.4", "0", "3", "0"]
    assert rows[-1] == ["0.4", "0.4", "88", "-5", "1"]


def test_it_is_small_without_harm_and_speaks_chinese(card: SurfaceCard) -> None:
    fill(card)
    card.resize(280, 220)
    card.grab()
    i18n.set_language("zh")
    assert card.title.text() == "样本周围的损失"
    card.grab()
