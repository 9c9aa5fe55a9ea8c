"""A series that grows at its end and can be drawn at any zoom for the same small price.

Level k keeps the least and greatest value of every 2**k neighbours. Appending touches only what is
new; a picture of any stretch needs about two values for each of a thousand blocks, whatever its
length. Least and greatest are exact, so no spike is ever hidden. Positions must not decrease.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Buffer:
    """A one-dimensional array that grows at its end at amortised constant cost."""

    def __init__(self) -> None:
        self._store = np.empty(256)
        self.size = 0

    def extend(self, values: Floats) -> None:
        needed = self.size + len(values)
        if needed > len(self._store):
            grown = np.empty(max(needed, 2 * len(self._store)))
            grown[: self.size] = self._store[: self.size]
            self._store = grown
        self._store[self.size : needed] = values
        self.size = needed

    @property
    def values(self) -> Floats:
        """What it holds; a view, valid until the next `extend`."""
        return self._store[: self.size]


class Pyramid:
    """Positions `x`, values `y` and their blockwise extremes. Values that are not finite are kept
    as NaN: a gap in the curve, left out of the extremes."""

    def __init__(self) -> None:
        self._x = Buffer()
        self._y = Buffer()
        self._low: list[Buffer] = []
        self._high: list[Buffer] = []

    def __len__(self) -> int:
        return self._y.size

    @property
    def x(self) -> Floats:
        return self._x.values

    @property
    def y(self) -> Floats:
        return self._y.values

    def append(self, x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> None:
        """Add values at the end."""
        added = np.asarray(y, dtype=np.float64)
        self._x.extend(np.asarray(x, dtype=np.float64))
        self._y.extend(np.where(np.isfinite(added), added, np.nan))
        low, high = self._y, self._y
        for level in range(64):
            if level == len(self._low):
                if low.size < 2:
                    return
                self._low.append(Buffer())
                self._high.append(Buffer())
            done, ready = self._low[level].size, low.size // 2
            if ready == done:
                return
            part = slice(2 * done, 2 * ready)
            self._low[level].extend(np.fmin.reduce(low.values[part].reshape(-1, 2), axis=1))
            self._high[level].extend(np.fmax.reduce(high.values[part].reshape(-1, 2), axis=1))
            low, high = self._low[level], self._high[level]

    def extremes(self, start: int = 0, stop: int | None = None) -> tuple[float, float]:
        """Least and greatest value of a stretch of indices, NaN where it holds none."""
        _, y = self.outline(start, stop, 64)
        if not len(y) or np.isnan(y).all():
            return float("nan"), float("nan")
        return float(np.nanmin(y)), float(np.nanmax(y))

    def span(self, left: float, right: float) -> tuple[int, int]:
        """The indices (start, stop) that a curve between two positions needs: those within, and
        one neighbour on either side."""
        start = int(np.searchsorted(self.x, left, "left")) - 1
        stop = int(np.searchsorted(self.x, right, "right")) + 1
        return max(start, 0), min(stop, len(self))

    def outline(
        self, start: int = 0, stop: int | None = None, points: int = 2000
    ) -> tuple[Floats, Floats]:
        """Positions and values to draw the stretch with, about `points` of them at most.

        A short stretch comes as it is. A long one comes as pairs of each block's extremes, both
        at the block's first position; what does not fill a block at either end is in a pair too.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        start = max(start, 0)
        count = stop - start
        if count <= points:
            return self.x[start:stop], self.y[start:stop]
        level = max(int(np.ceil(np.log2(count / (points / 2)))), 1)
        level = min(level, len(self._low))
        size = 2**level
        first, last = -(-start // size), min(stop // size, self._low[level - 1].size)
        if first >= last:
            return self._raw_pairs(start, stop, size)
        pieces = (
            self._raw_pairs(start, first * size, size),
            (
                np.repeat(self.x[first * size : last * size : size], 2),
                np.column_stack(
                    (
                        self._low[level - 1].values[first:last],
                        self._high[level - 1].values[first:last],
                    )
                ).ravel(),
            ),
            self._raw_pairs(last * size, stop, size),
        )
        return (
            np.concatenate([piece[0] for piece in pieces]),
            np.concatenate([piece[1] for piece in pieces]),
        )

    def _raw_pairs(self, start: int, stop: int, size: int) -> tuple[Floats, Floats]:
        """Pairs of extremes, found from the values themselves; the last position stays."""
        if stop <= start:
            return np.empty(0), np.empty(0)
        x, y = [], []
        for left in range(start, stop, size):
            part = self.y[left : min(left + size, stop)]
            x += [self.x[left], self.x[min(left + size, stop) - 1]]
            y += [np.fmin.reduce(part), np.fmax.reduce(part)]
        return np.asarray(x), np.asarray(y)


class Smoother:
    """A running exponential mean, unbiased at its start: y_n = sum a^(n-i) x_i / sum a^(n-i).

    Kingma and Ba, Adam, section 3 (the correction of the bias). Gaps count for nothing.
    """

    _BLOCK = 64

    def __init__(self, span: float) -> None:
        """`span`: about how many neighbours are averaged; 1 leaves the values as they are."""
        self.span = span
        self.keep = 1 - 2 / (max(span, 1) + 1)
        self._sum = 0.0
        self._weight = 0.0

    def extend(self, values: Floats) -> Floats:
        """The means that belong to `values`, which follow those of the calls before."""
        values = np.asarray(values, dtype=np.float64)
        if self.keep == 0:
            return values.copy()
        out = np.empty(len(values))
        # Within a block the recursion is one cumulative sum of rescaled values. Blocks are short
        # enough for keep ** -block to stay far from overflow.
        block = min(self._BLOCK, max(1, int(-20 / np.log(self.keep))))
        powers = self.keep ** np.arange(1, block + 1)
        for left in range(0, len(values), block):
            part = values[left : left + block]
            seen = np.isfinite(part)
            scale = powers[: len(part)]
            sums = scale * (self._sum + np.cumsum(np.where(seen, part, 0) / scale))
            weights = scale * (self._weight + np.cumsum(seen / scale))
            self._sum, self._weight = float(sums[-1]), float(weights[-1])
            with np.errstate(invalid="ignore", divide="ignore"):
                out[left : left + block] = np.where(seen, sums / weights, np.nan)
        return out
