"""Random generators besides torch's that are the whole process's: numpy's and Python's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


class Elsewhere:
    """What a model draws from them, or seeds, is its own between `enter` and `leave`; then the
    process has back what it had.

    To copy them takes a tenth of a millisecond, several passes of a small model. `used` says
    whether the model was seen to use them: of one that was not the first time, `Oracle` does
    without from then on. A search that is continued from a snapshot begins them anew.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Any, Any] | None = None
        self._callers: tuple[Any, Any] | None = None
        self.used = False

    def enter(self) -> None:
        self._callers = _states()
        if self._own is None:
            np.random.seed(self._seed % 2**32)
            random.seed(self._seed)
            self._own = _states()
        else:
            _restore(self._own)

    def leave(self) -> None:
        assert self._callers is not None
        before, self._own = self._own, _states()
        _restore(self._callers)
        assert before is not None
        same = all(map(np.array_equal, before[0], self._own[0])) and before[1] == self._own[1]
        self.used = self.used or not same


def _states() -> tuple[Any, Any]:
    """numpy's, as its name, its key and numbers, and Python's."""
    return np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, Any]) -> None:
    np.random.set_state(states[0])
    random.setstate(states[1])
