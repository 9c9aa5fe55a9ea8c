"""What the window remembers from one start to the next: one small JSON file a person.

Nothing in it is needed: a file that is missing or damaged means the defaults, and a place that
cannot be written to is no reason to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

APP = "crucible"


@dataclass
class Settings:
    """`sizes` are pixels of the panes by their name, 0 where one is folded away."""

    theme: str = "system"
    language: str = ""
    scale: float = 1.0
    workspace: str = ""
    width: int = 1440
    height: int = 900
    maximized: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last values of each task kind's form."""

    path: Path | None = field(default=None, repr=False)

    def save(self) -> None:
        if self.path is None:
            return
        values = {k: v for k, v in vars(self).items() if k != "path"}
        temporary = self.path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
            temporary.replace(self.path)


def settings_file() -> Path:
    return platformdirs.user_config_path(APP) / "window.json"


def load(path: Path | None = None) -> Settings:
    """The settings in `path` (the usual place by default), defaults where it says nothing."""
    path = path or settings_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    return Settings(**_fitting(stored), path=path)


def _fitting(stored: Any) -> dict[str, Any]:
    """Only what we know, and only where it is of the right type."""
    if not isinstance(stored, Mapping):
        return {}
    defaults = Settings()
    fitting: dict[str, Any] = {}
    for known in dataclasses.fields(Settings):
        default, value = getattr(defaults, known.name), stored.get(known.name)
        if known.name == "path" or value is None:
            continue
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is type(default):
            fitting[known.name] = value
    return fitting
