"""The two apps as Flower loads them where each message has a process of its own: what a client is
asked first needs no torch, and does not wait for it."""

from __future__ import annotations

import os

from engine.federated.keeping import QUIET

os.environ.update({name: value for name, value in QUIET.items() if name.startswith("FLWR_")})

# isort: split
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

CLIENT = "partition-id"
"""Under which a node's configuration holds which client it is."""

client = ClientApp()
server = ServerApp()


@client.query()
def introduce(message: Message, context: Context) -> Message:
    """Which client the node is."""
    found = MetricRecord({"client": int(context.node_config[CLIENT])})
    return Message(RecordDict({"metrics": found}), reply_to=message)


@client.query("keys")
@client.query("shares")
@client.query("unmask")
@client.train()
@client.evaluate()
def answer(message: Message, context: Context) -> Message:
    """All else is for `engine.federated.apps`."""
    from engine.federated.apps import client as whole

    return whole(message, context)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """See `engine.federated.apps`."""
    from engine.federated.apps import server as whole

    whole(grid, context)
