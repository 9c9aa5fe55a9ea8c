"""What can go wrong, in words a person can act on: what happened, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CrucibleError(Exception):
    """A failure that is explained to a person. Its text is the whole explanation."""

    exit_code = 1


class BadInput(CrucibleError):
    """What was asked for cannot be done as it was written: nothing has been changed by it."""

    exit_code = 2


class StorageError(CrucibleError):
    """What should be kept could not be written: the disk is full, or fails. A run that it ends is
    only interrupted, and goes on from its last checkpoint when there is room."""


class UnavailableError(CrucibleError):
    """What is needed from outside cannot be had now, as over a network that is down. A run that
    had begun before is only interrupted by it."""


class LostError(UnavailableError):
    """What a run was at work with is gone, as a server on another machine. Its first session, too,
    is only interrupted by it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a spec: `path` leads to the field, as in `("model", "width")`."""

    path: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.text}" if self.path else self.text


class SpecError(BadInput):
    """A spec that does not validate. `problems` says where and why, one entry a fault."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def within(self, *path: str) -> SpecError:
        """The same faults, seen from a document that holds the spec at `path`."""
        return SpecError([Problem((*path, *p.path), p.text) for p in self.problems])


class Cancelled(BaseException):
    """Thrown into a task at its current yield. An algorithm that has partial results catches it
    and returns them; every other one lets it pass. Not an Exception, so that no handler meant for
    failures swallows it."""


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, an allocator's of torch, or a GPU's."""
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
