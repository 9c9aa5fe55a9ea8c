"""The grid `deployment`: a run on a SuperLink, by Flower's own command line, and its log.

Server and clients are processes of Flower's, wherever the SuperLink and the SuperNodes are. What
the server says is in the log of the run (`engine.federated.relaying`), which the SuperLink hands
to whoever may start runs: events, and the files that it saved.
"""

from __future__ import annotations

import queue
import re
import threading
import time

from engine.bench import Bench
from engine.errors import BadInput, CrucibleError
from engine.federated.app_folder import write_app
from engine.federated.checking import check
from engine.federated.command_line import BOX, NAME, connection, flwr
from engine.federated.reaching import (
    check_secure,
    host_and_port,
    is_loopback,
    reach,
    takes_strangers,
)
from engine.federated.relaying import relayed
from engine.federated.spec import Deployment, Federate
from engine.task import Steps

STARTED = re.compile(r"Successfully started run (\d+)")
STOPPING = 60.0
"""Seconds that a run has to be stopped, out of sight."""


def deploy(spec: Federate, bench: Bench) -> Steps:
    """Run `spec` on its SuperLink.

    Cancelled, the run is stopped there, and nothing of it comes back. Raises BadInput where TLS or
    the SuperNodes' authentication is missing off this machine, UnavailableError where no SuperLink
    answers, CrucibleError where it is another than it should be, or is gone.
    """
    grid = spec.grid
    assert isinstance(grid, Deployment)
    check(spec)
    check_secure(grid.superlink, grid.root_certificates)
    if spec.init:
        raise BadInput(
            "a deployment cannot start from a run of this machine, whose files its server does "
            "not have; leave init out"
        )
    reach(grid.superlink, grid.root_certificates)
    if not is_loopback(host_and_port(grid.superlink)[0]) and takes_strangers(
        grid.superlink, grid.root_certificates
    ):
        raise BadInput(
            f"the SuperLink at {grid.superlink} takes SuperNodes that it does not know: anybody "
            "could take part. Start it with `engine federated superlink`, or with "
            "--enable-supernode-auth."
        )
    run = _Run(spec)
    try:
        return (yield from relayed(run, bench, "nodes"))
    finally:
        run.end()


class _Run:
    """A run of the SuperLink's, and its log."""

    def __init__(self, spec: Federate) -> None:
        assert isinstance(spec.grid, Deployment)
        self.grid = spec.grid
        home = connection(self.grid)
        task = {"spec": spec.to_dict(), "told": True, "wait": self.grid.wait}
        app = write_app(home / "app", task)
        self._kept = flwr(home, "run", str(app), NAME, "--stream")
        self._number = ""
        self._said: list[str] = []
        self._stopping = False

    def next(self, seconds: float) -> str | None:
        from engine.federated.apps import MARK

        end = time.monotonic() + seconds
        while True:
            line = self._kept.next(max(0.0, end - time.monotonic()))
            if line is None:
                return None
            before, ours, rest = line.partition(MARK)
            if ours:
                return rest
            if found := STARTED.search(before):
                self._number = found[1]
            self._said = [*self._said[-20:], before]

    def cancel(self) -> bool:
        if not self._stopping:
            self._stopping = True
            threading.Thread(target=self._stop, name="stop", daemon=True).start()
        return False

    def explain(self) -> str:
        self._kept.wait(5.0)
        words = " ".join(
            line.translate(BOX).strip() for line in [*self._said, *self._kept.complaints]
        )
        words = re.sub(r"\x1b\[[0-9;]*m", "", words)
        words = re.sub(r"\s+", " ", words.partition("Error")[2] or words).strip()
        try:
            reach(self.grid.superlink, self.grid.root_certificates)
        except CrucibleError as error:
            return f"the SuperLink is gone in the middle of the run: {error}"
        about = f" Flower says: {words[-500:]}" if words else ""
        if not self._number:
            return f"the SuperLink at {self.grid.superlink} did not take the run.{about}"
        return (
            f"run {self._number} of the SuperLink at {self.grid.superlink} has ended without a "
            f"result: it was stopped there, or its server failed.{about}"
        )

    def end(self) -> None:
        if not self._stopping:
            self._kept.end()

    def _stop(self) -> None:
        """Have the SuperLink stop the run, as soon as it has a number."""
        end = time.monotonic() + STOPPING
        while not self._number and time.monotonic() < end:
            try:
                if self.next(0.2) is None:
                    break
            except queue.Empty:
                continue
        if self._number:
            stop = flwr(connection(self.grid), "stop", self._number, NAME)
            stop.wait(max(0.0, end - time.monotonic()))
            stop.end()
        self._kept.end()
