"""Square: a random search that recolours one square of the image at a time and keeps what lowers
the margin (Andriushchenko et al. 2020, "Square Attack", algorithms 1 to 3; in l1 as Croce and Hein
2021, "Mind the box", section 4).

Where paper and authors' code (AutoAttack) differ it follows the code: squares do not touch the last
row and column unless they are as large as the image, and a targeted search climbs log softmax.
Other than there, each sample draws squares of its own, not one for the whole batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from engine.attacks.geometry import Ball, L1Ball, L2Ball, LinfBall
from engine.attacks.goal import numbers
from engine.attacks.losses import cross_entropy, margin
from engine.attacks.method import Answer, Method, Problem
from engine.attacks.spec import Square
from engine.random import derive, uniform

_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps (of 10,000) after which the area of the squares is halved."""

_BLOCK = 32
"""Steps whose draws are made at once, which is quicker."""


_PAINTED = 2**16
"""Values that are painted at once, at most."""

Painted: TypeAlias = tuple[Tensor, Tensor]
"""Of each sample the values of a square in a flat image, int64 (N, C, D), and their colours."""


class Best(NamedTuple):
    """x: the proposal asked about, (N, C, H, W). best: the point of largest loss so far; top,
    logits: that loss, (N,), and what the model said there, (N, K). same: bool (N,), `x` is `best`.
    What a block of proposals is made of: corners, int64 (N, _BLOCK, 2, 2), the first row and column
    of two squares; coins, bool (N, _BLOCK, 1 + C)."""

    x: Tensor
    best: Tensor
    top: Tensor
    logits: Tensor
    same: Tensor
    corners: Tensor
    coins: Tensor


class Painting:
    """The next squares of a block with their colours, for several steps at a time: what is painted
    does not depend on what was found. Of the samples that are still there: when some have left, it
    is made anew, for few steps at first."""

    def __init__(self) -> None:
        self._corners: Tensor | None = None
        self._begin = self._count = 0
        self._places: Tensor | None = None
        self._colours: Tensor | None = None

    def at(
        self, ball: LinfBall, corners: Tensor, coins: Tensor, sides: Sequence[int], now: int
    ) -> Painted:
        """Of step `now` of the block of `corners` and `coins`, whose squares are so high."""
        if self._corners is not corners:
            self._corners, self._count = corners, 0
        elif 0 <= now - self._begin < self._count:
            return self._step(now - self._begin)
        samples, channels = ball.centre.shape[:2]
        side = sides[now]
        most = max(1, _PAINTED // (samples * channels * side * side))
        self._begin = now
        # Squares only become smaller: those of this height come one after the other.
        self._count = min(max(1, 2 * self._count), most, sides[now:].count(side))
        steps = slice(now, now + self._count)
        places = _places(corners[:, steps, 0], side, ball.centre)
        flat = places.flatten(2)
        high, low = (end.flatten(2).gather(2, flat) for end in (ball.high, ball.low))
        shown = coins[:, steps, 1:].transpose(1, 2).unsqueeze(3)
        self._places = places
        self._colours = torch.where(shown, high.view(places.shape), low.view(places.shape))
        return self._step(0)

    def _step(self, number: int) -> Painted:
        assert self._places is not None
        assert self._colours is not None
        return self._places.select(2, number), self._colours.select(2, number)


def square(spec: Square) -> tuple[Method[Best], ...]:
    """One method for each restart."""
    painting = Painting()

    @functools.cache
    def sides(block: int, height: int, width: int) -> tuple[int, ...]:
        steps = range(block * _BLOCK, (block + 1) * _BLOCK)
        return tuple(_side(spec, number, height, width) for number in steps)

    def start(of: Problem) -> Best:
        first = _stripes(of) if isinstance(of.ball, LinfBall) else _tiles(of, of.ball)
        top = first.new_full((len(of),), float("-inf"))
        same = torch.zeros_like(top, dtype=torch.bool)
        return Best(first, first, top, of.clean, same, *block(of, 0))

    def block(of: Problem, number: int) -> tuple[Tensor, Tensor]:
        return _block(of, number, sides(number // _BLOCK, *of.ball.centre.shape[2:]))

    def step(of: Problem, at: Best, answer: Answer, number: int) -> Best:
        _, best, top, logits, _, corners, coins = at
        better = answer.loss > top
        if bool(better.any()):
            best = torch.where(better.view(-1, 1, 1, 1), at.x, best)
            top = torch.where(better, answer.loss, top)
            logits = torch.where(better.view(-1, 1), answer.logits, logits)
        now = number % _BLOCK
        if number and not now:
            corners, coins = block(of, number)
        size = sides(number // _BLOCK, *best.shape[2:])
        if isinstance(of.ball, LinfBall):
            x, same = _recoloured(best, painting.at(of.ball, corners, coins, size, now))
            if not numbers(top):
                same = same & top.isfinite()
        else:
            x, same = _moved(of.ball, best, corners[:, now], coins[:, now], size[now]), at.same
        return Best(x, best, top, logits, same, corners, coins)

    loss = cross_entropy if spec.targeted else margin
    known = _known if spec.norm == "linf" else None
    method = Method(start, step, loss, spec.steps, wants="logits", known=known, name="square")
    return (method,) * spec.restarts


def _known(at: Best) -> tuple[Tensor, Tensor]:
    """Where a square has the colours already there is nothing to ask; that is frequent once squares
    are small."""
    return at.same, at.logits


def _side(spec: Square, number: int, height: int, width: int) -> int:
    """Height and width of the square of a step: a share `p` of the image, halved as the search goes
    on (section 3.3 of the paper, for 10,000 steps)."""
    if spec.rescale_schedule:
        number = int(number / spec.steps * 10_000)
    halvings = sum(number > limit for limit in _HALVED)
    side = round(math.sqrt(spec.share / 2**halvings * height * width))
    if spec.norm == "linf":
        return min(max(side, 1), height, width)
    side = max(side, 3)
    return min(side + 1 - side % 2, height, width)


def _block(of: Problem, number: int, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Corners and coins of the steps from `number` on, of squares so high. The coins say whether to
    turn a square (l2, l1), and the sign of each channel."""
    centre = of.ball.centre
    count = 5 + centre.shape[1]
    draws = uniform(derive(of.seed, "square", number), of.ids, (_BLOCK, count))
    room = torch.tensor(centre.shape[2:]) - torch.tensor(list(sides))[:, None, None]
    places = draws[:, :, :4].unflatten(2, (2, 2))
    return (places * room.to(centre.device)).long(), draws[:, :, 4:] > 0.5


def _places(corners: Tensor, side: int, image: Tensor) -> Tensor:
    """The values of squares with these corners, int64 (N, K, 2), in a flat image, int64
    (N, C, K, side * side)."""
    _, channels, _, width = image.shape
    rows, columns = corners.split(1, dim=2)
    places: Tensor = rows * width + columns + _inside(side, width, corners.device)
    return places.unsqueeze(1).expand(-1, channels, -1, -1)


@functools.lru_cache(maxsize=64)
def _inside(side: int, width: int, device: torch.device) -> Tensor:
    """The values of the square in the corner of a flat image, int64 (side * side,)."""
    steps = torch.arange(side, device=device)
    return (steps[:, None] * width + steps).flatten()


# --- linf -----------------------------------------------------------------------------------------


def _stripes(of: Problem) -> Tensor:
    """Vertical stripes, one value wide, at either end of what the ball allows."""
    assert isinstance(of.ball, LinfBall)
    _, channels, _, width = of.ball.centre.shape
    up = uniform(derive(of.seed, "stripes"), of.ids, (channels, 1, width)) > 0.5
    return torch.where(up, of.ball.high, of.ball.low)


def _recoloured(best: Tensor, painted: Painted) -> tuple[Tensor, Tensor]:
    """The best point with each channel of one square at either end of what the ball allows; and
    whether that is the best point itself, bool (N,)."""
    places, colours = painted
    flat = best.flatten(2)
    same = (flat.gather(2, places) == colours).flatten(1).all(1)
    return flat.scatter(2, places, colours).view_as(best), same


# --- l2 and l1 ------------------------------------------------------------------------------------


def _tiles(of: Problem, ball: Ball) -> Tensor:
    """A grid of tiles, each two pyramids of opposite sign."""
    _, channels, height, width = ball.centre.shape
    side = max(1, height // 5)
    margin = max(0, (height - 5 * side) // 2)
    down, across = (height - margin) // side, (width - margin) // side
    count = down * across
    signs = uniform(derive(of.seed, "signs"), of.ids, (channels, count, 1, 1)) > 0.5
    turned = uniform(derive(of.seed, "turned"), of.ids, (1, count, 1, 1)) > 0.5
    shape = _pyramids(side, _order(ball)).to(ball.centre)
    tiles = torch.where(turned, shape.mT, shape) * (2.0 * signs - 1)
    tiles = tiles.unflatten(2, (down, across)).transpose(3, 4).flatten(4).flatten(2, 3)
    change = torch.zeros_like(ball.centre)
    change[:, :, margin : margin + down * side, margin : margin + across * side] = tiles
    return _settled(ball, change)


def _moved(ball: Ball, best: Tensor, corners: Tensor, coins: Tensor, side: int) -> Tensor:
    """The best point with what one square had changed moved to another, where it is added to two
    pyramids of opposite sign. That is never the best point itself."""
    order = _order(ball)
    change = best - ball.centre
    here, there = (_square(corners[:, which], side, best) for which in (0, 1))
    places = _places(corners[:, :1], side, best).squeeze(2)
    old = change.flatten(2).gather(2, places).unflatten(2, (side, side))
    shape = _pyramids(side, order).to(best)
    turned = coins[:, 0, None, None, None]
    sign = 2.0 * coins[:, 1:, None, None] - 1
    new = torch.where(turned, shape.mT, shape) * sign + old / (_size(old, order) + 1e-12)
    spent = _size(change, order, whole=True)
    free = _size(change * (here | there), order)
    channels = best.shape[1]
    if order == 2:
        room = (((ball.eps**2 - spent**2).clamp_min(0) / channels) + free**2).sqrt()
    else:
        room = ((ball.eps - spent).clamp_min(0) / channels + free) * channels
    new = new / (_size(new, order) + 1e-12) * room
    change = change.masked_fill(there, 0).flatten(2).scatter(2, places, new.flatten(2))
    return _settled(ball, change.view_as(best))


def _settled(ball: Ball, change: Tensor) -> Tensor:
    """The point of ball and box for a change: in l2 as long as the ball allows, then cut off."""
    if isinstance(ball, L2Ball):
        return ball.pull(ball.direction(change).mul_(ball.eps).add_(ball.centre))
    return ball.project(change + ball.centre)


def _order(ball: Ball) -> int:
    return 1 if isinstance(ball, L1Ball) else 2


def _size(x: Tensor, order: int, whole: bool = False) -> Tensor:
    """Length of each channel, or of the whole image."""
    dims = (1, 2, 3) if whole else (2, 3)
    length: Tensor = torch.linalg.vector_norm(x, order, dim=dims, keepdim=True)
    return length


def _square(corner: Tensor, side: int, image: Tensor) -> Tensor:
    """Where a square is, bool (N, 1, H, W)."""
    rows, columns = (
        torch.arange(length, device=corner.device) - corner[:, axis, None]
        for axis, length in enumerate(image.shape[2:])
    )
    rows, columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return (rows[:, :, None] & columns[:, None])[:, None]


@functools.lru_cache(maxsize=64)
def _pyramids(side: int, order: int) -> Tensor:
    """Two pyramids of opposite sign, one above the other, (side, side), of length 1 (l2: section
    3.4 of the paper; l1 is steeper)."""
    upper = side // 2
    both = [_pyramid(upper, side, order), -_pyramid(side - upper, side, order)]
    shape = torch.cat(both)
    length: Tensor = torch.linalg.vector_norm(shape, order)
    return shape / length


def _pyramid(height: int, width: int, order: int) -> Tensor:
    shape = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for k in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(row - k, 0), max(row + k + 1, 0))
        columns = slice(max(column - k, 0), column + k + 1)
        shape[rows, columns] += 1.0 / (k + 1) ** (2 * (3 - order))
    length: Tensor = torch.linalg.vector_norm(shape, order)
    return shape / length.clamp_min(torch.finfo(shape.dtype).tiny)
