"""The grid `ray`: Flower's simulation engine in a process of its own, which plays the whole task.

    python -m engine.federated.simulating

Of its standard input the first line is the task (`engine.federated.apps`), with the `folder` of the
run and a `scratch` folder; the line `cancel` stops it. What it says goes to its standard output
(`engine.federated.relaying`). Ray, and all that it starts, go with it (`engine.federated.guard`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.bench import Bench
from engine.errors import BadInput, CrucibleError
from engine.federated.app_folder import write_app
from engine.federated.checking import check
from engine.federated.keeping import Kept
from engine.federated.relaying import relayed
from engine.federated.spec import Federate, Ray
from engine.models.trust import trusts
from engine.task import Steps

CANCEL = "cancel"


# --- at the engine --------------------------------------------------------------------------------


def simulate(spec: Federate, bench: Bench) -> Steps:
    """Run `spec` on Ray. Raises BadInput where Ray is not installed; see `relayed`."""
    assert isinstance(spec.grid, Ray)
    check(spec)
    if importlib.util.find_spec("ray") is None:
        raise BadInput(
            "the grid ray needs Ray, which is not installed; install it with pip install "
            '"crucible-workbench[federated-ray]", or take grid = {kind = "local"}'
        )
    if spec.model is not None:
        trusts(spec.model, bench)  # a yes on the command line is remembered for its processes
    named = {}
    if spec.init:
        path = bench.find_model(spec.init).absolute()
        if path.suffix == ".age":
            raise BadInput(
                "the processes of the grid ray are told no passphrases: start from a run, or from "
                "a file that is not encrypted"
            )
        named["init"] = str(path)
    scratch = Path(tempfile.mkdtemp(prefix="crucible-"))
    task = {
        "spec": spec.model_copy(update=named).to_dict(),
        "folder": str(bench.folder.absolute()),
        "scratch": str(scratch),
        "data_root": str(bench.data_root.absolute()) if bench.data_root else None,
    }
    kept = Kept([sys.executable, "-m", __name__], remove=scratch)
    try:
        kept.say(json.dumps(task))
        return (yield from relayed(_Simulation(kept), bench, "nodes"))
    finally:
        kept.end()


class _Simulation:
    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.next = kept.next

    def cancel(self) -> bool:
        self._kept.say(CANCEL)
        return True

    def stopping(self, seconds: float) -> bool:
        return False  # it is killed

    def explain(self) -> CrucibleError:
        self._kept.wait(5.0)
        last = next((line for line in reversed(self._kept.complaints) if line), "")
        return CrucibleError(
            f"the process of the grid ray ended unexpectedly{': ' if last else ''}{last}"
        )


# --- in its process -------------------------------------------------------------------------------


def main() -> None:
    """Play the task that comes by standard input."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no line of ours
    task = json.loads(sys.stdin.readline())
    cancelled = threading.Event()
    threading.Thread(target=_listen, args=(cancelled,), daemon=True).start()

    def say(body: Mapping[str, Any]) -> None:
        said.write(json.dumps(body) + "\n")
        said.flush()

    try:
        play(task, say, cancelled.is_set)
    except Exception as error:
        code = error.exit_code if isinstance(error, CrucibleError) else 1
        say({"failed": str(error) or type(error).__name__, "exit_code": code})
    finally:
        os._exit(0)  # the guard ends what Ray has started, sooner than Ray does


def _listen(cancelled: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == CANCEL:
            cancelled.set()


def play(task: Mapping[str, Any], say: Any, cancelled: Any) -> None:
    """Play a task on Flower's simulation engine."""
    from engine.events import drain
    from engine.federated import apps
    from engine.federated.federating import cores
    from engine.federated.flower import quiet
    from engine.federated.preparing import portable, prepared
    from engine.federated.relaying import tell

    # isort: split
    from flwr.app import Context, RecordDict
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    quiet()
    folder, scratch = Path(task["folder"]), Path(task["scratch"])
    spec, bench = apps.task_of(task, folder)
    assert isinstance(spec.grid, Ray)
    clients = spec
    if spec.init:
        clients = portable(spec, drain(prepared(spec, bench)))
    app = write_app(scratch / "app", {"spec": clients.to_dict(), "data_root": task["data_root"]})
    server = ServerApp()

    @server.main()
    def conduct(grid: Grid, context: Context) -> None:
        try:
            tell(apps.conduct(task, folder, grid), say, cancelled)
        finally:
            os._exit(0)

    processes = min(spec.grid.processes or cores(), spec.clients)
    cuda = bench.device.type == "cuda"
    _run_simulation(
        num_supernodes=spec.clients,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app_attr="engine.federated.apps:client",
        server_app=server,
        server_app_context=Context(0, 0, {}, RecordDict(), {}),
        app_dir=str(app),
        is_app=True,
        backend_config={
            "init_args": {
                "address": "local",
                "num_cpus": processes,
                "num_gpus": 1 if cuda else 0,
                "include_dashboard": False,
                "logging_level": "error",
                "log_to_driver": False,
                "_temp_dir": str(scratch / "ray"),
                "object_store_memory": spec.grid.memory * 2**20,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 1 / processes if cuda else 0.0},
        },
    )


if __name__ == "__main__":
    main()
