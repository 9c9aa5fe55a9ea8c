"""Changes that no gradient and no score guides: noise, a constant shift, rotations and
translations."""

from typing import ClassVar, Literal

from engine.attacks.spec.base import FixedBudget, Rounds, norm_field
from engine.task import param


class Noise(FixedBudget):
    """Random noise, the best of several draws. It knows nothing of the model."""

    kind: Literal["noise"] = "noise"
    norm: Literal["free", "linf", "l2"] = param(
        "free",
        "Norm",
        "free leaves the noise as it is drawn, linf cuts it off at epsilon, l2 stretches it until "
        "it is that long.",
    )
    eps: float = param(
        0.3,
        "Epsilon",
        "How strong the noise is: its standard deviation if Gaussian, its half width if uniform, "
        "its length in l2; in the units of the image, which lies in [0, 1].",
        ge=0.0,
        le=1000.0,
    )
    distribution: Literal["gaussian", "uniform"] = param(
        "gaussian", "Distribution", "What each value of the noise is drawn from."
    )
    repeats: int = param(10, "Repeats", "Draws for each sample.", ge=1, le=100_000)

    def rounds(self) -> Rounds:
        from engine.attacks.noise import noise

        return (noise(self),)


class Shift(FixedBudget):
    """The same value added to every pixel, or taken from it. A negative control: whoever counts
    this as an attack measures nothing."""

    kind: Literal["shift"] = "shift"
    norm: Literal["linf"] = norm_field("linf")

    def rounds(self) -> Rounds:
        from engine.attacks.noise import shift

        return (shift(self),)


class Spatial(FixedBudget):
    """All rotations and translations of a grid."""

    kind: Literal["spatial"] = "spatial"
    cite: ClassVar[str] = "Engstrom et al. 2019, section 3"
    norm: Literal["free"] = param(
        "free", "Norm", "Nothing bounds the change; its Euclidean length is reported."
    )
    eps: float = param(
        1.0,
        "Strength",
        "How much of the largest rotation and translation the grid reaches to.",
        ge=0.0,
        le=10.0,
    )
    rotation: float = param(
        30.0, "Largest rotation", "Either way.", unit="degrees", ge=0.0, le=180.0
    )
    translation: float = param(
        3.0, "Largest translation", "In each of the four directions.", unit="pixels", ge=0.0, le=1e4
    )
    rotations: int = param(31, "Rotations", "How many angles are tried.", ge=1, le=10_000)
    translations: int = param(
        5, "Translations", "How many shifts are tried along each side.", ge=1, le=1000
    )

    def rounds(self) -> Rounds:
        from engine.attacks.spatial import spatial

        return (spatial(self),)
