"""Writing adversarial examples for other programs."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from engine.attacks import exporting
from engine.attacks.exporting import COLUMNS, check_set
from engine.attacks.running import FILE
from engine.attacks.saved import read_examples
from engine.attacks.spec import ExportSet
from engine.bench import Bench
from engine.errors import BadInput, Cancelled, StorageError
from engine.events import Note, Saved
from engine.files import atomic_folder
from engine.models import load_model
from engine.recipe import enqueue, entries
from engine.runner import Runner
from engine.store import Workspace
from tests.attacks.test_embedding import examples_of
from tests.engine.cli import ROOT, engine
from tests.workbench.stored import make_run


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_png_files_are_judged_again(bench: Bench, drain: Any, tmp_path: Path) -> None:
    """Against a loop over the files, opened as any other program would."""
    run = examples_of(bench.workspace, count=70, nearest=True)
    examples = read_examples(run)
    spec = ExportSet(source=run.id, to=str(tmp_path / "out"))
    events, summary = drain(spec.run(bench))
    folder = tmp_path / "out"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.txt",
        "adversarial",
        "clean",
        "index.csv",
    ]
    assert len(list((folder / "clean").iterdir())) == 70
    rows = rows_of(folder)
    assert list(rows[0]) == list(COLUMNS)
    model = load_model(examples.model, bench).module
    clean, adversarial = examples.images(slice(0, 70))
    still, broken = 0, int(examples.success.sum())
    for k, row in enumerate(rows):
        assert (row["sample"], row["id"]) == (str(k + 1), str(100 + k))
        pixels = []
        for kind, image in (("clean", clean[k]), ("adversarial", adversarial[k])):
            with Image.open(folder / row[kind]) as picture:
                assert (picture.mode, picture.size) == ("L", (4, 4))
                pixels.append(np.asarray(picture))
            assert np.array_equal(pixels[-1], np.rint(image[0].numpy() * 255).astype(np.uint8))
        with torch.no_grad():
            given = torch.stack([torch.tensor(p / np.float32(255)) for p in pixels])[:, None]
            now = model(given).argmax(1).tolist()
            before = int(model(clean[k : k + 1]).argmax())
        label, success = int(examples.labels[k]), bool(examples.success[k])
        assert [int(row[f"prediction_of_{w}_png"]) for w in ("clean", "adversarial")] == now
        assert int(row["prediction_before"]) == before
        assert int(row["prediction_after"]) == int(examples.predictions[k])
        assert row["label_name"] == "abc"[label]
        fools = success and now[0] == label != now[1]
        assert int(row["still_fools"]) == fools
        assert row["outcome"] == ("broken" if success else "withstood")
        change = np.abs(pixels[1].astype(int) - pixels[0]).max() / 255
        assert float(row["norm_of_pngs"]) == pytest.approx(change, abs=1e-6)
        assert float(row["norm"]) == pytest.approx(float(examples.norm[k]), rel=1e-7)
        still += fools
    assert summary == {
        "file": str(folder),
        "samples": 70,
        "broken": broken,
        "still_fooling": still,
    }
    assert 0 < still < broken < 70
    said = (folder / "README.txt").read_text()
    assert f"{still} of the {broken} still fool it, {broken - still} do not" in said
    assert "broken" in said
    assert run.id in said
    assert load_model(examples.model, bench).card.weights_sha256 in said
    assert [type(e) for e in events if isinstance(e, Note | Saved)] == [Note, Saved]


def test_a_targeted_example_must_still_reach_its_target(bench: Bench, drain: Any) -> None:
    attack = {"kind": "pgd", "norm": "l2", "eps": 0.5, "targeted": True}
    run = examples_of(bench.workspace, count=40, attack=attack)
    examples = read_examples(run)
    assert examples.targeted
    path = run.folder / "adversarial.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["predictions"] = (examples.labels + 1) % 3
    safetensors.torch.save_file(tensors, path)
    drain(ExportSet(source=run.id).run(bench))
    rows = rows_of(bench.folder / "examples")
    for row in rows:
        if row["still_fools"] == "1":
            assert row["prediction_of_adversarial_png"] == row["prediction_after"]
    missed = [r for r in rows if r["success"] == "1" and r["still_fools"] == "0"]
    elsewhere = [r for r in missed if r["prediction_of_adversarial_png"] != r["label"]]
    assert elsewhere  # wrong all the same, but not as the attack wanted it


def test_exact_values_as_one_file(bench: Bench, drain: Any, tmp_path: Path) -> None:
    run = examples_of(bench.workspace)
    target = tmp_path / "set.safetensors"
    spec = ExportSet(source=run.id, to=str(target), form="safetensors")
    _, summary = drain(spec.run(bench))
    written, kept = map(safetensors.torch.load_file, (target, run.folder / FILE))
    assert written.keys() == kept.keys()
    assert all(torch.equal(written[name], kept[name]) for name in kept)
    with safetensors.safe_open(str(target), "pt") as file:
        said = file.metadata()
    model = load_model(read_examples(run).model, bench)
    assert said["weights_sha256"] == model.card.weights_sha256
    assert json.loads(said["attack"]) == run.info().spec["attack"]
    assert (said["id"], said["name"], said["norm"]) == (run.id, "broken", "linf")
    assert float(said["eps"]) == run.info().spec["attack"]["eps"]
    assert said["version"] == version("crucible-workbench")
    assert summary == {
        "file": str(target),
        "samples": 6,
        "broken": int(read_examples(run).success.sum()),
    }
    with pytest.raises(BadInput, match="exists already"):
        check_set(spec, bench.workspace)
    with pytest.raises(BadInput, match="exists already"):
        drain(spec.run(bench))


def test_a_set_is_written_when_its_model_is_gone(bench: Bench, drain: Any, tmp_path: Path) -> None:
    run = examples_of(bench.workspace)
    bench.find_model(read_examples(run).model).unlink()
    drain(ExportSet(source=run.id, to=str(tmp_path / "set"), form="safetensors").run(bench))
    with safetensors.safe_open(str(tmp_path / "set"), "pt") as file:
        assert file.metadata()["weights_sha256"] == "not known any more"


def test_what_ends_early_leaves_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = examples_of(bench.workspace, count=70)
    place = tmp_path / "place"
    place.mkdir()
    spec = ExportSet(source=run.id, to=str(place / "out"))
    steps = spec.run(bench)
    next(steps)
    (part,) = place.iterdir()
    assert (part / "clean" / "01.png").is_file()
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert list(place.iterdir()) == []

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write", full)
        with pytest.raises(StorageError, match="the disk is full"):
            next(spec.run(bench))
    assert list(place.iterdir()) == []
    steps = spec.run(bench)
    next(steps)
    (place / "out").mkdir()  # somebody else's, while ours is written
    with pytest.raises(BadInput, match="exists already"):
        for _ in steps:
            pass
    assert [p.name for p in place.iterdir()] == ["out"]
    assert list((place / "out").iterdir()) == []


def test_a_new_folder_is_refused_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, words: str) -> None:
        for make in (lambda: check_set(ExportSet(source="x", to=str(path)), tmp_path),):
            with pytest.raises(BadInput, match=words):
                make()
        with pytest.raises(BadInput, match=words), atomic_folder(path):
            pass

    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "exists already and is not overwritten")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    refused(tmp_path / "gone" / "out", "there is no folder")
    refused(tmp_path / "file" / "out", "there is no folder")
    with monkeypatch.context() as patch:  # root may write anywhere
        patch.setattr("os.access", lambda *_: False)
        refused(tmp_path / "out", "Permission denied")
    with pytest.raises(OSError, match="nothing"), atomic_folder(tmp_path / "out"):
        (tmp_path / "nothing").read_bytes()
    assert not (tmp_path / "out").exists()


def test_a_recipe_and_what_it_refuses(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    run = examples_of(workspace.root)
    run.set_state(status="cancelled")  # it has kept what it found
    make_run(workspace.root, "empty", {"kind": "attack", "model": "plain"}, status="failed")

    def export(source: str, **values: Any) -> Any:
        task = {"name": "out", "kind": "export_set", "source": source, **values}
        return enqueue(workspace, entries({"task": [task]}, base=tmp_path))

    for source, words in (
        ("plain", "a task of kind 'train' makes none"),
        ("empty", "has no adversarial examples: it is failed"),
        ("nobody", "there is no run 'nobody'"),
    ):
        with pytest.raises(BadInput, match=words):
            export(source)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="expected an attack or an evaluation"):
        export("model.safetensors")
    (queued,) = export("broken", to="set")
    assert queued.info().lineage == {"source": run.id}
    assert Runner(workspace, lambda *_: None).run(queued) == "done"
    assert len(rows_of(tmp_path / "set")) == 6
    artifacts = [a["path"] for a in queued.info().artifacts]
    assert artifacts == [str(tmp_path / "set" / "index.csv")]


HANGING = """
import sys, time
from pathlib import Path
from engine.files import atomic_folder

with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "1.png").write_bytes(b"half")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_export_left_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    """Of two that hang while they write into the same place, one is killed: the next export there
    removes what that one left, and nothing of the one that lives; nor what only looks alike."""
    run = examples_of(tmp_path / "w", count=3)
    place = tmp_path / "place"
    place.mkdir()
    other = place / ".crucible-0000.part"
    other.mkdir()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HANGING, str(place / name)], cwd=ROOT, stdout=subprocess.PIPE
        )
        for name in ("killed", "living")
    ]
    try:
        assert all(child.stdout is not None for child in children)
        killed, living = (Path(c.stdout.readline().decode().strip()) for c in children if c.stdout)
        children[0].kill()
        children[0].wait()
        assert set(place.iterdir()) == {other, killed, living}
        workspace = ("--workspace", tmp_path / "w")
        assert engine("export-set", run.id, place / "first", *workspace).code == 0
        assert set(place.iterdir()) == {other, living, place / "first"}
        assert (living / "1.png").read_bytes() == b"half"
    finally:
        for child in children:
            child.kill()
            child.communicate()
    one_file = ("--form", "safetensors", *workspace)
    assert engine("export-set", run.id, place / "all.safetensors", *one_file).code == 0
    assert set(place.iterdir()) == {other, place / "first", place / "all.safetensors"}
