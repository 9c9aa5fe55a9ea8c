"""A model, tried on a few images before its gradients are clipped: whether samples are kept apart,
whether it keeps what it sees, and whether a way of taking per-sample gradients is right for it.

Samples are mixed where one has a part in another's logits or gradients, or where their number has.
That is looked for in four ways, as the model is used:

- the slopes of one sample's loss at the others' images, and whether the slopes at its own are those
  that it has in the sum of all losses (mixing on the way back);
- on 2, 3 and 8 images, noise among them, and on as many as are clipped together, some are replaced
  by black, by white and by noise: the logits of the rest must stay as they are. Up to 8 images each
  is told apart from each other; above, half of them are replaced at a time, so that means,
  deviations, medians, orders and neighbours move, however many images there are;
- the same images give the same logits again, before and after others were seen;
- the same images give the same logits among more of them, and alone.

Parameters that are nought, or next to it, are meanwhile replaced by random ones.

That is against mistakes. It cannot find what shows on certain images or numbers of images only that
were not tried (more images than before are tried again, fewer are not), only after a while, what
moves logits by less than `MOVED`, a dependence on the number of images in training mode where the
model draws other than by dropout layers, or mixing on the way back that more than `IMAGES` images
need. Nobody who hides mixing from it on purpose is stopped.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.errors import BadInput, is_memory
from engine.privacy.layers import numbers_of
from engine.privacy.persample import one_by_one

if TYPE_CHECKING:
    from engine.privacy.clipping import Clipped

IMAGES = 3
"""On which a model is tried: few, and unlikely to be another dimension's size by chance."""

SIZES = (2, 3, 8)
"""Numbers of images among which one is looked for that moves another's logits."""

AGREEMENT = 1e-2
"""Of two computations of the same, as a share: far above rounding, far below a wrong rule."""

MOVED = 1e-4
"""Share of what a class's logits differ by from which on one has moved. As many images are computed
alike, so that hardly a bit differs."""

ROUNDED = 8
"""Times the precision that the model computes in: what is rounding whatever else is asked."""

STIRRED = 0.1
"""Deviation of parameters that are tried instead of ones that are nought."""

LEAST = 1e-3
"""Share of the largest gradient below which a parameter's is small."""


class Trial:
    """One model's. `classes` is how many logits it gives."""

    def __init__(
        self, model: nn.Module, learning: Mapping[str, nn.Parameter], images: Tensor
    ) -> None:
        """images: (N, ...), as many as the model is given at a time, N of at least 1.

        Raises BadInput where samples have a part in each other's logits or gradients, where a
        buffer or parameter is written to, and where answers differ from one time to the next."""
        self.model = model
        self.learning = learning
        images = _finite(images)
        self.images = _first(images, IMAGES)
        self.labels = torch.zeros(IMAGES, dtype=torch.int64, device=images.device)
        with _unwritten(model):
            with _aside(model, images.device), torch.enable_grad():
                self.classes = self._apart()
                for size in SIZES:
                    few = _first(images, size)
                    _refuse_moved(model, few)
                    _refuse_moved(model, _noise(few))  # others may have nothing to tell
            with _aside(model, images.device, training=False):
                self._alone()
        larger(model, images)

    def _apart(self) -> int:
        """The model as it is used: a sample's logits have slopes at its own image alone. Returns
        how many logits there are."""
        given = self.images.clone()
        if given.is_floating_point():
            given.requires_grad_()
        logits = self.model(given.clone())
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != IMAGES:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInput(
                f"the model returned {found} for {IMAGES} images; expected logits, a tensor "
                f"({IMAGES}, classes)"
            )
        if given.requires_grad and logits.requires_grad:
            losses = _loss(logits, self.labels)
            whole, *slopes = (
                torch.autograd.grad(loss, given, retain_graph=True, allow_unused=True)[0]
                for loss in (losses.sum(), *losses)
            )
            for k, slope in enumerate(slopes):
                if slope is not None and (
                    _elsewhere(slope, k) or not _alike(whole[k], slope[k], rounded=_rounded(logits))
                ):
                    _refuse_mixing()
        return logits.shape[1]

    def _alone(self) -> None:
        """In evaluation mode, samples get the same logits in company and alone."""
        before = _random(self.images.device)
        with torch.no_grad():
            together = self.model(self.images.clone())
            apart = torch.cat([self.model(one.clone()) for one in self.images.split(1)])
        self.draws = not all(map(torch.equal, before, _random(self.images.device)))
        if not self.draws and _moved(together, apart, AGREEMENT):
            _refuse_mixing()

    def signature(self, record: Callable[..., Any]) -> list[tuple[object, ...]] | None:
        """What a recorded forward pass uses, in its order; None where a layer's samples are not in
        its first dimension, or recording fails."""
        with _aside(self.model, self.images.device):
            try:
                recording, _, losses = record(self.images, self.labels, _loss)
                if not losses.requires_grad:
                    return []
                edges = [use.edge for use in recording.uses]
                for k in range(2):
                    slopes = torch.autograd.grad(
                        losses[k], edges, retain_graph=True, allow_unused=True
                    )
                    if any(slope is not None and _elsewhere(slope, k) for slope in slopes):
                        return None
            except Exception as error:
                if is_memory(error):
                    raise
                return None
            return [use.signature() for use in recording.uses]

    def agrees(self, clipped: Callable[..., Clipped]) -> bool:
        """Whether norms and weighted sum come out as from the samples one by one, in evaluation
        mode, where nothing is drawn; True where something is."""
        parameters = list(self.learning.values())
        held = [p.grad for p in parameters]
        factors = torch.linspace(0.5, 1.5, IMAGES, device=self.images.device)

        def weigh(norms: Tensor) -> Tensor:
            return factors.to(norms.dtype)

        with _aside(self.model, self.images.device, training=False):
            try:
                for p in parameters:
                    p.grad = None
                found = clipped(self.images, self.labels, _loss, weigh)
                if self.draws:
                    return True
                sums = [p.grad for p in parameters]
                _, _, each = one_by_one(self.model, self.learning, self.images, self.labels, _loss)
            except Exception as error:
                if is_memory(error):
                    raise
                return False
            finally:
                for p, gradient in zip(parameters, held, strict=True):
                    p.grad = gradient
            norms = torch.stack([numbers_of(e).square().sum(1) for e in each]).sum(0).sqrt()
            right = [torch.tensordot(factors.to(e.dtype), e, 1) for e in each]
            # A gradient that is nought but for rounding, as of attention's key bias, is no guide.
            least = LEAST * max(float(total.abs().max()) for total in right)
            return _alike(found.norms.square().sum(0).sqrt(), norms) and all(
                _alike(torch.zeros_like(b) if a is None else a, b, least)
                for a, b in zip(sums, right, strict=True)
            )


@contextlib.contextmanager
def stirred(learning: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters that are nought, or next to it beside others, as a last layer or a branch often is
    at first, are not meanwhile: they would hide what is computed before them."""
    numbers = torch.Generator().manual_seed(0)
    sizes = [(p, float(p.detach().abs().max())) for p in learning if p.numel()]
    least = LEAST * max((size for _, size in sizes), default=0.0)
    nought = [(p, p.detach().clone()) for p, size in sizes if size <= least]
    try:
        with torch.no_grad():
            for p, _ in nought:
                p.copy_(STIRRED * torch.randn(p.shape, generator=numbers))
        yield
    finally:
        with torch.no_grad():
            for p, before in nought:
                p.copy_(before)


def larger(model: nn.Module, images: Tensor) -> None:
    """Try a model on so many images. Raises BadInput as `Trial` does."""
    images = _finite(images)
    with _unwritten(model), _aside(model, images.device), torch.no_grad():
        if len(images) not in SIZES:
            _refuse_moved(model, images)
        _refuse_counting(model, images)


@contextlib.contextmanager
def _aside(model: nn.Module, device: torch.device, training: bool | None = None) -> Iterator[None]:
    """Modes (all as given, or as they are) and random states as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    try:
        if training is not None:
            model.train(training)
        # cuDNN differentiates recurrent layers in training mode only.
        with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _random(device: torch.device) -> list[Tensor]:
    """The global random states."""
    now = [torch.get_rng_state()]
    return [*now, torch.cuda.get_rng_state(device)] if device.type == "cuda" else now


@contextlib.contextmanager
def _unwritten(model: nn.Module) -> Iterator[None]:
    """Refuses a model that writes into a buffer or parameter meanwhile, and puts both back."""
    before = {name: tensor.detach().clone() for name, tensor in _held(model)}
    written: list[str] = []
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _held(model):
                if name in before and not torch.equal(tensor, before[name]):
                    tensor.copy_(before[name])
                    written.append(name)
    if written:
        raise BadInput(
            f"the model writes into its {written[0]} while it computes: what it keeps of the "
            "images is covered by no noise. Expected a model that keeps nothing"
        )


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield f"parameter {name!r}", parameter
    for name, buffer in model.named_buffers():
        yield f"buffer {name!r}", buffer


# --- whether images move each other ---------------------------------------------------------------


def _refuse_moved(model: nn.Module, images: Tensor) -> None:
    """On as many images, with the same random draws: whatever some of them are replaced by leaves
    the logits of the others as they are. (What is mixed without a slope, as by a detached mean,
    shows here.)"""
    given = _drawn_alike(model, images)
    if _moved(_drawn_alike(model, images), given):
        _refuse_memory()
    for kept, others in zip(_kept(len(images)), _other(images), strict=False):
        kept = kept.to(images.device)
        rows = kept.view(-1, *(1,) * (images.ndim - 1))
        if _moved(_drawn_alike(model, torch.where(rows, images, others))[kept], given[kept]):
            _refuse_mixing()
    if _moved(_drawn_alike(model, images), given):
        _refuse_memory()


def _refuse_counting(model: nn.Module, images: Tensor) -> None:
    """As it is used, but without dropout: how many images there are changes no logits."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.training = False
    before = _random(images.device)
    answers = [model(_first(images, size)) for size in (*SIZES, len(images))]
    if not all(map(torch.equal, before, _random(images.device))):
        return  # draws are others for more images
    for one, more in itertools.pairwise(answers):
        many = min(len(one), len(more))
        if _moved(more[:many], one[:many], AGREEMENT):
            _refuse_mixing()


def _kept(count: int) -> Iterator[Tensor]:
    """Which of `count` images stay as they are, one time after another, each time the others of the
    time before. Any two of a few are told apart, by a digit of their places in binary; of more,
    first and second half are, and a half that was drawn."""
    places = torch.arange(count)
    halves = [(places >> digit) % 2 == 0 for digit in range((count - 1).bit_length())]
    if count > max(SIZES):
        drawn = torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.5
        halves = [places < count // 2, drawn]
    for half in halves:
        yield half
        yield ~half


def _other(images: Tensor) -> Iterator[Tensor]:
    """As many images unlike them, again and again: black, white, noise."""
    least, most = _range(images)
    noise = _noise(images, seed=1)
    yield from itertools.cycle((least.expand_as(images), most.expand_as(images), noise))


def _noise(images: Tensor, seed: int = 0) -> Tensor:
    """As many images without any order; of whole numbers, those that they have."""
    numbers = torch.Generator().manual_seed(seed)
    if images.is_floating_point():
        least, most = _range(images)
        return least + (most - least) * torch.rand(images.shape, generator=numbers).to(images)
    order = torch.randperm(images.numel(), generator=numbers).to(images.device)
    return images.flatten()[order].view_as(images)


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    least, most = images.min(), images.max()
    return (least.clamp(max=0), most.clamp(min=1)) if images.is_floating_point() else (least, most)


def _drawn_alike(model: nn.Module, images: Tensor) -> Tensor:
    """The logits, with the same random draws every time."""
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        logits: Tensor = model(images.clone())
        return logits.detach()


def _moved(now: Tensor, before: Tensor, share: float = MOVED) -> bool:
    """Whether logits, (N, classes), are others than before. Each class is held against what its own
    logits differ by, or against the class with the smallest: one that is far off, as a class that
    is masked, hides nothing in the others."""
    told = before.isfinite()
    before = before.where(told, 0.0)
    off = (now - before).where(told, 0.0).abs()
    rounded = _rounded(before)
    size = before.abs().amax(0)
    some = size[size > 0]
    least = some.min() if len(some) else size.new_zeros(())
    spread = (before.amax(0) - before.amin(0)).maximum(least)
    return not bool((off <= max(share, rounded) * spread + rounded * size).all())


def _rounded(logits: Tensor) -> float:
    """What may be rounding, as a share."""
    kind = logits.device.type
    precision = torch.finfo(logits.dtype).eps
    if torch.is_autocast_enabled(kind):
        precision = max(precision, torch.finfo(torch.get_autocast_dtype(kind)).eps)
    return ROUNDED * precision


def _finite(images: Tensor) -> Tensor:
    images = images.detach()
    return images.nan_to_num(0.0, 1.0, 0.0) if images.is_floating_point() else images


def _first(images: Tensor, count: int) -> Tensor:
    """So many of them, from the start again where there are fewer."""
    return images[torch.arange(count, device=images.device) % len(images)]


# --- what is compared -----------------------------------------------------------------------------


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss with slopes at every logit."""
    along = torch.linspace(0.5, 1.5, logits.shape[1], dtype=logits.dtype, device=logits.device)
    return logits @ along + logits.atan().sum(1)


def _elsewhere(slope: Tensor, k: int) -> bool:
    """Whether a slope is not zero at another sample than `k`."""
    others = torch.arange(len(slope), device=slope.device) != k
    return bool((slope[others].nan_to_num() != 0).any())


def _alike(a: Tensor, b: Tensor, least: float = 0.0, rounded: float = 0.0) -> bool:
    """Whether two tensors agree, of which the second, or `least`, says what is large."""
    if not b.numel() or not (a.isfinite().all() and b.isfinite().all()):
        return True  # says nothing
    share = max(AGREEMENT, rounded)
    return bool((a - b).abs().max() <= share * b.abs().max().clamp(min=least))


def _refuse_mixing() -> None:
    raise BadInput(
        "the model's samples have a part in each other's logits or gradients, as in normalisation "
        "over the batch, or their number has: clipping would bound the influence of none of them. "
        "Expected a model that treats each image by itself"
    )


def _refuse_memory() -> None:
    raise BadInput(
        "the model answers the same images differently the next time. Either it keeps something of "
        "the images before, which is covered by no noise, or it draws from a generator of its own, "
        "so that nobody can tell whether it keeps samples apart. Expected a model whose answers "
        "follow from its parameters, the image and torch's random numbers"
    )
