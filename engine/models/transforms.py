"""Parts of a model that hide its gradient: input transforms, and activations that are rounded.

None is a defence by itself. What they do to an image or an activation has no gradient that an
attack could climb (rounding is flat almost everywhere, JPEG is a program), so that attacks by
gradients stand still and a model looks robust. Where an attack asks for it the gradient passes
straight through, as if the part were the identity: backward pass differentiable approximation
(BPDA; Athalye, Carlini and Wagner 2018, section 4.1), which is what an honest evaluation tries.

Sources: bit depth and median are the squeezers of Xu, Evans and Qi 2018 (Feature Squeezing,
section III), JPEG is of Dziugaite, Ghahramani and Roy 2016 and Guo et al. 2018; activations are
rounded as in DoReFa-Net (Zhou et al. 2016, section 2.3).
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.models import spec as specs
from engine.models.spec import TransformSpec

Shape = tuple[int, int, int]

HIGHEST = 65_500
"""Rows that a JPEG may have."""

WINDOWS = 2**24
"""Values that a median looks at together: what is around each pixel, of as many images."""


class Masking(nn.Module):
    """A part of a model that hides its gradient: it is exactly zero.

    In train mode, and while `straight_through` is set, it passes as if the part were the identity
    instead. What comes out is the same either way. A person's own module may derive from it: it is
    then known for what it is to attacks and evaluations.
    """

    straight_through = False
    """Set by whoever asks for gradients, for as long as that takes."""

    @abstractmethod
    def change(self, x: Tensor) -> Tensor:
        """What is done to `x`, in its shape. It is called without gradients."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What it is, in a few words for notes and flags, as in "JPEG of quality 75"."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:  # only its shape is asked for
            return torch.empty_like(x)
        passes = self.training or self.straight_through
        out: Tensor = _Changed.apply(x, self.change, passes)
        return out

    def extra_repr(self) -> str:
        return self.words


class _Changed(torch.autograd.Function):
    """A change of a tensor, through which the gradient passes as it is, or is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor], passes: bool) -> Tensor:
        ctx.passes = passes
        return change(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        return (slopes[0] if ctx.passes else torch.zeros_like(slopes[0])), None, None


# --- input transforms -----------------------------------------------------------------------------


class BitDepth(Masking):
    """round(x * (2 ** bits - 1)) / (2 ** bits - 1), half to even."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def change(self, x: Tensor) -> Tensor:
        return _rounded(x, self.bits)

    @property
    def words(self) -> str:
        return f"bit depth of {self.bits}"


class JPEG(Masking):
    """What libjpeg leaves of images of one or three channels, 4:2:0, by Pillow and on the CPU."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self.quality = quality

    def change(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.clone()
        pixels = (x.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        opened = self._grey(pixels) if x.shape[1] == 1 else self._colour(pixels)
        return opened.to(x.device).to(x.dtype) / 255

    def _colour(self, pixels: Tensor) -> Tensor:
        pictures = [self._opened(picture) for picture in pixels.permute(0, 2, 3, 1)]
        return torch.stack(pictures).permute(0, 3, 1, 2)

    def _grey(self, pixels: Tensor) -> Tensor:
        """Many images as one picture, which takes an eighth of the time: without colour each block
        of 8 x 8 pixels is compressed alone. Blocks are filled up with the last pixel, as libjpeg
        does."""
        height, width = pixels.shape[2:]
        rows, columns = (
            torch.arange(side + -side % 8).clamp_max(side - 1) for side in (height, width)
        )
        whole = pixels[:, 0, rows][..., columns]
        most = max(1, HIGHEST // len(rows))
        strips = [self._opened(part.flatten(0, 1)) for part in whole.split(most)]
        return torch.cat(strips).view(whole.shape)[:, None, :height, :width]

    def _opened(self, picture: Tensor) -> Tensor:
        """A picture, uint8 (H, W) or (H, W, 3), as it comes out."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(picture.numpy()).save(
            file, "jpeg", quality=self.quality, subsampling="4:2:0"
        )
        return torch.from_numpy(np.array(Image.open(file)))

    @property
    def words(self) -> str:
        return f"JPEG of quality {self.quality}"


class Median(Masking):
    """The median of `kernel` x `kernel` pixels around each one, each channel alone; at the border
    the image is mirrored, its last pixel included (as SciPy's median_filter does by default)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def change(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = (_mirrored(side, self.kernel // 2, x) for side in (height, width))
        each = max(1, WINDOWS // (x[0].numel() * self.kernel**2)) if len(x) else 1
        parts = [self._median(part[:, :, rows][..., columns]) for part in x.split(each)]
        return torch.cat(parts)

    def _median(self, padded: Tensor) -> Tensor:
        windows = padded.unfold(2, self.kernel, 1).unfold(3, self.kernel, 1)
        if self.kernel == 3:
            return _middle_of_nine([windows[..., i, j] for i in range(3) for j in range(3)])
        return windows.flatten(4).median(4).values

    @property
    def words(self) -> str:
        return f"median of {self.kernel} x {self.kernel} pixels"


EXCHANGES = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)
"""Of nine values, each time the smaller one first: the middle one then is in the middle (Paeth
1990). On whole images at once that takes a tenth of what a median for each pixel does."""


def _middle_of_nine(values: list[Tensor]) -> Tensor:
    for a, b in EXCHANGES:
        values[a], values[b] = values[a].minimum(values[b]), values[a].maximum(values[b])
    return values[4]


def transform(spec: TransformSpec, shape: Shape) -> Masking:
    """The module that does what `spec` says to images `shape` = (C, H, W). Raises BadInput where it
    cannot be done to these."""
    match spec:
        case specs.BitDepth():
            return BitDepth(spec.bits)
        case specs.JPEG():
            if shape[0] not in (1, 3):
                raise BadInput(
                    f"JPEG holds grey or colour images, 1 or 3 channels; these have {shape[0]}. "
                    "Choose another transform, or set the data's channels."
                )
            return JPEG(spec.quality)
        case specs.Median():
            if spec.kernel > min(shape[1:]):
                raise BadInput(
                    f"a median of {spec.kernel} x {spec.kernel} pixels is larger than images of "
                    f"{shape[1]} x {shape[2]}; expected a kernel of at most {min(shape[1:])}"
                )
            return Median(spec.kernel)
        case _:
            raise BadInput(f"there is no way to build a transform of kind {spec.kind!r}")


def _rounded(x: Tensor, bits: int) -> Tensor:
    most = (1 << bits) - 1
    return (x * most).round() / most


def _mirrored(side: int, beyond: int, x: Tensor) -> Tensor:
    """The places 0 .. side - 1, and `beyond` mirrored ones before and after, int64."""
    places = torch.arange(-beyond, side + beyond, device=x.device) % (2 * side)
    return torch.minimum(places, 2 * side - 1 - places)


# --- inside of a model ----------------------------------------------------------------------------


class Quantise(Masking):
    """Activations limited to [0, 1] and rounded to 2 ** bits levels. The gradient that passes is
    that of the limits: none outside of them."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.clamp(0, 1))
        return out

    def change(self, x: Tensor) -> Tensor:
        return _rounded(x, self.bits)

    @property
    def words(self) -> str:
        return f"activations rounded to {self.bits} bits"


# --- what is known of a model ---------------------------------------------------------------------


def masking(model: nn.Module) -> list[Masking]:
    """The parts of a model that hide its gradient."""
    return [module for module in model.modules() if isinstance(module, Masking)]


def hidden_by(model: nn.Module) -> str:
    """What hides the gradients of a model, in words; empty if nothing is known to."""
    return ", ".join(dict.fromkeys(part.words for part in masking(model)))


def warning(model: nn.Module) -> str:
    """What to say of a model that hides its gradients; empty if nothing is known to."""
    words = hidden_by(model)
    if not words:
        return ""
    return (
        f"the model hides its gradients: {words}. That is not a defence by itself: attacks by "
        "gradients stand still, others do not. Judge it by an evaluation, which also attacks "
        "straight through (BPDA) and without gradients."
    )
