"""Nets that are trained in a second, and what it takes to evaluate them without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.attacks import FGSM, attack
from engine.attacks.running import Chosen
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.events import drain
from engine.models import ModelCard, build, save_model
from engine.models.spec import CNN
from engine.robustness.evaluating import subject_of
from engine.robustness.searching import Subject
from engine.task import BenchSpec


def bench_in(folder: Path, seed: int = 0) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(folder, folder, seed=seed, spec=BenchSpec(device="cpu", threads=1))


def digits(folder: Path) -> Dataset:
    """8 x 8 digits."""
    data: Dataset = drain(load(Digits(), bench_in(folder)))
    return data


def train(model: nn.Module, data: Dataset, *, epochs: int = 8, eps: float = 0.0) -> nn.Module:
    """`model`, trained; against FGSM of radius `eps`, if it is given."""
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(data.train), generator=order).split(64):
            x, y = data.train.batch(part)
            if eps:
                spec = FGSM(eps=eps, random_start=True)
                x = attack(model, x, y, spec, generator=order).adversarial
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def subject(model: nn.Module, data: Dataset, bench: Bench, count: int = 150) -> Subject:
    order = torch.randperm(len(data.test), generator=bench.generator("samples"))[:count]
    found: Any = drain(subject_of(Chosen(model.eval(), data, order, False), bench, 500))
    assert isinstance(found, Subject)
    return found


def saved(folder: Path, data: Dataset, seed: int = 0) -> Path:
    """The file of a small net of the product's own, that has learnt digits."""
    spec = CNN(width=8, depth=1)
    model = train(build(spec, data.shape, 10, generator_seed=seed), data, epochs=4)
    card = ModelCard(model=spec, data=Digits(), shape=data.shape, classes=data.classes)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / f"model-{seed}.safetensors", model, card)
    return folder / f"model-{seed}.safetensors"
