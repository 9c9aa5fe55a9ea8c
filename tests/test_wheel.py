"""The wheel, installed elsewhere: everything is in it, and the demo recipe runs from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("engine", "workbench", "resources")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed to. It is built from a copy: building in the
    checkout leaves folders there."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target, uv = folder / "source", folder / "site", Path(sys.executable).parent / "uv"
    source.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    quiet = ("--quiet", "--offline", "--python", sys.executable)
    run(uv, "build", *quiet, "--wheel", "--no-build-isolation", "-o", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    run(uv, "pip", "install", *quiet, "--no-deps", "--target", target, wheel, cwd=folder)
    return target


def python(installed: Path, cwd: Path, *arguments: str | Path) -> str:
    return run(sys.executable, *arguments, cwd=cwd, PYTHONPATH=str(installed))


def test_the_wheel_holds_what_the_checkout_does(installed: Path) -> None:
    for name in SOURCES:
        here = {
            path.relative_to(ROOT)
            for path in (ROOT / name).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        there = {path.relative_to(installed) for path in (installed / name).rglob("*")}
        assert here <= there, sorted(here - there)
    assert not (installed / "tests").exists()


def test_resources_are_found_where_they_are_installed(installed: Path, tmp_path: Path) -> None:
    parts: tuple[tuple[str, ...], ...] = (
        ("icons", "play.svg"),
        ("fonts", "Inter-Regular.otf"),
        ("translations", "zh.json"),
        ("recipes", "first_minute.toml"),
        ("presets.toml",),
        ("system.sh",),
    )
    program = (
        "import json, sys; from engine.resources import path; "
        "print(json.dumps([str(path(*parts)) for parts in json.loads(sys.argv[1])]))"
    )
    found = json.loads(python(installed, tmp_path, "-c", program, json.dumps(parts)))
    assert found == [str(installed.joinpath("resources", *part)) for part in parts]


def test_the_demo_recipe_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    recipe = installed / "resources" / "recipes" / "first_minute.toml"
    w = tmp_path / "w"
    quick = (
        "plain.epochs=1",
        "broken.samples=8",
        "hardened.epochs=1",
        "hardened.adversarial.attack.steps=1",
        "attacked again.samples=8",
    )
    changes = [text for change in quick for text in ("--set", change)]
    engine = ("-m", "engine")
    python(installed, tmp_path, *engine, "run", recipe, "--workspace", w, *changes)

    def answer(*command: str | Path) -> Any:
        return json.loads(python(installed, tmp_path, *engine, *command, "--workspace", w))

    runs = answer("runs", "--json")
    assert {run["status"] for run in runs} == {"done"}
    assert len(runs) == 5
    shown = answer("show", "exported", "--json")
    assert Path(shown["summary"]["file"]).is_file()
    opened = tmp_path / "model.safetensors"
    key = w / "keys" / "identity.txt"
    file = shown["summary"]["file"]
    python(installed, tmp_path, *engine, "open", file, "--identity", key, "--to", opened)
    hardened = w / "runs" / answer("show", "hardened", "--json")["id"] / "model.safetensors"
    assert opened.read_bytes() == hardened.read_bytes()


def test_both_commands_are_installed(installed: Path) -> None:
    for name in ("engine", "workbench"):
        script = installed / "bin" / name
        assert f"from {name}.__main__ import main" in script.read_text()
