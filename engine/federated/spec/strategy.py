"""What the server makes of what the clients send."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.task import Spec, param


class StrategySpec(Spec):
    """How updates are put together."""

    kind: str


class FedAvg(StrategySpec):
    """The mean of the updates, each weighted by its client's images."""

    kind: Literal["fedavg"] = "fedavg"
    cite: ClassVar[str] = "McMahan et al. 2017, algorithm 1"


class FedProx(StrategySpec):
    """FedAvg whose clients are held back: a penalty on the distance from the global model."""

    kind: Literal["fedprox"] = "fedprox"
    cite: ClassVar[str] = "Li et al. 2020, algorithm 2"
    mu: float = param(
        0.01, "Mu", "Weight of half the squared distance in the clients' loss.", ge=0.0, le=1000.0
    )


class Adaptive(StrategySpec):
    """An optimiser at the server, for which the mean update is the gradient."""

    server_lr: float = param(
        0.1, "Server learning rate", "Step size at the server.", gt=0.0, le=1000.0
    )
    tau: float = param(
        1e-3, "Tau", "Added to the root in the denominator: less of it adapts more.", gt=0.0, le=1.0
    )


class FedAdam(Adaptive):
    """Adam at the server. Flower's correction of the bias counts one round too many, and the second
    moment begins at zero where the paper begins at tau squared."""

    kind: Literal["fedadam"] = "fedadam"
    cite: ClassVar[str] = "Reddi et al. 2021, algorithm 2"
    server_lr: float = param(
        0.01, "Server learning rate", "Step size at the server.", gt=0.0, le=1000.0
    )
    beta1: float = param(0.9, "Beta 1", "Decay of the mean of updates.", ge=0.0, lt=1.0)
    beta2: float = param(0.99, "Beta 2", "Decay of their squares.", ge=0.0, lt=1.0)


class FedYogi(Adaptive):
    """Yogi at the server. The second moment begins at zero where the paper begins at tau
    squared."""

    kind: Literal["fedyogi"] = "fedyogi"
    cite: ClassVar[str] = "Reddi et al. 2021, algorithm 2"
    server_lr: float = param(
        0.01, "Server learning rate", "Step size at the server.", gt=0.0, le=1000.0
    )
    beta1: float = param(0.9, "Beta 1", "Decay of the mean of updates.", ge=0.0, lt=1.0)
    beta2: float = param(0.99, "Beta 2", "Decay of their squares.", ge=0.0, lt=1.0)


class FedAdagrad(Adaptive):
    """Adagrad at the server."""

    kind: Literal["fedadagrad"] = "fedadagrad"
    cite: ClassVar[str] = "Reddi et al. 2021, algorithm 2"


class FedMedian(StrategySpec):
    """The median of every coordinate, each client counting alike."""

    kind: Literal["fedmedian"] = "fedmedian"
    cite: ClassVar[str] = "Yin et al. 2018, definition 1"


class TrimmedMean(StrategySpec):
    """The mean of every coordinate without its largest and smallest values."""

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    cite: ClassVar[str] = "Yin et al. 2018, definition 2"
    beta: float = param(0.2, "Beta", "Share that is cut off at each end.", ge=0.0, lt=0.5)


class Byzantine(StrategySpec):
    """Keeps the updates that lie closest to others."""

    hostile: int = param(
        2, "Hostile clients", "How many of a round's clients it is to withstand.", ge=0, le=100_000
    )


class Krum(Byzantine):
    """The one update whose nearest neighbours are nearest."""

    kind: Literal["krum"] = "krum"
    cite: ClassVar[str] = "Blanchard et al. 2017, section 4"


class MultiKrum(Byzantine):
    """The mean of the updates whose nearest neighbours are nearest, weighted by images."""

    kind: Literal["multikrum"] = "multikrum"
    cite: ClassVar[str] = "Blanchard et al. 2017, section 4"
    keep: int = param(
        0, "Keep", "How many updates; 0 is all but the hostile ones and two.", ge=0, le=100_000
    )


class Bulyan(Byzantine):
    """Krum again and again, then per coordinate the mean of what lies closest to the median. Needs
    four clients a hostile one, and three."""

    kind: Literal["bulyan"] = "bulyan"
    cite: ClassVar[str] = "El Mhamdi, Guerraoui and Rouault 2018, section 4"
    hostile: int = param(
        1, "Hostile clients", "How many of a round's clients it is to withstand.", ge=0, le=100_000
    )


class Scaffold(StrategySpec):
    """Corrects each client's drift by control variates, which stay with server and clients."""

    kind: Literal["scaffold"] = "scaffold"
    cite: ClassVar[str] = "Karimireddy et al. 2020, algorithm 1, option II"
    server_lr: float = param(1.0, "Server learning rate", "Of the mean update.", gt=0.0, le=1000.0)


class FedBN(StrategySpec):
    """FedAvg of all but batch normalisation, which stays at each client. The global model takes its
    batch statistics from the validation images; `client_accuracy` is that of the clients' own."""

    kind: Literal["fedbn"] = "fedbn"
    cite: ClassVar[str] = "Li et al. 2021, algorithm 1"
