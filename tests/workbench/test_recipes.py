import tomllib

import pytest

from engine.errors import BadInput, CrucibleError
from engine.events import Change
from engine.recipe import entries, read_recipe
from engine.store import RunInfo
from engine.task import parse_task, task_kinds
from workbench.recipes import recipe_of, recipe_text, save_recipe

PGD = {"kind": "pgd", "eps": 8 / 255, "steps": 7}


def run(name, number, spec, **lineage):
    whole = parse_task({**spec, **lineage}).to_dict()
    return RunInfo(f"2026-{number}", name, spec["kind"], "done", "", whole, lineage)


@pytest.fixture
def runs():
    plain = run("plain", 1, {"kind": "train", "seed": 7, "data": {"kind": "mnist"}})
    adversarial = {"kind": "mixed", "attack": PGD}
    hard = run("hardened", 2, {"kind": "train", "adversarial": adversarial}, init=plain.id)
    # A person gave this run the name of its parent's parent.
    attacked = run("plain", 3, {"kind": "attack", "attack": PGD}, model=hard.id)
    exported = run("out", 4, {"kind": "export", "recipients": ["age1x"]}, model=hard.id)
    return {info.id: info for info in (plain, hard, attacked, exported)}


def test_lineage_parents_first_with_names_for_references(runs):
    text = recipe_of(runs["2026-3"], runs.get)
    found = entries(tomllib.loads(text))
    assert [e.name for e in found] == ["plain", "hardened", "plain 2"]
    assert found[1].parents == {"init": "plain"}
    assert found[2].parents == {"model": "hardened"}
    for entry, original in zip(found, [runs["2026-1"], runs["2026-2"], runs["2026-3"]]):
        spec = {**original.spec, **entry.parents}
        assert entry.task == parse_task(spec)
    assert found[2].task.attack.eps == 8 / 255


def test_references_inside_of_parts_are_named(runs):
    """As the generator that an attack of an evaluation uses."""
    forger = run("forger", 7, {"kind": "advgan", "eps": 0.2}, model="2026-1")
    attacks = [PGD, {"kind": "advgan", "generator": forger.id, "eps": 0.2}]
    way = {"model": "2026-1", "attacks.1.generator": forger.id}
    found = {**runs, forger.id: forger}
    spec = parse_task({"kind": "evaluate", "model": "2026-1", "attacks": attacks}).to_dict()
    judged = RunInfo("2026-8", "judged", "evaluate", "done", "", spec, way)
    made = entries(tomllib.loads(recipe_of(judged, found.get)))
    assert [entry.name for entry in made] == ["plain", "forger", "judged"]
    assert made[2].parents == {"model": "plain", "attacks.1.generator": "forger"}


def test_what_a_person_changed_on_the_way_is_saved(runs):
    made = {"2026-1": [Change("lr", 0.5, 3), Change("lr", 0.25, 9), Change("lr", 0.1, 7)]}
    text = recipe_of(runs["2026-2"], runs.get, lambda run: made.get(run, []))
    plain, hardened = entries(tomllib.loads(text))
    assert [(c.name, c.value, c.step) for c in plain.task.changes] == [
        ("lr", 0.5, 3),
        ("lr", 0.1, 7),
    ]
    assert hardened.task.changes == ()


def test_only_the_lineage_is_saved(runs):
    names = [e.name for e in entries(tomllib.loads(recipe_of(runs["2026-4"], runs.get)))]
    assert names == ["plain", "hardened", "out"]


def test_parent_that_is_gone_stays_named_by_its_id(runs):
    del runs["2026-1"]
    found = entries(tomllib.loads(recipe_of(runs["2026-3"], runs.get)))
    assert [e.name for e in found] == ["hardened", "plain"]
    assert found[0].task.init == "2026-1"


@pytest.mark.parametrize("kind", sorted(task_kinds()))
def test_every_task_round_trips(kind):
    given = {
        "train": {"optimizer": {"kind": "sgd", "lr": 1e-9}, "early_stopping": {"patience": 3}},
        "attack": {"model": "m", "attack": PGD},
        "evaluate": {"model": "m", "attacks": [PGD], "also": ["a", "b"]},
        "audit": {"model": "m", "judge": "n", "audit": {"kind": "inversion", "clip": 1.0}},
        "export": {"model": "m", "to": 'C:\\a "b"\n中文', "recipients": ["age1a", "age1b"]},
        "advgan": {"model": "m", "eps": 0.2},
        "assess": {"model": "m"},
        "stability": {"model": "m"},
        "export_set": {"source": "broken", "form": "safetensors"},
        "transform": {"model": "m", "transform": {"kind": "jpeg", "quality": 30}},
        "import": {"weights": "w.pt", "data": {"kind": "digits"}, "mean": [0.1307]},
    }
    task = parse_task({"kind": kind, **given.get(kind, {})})
    text = recipe_text([{"name": "x", **task.to_dict()}])
    (table,) = tomllib.loads(text)["task"]
    assert table.pop("name") == "x"
    assert parse_task(table) == task
    assert text.startswith('[[task]]\nname = "x"\nkind = ')


def test_saved_file_is_read_back(tmp_path, runs):
    path = tmp_path / "中文 name.toml"
    path.write_text("old")
    save_recipe(path, recipe_of(runs["2026-3"], runs.get))
    assert len(read_recipe(path)) == 3


def test_unwritable_place_is_said_and_the_old_file_stays(tmp_path):
    with pytest.raises((BadInput, CrucibleError)):
        save_recipe(tmp_path / "no such folder" / "x.toml", "text")
    assert list(tmp_path.iterdir()) == []
