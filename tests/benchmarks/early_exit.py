"""What dropping broken samples saves: PGD-40 against the same bare loop that drops none.

`python -m tests.benchmarks.early_exit --data-root D` trains a small standard CNN for about half a
minute, then attacks 500 test images (linf, eps .3, step .01, one random start) both ways, on one
thread, and compares CPU seconds, the median of three. Without MNIST below the data root it takes
scikit-learn's digits at 28 x 28.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import PGD, attack
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import MNIST, DataSpec, Digits

SAMPLES = 500
REPEATS = 3
SPEC = PGD(norm="linf", eps=0.3, steps=40, step_size=0.01)
TARGET = 0.25


def main(data_root: Path | None = None) -> list[dict[str, Any]]:
    """One row: CPU seconds of both, their ratio, both robust accuracies, the target."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_measure(data_root)]
    finally:
        torch.set_num_threads(threads)


def _measure(data_root: Path | None) -> dict[str, Any]:
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    spec: DataSpec = MNIST() if there else Digits(size=28)
    data = _loaded(spec, data_root)
    model = train(data, seconds=30)
    images, labels = data.test.batch(torch.arange(min(SAMPLES, len(data.test))))

    attack(model, images[:20], labels[:20], SPEC)  # the first call of an operation costs more

    seconds: dict[str, list[float]] = {"engine": [], "bare": []}
    for _ in range(REPEATS):
        began = time.process_time()
        ours = attack(model, images, labels, SPEC)
        middle = time.process_time()
        adversarial = bare_pgd(model, images, labels, SPEC, torch.Generator().manual_seed(0))
        with torch.no_grad():
            bare = (model(adversarial).argmax(1) == labels).double().mean().item()
        seconds["engine"].append(middle - began)
        seconds["bare"].append(time.process_time() - middle)
    mine, theirs = (statistics.median(seconds[who]) for who in ("engine", "bare"))
    return {
        "what": f"PGD-40, {spec.kind}, standard CNN, eps .3, {len(labels)} images: CPU against "
        "the bare loop without early exit",
        "engine_seconds": mine,
        "bare_seconds": theirs,
        "value": mine / theirs,
        "target": f"<= {TARGET}",
        "met": mine / theirs <= TARGET and ours.robust_accuracy <= bare,
        "clean_accuracy": ours.correct.double().mean().item(),
        "engine_robust_accuracy": ours.robust_accuracy,
        "bare_robust_accuracy": bare,
    }


def train(data: Dataset, seconds: float) -> nn.Module:
    """The MNIST net of Wong, Rice and Kolter 2020 (166k parameters), trained for about so many
    CPU seconds, at most ten epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(data.shape[0], 16, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 100), nn.ReLU()),
            nn.Linear(100, len(data.classes)),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    began = time.process_time()
    for _ in range(10):
        for part in torch.randperm(len(data.train), generator=generator).split(128):
            images, labels = data.train.batch(part)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if time.process_time() - began > seconds:
                return model.eval()
    return model.eval()


def bare_pgd(
    model: nn.Module, images: Tensor, labels: Tensor, spec: PGD, generator: torch.Generator
) -> Tensor:
    """PGD as it is usually written: all samples, all steps. linf only."""
    change = (2 * torch.rand(images.shape, generator=generator) - 1) * spec.eps
    change = (images + change).clamp(0, 1) - images
    for _ in range(spec.steps):
        change.requires_grad_()
        loss = F.cross_entropy(model(images + change), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, change)
        change = change.detach() + spec.step_size * gradient.sign()
        change = (images + change.clamp(-spec.eps, spec.eps)).clamp(0, 1) - images
    return images + change


def _loaded(spec: DataSpec, data_root: Path | None) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Path(folder), data_root=data_root)
        loading = load(spec, bench)
        while True:
            try:
                next(loading)
            except StopIteration as end:
                data: Dataset = end.value
                return data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    for row in main(parser.parse_args().data_root):
        print("\n".join(f"{name}: {value}" for name, value in row.items()))
