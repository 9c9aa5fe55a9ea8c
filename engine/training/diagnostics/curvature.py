"""The loss around a model's weights: how steep its bends are, and how noisy its gradient is.

Everything works on products with the Hessian, of one for each probe, none of which writes it down.
The Hessian is that of the mean loss of the given samples over all parameters that learn, with the
model in eval mode: dropout off, batch normalisation with its running statistics.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.events import Event, Progress

Weights = dict[str, Tensor]


class Loss:
    """The mean loss of a model over some samples, as a function of its weights alone.

    loss: (outputs, targets) -> the mean over samples.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    ) -> None:
        self.model = model
        self.inputs, self.targets = inputs, targets
        self.loss = loss
        self.weights: Weights = {
            name: p.detach() for name, p in model.named_parameters() if p.requires_grad
        }

    def at(self, weights: Weights) -> Tensor:
        """The loss with other weights; differentiable. What is not among them stays."""
        outputs = functional_call(self.model, weights, (self.inputs,))
        full = outputs if outputs.dtype == torch.float64 else outputs.float()
        return self.loss(full, self.targets)

    def of(self, rows: Tensor) -> Loss:
        """The same of some of the samples."""
        return Loss(self.model, self.inputs[rows], self.targets[rows], self.loss)

    def value(self, weights: Weights | None = None) -> float:
        with whole(self.model), torch.no_grad():
            return float(self.at(weights or self.weights))

    def gradient(self) -> Weights:
        with whole(self.model):
            return self._slopes()[1]

    def _slopes(self, graph: bool = False) -> tuple[list[Tensor], Weights]:
        """The weights as leaves, and the loss's gradient by them; with its own graph if asked."""
        leaves = [weight.detach().requires_grad_() for weight in self.weights.values()]
        loss = self.at(dict(zip(self.weights, leaves, strict=True)))
        found = torch.autograd.grad(loss, leaves, create_graph=graph, materialize_grads=True)
        return leaves, dict(zip(self.weights, found, strict=True))

    def hessian(self) -> Callable[[Weights], Weights]:
        """The Hessian times a vector: the gradient of the gradient along it. The gradient's graph
        is made once, here, and kept for all products (a product costs half of one that makes its
        own); the weights must not change before the last."""
        with whole(self.model), _plain_kernels(self.model):
            leaves, slopes = self._slopes(graph=True)
        bent = {name: slope for name, slope in slopes.items() if slope.requires_grad}

        def product(vector: Weights) -> Weights:
            if not bent:  # the loss is linear in all of them
                return {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
            along = [vector[name] for name in bent]
            ends = list(bent.values())
            found = torch.autograd.grad(
                ends, leaves, along, retain_graph=True, materialize_grads=True
            )
            return dict(zip(self.weights, found, strict=True))

        return product


def top_eigenvalue(
    loss: Loss, generator: torch.Generator, steps: int = 20, tolerance: float = 1e-3
) -> Generator[Event, None, float]:
    """The eigenvalue of the Hessian that is the largest in size, with its sign, by Lanczos' method
    with full reorthogonalisation (Golub and Van Loan 2013, section 10.1); it stops when it changes
    by less than a share of `tolerance`. Yields Progress after every product."""
    size = sum(weight.numel() for weight in loss.weights.values())
    vector = torch.randn(size, generator=generator).to(_device(loss))
    vector /= vector.norm()
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    found = 0.0
    product = loss.hessian()
    for step in range(min(steps, size)):
        image = _flat(product(_shaped(vector, loss.weights)))
        diagonal.append(float(image @ vector))
        basis.append(vector)
        spanned = torch.stack(basis)
        for _ in range(2):  # once loses orthogonality in float32
            image = image - spanned.T @ (spanned @ image)
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
        values = torch.linalg.eigvalsh(matrix)
        before, found = found, float(values[values.abs().argmax()])
        yield Progress(step + 1, steps, "products")
        length = float(image.norm())
        # What is left is rounding when the whole space is spanned.
        if length <= 1e-6 * max(abs(found), 1e-30):
            break
        if step and abs(found - before) <= tolerance * abs(found):
            break
        beside.append(length)
        vector = image / length
    return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of several draws, and its standard error."""

    value: float
    error: float


def hessian_trace(
    loss: Loss, generator: torch.Generator, probes: int = 10
) -> Generator[Event, None, Estimate]:
    """The trace of the Hessian by Hutchinson's estimator: the mean of v' H v over vectors of signs
    (Hutchinson 1990). Yields Progress after every product."""
    drawn: list[float] = []
    product = loss.hessian()
    for probe in range(probes):
        signs = {
            name: (torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1).to(weight)
            for name, weight in loss.weights.items()
        }
        image = product(signs)
        drawn.append(sum(float((signs[name] * image[name]).sum()) for name in signs))
        yield Progress(probe + 1, probes, "products")
    mean = sum(drawn) / probes
    spread = sum((value - mean) ** 2 for value in drawn) / max(probes - 1, 1)
    return Estimate(mean, math.sqrt(spread / probes))


@dataclass(frozen=True, slots=True)
class Noise:
    """scale: the batch size, in samples, at which the gradient's noise is as large as the gradient:
    far below it more samples a step pay, far above they do not (B_simple). gradient: squared length
    of the true gradient; variance: trace of the covariance of single samples' gradients; all
    without bias. scale is NaN where so few samples cannot tell the gradient from its noise."""

    scale: float
    gradient: float
    variance: float


def noise_scale(
    loss: Loss, generator: torch.Generator, small: int
) -> Generator[Event, None, Noise]:
    """The gradient noise scale from the lengths of gradients of two sizes: of parts of `small`
    samples, and of them all together (McCandlish et al. 2018, appendix A.1). Raises ValueError if
    there are not two parts. Yields Progress after every part."""
    parts = torch.randperm(len(loss.inputs), generator=generator).split(small)
    parts = tuple(part for part in parts if len(part) == small)
    if len(parts) < 2:
        raise ValueError(f"{len(loss.inputs)} samples do not make two parts of {small}")
    total: Tensor | None = None
    lengths = 0.0
    for number, part in enumerate(parts):
        found = _flat(loss.of(part.to(loss.inputs.device)).gradient())
        lengths += float(found.square().sum())
        total = found if total is None else total + found
        yield Progress(number + 1, len(parts), "gradients")
    assert total is not None
    return two_sizes(
        lengths / len(parts), small, float((total / len(parts)).square().sum()), small * len(parts)
    )


def two_sizes(small: float, few: int, large: float, many: int) -> Noise:
    """From the mean squared lengths of gradients of `few` and of `many` samples."""
    gradient = (many * large - few * small) / (many - few)
    variance = (small - large) / (1 / few - 1 / many)
    known = gradient > 0 and variance >= 0
    return Noise(variance / gradient if known else float("nan"), gradient, variance)


# --- vectors of weights ---------------------------------------------------------------------------


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.flatten().float() for weight in weights.values()])


def _shaped(vector: Tensor, like: Weights) -> Weights:
    parts: Sequence[Tensor] = vector.split([weight.numel() for weight in like.values()])
    return {
        name: part.view_as(weight).to(weight.dtype)
        for part, (name, weight) in zip(parts, like.items(), strict=True)
    }


def _device(loss: Loss) -> torch.device:
    return next(iter(loss.weights.values())).device


@contextlib.contextmanager
def _plain_kernels(model: nn.Module) -> Iterator[None]:
    """Without the fused kernels of recurrent layers on the CPU, which know no second derivative."""
    mkldnn = torch.backends.mkldnn
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    before = mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        yield
    finally:
        mkldnn.set_flags(_enabled=before[0], _fp32_precision=None)


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode, and gradients are on. Never held across a yield."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True
