"""Recipes: reading, references, order, and the words for what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, SpecError
from engine.recipe import enqueue, entries, parse_change, read_recipe, rest_of
from engine.store import Workspace

ROOT = Path(__file__).parents[2]

TRAIN = {"name": "plain", "kind": "train", "epochs": 1}
ATTACK = {"name": "broken", "kind": "attack", "model": "plain"}


def recipe(*tables: dict[str, Any]) -> dict[str, Any]:
    return {"task": list(tables)}


@pytest.mark.parametrize("path", sorted((ROOT / "resources" / "recipes").glob("*.toml")))
def test_the_recipes_we_ship_are_valid(path: Path) -> None:
    assert len(read_recipe(path)) >= 1


def test_parents_come_first() -> None:
    found = entries(recipe(ATTACK, TRAIN))
    assert [entry.name for entry in found] == ["plain", "broken"]
    assert found[1].parents == {"model": "plain"}


def test_names_are_made_up_where_there_are_none() -> None:
    found = entries(recipe({"kind": "train"}, {"kind": "train"}))
    assert [entry.name for entry in found] == ["train-1", "train-2"]


FAULTS = [
    ({}, "at least one"),
    ({"task": []}, "at least one"),
    ({"task": [TRAIN], "tsk": 1}, "tsk: a recipe holds"),
    (recipe(TRAIN, TRAIN), "each used once"),
    (recipe({**TRAIN, "epochz": 1}), "plain.epochz: there is no field 'epochz'; did you mean"),
    (
        recipe(
            {"name": "a", "kind": "train", "init": "b"}, {"name": "b", "kind": "train", "init": "a"}
        ),
        "in a circle: a -> b -> a",
    ),
    (recipe({"name": "a", "kind": "train", "init": "a"}), "in a circle: a -> a"),
]


@pytest.mark.parametrize(("document", "words"), FAULTS)
def test_faults_are_named(document: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        entries(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[[task", "is not TOML"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"[[task]]\nkind = 'train'\nepochs = 0\nlr = 1", "has 2 faults"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "文件 with space.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        read_recipe(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_recipe(tmp_path / "absent.toml")


def test_references_become_ids(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    first = enqueue(workspace, entries(recipe(TRAIN, ATTACK)), label="r")
    info = first[1].info()
    assert info.lineage == {"model": first[0].id}
    assert info.spec["model"] == first[0].id
    # A name means the newest run of that name, a recipe's own task before any other.
    again = enqueue(workspace, entries(recipe(ATTACK)))
    assert again[0].info().lineage == {"model": first[0].id}
    other = enqueue(workspace, entries(recipe(TRAIN, ATTACK)), label="s")
    assert other[1].info().lineage == {"model": other[0].id}
    assert [run.id for run in rest_of(workspace, first[0])] == [run.id for run in first]
    assert rest_of(workspace, again[0])[0].id == again[0].id


def test_a_reference_that_means_nothing_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    workspace = Workspace(tmp_path / "w")
    with pytest.raises(SpecError, match=r"broken\.model: there is no run 'plain'"):
        enqueue(workspace, entries(recipe(ATTACK)))
    with pytest.raises(SpecError, match=r"there is no file 'x\.age'"):
        enqueue(workspace, entries(recipe({**ATTACK, "model": "x.age"})))
    assert workspace.runs() == []


def test_a_file_may_be_referred_to(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"x")
    path = tmp_path / "r.toml"
    path.write_text('[[task]]\nkind = "attack"\nmodel = "m.safetensors"\n')
    runs = enqueue(Workspace(tmp_path / "w"), read_recipe(path))
    assert runs[0].info().spec["model"] == str(tmp_path / "m.safetensors")
    assert runs[0].info().lineage == {}


def test_relative_paths_start_at_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the file is there or not, and whatever lies in the current folder."""
    folder, here = tmp_path / "配方 one", tmp_path / "here"
    for place in (folder, here):
        place.mkdir()
        (place / "m.safetensors").write_bytes(b"x")
        (place / "net.py").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = folder / "r.toml"
    path.write_text(
        """
        [[task]]
        name = "plain"
        kind = "train"
        init = "m.safetensors"
        data = {kind = "folder", path = "gone"}
        model = {kind = "module", factory = "net.py:make"}
        [[task]]
        name = "out"
        kind = "export"
        model = "plain"
        to = "../a b.age"
        [[task]]
        name = "mine"
        kind = "import"
        weights = "~/w.pt"
        data = {kind = "folder", path = "/images"}
        """,
        encoding="utf-8",
    )

    def specs(changes: dict[str, Any]) -> list[dict[str, Any]]:
        return [entry.task.to_dict() for entry in read_recipe(path, changes)]

    plain, out, mine = specs({})
    assert plain["init"] == f"{folder}/m.safetensors"
    assert plain["data"]["path"] == f"{folder}/gone"
    assert plain["model"]["factory"] == f"{folder}/net.py:make"
    assert out["model"] == "plain"
    assert out["to"] == f"{folder}/../a b.age"
    assert mine["weights"] == f"{tmp_path}/home/w.pt"
    assert mine["data"]["path"] == "/images"

    plain, out, mine = specs(
        {
            "plain.init": "m.safetensors",
            "plain.model": {"kind": "module", "factory": "net.py:make"},
            "out.to": "b.age",
            "mine.mean": [0.5],
        }
    )
    assert plain["init"] == f"{here}/m.safetensors"
    assert plain["data"]["path"] == f"{folder}/gone"
    assert plain["model"]["factory"] == f"{here}/net.py:make"
    assert out["to"] == f"{here}/b.age"
    assert mine["weights"] == f"{tmp_path}/home/w.pt"


def test_a_task_may_be_called_like_a_file(tmp_path: Path) -> None:
    found = entries(recipe({**TRAIN, "name": "m.age"}, {**ATTACK, "model": "m.age"}), base=tmp_path)
    assert found[1].parents == {"model": "m.age"}


def test_fields_can_be_set_from_outside() -> None:
    changes = dict(
        map(
            parse_change, ["plain.epochs=3", "plain.model={kind='mlp'}", "plain.optimizer.kind=sgd"]
        )
    )
    task = entries(recipe({**TRAIN, "optimizer": {"kind": "adamw"}}), changes)[0].task
    assert task.to_dict()["epochs"] == 3
    assert task.to_dict()["model"]["kind"] == "mlp"
    assert task.to_dict()["optimizer"]["kind"] == "sgd"
    with pytest.raises(SpecError, match="there is no task 'plane'; did you mean 'plain'"):
        entries(recipe(TRAIN), {"plane.epochs": 3})
    with pytest.raises(BadInput, match="task.field=value"):
        parse_change("epochs")
