"""Penalties on the critic's gradient with respect to its input, one number for each network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def squared_gradients(outputs: Tensor, samples: Tensor) -> Tensor:
    """Squared length of the gradient of each sample's output, (..., B), to be differentiated again.

    outputs: (..., B), of a critic that judges each sample by itself; samples: (..., B, *shape).
    """
    (found,) = torch.autograd.grad(outputs.sum(), samples, create_graph=True)
    return found.square().flatten(outputs.dim()).sum(-1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """How far the gradient between real and generated samples is from length 1, squared (Gulrajani
    et al. 2017, equation 3).

    `share`, uniform (..., B), says where between them each is looked at; `critic` maps samples to
    outputs.
    """
    share = share.reshape(*share.shape, *(1,) * (real.dim() - share.dim()))
    between = torch.lerp(fake.detach(), real, share).requires_grad_()
    squares = squared_gradients(critic(between), between)
    return (squares.add(1e-12).sqrt() - 1).square().mean(-1)
