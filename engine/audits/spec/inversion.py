"""Gradient inversion: the images that a gradient was taken of."""

from typing import TYPE_CHECKING, ClassVar, Literal

from engine.audits.spec.base import AuditSpec
from engine.audits.spec.task import Audit
from engine.task import Steps, param

if TYPE_CHECKING:
    from engine.bench import Bench


class Inversion(AuditSpec):
    """Reconstructs training images from the gradient that they gave: of one step of a training, or
    of the update that a client of a federation has sent (`capture` of federate)."""

    kind: Literal["inversion"] = "inversion"
    cite: ClassVar[str] = (
        "Zhu, Liu and Han 2019, algorithm 1; Zhao, Mopuri and Bilen 2020, algorithm 1; Geiping et "
        "al. 2020, section 4"
    )
    method: Literal["dlg", "idlg", "cosine"] = param(
        "cosine",
        "Method",
        "dlg: squared distance of gradients, L-BFGS, labels found along with the images; idlg: the "
        "same with labels read from the gradient; cosine: angle and total variation, signed Adam.",
    )
    batch: int = param(
        1, "Batch", "Images that the gradient was taken of (of a federation: ignored).", ge=1, le=64
    )
    samples: int = param(
        4, "Gradients", "How many gradients are attacked, each of other images.", ge=1, le=1000
    )
    moment: Literal["start", "end"] = param(
        "start",
        "Moment",
        "start: the first step, with the run's own initial weights, when gradients tell most; end: "
        "with the trained weights. (Of a federation it is the captured round.)",
    )
    labels: Literal["recovered", "known"] = param(
        "recovered",
        "Labels",
        "Read from the last layer's gradient, or taken as known. (dlg finds them along.)",
        cite="Zhao, Mopuri and Bilen 2020, section 3; Wainakh et al. 2022, section 3",
    )
    steps: int = param(
        600,
        "Steps",
        "Of the search for one gradient's images. (One of L-BFGS asks up to 20 times.)",
        ge=1,
        le=1_000_000,
    )
    restarts: int = param(
        1, "Restarts", "Random starts; the one with the smallest loss counts.", ge=1, le=100
    )
    lr: float | None = param(
        None,
        "Step size",
        "Of the search; empty takes .1 for cosine and 1 for L-BFGS.",
        gt=0.0,
        le=100.0,
        advanced=True,
    )
    tv: float = param(
        1e-2,
        "Total variation",
        "Weight of the mean difference between neighbouring pixels, for cosine.",
        cite="Geiping et al. 2020, equation 4",
        ge=0.0,
        le=100.0,
    )
    clip: float | None = param(
        None,
        "Clip",
        "Each image's gradient is shortened to this norm before it is seen. Empty does as the run "
        "did; 0 is off. Of a federation: each client's update, by itself; empty is off.",
        ge=0.0,
        le=1e6,
    )
    noise_multiplier: float | None = param(
        None,
        "Noise multiplier",
        "Gaussian noise on the sum of the gradients, in multiples of the clip. Empty does as the "
        "run did; 0 is off. Of a federation: on each client's update, by itself; empty is off.",
        ge=0.0,
        le=1e4,
    )
    aggregate: int = param(
        1,
        "Secure aggregation",
        "Only the sum of so many clients' gradients is seen; all of their images are looked for.",
        cite="Bonawitz et al. 2017",
        ge=1,
        le=64,
    )
    client: int | None = param(
        None,
        "Client",
        "Of a federation: whose captured update; empty takes the first that was.",
        ge=0,
        advanced=True,
    )

    def perform(self, task: Audit, bench: "Bench") -> Steps:
        from engine.audits.inversion import run_inversion

        return run_inversion(task, self, bench)
