"""AdvGAN: a generator that makes adversarial examples, and the attack that uses it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PrivateAttr

from engine.attacks.spec import FixedBudget
from engine.attacks.spec.base import RADIUS, Rounds, norm_field
from engine.data.spec import DataSpec
from engine.models.spec import NetworkSpec
from engine.task import Adjustable, OneOf, Steps, param

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.generative.advgan.networks import Perturber

CITE = "Xiao et al. 2018, section 3"


class AdvGanGenerator(NetworkSpec):
    """What an advgan run hands over: images (N, C, H, W) to what is added to them to deceive the
    model that it was trained against, at most `eps` a value."""

    cite: ClassVar[str] = CITE
    kind: Literal["advgan_generator"] = "advgan_generator"
    eps: float = param(0.3, "Epsilon", RADIUS, gt=0.0, le=1.0)
    width: int = param(8, "Width", "Channels of the first layer.", ge=1, le=4096)
    blocks: int = param(4, "Blocks", "Residual blocks where the image is smallest.", ge=0, le=64)

    def network(self, shape: tuple[int, int, int], classes: int) -> "Perturber":
        from engine.generative.advgan.networks import Perturber

        return Perturber(self, shape)


class TrainAdvGan(Adjustable):
    """Train a generator against a model: one pass of it makes an adversarial example of an image.
    It is paid for deceiving the model, for images that a critic takes for real ones, and for small
    changes."""

    title: ClassVar[str] = "AdvGAN"
    cite: ClassVar[str] = CITE
    summary_help: ClassVar[Mapping[str, str]] = {
        "success_rate": "share of the test images that the model gets right which the generator "
        "has it get wrong (targeted: take for the target)",
        "success_rate_interval": "where that lies with 95 % confidence (Wilson)",
        "clean_accuracy": "share of the test images that the model gets right",
        "robust_accuracy": "share that it still gets right when the generator has changed them",
        "samples": "how many test images there were",
        "mean_norm": "mean Euclidean length of the changes",
        "epochs": "passes over the training images that were begun",
        "steps": "of the generator",
        "parameters": "numbers in the generator; the critic is not part of it",
        "seconds": "that the training took",
        "data_changed": "the model may have been trained on images that it is tested on now",
        "partial": "it was stopped: nothing was judged",
        "weights_sha256": "of the generator: equal where every bit is",
    }

    kind: Literal["advgan"] = "advgan"
    model: str = param(
        ...,
        "Model",
        "The run or exported file that is to be deceived; its gradients are used.",
        reference=True,
        min_length=1,
    )
    data: OneOf[DataSpec] | None = param(
        None, "Data", "Another data set than the model was trained on.", advanced=True
    )
    eps: float = param(0.3, "Epsilon", RADIUS, gt=0.0, le=1.0)
    target: int | None = param(
        None,
        "Target class",
        "The class that images are to be taken for; any wrong one if empty.",
        ge=0,
    )
    width: int = param(8, "Width", "Channels of the generator's first layer.", ge=1, le=4096)
    blocks: int = param(4, "Blocks", "Its residual blocks.", ge=0, le=64)
    confidence: float = param(
        5.0,
        "Confidence",
        "By how much the wrong class must lead before an image is deceived enough.",
        cite="Carlini and Wagner 2017, section V-A",
        ge=0.0,
        le=1000.0,
    )
    deception_weight: float = param(
        10.0, "Deception weight", "Of the loss of Carlini and Wagner.", ge=0.0, le=1e6, live=True
    )
    realism_weight: float = param(
        0.3, "Realism weight", "Of deceiving the critic.", ge=0.0, le=1e6, live=True
    )
    change_weight: float = param(
        0.1,
        "Change weight",
        "Of the length of the change beyond the bound.",
        ge=0.0,
        le=1e6,
        live=True,
    )
    bound: float | None = param(
        None,
        "Bound",
        "Euclidean length from which a change is paid for; empty is that of a change by half of "
        "epsilon everywhere.",
        ge=0.0,
        le=1e6,
    )
    lr: float = param(
        1e-3,
        "Learning rate",
        "Adam's, of generator and critic, at its peak.",
        gt=0.0,
        le=10.0,
        live=True,
    )
    epochs: int = param(10, "Epochs", "Passes over the training images.", ge=1, le=1_000_000)
    batch_size: int = param(128, "Batch size", "Images of one step.", ge=2, le=1_000_000)

    @property
    def saved(self) -> AdvGanGenerator:
        """What the run's file holds."""
        return AdvGanGenerator(eps=self.eps, width=self.width, blocks=self.blocks)

    def run(self, bench: "Bench") -> Steps:
        from engine.generative.advgan.running import run_advgan

        return run_advgan(self, bench)


class AdvGan(FixedBudget):
    """What an AdvGAN's generator makes of each image: one pass, which asks the model nothing. For
    another epsilon than it was trained for its changes are scaled."""

    kind: Literal["advgan"] = "advgan"
    cite: ClassVar[str] = CITE
    norm: Literal["linf"] = norm_field("linf")
    targeted: Literal[False] = param(
        False, "Targeted", "A generator aims where it was trained to; any wrong class counts."
    )
    generator: str = param(
        ...,
        "Generator",
        "The advgan run, or its file, whose generator is used.",
        reference=True,
        min_length=1,
    )
    _network: "Perturber | None" = PrivateAttr(None)

    def carrying(self, network: "Perturber") -> Self:
        """The attack with its generator, as `rounds` needs it."""
        found = self.model_copy()
        found._network = network
        return found

    def ready(self, bench: "Bench") -> Self:
        from engine.models import load_network

        loaded = load_network(self.generator, bench, AdvGanGenerator)
        return self.carrying(loaded.module)  # type: ignore[arg-type]

    def climbs(self) -> bool:
        return False

    def rounds(self) -> Rounds:
        from engine.generative.advgan.attacking import advgan

        return (advgan(self, self._network),)
