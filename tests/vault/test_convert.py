"""Foreign weights: converted in a process of their own, or refused without having run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import BadInput
from engine.events import Note, Progress
from engine.vault.convert import converting, safe_weights


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def notes_of(path: Path, folder: Path) -> tuple[Path, list[str]]:
    steps, notes = converting(path, folder), []
    while True:
        try:
            event = next(steps)
        except StopIteration as end:
            return end.value, notes
        assert isinstance(event, Note | Progress)
        if isinstance(event, Note):
            notes.append(event.text)


def test_safetensors_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    assert safe_weights(path, tmp_path / "unused") == path


def test_a_wrapped_state_dict_with_tied_and_strided_tensors(tmp_path: Path) -> None:
    tied, wide = torch.randn(3), torch.randn(4, 5)
    inner = {"module.a": tied, "module.b": tied, "module.c": wide.T, "module.n": torch.tensor(7)}
    path, folder = tmp_path / "一 checkpoint.pt", tmp_path / "out"
    folder.mkdir()
    torch.save({"model": {"state_dict": inner, "x": 1}, "epoch": 3}, path)
    result, notes = notes_of(path, folder)
    assert result == folder / "一 checkpoint.safetensors"
    assert list(folder.iterdir()) == [result]
    state = load_file(result)
    assert state.keys() == {"a", "b", "c", "n"}
    for name, value in inner.items():
        assert torch.equal(state[name.removeprefix("module.")], value)
    assert len(notes) == 3


def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "out"
    folder.mkdir()
    inside, bare = tmp_path / "inside.pt", tmp_path / "bare.pth"
    torch.save({"weight": torch.ones(3), "extra": Malicious(trace)}, inside)
    bare.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    for path in (inside, bare):
        with pytest.raises(BadInput, match=r"calls for 'posix\.system'.* not run") as caught:
            safe_weights(path, folder)
        assert str(path) in str(caught.value)
    assert not trace.exists()
    assert list(folder.iterdir()) == []
    pickle.loads(pickle.dumps(Malicious(trace)))
    assert trace.exists(), "the pickle is harmless, so this test shows nothing"


def test_a_bomb_meets_its_limit(tmp_path: Path) -> None:
    """A few bytes that claim to be 64 GB."""
    path = tmp_path / "bomb.pt"
    torch.save({"weight": torch.ones(1).expand(1 << 32, 4)}, path)
    with pytest.raises(BadInput, match="more memory"):
        safe_weights(path, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"bomb.pt"}


def test_what_holds_no_state_dict_is_explained(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), whole)
    nothing = tmp_path / "nothing.pt"
    torch.save({"epoch": 3}, nothing)
    cut = tmp_path / "cut.pt"
    torch.save({"w": torch.ones(100)}, cut)
    cut.write_bytes(cut.read_bytes()[:500])
    other = tmp_path / "weights.txt"
    other.write_bytes(b"x")
    for path, match in (
        (whole, r"torch\.nn\.modules.*state_dict"),
        (nothing, "no tensors .*'epoch'"),
        (cut, "damaged or cut short"),
        (other, "no weights file"),
        (tmp_path / "absent.pt", "There is no file"),
    ):
        with pytest.raises(BadInput, match=match):
            safe_weights(path, tmp_path)


def test_closing_it_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(3)}, path)
    steps = converting(path, tmp_path)
    next(steps)
    next(steps)
    steps.close()
    assert {p.name for p in tmp_path.iterdir()} == {"w.pt"}


def test_nothing_is_imported_from_where_the_file_lies(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("open('imported', 'w')")
    (tmp_path / "safetensors.py").write_text("open('imported', 'w')")
    torch.save({"w": torch.ones(3)}, "w.pt")
    assert safe_weights(Path("w.pt"), Path()).is_file()
    assert not (tmp_path / "imported").exists()
