"""From the command line to a window on the screen."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from engine.places import default_workspace
from workbench import display, i18n, settings, theme
from workbench.window import Window


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `workbench`."""
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Crucible's window: see how a neural network behaves under fire.",
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        help="where runs are kept; the last one used by default",
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="run this recipe as soon as the window is there"
    )
    parser.add_argument(
        "--theme",
        choices=("system", "light", "dark"),
        help="light or dark, instead of the system's",
    )
    parser.add_argument("--lang", choices=tuple(i18n.LANGUAGES), help="language of the window")
    parser.add_argument(
        "--screenshots",
        type=Path,
        metavar="DIR",
        help="run the recipe, write pictures of every view into DIR, and leave",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="where downloaded data sets are"
    )
    parser.add_argument("--exit-after-first-paint", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Open the window and stay until it is closed; the exit code."""
    options = arguments(argv)
    if options.screenshots is not None:
        display.use_none()
    elif not display.has_display():
        display.refuse("there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")
    with display.explained():
        app = make_app()
    remembered = settings.load()
    if options.screenshots is not None:
        remembered = settings.Settings()  # pictures must not depend on who takes them
    dress(app, remembered, options)
    root = options.workspace or Path(remembered.workspace or default_workspace())
    window = Window(root, remembered, data_root=options.data_root, recipe=options.recipe)
    _close_on_signal(window)
    if options.exit_after_first_paint:
        window.painted.connect(lambda: (print(json.dumps(since_start()), flush=True), app.quit()))
    else:
        window.painted.connect(window.begin)
    if options.screenshots is not None:
        from workbench.screenshots import Photographer

        photographer = Photographer(window, options.screenshots)
        window.resize(1440, 900)
        window.show()
        photographer.start()
        app.exec()
        return photographer.code
    (window.showMaximized if remembered.maximized else window.show)()
    return app.exec()


def make_app() -> QApplication:
    """The application object, named."""
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        app = QApplication(["workbench"])
    app.setApplicationName("Crucible")
    app.setDesktopFileName("crucible")
    return app


def dress(app: QApplication, remembered: settings.Settings, options: argparse.Namespace) -> None:
    """Theme, scale and language, of the command line or else as remembered."""
    mode = options.theme or remembered.theme
    if mode not in ("system", "light", "dark"):
        mode = "system"
    theme.install(app, mode, remembered.scale)
    app.setWindowIcon(theme.icon("crucible", "accent", 64))
    language = options.lang or remembered.language
    if language in i18n.LANGUAGES:
        i18n.set_language(language)


def _close_on_signal(window: Window) -> None:
    """Ctrl-C in the terminal, or a polite kill, closes the window; runs are cancelled."""

    def leave(*_: object) -> None:
        window._leaving = True
        QTimer.singleShot(0, window, window.close)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def since_start() -> dict[str, float]:
    """Seconds since this process was started: on the wall and of the processor."""
    return {"wall": round(_wall(), 3), "cpu": round(time.process_time(), 3)}


def _wall() -> float:
    try:
        after_boot = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        started = int(after_boot) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, AttributeError, IndexError):
        return time.process_time()  # not Linux: at least that
