"""Colours, type and icons of the window: every token in one place, light and dark.

`manager.theme` is the theme in force; `manager.changed` is emitted when it, or the scale of the
interface, has changed. What Qt draws follows by the style sheet (`workbench.style`); what we paint
ourselves reads `manager.theme` and `font()` as it paints, and is asked to paint again.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import shiboken6
from PySide6.QtCore import QByteArray, QDir, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QAbstractButton, QApplication, QLabel

from engine import resources

Mode: TypeAlias = Literal["system", "light", "dark"]
Token: TypeAlias = str
"""The name of a colour field of `Theme`."""

SCALES = (0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6)
"""The sizes that Ctrl + and Ctrl - go through."""

FAMILIES = (
    "Inter",
    "Crucible Sans SC",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "sans-serif",
)
MONO = ("JetBrains Mono", "DejaVu Sans Mono", "Menlo", "Consolas", "Noto Sans Mono", "monospace")


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as #rrggbb. Text tokens keep a contrast of 4.5 or more on what they are put on."""

    name: Literal["light", "dark"]
    canvas: str  # behind the cards
    surface: str  # bars and side panes
    card: str
    field: str  # inside of an input
    raised: str  # chips, tracks, what is hovered
    border: str
    line: str  # rules inside a card, weaker than its border
    text: str
    muted: str
    faint: str
    accent: str
    on_accent: str
    success: str
    warning: str
    danger: str
    badge_good: str  # behind the white text of a badge on a picture
    badge_bad: str
    selection: str  # behind what is selected
    warning_soft: str
    danger_soft: str
    success_soft: str
    series: tuple[str, ...]  # told apart by any of the common kinds of colour vision
    diverging: tuple[str, str, str]  # negative, zero (the card's own ground), positive

    @property
    def dark(self) -> bool:
        return self.name == "dark"


LIGHT = Theme(
    name="light",
    canvas="#eef1f5",
    surface="#f8fafc",
    card="#ffffff",
    field="#ffffff",
    raised="#eff3f8",
    border="#d9dfe7",
    line="#e8ecf1",
    text="#18212f",
    muted="#445064",
    faint="#5f6a7d",
    accent="#1f66d6",
    on_accent="#ffffff",
    success="#127a55",
    warning="#96560a",
    danger="#c5302d",
    badge_good="#127a55",
    badge_bad="#c5302d",
    selection="#e3edfc",
    warning_soft="#fdf0d5",
    danger_soft="#fde8e7",
    success_soft="#e0f3ea",
    series=(
        "#1f66d6",
        "#c76a00",
        "#127a55",
        "#b8408f",
        "#0e8aa8",
        "#7a5a10",
        "#6a51c9",
        "#5f6a7d",
    ),
    diverging=("#3b6fe0", "#ffffff", "#d6423f"),
)

DARK = Theme(
    name="dark",
    canvas="#0e1116",
    surface="#14181f",
    card="#181d25",
    field="#12161c",
    raised="#1f2630",
    border="#262d38",
    line="#212833",
    text="#e4e9f0",
    muted="#a9b3c1",
    faint="#8894a5",
    accent="#5b9dff",
    on_accent="#0b1220",
    success="#3dc28a",
    warning="#e8a33d",
    danger="#ff7a6e",
    badge_good="#127a55",
    badge_bad="#c5302d",
    selection="#1b2a44",
    warning_soft="#362a14",
    danger_soft="#3a1f20",
    success_soft="#14302a",
    series=(
        "#5b9dff",
        "#f2a23a",
        "#3dc28a",
        "#e884c4",
        "#4cc9e0",
        "#d8c25a",
        "#a995ff",
        "#a9b3c1",
    ),
    diverging=("#5b8dff", "#181d25", "#ff6b5e"),
)


class Manager(QObject):
    """The theme and scale in force. One exists: `manager`."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.theme: Theme = LIGHT
        self.mode: Mode = "system"
        self.scale: float = 1.0
        self.system_scheme: Callable[[], Qt.ColorScheme] = _system_scheme
        """Says what the system prefers. The offscreen platform says Unknown: tests replace it."""

    def set_mode(self, mode: Mode) -> None:
        """Follow the system, or force light or dark."""
        self.mode = mode
        self.refresh()

    def set_scale(self, scale: float) -> None:
        """Enlarge or shrink everything; `scale` is kept within 0.8 and 1.6."""
        scale = min(max(scale, SCALES[0]), SCALES[-1])
        if scale != self.scale:
            self.scale = scale
            self._apply()

    def step_scale(self, direction: int) -> None:
        """The next larger (+1) or smaller (-1) scale."""
        if direction > 0:
            self.set_scale(min((s for s in SCALES if s > self.scale + 1e-6), default=SCALES[-1]))
        else:
            self.set_scale(max((s for s in SCALES if s < self.scale - 1e-6), default=SCALES[0]))

    def refresh(self) -> None:
        """Look again at what the system prefers; called when that has changed."""
        dark = self.mode == "dark"
        if self.mode == "system":
            dark = self.system_scheme() == Qt.ColorScheme.Dark
        chosen = DARK if dark else LIGHT
        if chosen is not self.theme:
            self.theme = chosen
            self._apply()

    def _apply(self) -> None:
        app = QApplication.instance()
        if isinstance(app, QApplication):
            dress(app, self.theme, self.scale)
        for owner, (name, token, size, gap) in list(_icons.items()):
            if shiboken6.isValid(owner):
                _put_icon(owner, name, token, size, gap)
            else:
                del _icons[owner]
        self.changed.emit()


def _system_scheme() -> Qt.ColorScheme:
    return QApplication.styleHints().colorScheme()


manager = Manager()


def install(app: QApplication, mode: Mode = "system", scale: float = 1.0) -> None:
    """Give `app` its fonts, palette and style sheet, and follow the system from now on."""
    load_fonts()
    QDir.setSearchPaths("icons", [str(resources.path("icons"))])
    app.setStyle("Fusion")
    manager.mode = mode
    manager.scale = min(max(scale, SCALES[0]), SCALES[-1])
    dark = mode == "dark" or (mode == "system" and manager.system_scheme() == Qt.ColorScheme.Dark)
    manager.theme = DARK if dark else LIGHT
    app.styleHints().colorSchemeChanged.connect(manager.refresh)
    manager._apply()


def dress(app: QApplication, theme: Theme, scale: float) -> None:
    """Font, palette and style sheet of `app`, from `theme` and `scale`."""
    from workbench import shell_style, style

    # Replacing a sheet dresses every widget once for each of its parents; taking it away and
    # setting another one dresses each once, in a fifth of the time.
    app.setStyleSheet("")
    app.setFont(font(13))
    app.setPalette(palette(theme))
    app.setStyleSheet(style.sheet(theme, scale) + shell_style.sheet(theme, scale))


@functools.cache
def load_fonts() -> tuple[str, ...]:
    """Register the fonts in `resources/fonts`, once; returns their family names."""
    families: list[str] = []
    for file in sorted(resources.path("fonts").glob("*.otf")):
        number = QFontDatabase.addApplicationFont(str(file))
        families += QFontDatabase.applicationFontFamilies(number) if number >= 0 else []
    return tuple(dict.fromkeys(families))


# --- sizes and type -----------------------------------------------------------------------------


def px(length: float) -> int:
    """`length` in pixels at scale 1, at the present scale; at least 1."""
    return max(1, round(length * manager.scale))


def font(size: float = 13, weight: int = 400, *, mono: bool = False) -> QFont:
    """The interface's font: `size` in pixels at scale 1, `weight` 400, 500, 600 or 700.

    The figures of our Inter are tabular (see resources/fonts/subset.py), so numbers do not dance.
    """
    made = QFont()
    made.setFamilies(list(MONO if mono else FAMILIES))
    made.setPixelSize(px(size))
    made.setWeight(QFont.Weight(weight))
    if mono:
        made.setStyleHint(QFont.StyleHint.Monospace)
    made.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
    return made


def color(token: Token, alpha: float = 1.0) -> QColor:
    """The colour that `token` has now; `alpha` of 1 is opaque.

    A token is a field of `Theme`, "series:3" for the third next to the first of its series
    colours (by turns), or a literal #rrggbb, which does not follow the theme.
    """
    if token.startswith("series:"):
        value = QColor(series_color(int(token.removeprefix("series:"))))
    else:
        value = QColor(token if token.startswith("#") else getattr(manager.theme, token))
    value.setAlphaF(alpha)
    return value


def series_color(index: int) -> str:
    """The colour of the run at `index` of those that are shown, by turns."""
    return manager.theme.series[index % len(manager.theme.series)]


def palette(theme: Theme) -> QPalette:
    """What Qt itself paints with, where the style sheet does not say."""
    made = QPalette()
    role = QPalette.ColorRole
    for at, value in (
        (role.Window, theme.surface),
        (role.WindowText, theme.text),
        (role.Base, theme.field),
        (role.AlternateBase, theme.raised),
        (role.Text, theme.text),
        (role.Button, theme.card),
        (role.ButtonText, theme.text),
        (role.BrightText, theme.danger),
        (role.Highlight, theme.accent),
        (role.HighlightedText, theme.on_accent),
        (role.Link, theme.accent),
        (role.LinkVisited, theme.accent),
        (role.ToolTipBase, theme.card),
        (role.ToolTipText, theme.text),
        (role.PlaceholderText, theme.faint),
        (role.Light, theme.raised),
        (role.Midlight, theme.line),
        (role.Mid, theme.border),
        (role.Dark, theme.border),
        (role.Shadow, theme.canvas),
        (role.Accent, theme.accent),
    ):
        made.setColor(at, QColor(value))
    for at in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, at, QColor(theme.faint))
    return made


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, definition of contrast ratio)."""

    def luminance(name: str) -> float:
        c = QColor(name)
        parts = [c.redF(), c.greenF(), c.blueF()]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


# --- icons --------------------------------------------------------------------------------------

_icons: weakref.WeakKeyDictionary[QAbstractButton | QLabel, tuple[str, Token, int, int]] = (
    weakref.WeakKeyDictionary()
)


def icon(name: str, token: Token = "text", size: int = 18, gap: int = 0) -> QIcon:
    """The icon `resources/icons/NAME.svg` in the colour of `token` (or #rrggbb), as it is now.

    It does not follow a change of theme; give it to a button by `set_icon` for that.
    """
    made = QIcon(_beside(pixmap(name, token, size), gap))
    made.addPixmap(_beside(pixmap(name, "faint", size), gap), QIcon.Mode.Disabled)
    return made


def _beside(picture: QPixmap, gap: int) -> QPixmap:
    """The picture with `gap` of nothing on its right."""
    if not gap:
        return picture
    wide = QPixmap(picture.width() + 2 * px(gap), picture.height())
    wide.setDevicePixelRatio(picture.devicePixelRatio())
    wide.fill(Qt.GlobalColor.transparent)
    painter = QPainter(wide)
    painter.drawPixmap(0, 0, picture)
    painter.end()
    return wide


def pixmap(name: str, token: Token = "text", size: int = 18) -> QPixmap:
    """An icon as a picture, sharp on screens with up to two device pixels a pixel."""
    return _render(name, color(token).name(), px(size))


@functools.lru_cache(512)
def _render(name: str, colour: str, side: int) -> QPixmap:
    source = _source(name).replace("currentColor", colour)
    drawn = QPixmap(side * 2, side * 2)
    drawn.fill(Qt.GlobalColor.transparent)
    painter = QPainter(drawn)
    QSvgRenderer(QByteArray(source.encode())).render(painter, QRectF(0, 0, side * 2, side * 2))
    painter.end()
    drawn.setDevicePixelRatio(2)
    return drawn


@functools.cache
def _source(name: str) -> str:
    return resources.path("icons", f"{name}.svg").read_text(encoding="utf-8")


def set_icon(
    owner: QAbstractButton | QLabel,
    name: str,
    token: Token = "text",
    size: int = 18,
    *,
    gap: int = 0,
) -> None:
    """Show the icon on `owner`, and draw it anew whenever the theme or scale changes.

    `gap` is room between the icon and a text beside it, beyond the little that Qt leaves.
    """
    _icons[owner] = (name, token, size, gap)
    _put_icon(owner, name, token, size, gap)


def _put_icon(
    owner: QAbstractButton | QLabel, name: str, token: Token, size: int, gap: int
) -> None:
    if isinstance(owner, QLabel):
        owner.setPixmap(pixmap(name, token, size))
        return
    made = icon(name, token, size, gap)
    owner.setIconSize(QSize(px(size) + (px(gap) if gap else 0), px(size)))
    owner.setIcon(made)
