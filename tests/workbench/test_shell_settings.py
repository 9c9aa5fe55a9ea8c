"""What the window remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.settings import Settings, load


def test_remembers(tmp_path: Path) -> None:
    path = tmp_path / "a" / "window.json"
    settings = load(path)
    settings.theme, settings.sizes, settings.scale = "dark", {"runs": 300}, 1.25
    settings.save()
    again = load(path)
    assert (again.theme, again.sizes, again.scale) == ("dark", {"runs": 300}, 1.25)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"width": "wide", "theme": 3, "new": 1}'])
def test_damaged_file_means_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "window.json"
    path.write_text(text)
    assert vars(load(path)) == vars(Settings(path=path))


def test_whole_numbers_are_scales_too(tmp_path: Path) -> None:
    path = tmp_path / "window.json"
    path.write_text(json.dumps({"scale": 1, "width": 1000}))
    settings = load(path)
    assert settings.scale == 1.0
    assert settings.width == 1000


def test_unwritable_place_is_no_reason_to_stop() -> None:
    Settings(path=Path("/proc/nowhere/window.json")).save()
