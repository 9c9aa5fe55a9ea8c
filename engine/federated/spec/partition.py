"""How the training images are dealt out to the clients."""

from __future__ import annotations

from typing import Literal

from engine.task import Spec, param


class PartitionSpec(Spec):
    """Deals the training images out: each goes to exactly one client. The draw derives from the
    data set's `split_seed`, so runs with different seeds have the same clients."""

    kind: str


class IID(PartitionSpec):
    """Shuffled and cut into equal parts."""

    kind: Literal["iid"] = "iid"


class Dirichlet(PartitionSpec):
    """Each class is cut by shares that are drawn from a Dirichlet distribution: the smaller alpha,
    the fewer classes a client has."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = param(
        0.5,
        "Alpha",
        "Concentration: at 100 all clients are alike, at .1 most hold one or two classes.",
        cite="Hsu, Qi and Brown 2019, section 2",
        gt=0.0,
        le=1e6,
    )
    least: int = param(
        1,
        "Least images",
        "What every client gets at least: shares are drawn again until it does.",
        ge=1,
        le=1_000_000,
    )


class Shards(PartitionSpec):
    """Sorted by class, cut into equal shards, and so many of them given to each client."""

    kind: Literal["shards"] = "shards"
    shards: int = param(
        2,
        "Shards a client",
        "With 2, most clients see two classes only.",
        cite="McMahan et al. 2017, section 3",
        ge=1,
        le=10_000,
    )


class QuantitySkew(PartitionSpec):
    """The classes alike, the numbers not: how many images each client has is drawn from a Dirichlet
    distribution."""

    kind: Literal["quantity"] = "quantity"
    alpha: float = param(
        0.5,
        "Alpha",
        "The smaller, the more unequal.",
        cite="Li, Diao, Chen and He 2022, section IV.D",
        gt=0.0,
        le=1e6,
    )
    least: int = param(1, "Least images", "What every client gets at least.", ge=1, le=1_000_000)


class Natural(PartitionSpec):
    """As the data is: the folders inside of each class folder (writers, devices, hospitals) are the
    clients. Where there are more of them than clients, they are dealt out whole."""

    kind: Literal["natural"] = "natural"
