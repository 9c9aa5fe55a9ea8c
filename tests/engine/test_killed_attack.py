"""An attack whose process is killed goes on, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.store import Workspace
from engine.store.workspace import Run
from tests.engine.cli import ROOT, TINY, engine, recipe, tasks, wait_until

OFTEN = """
import sys
import engine.bench as bench
bench.CHECKPOINT_EVERY, bench.CHECKPOINT_SHARE, bench.FIRST_SAVE = 0.1, 0.0, 0.0
from engine.__main__ import main
sys.exit(main(sys.argv[1:]))
"""

RECIPE = tasks(
    f'name = "plain"\nkind = "train"\nepochs = 2\n{TINY}',
    'name = "broken"\nkind = "attack"\nmodel = "plain"\n'
    'attack = {kind = "boundary", steps = 600}\n'
    'samples = 40\nbatch_size = 20\nshow = 6\nbench = {device = "cpu", threads = 1}',
)


def attack_run(workspace: Path) -> Run:
    found = next(info for info in Workspace(workspace).runs() if info.name == "broken")
    return Run(Workspace(workspace).folder / found.id)


def record(run: Run) -> tuple[Any, ...]:
    """Everything that a run leaves, but for the time it took."""
    summary = dict(run.info().summary)
    for name in ("seconds", "images_per_second"):
        del summary[name]
    scalars = {name: (list(s), list(v)) for name, (s, v) in run.scalars().items()}
    pictures = {p.name: p.read_bytes() for p in (run.folder / "images").glob("*.frames")}
    return summary, scalars, pictures, (run.folder / "adversarial.safetensors").read_bytes()


def test_a_killed_attack_goes_on(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", RECIPE)
    assert engine("run", file, "--workspace", tmp_path / "whole").code == 0
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", OFTEN, "run", str(file), "--workspace", str(killed)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def far_enough() -> bool:
        """In the second batch."""
        for manifest in killed.glob("runs/*/checkpoints/manifest.json"):
            if any(600 < entry["step"] < 1100 for entry in json.loads(manifest.read_text())):
                return True
        return child.poll() is not None

    wait_until(far_enough)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    run = attack_run(killed)
    assert run.info().status in ("running", "interrupted")
    said = engine("resume", run.info().id, "--workspace", killed)
    assert said.code == 0, said.err
    assert record(attack_run(killed)) == record(attack_run(tmp_path / "whole"))
