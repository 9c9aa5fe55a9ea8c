"""Per-sample gradients of a whole model, for what book-keeping does not know: by a vectorised map
over samples, as Opacus' functorch mode takes them, or, where a model cannot be mapped, one sample
at a time. Each returns losses (N,), logits (N, K) and each parameter's gradients (N, *shape)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits (N, K) and labels to losses (N,)."""
Each: TypeAlias = tuple[Tensor, Tensor, list[Tensor]]


def mapped(
    model: nn.Module,
    learning: Mapping[str, nn.Parameter],
    images: Tensor,
    labels: Tensor,
    criterion: Criterion,
) -> Each:
    """By torch.func, all samples at once. Raises what torch does where it cannot."""
    names = list(learning)

    def loss_of(values: tuple[Tensor, ...], image: Tensor, label: Tensor) -> Any:
        given = dict(zip(names, values, strict=True))
        logits = torch.func.functional_call(model, given, (image[None],))
        loss = criterion(logits, label[None])[0]
        return loss, (loss.detach(), logits[0].detach())

    values = tuple(p.detach() for p in learning.values())
    take = torch.func.vmap(
        torch.func.grad(loss_of, has_aux=True), in_dims=(None, 0, 0), randomness="different"
    )
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.filterwarnings("ignore", "There is a performance drop")
        gradients, (losses, logits) = take(values, images.clone(), labels)
    return losses, logits, [gradient.detach() for gradient in gradients]


def one_by_one(
    model: nn.Module,
    learning: Mapping[str, nn.Parameter],
    images: Tensor,
    labels: Tensor,
    criterion: Criterion,
) -> Each:
    """A pass through the model for each sample: always right, and slow."""
    losses, answers = [], []
    each: list[list[Tensor]] = [[] for _ in learning]
    for k in range(len(images)):
        with torch.enable_grad():
            logits = model(images[k : k + 1].clone())  # a model may write into it
            loss = criterion(logits, labels[k : k + 1])[0]
        found = torch.autograd.grad(
            loss, list(learning.values()), allow_unused=True, materialize_grads=True
        )
        losses.append(loss.detach())
        answers.append(logits.detach()[0])
        for held, gradient in zip(each, found, strict=True):
            held.append(gradient)
    return torch.stack(losses), torch.stack(answers), [torch.stack(held) for held in each]
