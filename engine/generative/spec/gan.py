"""The task: to train a generator against a critic."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.data.spec import SourceSpec
from engine.generative.spec.base import Condition, CriticSpec, GeneratorSpec, Latent
from engine.generative.spec.losses import LossSpec, NonSaturating
from engine.generative.spec.networks import MLPCritic, MLPGenerator
from engine.generative.spec.points import Ring
from engine.task import Adjustable, OneOf, Spec, Steps, param

if TYPE_CHECKING:
    from engine.bench import Bench


class Rates(Spec):
    """Adam's learning rates: two time scales where they differ (Heusel et al. 2017)."""

    generator_lr: float = param(
        2e-3,
        "Generator's rate",
        "Learning rate of the generator at the schedule's peak.",
        gt=0.0,
        le=1000.0,
        live=True,
    )
    critic_lr: float = param(
        2e-3,
        "Critic's rate",
        "Learning rate of the critic at the schedule's peak.",
        gt=0.0,
        le=1000.0,
        live=True,
    )
    beta1: float = param(
        0.5, "Beta 1", "Decay of the mean of gradients.", ge=0.0, lt=1.0, advanced=True
    )
    beta2: float = param(0.99, "Beta 2", "Decay of their squares.", ge=0.0, lt=1.0, advanced=True)
    schedule: Literal["constant", "cosine"] = param(
        "cosine", "Schedule", "Of both rates: the same all along, or half a cosine to the floor."
    )
    floor: float = param(
        0.0, "Floor", "Share of the peak that is left at the end of the cosine.", ge=0.0, le=1.0
    )
    clip: float = param(
        0.0,
        "Clip",
        "The gradient of each network is scaled down to this length; 0 does not.",
        ge=0.0,
        le=1e9,
        advanced=True,
    )


class Steadying(Spec):
    """What keeps the game from running away."""

    r1: float = param(
        0.0,
        "R1",
        "Weight of the squared gradient of the critic at real samples, halved.",
        cite="Mescheder, Geiger and Nowozin 2018, section 4.1",
        ge=0.0,
        le=1e6,
        live=True,
    )
    r2: float = param(
        0.0,
        "R2",
        "The same at generated samples; both together are R3GAN's.",
        cite="Huang et al. 2024, section 2.2",
        ge=0.0,
        le=1e6,
        live=True,
    )
    penalty_every: int = param(
        1,
        "Penalty every",
        "Critic steps from one penalty of R1 and R2 to the next, which then counts for all.",
        unit="steps",
        cite="Karras et al. 2020, appendix B",
        ge=1,
        le=1000,
        advanced=True,
    )
    instance_noise: float = param(
        0.0,
        "Instance noise",
        "Standard deviation of noise on real and generated samples at the beginning, in units in "
        "which the data reaches from -1 to 1.",
        cite="Sønderby et al. 2017, section 2.4",
        ge=0.0,
        le=10.0,
        live=True,
    )
    noise_end: float = param(
        1e-4, "Noise at the end", "What that falls to, geometrically.", gt=0.0, le=10.0
    )
    noise_share: float = param(
        0.7, "Noise until", "Share of the iterations over which it falls.", gt=0.0, le=1.0
    )
    label_smoothing: float = param(
        0.0,
        "Label smoothing",
        "The critic is asked for one minus this at real samples, where its output is a "
        "probability.",
        cite="Salimans et al. 2016, section 3.4",
        ge=0.0,
        lt=0.5,
    )
    augment: tuple[Literal["translation", "cutout", "colour"], ...] = param(
        (),
        "DiffAugment",
        "Random changes that real and generated images get alike before the critic sees them.",
        cite="Zhao et al. 2020, section 3.2",
        max_length=3,
    )


class Gan(Adjustable):
    """Train a generator against a critic. Its model is the generator of the first seed, with the
    moving average of its weights."""

    title: ClassVar[str] = "GAN"
    summary_help: ClassVar[Mapping[str, str]] = {
        "iterations": "rounds of critic and generator steps that were taken",
        "seeds": "how many were trained side by side",
        "parameters": "numbers in one generator",
        "critic_parameters": "numbers in one critic",
        "modes_covered": "modes with at least one sample of high quality among 2,500",
        "modes": "how many there are",
        "high_quality": "share of 2,500 samples within three sigma of the nearest mode; of the "
        "data itself it is .989",
        "mode_tv": "total variation between the shares of samples in the modes and even ones",
        "reverse_kl": "divergence of the shares of samples in the modes from even ones, in nats",
        "spread": "standard deviation of the good samples of a mode over sigma; of the data itself "
        "it is .97",
        "diversity": "mean distance between two samples over that between two of the data",
        "fid": "distance of 10,000 samples to the test images, by our extractor",
        "accuracy": "share of conditional samples that the extractor's classifier takes for what "
        "they were to be",
        "by_seed": "the same figures of each seed, in their order",
        "troubles": "what was said to go wrong on the way, and of each trouble the seeds that "
        "had it",
        "troubles_at_end": "the same of what still went wrong at the last look",
        "seconds": "that the training took",
        "cpu_seconds": "of the processor that it took",
        "weights_sha256": "of the generator: equal where every bit is",
        "partial": "the run was stopped: it says what was known by then",
    }

    kind: Literal["gan"] = "gan"
    data: OneOf[SourceSpec] = param(Ring(), "Data", "What is to be imitated: points or images.")
    latent: Latent = param(Latent(), "Latent", "What samples are made of.")
    generator: OneOf[GeneratorSpec] = param(MLPGenerator(), "Generator", "Makes samples.")
    critic: OneOf[CriticSpec] = param(MLPCritic(), "Critic", "Tells samples from data.")
    conditional: Condition = param(
        "none",
        "Conditional",
        "Whether both are told a class: the generator beside its latent, the critic beside the "
        "sample (concatenation) or as a direction of its last features (projection).",
        cite="Mirza and Osindero 2014; Miyato and Koyama 2018, section 3",
    )
    loss: OneOf[LossSpec] = param(NonSaturating(), "Loss", "What both want of each other.")
    rates: Rates = param(Rates(), "Rates", "Of both optimisers.")
    steadying: Steadying = param(Steadying(), "Steadying", "Against running away.")
    iterations: int = param(
        4000, "Iterations", "Rounds of critic and generator steps.", ge=1, le=100_000_000
    )
    batch_size: int = param(128, "Batch size", "Samples of a step.", ge=1, le=1_000_000)
    critic_steps: int = param(
        1,
        "Critic steps",
        "Of each iteration; 0 freezes the critic.",
        ge=0,
        le=100,
        live=True,
    )
    generator_steps: int = param(
        1,
        "Generator steps",
        "Of each iteration; 0 freezes the generator.",
        ge=0,
        le=100,
        live=True,
    )
    ema: float = param(
        0.995,
        "EMA",
        "Decay of the moving average of the generator's weights, which becomes the model; 0 is "
        "off.",
        ge=0.0,
        lt=1.0,
    )
    seeds: int = param(
        1,
        "Seeds",
        "Trained side by side in one graph, from this task's seed on: the method, or the luck?",
        ge=1,
        le=64,
    )

    @model_validator(mode="after")
    def _somebody_learns(self) -> Self:
        if not self.critic_steps and not self.generator_steps:
            raise ValueError(
                "critic_steps: with both critic_steps and generator_steps 0 nothing would learn; "
                "expected at least one of them above 0"
            )
        return self

    def run(self, bench: "Bench") -> Steps:
        from engine.generative.training import run_gan

        return run_gan(self, bench)
