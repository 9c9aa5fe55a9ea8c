from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import combinations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFontDatabase, QFontInfo, QFontMetricsF, QRawFont
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine import resources
from workbench import theme
from workbench.theme import DARK, LIGHT, Theme, contrast

ICONS = sorted(path.stem for path in resources.path("icons").glob("*.svg"))
NEEDED = {
    *("flask", "shield", "lock", "import", "compare", "gear", "play", "pause", "stop", "step"),
    *("search", "sun", "moon", "folder", "trash", "more", "plus", "check", "cross", "warning"),
    *("chevron-down", "chevron-up", "chevron-left", "chevron-right", "download", "image", "eye"),
    *("keyboard", "present", "undo", "redo", "copy", "note"),
}


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=lambda look: look.name)
def test_text_can_be_read_on_everything_it_is_put_on(look: Theme) -> None:
    grounds = ("canvas", "surface", "card", "field", "raised", "selection")
    for token in ("text", "muted"):
        for ground in grounds:
            ratio = contrast(getattr(look, token), getattr(look, ground))
            assert ratio >= 4.5, (token, ground, ratio)
    pairs = [(token, ground) for token in ("faint", "accent") for ground in ("card", "surface")]
    pairs += [("faint", "canvas"), ("on_accent", "accent"), ("accent", "selection")]
    pairs += [(token, g) for token in ("success", "warning", "danger") for g in ("card", "surface")]
    pairs += [(token, f"{token}_soft") for token in ("success", "warning", "danger")]
    for token, ground in pairs:
        ratio = contrast(getattr(look, token), getattr(look, ground))
        assert ratio >= 4.5, (token, ground, ratio)
    for badge in (look.badge_good, look.badge_bad):
        assert contrast("#ffffff", badge) >= 4.5


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=lambda look: look.name)
def test_series_stand_out_and_differ_for_a_colour_blind_eye(look: Theme) -> None:
    assert len(look.series) == 8
    for color in look.series:
        assert contrast(color, look.card) >= 3
    for first, second in combinations(look.series[:4], 2):
        assert _distance(_deuteranope(first), _deuteranope(second)) > 20, (first, second)


def _deuteranope(name: str) -> tuple[float, float, float]:
    """Vienot, Brettel and Mollon 1999, for missing green cones, on linear RGB."""
    c = QColor(name)
    r, g, b = (v**2.2 for v in (c.redF(), c.greenF(), c.blueF()))
    mixed = 0.29275 * r + 0.70725 * g
    blue = -0.02234 * r + 0.02234 * g + b
    return (mixed, mixed, max(blue, 0.0))


def _distance(first: tuple[float, float, float], second: tuple[float, float, float]) -> float:
    """Difference of two linear colours in CIE L*a*b*."""

    def lab(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
        r, g, b = rgb
        x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
        x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    return sum((p - q) ** 2 for p, q in zip(lab(first), lab(second))) ** 0.5


def test_follows_the_system_unless_forced(
    system_scheme: Callable[[Qt.ColorScheme], None], qtbot: QtBot
) -> None:
    manager = theme.manager
    manager.set_mode("system")
    assert manager.theme is LIGHT
    with qtbot.waitSignal(manager.changed):
        system_scheme(Qt.ColorScheme.Dark)
    assert manager.theme is DARK
    manager.set_mode("light")
    assert manager.theme is LIGHT
    manager.set_mode("system")
    assert manager.theme is DARK
    system_scheme(Qt.ColorScheme.Unknown)
    assert manager.theme is LIGHT


def test_scale_steps_and_stays_in_bounds() -> None:
    manager = theme.manager
    for _ in range(20):
        manager.step_scale(1)
    assert manager.scale == 1.6
    assert theme.px(10) == 16
    for _ in range(20):
        manager.step_scale(-1)
    assert manager.scale == 0.8
    assert theme.font(13).pixelSize() == 10


def test_scale_and_theme_reach_widgets(qtbot: QtBot) -> None:
    label = QLabel("Run")
    qtbot.addWidget(label)
    label.ensurePolished()
    small, light = QFontInfo(label.font()).pixelSize(), label.palette().windowText().color()
    theme.manager.set_scale(1.6)
    theme.manager.set_mode("dark")
    label.ensurePolished()
    assert QFontInfo(label.font()).pixelSize() == round(13 * 1.6) > small
    assert label.palette().windowText().color() != light


def test_all_icons_are_there() -> None:
    assert set(ICONS) >= NEEDED


@pytest.mark.parametrize("name", ICONS)
def test_icon_is_drawn_in_the_colour_asked_for(name: str) -> None:
    source = ElementTree.fromstring(resources.path("icons", f"{name}.svg").read_text("utf-8"))
    assert source.get("viewBox") == "0 0 24 24"
    picture = theme.pixmap(name, "#123456", 24).toImage()
    inked = [
        picture.pixelColor(x, y)
        for x in range(picture.width())
        for y in range(picture.height())
        if picture.pixelColor(x, y).alpha() == 255
    ]
    assert len(inked) > 20
    if not name.startswith("indicator-"):
        assert QColor("#123456") in inked


def test_icon_on_a_button_follows_the_theme(qtbot: QtBot) -> None:
    button = QPushButton()
    qtbot.addWidget(button)
    theme.set_icon(button, "stop", "text", 20)
    before = button.icon().pixmap(20, 20).toImage()
    theme.manager.set_mode("dark")
    assert button.icon().pixmap(20, 20).toImage() != before


def test_room_between_icon_and_text(qtbot: QtBot) -> None:
    button = QPushButton("Start run")
    qtbot.addWidget(button)
    theme.set_icon(button, "stop", "text", 20)
    close = button.sizeHint().width()
    theme.set_icon(button, "stop", "text", 20, gap=4)
    assert button.sizeHint().width() == close + 4
    assert button.iconSize().height() == 20


def test_fonts_load_with_their_weights_and_licence() -> None:
    families = theme.load_fonts()
    assert "Inter" in families
    assert "Crucible Sans SC" in families
    assert {400, 500, 600, 700} <= {
        int(QFontDatabase.weight("Inter", style)) for style in QFontDatabase.styles("Inter")
    }
    assert QFontInfo(theme.font(13, 600)).family().startswith("Inter")
    assert "SIL OPEN FONT LICENSE" in resources.path("fonts", "OFL.txt").read_text("utf-8")


@pytest.mark.parametrize("weight", [400, 500, 600, 700])
def test_figures_are_tabular(weight: int) -> None:
    metrics = QFontMetricsF(theme.font(20, weight))
    widths = {round(metrics.horizontalAdvance(digit), 3) for digit in "0123456789"}
    assert len(widths) == 1


def test_chinese_font_covers_the_translations() -> None:
    """If this fails, a translation has grown: run resources/fonts/subset.py (it says how)."""
    texts = json.loads(resources.path("translations", "zh.json").read_text("utf-8"))
    shown = {c for c in json.dumps(texts, ensure_ascii=False) if ord(c) >= 0x2E80}
    for weight in ("Regular", "Bold"):
        font = QRawFont(str(resources.path("fonts", f"CrucibleSansSC-{weight}.otf")), 13)
        missing = "".join(sorted(c for c in shown if not font.supportsCharacter(ord(c))))
        assert not missing, f"{weight}: {missing}"
    size = sum(path.stat().st_size for path in resources.path("fonts").glob("Crucible*.otf"))
    assert size < 800 * 1024


def test_a_missing_resource_says_so() -> None:
    with pytest.raises(FileNotFoundError, match=r"icons/no-such\.svg is missing"):
        resources.path("icons", "no-such.svg")
