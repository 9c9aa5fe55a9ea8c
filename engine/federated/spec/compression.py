"""How updates are made smaller on their way to the server."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.task import Spec, param


class CompressionSpec(Spec):
    """Makes what a client sends smaller, at a loss."""

    kind: str


class TopK(CompressionSpec):
    """Sends the largest coordinates only; what was left out is added to the next update."""

    kind: Literal["topk"] = "topk"
    cite: ClassVar[str] = "Stich, Cordonnier and Jaggi 2018, algorithm 1"
    share: float = param(0.01, "Share", "Of the coordinates that are sent.", gt=0.0, le=1.0)
    memory: bool = param(
        True, "Memory", "Keeps what was left out for the next update of the same client."
    )


class Int8(CompressionSpec):
    """Sends each tensor in 8 bits and its largest size; rounded up or down at random, so that the
    mean stays right."""

    kind: Literal["int8"] = "int8"
    cite: ClassVar[str] = "Alistarh et al. 2017, section 3.1"
