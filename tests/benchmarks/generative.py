"""What the engine costs a GAN: its trainer against the same steps in bare PyTorch, and several
seeds side by side against one.

The engine's side is the trainer with all that it does on the way: draws that can be repeated, live
values, looks, drawings, scalars. The bare side is a loop as one writes it: torch's own generator,
the same networks, losses, noise, Adam and moving average, nothing read back. One thread, CPU
seconds, the ways taking turns in one process.

*With the window drawing* the engine's side is a real engine process, with its store and sender, of
a real window (offscreen, in a process of its own) that shows the run. Window and engine are stopped
by SIGSTOP while the bare loop has its turn. Compared are CPU seconds of the engine process, all its
threads; wall seconds stand beside them, and mean something on a machine that does nothing else.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import resources
from engine.bench import Bench
from engine.events import drain
from engine.generative.points import point_set
from engine.generative.source import load_source
from engine.generative.spec import Gan
from engine.generative.spec.points import PointsSpec
from engine.generative.training import Trainer
from engine.recipe import read_recipe
from engine.store import Run
from engine.task import BenchSpec
from tests.benchmarks import window
from tests.benchmarks.rows import Row, in_turn, ratios, skipped, spread

ITERATIONS, IMAGE_ITERATIONS = 400, 6
REPEATS = 7
SEEDS = 8
SEEN_ITERATIONS = 600
"""Of a turn with the window; all turns together are fewer than the preset has."""

SEEN_REPEATS = 10


def main(data_root: Path | None = None) -> list[Row]:
    """Rows for points with and without the window, for seeds, and for images."""
    torch.set_num_threads(1)
    ring = _preset("gan_ring")
    return [_seen(ring), _points(ring), _seeds(ring), _images(data_root)]


def _preset(name: str) -> Gan:
    """The task `gan` of a recipe."""
    entries = read_recipe(resources.path("recipes", f"{name}.toml"), {})
    task = next(entry.task for entry in entries if entry.name == "gan")
    assert isinstance(task, Gan)
    return task


def trainer(spec: Gan, data_root: Path | None = None) -> Trainer:
    """As a run makes it."""
    folder = Path(tempfile.mkdtemp())
    machine = BenchSpec(device="cpu", threads=1)
    bench = Bench(folder, folder, spec=machine, data_root=data_root)
    return Trainer(spec, bench, drain(load_source(spec, bench)))


def engine(made: Trainer, iterations: int) -> Callable[[], float]:
    """CPU seconds of the next iterations of a run."""
    steps = made.train()

    def way() -> float:
        began, first = time.process_time(), made.at.iteration
        while made.at.iteration < first + iterations:
            next(steps)
        return (time.process_time() - began) / (made.at.iteration - first)

    return way


def bare(made: Trainer, iterations: int) -> Callable[[], float]:
    """CPU seconds of as many iterations without the engine, from the same weights."""
    spec, source = made.spec, made.source
    generator, critic = copy.deepcopy(made.generator).train(), copy.deepcopy(made.critic).train()
    average = copy.deepcopy(generator)
    rates = spec.rates
    adams = [
        torch.optim.Adam(network.parameters(), 1e-3, betas=(rates.beta1, rates.beta2), fused=True)
        for network in (critic, generator)
    ]
    size, latent = spec.batch_size, spec.latent
    points = point_set(spec.data) if isinstance(spec.data, PointsSpec) else None
    classes = made.draws.classes

    def latents() -> tuple[Tensor, Tensor | None]:
        drawn = torch.randn(size, latent.size)
        if latent.codes:
            code = F.one_hot(torch.randint(latent.codes, (size,)), latent.codes)
            drawn = torch.cat([drawn, code * latent.code_scale], 1)
        return drawn, torch.randint(classes, (size,)) if classes else None

    def real() -> tuple[Tensor, Tensor | None]:
        if points is not None:
            drawn = points.centres[torch.randint(len(points.centres), (size,))]
            return (drawn + points.sigma * torch.randn(size, 2)) / points.unit, None
        assert source.images is not None
        images, labels = source.images.train.batch(torch.randint(len(source.images.train), (size,)))
        return images * 2 - 1, labels if classes else None

    count = 0

    def one() -> None:
        nonlocal count
        noise = 0.1 if spec.steadying.instance_noise else 0.0
        x, y = real()
        z, told = latents()
        with torch.no_grad():
            fake = generator.made(z, told)
        both = torch.cat([x, fake])
        if noise:
            both = both + noise * torch.randn_like(both)
        penalised = spec.steadying.r1 and count % spec.steadying.penalty_every == 0
        both.requires_grad_(bool(penalised))
        labels = None if told is None or y is None else torch.cat([y, told])
        out = critic(both, labels)
        loss = F.softplus(-out[:size]).mean() + F.softplus(out[size:]).mean()
        if penalised:
            (slope,) = torch.autograd.grad(out.sum(), both, create_graph=True)
            squares = slope[:size].square().flatten(1).sum(1).mean()
            loss = loss + 0.5 * spec.steadying.penalty_every * spec.steadying.r1 * squares
        adams[0].zero_grad()
        loss.backward()
        adams[0].step()
        critic.requires_grad_(False)
        z, told = latents()
        fake = generator.made(z, told)
        if noise:
            fake = fake + noise * torch.randn_like(fake)
        adams[1].zero_grad()
        F.softplus(-critic(fake, told)).mean().backward()
        adams[1].step()
        critic.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(generator.parameters()), 1 - spec.ema
            )
        count += 1

    def way() -> float:
        began = time.process_time()
        for _ in range(iterations):
            one()
        return (time.process_time() - began) / iterations

    return way


# --- rows -----------------------------------------------------------------------------------------


def _seen(ring: Gan) -> Row:
    what, target = "2-D GAN iterations/s with the window drawing, against a bare loop", ">= 0.95"
    alone = bare(trainer(ring), ITERATIONS)
    alone()
    cpu: dict[str, list[float]] = {"bare": [], "engine": []}
    wall: dict[str, list[float]] = {"bare": [], "engine": []}
    drawn = 0.0
    with _window() as (process, run, pid):
        group = (pid, process.pid)
        _signal(signal.SIGSTOP, group)
        for _ in range(SEEN_REPEATS):
            began = time.perf_counter()
            cpu["bare"].append(alone())
            wall["bare"].append((time.perf_counter() - began) / ITERATIONS)
            first, before = _iteration(run), window._cpu(pid)
            own, began = window._cpu(process.pid), time.perf_counter()
            _signal(signal.SIGCONT, group)
            while _iteration(run) < first + SEEN_ITERATIONS:
                time.sleep(0.05)
            _signal(signal.SIGSTOP, group)
            count = _iteration(run) - first
            cpu["engine"].append((window._cpu(pid) - before) / count)
            wall["engine"].append((time.perf_counter() - began) / count)
            drawn += (window._cpu(process.pid) - own) / count / SEEN_REPEATS
        _signal(signal.SIGCONT, group)
    share = ratios(cpu["bare"], cpu["engine"])
    steps = {name: 1 / statistics.median(values) for name, values in cpu.items()}
    return Row(
        what,
        target,
        spread(share),
        statistics.median(share) >= 0.95,
        f"{steps['engine']:.0f} and {steps['bare']:.0f} a CPU second; by wall time "
        f"{spread(ratios(wall['bare'], wall['engine']))}; the window takes "
        f"{100 * drawn / statistics.median(cpu['engine']):.0f} % of what the engine does",
    )


@contextmanager
def _window() -> Iterator[tuple[subprocess.Popen[str], Run, int]]:
    """A window that shows the preset's run under way: its process, the run, its engine's pid."""
    # The engine process may still write its last words when we leave.
    place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    workspace = str(Path(place.name) / "workspace")
    command = [sys.executable, "-m", "tests.benchmarks.generative", workspace]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        hello: dict[str, Any] = json.loads(process.stdout.readline())
        yield process, Run(Path(hello["run"])), int(hello["worker"])
    finally:
        process.kill()  # its engine process reads the end of its input and leaves
        process.wait()
        place.cleanup()


def _signal(number: signal.Signals, pids: tuple[int, ...]) -> None:
    for pid in pids:
        os.kill(pid, number)


def _iteration(run: Run) -> int:
    """The last one that was said."""
    return run.scalars()["critic/loss"][0][-1]


def _points(ring: Gan) -> Row:
    made = trainer(ring)
    ways = {"bare": bare(made, ITERATIONS), "engine": engine(made, ITERATIONS)}
    found = in_turn(ways, REPEATS)
    share = ratios(found["bare"], found["engine"])
    steps = {name: 1 / statistics.median(values) for name, values in found.items()}
    return Row(
        "2-D GAN iterations/s against a bare loop, no window",
        ">= 0.95",
        spread(share),
        statistics.median(share) >= 0.95,
        f"{steps['engine']:.0f} and {steps['bare']:.0f} a second",
    )


def _seeds(ring: Gan) -> Row:
    several = ring.model_copy(update={"seeds": SEEDS})
    ways = {
        "one": engine(trainer(ring), ITERATIONS),
        "several": engine(trainer(several), ITERATIONS // 2),
    }
    found = in_turn(ways, REPEATS)
    price = ratios(found["several"], found["one"])
    times = {name: statistics.median(values) * 1e3 for name, values in found.items()}
    return Row(
        f"{SEEDS} seeds side by side, price in units of one (2-D)",
        "<= 4.2",
        spread(price, 2),
        statistics.median(price) <= 4.2,
        f"{times['several']:.2f} and {times['one']:.2f} ms an iteration",
    )


def _images(data_root: Path | None) -> Row:
    what, target = "DCGAN on MNIST, images/s against a bare loop", ">= 0.97"
    if data_root is None:
        return skipped(what, target)
    made = trainer(_preset("gan_mnist"), data_root)
    ways = {"bare": bare(made, IMAGE_ITERATIONS), "engine": engine(made, IMAGE_ITERATIONS)}
    found = in_turn(ways, REPEATS)
    share = ratios(found["bare"], found["engine"])
    size = made.spec.batch_size
    speed = {name: size / statistics.median(values) for name, values in found.items()}
    return Row(
        what,
        target,
        spread(share),
        statistics.median(share) >= 0.97,
        f"{speed['engine']:.0f} and {speed['bare']:.0f} a second",
    )


if __name__ == "__main__":
    window.TASK = {
        **_preset("gan_ring").model_dump(mode="json"),
        "bench": {"device": "cpu", "threads": 1},
    }
    window._be_window("show", Path(sys.argv[1]))
