"""A model, tried on a few images before its gradients are clipped: whether samples are kept apart,
whether it keeps what it sees, and whether a way of taking per-sample gradients is right for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.errors import BadInput, is_memory
from engine.privacy.persample import one_by_one

if TYPE_CHECKING:
    from engine.privacy.clipping import Clipped

IMAGES = 3
"""On which a model is tried: few, and unlikely to be another dimension's size by chance."""

AGREEMENT = 1e-2
"""Of two computations of the same, as a share: far above rounding, far below a wrong rule."""

LEAST = 1e-3
"""Share of the largest gradient below which a parameter's is small."""


class Trial:
    """One model's. `classes` is how many logits it gives."""

    def __init__(
        self, model: nn.Module, learning: Mapping[str, nn.Parameter], images: Tensor
    ) -> None:
        """Raises BadInput where samples have a part in each other's logits, or where a buffer is
        written to."""
        self.model = model
        self.learning = learning
        few = images.detach()[torch.arange(IMAGES, device=images.device) % len(images)]
        self.images = few
        self.labels = torch.zeros(IMAGES, dtype=torch.int64, device=images.device)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        try:
            with self._aside(training=None), torch.enable_grad():
                self.classes = self._apart()
            with self._aside(training=None):
                self._unmoved(images.detach())
            with self._aside(training=False):
                self._alone()
        finally:
            written = list(self._restored(before))
        if written:
            raise BadInput(
                f"the model writes into its buffer {written[0]!r} while it computes: what it keeps "
                "of the images is covered by no noise. Expected a model that keeps nothing"
            )

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
            for k in range(2):
                (slope,) = torch.autograd.grad(
                    _loss(logits, self.labels)[k], given, retain_graph=True, allow_unused=True
                )
                if slope is not None and _elsewhere(slope, k):
                    _refuse_mixing()
        return logits.shape[1]

    def _unmoved(self, images: Tensor) -> None:
        """As it is used, on as many images: another first or last one leaves the logits of all
        others as they are. (What is mixed without a slope, as by a detached mean, shows here.)"""
        given = self._drawn_alike(images)
        for k in {0, len(images) - 1}:
            changed = images.clone()
            changed[k] = images[(k + 1) % len(images)] * -0.5 + 0.7
            others = torch.arange(len(images), device=images.device) != k
            if not _alike(self._drawn_alike(changed)[others], given[others]):
                _refuse_mixing()

    def _drawn_alike(self, images: Tensor) -> Tensor:
        """The logits, with the same random draws every time."""
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            logits: Tensor = self.model(images.clone())
            return logits

    def _alone(self) -> None:
        """In evaluation mode, samples get the same logits in company and alone."""
        before = self._random()
        with torch.no_grad():
            together = self.model(self.images.clone())
            apart = torch.cat([self.model(one.clone()) for one in self.images.split(1)])
        self.draws = not all(map(torch.equal, before, self._random()))
        if not self.draws and not _alike(together, apart):
            _refuse_mixing()

    def signature(self, record: Callable[..., Any]) -> list[tuple[object, ...]] | None:
        """What a recorded forward pass uses, in its order; None where a layer's samples are not in
        its first dimension, or recording fails."""
        with self._aside(training=None):
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

        with self._aside(training=False):
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
            norms = torch.stack([e.flatten(1).square().sum(1) for e in each]).sum(0).sqrt()
            right = [torch.tensordot(factors.to(e.dtype), e, 1) for e in each]
            # A gradient that is nought but for rounding, as of attention's key bias, is no guide.
            least = LEAST * max(float(total.abs().max()) for total in right)
            return _alike(found.norms.square().sum(0).sqrt(), norms) and all(
                _alike(torch.zeros_like(b) if a is None else a, b, least)
                for a, b in zip(sums, right, strict=True)
            )

    @contextlib.contextmanager
    def _aside(self, training: bool | None) -> Iterator[None]:
        """Modes (all as given, or as they are) and random states as before afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        device = self.images.device
        devices = [device] if device.type == "cuda" else []
        try:
            if training is not None:
                self.model.train(training)
            # cuDNN differentiates recurrent layers in training mode only.
            with torch.random.fork_rng(devices), torch.backends.cudnn.flags(enabled=False):
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _random(self) -> list[Tensor]:
        """The global random states."""
        device = self.images.device
        now = [torch.get_rng_state()]
        return [*now, torch.cuda.get_rng_state(device)] if device.type == "cuda" else now

    def _restored(self, before: Mapping[str, Tensor]) -> Iterator[str]:
        """Put the buffers back; the names of those that were written into."""
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in before and not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])
                    yield name


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss with slopes at every logit."""
    along = torch.linspace(0.5, 1.5, logits.shape[1], dtype=logits.dtype, device=logits.device)
    return logits @ along + logits.square().sum(1)


def _elsewhere(slope: Tensor, k: int) -> bool:
    """Whether a slope is not zero at another sample than `k`."""
    others = torch.arange(len(slope), device=slope.device) != k
    return bool((slope[others].nan_to_num() != 0).any())


def _alike(a: Tensor, b: Tensor, least: float = 0.0) -> bool:
    """Whether two tensors agree, of which the second, or `least`, says what is large."""
    if not b.numel() or not (a.isfinite().all() and b.isfinite().all()):
        return True  # says nothing
    return bool((a - b).abs().max() <= AGREEMENT * b.abs().max().clamp(min=least))


def _refuse_mixing() -> None:
    raise BadInput(
        "the model's samples have a part in each other's logits, as in normalisation over the "
        "batch: clipping would bound the influence of none of them. Expected a model that treats "
        "each image by itself"
    )
