"""Which pixels a decision rests on, for a clean image and its adversarial one.

Each image is explained for the class that the model says of it, by captum:

- saliency, Simonyan et al. 2014 (arXiv 1312.6034), section 3: the size of the gradient of the
  class's logit; over channels, the largest.
- integrated gradients, Sundararajan et al. 2017 (arXiv 1703.01365): from a black image to this one;
  what all pixels get adds up to the difference of the logit (completeness).
- Grad-CAM, Selvaraju et al. 2017 (arXiv 1610.02391): the last convolution's feature maps, weighted
  by how much the logit depends on each.

The model is asked beside everything else (see `Oracle.aside`): no trace is left on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.errors import BadInput

METHODS = ("saliency", "integrated_gradients", "grad_cam")

NO_CONVOLUTION = (
    "Grad-CAM looks at what the last convolution sees, and this model has no convolution that "
    "keeps a picture."
)
NO_GRADIENT = (
    "The gradient of this model cannot be taken: some step of it is not differentiable ({cause})."
)
NOT_FINITE = "the model's outputs for this sample are not finite numbers: they cannot be explained"

FEWEST, MOST = 32, 256
"""Steps of the path of integrated gradients: doubled until it is complete."""

COMPLETE = 0.01
"""Share of the logit's difference by which the sum may miss it."""

PIECE = 8
"""Steps that are taken at a time."""

LIMIT = 0.5
"""Seconds for one image's integrated gradients beyond which the steps are not doubled."""

AT_ONCE = 2**19
"""Values (pixels times channels) of the images that go through the model together."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """maps: float32 (2, H, W), of the clean and the adversarial image; in integrated gradients
    what speaks against the class is negative. classes: which class each is about. missing: why
    there are no maps (they are zero then), else empty. gaps: by how much the sum of integrated
    gradients misses the difference of the logit, as a share of that, and their steps."""

    method: str
    classes: tuple[int, int]
    maps: Tensor
    missing: str = ""
    gaps: tuple[float, float] | None = None
    steps: int = 0

    @property
    def shares(self) -> Tensor:
        """What part of each decision rests on each pixel, (2, H, W), signed as the maps are: the
        sizes add up to 1, or to 0 where no pixel matters at all."""
        total = self.maps.abs().sum((1, 2), keepdim=True)
        shares: Tensor = self.maps / total.where(total > 0, 1.0)
        return shares

    @property
    def moved(self) -> Tensor:
        """Where the decision moved to (positive) and what it left (negative), (H, W): the
        difference of the shares' sizes."""
        clean, adversarial = self.shares.abs()
        moved: Tensor = adversarial - clean
        return moved

    @property
    def share_moved(self) -> float | None:
        """What part of the decision rests on other pixels now: 0 for equal maps, 1 for maps without
        a common pixel (the total variation distance). None if one of them is empty."""
        if bool((self.maps.abs().sum((1, 2)) == 0).any()):
            return None
        return self.moved.abs().sum().item() / 2

    def places(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the picture's nine parts, (row, column) of the one that lost most of the decision, and
        of the one that gained most."""
        parts = torch.stack(
            [
                part.sum()
                for band in self.moved.tensor_split(3, 0)
                for part in band.tensor_split(3, 1)
            ]
        )
        lost, gained = int(parts.argmin()), int(parts.argmax())
        return (lost // 3, lost % 3), (gained // 3, gained % 3)


def explain(model: nn.Module, images: Tensor, method: str, *, seed: int = 0) -> Explanation:
    """Explain what `model` says of `images`, float32 (2, C, H, W): clean and adversarial.

    Raises BadInput if there is no such method, or what the model says are not finite numbers."""
    steps = explaining(model, images, method, seed=seed)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Explanation = end.value
            return found


def explaining(
    model: nn.Module, images: Tensor, method: str, *, seed: int = 0
) -> Generator[None, None, Explanation]:
    """As `explain`, a little at a time: nothing of the thread's is held across a yield."""
    if method not in METHODS:
        raise BadInput(f"there is no method {method!r}; expected one of: {', '.join(METHODS)}")
    oracle = Oracle(model, seed=seed, device=images.device, bf16=False)
    logits = oracle.look(images)
    said = predicted(logits)
    if bool((said < 0).any()):
        raise BadInput(NOT_FINITE)
    classes = (int(said[0]), int(said[1]))
    blank = images.new_zeros((2, *images.shape[2:]))

    def forward(x: Tensor) -> Tensor:
        out: Tensor = model(x)
        return out.float()

    maps, paths = [], []
    try:
        if method == "grad_cam":
            with oracle.aside(grad=False, bf16=False):
                layer = last_convolution(model, images[:1])
            if layer is None:
                return Explanation(method, classes, blank, NO_CONVOLUTION)
        if method == "integrated_gradients":
            rises = logits - oracle.look(torch.zeros_like(images[:1]))
        for at, target in enumerate(classes):
            yield
            x = images[at : at + 1].detach()
            if method == "integrated_gradients":
                rise = rises[at, target].item()
                path = yield from _integrated(forward, oracle, x, target, rise)
                maps.append(path.found)
                paths.append(path)
                continue
            with oracle.aside(grad=True, bf16=False):
                start = x.clone().requires_grad_()
                if method == "saliency":
                    maps.append(_saliency(forward, start, target))
                else:
                    assert layer is not None
                    maps.append(_grad_cam(forward, layer, start, target))
    except RuntimeError as error:
        if "does not require grad" not in str(error) and "not have been used" not in str(error):
            raise
        missing = NO_GRADIENT.format(cause=str(error).splitlines()[0].rstrip("."))
        return Explanation(method, classes, blank, missing)
    both = torch.stack(maps).detach()
    if not paths:
        return Explanation(method, classes, both)
    gaps = (paths[0].gap, paths[1].gap)
    return Explanation(method, classes, both, gaps=gaps, steps=max(path.steps for path in paths))


def _saliency(forward: Callable[[Tensor], Tensor], x: Tensor, target: int) -> Tensor:
    from captum.attr import Saliency

    found: Tensor = Saliency(forward).attribute(x, target=target, abs=True)
    return found[0].amax(0)


@dataclass(frozen=True, slots=True)
class _Path:
    """The map, (H, W), by what share of the logit's difference its sum misses that, and the number
    of steps."""

    found: Tensor
    gap: float
    steps: int


def _integrated(
    forward: Callable[[Tensor], Tensor], oracle: Oracle, x: Tensor, target: int, rise: float
) -> Generator[None, None, _Path]:
    """The whole path as the sum of short pieces, since each takes time."""
    from captum.attr import IntegratedGradients

    steps, begun = FEWEST, time.perf_counter()
    while True:
        pieces = steps // PIECE
        found = torch.zeros_like(x)
        for piece in range(pieces):
            with oracle.aside(grad=True, bf16=False):
                found += (
                    IntegratedGradients(forward)
                    .attribute(
                        x * ((piece + 1) / pieces),
                        baselines=x * (piece / pieces),
                        target=target,
                        n_steps=PIECE,
                        internal_batch_size=max(1, AT_ONCE // x.numel()),
                    )
                    .detach()
                )
            yield
        gap = abs(found.sum().item() - rise) / max(abs(rise), 1e-12)
        # What has been taken will be taken twice more.
        late = 3 * (time.perf_counter() - begun) > LIMIT
        if gap <= COMPLETE or steps >= MOST or late:
            return _Path(found[0].sum(0), gap, steps)
        steps *= 2


def _grad_cam(
    forward: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, target: int
) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    found = LayerGradCam(forward, layer).attribute(x, target=target, relu_attributions=True)
    large: Tensor = LayerAttribution.interpolate(found, tuple(x.shape[2:]), "bilinear")
    return large[0, 0]


def last_convolution(model: nn.Module, images: Tensor) -> nn.Module | None:
    """The convolution that is computed last of those that see beyond a pixel or patch (a kernel
    wider than its stride: a shortcut or a transformer's patches are none), and whose output still
    is a picture. Runs the model once on `images`."""
    seen: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            seen.append(module)

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and any(k > s for k, s in zip(module.kernel_size, module.stride, strict=True))
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1] if seen else None
