"""What a round looked like, of each client, before anything was put together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from engine.errors import CrucibleError

Update = dict[str, Tensor]

State: TypeAlias = Literal["kept", "set aside", "rejected", "dropped", "late", "failed"]
"""kept: its update counts. set aside: the strategy chose others. rejected: what it sent is no
update. dropped: it said, or the drawing said, that it would not answer. late: it did not answer in
time. failed: it answered with an error."""

LETTERS: dict[State, str] = {
    "kept": "k",
    "set aside": "s",
    "rejected": "r",
    "dropped": "d",
    "late": "l",
    "failed": "f",
}
"""One letter each, for the timeline; a client that was not picked is a dot."""

CHUNK = 2**22
"""Values of all updates that are multiplied together."""


@dataclass(slots=True)
class Fact:
    """One client in one round. norm: of its update. cosine: to the weighted mean of all updates
    that could be used. drift: from the global model that the round made. x, y: in the plane."""

    client: int
    state: State
    reason: str = ""
    examples: int = 0
    share: float = 1.0
    loss: float | None = None
    accuracy: float | None = None
    norm: float | None = None
    cosine: float | None = None
    drift: float | None = None
    clipped: bool = False
    bytes_up: int = 0
    bytes_down: int = 0
    x: float | None = None
    y: float | None = None


@dataclass(slots=True)
class RoundFacts:
    """A round, as the server saw it; `facts` by client, ascending."""

    number: int
    facts: dict[int, Fact] = field(default_factory=dict)
    skipped: str = ""
    """Why nothing came of it, if so."""
    clip: float | None = None
    totals: dict[str, float] = field(default_factory=dict)
    """Of all clients together, where secure aggregation hides each: their loss and accuracy, how
    many were clipped, and how many coordinates were cut off."""

    def of(self, *states: State) -> list[Fact]:
        """The clients in one of these states."""
        return [fact for fact in self.facts.values() if fact.state in states]

    @property
    def bytes_up(self) -> int:
        """Sent by the clients."""
        return sum(fact.bytes_up for fact in self.facts.values())

    @property
    def bytes_down(self) -> int:
        """Sent to them."""
        return sum(fact.bytes_down for fact in self.facts.values())

    def timeline(self, clients: int) -> str:
        """A letter a client."""
        return "".join(
            LETTERS[self.facts[client].state] if client in self.facts else "."
            for client in range(clients)
        )


@contextmanager
def looked_at(fact: Fact) -> Iterator[None]:
    """Within it the answer of one client is decoded and looked at, and nothing else is done.
    Whatever that raises is the answer's fault, and rejects it; not one of a client whose update
    counts already."""
    try:
        yield
    except Exception as error:
        if fact.state != "kept":
            fact.state, fact.reason = "rejected", _words(error)


def _words(error: Exception) -> str:
    match error:
        case CrucibleError():
            return str(error)
        case KeyError(args=(name,)):
            return f"{name} is missing"
    return f"it cannot be read: {str(error) or type(error).__name__}"


def is_finite(tensor: Tensor) -> bool:
    """Whether all of it is. Its sum tells, at a fifth of the price of looking at each; one that
    overflows tells nothing."""
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


def gram(updates: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """The inner products of updates, float64 (n, n). In parts, so that they are never all held a
    second time."""
    found = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    if not updates:
        return found
    for name in updates[0]:
        flat = [update[name].reshape(-1) for update in updates]
        size = max(1, CHUNK // len(flat))
        for begin in range(0, len(flat[0]), size):
            rows = torch.stack([row[begin : begin + size] for row in flat])
            product = rows @ rows.T
            if not is_finite(product):  # too large for float32
                product = rows.double() @ rows.double().T
            found += product
    return found


def measure(facts: Sequence[Fact], products: Tensor, weights: Sequence[float]) -> None:
    """Norms, cosines to the mean that `weights` give, and the plane, into `facts`."""
    if not facts:
        return
    norms = products.diagonal().clamp_min(0.0).sqrt()
    shares = torch.tensor(weights, dtype=torch.float64)
    shares = (
        shares / shares.sum() if float(shares.sum()) else torch.full_like(shares, 1 / len(facts))
    )
    along = products @ shares
    length = float((shares @ along).clamp_min(0.0).sqrt())
    plane = plane_of(products)
    for place, fact in enumerate(facts):
        size = float(norms[place])
        fact.norm = size
        fact.cosine = float(along[place]) / (size * length) if size * length > 0 else 0.0
        fact.x, fact.y = plane[place].tolist()


def plane_of(products: Tensor) -> Tensor:
    """The two principal components of updates with these inner products, (n, 2): the axes on which
    they differ most, each turned so that its largest value is above zero."""
    count = len(products)
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    values, vectors = torch.linalg.eigh(centre @ products @ centre)
    found = torch.zeros(count, 2, dtype=torch.float64)
    for axis in range(min(2, count)):
        place = vectors[:, -1 - axis] * values[-1 - axis].clamp_min(0.0).sqrt()
        turn = -1.0 if place[place.abs().argmax()] < 0 else 1.0
        found[:, axis] = turn * place
    return found


def drifts(
    facts: Sequence[Fact], updates: Sequence[Mapping[str, Tensor]], step: Mapping[str, Tensor]
) -> None:
    """How far each client's model is from the new global one, into `facts`; `step` is what was
    added to the old one."""
    for fact, update in zip(facts, updates, strict=True):
        away = (update[name] - step[name] for name in step)
        lengths = [float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in away]
        fact.drift = math.hypot(*lengths)
