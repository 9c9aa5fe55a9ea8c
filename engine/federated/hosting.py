"""A deployment's own processes, as `engine federated` starts them: SuperLink and SuperNodes of
Flower's, with TLS and keys, without telemetry, and gone when this process is."""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import BadInput, CrucibleError
from engine.federated.certificates import CA, NODES, SERVER, SERVER_KEY
from engine.federated.command_line import NAME, answer, connection, flwr
from engine.federated.keeping import Kept
from engine.federated.reaching import (
    check_free,
    check_secure,
    free_port,
    is_loopback,
    reach,
)
from engine.federated.spec import Deployment

GRACE = 5.0
"""Seconds that they have to end by themselves."""
START = 120.0
"""Seconds that a SuperLink has to be there."""
COMMAND = 60.0
"""Seconds that one of Flower's commands has."""

Say = Callable[[str], None]


def start_superlink(folder: Path | None, host: str, port: int, wait: float = START) -> Kept:
    """Start a SuperLink with the certificates of `folder`, and wait until it answers; then tell it
    the keys of the SuperNodes in `folder`. Without a folder it has neither, which is for this
    machine only.

    Raises BadInput off this machine without certificates, CrucibleError where the port is taken or
    it does not come up.
    """
    if folder is None and not is_loopback(host):
        raise BadInput(
            f"{host} can be reached from other machines: a SuperLink there needs certificates and "
            "keys. Make them with `engine federated certificates`, and give --certificates."
        )
    check_free(host, port)
    folder = folder.absolute() if folder is not None else None
    command = [*_flower("superlink", "flower_superlink"), "--host", host, "--port", str(port)]
    command.append("--disable-runtime-dependency-installation")
    if folder is not None:
        _check_there(folder, CA, SERVER, SERVER_KEY)
        command += ["--ssl-certfile", str(folder / SERVER), "--ssl-keyfile"]
        command += [str(folder / SERVER_KEY), "--ssl-ca-certfile", str(folder / CA)]
        command.append("--enable-supernode-auth")
    else:
        command.append("--insecure")
    kept = _kept(command)
    address = f"{_own(host)}:{port}"
    root = str(folder / CA) if folder is not None else ""
    try:
        _wait_for(kept, address, root, wait)
        if folder is not None:
            register(address, folder, sorted((folder / NODES).glob("*.pub")))
    except BaseException:
        kept.end()
        raise
    return kept


def register(address: str, folder: Path, keys: Sequence[Path]) -> None:
    """Tell a SuperLink the SuperNodes that it is to know. Raises CrucibleError."""
    grid = Deployment(superlink=address, root_certificates=str((folder / CA).absolute()))
    for key in keys:
        command = flwr(
            connection(grid), "supernode", "register", str(key.absolute()), NAME, "--name", key.stem
        )
        answer(command, COMMAND)


def start_supernode(
    address: str,
    client: int,
    folder: Path | None,
    key: Path | None = None,
    data_root: Path | None = None,
) -> Kept:
    """Start the SuperNode of a client, with the `ca.crt` and the key `nodes/node-CLIENT` of
    `folder`, or another key.

    Raises BadInput where they are missing, off this machine.
    """
    folder = folder.absolute() if folder is not None else None
    root = str(folder / CA) if folder is not None else ""
    check_secure(address, root)
    about = f"partition-id={client}"
    if data_root is not None:
        about += f" data-root={json.dumps(str(data_root.absolute()))}"
    command = [*_flower("supernode", "flower_supernode"), "--superlink", address]
    command += ["--port", str(free_port()), "--node-config", about]
    if folder is not None:
        secret = key.absolute() if key is not None else folder / NODES / f"node-{client}"
        if not secret.is_file():
            raise BadInput(
                f"there is no key {secret}; expected the one that `engine federated certificates` "
                "made for this node"
            )
        command += ["--root-certificates", root, "--auth-supernode-private-key", str(secret)]
    else:
        command.append("--insecure")
    return _kept(command)


def watch(kept: Kept, say: Say, stopped: Callable[[], bool]) -> int:
    """Say what a command says, until it ends or is `stopped`; its exit code. Its messages are on
    either stream."""
    told = 0
    while not stopped():
        try:
            line = kept.next(0.2)
        except queue.Empty:
            line = ""
        for complaint in kept.complaints[told:]:
            say(complaint)
        told = len(kept.complaints)
        if line is None:
            break
        if line:
            say(line)
    kept.end()
    kept.wait(GRACE + 10)
    return kept.process.returncode or 0


def _kept(command: list[str]) -> Kept:
    """A process of Flower's, with a home for all that it writes, which goes with it. It finds
    Flower's other commands beside this Python."""
    home = Path(tempfile.mkdtemp(prefix="crucible-"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {"FLWR_HOME": str(home), "TMPDIR": str(home), "PATH": path}
    return Kept(command, env=env, cwd=home, remove=home, grace=GRACE)


def _wait_for(kept: Kept, address: str, root: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        if kept.process.poll() is not None:
            kept.wait(1.0)
            said = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(kept.complaints[-5:]))
            raise CrucibleError(f"the SuperLink did not start: {said}")
        try:
            reach(address, root)
            return
        except CrucibleError:
            if time.monotonic() > end:
                raise
        threading.Event().wait(0.2)


def _own(host: str) -> str:
    """How this machine reaches an address that it listens at."""
    if host in ("0.0.0.0", "::", "[::]"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _check_there(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise BadInput(
                f"there is no {name} in {folder}; make certificates with `engine federated "
                f"certificates --to {folder}`"
            )


def _flower(room: str, module: str) -> list[str]:
    """The command of Flower's that starts one: as its script does, with this Python."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.argv[0] = 'flower-{room}'\n"
        f"from flwr.{room}.cli.{module} import {module}; {module}()",
    ]
