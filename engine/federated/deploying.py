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
from typing import Any

from engine.bench import Bench
from engine.errors import BadInput, CrucibleError
from engine.events import Note
from engine.federated.app_folder import write_app
from engine.federated.charging import Account
from engine.federated.checking import check
from engine.federated.command_line import BOX, NAME, connection, flwr
from engine.federated.reaching import (
    check_secure,
    ended,
    host_and_port,
    is_loopback,
    reach,
    runs,
    takes_strangers,
)
from engine.federated.relaying import relayed
from engine.federated.spec import Deployment, Federate
from engine.task import Steps

STARTED = re.compile(r"Successfully started run (\d+)")
STARTING = 60.0
"""Seconds that a run has to be there, before it can be stopped."""
LAST = ('{"summary"', '{"failed"', '{"cancelled"')
"""What the last line of a server begins with."""
UNKNOWN = (
    "the SuperLink does not say any more how far the run had come: all rounds that it may have "
    "played count as spent"
)


def deploy(spec: Federate, bench: Bench) -> Steps:
    """Run `spec` on its SuperLink.

    Cancelled, the run is stopped there, and nothing of it comes back but what it has spent. Raises
    BadInput where TLS or the SuperNodes' authentication is missing off this machine,
    UnavailableError where no SuperLink answers, CrucibleError where it is another than it should
    be, or is gone.
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
    account = Account(spec, bench.folder)
    reach(grid.superlink, grid.root_certificates)
    if not is_loopback(host_and_port(grid.superlink)[0]) and takes_strangers(
        grid.superlink, grid.root_certificates
    ):
        raise BadInput(
            f"the SuperLink at {grid.superlink} takes SuperNodes that it does not know: anybody "
            "could take part. Start it with `engine federated superlink`, or with "
            "--enable-supernode-auth."
        )
    if (number := account.left) is not None:
        rounds = _rounds_of(grid, number)
        account.over(rounds)
        if rounds is None and spec.privacy is not None:
            yield Note("warning", UNKNOWN)
    run = _Run(spec, account)
    try:
        return (yield from relayed(run, bench, "nodes"))
    finally:
        run.end()


def _rounds_of(grid: Deployment, number: str) -> int | None:
    """How many rounds a run of the SuperLink's had begun, which is stopped; None where that cannot
    be told."""
    from engine.federated.apps import BEGUN, MARK

    log = ended(grid.superlink, grid.root_certificates, number) if number else None
    if log is None:
        return None
    return max(map(int, re.findall(f"{re.escape(MARK + BEGUN)}(\\d+)", log)), default=0)


class _Run:
    """A run of the SuperLink's, and its log."""

    def __init__(self, spec: Federate, account: Account) -> None:
        assert isinstance(spec.grid, Deployment)
        self.grid = spec.grid
        self.begun = 0
        """Rounds of a private run, as far as the log was read."""
        self._account = account
        task: dict[str, Any] = {"spec": spec.to_dict(), "told": True, "wait": self.grid.wait}
        before = runs(self.grid.superlink, self.grid.root_certificates)
        self._before: set[int] | None = before
        ledger = account.begin()
        if ledger is not None:
            task["ledger"] = ledger
        home = connection(self.grid)
        app = write_app(home / "app", task)
        self._kept = flwr(home, "run", str(app), NAME, "--stream")
        self._number = ""
        self._said: list[str] = []
        self._over = False
        self._ending: threading.Thread | None = None

    def next(self, seconds: float) -> str | None:
        from engine.federated.apps import BEGUN, MARK

        end = time.monotonic() + seconds
        while True:
            line = self._kept.next(max(0.0, end - time.monotonic()))
            if line is None:
                return None
            before, ours, rest = line.partition(MARK)
            if rest.startswith(BEGUN):
                self.begun = max(self.begun, int(rest.removeprefix(BEGUN)))
                continue
            if ours:
                self._over = self._over or rest.startswith(LAST)
                return rest
            if found := STARTED.search(before):
                self._number = found[1]
                self._account.named(self._number)
            self._said = [*self._said[-20:], before]

    def cancel(self) -> bool:
        self._end_it()
        return False

    def stopping(self, seconds: float) -> bool:
        assert self._ending is not None
        self._ending.join(seconds)
        return self._ending.is_alive()

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

    def _end_it(self) -> None:
        """Have the SuperLink stop the run, in a thread that this process does not end before:
        nobody else would stop it."""
        if self._ending is None:
            self._ending = threading.Thread(target=self._stop, name="stop")
            self._ending.start()

    def end(self) -> None:
        """It is not wanted any more."""
        if self._over:
            self._account.over(self.begun)
            self._kept.end()
        else:
            self._end_it()

    def _stop(self) -> None:
        end = time.monotonic() + STARTING
        while not self._number and time.monotonic() < end:
            try:
                if self.next(0.2) is None:
                    break
            except queue.Empty:
                continue
        if self._number or not self._nothing_begun():
            rounds = _rounds_of(self.grid, self._number)
        else:
            rounds = 0
        if rounds is not None:  # else it is asked for when the run is resumed
            self._account.over(rounds)
        self._kept.end()

    def _nothing_begun(self) -> bool:
        """Whether the SuperLink has not taken the run, nor any other since."""
        if self._before is None or not self._kept.wait(1.0):
            return False
        there = runs(self.grid.superlink, self.grid.root_certificates)
        return there is not None and there <= self._before
