"""What a batch of MNIST costs: our splits against torchvision's usual DataLoader.

CPU seconds, workers included, of one epoch of shuffled batches of 128, one thread, both in one
process and in turn; the median of three. Then the same end to end, training an `mlp` and a `cnn` on
a tenth of an epoch.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import ToTensor

from engine.data import ResidentSplit, Split
from engine.models import build
from engine.models.spec import CNN, MLP, ModelSpec
from tests.benchmarks.rows import Row, in_turn, skipped

SIZE = 128
REPEATS = 3
TARGET = 15
END_TO_END = 6_400
"""Images of the end-to-end comparison."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def main(data_root: Path | None = None) -> list[Row]:
    """The data path alone against a DataLoader with and without workers, then end to end."""
    if data_root is None or not (data_root / "MNIST" / "raw").is_dir():
        return [skipped("data path alone, MNIST, against a DataLoader, CPU", f">= {TARGET}x")]
    torch.set_num_threads(1)
    theirs = datasets.MNIST(str(data_root), transform=ToTensor())
    split = _split(theirs.data, theirs.targets)
    ways: dict[str, Batches] = {
        "ours": lambda: _ours(split, len(split)),
        "0 workers": lambda: DataLoader(theirs, SIZE, shuffle=True),
        "2 workers": lambda: DataLoader(theirs, SIZE, shuffle=True, num_workers=2),
    }
    seconds = _medians({way: _reader(batches) for way, batches in ways.items()})
    rows = [
        Row(
            f"data path alone, MNIST, against a DataLoader with {way}, CPU",
            f">= {TARGET}x",
            f"{seconds[way] / seconds['ours']:.0f}x",
            seconds[way] / seconds["ours"] >= TARGET,
            f"{seconds['ours']:.3f} s and {seconds[way]:.2f} s an epoch",
        )
        for way in ("0 workers", "2 workers")
    ]
    for spec in (MLP(), CNN()):
        subset = Subset(theirs, range(END_TO_END))
        seconds = _medians(
            {
                "ours": _trainer(spec, lambda: _ours(split, END_TO_END)),
                "theirs": _trainer(spec, lambda s=subset: DataLoader(s, SIZE, shuffle=True)),
            }
        )
        rates = [END_TO_END / seconds[whose] for whose in ("ours", "theirs")]
        rows.append(
            Row(
                f"data path end to end, MNIST, training {spec.kind}, against a DataLoader, CPU",
                "reported",
                f"{rates[0] / rates[1]:.2f}x",
                None,
                f"{rates[0]:,.0f} and {rates[1]:,.0f} images per CPU second",
            )
        )
    return rows


def _split(images: Tensor, labels: Tensor) -> Split:
    rows = torch.arange(len(labels))
    return ResidentSplit(images.unsqueeze(1), rows, labels, rows, torch.device("cpu"))


def _ours(split: Split, count: int) -> Iterable[tuple[Tensor, Tensor]]:
    order = torch.randperm(count)
    return ((images, labels) for _, images, labels in split.batches(order, SIZE))


def _reader(batches: Batches) -> Callable[[], None]:
    def read() -> None:
        for images, _ in batches():
            assert images.dtype == torch.float32

    return read


def _trainer(spec: ModelSpec, batches: Batches) -> Callable[[], None]:
    model = build(spec, (1, 28, 28), 10)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)

    def train() -> None:
        for images, labels in batches():
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()

    return train


def _medians(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median CPU seconds of each, workers included."""

    def timed(run: Callable[[], None]) -> Callable[[], float]:
        def measure() -> float:
            began = _cpu()
            run()
            return _cpu() - began

        return measure

    found = in_turn({way: timed(run) for way, run in ways.items()}, REPEATS, warm=False)
    return {way: statistics.median(taken) for way, taken in found.items()}


def _cpu() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
