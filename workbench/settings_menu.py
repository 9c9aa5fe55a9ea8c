"""The few settings the window has, as a menu at the gear."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtGui import QActionGroup
from PySide6.QtWidgets import QMenu

from workbench import i18n, theme
from workbench.i18n import tr

if TYPE_CHECKING:
    from workbench.window import Window


def settings_menu(window: Window) -> QMenu:
    """Theme, language, size, panes, workspace."""
    menu = QMenu(window)
    _choices(
        menu.addMenu(theme.icon("sun", "muted", 16), tr("Theme")),
        {"system": tr("As the system"), "light": tr("Light"), "dark": tr("Dark")},
        theme.manager.mode,
        window.set_theme,
    )
    _choices(
        menu.addMenu(theme.icon("language", "muted", 16), tr("Language")),
        dict(i18n.LANGUAGES),
        i18n.language,
        window.set_language,
    )
    size = menu.addMenu(theme.icon("search", "muted", 16), tr("Size of the interface"))
    for text, step in ((tr("Larger"), 1), (tr("Smaller"), -1), (tr("Normal"), 0)):
        size.addAction(text, partial(window.zoom, step))
    panes = menu.addMenu(theme.icon("sidebar", "muted", 16), tr("Panes"))
    for text, pane in (
        (tr("Runs"), "runs"),
        (tr("Configuration"), "inspector"),
        (tr("Log"), "log"),
    ):
        panes.addAction(text, partial(window.fold, pane))
    menu.addSeparator()
    menu.addAction(
        theme.icon("folder", "muted", 16), tr("Open another workspace…"), window.do.choose_workspace
    )
    menu.addAction(theme.icon("keyboard", "muted", 16), tr("Keyboard"), window.show_keys)
    return menu


def _choices(menu: QMenu, texts: dict, now: str, choose: object) -> None:
    group = QActionGroup(menu)
    for value, text in texts.items():
        action = menu.addAction(text)
        action.setCheckable(True)
        action.setChecked(value == now)
        action.triggered.connect(lambda _=False, v=value: choose(v))  # type: ignore[operator]
        group.addAction(action)
