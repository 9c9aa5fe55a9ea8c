"""Optimisers and learning-rate schedules, from their specs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.training.spec import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    OneCycle,
    OptimizerSpec,
    ScheduleSpec,
    Step,
)


def make_optimizer(
    spec: OptimizerSpec, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """torch's own optimiser, in its fused form where the device has one."""
    parameters = [p for p in parameters if p.requires_grad]
    common: dict[str, Any] = {
        "lr": spec.lr,
        "weight_decay": spec.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    match spec:
        case SGD():
            return torch.optim.SGD(
                parameters, momentum=spec.momentum, nesterov=spec.nesterov, **common
            )
        case AdamW():
            return torch.optim.AdamW(parameters, betas=(spec.beta1, spec.beta2), **common)
        case Adam():
            return torch.optim.Adam(parameters, betas=(spec.beta1, spec.beta2), **common)
    raise TypeError(f"no optimiser for {type(spec).__name__}")


def lr_factor(spec: ScheduleSpec, epoch: float, epochs: float) -> float:
    """Share of the peak learning rate at `epoch` (fractional, of `epochs`).

    A function of the place alone, so a resumed run needs no state of it.
    """
    if epoch < spec.warmup:
        return max(epoch, 1e-3 * spec.warmup) / spec.warmup
    share = min(1.0, (epoch - spec.warmup) / max(epochs - spec.warmup, 1e-9))
    match spec:
        case Constant():
            return 1.0
        case Step():
            return spec.factor ** math.floor((epoch - spec.warmup) / spec.every)
        case Cosine():
            return spec.floor + (1 - spec.floor) * (1 + math.cos(math.pi * share)) / 2
        case OneCycle():
            if share < spec.rise:
                return _between(spec.start, 1.0, share / spec.rise)
            return _between(1.0, spec.start / 1e4, (share - spec.rise) / (1 - spec.rise))
    raise TypeError(f"no schedule for {type(spec).__name__}")


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `index.key`."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """A gradient as the weight lies in memory: the fused steps go through it whatever the strides
    say. (What `backward` leaves in `.grad` lies so; what `torch.autograd.grad` returns may not.)"""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up the state that `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
