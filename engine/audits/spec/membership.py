"""Membership inference: was this image trained on?"""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from engine.audits.spec.base import AuditSpec
from engine.task import Steps, param

if TYPE_CHECKING:
    from engine.audits.spec.task import Audit
    from engine.bench import Bench

Method = Literal["loss", "calibrated", "lira_offline", "lira"]
STRENGTH: tuple[Method, ...] = ("loss", "calibrated", "lira_offline", "lira")
"""Methods, the strongest last."""


class Membership(AuditSpec):
    """Tells training images from others by the model's answers, with models that were trained the
    same way on other draws of the images (shadows)."""

    kind: Literal["membership"] = "membership"
    cite: ClassVar[str] = (
        "Yeom et al. 2018, section 3.2; Watson et al. 2022, section 4; Carlini et al. 2022, "
        "algorithms 1 and 2"
    )
    method: tuple[Method, ...] = param(
        ("loss", "calibrated", "lira_offline", "lira"),
        "Methods",
        "loss: a small loss means member; calibrated: smaller than models that did not see the "
        "image give; lira: the likelihood ratio between models that saw it and that did not; "
        "lira_offline: only with those that did not.",
        min_length=1,
        max_length=4,
    )
    samples: int = param(
        1000,
        "Samples",
        "How many training images, and as many test images, are judged; 0 takes all that there "
        "are of the fewer.",
        ge=0,
    )
    shadows: int = param(
        16,
        "Shadow models",
        "Each trained on half of the judged images; every image is in half of them. (The paper has "
        "256.)",
        cite="Carlini et al. 2022, section 6",
        ge=2,
        le=4096,
    )
    epochs: int = param(
        0,
        "Shadow epochs",
        "Epochs of a shadow model; 0 takes those of the audited run.",
        ge=0,
        le=1_000_000,
        advanced=True,
    )
    variance: Literal["auto", "shared", "own"] = param(
        "auto",
        "Variance",
        "shared: one for all images, which few shadows need; own: one of each image; auto: own "
        "from 128 shadows on.",
        cite="Carlini et al. 2022, section 6.3",
        advanced=True,
    )
    together: Literal["auto", "batched", "one_by_one"] = param(
        "auto",
        "Shadows together",
        "batched: all in one graph, each with its own images; one_by_one: one after the other; "
        "auto: whichever was measured to be quicker for such a model. Both give the same up to "
        "rounding, and other draws where the model has dropout.",
        advanced=True,
    )
    show: int = param(
        24,
        "Shown samples",
        "The training images that stand out most, as many as this.",
        ge=0,
        le=256,
    )

    @model_validator(mode="after")
    def _shadows_come_in_pairs(self) -> Self:
        if self.shadows % 2:
            raise ValueError(
                f"shadows: {self.shadows} cannot be halved, and each image is in half of them; "
                f"take {self.shadows - 1} or {self.shadows + 1}"
            )
        if len(set(self.method)) < len(self.method):
            raise ValueError("method: each method is run once; name it once")
        if self.variance == "own" and self.shadows < 6:
            raise ValueError(
                "variance: an image's own needs at least three models with and three without it; "
                "take 6 shadows or more, or the shared one"
            )
        return self

    @property
    def needs_shadows(self) -> bool:
        return any(method != "loss" for method in self.method)

    @property
    def strongest(self) -> Method:
        return max(self.method, key=STRENGTH.index)

    def perform(self, task: "Audit", bench: "Bench") -> Steps:
        from engine.audits.membership import run_membership

        return run_membership(task, self, bench)
