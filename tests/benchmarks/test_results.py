"""What is kept of the runs of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import resources
from engine.recipe import read_recipe
from engine.task import parse_task
from tests.benchmarks.results import _brief

RECIPES = sorted(Path(resources.path("recipes")).glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_kept_spec_says_what_was_run_and_no_more(path: Path) -> None:
    for entry in read_recipe(path):
        brief = _brief(entry.task)
        assert "seed" not in brief
        whole = entry.task.to_dict()
        assert parse_task({**brief, "seed": whole["seed"]}).to_dict() == whole
        assert len(str(brief)) < len(str(whole)) / 2
