"""What a private step costs: forward, clipped sum, noise and SGD, against the step without privacy,
and against Opacus in each of its modes.

The network is that of Opacus' MNIST example; one thread, CPU seconds, the ways taking turns in one
process on the same random images. Each ratio is of the same turn, so that a slow spell of the
machine hits both. Our own small networks come after, without Opacus. Memory is the peak of what
torch has allocated during a step, without the weights.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from engine.bench import Bench
from engine.models import zoo
from engine.models.spec import CNN, LeNet, Strided
from engine.privacy import recording
from engine.privacy.clipping import Clipper
from engine.privacy.noise import SeededDraws
from tests.benchmarks.rows import Row, in_turn, ratios, spread

SHAPE = (1, 28, 28)
LR, BOUND, NOISE = 0.1, 1.0, 1.1
MODES = ("hooks", "ew", "functorch", "ghost")
TARGETS = {256: (1.45, 0.87), 1024: (1.42, 0.6)}
"""By batch size: of the step without privacy, and of Opacus' best mode."""

MEMORY = 1.5
REPEATS = {64: 41, 256: 21, 1024: 9}
OWN_REPEATS = {64: 15, 256: 7}

Step = Callable[[], None]


def main(data_root: Path | None = None) -> list[Row]:
    """Rows for the steps, the memory, and our own networks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [row for count in REPEATS for row in _against_opacus(count)]
    rows.append(_memory(1024))
    own = {
        "cnn, group norm": lambda: zoo.cnn(CNN(norm="group"), SHAPE, 10),
        "strided": lambda: zoo.strided(Strided(), SHAPE, 10),
        "lenet": lambda: zoo.lenet(LeNet(), SHAPE, 10),
    }
    return rows + [_own(name, make, count) for name, make in own.items() for count in OWN_REPEATS]


def network() -> nn.Module:
    """That of Opacus' MNIST example."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


# --- steps ----------------------------------------------------------------------------------------


def plain(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> Step:
    """As one trains without privacy."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), LR)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def private(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> Step:
    """As the engine takes it."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), LR)
    clipper = Clipper(model)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    folder = Path(tempfile.gettempdir())
    draws = SeededDraws(Bench(folder, folder))
    criterion = nn.CrossEntropyLoss(reduction="none")

    def weigh(norms: Tensor) -> Tensor:
        return (BOUND / norms.square().sum(0).sqrt()).clamp_max(1.0)

    def step() -> None:
        clipper.sum(images, labels, criterion, weigh)
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        gradient.add_(draws.normal("noise", 0, len(gradient)), alpha=NOISE * BOUND)
        gradient.div_(len(images))
        for parameter, part in zip(parameters, gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()

    return step


def as_torch_pools(step: Step) -> Step:
    """The private step without its quicker pooling, from which a step without privacy would gain
    as much."""

    def way() -> None:
        with mock.patch.dict(recording.QUICKER, clear=True):
            step()

    return way


def by_opacus(mode: str, images: Tensor, labels: Tensor) -> Step:
    """As Opacus takes it in one of its modes."""
    from opacus import PrivacyEngine

    model = network()
    private = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), LR),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(images, labels), batch_size=len(images)),
        noise_multiplier=NOISE,
        max_grad_norm=BOUND,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    module, optimizer = private[:2]
    criterion = private[2] if mode == "ghost" else nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        criterion(module(images), labels).backward()
        optimizer.step()

    return step


def timed(step: Step) -> Callable[[], float]:
    """CPU seconds of a step."""

    def way() -> float:
        began = time.process_time()
        step()
        return time.process_time() - began

    return way


# --- rows -----------------------------------------------------------------------------------------


def _batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.rand(count, *SHAPE, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def _against_opacus(count: int) -> list[Row]:
    images, labels = _batch(count)
    steps = {"plain": plain(network, images, labels), "private": private(network, images, labels)}
    steps["as_torch_pools"] = as_torch_pools(private(network, images, labels))
    steps |= {mode: by_opacus(mode, images, labels) for mode in MODES}
    found = in_turn({name: timed(step) for name, step in steps.items()}, REPEATS[count])
    cost = {name: ratios(values, found["plain"]) for name, values in found.items()}
    best = min(MODES, key=lambda mode: statistics.median(cost[mode]))
    share = ratios(found["private"], found[best])
    limits = TARGETS.get(count)
    seconds = {name: f"{statistics.median(found[name]) * 1e3:.1f}" for name in found}
    modes = ", ".join(f"{mode} {statistics.median(cost[mode]):.2f}" for mode in MODES)
    return [
        Row(
            f"DP-SGD step against non-private, Opacus' MNIST CNN, batch {count}",
            f"<= {limits[0]}" if limits else "",
            spread(cost["private"], 2),
            statistics.median(cost["private"]) <= limits[0] if limits else None,
            f"{seconds['private']} and {seconds['plain']} ms; with torch's own max-pooling "
            f"{statistics.median(cost['as_torch_pools']):.2f}; Opacus: {modes}",
        ),
        Row(
            f"DP-SGD step against Opacus' best mode ({best}), batch {count}",
            f"<= {limits[1]}" if limits else "",
            spread(share, 2),
            statistics.median(share) <= limits[1] if limits else None,
            f"{seconds['private']} and {seconds[best]} ms",
        ),
    ]


def _own(name: str, make: Callable[[], nn.Module], count: int) -> Row:
    images, labels = _batch(count)
    ways = {way.__name__: timed(way(make, images, labels)) for way in (plain, private)}
    found = in_turn(ways, OWN_REPEATS[count])
    cost = ratios(found["private"], found["plain"])
    seconds = [statistics.median(found[way]) * 1e3 for way in ("private", "plain")]
    return Row(
        f"DP-SGD step against non-private, {name}, batch {count}",
        "",
        spread(cost, 2),
        None,
        f"{seconds[0]:.1f} and {seconds[1]:.1f} ms",
    )


def _memory(count: int) -> Row:
    images, labels = _batch(count)
    peaks = [peak(way(network, images, labels)) for way in (private, plain)]
    share = peaks[0] / peaks[1]
    return Row(
        f"memory of a DP-SGD step against non-private, batch {count}",
        f"<= {MEMORY}",
        f"{share:.2f}",
        share <= MEMORY,
        f"{peaks[0] / 2**20:.0f} and {peaks[1] / 2**20:.0f} MB allocated at most",
    )


def peak(step: Step) -> int:
    """The most bytes that torch has allocated at a time while a step is taken, over before."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        step()
    changes = [e for e in measured.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
