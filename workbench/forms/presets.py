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
    name: str
    help: str
    cite: str
    values: Values


@functools.cache
def presets() -> tuple[Preset, ...]:
    """Every preset, in the order of the file."""
    text = resources.path("presets.toml").read_text(encoding="utf-8")
    return tuple(
        Preset(p["task"], p["name"], p["help"], p.get("cite", ""), p["values"])
        for p in tomllib.loads(text)["preset"]
    )


def presets_of(task: str) -> tuple[Preset, ...]:
    """Those of one kind of task."""
    return tuple(preset for preset in presets() if preset.task == task)
