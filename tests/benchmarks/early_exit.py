"""What dropping broken samples saves: PGD-40 against the same bare loop that drops none.

A small standard CNN is trained for about half a minute, then 500 test images are attacked (linf,
eps .3, step .01, one random start) both ways, in turn, on one thread; CPU seconds, the median of
three. Without MNIST below the data root it takes scikit-learn's digits at 28 x 28.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks import PGD, attack
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import MNIST, DataSpec, Digits
from engine.events import drain
from tests.benchmarks.rows import Row, in_turn, ratios, spread

SAMPLES = 500
REPEATS = 3
SPEC = PGD(norm="linf", eps=0.3, steps=40, step_size=0.01)
TARGET = 0.25


def main(data_root: Path | None = None) -> list[Row]:
    """One row: the CPU seconds that are left, and what both ways found."""
    torch.set_num_threads(1)
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    spec: DataSpec = MNIST() if there else Digits(size=28)
    data = _loaded(spec, data_root)
    model = train(data, seconds=30)
    images, labels = data.test.batch(torch.arange(min(SAMPLES, len(data.test))))
    robust: dict[str, float] = {}

    def with_exit() -> float:
        began = time.process_time()
        robust["engine"] = attack(model, images, labels, SPEC).robust_accuracy
        return time.process_time() - began

    def without() -> float:
        began = time.process_time()
        adversarial = bare_pgd(model, images, labels, SPEC, torch.Generator().manual_seed(0))
        with torch.no_grad():
            right = model(adversarial).argmax(1) == labels
        robust["bare"] = right.double().mean().item()
        return time.process_time() - began

    found = in_turn({"engine": with_exit, "bare": without}, REPEATS)
    share = ratios(found["engine"], found["bare"])
    seconds = [statistics.median(found[way]) for way in ("engine", "bare")]
    clean = attack(model, images, labels, SPEC).correct.double().mean().item()
    name = "MNIST" if there else "digits at 28 x 28 (no --data-root)"
    return [
        Row(
            f"PGD-40, standard CNN, {name}, eps .3, {len(labels)} images: CPU against a bare loop",
            f"<= {TARGET}",
            spread(share),
            statistics.median(share) <= TARGET and robust["engine"] <= robust["bare"],
            f"{seconds[0]:.2f} s and {seconds[1]:.2f} s; clean accuracy {clean:.3f}, robust "
            f"{robust['engine']:.3f} and {robust['bare']:.3f}",
        )
    ]


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
        data: Dataset = drain(load(spec, Bench(Path(folder), Path(folder), data_root=data_root)))
        return data
