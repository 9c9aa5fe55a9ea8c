"""The task: to assess what a generative model makes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.task import Steps, Task, param

if TYPE_CHECKING:
    from engine.bench import Bench

Extractors = Literal["auto", "mnist", "cifar10", "digits", "inception"]


class Assess(Task):
    """Judge what a generator makes of images: how near its samples are to real ones, whether they
    are as varied, and whether they are copies of training images. Every figure stands beside the
    same figure of real images that were kept aside."""

    title: ClassVar[str] = "Assess"
    summary_help: ClassVar[Mapping[str, str]] = {
        "fid": "Fréchet distance of generated and training images in the extractor's features; "
        "compare it only with figures of the same extractor and as many samples",
        "fid_spread": "its standard deviation over the draws",
        "fid_held_out": "the same distance of real images that were kept aside: what a perfect "
        "generator would reach",
        "kid": "kernel distance, mean over subsets; 0 is the same distribution",
        "kid_spread": "its standard deviation over subsets",
        "precision": "share of the samples that lie among real images",
        "recall": "share of the real images that lie among samples",
        "density": "how densely real images lie around samples; 1 is as around real ones",
        "coverage": "share of the real images that have a sample nearby",
        "memorised": "share of the samples that are nearer to a training image than real images "
        "are, by pixels or features, whichever shows more; .01 is none",
        "memorised_p": "how probable distances like these are where nothing is memorised, of the "
        "same",
        "accuracy": "share of the samples that a classifier takes for the class they were to be of",
        "smoothness": "squared length of a way through latent space, in squared distances of two "
        "real images; less is smoother",
        "extractor": "what looked at the images; figures compare only within it",
        "samples": "images of each draw",
        "draws": "how many draws there were",
        "real": "how many training images they were compared with",
        "held_out": "how many real images that were kept aside",
        "seconds": "that it took",
        "partial": "it was stopped: it says what was known by then",
        "data_changed": "the model may have learnt from images that count as kept aside now",
    }

    kind: Literal["assess"] = "assess"
    model: str = param(
        ...,
        "Model",
        "A run that made a generator or an autoencoder, by name or id, or an exported file.",
        reference=True,
        min_length=1,
    )
    samples: int = param(2000, "Samples", "Images of one draw.", ge=2, le=1_000_000)
    draws: int = param(
        3,
        "Draws",
        "How often so many are drawn and judged: figures are the mean, and the spread is over "
        "these.",
        ge=1,
        le=1000,
    )
    real: int = param(
        10_000,
        "Real images",
        "Training images that they are compared with, drawn by the seed; 0 takes all. (Precision, "
        "recall, density and coverage take as many as there are samples.)",
        ge=0,
    )
    extractor: Extractors = param(
        "auto",
        "Features",
        "What the images are seen by. auto: of our small classifiers the one that suits their "
        "shape; inception: that of published figures, where torch-fidelity and its weights are "
        "there.",
        cite="Heusel et al. 2017, section 2",
    )
    judge: str | None = param(
        None,
        "Judge",
        "A run or file of a classifier that takes the place of ours: its last hidden layer gives "
        "the features, its answers the accuracy.",
        reference=True,
        advanced=True,
    )
    neighbours: int = param(
        5,
        "Neighbourhood",
        "Around an image lies what is nearer than its neighbour of this number.",
        cite="Naeem et al. 2020, section 5.1",
        ge=1,
        le=1000,
        advanced=True,
    )
    ways: int = param(
        1000,
        "Ways",
        "Ways through latent space on which its smoothness is measured; 0 does not.",
        cite="Karras, Laine and Aila 2019, section 4.1",
        ge=0,
        le=1_000_000,
        advanced=True,
    )
    show: int = param(64, "Shown samples", "Samples that are shown.", ge=0, le=512)

    @model_validator(mode="after")
    def _one_of_both_looks(self) -> Self:
        if self.judge and self.extractor != "auto":
            raise ValueError(
                "judge: images are seen either by a classifier of yours or by an extractor; leave "
                'out one of judge and extractor (extractor = "auto")'
            )
        return self

    def run(self, bench: "Bench") -> Steps:
        from engine.generative.metrics.assessing import run_assess

        return run_assess(self, bench)
