"""What a private run has spent, on disk before it is spent.

A ledger is a file of JSON lines that are only ever added to. A step is reserved, and the
reservation is on the disk (fsync), before the step's noise is drawn; so whatever kills the run, no
noisy step was used that is not in the ledger. Steps are reserved in blocks, so that not every one
waits for the disk; a run that ends or rests by itself releases what it reserved and did not draw.

A run that was killed goes on from its last checkpoint, and repeats the steps after it. With noise
from the task's own seed these are the same releases, bit for bit, and cost nothing twice: a step
counts once, however often it is reserved alike. With noise from the operating system (`secure`)
they are new ones: all that was reserved counts, and repeated steps count again. So do steps that
are repeated otherwise (with a live value changed, on other threads, with other answers): each
reservation says its `Source`, which is whatever decides a step bit for bit.

A checkpoint that is older than the ledger is therefore the normal case. A ledger that is older than
the checkpoint cannot come about by itself, and is refused, as is one that is missing or damaged:
nobody could say what was spent. Only a last line that was not finished is dropped, for its
reservation had not returned, so that nothing was drawn on it. Each line carries a checksum over
itself and all lines before it. (A run without a checkpoint begins again, and makes a new ledger if
there is none: that somebody took one away then, it cannot tell.)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import BadInput, StorageError
from engine.files import atomic

BLOCK = 8
"""Steps that are reserved at once; of them a run that is killed may lose some."""

_HEAD = {"ledger": "privacy", "version": 1}


@dataclass(frozen=True, slots=True)
class Charge:
    """`steps` releases of a clipped sum with Gaussian noise.

    noise_multiplier: deviation of the noise over the clipping norm. sample_rate: probability with
    which each member (a sample; a client) is in a step. sampling: how the members of a step were
    drawn; epsilon can be told only of "poisson" (each by itself)."""

    noise_multiplier: float
    sample_rate: float
    steps: int = 1
    sampling: str = "poisson"


@dataclass(frozen=True, slots=True)
class Source:
    """What decides a step bit for bit.

    run: what is known before the run goes on, as its code and the number of its threads. start: of
    a federated round the model that it starts from. outcome: what became of it, as who answered."""

    run: str
    start: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class _Reserved:
    """Steps `first` to `last` of one opening of the ledger. Those of one `source` with the same
    charge are the same releases; one without a source is like no other."""

    charge: Charge
    first: int
    last: int
    session: int
    source: Source | None

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)


class Ledger:
    """The budget of one run, in the file `path`. Steps count from 1.

    fresh: the run begins, as one does that has no checkpoint yet: a ledger is made if there is
    none. Else it goes on after `step` steps (0: not known), and its ledger must be there.
    secure: the noise is drawn anew each time, so that a step that is repeated costs again.
    source: `Source.run`, if that may differ between a run and its resumption; steps that are
    repeated under another source cost again.
    opened: it is taken up by a session of its own. Else it goes on in the last one, as whoever
    settles that afterwards does.

    Raises BadInput where the ledger is missing, damaged, or older than the checkpoint, StorageError
    where it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        fresh: bool = True,
        step: int = 0,
        secure: bool = False,
        source: str = "seed",
        opened: bool = True,
    ) -> None:
        self.path = path
        if not fresh and not path.is_file():
            raise BadInput(
                f"the privacy ledger {path} is missing, which says what the run has spent so far. "
                "Put it back: without it the run cannot go on, and nothing can be said of its "
                "epsilon."
            )
        self._book = _Book()
        self._check = ""
        if path.is_file():
            self._book, self._check, whole = _read(path)
            _mend(path, whole)
        if not self._check:
            self._append(_HEAD)
        known = max((part.last for part in self._book.reserved), default=0)
        if step > known:
            raise BadInput(
                f"the checkpoint was made after step {step}, but the privacy ledger {path} knows "
                f"of {known} steps only: it is older than the checkpoint, and what was spent since "
                "is unknown. Put back the ledger that belongs to it."
            )
        self._step = step
        self._secure = secure
        if opened:
            self._add(
                {"open": self._book.session + 1, "after": step, "source": "" if secure else source}
            )

    def reserve(
        self,
        charge: Charge,
        through_step: int,
        *,
        last: int | None = None,
        source: Source | None = None,
    ) -> None:
        """See to it that the ledger holds every step up to `through_step` before that is drawn,
        with the noise and rate of `charge` (its number of steps is not looked at).

        To be called before every step, the first one being step 1. It writes a block ahead, up to
        step `last` if that is given, so that most calls touch no disk. `source` is that of these
        steps, if it is not the ledger's. Raises StorageError: the step must not be drawn then."""
        if through_step < 1:
            raise ValueError("steps count from 1")
        book = self._book
        source = self._of(source)
        held = book.held(charge, through_step, source)
        if through_step > held:
            block = through_step + BLOCK - 1
            entry = {
                "reserve": [held + 1, max(through_step, min(block, last or block))],
                "noise_multiplier": charge.noise_multiplier,
                "sample_rate": charge.sample_rate,
                "sampling": charge.sampling,
                "drawn": book.drawn,
            }
            if source is not None and source != Source(book.source):
                entry["source"] = [source.run, source.start, source.outcome]
            self._add(entry)
        book.drawn = max(book.drawn, through_step)

    def settle(self, step: int) -> None:
        """The run ends or rests after `step` steps: release what was reserved for later ones and
        not drawn. What was drawn stays."""
        end = max(step, self._book.drawn)
        if self._book.reserved_to() > end:
            self._add({"settle": end})

    def charged(self) -> tuple[Charge, ...]:
        """All that counts, reserved steps included: one entry for each noise and rate."""
        return _charged(self._book.reserved)

    def charged_with(self, charge: Charge, step: int, source: Source) -> tuple[Charge, ...]:
        """The same, if this step were reserved as well."""
        book = self._book
        more = _Reserved(_kind(charge), step, step, book.session, self._of(source))
        return _charged([*book.reserved, more])

    def steps(self) -> int:
        """How many steps count."""
        return sum(charge.steps for charge in self.charged())

    def repeated(
        self,
        charge: Charge,
        step: int | None = None,
        sources: Sequence[tuple[int, str]] | None = None,
    ) -> int:
        """How many steps like `charge` were spent and do not bring the run forward, which is after
        `step` steps (those of its opening unless given): it takes them again, as other releases.

        `sources`: from which step on the steps to come have which `Source.run`; the ledger's own
        unless given. What was reserved alike for steps to come costs nothing again."""
        book = self._book
        step = self._step if step is None else step
        ahead = [(1, book.source)] if sources is None else list(sources)
        spent, free = [], []
        for part in book.reserved:
            if part.charge != _kind(charge):
                continue
            if part.session == book.session:  # what it has reserved ahead is yet to be taken
                spent.append(_between(part, 1, step))
                continue
            spent.append(part)
            ends = [first - 1 for first, _ in ahead[1:]]
            for (first, run), last in zip(ahead, [*ends, part.last], strict=True):
                if part.source is not None and part.source.run == run:
                    free.append(_between(part, max(first, step + 1), last))
        forward = _union(_between(part, 1, step) for part in spent)
        return max(0, _count(spent) - _union(free) - forward)

    def others(self, step: int, source: Source) -> int:
        """How many releases of a step there are whose source differs from `source` in the outcome
        alone."""
        found = {part.source for part in self._book.reserved if part.first <= step <= part.last}
        same = (source.run, source.start)
        alike = [s for s in found if s is not None and (s.run, s.start) == same]
        return sum(s.outcome != source.outcome for s in alike)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Settle at the last step that was drawn, however the block ends."""
        with suppress(StorageError):  # what stays reserved counts: too much, never too little
            self.settle(0)

    def _of(self, source: Source | None) -> Source | None:
        """The source of a step, by default the ledger's own; None where each is like no other."""
        return None if self._secure else source or Source(self._book.source)

    def _add(self, entry: Mapping[str, Any]) -> None:
        self._append(entry)
        self._book.take(entry)

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Put one line on the disk; it is there when this returns."""
        text = _text(entry)
        check = _checksum(self._check, text)
        line = f'{{"check":"{check}","entry":{text}}}\n'.encode()
        try:
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _write(descriptor, line)
            finally:
                os.close(descriptor)
            if new:
                _sync(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"the privacy ledger {self.path} could not be written ({error.strerror}). A step "
                "that is not in it is not taken. Free some space, and resume the run."
            ) from None
        self._check = check


def read_charges(path: Path) -> tuple[Charge, ...]:
    """What a run has spent, from its ledger, which is left as it is.

    Raises BadInput where it is missing or damaged."""
    if not path.is_file():
        raise BadInput(f"there is no privacy ledger {path}: what was spent cannot be told")
    return _charged(_read(path)[0].reserved)


# --- what a ledger says ---------------------------------------------------------------------------


class _Book:
    """What the entries of a ledger add up to."""

    def __init__(self) -> None:
        self.reserved: list[_Reserved] = []
        self.session = 0
        self.source = ""
        self.drawn = 0
        """The last step that may have been drawn in this session."""

    def take(self, entry: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError for what is no entry."""
        if "open" in entry:
            self.session = int(entry["open"])
            self.drawn = int(entry["after"])
            self.source = str(entry["source"])
        elif "reserve" in entry:
            first, last = map(int, entry["reserve"])
            charge = Charge(
                float(entry["noise_multiplier"]),
                float(entry["sample_rate"]),
                sampling=str(entry["sampling"]),
            )
            told = entry.get("source", [self.source] if self.source else None)
            source = Source(*map(str, told)) if told else None
            # What was reserved ahead otherwise is not drawn so any more.
            self._release(int(entry["drawn"]), besides=(charge, source))
            part = _Reserved(charge, first, last, self.session, source)
            ends = self.reserved[-1] if self.reserved else None
            if ends is not None and ends == replace(part, first=ends.first, last=first - 1):
                part = replace(part, first=self.reserved.pop().first)  # which goes on
            self.reserved.append(part)
        elif "settle" in entry:
            self._release(int(entry["settle"]))
        elif entry != _HEAD:
            raise ValueError("an entry of an unknown kind")

    def held(self, charge: Charge, step: int, source: Source | None) -> int:
        """The last step that this session has reserved so, or else those before `step` that were
        drawn otherwise."""
        mine = self._mine()
        if mine and mine[-1].charge == _kind(charge) and mine[-1].source == source:
            return mine[-1].last
        return min(self.drawn, step - 1)

    def reserved_to(self) -> int:
        return max((part.last for part in self._mine()), default=0)

    def _mine(self) -> list[_Reserved]:
        return [part for part in self.reserved if part.session == self.session]

    def _release(self, step: int, besides: tuple[Charge, Source | None] | None = None) -> None:
        """Nothing of this session after `step` was drawn, but with the charge and the source
        `besides`."""
        cut = [
            _between(part, 1, step)
            if part.session == self.session and (part.charge, part.source) != besides
            else part
            for part in self.reserved
        ]
        self.reserved = [part for part in cut if part.last >= part.first]


def _between(part: _Reserved, first: int, last: int) -> _Reserved:
    """Its steps from `first` to `last`, which may be none."""
    return replace(part, first=max(part.first, first), last=min(part.last, last))


def _kind(charge: Charge) -> Charge:
    return replace(charge, steps=1)


def _charged(parts: Sequence[_Reserved]) -> tuple[Charge, ...]:
    kinds = dict.fromkeys(part.charge for part in parts)
    counts = {kind: _count([p for p in parts if p.charge == kind]) for kind in kinds}
    return tuple(replace(kind, steps=count) for kind, count in counts.items() if count)


def _count(parts: Iterable[_Reserved]) -> int:
    """How many releases there are in `parts`, all of one charge."""
    parts = list(parts)
    again = sum(len(part) for part in parts if part.source is None)
    sources = {part.source for part in parts if part.source is not None}
    return again + sum(_union(p for p in parts if p.source == source) for source in sources)


def _union(parts: Iterable[_Reserved]) -> int:
    """How many different steps there are in `parts`."""
    count = end = 0
    for part in sorted(parts, key=lambda part: part.first):
        count += max(0, part.last - max(part.first - 1, end))
        end = max(end, part.last)
    return count


# --- the file -------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[_Book, str, bytes]:
    """What the ledger says, its last checksum, and its whole lines."""
    *lines, rest = path.read_bytes().split(b"\n")
    book, check = _Book(), ""
    with suppress(ValueError):  # a last line that is whole but for its end counts
        text = rest.decode()
        lines.append(text[: json.JSONDecoder().raw_decode(text)[1]].encode())
    for number, line in enumerate(lines, 1):
        try:
            outer = json.loads(line)
            entry = outer["entry"]
            check = _checksum(check, _text(entry))
            if outer["check"] != check:
                raise ValueError("the checksum differs")
            if number == 1 and entry != _HEAD:
                raise ValueError("it is no privacy ledger of this version")
            book.take(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"the privacy ledger {path} is damaged in line {number} ({error}): what the run "
                "has spent cannot be told. Put back an undamaged copy of the file."
            ) from None
    return book, check, b"".join(line + b"\n" for line in lines)


def _mend(path: Path, whole: bytes) -> None:
    """Drop a line that a kill left unfinished, so that the next one does not go on in it."""
    if path.read_bytes() != whole:
        with atomic(path) as file:
            file.write(whole)


def _write(descriptor: int, line: bytes) -> None:
    """All of it or nothing. Raises OSError."""
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"))


def _checksum(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:16]


def _sync(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
