"""What is kept of the runs of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import resources
from engine.recipe import entries, read_recipe
from engine.store import Workspace
from engine.task import parse_task
from tests.benchmarks.results import _brief, _found

RECIPES = sorted(Path(resources.path("recipes")).glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_kept_spec_says_what_was_run_and_no_more(path: Path) -> None:
    for entry in read_recipe(path):
        brief = _brief(entry.task)
        assert "seed" not in brief
        whole = entry.task.to_dict()
        assert parse_task({**brief, "seed": whole["seed"]}).to_dict() == whole
        assert len(str(brief)) < len(str(whole))


def test_a_run_on_another_model_of_the_name_does_not_count(tmp_path: Path) -> None:
    """As after a recipe's learning rate was changed: what attacked the old model is no figure of
    the new one."""
    attack = {"name": "broken", "kind": "attack", "model": "net", "attack": {"kind": "fgsm"}}
    workspace = Workspace(tmp_path)
    made: dict[tuple[str, int], str] = {}
    recipe = []
    for epochs in (2, 3):
        net = {"name": "net", "kind": "train", "epochs": epochs}
        recipe = entries({"task": [net, attack] if epochs == 2 else [net]})
        for entry in recipe:
            lineage = {field: made[name, epochs] for field, name in entry.parents.items()}
            spec = {**entry.task.to_dict(), **lineage}
            run = workspace.create(spec, name=entry.name, lineage=lineage)
            run.set_state(status="done")
            run.set_note("{}")
            run.lock.release()
            made[entry.name, epochs] = run.id
    for epochs, found in ((2, made["broken", 2]), (3, None)):
        recipe = entries({"task": [{"name": "net", "kind": "train", "epochs": epochs}, attack]})
        net_entry, attack_entry = recipe
        known = _found(workspace, recipe, net_entry, 0)
        assert known is not None
        assert known.id == made["net", epochs]
        again = _found(workspace, recipe, attack_entry, 0)
        assert (again.id if again else None) == found
