"""What a run has spent is on the disk before it is spent, whatever kills it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, StorageError
from engine.privacy import Charge, Ledger, read_charges
from engine.privacy.ledger import BLOCK, Source

ROOT = Path(__file__).parents[3]
STEP = Charge(1.1, 0.01)


def path_in(folder: Path) -> Path:
    return folder / "privacy.jsonl"


def taken(path: Path, after: int, through: int, **options: Any) -> Ledger:
    """A run that goes on after step `after` and takes the steps up to `through`; then it is killed:
    nothing is settled."""
    ledger = Ledger(path, fresh=after == 0, step=after, **options)
    for step in range(after + 1, through + 1):
        ledger.reserve(STEP, step)
    return ledger


# --- reserving ------------------------------------------------------------------------------------


def test_a_step_is_on_the_disk_before_it_is_drawn(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    ledger = Ledger(path)
    assert ledger.steps() == 0
    for step in range(1, 3 * BLOCK):
        ledger.reserve(STEP, step)
        assert sum(c.steps for c in read_charges(path)) >= step
        assert ledger.charged() == read_charges(path)
    assert ledger.steps() == 3 * BLOCK


def test_most_steps_touch_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), fsync(file))[1])
    ledger = Ledger(path_in(tmp_path))
    synced.clear()
    for step in range(1, 10 * BLOCK + 1):
        ledger.reserve(STEP, step)
    assert len(synced) == 10


def test_no_more_is_reserved_than_the_run_has(tmp_path: Path) -> None:
    ledger = Ledger(path_in(tmp_path))
    for step in range(1, 11):
        ledger.reserve(STEP, step, last=10)
    assert ledger.charged() == (Charge(1.1, 0.01, 10),)
    ledger.reserve(STEP, 11, last=10)  # one that is taken all the same counts
    assert ledger.steps() == 11


def test_the_first_step_is_step_1(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 1"):
        Ledger(path_in(tmp_path)).reserve(STEP, 0)


def test_settling_releases_what_was_not_drawn(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    ledger = taken(path, 0, 10)
    assert ledger.steps() == 2 * BLOCK
    ledger.settle(3)  # ten were drawn, whatever is said
    assert ledger.charged() == read_charges(path) == (Charge(1.1, 0.01, 10),)
    ledger.reserve(STEP, 11)
    assert ledger.steps() == 10 + BLOCK
    with Ledger(path, fresh=False, step=11) as again:
        again.reserve(STEP, 12)
    assert sum(c.steps for c in read_charges(path)) == 10 + BLOCK  # of the first, which was killed


def test_it_settles_however_it_is_left(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), Ledger(path) as ledger:
        ledger.reserve(STEP, 5)
        raise KeyboardInterrupt
    assert read_charges(path) == (Charge(1.1, 0.01, 5),)


# --- going on -------------------------------------------------------------------------------------


def test_with_the_seed_s_noise_repeated_steps_cost_nothing(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    taken(path, 0, 10)
    ledger = taken(path, 4, 90)  # from an older checkpoint
    assert ledger.repeated(STEP) == 0
    ledger.settle(90)
    assert ledger.steps() == 90


def test_with_the_system_s_noise_they_cost_again(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    taken(path, 0, 10, secure=True)
    ledger = Ledger(path, fresh=False, step=4, secure=True)
    assert ledger.steps() == 2 * BLOCK  # any of them may have been drawn
    assert ledger.repeated(STEP) == 2 * BLOCK - 4
    for step in range(5, 91):
        ledger.reserve(STEP, step)
    assert ledger.repeated(STEP) == 2 * BLOCK - 4
    ledger.settle(90)
    assert ledger.charged() == (Charge(1.1, 0.01, 2 * BLOCK + 86),)
    assert ledger.steps() == 90 + ledger.repeated(STEP)


def test_with_the_system_s_noise_a_clean_end_costs_nothing_twice(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    with taken(path, 0, 10, secure=True):
        pass
    with taken(path, 10, 25, secure=True) as ledger:
        assert ledger.repeated(STEP) == 0
    assert read_charges(path) == (Charge(1.1, 0.01, 25),)


def test_under_another_source_repeated_steps_cost_again(tmp_path: Path) -> None:
    """As with another number of threads: the same noise on sums that are rounded otherwise."""
    path = path_in(tmp_path)
    with taken(path, 0, 10, source="1 thread"):
        pass
    ledger = taken(path, 4, 12, source="2 threads")
    assert ledger.repeated(STEP) == 6
    ledger.settle(12)
    assert ledger.steps() == 10 + 8


def test_a_step_has_a_source_of_its_own(tmp_path: Path) -> None:
    """As from the step on at which a live value was changed."""
    path = path_in(tmp_path)
    with taken(path, 0, 10):
        pass
    ahead = [(1, "seed"), (7, "changed")]
    ledger = Ledger(path, fresh=False, step=4)
    assert ledger.repeated(STEP, 4, ahead) == 4
    for step in range(5, 13):
        ledger.reserve(STEP, step, source=Source("changed") if step >= 7 else None)
        assert ledger.repeated(STEP, step, ahead) == 4
    ledger.settle(12)
    assert ledger.steps() == 12 + 4
    again = Ledger(path, fresh=False, step=8)  # as it was changed, and as it was
    assert again.repeated(STEP, 8, ahead) == 4
    assert again.repeated(STEP) == 6  # of the first, 9 and 10 are yet to come


def test_the_seed_s_steps_are_not_those_of_the_system(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    with taken(path, 0, 10):
        pass
    with taken(path, 5, 10, secure=True):
        pass
    assert read_charges(path) == (Charge(1.1, 0.01, 15),)


def test_other_parameters_are_another_charge(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    ledger = taken(path, 0, 10)
    louder = Charge(2.0, 0.01)
    ledger.reserve(louder, 11)
    ledger.settle(11)
    assert ledger.charged() == (Charge(1.1, 0.01, 10), Charge(2.0, 0.01, 1))
    with Ledger(path, fresh=False, step=5) as again:  # takes five steps again, otherwise
        for step in range(6, 11):
            again.reserve(louder, step)
    assert read_charges(path) == (Charge(1.1, 0.01, 10), Charge(2.0, 0.01, 6))
    assert again.repeated(louder) == 0


def test_two_releases_of_one_step_both_count(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    with Ledger(path) as ledger:
        for step in range(1, 6):
            ledger.reserve(STEP, step)
            ledger.reserve(Charge(30.0, 1.0), step)
    assert read_charges(path) == (Charge(1.1, 0.01, 5), Charge(30.0, 1.0, 5))


def test_the_sampling_is_kept(tmp_path: Path) -> None:
    shuffled = Charge(1.0, 0.1, 7, "shuffled")
    with Ledger(path_in(tmp_path)) as ledger:
        ledger.reserve(shuffled, 7)
    assert read_charges(path_in(tmp_path)) == (shuffled,)


# --- what is refused ------------------------------------------------------------------------------


def test_a_ledger_that_is_missing_on_resume_is_refused(tmp_path: Path) -> None:
    for step in (0, 5):
        with pytest.raises(BadInput, match="is missing, which says what the run has spent"):
            Ledger(path_in(tmp_path), fresh=False, step=step)
    with pytest.raises(BadInput, match="there is no privacy ledger"):
        read_charges(path_in(tmp_path))
    assert not path_in(tmp_path).exists()


def test_a_run_without_a_checkpoint_goes_on_with_its_ledger(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    taken(path, 0, 10)
    ledger = Ledger(path, fresh=True)
    assert ledger.steps() == 2 * BLOCK


def test_a_ledger_that_is_older_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    with taken(path, 0, 10):
        pass
    with pytest.raises(BadInput, match="after step 11, but .* knows of 10 steps only"):
        Ledger(path, fresh=False, step=11)
    Ledger(path, fresh=False, step=10)


@pytest.mark.parametrize("cut", [1, 7, 30, 60])
def test_a_last_line_that_was_not_finished_is_dropped(tmp_path: Path, cut: int) -> None:
    path = path_in(tmp_path)
    ledger = taken(path, 0, BLOCK)
    before = path.read_bytes()
    ledger.reserve(STEP, BLOCK + 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(before) + cut])
    assert sum(c.steps for c in read_charges(path)) == BLOCK
    assert path.read_bytes() == whole[: len(before) + cut]  # who only reads leaves it as it is
    again = Ledger(path, fresh=False, step=BLOCK)
    assert again.steps() == BLOCK
    again.reserve(STEP, BLOCK + 1)
    assert Ledger(path, fresh=False).steps() == 2 * BLOCK


@pytest.mark.parametrize("end", [b"", b"X", b"\r"])
def test_a_last_line_that_lacks_its_end_alone_counts(tmp_path: Path, end: bytes) -> None:
    """Its reservation may have returned."""
    path = path_in(tmp_path)
    taken(path, 0, BLOCK + 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + end)
    assert sum(c.steps for c in read_charges(path)) == 2 * BLOCK
    again = Ledger(path, fresh=False, step=BLOCK)
    assert again.steps() == 2 * BLOCK
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("secure", [False, True])
def test_what_is_reserved_in_a_row_is_one_thing_to_count(tmp_path: Path, secure: bool) -> None:
    """Or every step would look at all before it."""
    ledger = taken(path_in(tmp_path), 0, 40 * BLOCK, secure=secure)
    assert len(ledger._book.reserved) == 1
    assert ledger.steps() == 40 * BLOCK


def test_a_ledger_of_which_only_half_a_line_was_written_is_begun_again(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    path.write_bytes(b'{"check":"0')
    assert Ledger(path).steps() == 0
    assert read_charges(path) == ()


def damaged(whole: bytes, how: str) -> bytes:
    lines = whole.splitlines(keepends=True)
    match how:
        case "changed":
            return whole.replace(b'"reserve":[1,8]', b'"reserve":[1,4]')
        case "gone":
            return b"".join([*lines[:2], *lines[3:]])
        case "twice":
            return b"".join([*lines[:3], lines[2], *lines[3:]])
        case "garbage":
            return b"".join([*lines[:2], b"\x00\xff{\n", *lines[3:]])
        case "half":
            return b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]])
        case "no ledger":
            return b'{"check":"00","entry":{"a":1}}\n'
        case "a list":
            return b"[]\n"
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["changed", "gone", "twice", "garbage", "half", "no ledger", "a list"]
)
def test_a_damaged_ledger_is_refused(tmp_path: Path, how: str) -> None:
    path = path_in(tmp_path)
    taken(path, 0, 3 * BLOCK)
    changed = damaged(path.read_bytes(), how)
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    for opening in (lambda: Ledger(path, fresh=False), lambda: read_charges(path)):
        with pytest.raises(BadInput, match=r"is damaged in line \d .*undamaged copy"):
            opening()
    assert path.read_bytes() == changed


def test_an_entry_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    ledger = taken(path, 0, 1)
    ledger._append({"refund": 5})
    with pytest.raises(BadInput, match="an entry of an unknown kind"):
        read_charges(path)


def test_a_full_disk_stops_the_run_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_in(tmp_path)
    ledger = taken(path, 0, BLOCK)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="A step that is not in it is not taken"):
            ledger.reserve(STEP, BLOCK + 1)
    assert path.read_bytes() == before
    assert ledger.steps() == BLOCK
    ledger.reserve(STEP, BLOCK + 1)  # there is room again
    assert ledger.charged() == read_charges(path) == (Charge(1.1, 0.01, 2 * BLOCK),)


# --- killed ---------------------------------------------------------------------------------------

CHILD = """
import json, os, sys
from pathlib import Path
from engine.privacy import Charge, Ledger

path, secure = Path(sys.argv[1]), sys.argv[2] == "secure"
kept = path.with_name("checkpoint.json")
step = json.loads(kept.read_text()) if kept.exists() else 0
ledger = Ledger(path, fresh=step == 0, step=step, secure=secure)
charge = Charge(1.1, 0.01)
while True:
    step += 1
    ledger.reserve(charge, step)
    os.write(1, f"{step}\\n".encode())  # the noisy step is used
    if step % 50 == 0:
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(step))
        part.replace(kept)
"""


@pytest.mark.parametrize("secure", [False, True])
def test_a_kill_at_any_moment_leaves_no_step_uncharged(tmp_path: Path, secure: bool) -> None:
    path = path_in(tmp_path)
    used: list[int] = []  # every noisy step that was ever used, by all who were killed
    for steps in (7, 333, 1, 120):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), "secure" if secure else "seed"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(steps):
            used.append(int(child.stdout.readline()))
        child.send_signal(signal.SIGKILL)
        used += [int(line) for line in child.stdout.read().split(b"\n") if line]
        assert child.wait() == -signal.SIGKILL
        spent = len(used) if secure else len(set(used))
        charged = sum(c.steps for c in read_charges(path))
        assert charged >= spent
        assert charged <= spent + BLOCK * (4 if secure else 1)
    checkpoint = json.loads(path.with_name("checkpoint.json").read_text())
    assert checkpoint >= 300
    with Ledger(path, fresh=False, step=checkpoint, secure=secure) as ledger:
        assert ledger.steps() == charged
