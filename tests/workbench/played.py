"""Runs of the playground on disk, made without an engine: their arrays are drawn from closed forms,
so that tests know what must be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.events import Array, Event, Images, Scalars, Table
from engine.store import Run
from tests.workbench.stored import make_run

Floats = NDArray[np.float32]
EXTENT = (-1.6, 1.6, -1.6, 1.6)
MODES = 8
KEPT = (0, 100, 200, 300)
HEALTH = ("seed", "trouble", "evidence", "try_1", "try_2")
FIRST_SEED = 5
SPEC: dict[str, Any] = {
    "kind": "gan",
    "seed": FIRST_SEED,
    "seeds": 1,
    "data": {"kind": "ring", "modes": MODES, "radius": 1.0, "sigma": 0.01},
    "latent": {"size": 2, "distribution": "normal", "codes": 0, "code_scale": 8.0},
    "generator": {"kind": "mlp", "width": 64, "depth": 2},
    "critic": {"kind": "mlp", "width": 64, "depth": 2},
    "conditional": "none",
    "loss": {"kind": "non_saturating"},
    "rates": {"generator_lr": 0.002, "critic_lr": 0.002},
    "steadying": {"instance_noise": 0.0},
    "critic_steps": 1,
    "generator_steps": 1,
    "iterations": 4000,
}


def ring(count: int, sigma: float, random: np.random.Generator) -> Floats:
    """Points of the ring of 8."""
    angle = 2 * np.pi * random.integers(0, MODES, count) / MODES
    middle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return (middle + random.normal(0, sigma, (count, 2))).astype(np.float32)


def plane_events(seeds: int = 1, points: int = 512, steps: tuple[int, ...] = KEPT) -> list[Event]:
    """What a training in the plane says: samples that close in on the ring, of each seed."""
    random = np.random.default_rng(3)
    said: list[Event] = [Array("real", ring(points, 0.01, random))]
    for step in steps:
        spread = 0.5 * 0.2 ** (step / max(steps[-1], 1))
        samples = np.stack([ring(points, spread, random) for _ in range(seeds)])
        said.append(Array("generated", samples, step, keep=True))
    last = steps[-1]
    x = np.linspace(EXTENT[0], EXTENT[1], 64)
    right, up = np.meshgrid(x, x)
    # A quarter at the left edge, three quarters at the right one, whatever the height.
    surface = np.repeat((0.5 + right / 6.4)[None], seeds, 0).astype(np.float32)
    surface = surface * 0.4 + 0.6 / (
        1 + np.exp(-(3 * np.cos(8 * np.arctan2(up, right)) - 6 * (np.hypot(right, up) - 1) ** 2))
    )
    start = samples[:, :64]
    arrows = np.concatenate([start, 0.2 * start[..., ::-1]], -1)
    codes = np.linspace(-1.5, 1.5, 9)
    across, down = np.meshgrid(codes, codes)
    grid = np.stack([np.cos(across * 2) + 0.1 * down, np.sin(across * 2) - 0.1 * down], -1)
    manifold = np.repeat(grid[None, None], seeds, 0)
    shares = np.full((seeds, MODES), 1 / (MODES - 1), np.float32)
    shares[:, 2] = 0
    about = {"extent": list(EXTENT), "kind": "probability"}
    said += [
        Array("surface", surface.astype(np.float32), last, about=about),
        Array("arrows", arrows.astype(np.float32), last),
        Array("manifold", manifold.astype(np.float32), last),
        Array(
            "modes",
            shares,
            last,
            about={"expected": [1 / MODES] * MODES, "labels": [str(k + 1) for k in range(MODES)]},
        ),
    ]
    return said


def image_events(seeds: int = 1, each: int = 16, side: int = 12) -> list[Event]:
    """What a training on images says: pictures that get brighter with time and with the seed."""
    captions = tuple(
        {"seed": FIRST_SEED + s, "label": k % 10} for s in range(seeds) for k in range(each)
    )
    random = np.random.default_rng(1)
    y, x = np.mgrid[:side, :side]
    said: list[Event] = []
    for step in KEPT:
        pixels = np.stack(
            [
                np.clip(
                    255
                    * np.exp(
                        -((x - side / 2 - 2 * np.cos(k)) ** 2 + (y - side / 2 - 2 * np.sin(k)) ** 2)
                        / 9
                    )
                    * (step + 100)
                    / 400
                    + random.normal(0, 60 * (1 - step / 400), (side, side)),
                    0,
                    255,
                )
                for k in range(seeds * each)
            ]
        )[..., None].astype(np.uint8)
        said.append(Images("samples", pixels, captions, step, keep=True))
    said.append(Images("neighbours", 255 - pixels, captions, KEPT[-1]))
    return said


def curve_events(seeds: int = 1, steps: int = 300, *, plane: bool = True) -> list[Event]:
    """Losses, norms and outputs of each seed."""
    said: list[Event] = []
    for step in range(1, steps + 1, 10):
        values: dict[str, float] = {}
        for k in range(seeds):
            end = "" if k == 0 else f"@{k}"
            values |= {
                f"critic{end}/loss": 1.2 + k + np.sin(step / 30) / step,
                f"generator{end}/loss": 0.8 + k + np.cos(step / 30) / step,
                f"critic{end}/gradient_norm": 0.3,
                f"generator{end}/gradient_norm": 0.2,
                f"critic{end}/real": 0.6,
                f"critic{end}/fake": 0.4,
            }
            if plane:
                values |= {
                    f"samples{end}/modes_covered": min(k + 1 + step // 50, MODES - 1),
                    f"samples{end}/high_quality": step / (steps + 20 * k),
                    f"samples{end}/diversity": 0.9,
                }
            else:
                values |= {f"samples{end}/fid": 300 / step + k, f"samples{end}/diversity": 0.9}
        said.append(Scalars(step, values))
    return said


def health(*rows: tuple[Any, ...]) -> Table:
    return Table("health", HEALTH, rows)


COLLAPSE = (
    FIRST_SEED,
    "collapse",
    "modes_reached=1, modes=8, diversity=0.04",
    "instance_noise=0.2",
    "loss.kind=relativistic",
)


def played(
    workspace: Path,
    name: str = "ring",
    *,
    seeds: int = 1,
    images: bool = False,
    troubles: tuple[tuple[Any, ...], ...] = (),
    status: str = "done",
    **spec: Any,
) -> Run:
    """A run as the engine would have left it."""
    data = {"data": {"kind": "digits"}} if images else {}
    events = [
        *(image_events(seeds) if images else plane_events(seeds)),
        *curve_events(seeds, plane=not images),
        health(*troubles),
    ]
    return make_run(
        workspace,
        name,
        {**SPEC, "seeds": seeds, **data, **spec},
        status=status,
        events=tuple(events),
    )
