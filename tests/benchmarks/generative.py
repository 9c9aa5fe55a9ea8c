"""What the engine costs a GAN: its trainer against the same steps in bare PyTorch, and several
seeds side by side against one.

The engine's side is the trainer with all that it does on the way: draws that can be repeated, live
values, looks, drawings, scalars. The bare side is a loop as one writes it: torch's own generator,
the same networks, losses, noise, Adam and moving average, nothing read back. One thread, CPU
seconds, the ways taking turns in one process. (What the window and the store cost is measured
elsewhere: `window`.)
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
from engine.task import BenchSpec
from tests.benchmarks.rows import Row, in_turn, ratios, skipped, spread

ITERATIONS, IMAGE_ITERATIONS = 400, 6
REPEATS = 7
SEEDS = 8


def main(data_root: Path | None = None) -> list[Row]:
    """Rows for points, for seeds, and for images."""
    torch.set_num_threads(1)
    ring = _preset("gan_ring")
    return [_points(ring), _seeds(ring), _images(data_root)]


def _preset(name: str) -> Gan:
    """The task `gan` of a recipe, so long that it does not end while it is measured."""
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


def _points(ring: Gan) -> Row:
    spec = ring.model_copy(update={"iterations": ITERATIONS * (REPEATS + 2)})
    made = trainer(spec)
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
    spec = ring.model_copy(update={"iterations": ITERATIONS * (REPEATS + 2)})
    several = spec.model_copy(update={"seeds": SEEDS})
    ways = {
        "one": engine(trainer(spec), ITERATIONS),
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
