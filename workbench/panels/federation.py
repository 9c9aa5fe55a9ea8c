"""What a federated run has said so far of its clients and rounds, and what that is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PySide6.QtCore import QObject, Signal

from engine.events import Table
from workbench.i18n import mark, name_of, tr
from workbench.views.table import cell
from workbench.views.text import number, percent


@dataclass(frozen=True, slots=True)
class State:
    """What became of a client in a round: its name (English), sign and colour."""

    name: str
    sign: str
    color: str


STATES = {
    "t": State(mark("training"), "play", "accent"),
    "k": State(mark("kept"), "tick", "success"),
    "s": State(mark("set aside"), "minus", "warning"),
    "r": State(mark("rejected"), "cross", "danger"),
    "d": State(mark("dropped out"), "ring", "faint"),
    "l": State(mark("late"), "dots", "faint"),
    "f": State(mark("failed"), "alarm", "danger"),
    ".": State(mark("not picked"), "dot", "border"),
}
"""By the letter that the engine writes (`LETTERS` of engine.federated.facts); "t" is ours."""

LETTERS = {
    "kept": "k",
    "set aside": "s",
    "rejected": "r",
    "dropped": "d",
    "late": "l",
    "failed": "f",
}
"""By the word that the engine writes."""

QUANTITIES = ("loss", "accuracy", "norm", "cosine")
"""What there are curves of, of each client."""

NOT_PICKED, TRAINING = ".", "t"


@dataclass(frozen=True, slots=True)
class Round:
    """A round that is over: its number, and a letter a client."""

    number: int
    states: str
    picked: int
    kept: int
    bytes_up: int
    bytes_down: int
    skipped: str


class Chosen(QObject):
    """The client that is looked at, in every drawing alike; None is nobody."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.client: int | None = None

    def choose(self, client: int | None) -> None:
        if client != self.client:
            self.client = client
            self.changed.emit()

    def toggle(self, client: int) -> None:
        """Choose a client, or nobody if it is chosen already."""
        self.choose(None if client == self.client else client)


@dataclass
class Federation:
    """What is known of a run's clients, by their numbers."""

    clients: int = 0
    rounds: tuple[Round, ...] = ()
    rows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """What was said of those of the newest round."""
    hostile: dict[int, str] = field(default_factory=dict)
    """The kind of harm of those that mean it."""
    courses: dict[str, dict[int, tuple[list[float], list[float]]]] = field(default_factory=dict)
    """By quantity and client: rounds and values."""
    picked: tuple[int, frozenset[int]] = (0, frozenset())
    """The round that began last, and who is in it."""
    classes: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    """Images of each class, a row a client."""
    working: bool = False
    """Whether the run goes on."""

    def forget(self) -> None:
        """Nothing is known any more."""
        self.clients, self.rounds, self.picked, self.working = 0, (), (0, frozenset()), False
        self.rows, self.hostile, self.courses = {}, {}, {}
        self.classes, self.counts = (), ()

    def take(self, table: Table, clients: int) -> bool:
        """Take in a table of a run that has so many `clients`; False where it is none of these."""
        self.clients = clients
        match table.name:
            case "rounds":
                self.rounds = tuple(map(_round, _named(table)))
            case "clients":
                self.rows = {int(row["client"]): row for row in _named(table)}
                self.hostile |= {c: str(r["hostile"]) for c, r in self.rows.items() if r["hostile"]}
            case "hostile":
                self.hostile |= {int(client): str(kind) for client, kind in table.rows}
            case "picked":
                number = int(table.rows[0][0]) if table.rows else 0
                self.picked = number, frozenset(int(row[1]) for row in table.rows)
            case "partition":
                self.classes = tuple(map(str, table.columns[1:]))
                self.counts = tuple(tuple(map(int, row[1:])) for row in table.rows)
            case _:
                return False
        return True

    def append(self, name: str, steps: Sequence[float], values: Sequence[float]) -> None:
        """Take in a part of `client/NUMBER/QUANTITY`."""
        _, client, quantity = name.split("/")
        course = self.courses.setdefault(quantity, {}).setdefault(int(client), ([], []))
        course[0].extend(steps)
        course[1].extend(values)

    @property
    def number(self) -> int:
        """The round that is over, or under way."""
        last = self.rounds[-1].number if self.rounds else 0
        return max(last, self.picked[0]) if self.working else last

    @property
    def is_training(self) -> bool:
        """Whether a round is under way."""
        over = self.rounds[-1].number if self.rounds else 0
        return self.working and self.picked[0] > over

    @property
    def states(self) -> str:
        """A letter a client, now."""
        if self.is_training:
            picked = self.picked[1]
            return "".join(TRAINING if k in picked else NOT_PICKED for k in range(self.clients))
        states = self.rounds[-1].states if self.rounds else ""
        return states.ljust(self.clients, NOT_PICKED)[: self.clients]

    def images(self, client: int) -> int | None:
        """How many it has; None if nobody said."""
        return sum(self.counts[client]) if client < len(self.counts) else None

    def named(self, client: int) -> str:
        """As in "Client 3 · Backdoor"."""
        name = tr("Client {number}", number=client)
        kind = self.hostile.get(client)
        return f"{name} · {tr('hostile')} ({name_of(kind)})" if kind else name

    def said(self, client: int) -> list[tuple[str, str, str]]:
        """What is known of a client now: colour, name and value of each."""
        state = STATES[self.states[client]] if client < self.clients else STATES[NOT_PICKED]
        rows = [(state.color, tr("State"), tr(state.name))]
        row = self.rows.get(client, {})
        if row.get("reason"):
            rows.append((state.color, tr("Reason"), str(row["reason"])))
        images = self.images(client)
        if images is not None:
            rows.append(("faint", tr("Images"), cell(images)))
        for key, name in FIGURES:
            if (value := row.get(key)) is not None:
                rows.append(("faint", tr(name), figure(key, value)))
        return rows


FIGURES = (
    ("loss", mark("Loss")),
    ("accuracy", mark("Accuracy")),
    ("norm", mark("Norm of the update")),
    ("cosine", mark("Cosine to the mean")),
    ("drift", mark("Drift")),
    ("bytes_up", mark("Sent")),
)
"""Of a row of `clients`, what is read out, with its name."""


def figure(quantity: str, value: float) -> str:
    """A value as it is read out."""
    if quantity == "accuracy":
        return percent(float(value))
    if quantity.startswith("bytes"):
        return size_text(float(value))
    return number(float(value))


def size_text(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{number(count) if unit != 'B' else f'{count:.0f}'}\u202f{unit}"


def _named(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _round(row: Mapping[str, Any]) -> Round:
    return Round(
        int(row["round"]),
        str(row["states"]),
        int(row["picked"]),
        int(row["kept"]),
        int(row["bytes_up"]),
        int(row["bytes_down"]),
        str(row["skipped"] or ""),
    )
