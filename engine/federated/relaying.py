"""A federation whose server is another process: what it says, as lines of JSON, and back to events.

Each line is an object: an event, `{"summary": ...}` at the end, `{"cancelled": true}`, `{"failed":
..., "exit_code": ...}` for what a person can act on, or `{"file": ..., "data": ...}`, a piece of a
file in base64, where the folder of the run is not the server's.

In the log of a run, where others write as well, such a line begins with MARK, and so does one that
says that a private round begins.
"""

from __future__ import annotations

import base64
import binascii
import json
import queue
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.bench import Bench
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Saved, from_message, to_message
from engine.models.card import LEARNT
from engine.privacy.canaries import FILE as CANARIES
from engine.task import Steps, Summary

PIECE = 48 * 1024
"""Bytes of a file in a line."""
LARGEST = 256 * 2**20
"""Bytes of a file that is sent in lines at most."""
FILES = ("model.safetensors", LEARNT, CANARIES)
"""What a server sends into the run's folder, besides captured updates. Nothing else of the folder
is its to write: what the run has spent is there, too."""
UPDATE = re.compile(r"updates/[\w-]+\.safetensors", re.ASCII)
LAST_WORDS = 5.0
"""Seconds that a server has to hand over what it has, when the run is cancelled."""
MARK = "crucible: "
BEGUN = re.compile(rf"^{MARK}begun ([0-9]{{1,9}})$", re.MULTILINE)
"""Of a log. What a client says is never a line by itself: it comes in JSON."""

Say = Callable[[Mapping[str, Any]], None]


# --- the lines of a log ---------------------------------------------------------------------------


def marked(text: str) -> str:
    """A line of ours for a log, where somebody may have left another unfinished."""
    return f"\n{MARK}{text}\n"


def begun(number: int) -> str:
    """The line that says that a private round begins."""
    return marked(f"begun {number}")


def rounds_begun(log: str) -> int:
    """How many rounds had begun, by a log or a piece of it; 0 where it tells of none."""
    return max(map(int, BEGUN.findall(log)), default=0)


# --- at the server --------------------------------------------------------------------------------


def tell(steps: Steps, say: Say, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Run a task, and say what it says. Raises what it raises, said before."""
    asked, shown = False, None
    try:
        event = next(steps)
        while True:
            if event != shown:  # whoever listens repeats the progress itself
                say(to_message(event)[0])
            if isinstance(event, Progress):
                shown = event
            if not asked and cancelled():
                asked = True
                event = steps.throw(Cancelled())
            else:
                event = next(steps)
    except StopIteration as end:
        say({"summary": end.value})
    except Cancelled:
        say({"cancelled": True})
    except CrucibleError as error:
        say({"failed": str(error), "exit_code": error.exit_code})
        raise
    except Exception as error:
        say({"failed": f"the server failed: {type(error).__name__}: {error}", "exit_code": 1})
        raise


def with_files(say: Say, folder: Path) -> Say:
    """`say` that sends the files that are said to be saved, before it says so, and at the end what
    a private run learnt from and what its canaries saw. Those above LARGEST stay where they are,
    which a note tells. (Its ledger is kept by who is told: `engine.federated.charging`.)"""

    def said(body: Mapping[str, Any]) -> None:
        if "summary" in body:
            for name in (LEARNT, CANARIES):
                if (folder / name).is_file():
                    for piece in _pieces(name, folder / name):
                        say(piece)
        if body.get("event") == "saved":
            path = folder / body["path"]
            if path.stat().st_size > LARGEST:
                text = f"{body['name']} stays at the server, in {path}: it is too large to be sent"
                say(to_message(Note("warning", text))[0])
                return
            for piece in _pieces(body["path"], path):
                say(piece)
        say(body)

    return said


def _pieces(name: str, path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        first = True
        while (data := file.read(PIECE)) or first:
            yield {"file": name, "data": base64.b64encode(data).decode(), "first": first}
            first = False


# --- at the engine --------------------------------------------------------------------------------


class Source(Protocol):
    """Whoever has the server's lines."""

    def next(self, seconds: float) -> str | None:
        """The next line, waiting so long; raises queue.Empty. None: there are no more."""

    def cancel(self) -> bool:
        """Have the server stop; whether it can hand over what it has."""

    def stopping(self, seconds: float) -> bool:
        """Whether one that hands over nothing more is still to be stopped, waiting so long for
        that."""

    def explain(self) -> CrucibleError:
        """Why there are no more lines, though nothing was said of an end; asked when it is
        stopped."""


def relayed(source: Source, bench: Bench, waiting: str) -> Steps:
    """What the server says, as a task's own events. Until it says something, `waiting` is what the
    progress tells.

    Cancelled, it hands over what the server does, or raises Cancelled where that gives nothing.
    Raises CrucibleError or BadInput for what the server cannot do, or where it is gone. Whatever it
    raises, the server is stopped before.
    """
    shown = Progress(0, 0, waiting)
    deadline = float("inf")
    heard = False
    try:
        while time.monotonic() < deadline:
            try:
                body = _heard(source, bench.burst)
                heard = heard or body is not None
                if body is not None and "summary" in body:
                    summary: Summary = body["summary"]
                    return summary
                if body is not None and "cancelled" in body:
                    break
                event = shown if body is None else _taken(body, bench.folder)
                if isinstance(event, Progress):
                    shown = event
                if event is not None:
                    yield event
            except Cancelled:
                if not source.cancel() or not heard:
                    raise
                deadline = min(deadline, time.monotonic() + LAST_WORDS)
        raise Cancelled
    except (Cancelled, CrucibleError, EOFError) as end:
        while source.stopping(bench.burst):
            yield shown
        if isinstance(end, EOFError):
            raise source.explain() from None
        raise


def _heard(source: Source, seconds: float) -> Mapping[str, Any] | None:
    """What is said next; None if nothing is for so long. Raises EOFError where that was all."""
    try:
        line = source.next(seconds or 0.001)
    except queue.Empty:
        return None
    if line is None:
        raise EOFError
    try:
        body = json.loads(line)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _taken(body: Mapping[str, Any], folder: Path) -> Event | None:
    """The event that a line holds, or None for a line that is done with."""
    if "failed" in body:
        raise (BadInput if body.get("exit_code") == 2 else CrucibleError)(str(body["failed"]))
    try:
        if "file" in body:
            _write(body, folder)
            return None
        event = from_message(body)
        if isinstance(event, Saved):
            _place(event.path, folder)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CrucibleError(
            f"the server said something that cannot be read ({error}); is it of another version?"
        ) from None
    if isinstance(event, Saved) and not (folder / event.path).is_file():
        raise CrucibleError(f"{event.name} did not arrive from the server")
    return event


def _write(body: Mapping[str, Any], folder: Path) -> None:
    """Take up a piece of a file."""
    path = _place(body["file"], folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb" if body["first"] else "ab") as file:
        file.write(base64.b64decode(body["data"], validate=True))


def _place(name: str, folder: Path) -> Path:
    """Where a file lies that a server may send. Raises ValueError for any other."""
    if name not in FILES and not UPDATE.fullmatch(name):
        raise ValueError(f"a file that is not its to write, {name[:100]!r}")
    return folder / name


def present(grid: Any, clients: int, seconds: float) -> Generator[Event, None, None]:
    """Wait until so many nodes are there. Who is missing is told by whoever asks them."""
    end = time.monotonic() + seconds
    while (there := len(list(grid.get_node_ids()))) < clients and time.monotonic() < end:
        yield Progress(there, clients, "nodes")
        time.sleep(0.05)
