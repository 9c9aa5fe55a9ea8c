"""How a model can be trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from engine.attacks.spec import Norm
from engine.data.spec import DataSpec, Digits
from engine.models.spec import CNN, ModelSpec
from engine.task import Adjustable, OneOf, Spec, Steps, param

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.training.defence import Defence, Setting
    from engine.training.mechanism import Mechanism, PrivateSetting


# --- optimisers -----------------------------------------------------------------------------------


class OptimizerSpec(Spec):
    """The rule that turns gradients into steps. Weight decay is the L2 penalty of the rule."""

    kind: str
    lr: float = param(
        1e-3, "Learning rate", "Step size at the schedule's peak.", gt=0.0, le=1000.0, live=True
    )
    weight_decay: float = param(0.0, "L2", "Weight decay (decoupled in AdamW).", ge=0.0, le=10.0)


class SGD(OptimizerSpec):
    """Stochastic gradient descent, with momentum or Nesterov's."""

    kind: Literal["sgd"] = "sgd"
    lr: float = param(
        0.1, "Learning rate", "Step size at the schedule's peak.", gt=0.0, le=1000.0, live=True
    )
    momentum: float = param(0.9, "Momentum", "Share of the last step that is kept.", ge=0.0, lt=1.0)
    nesterov: bool = param(False, "Nesterov", "Looks ahead; needs momentum.")


class Adam(OptimizerSpec):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["adam"] = "adam"
    beta1: float = param(
        0.9, "Beta 1", "Decay of the mean of gradients.", ge=0.0, lt=1.0, advanced=True
    )
    beta2: float = param(0.999, "Beta 2", "Decay of their squares.", ge=0.0, lt=1.0, advanced=True)


class AdamW(OptimizerSpec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: float = param(
        0.01, "Weight decay", "Decoupled from the gradient.", ge=0.0, le=10.0
    )
    beta1: float = param(
        0.9, "Beta 1", "Decay of the mean of gradients.", ge=0.0, lt=1.0, advanced=True
    )
    beta2: float = param(0.999, "Beta 2", "Decay of their squares.", ge=0.0, lt=1.0, advanced=True)


# --- schedules ------------------------------------------------------------------------------------


class ScheduleSpec(Spec):
    """How the learning rate changes over the run, as a share of its peak."""

    kind: str
    warmup: float = param(
        0.0, "Warm-up", "Epochs of linear rise from zero.", unit="epochs", ge=0.0, le=10_000.0
    )


class Constant(ScheduleSpec):
    """The same all along."""

    kind: Literal["constant"] = "constant"


class Step(ScheduleSpec):
    """Multiplied by `factor` every `every` epochs."""

    kind: Literal["step"] = "step"
    every: float = param(10.0, "Every", "Epochs between two drops.", unit="epochs", gt=0.0)
    factor: float = param(0.1, "Factor", "What each drop multiplies by.", gt=0.0, le=1.0)


class Cosine(ScheduleSpec):
    """Half a cosine from the peak to `floor` (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    floor: float = param(0.0, "Floor", "Share of the peak that is left at the end.", ge=0.0, le=1.0)


class OneCycle(ScheduleSpec):
    """Up to the peak, then down to almost nothing (Smith and Topin 2018)."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: float = param(0.3, "Rise", "Share of the run that goes up.", gt=0.0, lt=1.0)
    start: float = param(0.04, "Start", "Share of the peak at the beginning.", gt=0.0, le=1.0)


# --- regularisation, augmentation, defence --------------------------------------------------------


class ClipSpec(Spec):
    """Gradient clipping; 0 switches one off."""

    value: float = param(0.0, "By value", "Each component is limited to this size.", ge=0.0)
    norm: float = param(0.0, "By norm", "The whole gradient is scaled down to this length.", ge=0.0)


class AugmentationSpec(Spec):
    """Random changes of the training images."""

    crop: int = param(
        0, "Crop", "Shifts by up to so many pixels, zero padded.", unit="px", ge=0, le=64
    )
    flip: bool = param(False, "Flip", "Mirrors left and right, half of the time.")
    policy: Literal["none", "auto_augment", "rand_augment", "trivial_augment"] = param(
        "none",
        "Policy",
        "torchvision's AutoAugment (CIFAR-10 policy), RandAugment or TrivialAugmentWide.",
    )
    noise: float = param(
        0.0, "Input noise", "Standard deviation of Gaussian noise, in image units.", ge=0.0, le=10.0
    )


class EarlyStopping(Spec):
    """Stop when the validation accuracy has not risen for `patience` epochs; keep the best."""

    patience: int = param(5, "Patience", "Epochs without a better one.", unit="epochs", ge=1)
    min_delta: float = param(
        0.0, "Least gain", "What counts as better, as a fraction.", ge=0.0, lt=1.0
    )


class Adapters(Spec):
    """Low-rank corrections of frozen weights, part of them in the model that is handed over."""

    rank: int = param(
        4,
        "Rank",
        "Of each correction; the smaller, the fewer parameters learn.",
        cite="Hu et al. 2022, section 4.1",
        ge=1,
        le=4096,
    )
    layers: tuple[str, ...] = param(
        (),
        "Layers",
        "Linear layers and convolutions that get one, by name or pattern, as in body.*; empty is "
        "all.",
    )


class AWP(Spec):
    """Each step is taken for weights that are perturbed against it."""

    gamma: float = param(
        0.01,
        "Gamma",
        "Length of the perturbation, as a share of each layer's own.",
        cite="Wu, Xia and Wang 2020, section 4.2",
        ge=0.0,
        le=1.0,
    )
    after: float = param(
        0.0, "After", "Epochs without it at the beginning.", unit="epochs", ge=0.0, le=1_000_000.0
    )


class Watch(Spec):
    """Looks after each epoch whether PGD still finds the model robust: training by weak attacks
    can lose that from one epoch to the next while its own examples seem harmless."""

    samples: int = param(
        500,
        "Samples",
        "Images that PGD attacks, of the validation split if there is one, else of the training "
        "images; 0 is off.",
        ge=0,
    )
    steps: int = param(10, "Steps", "Gradient steps of that PGD.", ge=1, le=10_000)
    drop: float = param(
        0.2,
        "Drop",
        "Loss of robust accuracy since the best epoch, as a fraction, at which the run ends with "
        "that epoch's model.",
        cite="Wong, Rice and Kolter 2020, section 5.4 and their code",
        gt=0.0,
        le=1.0,
    )


class AdversarialTraining(Spec):
    """Training against perturbations. Members stand in `engine.robustness.spec`."""

    kind: str
    eps_ramp: float = param(
        0.0,
        "Epsilon ramp",
        "Epochs over which epsilon, and the step size with it, rise from zero; 0 is off.",
        unit="epochs",
        ge=0.0,
        le=1_000_000.0,
        advanced=True,
    )
    watch: Watch | None = param(
        None,
        "Watch",
        "Stops a run whose robustness collapses, and keeps the best epoch's model.",
        advanced=True,
    )
    awp: AWP | None = param(
        None,
        "Weight perturbation",
        "AWP: each step is taken for weights that are perturbed against it.",
        advanced=True,
    )

    def risen(self, epoch: float) -> float:
        """How far epsilon has come at a place of the run, 0 to 1."""
        return min(1.0, epoch / self.eps_ramp) if self.eps_ramp else 1.0

    def ready(self, bench: Bench) -> Self:
        """The same, with what its attacks name loaded. Raises BadInput if that is not there."""
        return self

    @abstractmethod
    def defence(self, setting: Setting) -> Defence:
        """What happens to a batch, for one run. Raises BadInput where it does not fit the run."""

    @abstractmethod
    def budget(self) -> tuple[Norm, float]:
        """The ball that the training is to make safe: its norm and radius."""

    def advice(self) -> str:
        """What makes it weaker than it looks, and what to change; empty if nothing is known to."""
        return ""


class PrivateTraining(Spec):
    """Training that hides single samples. Members stand in `engine.privacy.spec`."""

    kind: str
    private: ClassVar[bool] = True
    """Whether it promises anything: then nothing else of the run may look at the training images,
    and nothing that goes out with the model may tell them."""

    @abstractmethod
    def mechanism(self, setting: PrivateSetting) -> Mechanism:
        """How the steps are taken, for one run. Raises BadInput where it does not fit the run."""


# --- the task -------------------------------------------------------------------------------------


class Train(Adjustable):
    """Train a classifier. Its model is the last, or with early stopping that of the best epoch."""

    title: ClassVar[str] = "Train"
    summary_help: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "share of the test images that the model gets right",
        "test_loss": "mean cross-entropy on them",
        "tested": "how many test images there were",
        "epochs": "passes over the training images that were begun",
        "steps": "of the optimiser",
        "parameters": "numbers in the model",
        "best_epoch": "of the best validation accuracy; the model is of that epoch with early "
        "stopping, or where a watch ended the run, else of the last",
        "validation_accuracy": "share of the validation images, at the end or in the best epoch",
        "watched_accuracy": "robust accuracy in the safest epoch, as the watch saw it",
        "collapsed": "the watch ended the run: robustness was lost",
        "data_changed": "the model may have been trained on images that it is tested on now",
        "accuracy": "clean_accuracy again, of a private run",
        "epsilon": "of a private run: with one training image more or less, any outcome is at most "
        "exp(epsilon) times as probable, but for delta",
        "epsilon_rdp": "the same by Rényi accounting, which is looser",
        "epsilon_prv": "the same by Opacus' PRV accountant, as a check: an upper bound, and so a "
        "little higher",
        "delta": "of epsilon",
        "noise_multiplier": "deviation of the noise / the largest norm of a sample's gradient",
        "sample_rate": "probability of each image to be in a step",
        "noise_source": "seed: whoever knows the seed can take the noise off; system: nobody can",
        "epsilon_leaves_out": "the run that a private one started from: what that learnt, and what "
        "it spent, is not in epsilon",
        "guarantee": "none, of training that only looks private",
        "weights_sha256": "of the weights: equal where every bit is",
    }

    kind: Literal["train"] = "train"
    init: str | None = param(
        None,
        "Start from",
        "A run or an exported file whose weights are the start; data, model and split are taken "
        "from it unless given.",
        reference=True,
    )
    data: OneOf[DataSpec] | None = param(None, "Data", "Images and labels; digits unless given.")
    model: OneOf[ModelSpec] | None = param(None, "Model", "Architecture; a small CNN unless given.")
    optimizer: OneOf[OptimizerSpec] = param(
        AdamW(lr=2e-3), "Optimiser", "Turns gradients into steps."
    )
    schedule: OneOf[ScheduleSpec] = param(Constant(), "Schedule", "Learning rate over the run.")
    epochs: int = param(12, "Epochs", "Passes over the training images.", ge=1, le=1_000_000)
    batch_size: int = param(64, "Batch size", "Images of one step.", ge=1, le=1_000_000)
    l1: float = param(
        0.0, "L1", "Weight of the sum of absolute weights in the loss.", ge=0.0, le=10.0
    )
    label_smoothing: float = param(
        0.0, "Label smoothing", "Share of the target spread over all classes.", ge=0.0, lt=1.0
    )
    clip: ClipSpec = param(ClipSpec(), "Gradient clipping", "Keeps single steps from exploding.")
    augmentation: AugmentationSpec = param(
        AugmentationSpec(), "Augmentation", "Random changes of the training images."
    )
    ema: float = param(
        0.0,
        "EMA",
        "Decay of the moving average of weights that becomes the model; 0 is off.",
        ge=0.0,
        lt=1.0,
    )
    early_stopping: EarlyStopping | None = param(
        None, "Early stopping", "Stops when validation no longer gains."
    )
    adversarial: OneOf[AdversarialTraining] | None = param(
        None, "Adversarial training", "Trains against an attack."
    )
    privacy: OneOf[PrivateTraining] | None = param(
        None, "Privacy", "Trains so that no single image can be told from the model."
    )
    diagnostics: Literal["off", "light", "full"] = param(
        "light",
        "Diagnostics",
        "Looks at every layer now and then: gradient, update, weights and activations. light costs "
        "at most 5 % of the time; full looks oftener, and at the loss around the weights, for at "
        "most half as much again. No result depends on it.",
    )
    trainable: tuple[str, ...] = param(
        (),
        "Trainable layers",
        "Only these learn, by name or pattern, as in body.4 or *.bias; empty is all, with adapters "
        "none but these.",
        advanced=True,
    )
    adapters: Adapters | None = param(
        None,
        "Adapters",
        "Freezes the weights and learns low-rank corrections of them.",
        advanced=True,
    )

    def run(self, bench: Bench) -> Steps:
        from engine.training.loop import run_train

        return run_train(self, bench)


DEFAULT_DATA = Digits()
DEFAULT_MODEL = CNN()
