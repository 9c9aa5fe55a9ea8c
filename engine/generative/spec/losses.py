"""What generator and critic want of each other."""

from typing import ClassVar, Literal

from engine.task import Spec, param


class LossSpec(Spec):
    """A pair of losses of the critic's outputs."""

    kind: str
    probability: ClassVar[bool] = False
    """Whether the critic's output, through a sigmoid, is a probability to be real."""


class Minimax(LossSpec):
    """The generator maximises what the critic minimises: the game as it is written down. Its
    gradient vanishes where the critic is sure (Goodfellow et al. 2014, section 3)."""

    kind: Literal["minimax"] = "minimax"
    probability: ClassVar[bool] = True


class NonSaturating(LossSpec):
    """The generator maximises the probability that its samples are taken for real, whose gradient
    does not vanish (Goodfellow et al. 2014, section 3)."""

    kind: Literal["non_saturating"] = "non_saturating"
    probability: ClassVar[bool] = True


class LeastSquares(LossSpec):
    """Squared distances to 1 for real and 0 for generated (Mao et al. 2017, equation 9)."""

    kind: Literal["least_squares"] = "least_squares"


class Hinge(LossSpec):
    """Outputs beyond 1 and -1 count no more (Lim and Ye 2017; Miyato et al. 2018, equation 16)."""

    kind: Literal["hinge"] = "hinge"


class Wasserstein(LossSpec):
    """The difference of the mean outputs, of a critic whose weights are clipped (Arjovsky, Chintala
    and Bottou 2017, algorithm 1)."""

    kind: Literal["wasserstein"] = "wasserstein"
    clip: float = param(
        0.01, "Weight clipping", "Each weight of the critic is kept this close to 0.", gt=0.0, le=10
    )


class WassersteinGP(LossSpec):
    """The difference of the mean outputs, of a critic whose gradient between real and generated
    samples is kept at length 1 (Gulrajani et al. 2017, algorithm 1)."""

    kind: Literal["wasserstein_gp"] = "wasserstein_gp"
    gradient_penalty: float = param(
        10.0, "Gradient penalty", "Weight of that.", ge=0.0, le=10_000.0, live=True
    )


class Relativistic(LossSpec):
    """The critic compares a real with a generated sample, pair by pair; with R1 and R2 it is R3GAN
    (Jolicoeur-Martineau 2019; Huang et al. 2024, section 2)."""

    kind: Literal["relativistic"] = "relativistic"
    probability: ClassVar[bool] = False
