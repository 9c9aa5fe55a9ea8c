"""What a person may get wrong, and what a machine may run out of: each a clear error, the right
exit code, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.store import Workspace
from tests.engine.cli import attack, ended, engine, process, recipe, refused, tasks, train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A workspace with a trained model, and its export to a key and to a passphrase."""
    folder = tmp_path_factory.mktemp("bad")
    w, key, secret = folder / "w", folder / "key.txt", folder / "passphrase.txt"
    file = recipe(folder / "r.toml", tasks(train()))
    assert engine("run", file, "--workspace", w).code == 0
    recipient = engine("keygen", "--to", key).out.strip()
    secret.write_text("correct horse\n")
    by_key, by_phrase = folder / "key.age", folder / "phrase.age"
    for target, *how in (
        (by_key, "--recipient", recipient),
        (by_phrase, "--passphrase-file", secret),
    ):
        assert engine("export", "plain", "--to", target, *how, "--workspace", w).code == 0
    run = Workspace(w).find("plain")
    return SimpleNamespace(
        folder=folder,
        w=w,
        key=key,
        secret=secret,
        recipient=recipient,
        by_key=by_key,
        by_phrase=by_phrase,
        run=run,
        model=run.folder / "model.safetensors",
    )


# --- recipes --------------------------------------------------------------------------------------

RECIPES = {
    "unknown kind": ('kind = "trian"', "t.kind: there is no task kind 'trian'; did you mean 'tra"),
    "no kind": ("epochs = 1", "t.kind: no task kind is given; expected one of: "),
    "unknown field": (
        'kind = "train"\nepoch = 3',
        "t.epoch: there is no field 'epoch'; did you mean 'epochs'?",
    ),
    "unknown inner field": (
        'kind = "train"\nmodel = {kind = "cnn", widht = 3}',
        "t.model.widht: there is no field 'widht'; did you mean 'width'?",
    ),
    "unknown inner kind": (
        'kind = "train"\nmodel = {kind = "cnnn"}',
        "t.model.kind: there is no kind 'cnnn'; did you mean 'cnn'?",
    ),
    "no table": (
        'kind = "train"\nmodel = "cnn"',
        """t.model: expected a table, as in {kind = "mlp"}, but it is 'cnn'""",
    ),
    "no table inside": ('kind = "train"\nclip = 3', "t.clip: expected a table, but it is 3"),
    "no inner kind": ('kind = "train"\nmodel = {width = 3}', "t.model.kind: say which kind it is"),
    "out of range": (
        'kind = "train"\nepochs = 0',
        "t.epochs: must be at least 1, but it is 0",
    ),
    "out of range inside": (
        'kind = "train"\noptimizer = {kind = "sgd", lr = -1.0}',
        "t.optimizer.lr: must be above 0, but it is -1.0",
    ),
    "infinite": ('kind = "train"\noptimizer = {kind = "sgd", lr = inf}', "t.optimizer.lr: "),
    "no integer": ('kind = "train"\nepochs = "12"', "t.epochs: must be a whole number"),
    "a date": ('kind = "train"\nepochs = 2026-01-01', "is not a value that a spec can hold"),
    "missing field": ('kind = "attack"', "t.model: this field must be given"),
    "missing reference": (
        'kind = "attack"\nmodel = "plan"\n[[task]]\nname = "plain"\nkind = "train"',
        "t.model: there is no run 'plan'",
    ),
    "missing file": ('kind = "attack"\nmodel = "gone.age"', "t.model: there is no file '/"),
    "reference too long": (f'kind = "attack"\nmodel = "{"x" * 300}"', "t.model: there is no run"),
    "cycle": (
        'kind = "train"\ninit = "u"\n[[task]]\nname = "u"\nkind = "train"\ninit = "t"',
        "the references go in a circle: t -> u -> t",
    ),
    "itself": ('kind = "train"\ninit = "t"', "the references go in a circle: t -> t"),
    "same name twice": ('kind = "train"\n[[task]]\nname = "t"\nkind = "train"', "each used once"),
    "no device": (
        'kind = "train"\nbench = {device = "gpu"}',
        "t.bench.device: must match the pattern",
    ),
}


@pytest.mark.parametrize("fault", RECIPES)
def test_a_faulty_recipe_is_refused_before_anything_is_written(tmp_path: Path, fault: str) -> None:
    text, words = RECIPES[fault]
    file = recipe(tmp_path / "r.toml", tasks(f'name = "t"\n{text}'))
    refused(engine("run", file, "--workspace", tmp_path / "w"), words)
    assert engine("runs", "--workspace", tmp_path / "w", "--json").json == []


def test_a_fraction_in_a_recipe_is_told_as_a_decimal(tmp_path: Path) -> None:
    text = 'kind = "attack"\nmodel = "m"\nattack = {kind = "pgd", eps = 8/255}  # 1/2'
    file = recipe(tmp_path / "r.toml", tasks(text))
    refused(
        engine("run", file, "--workspace", tmp_path / "w"),
        "TOML has no fractions: write 0.0313725 for 8/255",
    )
    broken = recipe(tmp_path / "s.toml", "[[task]\nkind = 3")
    assert "fractions" not in engine("run", broken, "--workspace", tmp_path / "w").err


def test_what_is_known_beforehand_leaves_no_run(made: SimpleNamespace, tmp_path: Path) -> None:
    w = ("--workspace", tmp_path / "w")
    for name in (made.by_key, made.by_phrase):
        refused(engine("import", name, *w), "is encrypted, and nothing is given that opens it")
        file = recipe(tmp_path / "r.toml", tasks(attack(model=str(name))))
        refused(engine("run", file, *w), f"{name} is encrypted")
    code = tmp_path / "net.py"
    code.write_text("import torch\n\ndef make():\n    return torch.nn.Flatten()\n")
    own = f'model={{kind="module", factory="{code}:make", trust=true}}'
    digits = 'data={kind="digits"}'
    refused(
        engine("import", made.model, "--set", own, "--set", digits, *w),
        f"{code}:make is Python code",
        "--trust-code",
    )
    assert engine("runs", *w, "--json").json == []
    assert engine("import", made.by_key, "--identity", made.key, *w).code == 0


def test_a_missing_reference_is_told_the_nearest_name(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train("plain"), attack(model="plan")))
    refused(engine("run", file, "--workspace", tmp_path), "did you mean 'plain'?")


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks('kind = "train"\nepochs = 0\nseeed = 1', 'kind = "x"'))
    said = engine("run", file, "--workspace", tmp_path)
    refused(said, "3 faults", "epochs", "'seeed'", "'x'")


FILES: dict[str, tuple[bytes, str]] = {
    "not TOML": (b"[[task]\nname=", "is not TOML: "),
    "binary": (b"\xff\xfe\x00\x01", "is not a text file; expected TOML in UTF-8"),
    "empty": (b"", "a recipe holds at least one [[task]] table"),
    "one table": (b'[task]\nkind = "train"\n', "a recipe holds at least one [[task]] table"),
    "numbers": (b"task = [1, 2]\n", "a recipe holds at least one [[task]] table"),
    "something else": (b'title = "x"\n[[task]]\nkind = "train"\n', "title: a recipe holds"),
    "too deep": (b"a = " + b"[" * 100_000, "is not TOML: "),
}


@pytest.mark.parametrize("fault", FILES)
def test_what_is_no_recipe_is_refused(tmp_path: Path, fault: str) -> None:
    content, words = FILES[fault]
    (tmp_path / "r.toml").write_bytes(content)
    refused(engine("run", tmp_path / "r.toml", "--workspace", tmp_path), words)


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    where = ("--workspace", tmp_path)
    refused(engine("run", tmp_path / "none.toml", *where), "cannot be read: No such file")
    refused(engine("run", tmp_path, *where), "cannot be read: Is a directory")
    refused(engine("run", "x" * 300, *where), "cannot be read: File name too long")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("plain.epoch=3", "plain.epoch: there is no field 'epoch'; did you mean 'epochs'?"),
        ("plane.epochs=3", "plane.epochs: there is no task 'plane'; did you mean 'plain'?"),
        ("epochs=3", "is not of the form task.field=value"),
        ("plain.epochs", "is not of the form task.field=value"),
        ("plain..epochs=3", "is not of the form task.field=value"),
        ("plain.epochs=many", "plain.epochs: must be a whole number, but it is 'many'"),
    ],
)
def test_a_faulty_change_is_refused(tmp_path: Path, change: str, words: str) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train()))
    refused(engine("run", file, "--workspace", tmp_path, "--set", change), words)


def test_a_recipe_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf" + tasks(train()).encode())
    assert engine("run", tmp_path / "r.toml", "--workspace", tmp_path).code == 0


@pytest.mark.parametrize("arguments", [(), ("dance",), ("run",), ("show", "x", "--colour")])
def test_what_is_no_command_is_refused(arguments: tuple[str, ...]) -> None:
    refused(engine(*arguments), "usage: engine")


def test_an_unknown_kind_to_describe_is_told_the_nearest() -> None:
    refused(engine("describe", "trian"), "did you mean 'train'?")


# --- places ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this machine lets us mount, tried in a namespace of its own."""
    tool = shutil.which("unshare")
    command = ["mount", "-t", "tmpfs", "none", "/mnt"]
    if tool is None or os.geteuid() != 0:
        return False
    return subprocess.run([tool, "-m", *command], capture_output=True, check=False).returncode == 0


MOUNTS = can_mount()


@pytest.fixture(
    params=["a-file-in-its-place", "read-only-mount" if MOUNTS else "below-proc-no-mount-permitted"]
)
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "w"
    if request.param == "a-file-in-its-place":
        place.write_text("")
        yield place
    elif MOUNTS:
        place.mkdir()
        with mounted(place, "size=1m,ro"):
            yield place
    else:
        yield Path("/proc/self/crucible")


def test_a_workspace_that_cannot_be_written_is_refused(unwritable: Path, tmp_path: Path) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train()))
    said = engine("run", file, "--workspace", unwritable)
    refused(said, "cannot be used as a workspace", "--workspace")


def test_a_file_is_no_workspace_to_read_either(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("")
    for command in (("runs",), ("show", "x"), ("resume", "x")):
        refused(engine(*command, "--workspace", tmp_path / "w"), "cannot be read as a workspace")


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing can be written to `place`, nor to its runs, if we may mount; else at least no run
    can be begun there: a folder is in the way."""
    if MOUNTS:
        subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
    else:
        for lock in place.glob("runs/*/lock"):
            lock.unlink()
            lock.mkdir()
    try:
        yield
    finally:
        if MOUNTS:
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "how", ["read-only-mount" if MOUNTS else "locks-in-the-way-no-mount-permitted"]
)
def test_a_read_only_workspace_can_be_looked_at(
    made: SimpleNamespace, tmp_path: Path, how: str
) -> None:
    place = tmp_path / "w"
    shutil.copytree(made.w, place)
    Workspace(place).create({"kind": "train"}, name="left").lock.release()
    why = "Read-only file system" if MOUNTS else "Is a directory"
    with read_only(place):
        runs = engine("runs", "--workspace", place, "--json").json
        assert {run["name"]: run["status"] for run in runs}["plain"] == "done"
        assert engine("show", "plain", "--workspace", place).code == 0
        assert Workspace(place, create=False).find("plain").scalars()
        refused(engine("resume", "left", "--workspace", place), why, "cannot be gone on with")
        if MOUNTS:
            file = recipe(tmp_path / "r.toml", tasks(train()))
            refused(engine("run", file, "--workspace", place), why, "--workspace")


@pytest.mark.parametrize("name", ["with some spaces", "坩埚 工作区", "x" * 200])
def test_any_path_will_do(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    w = place / "w"
    place.mkdir()
    file = recipe(place / "r.toml", tasks(train(f"模型 {name}"[:60]), attack(model="plain")))
    said = engine("run", file, "--workspace", w)
    refused(said, "there is no run 'plain'")
    file = recipe(place / "r.toml", tasks(train()))
    assert engine("run", file, "--workspace", w).code == 0
    target, key = place / "m.age", place / "key.txt"
    recipient = engine("keygen", "--to", key).out.strip()
    export = engine("export", "plain", "--to", target, "--recipient", recipient, "--workspace", w)
    assert export.code == 0, export.err
    opened = engine("open", target, "--identity", key, "--to", place / "m.safetensors")
    assert opened.code == 0, opened.err
    assert engine("show", "plain", "--workspace", w).code == 0


def test_any_name_is_printed_in_any_locale(tmp_path: Path) -> None:
    Workspace(tmp_path).create({"kind": "train"}, name="坩埚 \udcff")
    for flag in ((), ("--json",)):
        environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        said = ended(process("runs", "--workspace", tmp_path, *flag, env=environment))
        assert said.code == 0, said.err


# --- half-written runs ----------------------------------------------------------------------------

HALF: dict[str, Callable[[Path], Any]] = {
    "no run.json": lambda run: (run / "run.json").unlink(),
    "empty run.json": lambda run: (run / "run.json").write_text(""),
    "cut run.json": lambda run: (run / "run.json").write_text('{"id": "x", "na'),
    "run.json of another kind": lambda run: (run / "run.json").write_text("[1]"),
    "run.json without what matters": lambda run: (run / "run.json").write_text('{"name": 3}'),
    "binary run.json": lambda run: (run / "run.json").write_bytes(b"\xff\x00"),
}


@pytest.mark.parametrize("how", HALF)
def test_a_half_written_run_is_shown_as_damaged(
    made: SimpleNamespace, tmp_path: Path, how: str
) -> None:
    shutil.copytree(made.w, tmp_path / "w")
    w, run_id = tmp_path / "w", made.run.id
    HALF[how](w / "runs" / run_id)
    runs = {run["id"]: run["status"] for run in engine("runs", "--workspace", w, "--json").json}
    assert runs[run_id] == "damaged"
    assert sorted(runs.values()) == ["damaged", "done", "done"]  # the others are as they were
    said = engine("show", run_id, "--workspace", w)
    assert said.code == 0
    assert "run.json is missing or unreadable" in said.out
    refused(engine("resume", run_id, "--workspace", w), "cannot be run", "run.json is missing")


def test_a_run_whose_state_is_lost_can_be_gone_on_with(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    for content in ("", "[]", '{"status"'):
        w = tmp_path / f"w{len(content)}"
        shutil.copytree(made.w, w)
        (w / "runs" / made.run.id / "state.json").write_text(content)
        assert engine("show", "plain", "--workspace", w, "--json").json["status"] == "interrupted"
        said = engine("resume", "plain", "--workspace", w)
        assert said.code == 0, said.err
        info = Workspace(w).find("plain").info()
        assert info.summary["weights_sha256"] == made.run.info().summary["weights_sha256"]


def test_empty_and_foreign_folders_among_the_runs_disturb_nobody(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(made.w, tmp_path / "w")
    (tmp_path / "w" / "runs" / "0-empty").mkdir()
    (tmp_path / "w" / "runs" / "a file").write_text("")
    listed = engine("runs", "--workspace", tmp_path / "w", "--json").json
    assert listed[-1]["status"] == "damaged"
    assert engine("show", "plain", "--workspace", tmp_path / "w").code == 0


@pytest.mark.parametrize("ref", ["nosuch", "x" * 300, "../w", ".", "", "a/b"])
def test_a_run_that_is_not_there_is_told(made: SimpleNamespace, ref: str) -> None:
    for command in ("show", "resume"):
        refused(engine(command, ref, "--workspace", made.w), "there is no run", "plain")


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mnist", "cifar10"])
def test_absent_data_without_a_network_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    file = recipe(tmp_path / "r.toml", tasks(train(more=f'data = {{kind = "{kind}"}}'), attack()))
    root = tmp_path / "data"
    said = engine("run", file, "--workspace", tmp_path / "w", "--data-root", root)
    refused(said, str(root), "could not be downloaded", "--data-root", "skipped", code=1)
    assert list(root.iterdir()) == []  # nothing half downloaded


def images(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), 20 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cats": 6, "dogs": 1}, "too few images to split by class: 'dogs' has 1"),
        ({"cats": 6, "dogs": 0}, "no images of class 'dogs'"),
        ({"cats": 6}, "there is a single class, 'cats'"),
        ({}, "there is no folder or zip"),
    ],
)
def test_a_class_that_cannot_be_split_is_told(
    tmp_path: Path, counts: dict[str, int], words: str
) -> None:
    images(tmp_path / "pictures", **counts)
    data = 'data = {kind = "folder", path = "pictures", size = 8}'
    file = recipe(tmp_path / "r.toml", tasks(train(more=data)))
    refused(engine("run", file, "--workspace", tmp_path / "w"), words)


# --- a person's own model -------------------------------------------------------------------------

MODULES = {
    "raises": ("raise ValueError('no luck')", "raised ValueError: no luck (line 3"),
    "leaves": ("raise SystemExit(3)", "raised SystemExit: 3"),
    "wrong thing": ("return 3", "returned a int; expected a torch.nn.Module"),
    "wrong shape": (
        "return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))",
        "returns torch.float32 (2, 7) for 2 images (1, 8, 8); expected",
    ),
    "fails": ("return nn.Linear(3, 3)", "fails on images (2, 1, 8, 8)"),
}


@pytest.mark.parametrize("how", MODULES)
def test_a_module_that_does_not_do_is_told(tmp_path: Path, how: str) -> None:
    code, words = MODULES[how]
    (tmp_path / "own.py").write_text(f"from torch import nn\ndef make():\n    {code}\n")
    text = 'name = "m"\nkind = "train"\nmodel = {kind = "module", factory = "own.py:make"}'
    file = recipe(tmp_path / "r.toml", tasks(text))
    refused(engine("run", file, "--workspace", tmp_path, "--trust-code"), "own.py:make", words)


def test_a_module_is_not_run_without_a_yes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from pathlib import Path\nPath('ran').write_text('')\n")
    text = 'name = "m"\nkind = "train"\nmodel = {kind = "module", factory = "own.py:make"}'
    file = recipe(tmp_path / "r.toml", tasks(text))
    refused(
        engine("run", file, "--workspace", tmp_path),
        "runs Python code with your rights",
        "--trust-code",
    )
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("data.kind=digits",), "does not say which architecture it belongs to"),
        (
            ('model={kind="mlp", width=8, depth=1}',),
            "does not say what data its model is for",
        ),
        (("data=3", "data.kind=digits"), "does not say which architecture"),
        (("data.kind=digits", 'model={kind="mlp", width=9, depth=1}'), "of another shape"),
        (("data.kind=digits", 'model={kind="mlp", width=8, depth=2}'), "missing from the file"),
        (("dat.kind=digits",), "there is no field 'dat'; did you mean 'data'?"),
        (("=3",), "is not of the form field=value"),
    ],
)
def test_an_import_that_does_not_fit_is_told(
    made: SimpleNamespace, tmp_path: Path, changes: tuple[str, ...], words: str
) -> None:
    import safetensors.torch

    state = safetensors.torch.load_file(made.model)
    safetensors.torch.save_file(state, tmp_path / "foreign.safetensors")
    options = [text for change in changes for text in ("--set", change)]
    command = ("import", tmp_path / "foreign.safetensors", "--workspace", tmp_path, *options)
    refused(engine(*command), words)


def test_a_file_that_is_no_state_dict_is_told(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 cut")
    options = ("--set", "data.kind=digits", "--set", "model.kind=mlp")
    refused(engine("import", tmp_path / "w.pt", "--workspace", tmp_path, *options), "w.pt")


# --- keys and exports -----------------------------------------------------------------------------


def test_a_wrong_key_or_passphrase_is_told(made: SimpleNamespace, tmp_path: Path) -> None:
    wrong, other, target = tmp_path / "wrong.txt", tmp_path / "other.txt", tmp_path / "m"
    wrong.write_text("incorrect horse\n")
    engine("keygen", "--to", other)
    before = made.model.read_bytes()
    target.write_bytes(before)
    cases = (
        ((made.by_phrase, "--passphrase-file", wrong), "passphrase"),
        ((made.by_phrase, "--identity", made.key), "passphrase"),
        ((made.by_key, "--identity", other), "key"),
        ((made.by_key, "--passphrase-file", made.secret), "passphrase"),
        ((made.by_key,), "--identity F or --passphrase-file F"),
        ((made.model, "--identity", made.key), "age"),
        ((tmp_path / "none.age", "--identity", made.key), "No such file"),
    )
    for arguments, words in cases:
        refused(engine("open", *arguments, "--to", target), words)
        assert target.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_opening_replaces_only_a_model(made: SimpleNamespace, tmp_path: Path) -> None:
    key, model = tmp_path / "密钥 key.txt", tmp_path / "模型 m.safetensors"
    engine("keygen", "--to", key)
    secret = key.read_bytes()
    how = ("open", made.by_phrase, "--passphrase-file", made.secret, "--to")
    refused(engine(*how, key), "another kind of file and is not overwritten")
    assert key.read_bytes() == secret
    model.touch()
    for _ in range(2):
        assert engine(*how, model).code == 0
    assert model.read_bytes() == made.model.read_bytes()
    kept = Workspace(made.w).model_file("plain")
    before = kept.read_bytes()
    refused(engine(*how, kept), "is the folder of a run")
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "say who can open it: --recipient"),
        (("--recipient", "age1xyz"), "'age1xyz' is not a key"),
        (("--recipient", "RECIPIENT", "--passphrase-file", "SECRET"), "cannot be combined"),
    ],
)
def test_an_export_that_nobody_could_open_leaves_no_run(
    made: SimpleNamespace, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    known = {"RECIPIENT": made.recipient, "SECRET": made.secret}
    given = [known.get(option, option) for option in options]
    before = len(Workspace(made.w).runs())
    refused(
        engine("export", "plain", "--to", tmp_path / "m.age", *given, "--workspace", made.w), words
    )
    assert len(Workspace(made.w).runs()) == before
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_model_is_told(made: SimpleNamespace, tmp_path: Path) -> None:
    """An export is done, and still there is no model of its own."""
    export = next(info for info in Workspace(made.w).runs() if info.kind == "export")
    assert export.status == "done"
    said = engine(
        *("export", export.id, "--to", tmp_path / "m.age", "--recipient", made.recipient),
        *("--workspace", made.w),
    )
    refused(said, "has no model: a task of kind 'export' makes none")


def test_a_workspace_without_runs_is_told(tmp_path: Path) -> None:
    said = engine("runs", "--workspace", tmp_path / "空 w")
    assert (said.code, said.out) == (0, "")
    assert said.err == f"engine: {tmp_path / '空 w'} holds no runs yet\n"
    assert not (tmp_path / "空 w").exists()


@pytest.mark.parametrize("option", ["--identity", "--passphrase-file"])
@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_key_file_that_holds_none_is_told_before_anything_runs(
    made: SimpleNamespace, tmp_path: Path, option: str, content: bytes | None
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    text = recipe(tmp_path / "r.toml", tasks(attack(model=str(made.by_key))))
    w = tmp_path / "w"
    refused(engine("run", text, "--workspace", w, option, file), str(file))
    assert not w.exists()


def test_an_export_without_its_key_is_told(made: SimpleNamespace, tmp_path: Path) -> None:
    for file, option in ((made.by_key, "--identity"), (made.by_phrase, "--passphrase-file")):
        text = recipe(tmp_path / "r.toml", tasks(attack(model=str(file))))
        refused(engine("run", text, "--workspace", tmp_path / "w"), str(file), option)


def test_a_truncated_export_is_refused_wherever_it_is_cut(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    whole = made.by_key.read_bytes()
    target = tmp_path / "m.safetensors"
    before = made.model.read_bytes()
    target.write_bytes(before)
    for length in (0, 1, 20, 100, len(whole) // 3, len(whole) - 17, len(whole) - 1):
        (tmp_path / "cut.age").write_bytes(whole[:length])
        said = engine("open", tmp_path / "cut.age", "--identity", made.key, "--to", target)
        refused(said, "cut.age could not be opened")
        assert target.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_flipped_bit_is_noticed_wherever_it_is(made: SimpleNamespace, tmp_path: Path) -> None:
    whole = made.by_key.read_bytes()
    target = tmp_path / "m.safetensors"
    payload = whole.index(b"\n--- ") + 50
    for place in (3, 30, 80, payload - 10, payload + 5, payload + 200, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / "flipped.age").write_bytes(flipped)
        said = engine("open", tmp_path / "flipped.age", "--identity", made.key, "--to", target)
        refused(said, "flipped.age could not be opened")
        assert not target.exists()


def test_a_place_that_takes_no_export_is_told(made: SimpleNamespace, tmp_path: Path) -> None:
    to_key = ("--recipient", made.recipient, "--workspace", made.w)
    refused(engine("export", "plain", "--to", tmp_path / "a" / "m", *to_key), "there is no folder")
    refused(engine("export", "plain", "--to", tmp_path, *to_key), "is a folder")
    refused(engine("export", "plain", "--to", made.model, *to_key), "is another kind of file")
    refused(engine("export", "none", "--to", tmp_path / "m", *to_key), "there is no run 'none'")
    made_none = Workspace(made.w).create({"kind": "train"}, name="empty")
    made_none.set_state(status="failed")
    to = ("--to", tmp_path / "m")
    refused(engine("export", "empty", *to, *to_key), "has no model: it is failed")
    gone = engine("import", tmp_path / "gone.pt", "--workspace", made.w)
    refused(gone, "there is no file", "gone.pt")
    kinds = {info.name for info in Workspace(made.w).runs()}
    assert kinds == {"plain", "export", "empty"}  # the exports of the fixture: nothing is on record
    assert {i.status for i in Workspace(made.w).runs() if i.kind == "export"} == {"done"}
    made_none.discard()
    refused(engine("open", made.by_key, "--identity", made.key, "--to", tmp_path), "is a folder")
    nobody = engine("export", "plain", "--to", tmp_path / "m", "--workspace", made.w)
    refused(nobody, "say who can open it")
    garbage = ("--recipient", "age1garbage", "--workspace", made.w)
    refused(engine("export", "plain", "--to", tmp_path / "m", *garbage), "is not a key")


@pytest.mark.parametrize("to", ["~nobody-of-that-name/x.age", "x" * 300 + "/m.age"])
def test_a_place_that_cannot_be_is_told_before_there_is_a_run(
    made: SimpleNamespace, tmp_path: Path, to: str
) -> None:
    file = recipe(
        tmp_path / "r.toml",
        f"[[task]]\nname = 'e'\nkind = 'export'\nmodel = 'plain'\nto = '{to}'\nown_key = true",
    )
    said = engine("run", file, "--workspace", made.w)
    refused(said, "e: ", "cannot be")
    assert all(info.name != "e" for info in Workspace(made.w).runs())


# --- what a machine runs out of -------------------------------------------------------------------

DISK = "tmpfs" if MOUNTS else "file-size-limit-no-mount-permitted"


class SmallDisk:
    """A folder with little room, until there is more."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        if MOUNTS:
            command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
            subprocess.run(command, check=True)
        else:
            self.limit(kilobytes * 1024 // 4)

    def make_room(self) -> None:
        if MOUNTS:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True)
        else:
            self.limit(resource.RLIM_INFINITY)

    def close(self) -> None:
        self.make_room()
        if MOUNTS:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)

    @staticmethod
    def limit(size: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    made: list[SmallDisk] = []

    def make(kilobytes: int) -> SmallDisk:
        made.append(SmallDisk(tmp_path / f"disk{len(made)}", kilobytes))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


@pytest.mark.parametrize("disk", [DISK])
@pytest.mark.parametrize("json_lines", [False, True])
def test_a_disk_that_is_full_interrupts_the_run_which_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Callable[[int], SmallDisk], disk: str, json_lines: bool
) -> None:
    small = small_disk(256)
    w = small.folder
    file = recipe(tmp_path / "r.toml", tasks(train(epochs=60), attack()))
    said = engine("run", file, "--workspace", w, *(["--json"] if json_lines else []))
    refused(said, "disk is full", code=1)
    runs = {run["name"]: run["status"] for run in engine("runs", "--workspace", w, "--json").json}
    assert runs["plain"] == "interrupted"
    kept = Workspace(w).find("plain").scalars()["train/loss"][0]
    assert kept == list(range(1, len(kept) + 1))  # what was shown until then

    small.make_room()
    said = engine("resume", "plain", "--workspace", w)
    assert said.code == 0, said.err
    assert {r["status"] for r in engine("runs", "--workspace", w, "--json").json} == {"done"}
    steps = Workspace(w).find("plain").scalars()["train/loss"][0]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("disk", [DISK])
def test_a_disk_that_is_full_leaves_the_old_export(
    made: SimpleNamespace, small_disk: Callable[[int], SmallDisk], disk: str, tmp_path: Path
) -> None:
    file = recipe(tmp_path / "r.toml", tasks(train("wide").replace("width = 8", "width = 2048")))
    w = tmp_path / "w"
    assert engine("run", file, "--workspace", w).code == 0
    small = small_disk(400)
    old = small.folder / "m.age"
    old.write_bytes(b"age-encryption.org/v1\nthe old one")
    to_key = ("--recipient", made.recipient, "--workspace", w)
    said = engine("export", "wide", "--to", old, *to_key)
    refused(said, "the disk is full", "m.age", "unchanged", code=1)
    assert [path.name for path in small.folder.iterdir()] == ["m.age"]
    assert old.read_bytes() == b"age-encryption.org/v1\nthe old one"
    small.make_room()
    assert engine("resume", "export", "--workspace", w).code == 0
    opened = engine("open", old, "--identity", made.key, "--to", tmp_path / "m.safetensors")
    assert opened.code == 0, opened.err


@pytest.mark.parametrize("size", [0, 100, 400])
def test_a_disk_without_room_for_a_run_leaves_nothing_of_it(tmp_path: Path, size: int) -> None:
    """Files of more than `size` bytes fail: the lock, its state, what was asked for."""
    w = tmp_path / "w"
    file = recipe(tmp_path / "r.toml", tasks(train(), attack()))
    SmallDisk.limit(size)
    try:
        said = engine("run", file, "--workspace", w)
    finally:
        SmallDisk.limit(resource.RLIM_INFINITY)
    refused(said, "File too large", code=1)
    assert list((w / "runs").iterdir()) == []


def test_memory_that_runs_out_is_told(tmp_path: Path) -> None:
    big = train("big").replace("width = 8, depth = 1", "width = 30000, depth = 2")
    file = recipe(tmp_path / "r.toml", tasks(big, attack("after", model="big"), train("small")))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29, hard))
    try:
        said = engine("run", file, "--workspace", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    refused(said, "out of memory. The run needs more than there is", code=1)
    runs = {r["name"]: r["status"] for r in engine("runs", "--workspace", tmp_path, "--json").json}
    assert runs == {"big": "failed", "after": "skipped", "small": "done"}


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    text = train().replace('device = "cpu"', 'device = "cuda:99"')
    file = recipe(tmp_path / "r.toml", tasks(text))
    said = engine("run", file, "--workspace", tmp_path, "--json")
    refused(said, "there is no device 'cuda:99' on this machine; expected one of: auto, cpu")
    assert [line["event"] for line in said.lines] == ["queued", "failed"]
    info = Workspace(tmp_path).find("plain").info()
    assert info.status == "failed"
    assert json.loads(said.out.splitlines()[-1])["error"] == info.error
