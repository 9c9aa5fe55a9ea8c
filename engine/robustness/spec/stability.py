"""The question how far a model's answers are its own, and how far the luck of its training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.attacks.spec.task import SHOWN, TOGETHER
from engine.data.spec import DataSpec
from engine.task import OneOf, Steps, Task, param

if TYPE_CHECKING:
    from engine.bench import Bench


class Stability(Task):
    """Judge how far a model's answers depend on what should not matter: the seed, the order of the
    batches, noise in the images, noise in the weights."""

    title: ClassVar[str] = "Prediction stability"
    summary_help: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "share of the samples that the model gets right",
        "samples": "how many there were",
        "models": "how many were compared over seeds, and over batch orders, the first among them",
        "differs": "by source: share of the samples that not all answers agree on",
        "agreement": "by source: share of samples on which two of the answers agree, on average",
        "accuracy_range": "by source: the largest accuracy less the smallest",
        "entropy": "by source: mean entropy of a sample's answers, in bits",
        "least_stable": "places in the test split of the samples with the largest entropy",
        "hessian_top": "the steepest bend of the loss around the weights: largest eigenvalue",
        "hessian_trace": "the sum of all bends",
        "gradient_noise_scale": "batch size at which the gradient's noise is as large as itself",
        "partial": "it was stopped: what is told holds for what was done",
        "data_changed": "the model may have been trained on images that it is tested on now",
    }

    kind: Literal["stability"] = "stability"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    also: tuple[str, ...] = param(
        (),
        "Other seeds",
        "Runs of the same recipe with other seeds, by name or id.",
        reference=True,
    )
    seeds: int = param(
        0,
        "Further seeds",
        "How many models more are trained as the model was, each with a seed of its own.",
        ge=0,
        le=100,
    )
    orders: int = param(
        0,
        "Batch orders",
        "How many models more are trained with the same seed, so from the same first weights, but "
        "with the batches in another order.",
        ge=0,
        le=100,
    )
    input_noise: tuple[float, ...] = param(
        (0.02, 0.05, 0.1),
        "Input noise",
        "Standard deviations of Gaussian noise on the images, in image units; empty is none.",
        max_length=16,
    )
    weight_noise: tuple[float, ...] = param(
        (0.01, 0.05, 0.1),
        "Weight noise",
        "Standard deviations of noise on the weights, as a share of each tensor's root mean "
        "square; empty is none.",
        max_length=16,
    )
    draws: int = param(5, "Draws", "How often noise of each strength is drawn.", ge=2, le=1000)
    hessian: bool = param(
        False,
        "Hessian",
        "The steepest bend of the loss around the weights, the sum of all, and the gradient's "
        "noise scale, on training images.",
        cite="McCandlish et al. 2018, appendix A.1",
    )
    plane: int = param(
        0,
        "Loss plane",
        "Points a side of a plane through the weights on which the loss is drawn; 0 draws none.",
        cite="Li et al. 2018, section 4",
        ge=0,
        le=101,
    )
    around: int = param(
        256,
        "Samples of the loss",
        "Training images whose loss the bends and the plane are of.",
        ge=2,
        le=100_000,
        advanced=True,
    )
    data: OneOf[DataSpec] | None = param(
        None, "Data", "Another data set than the model was trained on.", advanced=True
    )
    samples: int = param(500, "Samples", "How many test images are answered; 0 takes all.", ge=0)
    show: int = SHOWN
    batch_size: int = TOGETHER

    @model_validator(mode="after")
    def _something_is_varied(self) -> Self:
        varied = self.also or self.seeds or self.orders or self.input_noise or self.weight_noise
        if not (varied or self.hessian or self.plane):
            raise ValueError(
                "nothing is varied: give also, seeds, orders, input_noise or weight_noise"
            )
        for name in ("input_noise", "weight_noise"):
            levels = getattr(self, name)
            if any(level <= 0 for level in levels):
                raise ValueError(
                    f"{name}: a standard deviation is above 0; leave the list empty for none"
                )
            if len(set(levels)) < len(levels):
                raise ValueError(f"{name}: the same standard deviation is in it twice")
        if self.model in self.also or len(set(self.also)) < len(self.also):
            raise ValueError(
                "also: a model always agrees with itself; name each run once, and not the model's "
                "own"
            )
        if self.plane and self.plane % 2 == 0:
            raise ValueError(
                f"plane: of {self.plane} points a side none is the model itself; expected an odd "
                f"number, as {self.plane + 1}"
            )
        return self

    def run(self, bench: "Bench") -> Steps:
        from engine.robustness.stability import run_stability

        return run_stability(self, bench)
