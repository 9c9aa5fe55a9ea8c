"""The record of a run: durable, resumable, readable by others while it is written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import BadInput, CrucibleError
from engine.events import Array, Event, Images, Note, Scalars, Table
from engine.store import Checkpoint, Checkpoints, Run, Workspace
from engine.store.metrics import MetricsWriter, read_events, read_scalars
from engine.store.writer import LONGEST, PERIOD, RunWriter

SPEC = {"kind": "train", "seed": 1}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def write(run: Run, events: Sequence[Event], after: int | None = None) -> list[Event]:
    heard: list[Event] = []
    writer = RunWriter(run, heard.extend)
    writer.start(after)
    for event in events:
        writer.put(event)
    writer.close()
    writer.check()
    return heard


def picture(step: int, keep: bool = True) -> Images:
    return Images("adversarial", np.full((2, 3, 3, 1), step, np.uint8), step=step, keep=keep)


def points(step: int, keep: bool = True) -> Array:
    values = np.full((2, 3), step, np.float32)
    return Array("generated", values, step=step, keep=keep, about={"extent": [0, step]})


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_is_found_by_id_prefix_and_name(workspace: Workspace) -> None:
    old = workspace.create(SPEC, name="plain")
    new = workspace.create(SPEC, name="plain", lineage={"init": old.id})
    assert [info.id for info in workspace.runs()] == [new.id, old.id]
    assert workspace.find("plain").id == new.id
    assert workspace.find(old.id).id == old.id
    assert workspace.find(new.id[:-1]).id == new.id
    with pytest.raises(BadInput, match="the beginning of 2 runs"):
        workspace.find(old.id[:4])
    with pytest.raises(BadInput, match=r"there is no run 'plane'.*There are: plain"):
        workspace.find("plane")
    assert new.info().lineage == {"init": old.id}


def test_of_many_runs_the_ones_of_nearly_that_name_are_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("robust", *(f"other-{number}" for number in range(9))):
        workspace.create({"kind": "train"}, name=name)
    with pytest.raises(BadInput, match=r"There are: robust, (other-\d, ){7}…\."):
        workspace.find("robsut")
    with pytest.raises(BadInput, match=r"is the beginning of 10 runs: .*, …$"):
        workspace.find("2")


@pytest.mark.parametrize("ref", ["", "..", "/", "../runs"])
def test_no_reference_leads_outside(workspace: Workspace, ref: str) -> None:
    with pytest.raises(BadInput):
        workspace.find(ref)


def test_a_name_and_a_note_can_change_but_the_record_stays(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    before = (run.folder / "run.json").read_bytes()
    run.rename("干净的模型")
    run.set_note("first try")
    assert (run.info().name, run.info().note) == ("干净的模型", "first try")
    assert (run.folder / "run.json").read_bytes() == before
    assert workspace.find("干净的模型").id == run.id


def test_a_queued_run_of_a_dead_process_is_interrupted(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    assert run.info().status == "queued"
    assert Run(run.folder).lock.holder() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not Run(run.folder).lock.acquire()
    run.lock.release()
    assert run.info().status == "interrupted"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_half_written_run_harms_nobody(workspace: Workspace, content: bytes) -> None:
    whole = workspace.create(SPEC, name="whole")
    torn = workspace.create(SPEC, name="torn")
    (torn.folder / "run.json").write_bytes(content)
    empty = workspace.folder / "20990101-000000000-ffff"
    empty.mkdir()
    states = {info.id: info.status for info in workspace.runs()}
    assert states == {whole.id: "queued", torn.id: "damaged", empty.name: "damaged"}
    assert workspace.find("whole").id == whole.id


def test_odd_paths(tmp_path: Path) -> None:
    for name in ("with space", "工作区", "n" * 200):
        workspace = Workspace(tmp_path / name / "w")
        run = workspace.create(SPEC, name=name)
        write(run, [Scalars(1, {"train/loss": 1.0}), picture(0)])
        assert run.scalars() == {"train/loss": ([1], [1.0])}
        assert len(run.images("adversarial")) == 1


def test_a_read_only_workspace_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot be used as a workspace: .*--workspace"):
        Workspace(tmp_path / "file" / "w")


# --- metrics --------------------------------------------------------------------------------------


def test_what_was_said_is_read_back(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    said: list[Event] = [
        Scalars(1, {"train/loss": 2.0, "train/lr": 0.1}),
        Note("info", "hello"),
        Scalars(2, {"train/loss": float("nan")}),
        Table("t", ("a",), ((1,),)),
        Scalars(3, {"train/loss": float("inf")}),
        picture(0),
        picture(1),
    ]
    assert write(run, said) == said
    steps, values = run.scalars()["train/loss"]
    assert steps == [1, 2, 3]
    assert [repr(v) for v in values] == ["2.0", "nan", "inf"]
    assert run.scalars({"train/loss": 2, "train/lr": 9}) == {"train/loss": ([3], [float("inf")])}
    assert [event for _, _, event in run.events()] == [said[1], said[3]]
    assert [event for _, _, event in run.events(after=1)] == [said[3]]
    assert [i.step for i in run.images("adversarial")] == [0, 1]


def test_going_on_repeats_only_what_came_after(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [Scalars(s, {"x": float(s)}) for s in range(10)] + [Note("info", "late")])
    write(run, [Scalars(6, {"x": -6.0}), Scalars(7, {"x": -7.0})], after=5)
    assert run.scalars()["x"] == (list(range(8)), [0, 1, 2, 3, 4, 5, -6, -7])
    assert run.events() == []
    write(run, [Scalars(0, {"y": 0.0})], after=-1)
    assert run.scalars() == {"y": ([0], [0.0])}


def test_a_closed_run_opens_on_read_only_media(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [Scalars(1, {"x": 1.0})])
    assert sorted(p.name for p in run.folder.glob("metrics.db*")) == ["metrics.db"]
    with sqlite3.connect(f"file:{run.database}?mode=ro&immutable=1", uri=True) as db:
        assert db.execute("SELECT value FROM scalars").fetchall() == [(1.0,)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_killed_writer_leaves_everything_it_acknowledged(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from engine.events import Scalars
        from engine.store import Workspace
        from engine.store.writer import RunWriter
        run = Workspace(Path(sys.argv[1])).create({"kind": "train"}, name="a")
        print(run.id, flush=True)
        def heard(events):
            print(max(e.step for e in events), flush=True)
        writer = RunWriter(run, heard)
        writer.start()
        step = 0
        while True:
            step += 1
            writer.put(Scalars(step, {"x": float(step)}))
            if step % 500 == 0:
                writer.flush()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    run = Run(tmp_path / "runs" / process.stdout.readline().strip())
    acknowledged = 0
    for _ in range(20):
        acknowledged = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    steps, values = run.scalars()["x"]
    assert steps[:acknowledged] == list(range(1, acknowledged + 1))
    assert values == [float(s) for s in steps]
    assert run.info().status == "interrupted"


def test_a_wal_on_read_only_media_is_read_from_a_copy(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.db")
    writer.commit([Scalars(1, {"x": 1.0}), Note("info", "n")])
    # What a killed run leaves behind: the log beside the file, nobody who holds it.
    (tmp_path / "killed").mkdir()
    for part in tmp_path.glob("metrics.db*"):
        if not part.name.endswith("-shm"):
            shutil.copyfile(part, tmp_path / "killed" / part.name)
    writer.close()
    folder = tmp_path / "killed"
    folder.chmod(0o500)
    try:
        assert read_scalars(folder / "metrics.db") == {"x": ([1], [1.0])}
        assert len(read_events(folder / "metrics.db")) == 1
    finally:
        folder.chmod(0o700)


def test_a_full_disk_is_said_and_keeps_what_was_shown(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    heard: list[Event] = []
    writer = RunWriter(run, heard.extend)
    writer.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    step = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(CrucibleError, match=r"could not be written: .*(full|limit)"):
            while step < 100_000:
                step += 1
                writer.put(Scalars(step, {"x": float(step), "y": 0.5}))
                if step % 200 == 0:
                    writer.flush()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    shown = [event.step for event in heard if isinstance(event, Scalars)]
    assert len(shown) > 100
    assert run.scalars()["x"][0][: len(shown)] == shown


def test_the_picture_budget_is_kept_and_said(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.writer.KEPT_IMAGES", 1000)
    run = workspace.create(SPEC, name="plain")
    heard = write(run, [picture(s) for s in range(50)])
    assert 0 < len(run.images("adversarial")) < 50
    assert run.image_file("adversarial").stat().st_size <= 1000
    assert len([e for e in heard if isinstance(e, Note)]) == 1


def test_only_the_newest_of_a_picture_that_is_not_kept(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [picture(s, keep=False) for s in range(5)])
    assert [i.step for i in run.images("adversarial")] == [4]


def test_what_cannot_be_recorded_ends_the_run_in_words(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    writer = RunWriter(run, lambda events: None)
    writer.start()
    writer.put(Table("t", ("a",), ((np.int64(1),),)))
    with pytest.raises(CrucibleError, match="could not be recorded"):
        writer.flush()
    writer.close()


def test_a_run_waits_for_a_disk_that_is_too_slow(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.writer.BACKLOG", 5)
    run = workspace.create(SPEC, name="plain")
    heard: list[int] = []
    writer = RunWriter(run, lambda events: heard.append(len(events)))
    writer.start()
    for step in range(50):
        writer.put(Scalars(step, {"x": 1.0}))
    writer.close()
    assert sum(heard) == 50
    assert max(heard) <= 6


def test_what_is_dear_to_commit_is_gathered_for_longer(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))  # every commit takes a whole second, by this clock
    monkeypatch.setattr("engine.store.writer.time.thread_time", lambda: next(clock))
    waits: list[float | None] = []

    class Hurry(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return True

    run = workspace.create(SPEC, name="plain")
    writer = RunWriter(run, lambda events: None)
    writer._hurry = Hurry()
    writer.start()
    for step in range(3):
        writer.put(Scalars(step, {"x": 1.0}))
        writer.flush()
    writer.close()
    assert waits[0] == PERIOD
    assert LONGEST in waits


def test_a_kept_picture_is_not_overwritten_by_one_that_is_not(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [picture(1), picture(2, keep=False), picture(3)])
    assert [p.step for p in run.images("adversarial")] == [1, 3]


def test_a_torn_picture_file_is_mended_when_the_run_goes_on(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [picture(s) for s in range(4)])
    path = run.image_file("adversarial")
    path.write_bytes(path.read_bytes()[:-5])
    assert [i.step for i in run.images("adversarial")] == [0, 1, 2]
    write(run, [picture(3), picture(4)], after=2)
    assert [i.step for i in run.images("adversarial")] == [0, 1, 2, 3, 4]


def test_looking_at_a_lock_does_not_take_it(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    run.lock.release()
    stop = threading.Event()
    seen: list[str | None] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(Run(run.folder).lock.holder())

    observers = [threading.Thread(target=look) for _ in range(2)]
    for thread in observers:
        thread.start()
    try:
        for _ in range(100):
            lock = Run(run.folder).lock
            assert lock.acquire()
            lock.release()
    finally:
        stop.set()
        for thread in observers:
            thread.join()
    assert seen


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoint(step: int) -> Checkpoint:
    tensors = {"w": torch.full((3, 2), float(step)), "n": torch.tensor(step)}
    return Checkpoint(step, tensors, {"epoch": step, "文": "字"})


def test_the_newest_checkpoint_comes_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    assert kept.latest() is None
    for step in (1, 2, 3):
        kept.save(checkpoint(step))
    found = kept.latest()
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.tensors["w"], checkpoint(3).tensors["w"])
    assert found.values == checkpoint(3).values
    assert len(list(kept.folder.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, harm: str) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(checkpoint(1))
    kept.save(checkpoint(2))
    path = max(kept.folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:-3])
    found = kept.latest()
    assert found is not None
    assert found.step == 1


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(checkpoint(1))
    before = json.loads((kept.folder / "manifest.json").read_text())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CrucibleError, match="disk is full"):
            kept.save(Checkpoint(2, {"w": torch.zeros(1000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads((kept.folder / "manifest.json").read_text()) == before
    found = kept.latest()
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("content", ["[1]", "{}", '[{"file": "x"}]', "nonsense"])
def test_a_manifest_of_another_shape_is_no_checkpoint(tmp_path: Path, content: str) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(checkpoint(1))
    (kept.folder / "manifest.json").write_text(content)
    assert kept.latest() is None
    kept.save(checkpoint(2))
    assert kept.latest() is not None


@pytest.mark.parametrize(
    "state", ['{"status": 3}', '{"artifacts": 1}', '{"summary": "x"}', '{"artifacts": ["a"]}']
)
def test_a_state_of_another_shape_harms_nobody(workspace: Workspace, state: str) -> None:
    run = workspace.create(SPEC, name="plain")
    (run.folder / "state.json").write_text(state)
    assert [info.id for info in workspace.runs()] == [run.id]


def test_arrays_are_kept_beside_pictures_and_cut_with_them(workspace: Workspace) -> None:
    run = workspace.create(SPEC, name="plain")
    write(run, [points(1), picture(1), points(2, keep=False), points(3), points(5)])
    assert [array.step for array in run.arrays("generated")] == [1, 3, 5]
    assert run.arrays("adversarial") == []
    assert run.images("generated") == []
    write(run, [points(4)], after=3)
    found = run.arrays("generated")
    assert [array.step for array in found] == [1, 3, 4]
    assert np.array_equal(found[1].values, np.full((2, 3), 3, np.float32))
    assert found[1].about == {"extent": [0, 3]}
