"""Accuracy and loss of a model on a split."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import nn

from engine.bench import Bench
from engine.data import Split
from engine.events import Event, Progress

BATCH = 500
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`accuracy` is correct / samples; `loss` the mean cross-entropy in nats."""

    accuracy: float
    loss: float
    correct: int
    samples: int


def evaluate(
    model: nn.Module, split: Split, bench: Bench, batch_size: int = BATCH
) -> Generator[Event, None, Evaluation]:
    """Judge `model` (in eval mode) on every image of the split, in float32.

    Yields Progress every 50 ms, so short ones pass without a word.
    """
    loss = torch.zeros((), dtype=torch.float64, device=bench.device)
    correct = torch.zeros((), dtype=torch.int64, device=bench.device)
    done, last = 0, time.perf_counter()
    for _, images, labels in split.batches(torch.arange(len(split)), batch_size):
        with torch.no_grad():
            logits = model(images).float()
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
        done += len(labels)
        if time.perf_counter() - last > PAUSE:
            yield Progress(done, len(split), "images")
            last = time.perf_counter()
    hits, total = int(correct), max(done, 1)
    return Evaluation(hits / total, float(loss) / total, hits, done)
