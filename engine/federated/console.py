"""`engine federated`: what a deployment needs on each of its machines."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from engine.errors import BadInput
from engine.federated.app_folder import write_app
from engine.federated.certificates import make_certificates
from engine.federated.checking import check, check_away
from engine.federated.hosting import start_superlink, start_supernode
from engine.federated.keeping import Kept
from engine.federated.reaching import free_port
from engine.federated.spec import Federate
from engine.task import Task


def certificates(options: Namespace) -> int:
    """Make what a deployment needs to be sure of who is who."""
    if options.nodes < 1 or options.days < 1:
        raise BadInput("--nodes and --days must be at least 1")
    make_certificates(options.to, options.host, options.nodes, options.days)
    last = options.nodes - 1
    print(
        f"{options.to}/ca.crt            give it to every node, and to whoever starts runs\n"
        f"{options.to}/server.crt, .key  stay with the SuperLink\n"
        f"{options.to}/nodes/node-0 to node-{last}: each node its own, and nobody else's;\n"
        f"    their .pub stay with the SuperLink"
    )
    return 0


def port() -> int:
    """Print a port that is free, for scripts."""
    print(free_port())
    return 0


def started(options: Namespace) -> Kept:
    """A SuperLink or a SuperNode, begun."""
    if options.action == "superlink":
        kept = start_superlink(options.certificates, options.host, options.port)
        print(f"the SuperLink listens at {options.host}:{options.port}; Ctrl-C ends it", flush=True)
        return kept
    kept = start_supernode(
        options.superlink, options.client, options.certificates, options.key, options.data_root
    )
    print(f"client {options.client}, of {options.superlink}; Ctrl-C ends it", flush=True)
    return kept


def app(options: Namespace, recipe: Mapping[str, Task]) -> int:
    """Write the federation of a recipe, its tasks by name, as an app for Flower's own command
    line."""
    if options.to.exists():
        raise BadInput(f"{options.to} exists; give --to a new folder")
    tasks = {
        name: task
        for name, task in recipe.items()
        if isinstance(task, Federate) and options.task in (None, name)
    }
    if len(tasks) != 1:
        named = f" named {options.task!r}" if options.task else ""
        raise BadInput(
            f"{options.recipe} has {len(tasks) or 'no'} task of kind federate{named}; expected one"
            + (f": choose with --task among {', '.join(tasks)}" if tasks else "")
        )
    (task,) = tasks.values()
    check(task)
    check_away(task)
    write_app(options.to, {"spec": task.to_dict()})
    print(f"flwr run {options.to} NAME --stream")
    return 0
