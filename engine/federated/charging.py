"""What a private federation has spent, in the run's folder, where its noise is drawn elsewhere.

Nothing can be said to a server on a SuperLink once it is at work, so that all rounds that it may
come to are charged here before it is started. It says in its log that a round has begun, and goes
on when the SuperLink has that: when it has ended, the log tells how many rounds there were, and the
others are released. Where nobody can tell any more, all of them count.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from engine.errors import BadInput, CrucibleError
from engine.federated.noising import LEDGER, client_plan
from engine.federated.spec import ClientPrivacy, Federate
from engine.files import atomic
from engine.privacy.ledger import Charge, Ledger

SESSION = "deployment.json"
"""In the run's folder: the app of the last session, and whether it is over."""


class Account:
    """The budget of a run over all its sessions, each of which is a run on the SuperLink, of an app
    that has a name of its own: by it the run is found there, whoever else has runs. To be used by
    whoever holds the lock of the run, and nobody else.

    Raises BadInput where the ledger is missing although there was one, or anything is damaged."""

    def __init__(self, spec: Federate, folder: Path) -> None:
        self._spec = spec
        self._path, self._ledger = folder / SESSION, folder / LEDGER
        fresh = not self._path.is_file()
        self._app, self._over = ("", True) if fresh else _read(self._path)
        if spec.privacy is not None:
            Ledger(self._ledger, fresh=fresh, secure=True, opened=False)

    @property
    def left(self) -> str | None:
        """The app of the last session, if it may not be over."""
        return None if self._over else self._app

    @property
    def spent(self) -> str | None:
        """What was spent before, as the ledger of the server that goes on; None where nothing is
        private."""
        return None if self._spec.privacy is None else self._ledger.read_text(encoding="utf-8")

    def begin(self, app: str) -> None:
        """Charge all rounds of a new session. Raises BadInput where the budget is used up,
        StorageError where it cannot be written down: nothing is charged then."""
        self._write(app, over=False)
        try:
            if self._spec.privacy is not None:
                self._charge(self._spec.privacy)
        except CrucibleError:
            self.over(None)
            raise

    def over(self, rounds: int | None) -> None:
        """The session has ended, after it had begun so many rounds; None: nobody knows."""
        with contextlib.suppress(CrucibleError):  # too much counts then, never too little
            if self._spec.privacy is not None and rounds is not None:
                Ledger(self._ledger, fresh=False, secure=True, opened=False).settle(rounds)
            self._write(self._app, over=True)

    def _charge(self, privacy: ClientPrivacy) -> None:
        spec = self._spec
        plan = client_plan(privacy, spec.fraction, spec.rounds)
        charge = Charge(plan.noise, spec.fraction)
        ledger = Ledger(self._ledger, fresh=False, secure=True)
        rounds, spent = spec.rounds, ledger.repeated(charge)
        if plan.allowed is not None:
            rounds = min(rounds, plan.allowed - spent)
        if rounds < 1:
            raise BadInput(
                f"the target epsilon of {privacy.epsilon:g} is used up: it allows "
                f"{plan.allowed} rounds, and {spent} count already, of sessions whose result is "
                "lost. Start a new run"
            )
        ledger.reserve(charge, rounds, last=rounds)

    def _write(self, app: str, *, over: bool) -> None:
        with atomic(self._path) as file:
            file.write(json.dumps({"app": app, "over": over}).encode())
        self._app, self._over = app, over


def _read(path: Path) -> tuple[str, bool]:
    """The app of the last session, and whether that is over. Raises BadInput."""
    try:
        said = json.loads(path.read_bytes())
        return str(said["app"]), bool(said["over"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is damaged ({type(error).__name__}), which says whether a server of this run "
            "is still at work on the SuperLink. Put back an undamaged copy; or stop that server "
            "yourself (`flwr ls` and `flwr stop`) and remove the file: what the run has charged "
            "counts in full then"
        ) from None
