"""Extraction: a copy of a model, learnt from its answers."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.audits.spec.base import AuditSpec
from engine.audits.spec.task import Audit
from engine.data.spec import DataSpec
from engine.models.spec import ModelSpec
from engine.task import OneOf, Steps, param
from engine.training.spec import AdamW, OptimizerSpec

if TYPE_CHECKING:
    from engine.bench import Bench


class Extraction(AuditSpec):
    """Trains a student on the model's answers to images, and looks how far both agree on images
    that it did not ask about. The student becomes a model of its own, as for transfer attacks."""

    kind: Literal["extraction"] = "extraction"
    cite: ClassVar[str] = (
        "Tramèr et al. 2016, section 4; Orekondy, Schiele and Fritz 2019, section 4"
    )
    answers: Literal["probabilities", "labels"] = param(
        "probabilities", "Answers", "What the model tells: all probabilities, or the top class."
    )
    source: Literal["test", "noise", "other"] = param(
        "test",
        "Images",
        "What it is asked about: half of the test images, noise (each pixel by itself), or another "
        "data set's training images.",
    )
    other: OneOf[DataSpec] | None = param(
        None, "Other data", "The data set that the images are from, with `other`."
    )
    queries: int = param(
        1000, "Queries", "How many answers are paid for, at most.", ge=1, le=10_000_000
    )
    points: int = param(
        5,
        "Points",
        "Students that are trained, each on half of the answers of the next.",
        ge=1,
        le=20,
    )
    student: OneOf[ModelSpec] | None = param(
        None, "Student", "Its architecture; the model's own unless given."
    )
    optimizer: OneOf[OptimizerSpec] = param(
        AdamW(lr=2e-3), "Optimiser", "Turns gradients into steps."
    )
    steps: int = param(600, "Steps", "Steps in which a student learns.", ge=1, le=1_000_000)
    batch_size: int = param(64, "Batch size", "Images of one step.", ge=2, le=65_536)

    @model_validator(mode="after")
    def _another_set_is_named(self) -> Self:
        if (self.source == "other") != (self.other is not None):
            raise ValueError(
                'other: source = "other" takes its images from the data set that `other` names, '
                'as in other = {kind = "fashion_mnist"}; give both or neither'
            )
        return self

    def perform(self, task: Audit, bench: "Bench") -> Steps:
        from engine.audits.extraction import run_extraction

        return run_extraction(task, self, bench)
