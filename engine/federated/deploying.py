"""The grid `deployment`: a run on a SuperLink, by Flower's own command line, and its log.

Server and clients are processes of Flower's, wherever the SuperLink and the SuperNodes are. What
the server says is in the log of the run (`engine.federated.relaying`), which the SuperLink hands
to whoever may start runs: events, and the files that it saved.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from engine.bench import Bench
from engine.errors import BadInput, CrucibleError, LostError, UnavailableError
from engine.events import Event, Note, Progress
from engine.federated.app_folder import PUBLISHER, write_app
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
from engine.federated.relaying import MARK, relayed, rounds_begun
from engine.federated.spec import Deployment, Federate
from engine.task import Steps

T = TypeVar("T")

STARTING = 60.0
"""Seconds that a run has to be there, before it can be stopped."""
STOPPING = 12.0
"""Seconds that a run waits until it is stopped. After them it is stopped all the same, but what it
has spent is asked for only when it is resumed."""
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
    UnavailableError where no SuperLink answers, or another than it should be, LostError where it
    is gone in the middle of the run.
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
    yield from _answer(bench, _look, grid)
    if account.left is not None:
        rounds = yield from _answer(bench, _rounds_of, grid, account.left)
        account.over(rounds)
        if rounds is None and spec.privacy is not None:
            yield Note("warning", UNKNOWN)
    run = _Run(spec, account)
    try:
        return (yield from relayed(run, bench, "nodes"))
    finally:
        run.end()


def _begin(question: Callable[..., T], *about: Any) -> Future[T]:
    """Ask a SuperLink, in a thread that this process does not end before."""
    pool = ThreadPoolExecutor(1, "superlink")
    asked = pool.submit(question, *about)
    pool.shutdown(wait=False)
    return asked


def _answer(bench: Bench, question: Callable[..., T], *about: Any) -> Generator[Event, None, T]:
    """What a SuperLink says, which a cancel does not wait for."""
    asked = _begin(question, *about)
    while not asked.done():
        wait([asked], bench.burst or 0.001)
        yield Progress(0, 0, "nodes")
    return asked.result()


def _look(grid: Deployment) -> None:
    """Whether the SuperLink is there, and may be trusted with a run. Raises as `deploy`."""
    reach(grid.superlink, grid.root_certificates)
    if not is_loopback(host_and_port(grid.superlink)[0]) and takes_strangers(
        grid.superlink, grid.root_certificates
    ):
        raise BadInput(
            f"the SuperLink at {grid.superlink} takes SuperNodes that it does not know: anybody "
            "could take part. Start it with `engine federated superlink`, or with "
            "--enable-supernode-auth."
        )
    runs(grid.superlink, grid.root_certificates)


def _number(grid: Deployment, app: str) -> int | None:
    """Of the run of an app on the SuperLink, if it has taken that. Raises UnavailableError."""
    return runs(grid.superlink, grid.root_certificates).get(f"{PUBLISHER}/{app}")


def _rounds_of(grid: Deployment, app: str) -> int | None:
    """How many rounds the run of an app had begun, which is stopped; None where nobody can tell.
    Raises UnavailableError."""
    number = _number(grid, app)
    log = None if number is None else ended(grid.superlink, grid.root_certificates, number)
    return None if log is None else rounds_begun(log)


class _Run:
    """A run of the SuperLink's, and its log."""

    def __init__(self, spec: Federate, account: Account) -> None:
        assert isinstance(spec.grid, Deployment)
        self.grid = spec.grid
        self._account = account
        self._app = f"crucible-{secrets.token_hex(8)}"
        self._begun = 0
        """Rounds of a private run, as far as the log was read."""
        self._said: list[str] = []
        self._over = False
        """Whether the server has said its last."""
        self._number: int | None = None
        """On the SuperLink, known when it is stopped."""
        self._ending: Future[int | None] | None = None
        self._patience = 0.0
        task: dict[str, Any] = {"spec": spec.to_dict(), "told": True, "wait": self.grid.wait}
        if account.spent is not None:
            task["ledger"] = account.spent
        home = connection(self.grid)
        try:
            app = write_app(home / "app", task, self._app)
            account.begin(self._app)
            try:
                self._kept = flwr(home, "run", str(app), NAME, "--stream")
            except OSError:
                account.over(0)
                raise
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise

    def next(self, seconds: float) -> str | None:
        end = time.monotonic() + seconds
        while (line := self._kept.next(max(0.0, end - time.monotonic()))) is not None:
            if line.startswith(MARK):
                if rounds := rounds_begun(line):
                    self._begun = max(self._begun, rounds)
                    continue
                said = line.removeprefix(MARK)
                self._over = self._over or said.startswith(LAST)
                return said
            if line:
                self._said = [*self._said[-20:], line]
        return None

    def cancel(self) -> bool:
        return False

    def stopping(self, seconds: float) -> bool:
        if self._over:
            return False
        wait([self._stop()], seconds)
        return not self._stop().done() and time.monotonic() < self._patience

    def explain(self) -> CrucibleError:
        where = f"the SuperLink at {self.grid.superlink}"
        if not self._stop().done():
            return LostError(f"{where} does not answer any more")
        if error := self._stop().exception():
            return LostError(f"the SuperLink is gone in the middle of the run: {error}")
        self._kept.wait(1.0)
        words = " ".join(
            line.translate(BOX).strip() for line in [*self._said, *self._kept.complaints]
        )
        words = re.sub(r"\x1b\[[0-9;]*m", "", words)
        words = re.sub(r"\s+", " ", words.partition("Error")[2] or words).strip()
        about = f" Flower says: {words[-500:]}" if words else ""
        if self._number is None:
            return UnavailableError(f"{where} did not take the run.{about}")
        return LostError(
            f"run {self._number} of {where} has ended without a result: it was stopped there, or "
            f"its server failed.{about}"
        )

    def end(self) -> None:
        """It is not wanted any more."""
        if self._over:
            self._account.over(self._begun)
            self._kept.end()
        elif self._stop().done() and not self._stop().exception():
            rounds = self._stop().result()
            if rounds is not None:  # else it is asked for again when the run is resumed
                self._account.over(rounds)

    def _stop(self) -> Future[int | None]:
        """Have the SuperLink stop the run, whatever becomes of this one: nobody else would. Gives
        what `_rounds_of` does."""
        if self._ending is None:
            self._ending = _begin(self._stopped)
            self._patience = time.monotonic() + STOPPING
        return self._ending

    def _stopped(self) -> int | None:
        end = time.monotonic() + STARTING
        try:
            while time.monotonic() < end:
                starts = not self._kept.wait(0.0)
                self._number = _number(self.grid, self._app)
                if self._number is not None:
                    return _rounds_of(self.grid, self._app)
                if not starts:
                    return 0
                time.sleep(0.2)
            raise UnavailableError(f"it has not taken the run within {STARTING:g} s")
        finally:
            self._kept.end()
