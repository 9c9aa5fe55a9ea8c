"""Ctrl-C, a closed terminal and a polite kill: what they do to a command, whenever they come.

Three ways, from the outside in: `leaving` while modules are imported and things are read, where
nothing is half done; `unwinding` while a file is written; `Stop` while runs are made and run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

CODE = 130
"""Exit code of what a person stopped."""

Handler = Callable[[int, Any], Any]


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ctrl-C ends the process at once and silently. An exception could come out of the middle of
    somebody's import, which turns it into another one, or prints it."""
    with _handling("SIGINT", lambda *_: os._exit(CODE)):
        yield


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, so that what is half written is removed."""
    with _handling("SIGINT", signal.default_int_handler):
        yield


class Stop:
    """While it is entered, the first signal is only noted in `asked`, for the run to stop at its
    next step. Ctrl-C after that kills. (A terminal that closes may well say so twice.)"""

    def __init__(self) -> None:
        self.asked: Literal["", "cancelled", "interrupted"] = ""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Stop:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            self._stack.enter_context(_handling(name, self._hear))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _hear(self, number: int, frame: object) -> None:
        if not self.asked:
            self.asked = "cancelled" if number == signal.SIGINT else "interrupted"
        elif number == signal.SIGINT:
            _show_cursor()
            os._exit(CODE)


@contextlib.contextmanager
def _handling(name: str, handler: Handler) -> Iterator[None]:
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    main = threading.current_thread() is threading.main_thread()
    # What whoever started us chose to ignore (nohup, a job in the background) stays ignored.
    if number is None or not main or signal.getsignal(number) in (signal.SIG_IGN, None):
        yield
        return
    old = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, old)


def _show_cursor() -> None:
    """The progress bar hides it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
