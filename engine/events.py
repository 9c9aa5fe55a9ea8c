"""What a run says while it works: a few small frozen types, and their form as a message.

A message is one JSON object and the raw bytes it announces (see `engine.frames`). Nothing here
imports torch or Qt; numpy is imported only when a picture is built or read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Level: TypeAlias = Literal["info", "warning", "error"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Started:
    """The run has begun (or goes on after an interruption, from `step`)."""

    environment: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True, slots=True)
class Scalars:
    """Values of named series at one step. Names are `group/name`, as in `train/loss`."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Images:
    """A named set of small pictures, the newest of which replaces the one before.

    `pixels` is uint8, (count, height, width, channels), 1 or 3 channels. `captions` is empty or
    one mapping a picture (label, prediction, norm, probabilities, ...). Where `scale` is set the
    picture is signed: 128 is zero and 255 is +`scale`. `step` orders the pictures of one name;
    `keep` says that every step is stored, so that they can be replayed.
    """

    name: str
    pixels: NDArray[np.uint8]
    captions: tuple[Mapping[str, Any], ...] = ()
    step: int = 0
    scale: float | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """Named numbers that are drawn rather than read (points, a heat map, arrows), the newest of
    which replace those before.

    `values` is float32, of any shape. `about` says what a view must know of them beside that, as
    the extent of a map. `step` and `keep` are as of Images.
    """

    name: str
    values: NDArray[np.float32]
    step: int = 0
    keep: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A named table, the newest of which replaces the one before."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` `unit`s; `total` is 0 while it is not known. `share`, 0 to 1: how far all
    of them are together, where many are under way at a time and none may be done for long."""

    done: int
    total: int
    unit: str
    share: float | None = None

    @property
    def fraction(self) -> float:
        """How far it is, 0 to 1; 0 while nobody can tell."""
        if self.share is not None:
            return self.share
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A person set the live value `name`; it holds from `step` on, as Scalars count steps."""

    name: str
    value: float
    step: int

    def note(self) -> Note:
        """As a line for the log."""
        return Note("info", f"{self.name} set to {self.value:g}")


def with_change(changes: Sequence[Change], change: Change) -> list[Change]:
    """Changes in the order in which they hold, and one more: what of the same value was to change
    later on, a person has thought better of."""
    return [*(c for c in changes if c.name != change.name or c.step < change.step), change]


@dataclass(frozen=True, slots=True)
class Saved:
    """A file was written. `path` is relative to the run's folder, or absolute outside of it."""

    name: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Finished:
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Cancelled by a person. `summary` holds what an algorithm could still say, else nothing."""

    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` is meant for a person; `details` (a traceback) for the log."""

    error: str
    details: str = ""


Event: TypeAlias = (
    Started
    | Scalars
    | Images
    | Array
    | Table
    | Progress
    | Note
    | Change
    | Saved
    | Finished
    | Stopped
    | Failed
)

Picture: TypeAlias = Images | Array
"""What is drawn, and stored apart: of each name the newest, or every one that is to be kept."""

_TYPES: dict[str, type[Any]] = {cls.__name__.lower(): cls for cls in get_args(Event)}


def to_message(event: Event) -> tuple[dict[str, Any], bytes]:
    """An event as a JSON object (its type under `event`) and the bytes of its picture, if any."""
    body: dict[str, Any] = {
        f.name: getattr(event, f.name)
        for f in dataclasses.fields(event)
        if f.name not in ("pixels", "values") or not isinstance(event, Picture)
    }
    body["event"] = type(event).__name__.lower()
    if isinstance(event, Images):
        body["shape"] = list(event.pixels.shape)
        return body, event.pixels.tobytes()
    if isinstance(event, Array):
        body["shape"] = list(event.values.shape)
        return body, event.values.astype("<f4", copy=False).tobytes()
    return body, b""


def from_message(message: Mapping[str, Any], payload: bytes | memoryview = b"") -> Event:
    """The event of a message. Raises KeyError or TypeError if it is none of ours."""
    body = dict(message)
    cls = _TYPES[body.pop("event")]
    if cls is Images:
        import numpy as np

        pixels = np.frombuffer(payload, np.uint8).reshape(body.pop("shape"))
        return Images(**{**body, "pixels": pixels, "captions": tuple(body["captions"])})
    if cls is Array:
        import numpy as np

        values = np.frombuffer(payload, "<f4").reshape(body.pop("shape"))
        return Array(**{**body, "values": values})
    if cls is Table:
        rows = tuple(tuple(row) for row in body["rows"])
        return Table(body["name"], tuple(body["columns"]), rows)
    event: Event = cls(**body)
    return event


def sieved(
    steps: Generator[Event, None, T], passes: Callable[[Event], bool]
) -> Generator[Event, None, T]:
    """`steps`, of whose events only those that pass are said."""
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        if passes(event):
            yield event


def drain(steps: Generator[Any, None, T]) -> T:
    """Pull a generator to its end; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
