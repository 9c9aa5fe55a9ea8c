from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QFileDialog, QLabel, QMessageBox, QVBoxLayout, QWidget
from pytestqt.qtbot import QtBot

from workbench import i18n, theme
from workbench.views.bars import BarsCard
from workbench.views.card import Card
from workbench.views.comparison import Comparison
from workbench.views.curves import CurveCard
from workbench.views.mosaic import Mosaic
from workbench.views.table import Percent, TableCard, cell
from workbench.views.text import number, percent, signed, tick
from workbench.views.widgets import Elided, Segmented, Switch


def test_numbers_read_well() -> None:
    assert number(0.2143) == "0.214"
    assert number(12.345) == "12.3"
    assert number(412_345) == "412\u202f345"
    assert number(0.0002) == "2.00e−4"
    assert number(-0.5) == "−0.500"
    assert number(0.00145) == "0.00145"
    assert number(0.002) == "0.002"
    assert number(0) == "0"
    assert number(float("nan")) == "NaN"
    assert number(-float("inf")) == "−∞"
    assert percent(0.9781) == "97.8\u202f%"
    assert signed("0.1") == "+0.1"
    assert signed("−0.1") == "−0.1"
    assert [tick(v, 0.5) for v in (0, 0.5, -1)] == ["0", "0.5", "−1.0"]
    assert tick(20_000, 5000) == "20k"
    assert [tick(v, 5e5) for v in (2.5e6, -5e9)] == ["2.5M", "−5000M"]
    assert [tick(v, 5e20) for v in (5e20, 1.5e21)] == ["5e20", "1.5e21"]
    assert [tick(v, 0.0005) for v in (0.0005, 0.001)] == ["0.0005", "0.0010"]
    assert tick(2e-5, 1e-5) == "2e−5"


def test_a_card_shows_its_value_and_shortens_its_title_last(qtbot: QtBot) -> None:
    card = Card("Adversarial accuracy")
    qtbot.addWidget(card)
    card.set_note("a remark that is far too long for a card as narrow as this one is")
    card.set_value("97.8 %", "+0.3")
    card.resize(340, 200)
    card.show()
    assert card.value.isVisible()
    assert card.title.width() >= card.title.sizeHint().width()
    assert card.note.width() < card.note.sizeHint().width()
    card.set_value("")
    assert not card.value.isVisible()


def test_elided_text_is_whole_in_its_tool_tip(qtbot: QtBot) -> None:
    label = Elided("a very long name of a run indeed")
    qtbot.addWidget(label)
    label.resize(60, 20)
    label.show()
    assert label.toolTip() == label.text() == label.accessibleName()
    label.resize(600, 20)
    assert label.toolTip() == ""


def test_half_of_a_number_is_never_shown(qtbot: QtBot) -> None:
    label = Elided()
    qtbot.addWidget(label)
    label.show()
    label.setText("256/256 wrong", "256/256", "")
    seen = []
    for width in range(200, 0, -1):
        label.resize(width, 20)
        shown = QLabel.text(label)
        assert label.toolTip() == ("" if shown == "256/256 wrong" else "256/256 wrong")
        if not seen or seen[-1] != shown:
            seen.append(shown)
    assert seen == ["256/256 wrong", "256/256", ""]
    assert label.text() == label.accessibleName() == "256/256 wrong"


def test_a_switch_works_by_hand_and_key(qtbot: QtBot) -> None:
    switch = Switch()
    qtbot.addWidget(switch)
    switch.show()
    qtbot.mouseClick(switch, Qt.MouseButton.LeftButton)
    assert switch.isChecked()
    qtbot.keyClick(switch, Qt.Key.Key_Space)
    assert not switch.isChecked()


def test_segments_work_by_hand_and_key(qtbot: QtBot) -> None:
    tabs = Segmented(["Live", "Compare", "Privacy"])
    qtbot.addWidget(tabs)
    tabs.resize(tabs.sizeHint())
    tabs.show()
    with qtbot.waitSignal(tabs.changed) as changed:
        place = tabs._rects()[2].center().toPoint()
        qtbot.mouseClick(tabs, Qt.MouseButton.LeftButton, pos=place)
    assert changed.args == [2]
    qtbot.keyClick(tabs, Qt.Key.Key_Left)
    assert tabs.current == 1
    assert tabs.accessibleDescription() == "Compare"
    qtbot.keyClick(tabs, Qt.Key.Key_Home)
    qtbot.keyClick(tabs, Qt.Key.Key_Left)
    assert tabs.current == 0
    tabs.set_options(["Only"])
    assert tabs.current == 0


def test_two_bars_say_their_difference(qtbot: QtBot) -> None:
    card = BarsCard("Robust accuracy")
    qtbot.addWidget(card)
    card.resize(320, 180)
    card.show()
    assert not card.view.isVisible()
    card.set_bars([("plain", 0.032, "faint"), ("hardened", 0.874, "series:1")])
    assert card.value.text() == "+84.2 points"
    assert card.view.accessibleDescription() == "plain 3.2\u202f%, hardened 87.4\u202f%"
    image = card.view.grab().toImage()
    colors = {
        image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())
    }
    assert theme.manager.theme.series[1] in colors


def test_a_table_sorts_by_value_and_shows_words(qtbot: QtBot, tmp_path: Path) -> None:
    card = TableCard("Parameters")
    qtbot.addWidget(card)
    card.resize(600, 240)
    card.show()
    assert not card.table.isVisible()
    rows = [("conv", [8, 16, 16], 9000), ("norm", [8, 16, 16], 32), ("head", [10], 12_810)]
    card.set_table(("layer", "output", "parameters"), rows)
    model = card.table.model()
    assert [model.index(row, 0).data() for row in range(3)] == ["conv", "norm", "head"]
    assert model.index(0, 1).data() == "8 × 16 × 16"
    card.table.sortByColumn(2, Qt.SortOrder.AscendingOrder)
    assert [model.index(row, 2).data() for row in range(3)] == ["32", "9\u202f000", "12\u202f810"]
    card.table.selectRow(0)
    qtbot.keyClick(card.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == "norm\t8 × 16 × 16\t32"
    card.export(tmp_path / "table.csv")
    assert list(csv.reader((tmp_path / "table.csv").open()))[1] == ["conv", "8x16x16", "9000"]
    card.clear()
    assert not card.table.isVisible()


def test_a_narrow_table_shortens_texts_and_keeps_its_numbers(qtbot: QtBot) -> None:
    card = TableCard("Parameters")
    qtbot.addWidget(card)
    card.resize(300, 200)
    card.show()
    row = ("a text that is much too long for a card as narrow", "short", 12_345_678)
    card.set_table(("layer", "type", "parameters"), [row])
    header = card.table.horizontalHeader()
    assert header.length() <= card.table.viewport().width()
    assert header.sectionSize(2) >= card.table.sizeHintForColumn(2)
    assert card.table.model().index(0, 0).data(Qt.ItemDataRole.ToolTipRole) == row[0]


def test_what_a_row_is_called_is_not_shortened_for_a_long_value(qtbot: QtBot) -> None:
    card = TableCard("Results")
    qtbot.addWidget(card)
    card.resize(390, 200)
    card.show()
    card.set_table(("Quantity", "Value"), [("Robust accuracy after AutoAttack", "much " * 40)])
    assert card.table.horizontalHeader().sectionSize(0) >= card.table.sizeHintForColumn(0)


def test_a_narrow_card_shows_its_value_rather_than_its_change(qtbot: QtBot) -> None:
    card = Card("Learning rate")
    qtbot.addWidget(card)
    card.set_value("9.72e−8", "−1.01e−4")
    card.show()
    for width, seen in ((230, False), (400, True), (230, False)):
        card.resize(width, 150)
        QApplication.processEvents()
        assert card.delta.isVisible() is seen
        assert card.value.width() >= card.value.sizeHint().width()
        assert card.title.width() >= card.title.sizeHint().width()


@pytest.mark.parametrize(
    ("typed", "kind", "written"),
    [
        ("a.svg", "PNG (*.png)", "a.svg"),
        ("a", "SVG (*.svg)", "a.svg"),
        ("a.1", "PNG (*.png)", "a.1.png"),
        ("", "", None),
    ],
)
def test_a_card_asks_where_to_write(
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    kind: str,
    written: str | None,
) -> None:
    card = Card("Loss / step")
    qtbot.addWidget(card)
    asked: list[str] = []
    files: list[Path] = []

    def choose(parent: QWidget, caption: str, name: str, filters: str) -> tuple[str, str]:
        asked.extend((name, filters))
        return str(tmp_path / typed) if typed else "", kind

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    card.ask_and_write("Export picture", ("png", "svg"), files.append)
    assert asked == ["loss-step.png", "PNG (*.png);;SVG (*.svg)"]
    assert files == ([tmp_path / written] if written else [])


def test_a_card_tells_what_cannot_be_written(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = TableCard("Parameters")
    qtbot.addWidget(card)
    told: list[str] = []
    target = tmp_path / "no such folder" / "a.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), "CSV (*.csv)"))
    monkeypatch.setattr(QMessageBox, "warning", lambda *args: told.append(args[2]))
    card._export.trigger()
    assert told == [f"{target} could not be written: No such file or directory"]


def test_table_columns_fill_the_card(qtbot: QtBot) -> None:
    card = TableCard("Parameters")
    qtbot.addWidget(card)
    card.resize(700, 200)
    card.show()
    card.set_table(("layer", "type"), [("conv", "Conv2d")])
    assert card.table.horizontalHeader().length() >= card.table.viewport().width() - 2
    assert not card.table.horizontalScrollBar().isVisible()


def test_cells_say_what_is_missing_and_what_is_true() -> None:
    assert cell(None) == "–"
    assert cell(True) == "yes"
    assert cell(-1234) == "−1\u202f234"
    assert cell("16x8x8") == cell((16, 8, 8)) == "16 × 8 × 8"
    assert [cell(Percent(1)), cell(Percent(98.66)), cell(1.0)] == ["1.0", "98.7", "1.00"]


def test_no_sign_at_nothing() -> None:
    assert [signed(text) for text in ("0.0", "−0.0", "0.1", "−2")] == ["0.0", "0.0", "+0.1", "−2"]


def everything(qtbot: QtBot) -> QWidget:
    """One of each view, with something in it."""
    rng = np.random.default_rng(0)
    whole = QWidget()
    qtbot.addWidget(whole)
    column = QVBoxLayout(whole)
    curves = CurveCard("Loss")
    for key in ("train", "validation"):
        curves.append(key, range(500), rng.random(500).tolist())
    curves.set_line("budget", 1.2)
    mosaic = Mosaic("Clean")
    mosaic.set_images(rng.integers(0, 255, (24, 8, 8, 1), dtype=np.uint8))
    bars = BarsCard("Accuracy")
    bars.set_bars([("a", 0.2, "accent"), ("b", 0.6, "faint")])
    table = TableCard("Parameters")
    table.set_table(("layer", "parameters"), [("conv", 3)])
    for part in (curves, mosaic, bars, table, Comparison(), Switch(True), Segmented(["a", "b"])):
        column.addWidget(part)
    whole.resize(700, 1200)
    whole.show()
    curves.rest()
    curves.plot.cursor_step = 100
    return whole


def test_painting_loses_no_references_to_none(qtbot: QtBot) -> None:
    """PySide6 6.12 on Python 3.11 loses one a paint override and aborts after minutes."""
    whole = everything(qtbot)
    for _ in range(5):
        whole.grab()
    before = sys.getrefcount(None)
    for _ in range(60):
        whole.grab()
    assert abs(sys.getrefcount(None) - before) < 60


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.6])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_everything_paints_in_every_dress(
    qtbot: QtBot, mode: theme.Mode, scale: float, language: i18n.Language
) -> None:
    whole = everything(qtbot)
    theme.manager.set_mode(mode)
    theme.manager.set_scale(scale)
    i18n.set_language(language)
    assert not whole.grab().isNull()


def test_every_control_has_a_name(qtbot: QtBot) -> None:
    whole = everything(qtbot)
    nameless = [
        child
        for child in whole.findChildren(QWidget)
        if child.focusPolicy() & Qt.FocusPolicy.TabFocus
        and child.isVisible()
        and not child.accessibleName()
        and not isinstance(child, Switch | Segmented)
    ]
    assert not nameless, nameless


def test_no_torch_and_pyqtgraph_for_curves_only() -> None:
    import subprocess

    code = (
        "import sys, workbench.theme, workbench.views.card, workbench.views.comparison,"
        " workbench.views.widgets, workbench.views.table, workbench.views.bars;"
        "assert 'pyqtgraph' not in sys.modules;"
        "import workbench.views.curves;"
        "print({'torch', 'sklearn', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
