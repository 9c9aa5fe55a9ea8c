"""Settings to start from, by task, as `resources/presets.toml` lists them."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass

from engine import resources
from workbench.forms.reading import Values


@dataclass(frozen=True, slots=True)
class Preset:
    task: str
    place: str
    """Where in the window it is offered: the task's own place, or one for a part of its runs."""
    name: str
    help: str
    cite: str
    values: Values


@functools.cache
def presets() -> tuple[Preset, ...]:
    """Every preset, in the order of the file."""
    text = resources.path("presets.toml").read_text(encoding="utf-8")
    return tuple(
        Preset(
            p["task"],
            p.get("place", p["task"]),
            p["name"],
            p["help"],
            p.get("cite", ""),
            p["values"],
        )
        for p in tomllib.loads(text)["preset"]
    )


def presets_of(place: str) -> tuple[Preset, ...]:
    """Those of one place: of a kind of task, or of a part of one."""
    return tuple(preset for preset in presets() if preset.place == place)
