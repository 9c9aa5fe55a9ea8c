"""The federated training that can be asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.data.spec import DataSpec
from engine.federated.spec.compression import CompressionSpec
from engine.federated.spec.grid import GridSpec, Local
from engine.federated.spec.hostile import HostileSpec
from engine.federated.spec.partition import IID, PartitionSpec
from engine.federated.spec.secure import SecureAggregation
from engine.federated.spec.strategy import FedAvg, StrategySpec
from engine.models.spec import ModelSpec
from engine.task import Adjustable, OneOf, Spec, Steps, param
from engine.training.spec import SGD, AdversarialTraining, OptimizerSpec

if TYPE_CHECKING:
    from engine.bench import Bench


class AdaptiveClipping(Spec):
    """Lets the clipping norm follow a quantile of the updates' norms, which is estimated privately
    (Andrew et al. 2021, algorithm 1)."""

    quantile: float = param(
        0.5, "Quantile", "Share of the updates that are to pass unclipped.", gt=0.0, lt=1.0
    )
    lr: float = param(
        0.2,
        "Learning rate",
        "Of the logarithm of the norm.",
        cite="Andrew et al. 2021, section 3.1",
        gt=0.0,
        le=10.0,
    )
    count_noise: float = param(
        0.05,
        "Noise of the count",
        "Deviation of the noise on how many passed unclipped, as a share of the clients expected "
        "in a round; paid for by a little more noise on the updates.",
        cite="Andrew et al. 2021, section 3.1",
        gt=0.0,
        le=10.0,
    )


class ClientPrivacy(Spec):
    """Differential privacy for whole clients: each update is clipped, and noise is added to their
    sum at the server, which is trusted. Clients are sampled by Poisson."""

    epsilon: float | None = param(
        None,
        "Target epsilon",
        "The run stops before it would spend more; without a noise multiplier one is found with "
        "which the whole run spends just this.",
        gt=0.0,
        le=1e6,
    )
    noise_multiplier: float | None = param(
        None,
        "Noise multiplier",
        "Deviation of the noise on the sum of updates, in units of the clipping norm; unless "
        "given, what reaches the target epsilon, and 1 without one.",
        gt=0.0,
        le=1e4,
    )
    max_update_norm: float = param(
        1.0,
        "Clipping norm",
        "Each client's whole update is scaled down to this length; where it adapts, at the start.",
        cite="McMahan et al. 2018, section 2",
        gt=0.0,
        le=1e6,
    )
    delta: float = param(
        1e-5,
        "Delta",
        "Chance that the promise fails; well below one in as many clients.",
        gt=0.0,
        lt=1.0,
    )
    adaptive: AdaptiveClipping | None = param(
        None, "Adaptive clipping", "Lets the clipping norm follow the updates."
    )
    secure: bool = param(
        False,
        "Secure noise",
        "Sampling and noise from the operating system's randomness instead of the seed: not "
        "repeatable, and nobody who guesses the seed can take the noise off.",
    )
    canaries: int = param(
        0,
        "Canaries",
        "Made-up clients, each put in or left out by a coin, by which an audit tells how much the "
        "run really gave away, and whether its noise was there; 0 is none.",
        cite="Steinke, Nasr and Jagielski 2023, algorithm 1; Andrew et al. 2024",
        ge=0,
        le=1_000_000,
        advanced=True,
    )


class Capture(Spec):
    """Keeps what clients sent, for the audit by gradient inversion."""

    rounds: tuple[int, ...] = param(
        (1,), "Rounds", "Counted from 1.", min_length=1, max_length=1000
    )
    clients: tuple[int, ...] = param(
        (0,), "Clients", "Counted from 0.", min_length=1, max_length=1000
    )


class Federate(Adjustable):
    """Train a classifier with many clients that keep their images: each trains for itself, the
    server puts what they send together."""

    title: ClassVar[str] = "Federate"
    summary_help: ClassVar[Mapping[str, str]] = {
        "accuracy": "share of the test images that the global model gets right",
        "clean_accuracy": "the same, under the name that other tasks use",
        "best_accuracy": "the highest after any round, as papers count them; chosen on the test "
        "images, so it flatters",
        "best_round": "after which it was",
        "test_loss": "mean cross-entropy on them",
        "tested": "how many test images there were",
        "rounds": "that were played, skipped ones too",
        "skipped": "rounds in which no update could be used",
        "clients": "that the training images were dealt out to",
        "parameters": "numbers in the model",
        "bytes_up": "sent by clients: the tensors, compressed where they are",
        "bytes_down": "sent to clients",
        "rejected": "updates that could not be used (not a number, wrong shapes, an error)",
        "dropped": "answers that did not come",
        "epsilon": "what every client's privacy budget was charged, at delta; an upper bound",
        "epsilon_rdp": "the same by Rényi accounting, never lower",
        "delta": "of that budget",
        "noise_multiplier": "of the sum of updates, in clipping norms",
        "noise_source": "seed: whoever knows the seed can take the noise off; system: nobody can",
        "attack_success_rate": "share of the test images of other classes that the backdoor's "
        "trigger turns into its target",
        "client_accuracy": "mean accuracy of the clients' own models, with fedbn",
        "data_changed": "the model may have been trained on images that it is tested on now",
        "weights_sha256": "of the weights: equal where every bit is",
    }

    kind: Literal["federate"] = "federate"
    init: str | None = param(
        None,
        "Start from",
        "A run or an exported file whose weights are the start; data, model and split are taken "
        "from it unless given.",
        reference=True,
    )
    data: OneOf[DataSpec] | None = param(None, "Data", "Images and labels; digits unless given.")
    model: OneOf[ModelSpec] | None = param(None, "Model", "Architecture; a small CNN unless given.")
    grid: OneOf[GridSpec] = param(Local(), "Grid", "Where the clients are.")
    clients: int = param(
        10, "Clients", "That the training images are dealt out to.", ge=1, le=100_000
    )
    partition: OneOf[PartitionSpec] = param(IID(), "Partition", "Who has which images.")
    strategy: OneOf[StrategySpec] = param(
        FedAvg(), "Strategy", "What the server makes of what the clients send."
    )
    rounds: int = param(10, "Rounds", "Times that clients train and send.", ge=1, le=1_000_000)
    fraction: float = param(
        1.0, "Fraction", "Share of the clients that a round takes.", gt=0.0, le=1.0
    )
    sampling: Literal["auto", "fixed", "poisson"] = param(
        "auto",
        "Sampling",
        "fixed takes the same number each round, poisson each client by its own coin; auto is "
        "poisson with privacy, whose accountant needs it, else fixed.",
        advanced=True,
    )
    epochs: int = param(1, "Local epochs", "Passes of a client over its images.", ge=1, le=10_000)
    batch_size: int = param(
        32, "Batch size", "Images of one step; 0 takes all of a client's.", ge=0, le=1_000_000
    )
    optimizer: OneOf[OptimizerSpec] = param(
        SGD(lr=0.1, momentum=0.0), "Optimiser", "Of the clients; it begins anew each round."
    )
    lr_decay: float = param(
        1.0,
        "Learning rate decay",
        "What the rate is multiplied by from round to round.",
        gt=0.0,
        le=1.0,
        advanced=True,
    )
    drop_out: float = param(
        0.0, "Drop-out", "Share of a round's clients that never answer.", ge=0.0, le=1.0
    )
    stragglers: float = param(
        0.0,
        "Stragglers",
        "Share of a round's clients that get through a part of their steps only, and send that.",
        cite="Li et al. 2020, section 5.2",
        ge=0.0,
        le=1.0,
    )
    timeout: float = param(
        600.0,
        "Patience",
        "How long the server waits for a round's answers. With privacy, local and ray wait "
        "for all.",
        unit="s",
        gt=0.0,
        le=1e6,
        advanced=True,
    )
    evaluate_every: int = param(
        1,
        "Evaluate every",
        "Rounds between two looks at the test images.",
        ge=1,
        le=1_000_000,
        unit="rounds",
        advanced=True,
    )
    privacy: ClientPrivacy | None = param(
        None, "Privacy of clients", "Differential privacy for each client as a whole."
    )
    secure_aggregation: SecureAggregation | None = param(
        None,
        "Secure aggregation",
        "The server sees the sum of a round's updates only, not what each client sent.",
    )
    compression: OneOf[CompressionSpec] | None = param(
        None, "Compression", "Makes what clients send smaller."
    )
    hostile: tuple[OneOf[HostileSpec], ...] = param(
        (), "Hostile clients", "Clients that do not play by the rules.", max_length=100
    )
    adversarial: OneOf[AdversarialTraining] | None = param(
        None, "Adversarial training", "Each client trains against an attack."
    )
    capture: Capture | None = param(
        None, "Capture", "Keeps what some clients sent, for an audit.", advanced=True
    )

    @model_validator(mode="after")
    def _clients_are_there(self) -> Self:
        named = [(f"hostile.{place}", each.clients) for place, each in enumerate(self.hostile)]
        if self.capture is not None:
            named.append(("capture", self.capture.clients))
        for where, clients in named:
            if beyond := [client for client in clients if not 0 <= client < self.clients]:
                raise ValueError(
                    f"{where}: there is no client {beyond[0]}; expected 0 to {self.clients - 1}"
                )
        return self

    @model_validator(mode="after")
    def _there_are_enough_to_be_hostile(self) -> Self:
        free = self.clients - len({client for each in self.hostile for client in each.clients})
        for place, each in enumerate(self.hostile):
            if each.clients:
                continue
            if each.count > free:
                raise ValueError(
                    f"hostile.{place} wants {each.count} clients, and {free} of {self.clients} are "
                    "left; lower `count`"
                )
            free -= each.count
        return self

    @model_validator(mode="after")
    def _sampling_is_accounted(self) -> Self:
        if self.privacy is not None and self.sampling == "fixed":
            raise ValueError(
                "sampling: the accountant of privacy knows Poisson sampling only; expected "
                "poisson or auto"
            )
        return self

    @property
    def poisson(self) -> bool:
        """Whether each client is drawn by its own coin."""
        return self.sampling == "poisson" or (self.sampling == "auto" and self.privacy is not None)

    def check(self, workspace: Path) -> None:
        from engine.federated.checking import check

        check(self)

    def run(self, bench: "Bench") -> Steps:
        from engine.federated.federating import run_federate

        return run_federate(self, bench)
