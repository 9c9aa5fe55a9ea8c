"""Training that keeps single images private, as it can be asked for."""

from typing import TYPE_CHECKING, ClassVar, Literal

from engine.task import param
from engine.training.spec import PrivateTraining

if TYPE_CHECKING:
    from engine.training.mechanism import Mechanism, PrivateSetting

DEFAULT_NOISE = 1.1


class DPSGD(PrivateTraining):
    """Every image's gradient is clipped, and noise added to their sum: differential privacy for
    each image."""

    kind: Literal["dpsgd"] = "dpsgd"
    cite: ClassVar[str] = "Abadi et al. 2016, algorithm 1"
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
        "Deviation of the noise, in units of the clipping norm; unless given, what reaches the "
        f"target epsilon, and {DEFAULT_NOISE} without one.",
        gt=0.0,
        le=1e4,
    )
    delta: float = param(
        1e-5,
        "Delta",
        "Probability with which epsilon may not hold; well below 1 / number of training images.",
        gt=0.0,
        lt=1.0,
    )
    max_grad_norm: float = param(
        1.0,
        "Clipping norm",
        "The gradient of each image is shortened to this length; the first one, if it is adaptive.",
        gt=0.0,
        le=1e6,
    )
    clipping: Literal["flat", "per_layer", "adaptive"] = param(
        "flat",
        "Clipping",
        "flat: the whole gradient; per_layer: each layer's to an equal share of the norm; "
        "adaptive: the norm follows a quantile of the gradients' norms, which is counted with "
        "noise.",
        cite="McMahan et al. 2018, section 3; Andrew et al. 2021, algorithm 1",
    )
    quantile: float = param(
        0.5,
        "Quantile",
        "Share of the gradients that adaptive clipping leaves as they are.",
        cite="Andrew et al. 2021, section 3",
        ge=0.0,
        le=1.0,
        advanced=True,
    )
    clip_lr: float = param(
        0.2,
        "Clipping rate",
        "How fast the adaptive norm follows.",
        cite="Andrew et al. 2021, section 3",
        gt=0.0,
        le=10.0,
        advanced=True,
    )
    count_noise: float = param(
        0.05,
        "Count noise",
        "Deviation of the noise on the share that was not clipped, for adaptive clipping; paid for "
        "by a little more noise on the gradient.",
        cite="Andrew et al. 2021, section 3.1",
        gt=0.0,
        le=10.0,
        advanced=True,
    )
    statistic_noise: float = param(
        8.0,
        "Statistic noise",
        "Where the model needs a statistic of the training images before the first step, such as "
        "mlp's projection: deviation of the noise on it, in units of what one image changes. Paid "
        "for from the same budget.",
        cite="Abadi et al. 2016, section 4; Dwork et al. 2014",
        gt=0.0,
        le=1e4,
        advanced=True,
    )
    secure: bool = param(
        False,
        "Secure noise",
        "Batches and noise from the operating system's randomness instead of the seed: not "
        "repeatable, and nobody who guesses the seed can take the noise off. For models that "
        "leave the house.",
    )
    chunk: int = param(
        256,
        "Chunk",
        "Images whose gradients are worked on together: bounds the memory of any batch size. It "
        "grows in proportion to them, so take more than 256 only if you have it.",
        ge=1,
        le=65536,
        advanced=True,
    )
    canaries: int = param(
        0,
        "Canaries",
        "Made-up members, each put in or left out by a coin, by which an audit tells how much the "
        "run really gave away; 0 is none.",
        cite="Steinke, Nasr and Jagielski 2023, algorithm 1",
        ge=0,
        le=1_000_000,
        advanced=True,
    )
    canary: Literal["gradient", "sample"] = param(
        "gradient",
        "Kind of canary",
        "gradient: a direction of its own, seen in every noised step; sample: a training image "
        "with a wrong label, seen in the final model alone.",
        cite="Steinke, Nasr and Jagielski 2023, section 6",
        advanced=True,
    )

    def mechanism(self, setting: "PrivateSetting") -> "Mechanism":
        from engine.privacy.dpsgd import DPSGDMechanism

        return DPSGDMechanism(self, setting)


class Naive(PrivateTraining):
    """Clamps the gradient of the whole batch and adds noise. It looks like privacy and is none: how
    far one image moves that gradient is not bounded by its own. For comparison."""

    kind: Literal["naive"] = "naive"
    private: ClassVar[bool] = False
    clip_value: float = param(
        1.0, "Clamp", "Each component of the gradient is limited to this size.", gt=0.0, le=1e6
    )
    noise: float = param(
        0.1, "Noise", "Standard deviation of what is added to each component.", ge=0.0, le=1e6
    )

    def mechanism(self, setting: "PrivateSetting") -> "Mechanism":
        from engine.privacy.naive import NaiveMechanism

        return NaiveMechanism(self, setting)
