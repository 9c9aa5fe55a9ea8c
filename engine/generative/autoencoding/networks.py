"""The autoencoder as a network, and the critics of its codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.generative.autoencoding.priors import scores_of_parts
from engine.generative.spec.autoencoder import Autoencoder, ConvCoder, MLPCoder
from engine.models.normalise import Normalise

Shape = tuple[int, int, int]

SLOPE = 0.1
"""Of leaky rectifiers below zero."""


@dataclass(frozen=True, slots=True)
class Code:
    """What the encoder says of N images.

    mean: (N, latent), the code, or the middle of its distribution. log_variance: (N, latent) of a
    Gaussian encoder, else None. logits: (N, classes) of a class head, else None.
    """

    mean: Tensor
    log_variance: Tensor | None
    logits: Tensor | None

    def __getitem__(self, rows: slice) -> Code:
        """The code of some of the images."""
        return Code(
            self.mean[rows],
            None if self.log_variance is None else self.log_variance[rows],
            None if self.logits is None else self.logits[rows],
        )

    @property
    def classes(self) -> Tensor | None:
        """Probabilities of a class head, (N, classes), else None."""
        return None if self.logits is None else self.logits.softmax(1)


class AutoencoderNet(nn.Module):
    """Images, float32 (N, C, H, W) in [0, 1], to codes and back.

    Raises BadInput where the architecture does not fit the images, or classes are told without
    any.
    """

    threshold: Tensor

    def __init__(self, spec: Autoencoder, shape: Shape, classes: int) -> None:
        super().__init__()
        if spec.classes != "none" and classes < 2:
            raise BadInput(f"classes need at least two of them; there is {classes}")
        parts = spec.prior.components
        if spec.classes == "prior" and parts < classes:
            raise BadInput(
                f"the prior has {parts} parts for {classes} classes; give it as many "
                "(gaussians of a mixture, sections of a swiss_roll)"
            )
        self.spec = spec
        self.shape = shape
        self.heads = classes if spec.classes == "head" else 0
        self.classes = classes if spec.classes != "none" else 0
        self.normalise = Normalise([0.0] * shape[0], [1.0] * shape[0])
        self.features, width, self.decoder = _halves(spec, shape, spec.latent + self.heads)
        twice = 2 if spec.encoder == "gaussian" else 1
        self.code = nn.Linear(width, twice * spec.latent)
        self.head = (
            nn.Sequential(nn.Dropout(0.2), nn.Linear(width, classes)) if self.heads else None
        )
        self.register_buffer("threshold", torch.tensor(math.inf))

    def encode(self, images: Tensor) -> Code:
        """The codes of images; without a draw, also of a Gaussian encoder."""
        features = self.features(self.normalise(images))
        code = self.code(features)
        logits = None if self.head is None else self.head(features)
        if self.spec.encoder == "deterministic":
            return Code(code, None, logits)
        mean, log_variance = code.chunk(2, 1)
        return Code(mean, log_variance.clamp(-14.0, 14.0), logits)

    def decode(self, codes: Tensor, classes: Tensor | None = None) -> Tensor:
        """Images in [0, 1] of codes (N, latent) and, of what has a class head, probabilities of
        classes (N, classes), or classes themselves, int64 (N,)."""
        return self.decoded(codes, classes).sigmoid()

    def decoded(self, codes: Tensor, classes: Tensor | None = None) -> Tensor:
        """The same before the sigmoid. Raises BadInput where classes are missing, or not asked
        for."""
        if bool(self.heads) != (classes is not None):
            raise BadInput(
                f"this autoencoder is told which of {self.heads} classes to make: give them"
                if self.heads
                else "this autoencoder is told no classes: leave them out"
            )
        if classes is not None:
            if not classes.is_floating_point():
                classes = nn.functional.one_hot(classes, self.heads).to(codes.dtype)
            codes = torch.cat([codes, classes], 1)
        made: Tensor = self.decoder(codes)
        return made.view(-1, *self.shape)

    def classify(self, images: Tensor) -> Tensor:
        """Logits (N, classes). Raises BadInput of what has learnt from no labels."""
        if not self.classes:
            raise BadInput("this autoencoder has learnt from no labels, and tells no classes")
        code = self.encode(images)
        return self.told(code)

    def told(self, code: Code) -> Tensor:
        """What a code says of the class: the head's logits, or how near it is to each part of the
        prior."""
        if code.logits is not None:
            return code.logits
        return scores_of_parts(self.spec.prior, code.mean)[:, : self.classes]

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction, in [0, 1]."""
        code = self.encode(images)
        return self.decode(code.mean, code.classes)


def _halves(spec: Autoencoder, shape: Shape, given: int) -> tuple[nn.Module, int, nn.Module]:
    """Images to features, how many these are, and `given` numbers to the values of an image."""
    match spec.coder:
        case MLPCoder(width=width, depth=depth):
            size = math.prod(shape)
            up = [nn.Flatten(), *_dense([size, *[width] * depth])]
            down = [*_dense([given, *[width] * depth]), nn.Linear(width, size)]
            return nn.Sequential(*up), width, nn.Sequential(*down)
        case ConvCoder(width=width, strides=strides):
            return _convolutions(shape, width, strides, given)
        case _:
            raise TypeError(f"no network of {type(spec.coder).__name__}")


def _dense(sizes: list[int]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        found += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
    return found


def _convolutions(
    shape: Shape, width: int, strides: int, given: int
) -> tuple[nn.Module, int, nn.Module]:
    channels, height, side = shape
    sides = [(height, side)]
    for _ in range(strides):
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    if min(sides[-2]) < 2:
        most = math.ceil(math.log2(min(height, side)))
        raise BadInput(
            f"{strides} strides halve images of {height} x {side} below one pixel; expected at "
            f"most {most}. Lower strides or enlarge the images."
        )
    widths = [width * 2**i for i in range(strides)]
    layers: list[nn.Module] = []
    for i, out in enumerate(widths):
        kernel = 5 if i == 0 else 3
        layers += [
            nn.Conv2d(
                channels if i == 0 else widths[i - 1], out, kernel, 2, kernel // 2, bias=False
            ),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(SLOPE),
        ]
    last = widths[-1] * math.prod(sides[-1])
    up: list[nn.Module] = [
        nn.Linear(given, last, bias=False),
        nn.BatchNorm1d(last),
        nn.ReLU(),
        nn.Unflatten(1, (widths[-1], *sides[-1])),
    ]
    for i in reversed(range(strides)):
        out = widths[i - 1] if i else channels
        # A kernel of 4 doubles a side; one of 3 doubles it less one, which odd sides come from.
        kernels = tuple(4 if target % 2 == 0 else 3 for target in sides[i])
        up.append(nn.ConvTranspose2d(widths[i], out, kernels, 2, 1, bias=not i))  # type: ignore[arg-type]
        if i:
            up += [nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), last, nn.Sequential(*up, nn.Flatten())


def critic(size: int, width: int) -> nn.Module:
    """Tells draws of a prior, (N, size), from codes: logits (N, 1), high for draws."""
    return nn.Sequential(
        nn.Linear(size, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )
