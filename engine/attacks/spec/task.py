"""The tasks: to run an attack against a model, and to write what it found for other programs."""

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
