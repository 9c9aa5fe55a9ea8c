"""What a batch of MNIST costs: our splits against torchvision's usual DataLoader.

`python -m tests.benchmarks.data_path --data-root D` counts CPU seconds, workers included, for one
epoch of shuffled batches of 128, one thread, both in one process and in turn; the median of three.
Then the same end to end, one epoch of training an `mlp` and a `cnn`. Without MNIST below the data
root, as many random images stand in for it: decoding and moving them costs the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import ToTensor

from engine.data import ResidentSplit, Split
from engine.models import build
from engine.models.spec import CNN, MLP, ModelSpec

SIZE = 128
REPEATS = 3
TARGET = 15
END_TO_END = 6_400
"""Images of the end-to-end comparison."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def main(data_root: Path | None = None) -> list[tuple[str, str, str]]:
    """Rows of (what, figure, target)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(data_root)
    finally:
        torch.set_num_threads(threads)


def _measure(data_root: Path | None) -> list[tuple[str, str, str]]:
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    theirs = datasets.MNIST(str(data_root), transform=ToTensor()) if there else _Stand()
    name = "MNIST" if there else "MNIST-sized random images (no --data-root)"
    split = _split(theirs.data, theirs.targets)
    ways: dict[str, Batches] = {
        "ours": lambda: _ours(split, len(split)),
        "0 workers": lambda: DataLoader(theirs, SIZE, shuffle=True),
        "2 workers": lambda: DataLoader(theirs, SIZE, shuffle=True, num_workers=2),
    }
    seconds = _in_turn({way: _reader(batches) for way, batches in ways.items()})
    rows = [
        (
            f"data path, {name}, against a DataLoader with {way}, CPU",
            f"{seconds[way] / seconds['ours']:.0f}x "
            f"({seconds['ours']:.3f} s and {seconds[way]:.2f} s an epoch)",
            f">= {TARGET}x",
        )
        for way in ("0 workers", "2 workers")
    ]
    for spec in (MLP(), CNN()):
        subset = torch.utils.data.Subset(theirs, range(END_TO_END))
        seconds = _in_turn(
            {
                "ours": _trainer(spec, lambda: _ours(split, END_TO_END)),
                "theirs": _trainer(spec, lambda s=subset: DataLoader(s, SIZE, shuffle=True)),
            }
        )
        rows.append(
            (
                f"data path end to end, training {spec.kind}, against a DataLoader, CPU",
                f"{seconds['theirs'] / seconds['ours']:.2f}x "
                f"({END_TO_END / seconds['ours']:,.0f} and "
                f"{END_TO_END / seconds['theirs']:,.0f} images/s)",
                "reported",
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


def _in_turn(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median CPU seconds of each, taken in turn so that a slow spell of the machine hits all."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, run in ways.items():
            began = _cpu()
            run()
            seconds[way].append(_cpu() - began)
    return {way: statistics.median(taken) for way, taken in seconds.items()}


def _cpu() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class _Stand(Dataset[tuple[Tensor, int]]):
    """Random images in torchvision's form: an array, a PIL image of each, a transform."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.data = torch.randint(0, 256, (60_000, 28, 28), generator=draw).to(torch.uint8)
        self.targets = torch.randint(0, 10, (60_000,), generator=draw)
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.data[index].numpy())
        return self._transform(image), int(self.targets[index])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    for row in main(parser.parse_args().data_root):
        print(" | ".join(row))
