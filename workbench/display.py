"""Whether a window can be shown here, and what is said where it cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

BAD_INPUT = 2
"""The exit code where there is no display."""
_ELSEWHERE = (
    "Start it on a desktop (over ssh with -X), take pictures with --screenshots DIR, or work "
    "without a window: `engine --help`."
)


def has_display() -> bool:
    """Whether a window can be shown. Elsewhere than on Linux there always is a display."""
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def use_none() -> None:
    """Have Qt draw into memory, unless a person has named another platform."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")


@contextmanager
def explained() -> Iterator[None]:
    """While the application object is made: where Qt would abort the process, as over a display
    that does not answer, one line says so and the process leaves with code 2."""
    from PySide6.QtCore import QtMsgType, qInstallMessageHandler

    said: list[str] = []

    def hear(kind: QtMsgType, context: Any, text: str) -> None:
        if kind == QtMsgType.QtFatalMsg:
            refuse(next((line for line in said if line), text))
        said.append(" ".join(text.split()).rstrip("."))

    before = qInstallMessageHandler(hear)
    try:
        yield
    finally:
        qInstallMessageHandler(before)
    for line in said:
        print(line, file=sys.stderr)


def refuse(why: str) -> NoReturn:
    """Say why there is no window, and leave at once: Qt could only be torn down half made."""
    print(f"workbench: no window can be opened: {why}. {_ELSEWHERE}", file=sys.stderr, flush=True)
    os._exit(BAD_INPUT)
