"""The window's tests run without a screen, in the light theme, and leave nothing running."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shiboken6
from PySide6.QtCore import QCoreApplication, QEvent, Qt, QThread, QThreadPool, QTimer
from PySide6.QtWidgets import QApplication

from workbench import i18n, theme


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that leaves a thread, a timer or a pool's job behind (as napari's tests do)."""
    started: list[Any] = []

    def watched(start: Callable[..., Any]) -> Callable[..., Any]:
        def starts(self: Any, *args: Any, **kwargs: Any) -> Any:
            started.append(self)
            return start(self, *args, **kwargs)

        return starts

    for cls in (QThread, QTimer, QThreadPool):
        monkeypatch.setattr(cls, "start", watched(cls.start))
    yield
    if QCoreApplication.instance() is not None:
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    left = [repr(item) for item in started if shiboken6.isValid(item) and _is_busy(item)]
    for item in started:
        if shiboken6.isValid(item) and isinstance(item, QTimer):
            item.stop()
    assert not left, f"the test left behind: {', '.join(left)}"


def _is_busy(item: QThread | QTimer | QThreadPool) -> bool:
    if isinstance(item, QThread):
        return item.isRunning()
    if isinstance(item, QTimer):
        return item.isActive()
    return item.activeThreadCount() > 0


@pytest.fixture(autouse=True)
def look(qapp: QApplication) -> Iterator[None]:
    """Every test begins light, at scale 1, in English, whatever the one before did."""
    theme.manager.system_scheme = lambda: Qt.ColorScheme.Light
    if not qapp.styleSheet():
        theme.install(qapp, "light")
    _reset()
    yield
    _reset()


def _reset() -> None:
    theme.manager.system_scheme = lambda: Qt.ColorScheme.Light
    theme.manager.set_scale(1.0)
    theme.manager.set_mode("light")
    i18n.set_language("en")


@pytest.fixture
def system_scheme() -> Callable[[Qt.ColorScheme], None]:
    """Pretends that the system prefers a colour scheme: offscreen it says Unknown."""

    def prefer(scheme: Qt.ColorScheme) -> None:
        theme.manager.system_scheme = lambda: scheme
        theme.manager.refresh()

    return prefer
