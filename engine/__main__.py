"""The command line `engine`: everything that the window does, without one.

Exit codes: 0 done, 1 failed, 2 what was asked cannot be done, 3 rejected, 130 cancelled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

from engine import stopping

if TYPE_CHECKING:
    from argparse import ArgumentParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, explain what went wrong."""
    with stopping.leaving():  # before anything that takes time is imported
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    from engine import commands
    from engine.errors import CrucibleError

    if sys.stdout is None:  # closed, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        code = commands.COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except CrucibleError as error:
        print(f"engine: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return stopping.CODE
    except BrokenPipeError:  # as in `engine runs | head`
        commands.silence(sys.stdout)
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"engine: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _parser() -> ArgumentParser:
    import argparse
    from importlib.metadata import version
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="engine", description="Train, attack, defend and export models, without a window."
    )
    parser.add_argument(
        "--version", action="version", version=f"engine {version('crucible-workbench')}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--workspace",
        type=Path,
        metavar="W",
        help="folder of runs (default: the window's, crucible/workspace in the user's data folder)",
    )
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data-root",
        type=Path,
        metavar="D",
        help="where MNIST and the like lie, or are downloaded to (default: where the run was "
        "started with them, else W/data)",
    )
    data.add_argument("--trust-code", action="store_true", help="run Python files that specs name")
    keys = argparse.ArgumentParser(add_help=False)
    keys.add_argument("--identity", type=Path, metavar="F", help="file of secret keys")
    keys.add_argument("--passphrase-file", type=Path, metavar="F", help="its first line is used")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")

    which = "its id, a unique beginning of that, or the name (the newest run of it)"
    commands.add_parser("tasks", parents=[as_json], help="list what can be asked for")
    describe = commands.add_parser(
        "describe", parents=[as_json], help="what a task, or a kind such as pgd, takes"
    )
    describe.add_argument(
        "kind",
        help="a task that `engine tasks` lists, a kind of attack, training, model, ..., or "
        "`flags`: what the checks of an evaluation can find",
    )
    describe.add_argument(
        "--text",
        action="store_true",
        help="the text also of a task and elsewhere than in a terminal, where else its JSON schema "
        "is printed",
    )

    run = commands.add_parser(
        "run", parents=[place, data, keys, as_json], help="run the tasks of a recipe"
    )
    run.add_argument("recipe", type=Path, help="a TOML file with one [[task]] or more")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="task.field=value",
        help="change a field, as in --set plain.epochs=3; may be given again",
    )
    commands.add_parser("runs", parents=[place, as_json], help="list the runs of the workspace")
    show = commands.add_parser("show", parents=[place, as_json], help="what is known of a run")
    show.add_argument("run", help=which)
    resume = commands.add_parser(
        "resume", parents=[place, data, keys, as_json], help="go on with a run and its recipe"
    )
    resume.add_argument("run", help=which)

    export = commands.add_parser(
        "export", parents=[place, keys, as_json], help="write a run's model as an encrypted file"
    )
    export.set_defaults(data_root=None, trust_code=False)  # it needs neither
    export.add_argument("run", help=f"{which}; or an exported file")
    export.add_argument(
        "--to", type=Path, required=True, metavar="FILE", help="what is written, as in m.age"
    )
    export.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="age1…",
        help="a public key whose owner can open it, as `engine keygen` prints; may be given again",
    )
    examples = commands.add_parser(
        "export-set",
        parents=[place, data, keys, as_json],
        help="write the adversarial examples of a run as PNG files or safetensors",
    )
    examples.add_argument("run", help=f"an attack or evaluation: {which}")
    examples.add_argument(
        "to", type=Path, metavar="DIR", help="what is written, a new folder (or file)"
    )
    examples.add_argument(
        "--form",
        choices=("png", "safetensors"),
        default="png",
        help="a folder of PNG files with an index.csv (the default), or one file of exact values",
    )
    explaining = commands.add_parser(
        "explain",
        parents=[place, keys, as_json],
        help="which pixels a decision rests on, and the loss around a sample, as CSV",
    )
    explaining.add_argument("run", help=f"an attack or evaluation: {which}")
    explaining.add_argument(
        "--sample", type=int, required=True, metavar="N", help="which, as the window counts: from 1"
    )
    explaining.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="where both tables are written"
    )
    explaining.add_argument(
        "--trust-code", action="store_true", help="run the Python file that the model is made by"
    )
    generating = commands.add_parser(
        "generate",
        parents=[place, keys, as_json],
        help="let a trained generator make samples, and write them to a file",
    )
    generating.add_argument(
        "model", help=f"a run of gan or autoencoder: {which}; or a file, exported or not"
    )
    generating.add_argument("--count", type=int, default=64, metavar="N", help="default: 64")
    generating.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the same one makes the same (default: 0)"
    )
    generating.add_argument(
        "--label", metavar="CLASS", help="of a conditional one: all of this class (default: each)"
    )
    generating.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help="a new file: .png (images in a grid), .safetensors (exact values) or .csv (points)",
    )
    opening = commands.add_parser("open", parents=[keys], help="decrypt an exported model")
    opening.add_argument("file", type=Path, help="what `engine export` wrote")
    opening.add_argument(
        "--to", type=Path, required=True, metavar="OUT.safetensors", help="what is written"
    )
    importing = commands.add_parser(
        "import",
        parents=[place, data, keys, as_json],
        help="bring in a model you already have",
        description="The fields are those of the import task, as in: "
        "--set 'model={kind=\"cnn\", width=32}' --set 'data={kind=\"mnist\"}'",
    )
    importing.add_argument("file", type=Path, help=".safetensors, .pt, .pth or an exported file")
    importing.add_argument("--name", default="imported", help="what the run is called")
    importing.add_argument(
        "--set", action="append", default=[], metavar="field=value", help="may be given again"
    )
    spending = commands.add_parser(
        "epsilon",
        parents=[as_json],
        help="what private training costs: epsilon, the noise multiplier, or the steps",
        description="Of noise multiplier, steps and epsilon give two: the third is told. For a sum "
        "of clipped vectors with Gaussian noise, its members drawn by Poisson sampling, one of "
        "them added or removed.",
    )
    spending.add_argument(
        "--sample-rate",
        required=True,
        metavar="Q",
        help="probability with which each member is in a step: a number, or as in 256/60000",
    )
    spending.add_argument(
        "--noise-multiplier", type=float, metavar="Z", help="deviation of the noise / clipping norm"
    )
    spending.add_argument("--steps", type=int, metavar="N", help="noisy steps in all")
    spending.add_argument("--epsilon", type=float, metavar="E", help="what may be spent")
    spending.add_argument("--delta", type=float, default=1e-5, metavar="D", help="default: 1e-5")
    _add_federated(commands.add_parser("federated", help="start a deployment: certificates, nodes"))
    keygen = commands.add_parser("keygen", help="make a key pair")
    keygen.add_argument(
        "--to", type=Path, required=True, metavar="F", help="the secret key; keep it to yourself"
    )
    commands.add_parser("worker", parents=[place, data], help="be the window's engine process")
    return parser


def _add_federated(parser: ArgumentParser) -> None:
    import argparse
    from pathlib import Path

    parser.description = (
        "The processes of a federation on several machines, or on this one: a SuperLink, and a "
        'SuperNode for each client. A task with grid.kind = "deployment" then runs on them.'
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--certificates",
        type=Path,
        metavar="DIR",
        help="what `certificates` wrote; only on this machine it goes without",
    )
    make = actions.add_parser(
        "certificates", help="make an authority, the SuperLink's certificate, a key for each node"
    )
    make.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    make.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="H",
        help="name or address by which nodes reach the SuperLink; may be given again",
    )
    make.add_argument("--nodes", type=int, default=2, metavar="N", help="clients (default: 2)")
    make.add_argument("--days", type=int, default=365, help="that they hold (default: 365)")
    link = actions.add_parser("superlink", parents=[folder], help="start a SuperLink; Ctrl-C ends")
    link.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen at")
    link.add_argument("--port", type=int, default=9093, metavar="P", help="default: 9093")
    node = actions.add_parser("supernode", parents=[folder], help="start a client; Ctrl-C ends")
    node.add_argument("--superlink", default="127.0.0.1:9093", metavar="H:P", help="its SuperLink")
    node.add_argument(
        "--client", type=int, required=True, metavar="K", help="which one it is, counted from 0"
    )
    node.add_argument("--key", type=Path, metavar="F", help="default: DIR/nodes/node-K")
    node.add_argument("--data-root", type=Path, metavar="D", help="where its data sets lie")
    actions.add_parser("port", help="print a port of this machine that is free")
    app = actions.add_parser("app", help="write a recipe's federation as an app for `flwr run`")
    app.add_argument("recipe", type=Path, help="a TOML file with a task of kind federate")
    app.add_argument("--task", metavar="NAME", help="which one, if there are several")
    app.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")


if __name__ == "__main__":
    sys.exit(main())
