"""The questions that are open: which of them wait, which are under way, and in which thread.

Data is loaded in a thread of its own, since a download or a large folder may take minutes; models
are built and asked by the thread that computes, between two steps. What takes long there is done a
little at a time, and the run has as much time as all questions together; what a person does not
wait for comes last. What is left when the model has been asked (as a t-SNE) goes on in the
questions' own thread, by turns with what is to be loaded. A run that goes on meanwhile must come to
the same weights, so what torch shares decides which is which. Grad mode and the `torch.device` mode
are each thread's own, and so is the number of threads: one that is new takes over the process's,
and asks for no other. The flags (deterministic algorithms, cuDNN, TF32) are the process's, and
every bench sets them alike. The default generator is the process's too, and a training draws from
it (dropout) inside a step: loading draws from generators of its own, whereas building a model seeds
the default one and puts it back.

Of each kind only the newest question is answered: one that it replaces is told so, and is given up
also when it was under way. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import CrucibleError
from engine.store import Workspace

if TYPE_CHECKING:
    from engine.questions import Answer, Aside, Finish

    Work: TypeAlias = Finish | Generator[None, None, Answer | Aside] | None
    """What is left to be done for a question; None is all of it."""

log = logging.getLogger("engine")

SUPERSEDED = "superseded: a newer question of the same kind has been asked"
"""The error of a question that is not answered any more."""

SLICE = 0.02
"""Seconds that the work on a long answer goes on before anything else has its turn."""

LOADS_NOTHING = ("meet_model", "preview_points", "smallest_eps", "try_attack")
"""Questions that never wait for data."""

PATIENT = ("embed", "smallest_eps")
"""Questions that others go before."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question, and the number that its answer bears."""

    number: int
    question: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.question["kind"])

    @property
    def needs_data(self) -> bool:
        """Whether it may have to wait for a download; not where its picture comes with it."""
        if self.kind == "predict":
            return isinstance(self.question.get("image"), int)
        return self.kind not in LOADS_NOTHING

    @property
    def patient(self) -> bool:
        return self.kind in PATIENT


class Desk:
    """Takes questions from any thread; `say` gets the answers, as `Outbox.say` does. `wake` is
    called when there is something for `compute`."""

    def __init__(
        self,
        workspace: Workspace,
        data_root: Path | None,
        say: Callable[..., None],
        wake: Callable[[], None],
    ) -> None:
        self._workspace = workspace
        self._data_root = data_root
        self._say = say
        self._wake = wake
        self._changed = threading.Condition()
        self._newest: dict[str, Asked] = {}
        self._to_load: deque[tuple[Asked, Aside | None]] = deque()
        self._to_compute: deque[tuple[Asked, Work]] = deque()
        self._rest_until = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._load, name="questions", daemon=True)

    def open(self) -> None:
        """Begin: not before torch is there, which two threads must not import at once."""
        self._thread.start()

    def ask(self, number: int, question: Mapping[str, Any]) -> None:
        """Answer `question` under `number`, in place of an older one of its kind. Raises KeyError
        if it has no kind."""
        asked = Asked(number, question)
        with self._changed:
            older = self._newest.get(asked.kind)
            self._newest[asked.kind] = asked
            if asked.needs_data:
                self._to_load.append((asked, None))
                self._changed.notify_all()
            else:
                self._to_compute.append((asked, None))
        if older is not None:
            self._say("answer", id=older.number, error=SUPERSEDED)
        if not asked.needs_data:
            self._wake()

    @property
    def ready(self) -> bool:
        """Whether there is something for `compute`."""
        return bool(self._to_compute)

    def compute(self, *, sharing: bool = False) -> None:
        """Answer what is ready for it, or work on it for SLICE seconds. Called by the thread that
        computes, between two steps, until nothing is ready. `sharing` with a run, it does nothing
        until that has had as much time as the last call took."""
        begun = time.monotonic()
        if sharing and begun < self._rest_until:
            return
        while (taken := self._take()) is not None:
            asked, work = taken
            rest: Work = None
            with self._explaining(asked):
                rest = self._advance(asked, work, begun + SLICE)
            if rest is not None:
                with self._changed:
                    self._to_compute.appendleft((asked, rest))
                if time.monotonic() - begun >= SLICE:
                    break
        ended = time.monotonic()
        self._rest_until = ended + (ended - begun)
        if self.ready:
            self._wake()

    def _take(self) -> tuple[Asked, Work] | None:
        """The first that is ready, a patient one if there is no other."""
        with self._changed:
            first = min(self._to_compute, key=lambda item: item[0].patient, default=None)
            if first is not None:
                self._to_compute.remove(first)
            return first

    def _advance(self, asked: Asked, work: Work, deadline: float) -> Work:
        """Answer it, or come nearer to that until `deadline`; what is left to be done."""
        from engine.questions import Aside

        prepared = work or self._pull(asked)
        if callable(prepared) and self._wanted(asked):
            prepared = prepared()
        if isinstance(prepared, Generator):
            steps = prepared
            while self._wanted(asked):
                try:
                    next(steps)
                except StopIteration as end:
                    prepared = end.value
                    break
                if time.monotonic() >= deadline or (asked.patient and self._more_pressing()):
                    return steps
        if isinstance(prepared, tuple):
            self._reply(asked, prepared)
        elif isinstance(prepared, Aside):
            with self._changed:
                self._to_load.append((asked, prepared))
                self._changed.notify_all()
        return None

    def drop(self, kind: str) -> None:
        """Give up the question of this kind, which nobody waits for any more."""
        with self._changed:
            self._newest.pop(kind, None)

    def _more_pressing(self) -> bool:
        with self._changed:
            return any(not asked.patient for asked, _ in self._to_compute)

    def close(self) -> None:
        """Give everything up, also what is under way, at its next event."""
        with self._changed:
            self._closed = True
            self._newest.clear()
            self._to_load.clear()
            self._to_compute.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Let what was given up clear away behind itself."""
        self._thread.join(seconds)

    # --- the questions' thread --------------------------------------------------------------------

    def _load(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._to_load or self._closed)
                if self._closed:
                    return
                asked, aside = self._to_load.popleft()
            with self._explaining(asked):
                prepared = self._pull(asked) if aside is None else self._go_on(asked, aside)
                if isinstance(prepared, tuple):
                    self._reply(asked, prepared)
                elif prepared is not None:
                    with self._changed:
                        self._to_compute.append((asked, prepared))
                    self._wake()

    def _go_on(self, asked: Asked, aside: Aside) -> Answer | None:
        """The answer, or None: it is not wanted any more, or others wait and have their turn."""
        while self._wanted(asked):
            try:
                next(aside.steps)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            with self._changed:
                if self._to_load:
                    self._to_load.append((asked, aside))
                    return None
        aside.steps.close()
        return None

    # --- either thread ----------------------------------------------------------------------------

    def _pull(self, asked: Asked) -> Answer | Finish | None:
        """What `prepare` makes of a question; None once nobody wants it any more."""
        from engine.questions import prepare

        with contextlib.closing(
            prepare(asked.question, self._workspace, self._data_root)
        ) as loading:
            while self._wanted(asked):
                try:
                    next(loading)
                except StopIteration as end:
                    prepared: Answer | Finish = end.value
                    return prepared
        return None

    def _wanted(self, asked: Asked) -> bool:
        return self._newest.get(asked.kind) is asked

    def _reply(self, asked: Asked, answer: Answer) -> None:
        if self._settle(asked):
            self._say("answer", answer[1], id=asked.number, answer=answer[0])

    @contextlib.contextmanager
    def _explaining(self, asked: Asked) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            if not isinstance(error, CrucibleError):
                log.exception("a question failed")
            if self._settle(asked):
                self._say("answer", id=asked.number, error=str(error) or type(error).__name__)

    def _settle(self, asked: Asked) -> bool:
        """Whether it is still to be answered; from now on it is not."""
        with self._changed:
            wanted = self._wanted(asked)
            if wanted:
                del self._newest[asked.kind]
            return wanted
