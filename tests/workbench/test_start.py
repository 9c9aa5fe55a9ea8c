"""The command `workbench`: pictures, exit codes, and what it does without a display."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

from workbench import first_run
from workbench.app import arguments
from workbench.display import has_display
from workbench.panels import all_panels

RECIPE = """
[[task]]
name = "small"
kind = "train"
seed = 1
model = {kind = "mlp", width = 16, depth = 1}
data = {kind = "digits"}
epochs = 1

[[task]]
name = "hit"
kind = "attack"
model = "small"
attack = {kind = "fgsm", eps = 0.1}
samples = 30
"""


def workbench(*words: object, **changed: str) -> subprocess.CompletedProcess[str]:
    """The command without a display; what it prints as text."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    here = {name: value for name, value in os.environ.items() if name not in screens}
    return subprocess.run(
        [sys.executable, "-m", "workbench", *map(str, words)],
        env={**here, **changed},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_pictures_of_every_view(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    pictures = tmp_path / "pictures"
    done = workbench("--workspace", tmp_path / "w", "--recipe", recipe, "--screenshots", pictures)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in pictures.glob("*.png")}
    kinds = set(all_panels()) - {"count_for_tests"}  # which another test may have made here
    views = ("start", *kinds, "compare", "details")
    assert names >= {f"{view}-{mode}" for view in views for mode in ("light", "dark")}
    for name in ("start-light", "attack-dark"):
        image = QImage(str(pictures / f"{name}.png"))
        assert (image.width(), image.height()) == (1440, 900)
    light, dark = (QImage(str(pictures / f"train-{m}.png")) for m in ("light", "dark"))
    assert light.pixelColor(700, 20).lightness() > 200 > 60 > dark.pixelColor(700, 20).lightness()


@pytest.mark.parametrize(
    ("recipe", "code", "words"),
    [
        ('[[task]]\nname = "a"\nkind = "trian"\n', 2, "trian"),
        ("not a recipe", 2, "TOML"),
        ('[[task]]\nkind = "train"\ndata = {kind = "folder", path = "/nowhere"}\n', 1, ""),
    ],
)
def test_exit_code_is_the_recipes(tmp_path: Path, recipe: str, code: int, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    done = workbench(
        "--workspace", tmp_path / "w", "--recipe", path, "--screenshots", tmp_path / "p"
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ""}, False),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_display(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: bool
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert has_display() is expected


@pytest.mark.parametrize(
    ("screen", "why"),
    [
        ({}, "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"),
        ({"DISPLAY": ":4711"}, ":4711"),
    ],
)
def test_without_a_display_one_line_says_so(
    tmp_path: Path, screen: dict[str, str], why: str
) -> None:
    done = workbench("--workspace", tmp_path, **screen)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("workbench: no window can be opened: ")
    assert why in line
    assert "--screenshots DIR" in line


def test_the_window_and_the_command_line_share_a_default_workspace(tmp_path: Path) -> None:
    home = {"XDG_DATA_HOME": str(tmp_path / "data"), "QT_QPA_PLATFORM": "offscreen"}
    assert workbench("--exit-after-first-paint", **home).returncode == 0
    shared = tmp_path / "data" / "crucible" / "workspace"
    asked = subprocess.run(
        [sys.executable, "-m", "engine", "runs"],
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert f"engine: {shared} holds no runs yet" in asked.stderr


def test_without_display_runs_the_demo_and_takes_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[str, ...]] = []

    def call(command: tuple[str, ...]) -> int:
        called.append(tuple(command[2:]))
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    assert first_run.without_display(tmp_path / "demo") == 0
    assert called[0][:2] == ("engine", "run")
    assert called[0][2].endswith("first_minute.toml")
    assert called[1][0] == "workbench"
    assert "--screenshots" in called[1]
    assert capsys.readouterr().out.splitlines()[0].startswith("No display here")


def test_options() -> None:
    options = arguments(["--workspace", "w", "--theme", "dark", "--lang", "zh"])
    assert (options.workspace, options.theme, options.lang) == (Path("w"), "dark", "zh")
    with pytest.raises(SystemExit):
        arguments(["--theme", "pink"])
