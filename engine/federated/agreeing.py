"""Secure aggregation on a grid: what is asked before and after the training of a round."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TypeAlias

from engine.errors import BadInput
from engine.events import Event
from engine.federated.conducting import Conductor
from engine.federated.facts import looked_at
from engine.federated.secure import SECURE, SecureSum

# isort: split
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

Ask: TypeAlias = Callable[[Grid, Iterable[Message], str], Generator[Event, None, list[Message]]]
"""Sends messages, and gives the answers to them, as far as they come."""


def agreed(
    conductor: Conductor, secure: SecureSum, grid: Grid, ask: Ask, messages: list[Message]
) -> Generator[Event, None, list[Message]]:
    """The training's messages, for those who have agreed on masks; none if they are too few."""
    clip = conductor.noise.clip if conductor.noise is not None else None
    wanted = secure.keys(conductor.round.number, list(conductor.round.facts), clip)
    try:
        yield from _phase(conductor, grid, ask, "keys", wanted, secure.keyed)
        yield from _phase(conductor, grid, ask, "shares", secure.shares(), secure.shared)
        wanted = secure.train()
    except BadInput as error:
        conductor.round.skipped = str(error)
        return []
    clients = {node: client for client, node in conductor.nodes.items()}
    there = []
    for message in messages:
        client = clients[message.metadata.dst_node_id]
        if client in wanted:
            message.content = RecordDict({**message.content, SECURE: wanted[client]})
            there.append(message)
    return there


def revealed(
    conductor: Conductor, secure: SecureSum, grid: Grid, ask: Ask, replies: list[Message]
) -> Generator[Event, None, None]:
    """Take down the masked updates, and what takes the masks off their sum."""
    for reply in replies:
        conductor.take(reply)
    if conductor.round.skipped:
        return
    try:
        yield from _phase(conductor, grid, ask, "unmask", secure.unmask(), secure.unmasked)
    except BadInput as error:
        conductor.round.skipped = str(error)


def _phase(
    conductor: Conductor,
    grid: Grid,
    ask: Ask,
    what: str,
    contents: Mapping[int, ConfigRecord],
    take: Callable[[int, ConfigRecord], None],
) -> Generator[Event, None, None]:
    """Ask clients, and take down what they answer. Who does not answer is left out."""
    group = str(conductor.round.number)
    messages = [
        grid.create_message(
            RecordDict({SECURE: content}), f"query.{what}", conductor.nodes[client], group
        )
        for client, content in contents.items()
    ]
    clients = {conductor.nodes[client]: client for client in contents}
    for reply in (yield from ask(grid, messages, what)):
        client = clients.get(reply.metadata.src_node_id)
        if client is None:  # the SuperLink itself says that a node is not there
            continue
        fact = conductor.round.facts[client]
        if reply.has_error():
            if fact.state != "kept":
                conductor.take(reply)
            continue
        with looked_at(fact):
            take(client, reply.content.config_records[SECURE])
