"""What the engine costs a training: a run of the Runner against the same loop in bare PyTorch.

The engine's side is everything that `engine run` does while it trains: bursts, scalars, the store
with its thread, checkpoints, progress, the validation after each epoch. The bare side is the same
model, optimiser, batches and validation without any of it, nothing read back, no log. Both start
from the same weights and must end with the same (that is asserted with one thread). Loading,
building and importing are left out on both sides. So are diagnostics, which are measured by
themselves (`diagnostics`).

The two take turns several times a second, when the Runner would answer questions, so that a slow
spell of the machine hits both alike. With one thread CPU seconds are compared, the store's
thread counted as the engine's; with two, wall seconds, since threads that wait spin.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.data import Dataset, Split, load
from engine.data.spec import MNIST, DataSpec, Digits
from engine.events import drain
from engine.models import build, channel_statistics, weights_sha256
from engine.models.evaluating import BATCH
from engine.models.spec import CNN
from engine.runner import Runner
from engine.store import Workspace
from engine.task import BenchSpec
from engine.training.loop import Trainer
from engine.training.optimizers import make_optimizer
from engine.training.spec import Train
from tests.benchmarks.rows import Row, ratios, spread

TARGET = 0.97
REPEATS = 9
MNIST_IMAGES = 2000
SLICE = 0.4
"""Seconds until it is the bare loop's turn: long beside a commit to the store, short beside what
else the machine does."""


def main(data_root: Path | None = None) -> list[Row]:
    """A row for digits and for an MNIST-sized CNN, with one thread and with two."""
    there = data_root is not None and (data_root / "MNIST" / "raw").is_dir()
    large: DataSpec = MNIST(limit=MNIST_IMAGES) if there else Digits(size=28)
    sets = {"digits, CNN, batches of 64": (Digits(), 64, 12)}
    name = "MNIST" if there else "digits at 28 x 28 (no --data-root)"
    sets[f"{name}, CNN, batches of 128"] = (large, 128, 1)
    rows = []
    for name, (data, batch, epochs) in sets.items():
        for threads in (1, 2):
            spec = Train(
                data=data,
                model=CNN(),
                batch_size=batch,
                epochs=epochs,
                seed=7,
                diagnostics="off",
                bench=BenchSpec(device="cpu", threads=threads),
            )
            rows.append(_compare(name, spec, data_root))
    return rows


def _compare(name: str, spec: Train, data_root: Path | None) -> Row:
    threads = spec.bench.threads
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder), Path(folder), seed=spec.seed, spec=spec.bench, data_root=data_root
        )
        data = drain(load(spec.data or Digits(), bench))
        pixels = _pixels(data.train), _pixels(data.validation)
        duels = [Duel(spec, data, pixels, bench) for _ in range(1 + REPEATS)]
        for duel in duels:
            duel.fight(data_root)
    kept = ratios([d.bare for d in duels[1:]], [d.engine for d in duels[1:]])  # the first warms up
    images = duels[0].steps * spec.batch_size
    rates = [images / statistics.median(s) for s in zip(*((d.engine, d.bare) for d in duels[1:]))]
    unit = "CPU second" if threads == 1 else "second"
    return Row(
        f"training images/s against a bare loop, {name}, {threads} thread{'s'[: threads - 1]}",
        f">= {TARGET}",
        spread(kept),
        statistics.median(kept) >= TARGET,
        f"{rates[0]:,.0f} and {rates[1]:,.0f} images per {unit}; "
        + ("the same weights, bit for bit" if threads == 1 else "wall time"),
    )


class Duel:
    """One run of the engine, and the bare loop a few steps at a time in its pauses.

    `engine` and `bare` are the seconds of each.
    """

    def __init__(
        self, spec: Train, data: Dataset, pixels: tuple[Tensor, Tensor], bench: Bench
    ) -> None:
        self.engine = self.bare = 0.0
        self.steps = 0
        """Steps that the bare loop has taken."""
        self._spec = spec
        self._folder = bench.folder
        self._alone = spec.bench.threads == 1
        mean, std = channel_statistics(data.train)
        self._model = build(
            spec.model or CNN(),
            data.shape,
            len(data.classes),
            mean=mean,
            std=std,
            generator_seed=bench.derive("model"),
        )
        self._loop = bare_loop(self._model, spec, data, pixels, bench)
        self._trainer: Trainer | None = None
        self._away = self._went = 0.0

    def fight(self, data_root: Path | None) -> None:
        """Run both to their end."""
        workspace = Workspace(self._folder / "workspace")
        run = workspace.create(self._spec.to_dict(), name="benchmark")
        runner = Runner(
            workspace, lambda run, events: None, data_root=data_root, between=self._catch_up
        )
        train = Trainer.train

        def timed(trainer: Trainer) -> Generator[Any]:
            self._trainer = trainer
            self._went = time.perf_counter()
            began = self._clock()
            yield from train(trainer)
            self.engine = self._clock() - began - self._away
            self._trainer = None
            self._catch_up(to_the_end=True)

        with mock.patch.object(Trainer, "train", timed):
            status = runner.run(run)
        info = run.info()
        assert status == "done", info.error
        mine = weights_sha256(self._model.state_dict())
        same = mine == info.summary["weights_sha256"]
        assert same or not self._alone, "the two do not do the same"

    def _catch_up(self, to_the_end: bool = False) -> None:
        """Let the bare loop take as many steps as the engine has."""
        going_on = self._trainer is None or time.perf_counter() - self._went < SLICE
        if going_on and not to_the_end:
            return
        came = self._own_clock()
        torch.use_deterministic_algorithms(False)
        began = self._own_clock()
        goal = math.inf if self._trainer is None else self._trainer.at.step
        while self.steps < goal and next(self._loop, None) is not None:
            self.steps += 1
        self.bare += self._own_clock() - began
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._away += self._own_clock() - came
        self._went = time.perf_counter()

    def _clock(self) -> float:
        """CPU seconds of the process, or wall seconds where there are several threads."""
        return time.process_time() if self._alone else time.perf_counter()

    def _own_clock(self) -> float:
        """The same of this thread alone: what the store does meanwhile is the engine's."""
        return time.thread_time() if self._alone else time.perf_counter()


def bare_loop(
    model: nn.Module, spec: Train, data: Dataset, pixels: tuple[Tensor, Tensor], bench: Bench
) -> Iterator[int]:
    """The training as one writes it by hand, a step at a time; `pixels` are the uint8 images of
    the training and of the validation split."""
    train, validation = pixels
    optimizer = make_optimizer(spec.optimizer, model.parameters(), bench.device)
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(spec.epochs):
        order = torch.randperm(len(train), generator=bench.generator("order", epoch))
        model.train()
        for number, part in enumerate(order.split(spec.batch_size)):
            if len(part) == 1:
                continue
            images = train[part].to(torch.float32).div_(255)
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images), data.train.labels[part]).backward()
            optimizer.step()
            yield number
        model.eval()
        correct, total = 0, 0.0
        with torch.no_grad():
            for part in torch.arange(len(validation)).split(BATCH):
                logits = model(validation[part].to(torch.float32).div_(255))
                labels = data.validation.labels[part]
                total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(1) == labels).sum())


def _pixels(split: Split) -> Tensor:
    images, _ = split.batch(torch.arange(len(split)))
    return images.mul(255).round().to(torch.uint8)
