"""What the engine costs a training: a run of the Runner against the same loop in bare PyTorch.

The engine's side is everything that `engine run` does while it trains: bursts, scalars, the store
with its thread, checkpoints, progress, the validation after each epoch. The bare side is the same
model, optimiser, batches and validation without any of it, nothing read back, no log. Both start
from the same weights and must end with the same (that is asserted with one thread). Loading,
building and importing are left out on both sides.

With one thread CPU seconds are compared, the store's thread included; with two, wall seconds,
since waiting threads spin.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import MNIST, DataSpec, Digits
from engine.models import build, channel_statistics, weights_sha256
from engine.models.spec import CNN
from engine.runner import Runner
from engine.store import Workspace
from engine.task import BenchSpec
from engine.training.evaluating import BATCH
from engine.training.loop import Trainer
from engine.training.optimizers import make_optimizer
from engine.training.spec import Train
from tests.benchmarks.rows import Row, in_turn, ratios, spread

TARGET = 0.97
REPEATS = 9
MNIST_IMAGES = 4000


def main(data_root: Path | None = None) -> list[Row]:
    """A row for digits and for an MNIST-sized CNN, with one thread and with two."""
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    large: DataSpec = MNIST(limit=MNIST_IMAGES) if there else Digits(size=28)
    sets = {"digits, CNN, batches of 64": (Digits(), 64, 12)}
    name = "MNIST" if there else "digits at 28 x 28 (no --data-root)"
    sets[f"{name}, CNN, batches of 128"] = (large, 128, 2 if there else 4)
    rows = []
    for name, (data, batch, epochs) in sets.items():
        for threads in (1, 2):
            spec = Train(
                data=data,
                model=CNN(),
                batch_size=batch,
                epochs=epochs,
                seed=7,
                bench=BenchSpec(device="cpu", threads=threads),
            )
            rows.append(_compare(name, spec, data_root))
    return rows


def _compare(name: str, spec: Train, data_root: Path | None) -> Row:
    threads = spec.bench.threads
    clock = time.process_time if threads == 1 else time.perf_counter
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Path(folder), seed=spec.seed, spec=spec.bench)
        bench.data_root = data_root
        data = drained(load(spec.data or Digits(), bench))
        pixels = _pixels(data)

        def by_engine() -> float:
            seconds, hashes["engine"] = run_engine(spec, Path(folder), data_root, clock)
            return seconds

        def bare() -> float:
            torch.use_deterministic_algorithms(False)
            model = _model(spec, data, bench)
            seconds = run_bare(model, spec, data, pixels, bench, clock)
            hashes["bare"] = weights_sha256(model.state_dict())
            return seconds

        found = in_turn({"engine": by_engine, "bare": bare}, REPEATS)
    assert threads > 1 or hashes["engine"] == hashes["bare"], "the two do not do the same"
    kept = ratios(found["bare"], found["engine"])
    images = spec.epochs * (len(data.train) // spec.batch_size) * spec.batch_size
    rates = {way: images / statistics.median(seconds) for way, seconds in found.items()}
    unit = "CPU second" if threads == 1 else "second"
    return Row(
        f"training images/s against a bare loop, {name}, {threads} thread{'s'[: threads - 1]}",
        f">= {TARGET}",
        spread(kept),
        statistics.median(kept) >= TARGET,
        f"{rates['engine']:,.0f} and {rates['bare']:,.0f} images per {unit}; "
        + ("the same weights, bit for bit" if threads == 1 else "wall time"),
    )


def run_engine(
    spec: Train, folder: Path, data_root: Path | None, clock: Callable[[], float]
) -> tuple[float, str]:
    """Seconds that the training of one run took, and the hash of the weights it ended with."""
    workspace = Workspace(folder / "workspace")
    run = workspace.create(spec.to_dict(), name="benchmark")
    seconds: list[float] = []
    with _timed(clock, seconds):
        status = Runner(workspace, lambda run, events: None, data_root=data_root).run(run)
    info = run.info()
    assert status == "done", info.error
    return seconds[0], str(info.summary["weights_sha256"])


@contextmanager
def _timed(clock: Callable[[], float], seconds: list[float]) -> Generator[None]:
    """Takes the time from the first step to the last validation, whatever happens between."""
    train = Trainer.train

    def timed(trainer: Trainer) -> Generator[Any]:
        began = clock()
        yield from train(trainer)
        seconds.append(clock() - began)

    with mock.patch.object(Trainer, "train", timed):
        yield


def run_bare(
    model: nn.Module,
    spec: Train,
    data: Dataset,
    pixels: tuple[Tensor, Tensor],
    bench: Bench,
    clock: Callable[[], float],
) -> float:
    """Seconds of the loop as one writes it by hand; `pixels` are the uint8 images of the training
    and of the validation split."""
    train, validation = pixels
    optimizer = make_optimizer(spec.optimizer, model.parameters(), bench.device)
    loss_of = nn.CrossEntropyLoss()
    began = clock()
    for epoch in range(spec.epochs):
        order = torch.randperm(len(train), generator=bench.generator("order", epoch))
        model.train()
        for part in order.split(spec.batch_size):
            if len(part) == 1:
                continue
            images = train[part].to(torch.float32).div_(255)
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images), data.train.labels[part]).backward()
            optimizer.step()
        model.eval()
        correct, total = 0, 0.0
        with torch.no_grad():
            for part in torch.arange(len(validation)).split(BATCH):
                logits = model(validation[part].to(torch.float32).div_(255))
                labels = data.validation.labels[part]
                total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(1) == labels).sum())
    return clock() - began


def _model(spec: Train, data: Dataset, bench: Bench) -> nn.Module:
    mean, std = channel_statistics(data.train)
    return build(
        spec.model or CNN(),
        data.shape,
        len(data.classes),
        mean=mean,
        std=std,
        generator_seed=bench.derive("model"),
    )


def _pixels(data: Dataset) -> tuple[Tensor, Tensor]:
    def of(split: Any) -> Tensor:
        images, _ = split.batch(torch.arange(len(split)))
        return images.mul(255).round().to(torch.uint8)

    return of(data.train), of(data.validation)


def drained(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns, its events unheard."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
