"""Finding commands by what a person types."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from workbench.commands import Command, Palette, matching, score


def named(*titles: str) -> list[Command]:
    return [Command(title, title, lambda: None) for title in titles]


def test_beginnings_before_middles_before_scattered() -> None:
    found = matching(named("Open a recipe…", "Unexported", "Export encrypted…"), "exp")
    assert [c.title for c in found] == ["Export encrypted…", "Unexported"]


@pytest.mark.parametrize(
    ("query", "text"),
    [("ee", "Export encrypted"), ("nr", "New run"), ("fold log", "Fold the log away")],
)
def test_letters_in_order_are_found(query: str, text: str) -> None:
    assert score(query, text) > 0


def test_scattered_letters_of_a_long_text_are_not() -> None:
    assert score("zzz", "Export encrypted") == 0
    assert score("xyd", "Export encrypted") == 0


def test_nothing_typed_finds_all_in_order() -> None:
    commands = named("b", "a")
    assert matching(commands, "") == commands


def test_disabled_commands_are_not_offered() -> None:
    off = Command("stop", "Stop", lambda: None, enabled=lambda: False)
    assert matching([off], "stop") == []


def test_palette_takes_what_is_chosen_by_keyboard(qtbot) -> None:
    window = QWidget()
    qtbot.addWidget(window)
    window.resize(900, 600)
    window.show()
    called: list[str] = []
    palette = Palette(window)
    palette.open(
        [
            Command("one", "Open one", lambda: called.append("one")),
            Command("two", "Open two", lambda: called.append("two")),
        ]
    )
    qtbot.keyClicks(palette.field, "open")
    qtbot.keyClick(palette.field, Qt.Key.Key_Down)
    qtbot.keyClick(palette.field, Qt.Key.Key_Return)
    assert called == ["two"]
    assert not palette.isVisible()
    palette.open([Command("one", "Open one", lambda: called.append("one"))])
    qtbot.keyClicks(palette.field, "nothing like it")
    assert palette.nothing.isVisible()
    qtbot.keyClick(palette.field, Qt.Key.Key_Escape)
    assert not palette.isVisible()
    assert called == ["two"]
