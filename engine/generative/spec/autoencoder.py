"""Autoencoders: plain, variational and adversarial, without labels or with some."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.data.spec import DataSpec, Digits
from engine.models.spec import NetworkSpec
from engine.task import Adjustable, OneOf, Spec, Steps, param
from engine.training.spec import AdamW, Cosine, OptimizerSpec, ScheduleSpec

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.generative.autoencoding.networks import AutoencoderNet

Encoder = Literal["deterministic", "gaussian"]


# --- priors ---------------------------------------------------------------------------------------


class PriorSpec(Spec):
    """How the codes of images are to be distributed. What is no plain Gaussian is drawn in pairs of
    numbers, all of one component."""

    kind: str

    @property
    def components(self) -> int:
        """Parts that a label can name; 0 where there are none."""
        return 0


class GaussianPrior(PriorSpec):
    """Each number is normal, by itself."""

    kind: Literal["gaussian"] = "gaussian"
    deviation: float = param(
        1.0, "Deviation", "Standard deviation of each number.", gt=0.0, le=1000.0
    )


class MixturePrior(PriorSpec):
    """Gaussians on a circle in the plane, long towards its middle and narrow across."""

    kind: Literal["mixture"] = "mixture"
    cite: ClassVar[str] = "Makhzani et al. 2015, section 2.3"
    gaussians: int = param(10, "Gaussians", "How many there are.", ge=2, le=1000)
    distance: float = param(
        3.0, "Distance", "Of each one's middle from that of the circle.", gt=0.0, le=1000.0
    )
    along: float = param(0.7, "Length", "Standard deviation towards the middle.", gt=0.0, le=1000.0)
    across: float = param(0.25, "Width", "Standard deviation across.", gt=0.0, le=1000.0)

    @property
    def components(self) -> int:
        return self.gaussians


class SwissRollPrior(PriorSpec):
    """A band that is rolled up in the plane. Its sections, one after the other along it, can each
    be given to a class."""

    kind: Literal["swiss_roll"] = "swiss_roll"
    cite: ClassVar[str] = "Makhzani et al. 2015, section 2.3"
    sections: int = param(10, "Sections", "Parts of about equal length.", ge=2, le=1000)
    turns: float = param(1.75, "Turns", "How often it goes around.", gt=0.0, le=20.0)
    radius: float = param(4.0, "Radius", "Of its outer end.", gt=0.0, le=1000.0)
    noise: float = param(
        0.08, "Noise", "Standard deviation of what is drawn beside it.", gt=0.0, le=1000.0
    )

    @property
    def components(self) -> int:
        return self.sections


# --- how codes come to it -------------------------------------------------------------------------


class CodeSpec(Spec):
    """What is asked of the codes beside that images can be made of them again."""

    kind: str

    @property
    def encoder(self) -> Encoder:
        """Whether an image has one code, or a distribution of them."""
        return "deterministic"

    @property
    def prior(self) -> PriorSpec:
        """What codes are drawn from to make images."""
        return GaussianPrior()


class PlainCode(CodeSpec):
    """Nothing: reconstruction alone. What lies between the codes of images may mean nothing."""

    kind: Literal["plain"] = "plain"
    cite: ClassVar[str] = "Hinton and Salakhutdinov 2006"


class VariationalCode(CodeSpec):
    """Each image has a Gaussian of codes, whose divergence from the standard normal is paid for."""

    kind: Literal["variational"] = "variational"
    cite: ClassVar[str] = "Kingma and Welling 2014, section 3"
    divergence_weight: float = param(
        1.0,
        "Weight",
        "Of the divergence beside the reconstruction; 1 is the lower bound of the likelihood.",
        ge=0.0,
        le=10_000.0,
        live=True,
    )

    @property
    def encoder(self) -> Encoder:
        return "gaussian"


class AdversarialCode(CodeSpec):
    """A critic tells codes from draws of the prior, and the encoder learns to deceive it."""

    kind: Literal["adversarial"] = "adversarial"
    cite: ClassVar[str] = "Makhzani et al. 2015, section 2"
    match: OneOf[PriorSpec] = param(GaussianPrior(), "Prior", "How codes are to be distributed.")
    encoding: Encoder = param(
        "deterministic",
        "Encoder",
        "deterministic: an image has one code. gaussian: it has a distribution of them.",
        cite="Makhzani et al. 2015, section 2.1",
    )
    adversarial_weight: float = param(
        0.1,
        "Weight",
        "Of deceiving the critics beside the other parts of the loss.",
        ge=0.0,
        le=10_000.0,
        live=True,
    )
    critic_lr: float = param(
        2e-3, "Critics' rate", "Adam's learning rate of the critics.", gt=0.0, le=10.0, live=True
    )
    critic_width: int = param(
        256, "Critics' width", "Units of each of their two hidden layers.", ge=1, le=65536
    )

    @property
    def encoder(self) -> Encoder:
        return self.encoding

    @property
    def prior(self) -> PriorSpec:
        return self.match


# --- architectures --------------------------------------------------------------------------------


class CoderSpec(Spec):
    """An encoder and the decoder that mirrors it."""

    kind: str


class MLPCoder(CoderSpec):
    """Fully connected layers over the flattened image: as it stands, the two layers of 1,000 units
    of the paper."""

    kind: Literal["mlp"] = "mlp"
    cite: ClassVar[str] = "Makhzani et al. 2015, appendix A"
    width: int = param(1000, "Width", "Units of each hidden layer.", ge=1, le=65536)
    depth: int = param(2, "Depth", "Hidden layers of each half.", ge=1, le=100)


class ConvCoder(CoderSpec):
    """Convolutions of stride 2 with batch normalisation, and transposed ones back; the width
    doubles as the side halves."""

    kind: Literal["conv"] = "conv"
    width: int = param(32, "Width", "Channels of the first layer.", ge=1, le=4096)
    strides: int = param(
        3,
        "Strides",
        "How often the side is halved, to one pixel at the least.",
        ge=1,
        le=8,
    )


class Autoencoder(NetworkSpec):
    """What an autoencoder run hands over: it encodes images, decodes codes, tells classes where it
    has learnt from labels, and scores how unlike an image is to what it learnt from."""

    kind: Literal["autoencoder"] = "autoencoder"
    coder: OneOf[CoderSpec] = param(MLPCoder(), "Architecture", "Encoder and decoder.")
    latent: int = param(2, "Latent size", "Numbers of a code.", ge=1, le=65536)
    encoder: Encoder = param("deterministic", "Encoder", "One code an image, or a distribution.")
    prior: OneOf[PriorSpec] = param(GaussianPrior(), "Prior", "What codes are drawn from.")
    classes: Literal["none", "head", "prior"] = param(
        "none", "Classes", "Who tells them: nobody, a head beside the code, or the prior's parts."
    )

    def network(self, shape: tuple[int, int, int], classes: int) -> "AutoencoderNet":
        from engine.generative.autoencoding.networks import AutoencoderNet

        return AutoencoderNet(self, shape, classes)


# --- labels, distortions, anomalies ---------------------------------------------------------------


class Distortion(Spec):
    """Random changes of where things are in an image; 0 everywhere changes nothing."""

    shift: float = param(0.0, "Shift", "In both directions, at most.", unit="px", ge=0.0, le=256.0)
    rotation: float = param(
        0.0, "Rotation", "Either way, at most.", unit="degrees", ge=0.0, le=180.0
    )
    scale: float = param(
        0.0, "Scale", "Each direction grows or shrinks by at most this share.", ge=0.0, lt=1.0
    )
    shear: float = param(
        0.0,
        "Shear",
        "Rows move by at most this share of their distance from the middle.",
        ge=0.0,
        le=2.0,
    )

    @property
    def nothing(self) -> bool:
        return not (self.shift or self.rotation or self.scale or self.shear)


STRONG = Distortion(shift=3.0, rotation=26.0, scale=0.25, shear=0.35)
"""What a handwritten digit survives."""


class Consistency(Spec):
    """What the class head is sure of in an image it must say of a distorted copy too."""

    consistency_weight: float = param(
        1.0, "Weight", "Beside the other parts of the loss.", ge=0.0, le=1000.0, live=True
    )
    threshold: float = param(
        0.8,
        "Sure from",
        "Probability of a class from which it counts.",
        cite="Sohn et al. 2020, equation 4",
        ge=0.0,
        lt=1.0,
    )
    distortion: Distortion = param(STRONG, "Distortion", "Of the copy, and of labelled images.")


class Labels(Spec):
    """What is known of some training images."""

    count: int = param(
        1000,
        "Labelled images",
        "Of all classes together, as many of each, drawn by the seed: a multiple of the number of "
        "classes.",
        ge=2,
        le=10_000_000,
    )
    use: Literal["head", "prior"] = param(
        "head",
        "Use",
        "head: a class head beside the code, which then holds the style alone. prior: each class "
        "gets a part of the prior.",
        cite="Makhzani et al. 2015, sections 2.3 and 5",
    )
    batch: int = param(32, "Batch size", "Labelled images of one step.", ge=2, le=65536)
    classification_weight: float = param(
        1.0, "Weight", "Of the labelled images' cross-entropy.", ge=0.0, le=1000.0, live=True
    )
    consistency: Consistency | None = param(
        None, "Consistency", "What the class head must say of distorted copies."
    )

    @model_validator(mode="after")
    def _consistency_is_of_a_head(self) -> Self:
        if self.consistency is not None and self.use == "prior":
            raise ValueError(
                'consistency: it is asked of a class head, and use = "prior" has none; leave it '
                'out, or set use = "head"'
            )
        return self


class OutliersSpec(Spec):
    """Images that should be found odd."""

    kind: str


class NoiseImages(OutliersSpec):
    """Every pixel is drawn by itself, evenly between black and white."""

    kind: Literal["noise"] = "noise"
    samples: int = param(1000, "Images", "How many there are.", ge=1, le=1_000_000)


class OtherImages(OutliersSpec):
    """The test images of another data set, of the same size."""

    kind: Literal["other"] = "other"
    data: OneOf[DataSpec] = param(..., "Data", "Where they are from.")


class Anomalies(Spec):
    """The score of an image is the length of `x_hat - x`. One above the threshold is odd, which is
    learnt from the validation images."""

    false_alarms: float = param(
        0.05,
        "False alarms",
        "Share of the validation images that the threshold leaves above it.",
        gt=0.0,
        lt=1.0,
    )
    outliers: OneOf[OutliersSpec] = param(
        NoiseImages(), "Outliers", "Images that the score is tried on."
    )


# --- the task -------------------------------------------------------------------------------------


class TrainAutoencoder(Adjustable):
    """Train an autoencoder: images become short codes, and codes images again. Its codes can be
    brought to a prior, which makes it a generative model; with some labels it is a classifier."""

    title: ClassVar[str] = "Autoencoder"
    summary_help: ClassVar[Mapping[str, str]] = {
        "error": "share of the test images that get a wrong class (with labels)",
        "reconstruction": "mean squared difference of a pixel of the test images and of what "
        "decoder makes of their codes",
        "score": "mean length of that difference, over the test images",
        "threshold": "the score from which an image counts as odd",
        "false_alarms": "share of the test images that do",
        "anomaly_auroc": "how likely an outlier scores above a test image",
        "detected": "share of the outliers that count as odd",
        "labelled": "how many training images had their labels used",
        "epochs": "passes over the training images that were begun",
        "steps": "of the optimiser",
        "parameters": "numbers in the autoencoder; critics are not part of it",
        "seconds": "that the training took",
        "partial": "it was stopped: nothing was judged, and the threshold is not known",
        "weights_sha256": "of the weights: equal where every bit is",
    }

    kind: Literal["autoencoder"] = "autoencoder"
    data: OneOf[DataSpec] = param(Digits(), "Data", "Images; labels only count where asked for.")
    coder: OneOf[CoderSpec] = param(ConvCoder(), "Architecture", "Encoder and decoder.")
    latent: int = param(
        2,
        "Latent size",
        "Numbers of a code, at least 1; with 2 all of them can be seen.",
        ge=1,
        le=65536,
    )
    code: OneOf[CodeSpec] = param(
        AdversarialCode(), "Codes", "What is asked of the codes beside reconstruction."
    )
    labels: Labels | None = param(None, "Labels", "Of some images; none unless given.")
    distortion: Distortion = param(
        Distortion(), "Distortion", "Of the images that are learnt.", advanced=True
    )
    pixels: Literal["cross_entropy", "squared"] = param(
        "cross_entropy",
        "Reconstruction loss",
        "Per pixel: cross-entropy of grey levels as probabilities, or the squared difference.",
    )
    reconstruction_weight: float = param(
        8.0,
        "Reconstruction weight",
        "Of the mean loss of a value of the image; what variational codes diverge counts per value "
        "too.",
        ge=0.0,
        le=1000.0,
        live=True,
        advanced=True,
    )
    optimizer: OneOf[OptimizerSpec] = param(
        AdamW(lr=2e-3, beta1=0.9, beta2=0.99), "Optimiser", "Turns gradients into steps."
    )
    schedule: OneOf[ScheduleSpec] = param(Cosine(), "Schedule", "Learning rate over the run.")
    epochs: int = param(20, "Epochs", "Passes over the training images.", ge=1, le=1_000_000)
    batch_size: int = param(96, "Batch size", "Images of one step.", ge=2, le=1_000_000)
    ema: float = param(
        0.998,
        "EMA",
        "Decay of the moving average of weights that is handed over; 0 is off.",
        ge=0.0,
        lt=1.0,
    )
    anomalies: Anomalies = param(Anomalies(), "Anomalies", "When an image counts as odd.")

    @model_validator(mode="after")
    def _the_prior_has_a_part_for_each_class(self) -> Self:
        prior = self.code.prior
        if self.labels is not None and self.labels.use == "prior" and not prior.components:
            raise ValueError(
                f"labels: a {prior.kind} prior has no parts that classes could get; use "
                "adversarial codes that match a mixture or a swiss_roll, or give labels to a class "
                'head, use = "head"'
            )
        if prior.components and self.latent % 2:
            raise ValueError(
                f"latent: a {prior.kind} prior is drawn in pairs of numbers, and {self.latent} is "
                f"odd; expected {self.latent + 1}, say"
            )
        return self

    @property
    def saved(self) -> Autoencoder:
        """What the run's file holds."""
        return Autoencoder(
            coder=self.coder,
            latent=self.latent,
            encoder=self.code.encoder,
            prior=self.code.prior,
            classes="none" if self.labels is None else self.labels.use,
        )

    def run(self, bench: "Bench") -> Steps:
        from engine.generative.autoencoding.running import run_autoencoder

        return run_autoencoder(self, bench)
