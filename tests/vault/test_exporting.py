"""The export task, and opening what it wrote."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from engine.bench import Bench
from engine.errors import BadInput, Cancelled, CrucibleError
from engine.events import Event, Note, Progress, Saved
from engine.vault import age
from engine.vault.exporting import run_export
from engine.vault.opening import open_export, open_on_bench, save_export
from engine.vault.spec import Export
from tests.vault.conftest import model_bytes

OLD = b"age-encryption.org/v1\nan earlier export"


PASSPHRASE = "a-passphrase-that-is-nowhere-马"

MakeBench = Callable[..., Bench]


def export(bench: Bench, **fields: object) -> tuple[dict, list[Event]]:
    steps = run_export(Export.model_validate(fields), bench)
    events: list[Event] = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_to_the_workspaces_own_key(model: Path, make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    summary, events = export(bench, model=str(model), own_key=True)
    file = bench.folder / "model.safetensors.age"
    key = bench.workspace / "keys" / "identity.txt"
    content = file.read_bytes()
    recipient = age.read_identities(key)[0].recipient
    assert summary == {
        "file": str(file),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "recipients": [recipient],
        "command": shlex.join(
            ["age", "-d", "-i", str(key), "-o", "./model.safetensors", str(file)]
        ),
        "weights_sha256": "5" * 64,
    }
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Saved("export", file.name, summary["size"], summary["sha256"]) in events
    assert any(isinstance(e, Note) and summary["command"] in e.text for e in events)
    progress = [e for e in events if isinstance(e, Progress)]
    assert {e.unit for e in progress} == {"bytes"}
    assert [e.done for e in progress] == sorted(e.done for e in progress)
    assert open_export(file, identity=key) == model.read_bytes()
    identity = pyrage.x25519.Identity.from_str(age.read_identities(key)[0].text)
    assert pyrage.decrypt(content, [identity]) == model.read_bytes()
    # Opened without being told a key, and exported on from there.
    assert open_on_bench(file, bench) == model.read_bytes()
    again, _ = export(bench, model=str(file), own_key=True, to=str(tmp_path / "again.age"))
    assert again["recipients"] == [recipient]
    assert open_export(tmp_path / "again.age", identity=key) == model.read_bytes()
    assert files_below(bench.workspace) == {file, key}


if shutil.which("age"):

    @pytest.mark.parametrize("folder", ["plain", "with spaces and 'quotes'", "模型", "x" * 200])
    def test_the_command_shown_opens_it(
        model: Path, make_bench: MakeBench, tmp_path: Path, folder: str
    ) -> None:
        (tmp_path / folder).mkdir()
        target = tmp_path / folder / f"{folder}.age"
        summary, _ = export(make_bench(), model=str(model), own_key=True, to=str(target))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        subprocess.run(["sh", "-c", summary["command"]], cwd=elsewhere, check=True)
        (opened,) = elsewhere.iterdir()
        assert opened.read_bytes() == model.read_bytes()


@pytest.mark.usefixtures("quick_passphrase")
def test_with_a_passphrase_that_is_kept_nowhere(
    model: Path, make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench(passphrase=PASSPHRASE)
    target = tmp_path / "secret.age"
    summary, events = export(bench, model=str(model), passphrase=True, to=str(target))
    assert summary["recipients"] == []
    assert summary["command"] == f"age -d -o ./secret.safetensors {target}"
    assert open_export(target, passphrase=PASSPHRASE) == model.read_bytes()
    assert open_on_bench(target, bench) == model.read_bytes()
    assert PASSPHRASE not in repr((summary, events, vars(Export)))
    for path in files_below(tmp_path):
        assert PASSPHRASE.encode() not in path.read_bytes(), path
    with pytest.raises(BadInput, match="passphrase"):
        export(make_bench(), model=str(model), passphrase=True)


def test_to_recipients(model: Path, make_bench: MakeBench, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    several = [age.generate_identity() for _ in range(3)]
    keys = [i.recipient for i in several]
    bench = make_bench()
    for to in ("relative.age", "~/home.age"):
        summary, events = export(bench, model=str(model), recipients=(*keys, keys[0]), to=to)
        target = tmp_path / to.removeprefix("~/")
        assert summary["file"] == str(target)
        assert summary["recipients"] == keys
        assert "YOUR-KEY.txt" in summary["command"]
        assert any(isinstance(e, Saved) and e.path == str(target) for e in events)
        for number, identity in enumerate(several):
            key = tmp_path / f"{to[-6:-4]}{number}.txt"
            age.write_identity(key, identity)
            assert open_export(target, identity=key) == model.read_bytes()
    assert not (bench.workspace / "keys").exists()


def test_what_cannot_be_asked_for(model: Path, make_bench: MakeBench, tmp_path: Path) -> None:
    key = age.generate_identity().recipient
    bench = make_bench(passphrase="x")
    no_card = tmp_path / "bare.safetensors"
    no_card.write_bytes(b"\2\0\0\0\0\0\0\0{}")
    ours = bench.workspace / "keys" / "identity.txt"
    before = files_below(tmp_path)
    for fields, match in (
        ({}, "Nobody could open"),
        ({"passphrase": True, "own_key": True}, "cannot be combined"),
        ({"passphrase": True, "recipients": (key,)}, "cannot be combined"),
        ({"recipients": (key[:-1],), "own_key": True}, "checksum"),
        ({"recipients": (key,), "to": str(tmp_path / "no" / "folder.age")}, "no folder"),
        ({"recipients": (key,), "to": str(tmp_path)}, "is a folder"),
        ({"recipients": (key,), "to": str(model)}, "is the model"),
        ({"own_key": True, "to": str(ours)}, "workspace's keys"),
        ({"own_key": True, "model": str(no_card)}, "no model card"),
        ({"own_key": True, "model": str(tmp_path / "absent.safetensors")}, "absent"),
    ):
        with pytest.raises(BadInput, match=match):
            export(bench, **{"model": str(model), **fields})
        assert files_below(tmp_path) == before


def test_a_cancel_at_any_moment_keeps_the_old_file(
    model: Path, make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench()
    bench.single_step = True  # yields after every chunk
    target = tmp_path / "old.age"
    target.write_bytes(OLD)
    spec = Export(model=str(model), own_key=True, to=str(target))
    steps = run_export(spec, bench)
    progress = sum(isinstance(event, Progress) for event in steps)
    target.write_bytes(OLD)
    before = files_below(tmp_path)
    assert progress > 30
    for moment in range(1, progress + 1, 3):
        steps = run_export(spec, bench)
        for _ in range(moment):
            next(steps)
        if moment % 2:
            steps.close()
        else:
            with pytest.raises(Cancelled):
                steps.throw(Cancelled())
        assert target.read_bytes() == OLD
        assert files_below(tmp_path) == before


def test_a_full_disk_keeps_the_old_file(
    model: Path, make_bench: MakeBench, tmp_path: Path, largest_file
) -> None:
    target = tmp_path / "old.age"
    target.write_bytes(OLD)
    bench = make_bench()
    for size in (0, 300_000, model.stat().st_size):
        with largest_file(size), pytest.raises(CrucibleError, match="disk is full") as caught:
            export(
                bench,
                model=str(model),
                recipients=(age.generate_identity().recipient,),
                to=str(target),
            )
        assert not isinstance(caught.value, BadInput)
        assert target.read_bytes() == OLD
        assert files_below(tmp_path) == {model, target}


def test_a_killed_export_keeps_the_old_file(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.age"
    target.write_bytes(OLD)
    script = (
        "import sys, os, signal; from engine.vault.age import *; from engine.files import atomic\n"
        "with open(sys.argv[1], 'rb') as source, atomic(sys.argv[2]) as file:\n"
        "    for done in encrypting(source, file, recipients=[sys.argv[3]]):\n"
        "        if done > 500_000: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    key = age.generate_identity().recipient
    command = [sys.executable, "-c", script, str(model), str(target), key]
    process = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert process.returncode == -9
    assert target.read_bytes() == OLD


def test_a_disk_that_changes_what_it_is_given_is_noticed(
    model: Path, make_bench: MakeBench, tmp_path: Path, monkeypatch
) -> None:
    import engine.vault.exporting as exporting

    real = exporting.encrypting

    def corrupting(source, target, **how):
        written = yield from real(source, target, **how)
        target.seek(500_000)
        target.write(b"\0")
        return written

    monkeypatch.setattr(exporting, "encrypting", corrupting)
    target = tmp_path / "old.age"
    target.write_bytes(OLD)
    with pytest.raises(CrucibleError, match="does not read back"):
        export(make_bench(), model=str(model), own_key=True, to=str(target))
    assert target.read_bytes() == OLD


# --- opening --------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """An export, the identity file that opens it, and its plaintext."""
    data = model_bytes(50_000)
    identity = age.generate_identity()
    file, key = tmp_path / "模型 file.safetensors.age", tmp_path / "key.txt"
    age.write_identity(key, identity)
    with file.open("wb") as target:
        age.encrypt(io.BytesIO(data), target, recipients=[identity.recipient])
    return file, key, data


def test_saving_what_was_opened(exported, tmp_path: Path) -> None:
    file, key, data = exported
    target = tmp_path / "opened.safetensors"
    card = save_export(file, target, identity=key)
    assert card.run == "r1"
    assert target.read_bytes() == data


def test_failed_opening_leaves_nothing(exported, tmp_path: Path, largest_file) -> None:
    file, key, data = exported
    other = tmp_path / "other.txt"
    age.write_identity(other, age.generate_identity())
    good = file.read_bytes()
    target = tmp_path / "opened.safetensors"
    old = model_bytes(10)
    target.write_bytes(old)
    bare = io.BytesIO()
    recipient = age.read_identities(key)[0].recipient
    age.encrypt(io.BytesIO(os.urandom(1000)), bare, recipients=[recipient])
    before = files_below(tmp_path)
    for content, identity, match in (
        (good, other, "not one of theirs"),
        (good, None, "no secret key"),
        (good[:-1], key, "damaged or cut short"),
        (good[: len(good) // 2], key, "damaged or cut short"),
        (good[:-500] + b"\0" + good[-499:], key, "damaged"),
        (data, key, "not encrypted"),
        (bare.getvalue(), key, "What it holds|not a safetensors"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadInput, match=match) as caught:
            save_export(file, target, identity=identity)
        assert str(file) in str(caught.value)
        assert ".part" not in str(caught.value)
        with pytest.raises(BadInput):
            open_export(file, identity=identity)
        assert target.read_bytes() == old
        assert files_below(tmp_path) == before
    file.write_bytes(good)
    with largest_file(100_000), pytest.raises(CrucibleError, match="disk is full"):
        save_export(file, target, identity=key)
    with pytest.raises(BadInput, match="is the export"):
        save_export(file, file, identity=key)
    with pytest.raises(BadInput, match="cannot be read"):
        open_export(tmp_path / "absent.age", identity=key)
    assert target.read_bytes() == old
    assert files_below(tmp_path) == before


def test_importing_the_spec_pulls_no_torch() -> None:
    script = (
        "import sys, engine.vault, engine.vault.spec, engine.vault.exporting, engine.vault.opening"
        "\nimport engine.vault.convert; assert 'torch' not in sys.modules"
        "\nassert engine.vault.open_export is engine.vault.opening.open_export"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_a_file_of_another_kind_is_not_overwritten(
    model: Path, make_bench: MakeBench, tmp_path: Path
) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(BadInput, match="another kind of file and is not overwritten"):
        export(make_bench(), model=str(model), own_key=True, to=str(thesis))
    assert thesis.read_text() == "years of work"
