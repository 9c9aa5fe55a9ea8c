"""What one frame of the playground's plane costs: 2,048 real and 2,048 generated points, the
critic's ground of 64 x 64, 128 arrows and the generator's grid of 16 x 16, all of them new, drawn
into a card of 560 x 520 pixels; CPU milliseconds of the window's process, offscreen. Beside it the
same with each dot painted by itself, and eight seeds side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.rows import Row, in_turn, spread

TARGET = 8.0
POINTS, GROUND, ARROWS, GRID = 2048, 64, 128, 16
FRAMES, REPEATS = 60, 7


def main(data_root: Path | None = None) -> list[Row]:
    """The row."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6.QtWidgets import QApplication

    from workbench import theme

    app = QApplication.instance() or QApplication([])
    theme.install(app, "light")  # type: ignore[arg-type]
    from workbench.views.scene import SceneCard
    from workbench.views.seeds import SeedsCard, Small

    scenes = [_scene(seed) for seed in range(8)]
    card, strip = SceneCard(), SeedsCard()
    card.resize(560, 520)
    strip.resize(800, 180)
    for each in (card, strip):
        each.show()
    app.processEvents()

    def large(exact: bool) -> None:
        card.drawing.exact = exact
        for scene in scenes:
            card.show_scene(scene)
            card.drawing.repaint()
        card.drawing.exact = False

    def seeds() -> None:
        strip.set_seeds([Small(k, scene) for k, scene in enumerate(scenes)])
        strip.drawing.repaint()

    found = in_turn(
        {
            "frame": lambda: _cpu(lambda: large(False), FRAMES // 8) / 8,
            "painted": lambda: _cpu(lambda: large(True), 2) / 8,
            "seeds": lambda: _cpu(seeds, FRAMES // 4),
        },
        REPEATS,
    )
    frame = found["frame"]
    assert card.drawing.ground is not None  # else nothing was painted
    return [
        Row(
            "a frame of the playground's plane: 2,048 points, heat map 64 x 64, arrows",
            f"<= {TARGET:g} ms",
            f"{spread(frame, 1)} ms",
            sorted(frame)[len(frame) // 2] <= TARGET,
            f"of CPU; with each dot painted by itself {spread(found['painted'], 1)} ms; eight "
            f"seeds side by side {spread(found['seeds'], 1)} ms",
        )
    ]


def _cpu(call: Callable[[], None], times: int) -> float:
    """Milliseconds of CPU of a call."""
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times * 1000


def _scene(seed: int) -> Any:
    """A ring of 8 that is nearly learnt."""
    from workbench.views.scene import Scene

    random = np.random.default_rng(seed)

    def ring(sigma: float) -> Any:
        angle = 2 * np.pi * random.integers(0, 8, POINTS) / 8
        middle = np.stack([np.cos(angle), np.sin(angle)], 1)
        return (middle + random.normal(0, sigma, (POINTS, 2))).astype(np.float32)

    generated = ring(0.15)
    axis = np.linspace(-1.6, 1.6, GROUND)
    x, y = np.meshgrid(axis, axis)
    surface = 1 / (1 + np.exp(4 * np.abs(np.hypot(x, y) - 1) - 1 - 0.1 * seed))
    start = generated[:ARROWS]
    codes = np.linspace(-2, 2, GRID)
    right, up = np.meshgrid(codes, codes)
    grid = np.stack([np.cos(right) * (1 + 0.2 * up), np.sin(right) * (1 + 0.2 * up)], -1)
    return Scene(
        (-1.6, 1.6, -1.6, 1.6),
        _REAL,
        generated,
        surface.astype(np.float32),
        True,
        np.concatenate([start, 0.1 * start], 1),
        grid[None].astype(np.float32),
        seed,
    )


_REAL = np.random.default_rng(99).normal(0, 0.7, (POINTS, 2)).astype(np.float32)
"""They never move."""
