"""Opening and leaving real windows in tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from workbench.session import Session
from workbench.settings import Settings
from workbench.window import Window

Open: TypeAlias = Callable[..., Window]


@pytest.fixture
def open_window(qtbot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a window on `workspace` (a new one by default), with its engine process or, with
    `engine=False`, without one. What is left open at the end is cancelled and closed."""

    def leave(window: Window) -> None:
        if not window.isHidden():
            window.cancel_and_close()
            qtbot.waitUntil(window.isHidden, timeout=20_000)

    def make(workspace: Path | None = None, *, engine: bool = True) -> Window:
        with monkeypatch.context() as patch:
            if not engine:
                patch.setattr(Session, "start_engine", lambda self: None)
            settings = Settings(path=tmp_path / "window.json")
            window = Window(workspace or tmp_path / "workspace", settings)
            qtbot.addWidget(window, before_close_func=leave)
            window.painted.connect(window.begin)
            with qtbot.waitSignal(window.loaded, timeout=20_000):
                window.show()
        return window

    return make
