"""The tasks: to run an attack against a model, and to write what it found for other programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from engine.attacks.spec.base import AttackSpec
from engine.attacks.spec.gradient import PGD
from engine.data.spec import DataSpec
from engine.task import OneOf, Steps, Task, param

if TYPE_CHECKING:
    from engine.bench import Bench

# What is the same for every task that attacks a model (`evaluate` too).
SAMPLES = param(500, "Samples", "How many test images are attacked; 0 takes all.", ge=0)
SHOWN = param(24, "Shown samples", "How many are shown and can be replayed.", ge=0, le=256)
TOGETHER = param(
    500,
    "Batch size",
    "Samples attacked together; halved when memory runs out.",
    ge=1,
    advanced=True,
)


class Attack(Task):
    """Search for adversarial examples against a model, on the first `samples` of a seeded
    permutation of the test split. Robust accuracy = still correct after the attack / all samples.
    """

    title: ClassVar[str] = "Attack"
    summary_help: ClassVar[Mapping[str, str]] = {
        "clean_accuracy": "share of all samples that the model got right before",
        "robust_accuracy": "share that it still gets right after the attack; what was not attacked "
        "because it was wrong before counts as wrong",
        "robust_accuracy_interval": "where that lies with 95 % confidence",
        "interval": "how intervals were computed",
        "success_rate": "share of the samples that were right before which the attack broke",
        "success_rate_interval": "where that lies with 95 % confidence (transfer alone)",
        "samples": "how many there were",
        "correct": "how many of them were right before, and so attacked",
        "broken": "how many of those were broken, each confirmed by a pass of its own",
        "mean_norm": "of the perturbations that broke a sample, in the attack's norm",
        "max_norm": "the largest perturbation",
        "median_norm": "of a search for the smallest perturbation: half of the attacked samples "
        "break within it (empty if fewer than half broke)",
        "norm_quantiles": "the same for other shares of the samples",
        "median_queries": "images that the model was asked about for a sample",
        "max_queries": "the most for one sample",
        "seconds": "that the attack took",
        "images_per_second": "samples divided by that",
        "forward_evaluations": "images that went through the model",
        "gradient_evaluations": "images of which a gradient was taken",
        "zero_gradients": "gradients that were exactly zero",
        "nan_count": "answers of the model that held a NaN or Inf",
        "surrogate_success_rate": "share of the samples that broke the surrogate (transfer)",
        "surrogate_success_rate_interval": "where that lies with 95 % confidence",
        "transfer_rate": "of those, the share that broke the model too",
        "transfer_rate_interval": "where that lies with 95 % confidence",
        "train_success_rate": "share of the training images that a fitted perturbation breaks",
        "train_samples": "how many images it was fitted to",
        "fit_steps": "steps of that",
        "partial": "the attack was stopped: robust accuracy is an upper bound",
        "finished": "samples whose attack had come to its end then",
        "data_changed": "the model may have been trained on images that it is tested on now",
    }

    kind: Literal["attack"] = "attack"
    model: str = param(
        ..., "Model", "A run, by name or id, or an exported file.", reference=True, min_length=1
    )
    surrogate: str | None = param(
        None,
        "Surrogate",
        "Another run or file: examples are made against it, and the model is judged by them "
        "(transfer). Empty attacks the model itself.",
        reference=True,
        min_length=1,
    )
    attack: OneOf[AttackSpec] = param(PGD(), "Attack", "How adversarial examples are searched for.")
    data: OneOf[DataSpec] | None = param(
        None, "Data", "Another data set than the model was trained on.", advanced=True
    )
    samples: int = SAMPLES
    show: int = SHOWN
    batch_size: int = TOGETHER

    def run(self, bench: "Bench") -> Steps:
        from engine.attacks.running import run_attack

        return run_attack(self, bench)


class ExportSet(Task):
    """Write the adversarial examples of an attack or an evaluation for other programs. PNG files
    are read back and judged by the model again: rounded to 8 bits, some may no longer fool it.
    """

    title: ClassVar[str] = "Export examples"
    summary_help: ClassVar[Mapping[str, str]] = {
        "file": "what was written",
        "samples": "how many there are in it",
        "broken": "how many fooled the model as the attack left them",
        "still_fooling": "how many of those still do, rounded to 8 bits (PNG files)",
    }

    kind: Literal["export_set"] = "export_set"
    source: str = param(
        ...,
        "Examples of",
        "The attack or evaluation whose adversarial examples are written, by name or id.",
        reference="examples",
        min_length=1,
    )
    form: Literal["png", "safetensors"] = param(
        "png",
        "Form",
        "A folder of PNG files with an index, or one safetensors file with the exact values.",
    )
    to: str = param(
        "",
        "To",
        "The new folder or file, in a recipe from the recipe's folder; empty puts it into the "
        "run's own. Nothing that exists is overwritten.",
        path="save",
    )

    def check(self, workspace: Path) -> None:
        from engine.attacks.exporting import check_set

        check_set(self, workspace)

    def run(self, bench: "Bench") -> Steps:
        from engine.attacks.exporting import run_export_set

        return run_export_set(self, bench)
