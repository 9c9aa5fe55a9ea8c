"""Where the clients are."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.task import Spec, param


class GridSpec(Spec):
    """What carries messages between server and clients. The result does not depend on it, but for
    rounding."""

    kind: str


class Local(GridSpec):
    """In this process: on the CPU in threads, on a GPU one client after another."""

    kind: Literal["local"] = "local"
    threads: int = param(
        0,
        "Client threads",
        "Clients that train at a time on the CPU, each on one thread; 0 is one a core. The result "
        "does not depend on it.",
        ge=0,
        le=1024,
    )


class Ray(GridSpec):
    """Flower's simulation engine: clients in processes of their own on this machine, by Ray (the
    extra federated-ray). Slower to start than local, and the same result."""

    kind: Literal["ray"] = "ray"
    processes: int = param(
        0,
        "Processes",
        "Clients that train at a time, each on one thread in a process of its own; 0 is one a "
        "core.",
        ge=0,
        le=1024,
    )
    memory: int = param(
        512,
        "Shared memory",
        "What Ray may hold messages in.",
        unit="MiB",
        ge=80,
        le=1_000_000,
        advanced=True,
    )


class Deployment(GridSpec):
    """A SuperLink of Flower's with a SuperNode for each client, on other machines or on this one.
    They, and what they need, are begun beforehand: see `engine federated --help`."""

    kind: Literal["deployment"] = "deployment"
    cite: ClassVar[str] = "Beutel et al. 2020, section 3"
    superlink: str = param(
        "127.0.0.1:9093",
        "SuperLink",
        "Its host and port.",
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
        form="a host and a port, as in 192.168.1.7:9093",
    )
    root_certificates: str = param(
        "",
        "Root certificates",
        "File by which the SuperLink's certificate is checked; only a SuperLink of this machine "
        "goes without.",
        path="file",
    )
    wait: float = param(
        60.0,
        "Wait for nodes",
        "How long the server waits for all SuperNodes to be there.",
        unit="s",
        ge=0.0,
        le=1e6,
        advanced=True,
    )
