"""What is said of a round: scalars for the curves, tables for what stands side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.events import Note, Scalars, Table
from engine.federated.facts import Fact, RoundFacts, State
from engine.federated.partitioning import counts
from engine.federated.preparing import Prepared
from engine.federated.spec import HostileSpec

CLIENT_COLUMNS = (
    "client",
    "state",
    "reason",
    "hostile",
    "examples",
    "share",
    "loss",
    "accuracy",
    "norm",
    "cosine",
    "drift",
    "clipped",
    "bytes_up",
    "bytes_down",
    "epsilon",
    "x",
    "y",
)
"""Of the table `clients`: one row a client of the newest round."""

ROUND_COLUMNS = (
    "round",
    "states",
    "picked",
    "kept",
    "accuracy",
    "loss",
    "bytes_up",
    "bytes_down",
    "epsilon",
    "seconds",
    "skipped",
)
"""Of the table `rounds`; `states` has a letter a client (`engine.federated.facts.LETTERS`)."""

RECENT = 200
LONGEST = 200_000
"""Rounds that the table `rounds` holds, and letters in it, at most; scalars hold all rounds."""

FOLLOWED = 100
"""Clients whose own curves are kept, the first of them: of more, nobody tells them apart."""

MOST_CLIENTS = 1000
"""Clients that the table `partition` has a row of, at most."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is told of a round besides its clients. accuracy, loss: of the global model on the test
    images, where it was judged. success_rate: of a backdoor. epsilon: spent so far."""

    clients: int
    hostile: Mapping[int, HostileSpec]
    lr: float
    seconds: float
    accuracy: float | None
    loss: float | None
    success_rate: float | None
    epsilon: float | None


def notes(seen: RoundFacts) -> Iterator[Note]:
    """What went wrong, clients with the same trouble together."""
    alike: dict[tuple[State, str], list[int]] = {}
    for fact in seen.of("rejected", "failed", "late"):
        alike.setdefault((fact.state, fact.reason), []).append(fact.client)
    for (state, reason), clients in alike.items():
        yield Note("warning", _trouble(state, reason, clients, seen.number))
    if seen.skipped:
        yield Note("warning", f"round {seen.number} is skipped, and the model kept: {seen.skipped}")


def scalars(seen: RoundFacts, outcome: Outcome) -> Scalars:
    """The curves: of the round, the global model, the budget, and the first FOLLOWED clients."""
    values: dict[str, float | None] = {
        "round/picked": len(seen.facts),
        "round/kept": len(seen.of("kept")),
        "round/bytes_up": seen.bytes_up,
        "round/bytes_down": seen.bytes_down,
        "round/seconds": outcome.seconds,
        "round/lr": outcome.lr,
        "global/accuracy": outcome.accuracy,
        "global/loss": outcome.loss,
        "global/attack_success_rate": outcome.success_rate
        if outcome.accuracy is not None
        else None,
        "privacy/epsilon": outcome.epsilon,
        "privacy/max_update_norm": seen.clip,
    }
    clipped = [fact.clipped for fact in seen.of("kept")]
    if seen.clip is not None and clipped:
        values["privacy/clipped"] = sum(clipped) / len(clipped)
    if seen.totals:  # of all together: secure aggregation hides each
        values |= {f"round/{name}": seen.totals[name] for name in ("loss", "accuracy", "cut")}
        if seen.clip is not None and clipped:
            values["privacy/clipped"] = seen.totals["clipped"] / len(clipped)
    for fact in seen.facts.values():
        if fact.client < FOLLOWED:
            for name in ("loss", "accuracy", "norm", "cosine"):
                values[f"client/{fact.client}/{name}"] = getattr(fact, name)
    known = {name: float(value) for name, value in values.items() if value is not None}
    return Scalars(
        seen.number, {name: value for name, value in known.items() if math.isfinite(value)}
    )


def clients_table(seen: RoundFacts, outcome: Outcome) -> Table:
    """A row a client of the round."""
    return Table(
        "clients", CLIENT_COLUMNS, tuple(_row(fact, outcome) for fact in seen.facts.values())
    )


def round_row(seen: RoundFacts, outcome: Outcome) -> Row:
    """The round in the table `rounds`."""
    return (
        seen.number,
        seen.timeline(outcome.clients),
        len(seen.facts),
        len(seen.of("kept")),
        outcome.accuracy,
        outcome.loss,
        seen.bytes_up,
        seen.bytes_down,
        _finite(outcome.epsilon),
        round(outcome.seconds, 3),
        seen.skipped,
    )


def recent(rows: Sequence[Row], outcome: Outcome) -> list[Row]:
    """As many of the newest rows as the table `rounds` holds."""
    return list(rows[-max(10, min(RECENT, LONGEST // outcome.clients)) :])


def picked_table(seen: RoundFacts) -> Table:
    """Who is at work: said when a round begins."""
    return Table("picked", ("round", "client"), tuple((seen.number, c) for c in seen.facts))


def hostile_table(hostile: Mapping[int, HostileSpec]) -> Table:
    """Who does not play by the rules, by the number of the client."""
    rows = tuple((client, hostile[client].kind) for client in sorted(hostile))
    return Table("hostile", ("client", "kind"), rows)


def partition_table(made: Prepared) -> Table:
    """Who has how many images of which class."""
    data = made.data
    rows = counts(made.parts[:MOST_CLIENTS], data.train.labels, len(data.classes)).tolist()
    columns = ("client", *data.classes)
    return Table("partition", columns, tuple((i, *row) for i, row in enumerate(rows)))


def _row(fact: Fact, outcome: Outcome) -> Row:
    hostile = outcome.hostile.get(fact.client)
    told = {"hostile": hostile.kind if hostile is not None else "", "epsilon": outcome.epsilon}
    cells = ((told[name] if name in told else getattr(fact, name)) for name in CLIENT_COLUMNS)
    return tuple(_finite(cell) if isinstance(cell, float) else cell for cell in cells)


def _trouble(state: State, reason: str, clients: list[int], number: int) -> str:
    """What became of clients that sent nothing of use, all for the same reason."""
    named = ", ".join(map(str, clients[:10])) + (" and more" if len(clients) > 10 else "")
    several = len(clients) > 1
    match state:
        case "late" if several:
            return f"clients {named} did not answer in time in round {number}"
        case "late":
            return f"client {named} did not answer in time in round {number}"
        case "failed" if several:
            return f"clients {named} failed in round {number}: {reason}"
        case "failed":
            return f"client {named} failed in round {number}: {reason}"
    if several:
        return f"the updates of clients {named} in round {number} are rejected: {reason}"
    return f"the update of client {named} in round {number} is rejected: {reason}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
