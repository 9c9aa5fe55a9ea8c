"""What a generative adversarial pair is made of, and what is kept of it."""

from typing import TYPE_CHECKING, ClassVar, Literal

from engine.models.spec import NetworkSpec
from engine.task import OneOf, Spec, param

if TYPE_CHECKING:
    from torch import nn

Condition = Literal["none", "concatenation", "projection"]


class Latent(Spec):
    """What a generator makes its samples of."""

    size: int = param(
        64, "Latent size", "Numbers that are drawn for each sample, at least 1.", ge=1, le=65536
    )
    distribution: Literal["normal", "uniform"] = param(
        "normal",
        "Distribution",
        "Each number is standard normal, or uniform between -1 and 1.",
        advanced=True,
    )
    codes: int = param(
        0,
        "Codes",
        "One of so many codes is drawn beside them, one-hot: a discrete latent reaches modes that "
        "lie apart, which no continuous one can without samples in between. 0 is none.",
        cite="Khayatkhoei, Singh and Elgammal 2018, section 3",
        ge=0,
        le=65536,
    )
    code_scale: float = param(
        8.0, "Code scale", "What the one of a code is multiplied by.", gt=0.0, le=1000.0
    )

    @property
    def width(self) -> int:
        """Numbers that a generator is given for a sample."""
        return self.size + self.codes


class GeneratorSpec(Spec):
    """Makes samples of latents. Members stand in `engine.generative.spec.networks`."""

    kind: str


class CriticSpec(Spec):
    """Tells samples from data: one number each, high for data. (Where its loss makes it a
    probability it is often called a discriminator.)"""

    kind: str


class GanGenerator(NetworkSpec):
    """What a gan run hands over: latents (N, width), and labels where it is conditional, to samples
    (N, C, H, W), images in [0, 1]."""

    cite: ClassVar[str] = "Goodfellow et al. 2014"

    kind: Literal["gan_generator"] = "gan_generator"
    generator: OneOf[GeneratorSpec] = param(..., "Generator", "Makes samples of latents.")
    latent: Latent = param(Latent(), "Latent", "What samples are made of.")
    conditional: bool = param(False, "Conditional", "Whether it is told which class to make.")

    def network(self, shape: tuple[int, int, int], classes: int) -> "nn.Module":
        from engine.generative.networks import make_generator

        told = classes if self.conditional else 0
        return make_generator(self.generator, shape, self.latent.width, told)
