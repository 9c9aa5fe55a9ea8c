"""The federation as Flower's ClientApp and ServerApp: the same on every grid, and under Flower's
own command line.

A client is told what to do by a message, finds its images by its number (`partition-id` of its
node), and answers with its update. Where server and client share a process they share the images
as well (`share`); elsewhere both sides load them by the task that the run's configuration holds
under `task`: a JSON object with the `spec`, and where it matters with `data_root` (a node's own
`data-root` comes first) and the `folder` that the server writes to.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.bench import Bench
from engine.events import Event, drain
from engine.federated import secure
from engine.federated.checking import check_away
from engine.federated.compression import compressed
from engine.federated.conducting import DROPPED, FIXED, STOPPED
from engine.federated.entry import CLIENT, introduce
from engine.federated.facts import is_finite
from engine.federated.federating import federate
from engine.federated.federation import Federation
from engine.federated.flower import arrays_in, is_live, number_in, quiet, record, tensors
from engine.federated.learning import Fleet, Lesson, Stopped
from engine.federated.noising import LEDGER
from engine.federated.preparing import fleet_of, prepared
from engine.federated.relaying import Say, begun, marked, present, tell, with_files
from engine.federated.secure import SECURE
from engine.federated.spec import Federate
from engine.random import derive
from engine.task import Steps, parse

# isort: split
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

ROOT = "data-root"
"""Under which it may say where the node's data sets lie."""
TASK = "task"
"""Under which a run's configuration holds the task, as JSON."""
FLEET = "fleet"
"""Under which it names a fleet of this process, instead."""
WAIT = 60.0
"""Seconds that the server waits for the nodes to be there, unless told."""

client = ClientApp()
server = ServerApp()

_fleets: dict[str, Fleet] = {}
_building = threading.Lock()


def share(name: str, fleet: Fleet) -> None:
    """Have clients of this process, whose run's configuration names it, take their images there."""
    _fleets[name] = fleet


def forget(name: str) -> None:
    """Take back what `share` did."""
    _fleets.pop(name, None)


# --- the clients ----------------------------------------------------------------------------------


client.query()(introduce)


@client.query("keys")
def keys(message: Message, context: Context) -> Message:
    """Public keys for a round of secure aggregation."""
    return _secured(secure.keys, message, context)


@client.query("shares")
def shares(message: Message, context: Context) -> Message:
    """Shares of the secrets behind them, for the neighbours."""
    return _secured(secure.shares, message, context)


@client.query("unmask")
def unmask(message: Message, context: Context) -> Message:
    """What the server needs to take the masks off the sum."""
    return _secured(secure.unmask, message, context)


def _secured(
    step: Callable[[ConfigRecord, RecordDict], ConfigRecord], message: Message, context: Context
) -> Message:
    said = step(message.content.config_records[SECURE], context.state)
    return Message(RecordDict({SECURE: said}), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train for a round: the update, made smaller where the task says so, and how it went."""
    fleet, number = _fleet(context), int(context.node_config[CLIENT])
    at = int(number_in(message.content, "server-round"))
    seed = derive(fleet.seed, "round", at, "client", number)
    if _chance(seed, "drop-out") < fleet.spec.drop_out:
        return Message(Error(DROPPED, "it dropped out"), reply_to=message)
    arrays = arrays_in(message.content)
    live = is_live(arrays)
    lesson = Lesson(
        client=number,
        round=at,
        start=tensors(arrays),
        mu=number_in(message.content, "proximal-mu", 0.0),
        share=_share_of_steps(seed, fleet.spec.stragglers),
        lr=number_in(message.content, "lr"),
        fixed=tensors(arrays_in(message.content, FIXED)) if FIXED in message.content else {},
        control=tensors(arrays_in(message.content, "control"))
        if "control" in message.content
        else None,
    )
    kept = {name: tensors(arrays) for name, arrays in context.state.array_records.items()}
    try:
        learnt = fleet.learn(lesson, kept)
    except Stopped:
        return Message(Error(STOPPED, "it was stopped"), reply_to=message)
    sent, rest = compressed(fleet.spec.compression, learnt.update, kept.get("memory", {}), seed)
    # The server rejects what is not finite: the client keeps as little of it as of a late answer.
    if all(map(is_finite, sent.values())):
        for name, state in {**learnt.kept, "memory": rest}.items():
            if state:
                context.state[name] = record(state, live=live)
    if SECURE in message.content:
        about = {
            "examples": learnt.examples,
            "steps": learnt.steps,
            "loss": learnt.loss,
            "accuracy": learnt.accuracy,
        }
        asked = message.content.config_records[SECURE]
        masked = secure.hidden(asked, context.state, learnt.update, about)
        return Message(RecordDict({secure.MASKED: masked}), reply_to=message)
    reply = RecordDict({"arrays": record(sent, live=live)})
    if learnt.control:
        reply["control"] = record(learnt.control, live=live)
    reply["metrics"] = MetricRecord(
        {
            "num-examples": learnt.examples,
            "steps": learnt.steps,
            "loss": learnt.loss,
            "accuracy": learnt.accuracy,
            "share": lesson.share,
        }
    )
    return Message(reply, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How the client's own model, the global one with what stays here, does on the test images."""
    fleet = _fleet(context)
    kept = {name: tensors(arrays) for name, arrays in context.state.array_records.items()}
    judged = fleet.judge_own(tensors(arrays_in(message.content)), kept)
    return Message(RecordDict({"metrics": MetricRecord({**judged})}), reply_to=message)


def _chance(seed: int, purpose: str) -> float:
    draw = torch.Generator().manual_seed(derive(seed, purpose))
    return float(torch.rand((), generator=draw))


def _share_of_steps(seed: int, stragglers: float) -> float:
    """How much of its training a client gets through."""
    return _chance(seed, "share") if _chance(seed, "straggler") < stragglers else 1.0


def _fleet(context: Context) -> Fleet:
    config = context.run_config
    name = str(config.get(FLEET) or config[TASK])
    with _building:
        if name not in _fleets:
            root = context.node_config.get(ROOT)
            _fleets[name] = _built(json.loads(str(config[TASK])), str(root) if root else None)
        return _fleets[name]


def _built(values: Mapping[str, Any], data_root: str | None) -> Fleet:
    """The fleet of a process of its own, from what the run's configuration holds."""
    spec, bench = task_of(values, Path(tempfile.gettempdir()), data_root)
    return fleet_of(spec, bench, drain(prepared(spec, bench)))


def task_of(
    values: Mapping[str, Any], folder: Path, data_root: str | None = None
) -> tuple[Federate, Bench]:
    """The task of a run's configuration, and a bench for it in `folder`."""
    spec = parse(Federate, values["spec"])
    root = data_root or values.get("data_root")
    made = Bench(
        folder,
        folder,
        seed=spec.seed,
        spec=spec.bench,
        data_root=Path(root) if root else None,
    )
    return spec, made


# --- the server -----------------------------------------------------------------------------------


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds of the task in the run's configuration. Into its `folder` (else `federated`
    here) go the model, and every event as a line of `events.jsonl`, the summary last. Where
    `told` is true they are printed instead, with what is saved: who started the run reads its log
    (`engine.federated.relaying`), and has given the `ledger` that a private run goes on with."""
    values = json.loads(str(context.run_config[TASK]))
    if values.get("told"):
        quiet()
        with tempfile.TemporaryDirectory(prefix="crucible-") as name:
            say = with_files(_print, Path(name))
            if values.get("ledger") is not None:
                (Path(name) / LEDGER).write_text(values["ledger"], encoding="utf-8")
                say = counted(say, lambda line: _log(grid, line))
            tell(conduct(values, Path(name), grid), say)
        return
    folder = Path(values.get("folder") or "federated").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:

        def say(body: Mapping[str, Any]) -> None:
            file.write(json.dumps(body) + "\n")
            file.flush()

        tell(conduct(values, folder, grid), say)


def counted(say: Say, log: Callable[[str], None]) -> Say:
    """`say` that has the `log` of the run hold that a round begins before it goes on, and so before
    the noise of the round is drawn: who reads it knows what was spent, however the run ends."""
    rounds = 0

    def said(body: Mapping[str, Any]) -> None:
        nonlocal rounds
        if body.get("event") == "table" and body.get("name") == "picked":
            rounds += 1
            log(begun(rounds))
        say(body)

    return said


def _log(grid: Any, line: str) -> None:
    """Put a line into the run's log at the SuperLink, which has it when this returns. What is
    printed comes there as well, but some time later, or not at all. Raises where it does not take
    it, as of a run that was stopped."""
    from flwr.proto.log_pb2 import PushLogsRequest
    from flwr.proto.node_pb2 import Node

    request = PushLogsRequest(node=Node(node_id=0), run_id=grid.run.run_id, logs=[line])
    grid._runtime_client.PushLogs(request)


def _print(body: Mapping[str, Any]) -> None:
    sys.stdout.write(marked(json.dumps(body)))  # in one piece: others print as well
    sys.stdout.flush()


def conduct(values: Mapping[str, Any], folder: Path, grid: Grid) -> Steps:
    """The task of a run's configuration, with its rounds on a grid whose nodes may yet have to
    come."""
    spec, bench = task_of(values, folder)
    check_away(spec)

    def played(federation: Federation) -> Generator[Event, None, None]:
        yield from present(grid, spec.clients, float(values.get("wait", WAIT)))
        yield from federation.play(grid)

    return federate(spec, bench, played)
