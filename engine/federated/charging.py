"""What a private federation has spent, in the run's folder, where its noise is drawn elsewhere.

Nothing can be said to a server on a SuperLink once it is at work, so that all rounds that it may
come to are charged here before it is started. It says in its log that a round has begun, and goes
on when the SuperLink has that: when it has ended, the log tells how many rounds there were, and the
others are released. Where nobody can tell any more, all of them count.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import BadInput, StorageError
from engine.federated.noising import LEDGER, client_plan
from engine.federated.spec import Federate
from engine.files import atomic
from engine.privacy.ledger import Charge, Ledger

SESSION = "deployment.json"
"""In the run's folder: the run on the SuperLink, and whether it is over."""


class Account:
    """The budget of a run over all its sessions, each of which is a run on the SuperLink.

    Raises BadInput where the ledger is missing although there was one, or damaged."""

    def __init__(self, spec: Federate, folder: Path) -> None:
        self._spec = spec
        self._path = folder / SESSION
        self._session: dict[str, Any] = {}
        if self._path.is_file():
            self._session = json.loads(self._path.read_text(encoding="utf-8"))
        self._ledger = None
        if spec.privacy is not None:
            self._ledger = _Grants(folder / LEDGER, fresh=not self._session)

    @property
    def left(self) -> str | None:
        """The run on the SuperLink that may not be over, "" where its number is not known; None if
        there is none."""
        return None if self._session.get("over", True) else str(self._session["run"])

    def begin(self) -> str | None:
        """Charge all rounds of a new session, and give what was spent before it, as the server's
        ledger; None where nothing is private. Raises BadInput where the budget is used up,
        StorageError where it cannot be written down."""
        before = None
        if self._ledger is not None:
            before = self._ledger.path.read_text(encoding="utf-8")
            self._charge(self._ledger)
        self._write(run="", over=False)
        return before

    def named(self, run: str) -> None:
        """The session is this run on the SuperLink."""
        self._write(run=run, over=False)

    def over(self, rounds: int | None) -> None:
        """The session has ended, after it had begun so many rounds; None: nobody knows."""
        with contextlib.suppress(StorageError):  # too much counts then, never too little
            if self._ledger is not None and rounds is not None:
                self._ledger.settle(rounds)
            self._write(run=self._session["run"], over=True)

    def _charge(self, ledger: _Grants) -> None:
        spec = self._spec
        assert spec.privacy is not None
        plan = client_plan(spec.privacy, spec.fraction, spec.rounds)
        charge = Charge(plan.noise, spec.fraction)
        ledger.open()
        rounds, spent = spec.rounds, ledger.repeated(charge)
        if plan.allowed is not None:
            rounds = min(rounds, plan.allowed - spent)
        if rounds < 1:
            raise BadInput(
                f"the target epsilon of {spec.privacy.epsilon:g} is used up: it allows "
                f"{plan.allowed} rounds, and {spent} count already, of sessions whose result is "
                "lost. Start a new run"
            )
        ledger.grant(charge, rounds)

    def _write(self, **session: Any) -> None:
        self._session = session
        with atomic(self._path) as file:
            file.write(json.dumps(session).encode())


class _Grants(Ledger):
    """A ledger whose rounds are all reserved at once, and settled by whoever opens it next if need
    be: it is opened by `open`, not before."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._opening: Mapping[str, Any] | None = None
        super().__init__(path, fresh=fresh, secure=True)

    def open(self) -> None:
        """A new session; the one before cannot be settled any more."""
        assert self._opening is not None
        super()._add(self._opening)

    def grant(self, charge: Charge, rounds: int) -> None:
        """Reserve so many rounds. Raises StorageError."""
        self._add(
            {
                "reserve": [1, rounds],
                "noise_multiplier": charge.noise_multiplier,
                "sample_rate": charge.sample_rate,
                "sampling": charge.sampling,
                "drawn": 0,
            }
        )

    def _add(self, entry: Mapping[str, Any]) -> None:
        if self._opening is None and "open" in entry:
            self._opening = entry
            return
        super()._add(entry)
