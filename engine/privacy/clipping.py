"""Clipped sums of per-sample gradients by book-keeping (Bu et al. 2023, algorithm 1): one pass
forwards that notes what each layer was given, one backwards that takes the slopes at what the
layers returned and no gradient of a weight; from both the norm of each sample's gradient, and the
sum of the gradients, each times its weight, as one product a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from engine.errors import BadInput
from engine.privacy.layers import Linear, Use, blocks, numbers_of
from engine.privacy.persample import Criterion, Each, mapped, one_by_one
from engine.privacy.recording import Recording, full_precision
from engine.privacy.trial import Trial, larger, stirred
from engine.training.optimizers import laid_out

Weigh: TypeAlias = Callable[[Tensor], Tensor]
"""From the norms (L, N) of each layer's gradient to a factor for each sample, (N,), or for each
layer of it, (L, N)."""


class Clipped(NamedTuple):
    """Of a batch of N images: losses (N,), logits (N, K), norms (L, N) as they were before
    clipping, and the weights that were given to the samples, (N,) or (L, N)."""

    losses: Tensor
    logits: Tensor
    norms: Tensor
    weights: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Clipped]) -> Clipped:
        """Those of consecutive parts of a batch."""
        losses, logits, norms, weights = zip(*parts, strict=True)
        return cls(
            torch.cat(losses), torch.cat(logits), torch.cat(norms, -1), torch.cat(weights, -1)
        )


class Unknown(Exception):
    """The model does something that book-keeping has no rule for."""


class Clipper:
    """Clipped sums for one model, in chunks of at most `chunk` samples: memory grows with them, as
    what every layer was given and its slopes are held for a whole chunk.

    `names` are the layers with parameters that learn, by their place in the model: rows of the
    norms. A parameter that several layers share belongs to the first of them.
    `method` is how the gradients are taken, known once `check` has tried the model: "book-keeping",
    or where it does something for which there is no rule "functorch" (all samples by torch.func's
    vectorised map) or "one by one". Opacus is not asked for such layers: each kind that it has a
    rule for is right here too (a test holds every one against a loop over samples), what it has
    none for it takes by torch.func as well, and it has no third way.
    """

    names: tuple[str, ...]
    method: str = ""

    def __init__(self, model: nn.Module, *, chunk: int = 256) -> None:
        """Raises BadInput for layers with statistics of the batch: a sample's gradient would depend
        on the others, and clipping it bound nothing."""
        if chunk < 1:
            raise BadInput(f"a chunk has at least one sample, but {chunk} are asked for")
        refuse_batch_statistics(model)
        self.model = model
        self.chunk = chunk
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._learning:
            raise BadInput(
                "no parameter of the model learns, so there is nothing to clip; have some layers "
                "learn"
            )
        names: list[str] = []
        self._row: dict[int, int] = {}
        for name, module in model.named_modules():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad]
            new = [p for p in own if id(p) not in self._row]
            if new:
                self._row.update({id(p): len(names) for p in new})
                names.append(name or type(module).__name__)
        self.names = tuple(names)
        self._signature: list[tuple[object, ...]] | None = None
        self._take: Callable[..., Each] | None = None
        self._classes = 0
        self._tried = 0
        """The most images on which the model was tried."""

    # --- what is asked ----------------------------------------------------------------------------

    def sum(self, images: Tensor, labels: Tensor, criterion: Criterion, weigh: Weigh) -> Clipped:
        """Put into each learning parameter's `.grad` the sum over samples of their gradients, each
        times its weight; nothing else is in it.

        images: (N, ...), N may be 0; labels: (N,); criterion: from (logits, labels) to one loss a
        sample. `weigh` is asked once for each chunk, with the norms of its samples, and must
        answer for each sample by its own norms alone. A sample whose gradient is not finite gets
        the weight nought and adds nothing. Raises BadInput where the model mixes
        samples, and where criterion or weigh return something else.
        """
        learning = list(self._learning.values())
        if len(images) and not self.method:
            self.check(images)
        elif min(len(images), self.chunk) > self._tried:
            self._larger(images[: self.chunk])
        for parameter in learning:
            parameter.grad = None
        parts = [
            self._chunk(images[k : k + self.chunk], labels[k : k + self.chunk], criterion, weigh)
            for k in range(0, len(images), self.chunk)
        ]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not parts:
            return self._empty(images, weigh)
        return parts[0] if len(parts) == 1 else Clipped.joined(parts)

    def check(self, images: Tensor) -> None:
        """Try the model on a few of `images`, (N, ...) with N of at least 1, and on a whole chunk
        of them, and choose `method`. Nothing of it stays: neither modes nor gradients nor random
        states. What a trial can find, and what it cannot: `engine.privacy.trial`.

        Raises BadInput where a sample's answer depends on other samples, or where the model writes
        down what it sees.
        """
        images = images[: self.chunk]
        with full_precision(images.device), stirred(self._learning.values()):
            trial = Trial(self.model, self._learning, images)
            self._classes = trial.classes
            self._signature = trial.signature(self._record)
            if self._signature is not None and trial.agrees(self._booked):
                self.method = "book-keeping"
            else:
                self._choose_other(trial)
                self.method = "functorch" if self._take is mapped else "one by one"

        self._tried = len(images)

    def _larger(self, images: Tensor) -> None:
        """Try a model on more images than so far: it may mix so many, and fewer not."""
        with full_precision(images.device), stirred(self._learning.values()):
            larger(self.model, images)
        self._tried = len(images)

    def _choose_other(self, trial: Trial) -> None:
        self._take = mapped if trial.agrees(self._mapped) else one_by_one

    # --- a chunk ----------------------------------------------------------------------------------

    def _chunk(self, images: Tensor, labels: Tensor, criterion: Criterion, weigh: Weigh) -> Clipped:
        if self.method == "book-keeping":
            try:
                return self._book(images, labels, criterion, weigh, self._signature)
            except Unknown:  # as where the model computes something else for so many samples
                pass
        if self._take is None:
            with stirred(self._learning.values()):
                self._choose_other(Trial(self.model, self._learning, images))
        assert self._take is not None
        return self._apart(images, labels, criterion, weigh, self._take)

    def _empty(self, images: Tensor, weigh: Weigh) -> Clipped:
        norms = next(iter(self._learning.values())).new_zeros(len(self.names), 0)
        weights, _ = self._weights(weigh, norms)
        return Clipped(norms.new_zeros(0), norms.new_zeros(0, self._classes), norms, weights)

    def _weights(self, weigh: Weigh, norms: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `weigh` answers, and which samples have no finite norm: their weight is nought, as
        no factor could bound what they add. None if all have one."""
        with torch.no_grad():
            weights = weigh(norms)
        if weights.shape not in (norms.shape, norms.shape[1:]):
            raise BadInput(
                f"weigh returned weights of shape {tuple(weights.shape)} for norms of shape "
                f"{tuple(norms.shape)}; expected {tuple(norms.shape)} or {tuple(norms.shape[1:])}"
            )
        lost = ~norms.isfinite().all(0)
        if not lost.any():
            return weights.to(norms.dtype), None
        return weights.to(norms.dtype).masked_fill(lost, 0), lost

    # --- book-keeping -----------------------------------------------------------------------------

    def _record(
        self, images: Tensor, labels: Tensor, criterion: Criterion
    ) -> tuple[Recording, Tensor, Tensor]:
        """A forward pass: its uses, logits and losses."""
        recording = Recording(self._learning.values(), len(images))
        with torch.enable_grad():
            # So that whatever is computed of images needs a gradient, and can be told from what is
            # computed of parameters alone.
            given = images.detach()
            if given.is_floating_point():
                given = given.requires_grad_().clone()  # a model may write into it
            with recording:
                logits = self.model(given)
            losses = losses_of(criterion, logits, labels)
        return recording, logits, losses

    def _book(
        self,
        images: Tensor,
        labels: Tensor,
        criterion: Criterion,
        weigh: Weigh,
        signature: Sequence[object] | None = None,
    ) -> Clipped:
        recording, logits, losses = self._record(images, labels, criterion)
        if signature is not None and [use.signature() for use in recording.uses] != signature:
            raise Unknown
        learning = list(self._learning.values())
        edges: list[Any] = [use.edge for use in recording.uses]
        slopes: Sequence[Tensor | None] = (None,) * len(edges + learning)
        if losses.requires_grad:
            slopes = torch.autograd.grad(losses.sum(), [*edges, *learning], allow_unused=True)
        if any(slope is not None for slope in slopes[len(edges) :]):
            raise Unknown  # a use that was not recorded
        with torch.no_grad(), full_precision(images.device):
            uses = []
            for use, slope in zip(recording.uses, slopes[: len(edges)], strict=True):
                if slope is not None:
                    use.take(slope)
                    uses.append(use)
            book = Book(_merged(uses), self._row, learning, len(images))
            norms = book.squares(len(self.names)).sqrt_()
            weights, lost = self._weights(weigh, norms)
            if lost is not None:
                for use in book.uses:
                    use.drop(lost)
            book.add(weights)
        return Clipped(losses.detach(), logits.detach(), norms, weights)

    # --- without it -------------------------------------------------------------------------------

    def _apart(
        self,
        images: Tensor,
        labels: Tensor,
        criterion: Criterion,
        weigh: Weigh,
        take: Callable[..., Each],
    ) -> Clipped:
        """From all gradients of a few samples at a time."""
        parts = []
        learning = list(self._learning.values())
        for part in blocks(len(images), sum(p.numel() for p in learning) // 32):
            losses, logits, each = take(
                self.model, self._learning, images[part], labels[part], criterion
            )
            with torch.no_grad():
                squares = losses.new_zeros(len(self.names), len(losses), dtype=each[0].dtype)
                for parameter, gradients in zip(learning, each, strict=True):
                    squares[self._row[id(parameter)]] += numbers_of(gradients).square().sum(1)
                norms = squares.sqrt_()
                weights, lost = self._weights(weigh, norms)
                for parameter, gradients in zip(learning, each, strict=True):
                    if lost is not None:
                        gradients[lost] = 0
                    scale = weights if weights.ndim == 1 else weights[self._row[id(parameter)]]
                    _add(parameter, torch.tensordot(scale, gradients, 1))
            parts.append(Clipped(losses, logits, norms, weights))
        return Clipped.joined(parts)

    def _booked(
        self, images: Tensor, labels: Tensor, criterion: Criterion, weigh: Weigh
    ) -> Clipped:
        return self._book(images, labels, criterion, weigh)

    def _mapped(
        self, images: Tensor, labels: Tensor, criterion: Criterion, weigh: Weigh
    ) -> Clipped:
        return self._apart(images, labels, criterion, weigh, mapped)


class Book:
    """Norms and sums of what was recorded. A value that is a parameter, used once, is worked out by
    its layer; what one parameter has a part in twice is added up first."""

    def __init__(
        self, uses: Sequence[Use], row: Mapping[int, int], learning: Sequence[Tensor], count: int
    ) -> None:
        self.uses = uses
        self.count = count
        self.row = row
        self.entries = [(use, value) for use in uses for value in use.values()]
        self.roots = [
            [value] if id(value) in row else _roots(value, row) for _, value in self.entries
        ]
        times: dict[int, int] = {}
        for roots in self.roots:
            for root in roots:
                times[id(root)] = times.get(id(root), 0) + 1
        self.alone = [id(value) in row and times[id(value)] == 1 for _, value in self.entries]
        self.like = learning[0]

    def squares(self, rows: int) -> Tensor:
        """Squared norms of each layer's gradient, (rows, N)."""
        squares = self.like.new_zeros(rows, self.count)
        for (use, value), alone in zip(self.entries, self.alone, strict=True):
            if alone:
                squares[self.row[id(value)]] += use.squares(value)
        for cluster in self._clusters():
            size = sum(self.entries[k][1].numel() for k in cluster)
            size += sum(root.numel() for k in cluster for root in self.roots[k])
            for part in blocks(self.count, size):
                for root, gradients in self._each(cluster, part).values():
                    squares[self.row[id(root)], part] += numbers_of(gradients).square().sum(1)
        return squares

    def _clusters(self) -> list[list[int]]:
        """The entries that are not alone, those together that have a parameter in common."""
        found: list[tuple[set[int], list[int]]] = []
        for k, roots in enumerate(self.roots):
            if self.alone[k] or not roots:
                continue
            names, members = {id(root) for root in roots}, [k]
            for other in [c for c in found if c[0] & names]:
                found.remove(other)
                names |= other[0]
                members = other[1] + members
            found.append((names, members))
        return [members for _, members in found]

    def _each(self, cluster: Sequence[int], part: slice) -> dict[int, tuple[Tensor, Tensor]]:
        """Parameters with the gradients of some samples."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for k in cluster:
            use, value = self.entries[k]
            slopes = use.each(value, part)
            if id(value) in self.row:
                gradients: Sequence[Tensor | None] = [slopes]
            else:
                gradients = torch.autograd.grad(
                    *(value, self.roots[k], slopes),
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                )
            for root, gradient in zip(self.roots[k], gradients, strict=True):
                if gradient is not None:
                    before = found.get(id(root))
                    found[id(root)] = root, gradient if before is None else before[1] + gradient
        return found

    def add(self, weights: Tensor) -> None:
        """Add the weighted sums to the parameters' `.grad`."""
        for (use, value), roots in zip(self.entries, self.roots, strict=True):
            if id(value) in self.row:
                scale = weights if weights.ndim == 1 else weights[self.row[id(value)]]
                _add(value, use.total(value, scale))
                continue
            rows = {self.row[id(root)] for root in roots} if weights.ndim == 2 else {-1}
            for row in rows:
                own = [root for root in roots if row in (-1, self.row[id(root)])]
                total = use.total(value, weights if row == -1 else weights[row])
                found = torch.autograd.grad(value, own, total, retain_graph=True, allow_unused=True)
                for root, gradient in zip(own, found, strict=True):
                    if gradient is not None:
                        _add(root, gradient)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Raises BadInput for layers that take statistics over the batch, or keep any. Frozen batch
    normalisation is let through: in evaluation mode it treats samples apart."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            frozen = module.affine and not any(p.requires_grad for p in module.parameters())
            if not (frozen and module.track_running_stats):
                raise BadInput(
                    f"the layer {name!r} ({kind}) normalises over the batch: every sample has a "
                    "part in every gradient, and clipping bounds none of them. Expected a model "
                    'without: in a cnn set norm = "group", which normalises each image by itself, '
                    'in an mlp "layer", in both "none" will do; lenet, strided, scattering, rnn '
                    "and transformer never do it, resnet18 always does"
                )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise BadInput(
                f"the layer {name!r} ({kind}) keeps running statistics of the images, which no "
                "noise covers; set its track_running_stats to False, or use nn.GroupNorm"
            )


def losses_of(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    """One loss a sample, (N,). Raises BadInput for anything else."""
    losses = criterion(logits, labels)
    if losses.shape != (len(labels),):
        raise BadInput(
            f"the criterion returned losses of shape {tuple(losses.shape)} for {len(labels)} "
            f'samples; expected ({len(labels)},), as with reduction="none"'
        )
    return losses


def _merged(uses: Sequence[Use]) -> list[Use]:
    """The uses, linear layers that were called several times with the same weight as one."""
    merged: dict[object, list[Use]] = {}
    for use in uses:
        key = (id(use.weight), id(use.bias)) if isinstance(use, Linear) else id(use)
        merged.setdefault(key, []).append(use)
    return [
        Linear.joined([use for use in group if isinstance(use, Linear)])
        if len(group) > 1
        else group[0]
        for group in merged.values()
    ]


def _roots(value: Tensor, row: Mapping[int, int]) -> list[Tensor]:
    """The learning parameters that `value` is computed from."""
    found: dict[int, Tensor] = {}
    seen, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in row:
            found[id(variable)] = variable
        ahead += [following for following, _ in node.next_functions]
    return list(found.values())


def _add(parameter: Tensor, gradient: Tensor) -> None:
    gradient = gradient.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = laid_out(gradient, parameter)
    else:
        parameter.grad += gradient
