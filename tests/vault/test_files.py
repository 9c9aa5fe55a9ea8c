"""engine.files: the old file or the new one, never half of either."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from engine.errors import BadInput, Cancelled, CrucibleError
from engine.files import atomic, remove_leftovers, sha256_of


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writes_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"another"):
        with atomic(path) as file:
            file.write(content)
            assert names(tmp_path) - {"file"} == {Path(file.name).name}
        assert path.read_bytes() == content
    assert names(tmp_path) == {"file"}
    assert sha256_of(path) == hashlib.sha256(b"another").hexdigest()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, Cancelled, GeneratorExit])
def test_a_failure_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(failure), atomic(path) as file:
        file.write(b"new")
        raise failure
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_a_full_disk_is_explained_and_keeps_the_old_file(tmp_path: Path, largest_file) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with largest_file(50_000), pytest.raises(CrucibleError, match="disk is full"):  # noqa: SIM117
        with atomic(path) as file:
            file.write(bytes(100_000))
    # Small enough to stay in the buffer until the block has ended.
    with largest_file(500), pytest.raises(CrucibleError, match="disk is full"):  # noqa: SIM117
        with atomic(path) as file:
            file.write(bytes(1_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), atomic(tmp_path / "file"):
        (tmp_path / "absent").read_bytes()


def test_permissions(tmp_path: Path) -> None:
    secret, old = tmp_path / "secret", tmp_path / "old"
    with atomic(secret, mode=0o600) as file:
        file.write(b"x")
        assert stat.S_IMODE(Path(file.name).stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    old.write_bytes(b"")
    old.chmod(0o640)
    with atomic(old) as file:
        file.write(b"x")
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


def test_replace_false_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(BadInput, match="exists already"), atomic(path, replace=False) as file:
        file.write(b"mine")
        path.write_bytes(b"theirs, meanwhile")
    assert path.read_bytes() == b"theirs, meanwhile"
    with pytest.raises(BadInput, match="exists already"), atomic(path, replace=False):
        pass
    assert names(tmp_path) == {"file"}


def test_follows_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(real)
    with atomic(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, text in (
        (tmp_path / "absent" / "file", "no folder"),
        (tmp_path, "is a folder"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / ("n" * 300), "cannot be the name"),
        (tmp_path / "file" / "below", "cannot be the name"),
    ):
        with pytest.raises(BadInput, match=text), atomic(path):
            raise AssertionError("the block must not run")


@pytest.mark.parametrize("name", ["with spaces", "模型 导出", "x" * 200, "-dash", "'quote"])
def test_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with atomic(folder / name) as file:
        file.write(b"x")
    assert names(folder) == {name}


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    ours = tmp_path / ".crucible-0123456789abcdef.part"
    theirs = tmp_path / ".crucible-thesis.part"
    pipe = tmp_path / ".crucible-fedcba9876543210.part"
    ours.write_bytes(b"half")
    theirs.write_bytes(b"whole")
    os.mkfifo(pipe)
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {theirs, pipe}
