"""What generator and critic want of each other, of the critic's outputs (..., B) for B samples: one
number for each network, (...)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.generative.spec.losses import (
    Hinge,
    LeastSquares,
    LossSpec,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
    WassersteinGP,
)


def critic_loss(spec: LossSpec, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """What the critic minimises; `smoothing` is that of the label of real samples."""
    match spec:
        case Minimax() | NonSaturating():
            wanted = F.softplus(-real)
            if smoothing:  # cross-entropy against 1 - smoothing
                wanted = wanted + smoothing * real
            return wanted.mean(-1) + F.softplus(fake).mean(-1)
        case LeastSquares():
            return 0.5 * ((real - 1).square().mean(-1) + fake.square().mean(-1))
        case Hinge():
            return F.relu(1 - real).mean(-1) + F.relu(1 + fake).mean(-1)
        case Wasserstein() | WassersteinGP():
            return fake.mean(-1) - real.mean(-1)
        case Relativistic():
            return F.softplus(fake - real).mean(-1)
    raise TypeError(f"no loss for {type(spec).__name__}")


def generator_loss(spec: LossSpec, fake: Tensor, real: Tensor | None) -> Tensor:
    """What the generator minimises; only a relativistic one looks at real samples."""
    match spec:
        case Minimax():
            return -F.softplus(fake).mean(-1)
        case NonSaturating():
            return F.softplus(-fake).mean(-1)
        case LeastSquares():
            return 0.5 * (fake - 1).square().mean(-1)
        case Hinge() | Wasserstein() | WassersteinGP():
            return -fake.mean(-1)
        case Relativistic():
            assert real is not None
            return F.softplus(real - fake).mean(-1)
    raise TypeError(f"no loss for {type(spec).__name__}")


def looks_at_real(spec: LossSpec) -> bool:
    """Whether the generator's loss needs the critic's outputs for real samples."""
    return isinstance(spec, Relativistic)
