"""How the server is kept from seeing single updates."""

from __future__ import annotations

from typing import ClassVar

from engine.task import Spec, param


class SecureAggregation(Spec):
    """The server learns the sum of a round's updates, and none of them: clients send them under
    masks that cancel out (SecAgg+). Against a server that is curious and keeps to the protocol."""

    cite: ClassVar[str] = "Bell et al. 2020, algorithm 2"
    clipping_range: float = param(
        8.0,
        "Range",
        "Largest size of a coordinate that is sent; larger ones are cut off. Sums are exact to "
        "about this, times the clients of a round, over four billion.",
        gt=0.0,
        le=1e6,
    )
    threshold: float = param(
        0.7,
        "Threshold",
        "Share of a client's neighbours, itself among them, that must stay to the end of a round; "
        "with fewer the round is skipped. As many must work together to see one update.",
        gt=0.5,
        le=1.0,
    )
    neighbours: int = param(
        0,
        "Neighbours",
        "Clients that each one shares its masks with, made even; 0 are all of the round.",
        ge=0,
        le=100_000,
        advanced=True,
    )
