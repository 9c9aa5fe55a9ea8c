"""Federated training, on Flower's apps, strategies and grids.

`federating` is the task; `federation` plays its rounds on a grid, and says what it saw;
`conducting` is the server's side of a round, a Flower Strategy around one of `strategies`; `apps`
are Flower's ClientApp and ServerApp; `learning` is a client's own training, `local` the grid in
this process. `simulating` and `deploying` are the other grids, whose servers are other processes
(`relaying`, `keeping`, `guard`); `hosting` starts a deployment's. `secure` is secure aggregation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.federated.conducting import Conductor
    from engine.federated.federation import Federation
    from engine.federated.local import LocalGrid
    from engine.federated.partitioning import counts, partition
    from engine.federated.spec import Federate

_HOME = {
    "Conductor": "conducting",
    "Federate": "spec",
    "Federation": "federation",
    "LocalGrid": "local",
    "counts": "partitioning",
    "partition": "partitioning",
}

__all__ = ["Conductor", "Federate", "Federation", "LocalGrid", "counts", "partition"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
