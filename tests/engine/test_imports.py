"""Who may import whom, looked at in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules_after(code: str) -> set[str]:
    program = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return {name.split(".")[0] for name in json.loads(out.splitlines()[-1])}


def every_module(package: str) -> list[str]:
    files = (ROOT / package).rglob("*.py")
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def test_engine_imports_no_qt() -> None:
    loaded = modules_after("\n".join(f"import {name}" for name in every_module("engine")))
    assert "torch" in loaded
    assert not loaded & {"PySide6", "shiboken6", "pyqtgraph", "workbench"}


def test_workbench_imports_no_torch() -> None:
    code = "import os; os.environ['QT_QPA_PLATFORM'] = 'offscreen'\n"
    loaded = modules_after(code + "\n".join(f"import {m}" for m in every_module("workbench")))
    assert "PySide6" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "opacus", "flwr"}


@pytest.mark.parametrize(
    "code",
    [
        "from engine.task import discover; discover()",
        "import engine.store, engine.recipe, engine.events, engine.commands",
        "import engine.data, engine.models, engine.attacks, engine.vault, engine.training",
    ],
)
def test_what_both_sides_share_is_light(code: str) -> None:
    assert not modules_after(code) & {"torch", "numpy", "sklearn", "PySide6"}
