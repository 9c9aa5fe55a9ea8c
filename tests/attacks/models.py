"""Tiny models with fixed random weights, and images they get right."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = 4


def images(count: int = 12, side: int = 6, seed: int = 1) -> Tensor:
    """Random images, (N, 1, side, side), with some pixels at 0 and at 1."""
    draws = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return ((draws - 0.5) * 1.3 + 0.5).clamp(0, 1)


def conv(classes: int = CLASSES, side: int = 6, norm: bool = False) -> nn.Module:
    """A convolutional net in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        middle = [nn.BatchNorm2d(6), nn.Dropout(0.5)] if norm else []
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            *middle,
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * side * side, classes),
        )
        with torch.no_grad():
            model[-1].weight.mul_(4)
    return model.eval()


class Linear(nn.Module):
    """logits = (w.x + b, 0): the worst case in any ball is known exactly."""

    def __init__(self, size: int = 36, seed: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(size, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight
        return torch.stack([score, torch.zeros_like(score)], 1)


def right_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


class Noisy(nn.Module):
    """Draws from the global generator and has a mixture of modes, frozen weights and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv(norm=True)
        self.fails_at = -1
        self.calls = 0
        self.net.train()
        self.net[2].eval()
        self.net[0].weight.requires_grad_(False)
        self.net[-1].weight.grad = torch.ones_like(self.net[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the model is tired")
        assert not self.net.training
        assert not torch.is_autocast_enabled("cpu")
        logits: Tensor = self.net(x + 1e-4 * torch.randn_like(x))
        return logits


def trace(model: nn.Module, given: list[Tensor]) -> list[Any]:
    """Everything an attack could leave a trace on."""
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.cudnn.enabled,
        [module.training for module in model.modules()],
        [tensor.clone().tolist() for tensor in model.state_dict().values()],
        [
            (p.requires_grad, None if p.grad is None else p.grad.tolist())
            for p in model.parameters()
        ],
        [(t.tolist(), t.requires_grad, t.grad, t._version) for t in given],
    ]
