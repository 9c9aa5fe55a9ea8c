"""Data that changes after a model was trained on it: no testing on what it learnt from, unsaid."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.bench import Bench
from engine.data import load
from engine.data.spec import Folder
from engine.events import Event, Note, Scalars
from engine.models import read_card
from engine.runner import Runner
from engine.store import Run, Workspace
from tests.engine.cli import attack, engine, recipe, tasks, train

Form = Callable[[], Path]
"""Gives the data set's path, as it is now."""


def add(root: Path, begin: int, count: int) -> None:
    """Images of two classes, light and dark, each of its own."""
    for k, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(begin, begin + count):
            pixels = np.random.default_rng([k, i]).integers(128 * k, 128 * k + 128, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path / "set", 100, 20)
    return tmp_path / "set"


@pytest.fixture(params=["folder", "zip"])
def form(request: pytest.FixtureRequest, root: Path) -> Form:
    def made() -> Path:
        if request.param == "folder":
            return root
        return Path(shutil.make_archive(str(root), "zip", root))

    return made


def data_of(path: Path) -> str:
    return f"data = {{kind = 'folder', path = '{path}', size = 8}}"


def run(w: Path, *texts: str) -> None:
    said = engine("run", recipe(w.parent / "r.toml", tasks(*texts)), "--workspace", w)
    assert said.code == 0, said.err


def summary(name: str, w: Path) -> dict[str, Any]:
    found: dict[str, Any] = engine("show", name, "--workspace", w, "--json").json["summary"]
    return found


def warned(name: str, w: Path) -> bool:
    """Whether the run said so, and its summary agrees."""
    events = [event for _, _, event in Workspace(w).find(name).events()]
    texts = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    said = any("was trained on some of the images" in text for text in texts)
    assert summary(name, w).get("data_changed", False) is said
    return said


def test_the_proven_case(bench: Bench, drain: Any, root: Path) -> None:
    """Why it matters: of a grown folder, the test split holds what was trained on."""

    def names(part: str) -> set[str]:
        data = drain(load(Folder(path=str(root), size=8), bench))[1]
        every = sorted(str(path) for path in root.rglob("*.png"))
        return {every[i] for i in getattr(data, part).ids.tolist()}

    trained = names("train")
    add(root, 0, 20)
    assert names("test") & trained


def test_an_attack_on_a_model_whose_folder_grew_says_so(tmp_path: Path, form: Form) -> None:
    w = tmp_path / "w"
    root = tmp_path / "set"
    run(w, train(more=data_of(form())), attack("same"))
    assert not warned("plain", w)
    assert not warned("same", w)

    add(root, 0, 20)
    form()
    run(w, attack("grown"))
    assert warned("grown", w)
    run(w, train("retrained", more=data_of(form())), attack("anew", "retrained"))
    assert not warned("anew", w)


def test_a_set_that_moved_is_the_same(tmp_path: Path, root: Path) -> None:
    w = tmp_path / "w"
    run(w, train(more=data_of(root)))
    elsewhere = root.rename(tmp_path / "else where")
    run(w, attack(more=data_of(elsewhere)))
    assert not warned("broken", w)


def test_other_splits_of_the_same_data_are_noticed_other_data_is_not(tmp_path: Path) -> None:
    w = tmp_path / "w"
    digits = "data = {kind = 'digits', split_seed = %d}"
    run(w, train(more=digits % 0), attack("same", more=digits % 0))
    run(w, attack("other", more=digits % 1))
    assert not warned("same", w)
    assert warned("other", w)
    add(tmp_path / "grey", 0, 20)
    grey = data_of(tmp_path / "grey").replace("}", ", channels = 1}")
    run(w, attack("foreign", more=grey))
    assert not warned("foreign", w)


def test_another_folder_is_no_changed_one(tmp_path: Path) -> None:
    w = tmp_path / "w"
    add(tmp_path / "one", 0, 20)
    add(tmp_path / "two", 50, 20)
    one, two = data_of(tmp_path / "one"), data_of(tmp_path / "two")
    run(w, train(more=one), attack("on two", more=two))
    run(w, train("tuned", more=f'{two}\ninit = "plain"'), attack("of tuned", "tuned"))
    assert not any(warned(name, w) for name in ("on two", "tuned", "of tuned"))


def test_a_training_that_starts_from_one_says_so_and_its_model_remembers(
    tmp_path: Path, root: Path
) -> None:
    w = tmp_path / "w"
    run(w, train(more=data_of(root)), train("more", more='init = "plain"'))
    assert not warned("more", w)
    card = read_card(Workspace(w).model_file("more"))
    assert card.learnt == read_card(Workspace(w).model_file("plain")).learnt
    assert len(card.learnt) == 1

    add(root, 0, 20)
    run(w, train("grown", more='init = "plain"'), attack("of grown", "grown"))
    assert warned("grown", w)
    assert warned("of grown", w)  # its own data is the same, but not that of what it started from
    card = read_card(Workspace(w).model_file("grown"))
    assert len(card.learnt) == 2


def test_an_import_keeps_what_the_card_knew(tmp_path: Path, root: Path) -> None:
    w = tmp_path / "w"
    run(w, train(more=data_of(root)))
    file = Workspace(w).model_file("plain")

    def bring(name: str) -> str:
        return f"name = '{name}'\nkind = 'import'\nweights = '{file}'\n{data_of(root)}"

    run(w, bring("same"), attack("of same", "same"))
    assert not warned("same", w)
    assert not warned("of same", w)
    add(root, 0, 20)
    run(w, bring("grown"), attack("of grown", "grown"))
    assert warned("grown", w)
    assert warned("of grown", w)


# --- going on -------------------------------------------------------------------------------------


class Interrupting:
    """Runs a training on `path`, and interrupts it each time it has said something."""

    def __init__(self, workspace: Path, path: Path) -> None:
        self.heard: list[Event] = []
        made = Workspace(workspace)
        self.runner = Runner(made, self._listen)
        spec = {
            "kind": "train",
            "epochs": 100_000,
            "data": {"kind": "folder", "path": str(path), "size": 8},
            "model": {"kind": "mlp", "width": 8, "depth": 1},
            "bench": {"device": "cpu", "threads": 1},
        }
        self.run = made.create(spec, name="cut")

    def _listen(self, run: Run, events: Sequence[Event]) -> None:
        self.heard.extend(events)
        if any(isinstance(event, Scalars) for event in events):
            self.runner.interrupt()

    def go_on(self) -> str:
        """What it came to grief over, or the note that it was resumed."""
        self.heard.clear()
        assert self.runner.run(self.run) == "interrupted"
        notes = [event.text for event in self.heard if isinstance(event, Note)]
        return self.run.info().error or "; ".join(notes)


def test_a_resume_after_the_data_changed_is_refused_until_it_is_back(
    tmp_path: Path, form: Form
) -> None:
    root = tmp_path / "set"
    training = Interrupting(tmp_path / "w", form())
    assert training.go_on() == ""
    assert "resumed at step" in training.go_on()

    add(root, 0, 5)
    form()
    refusal = training.go_on()
    assert "had 28 training, 4 validation and 8 test images, and now has 36 training" in refusal
    assert "Put the data back" in refusal
    for path in root.glob("*/00*.png"):
        path.unlink()
    form()
    assert "resumed at step" in training.go_on()


def test_other_images_of_the_same_number_are_refused_too(tmp_path: Path, root: Path) -> None:
    training = Interrupting(tmp_path / "w", root)
    training.go_on()
    (root / "dark" / "100.png").rename(root / "dark" / "999.png")
    assert "but not the same ones, or not in the same splits" in training.go_on()


def test_a_checkpoint_of_an_older_version_can_be_resumed(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Interrupting(tmp_path / "w", root)
    save = Bench.save_checkpoint

    def older(self: Bench, step: int, tensors: Any, values: dict[str, Any]) -> None:
        save(self, step, tensors, {k: v for k, v in values.items() if k != "data"})

    monkeypatch.setattr(Bench, "save_checkpoint", older)
    training.go_on()
    assert "resumed at step" in training.go_on()
