"""Pictures of the window as a person sees it: the start page and every view, light and dark.

`workbench --screenshots DIR [--recipe FILE]` takes them; it drives the real window with the real
engine, and leaves with the exit code that `engine run` would have given for the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QApplication, QWidget

from workbench import theme
from workbench.window import DETAILS, LIVE, START, Window

SETTLE_MS = 250
"""How long the window is left alone before a picture."""
READY_MS, PREVIEW_MS = 60_000, 10_000
"""How long the engine may take to start, and to answer what the form asks."""
POLL_MS = 50
MODES: tuple[theme.Mode, ...] = ("light", "dark")
DONE, FAILED, BAD_INPUT, REJECTED, CANCELLED = 0, 1, 2, 3, 130
CODES = {"done": DONE, "rejected": REJECTED, "cancelled": CANCELLED}

Until = Callable[[], bool]
Steps: TypeAlias = Iterator[tuple[Until, int]]


class Photographer(QObject):
    """Walks through the window. Each step says what to wait for before the next."""

    def __init__(self, window: Window, folder: Path) -> None:
        super().__init__(window)
        self.window, self.folder = window, folder
        self.code = FAILED
        self._over = False
        self._steps: Steps = iter(())
        self._waited = 0
        self._until: Until = _at_once
        self._patience = 0
        self._timer = QTimer(self, interval=POLL_MS)
        self._timer.timeout.connect(self._poll)
        window.settled.connect(self._settled)

    def start(self) -> None:
        """Begin when the window is loaded; the application ends when all is done."""
        self._steps = self._walk()
        self._timer.start()

    def _poll(self) -> None:
        self._waited += POLL_MS
        if not self._until() and self._waited < self._patience:
            return
        try:
            self._until, self._patience = next(self._steps)
            self._waited = 0
        except StopIteration:
            self._timer.stop()
            self.window.cancel_and_close()
            QTimer.singleShot(0, QApplication.exit)
        except OSError as error:
            print(f"no picture could be written: {error}", flush=True)
            self.code = FAILED
            self._timer.stop()
            self.window.cancel_and_close()
            QTimer.singleShot(0, QApplication.exit)

    def _settled(self) -> None:
        self._over = True

    def _walk(self) -> Steps:
        window = self.window
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe, window.recipe = window.recipe, None
        yield (lambda: window.ready), READY_MS
        if recipe is not None and not window.do.is_recipe(recipe):
            print(window.banner.text, flush=True)
            self.code = BAD_INPUT
            return
        yield (lambda: bool(window.session.device)), READY_MS
        window.go(START)
        yield from self._in_both(lambda: self._picture("start"))
        self.code = DONE
        if recipe is not None:
            window.do.run_recipe(recipe)
            yield (lambda: self._over), 24 * 3600 * 1000
            self.code = self._outcome()
        window.following = False
        yield from self._in_both(self._views)

    def _views(self) -> Steps:
        window = self.window
        for kind in window.panels:
            info = window.newest(kind)
            window.tab = LIVE
            if info is not None:
                window.show_run(info.id)
            else:
                window.show_new(kind)
            yield from self._picture(kind)
        infos = window.session.book.infos()
        accurate = [info.id for info in infos if "clean_accuracy" in info.summary]
        if accurate:
            window.session.book.compare_only(sorted(accurate))
        window.go("compare")
        yield from self._picture("compare")
        if infos:
            window.show_run(infos[0].id)
            window.turn(DETAILS)
            yield from self._picture("details")
        window.show_new("train")
        yield (lambda: _has_preview(window)), PREVIEW_MS
        yield from self._picture("new")
        if window.do.exportable() is not None and not window.session.read_only:
            window.do.export()
            yield from self._picture("export-dialog", window.do.export_dialog)
            if window.do.export_dialog is not None:
                window.do.export_dialog.close()

    def _in_both(self, steps: Callable[[], Steps]) -> Steps:
        """The same in each theme: all of one first, for a change restyles every view there is."""
        before = theme.manager.mode
        for mode in MODES:
            theme.manager.set_mode(mode)
            yield from steps()
        theme.manager.set_mode(before)

    def _picture(self, name: str, widget: QWidget | None = None) -> Steps:
        yield _never, SETTLE_MS
        path = self.folder / f"{name}-{theme.manager.mode}.png"
        if not (widget or self.window).grab().save(str(path)):
            raise OSError(f"{path} cannot be written to")

    def _outcome(self) -> int:
        """The exit code for how the recipe's runs ended."""
        infos = [self.window.info(run_id) for run_id in self.window.last_batch]
        codes = [CODES.get(info.status, FAILED) for info in infos if info is not None]
        return max(codes, default=FAILED)


def _has_preview(window: Window) -> bool:
    facts = getattr(window.view("train"), "facts", None)
    return facts is None or bool(facts.model.rows)


def _at_once() -> bool:
    return True


def _never() -> bool:
    return False
