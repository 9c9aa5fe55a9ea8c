"""The window, driven as a person would, with a real engine process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QMessageBox

from tests.workbench.windows import Open, open_window
from workbench.runs.menu import run_menu
from workbench.window import COMPARE, DETAILS, LIVE, Window

__all__ = ["open_window"]

LONG = 60_000


def set_up(window: Window, name: str, epochs: int) -> None:
    """Fill in the form of a small training."""
    window.show_new("train")
    form = window.inspector.form
    assert form is not None
    form.set_values(
        {
            **form.values(),
            "model": {"kind": "mlp", "width": 16, "depth": 1},
            "data": {"kind": "digits"},
            "epochs": epochs,
            "seed": 5,
        }
    )
    window.inspector.name.setText(name)


def run_named(window: Window, name: str):
    return next((i for i in window.session.book.infos() if i.name == name), None)


def wait_for(qtbot, window: Window, name: str, status: str) -> None:
    def there() -> bool:
        info = run_named(window, name)
        return info is not None and info.status == status

    qtbot.waitUntil(there, timeout=LONG)


def test_demo_by_one_click(qtbot, open_window: Open, tmp_path: Path) -> None:
    window = open_window()
    assert window.pages.currentWidget() is window.start_page
    seen: list[str] = []
    window.session.began.connect(lambda run_id: seen.append(window.session.book.name(run_id)))
    with qtbot.waitSignal(window.settled, timeout=120_000):
        qtbot.mouseClick(window.start_page.run_demo, Qt.MouseButton.LeftButton)
    assert seen == ["plain", "broken", "hardened", "attacked again", "exported"]
    assert window.tab == COMPARE
    assert window.pages.currentWidget() is window.compare
    bars = [value for _, value, _ in window.compare.bars.view.bars]
    assert len(bars) == 4
    assert bars[3] > bars[1], "the hardened model stands up better"
    assert window.compare.exporter.isVisible()
    exported = run_named(window, "exported")
    assert Path(exported.summary["file"]).is_file()
    # Everything is still there for the next window.
    window.close()
    again = open_window()
    assert len(again.session.book.infos()) == 5
    again.choose_run(run_named(again, "broken").id)
    assert again.views["attack"].comparison.adversarial.view.pixels.shape[0] == 24


def test_what_waits_happens_in_its_order(qtbot, open_window: Open) -> None:
    """The comparison at a batch's end is not followed by the last run's own view."""
    window, seen = open_window(engine=False), []
    window._stay_until = time.monotonic() + 0.05
    window._later(lambda: seen.append("follow"))
    window._stay_until = 0.0
    window._later(lambda: seen.append("end"))
    qtbot.waitUntil(lambda: len(seen) == 2)
    assert seen == ["follow", "end"]


def test_training_by_hand_then_attack(qtbot, open_window: Open) -> None:
    window = open_window()
    set_up(window, "mine", 3)
    with qtbot.waitSignal(window.session.ended, timeout=LONG):
        window.top.starts.click()
    info = run_named(window, "mine")
    assert info.status == "done"
    assert window.shown == info.id
    assert window.place == "train"
    assert len(window.views["train"].curves["loss"].plot.curves["train/loss"].raw) > 30
    assert window.views["train"].tables["parameters"].model.rows
    assert window.status.state.text() == "done"
    window.go("attack")
    assert window.shown is None
    assert window.inspector.form.values()["model"] == info.id, "the newest model is offered"
    form = window.inspector.form
    form.set_values({**form.values(), "samples": 20})
    with qtbot.waitSignal(window.session.ended, timeout=LONG):
        window.do.start()
    attack = window.session.book.newest("attack")
    assert attack.status == "done"
    assert attack.lineage == {"model": info.id}
    assert attack.name == "pgd-mine"
    assert window.views["attack"].comparison.clean.view.pixels.shape[0] == 20
    window.turn(DETAILS)
    assert ("Clean accuracy") in [row[0] for row in window.details.results.model.rows]


def test_pause_step_continue_and_cancel(qtbot, open_window: Open) -> None:
    window = open_window()
    set_up(window, "long", 10_000)
    window.do.start()
    wait_for(qtbot, window, "long", "running")
    view = window.views["train"]
    record = lambda: window.session.known_record(window.shown)  # noqa: E731
    qtbot.waitUntil(lambda: bool(record() and record().last_step > 20), timeout=LONG)
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    qtbot.keyClick(window, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: window.session.paused, timeout=LONG)
    assert window.status.state.text() == "paused"
    qtbot.wait(300)
    before = record().last_step
    qtbot.wait(300)
    assert record().last_step == before, "a paused run does not go on"
    window.do.single_step()
    qtbot.waitUntil(lambda: record().last_step > before, timeout=LONG)
    qtbot.wait(300)
    assert record().last_step <= before + 3
    window.top.pauses.click()
    qtbot.waitUntil(lambda: record().last_step > before + 20, timeout=LONG)
    window.do.stop()
    wait_for(qtbot, window, "long", "cancelled")
    assert not window.banner.text
    assert len(view.curves["loss"].plot.curves["train/loss"].raw) > 20


def test_learning_rate_is_changed_while_it_runs(qtbot, open_window: Open) -> None:
    window = open_window()
    set_up(window, "live", 10_000)
    window.do.start()
    wait_for(qtbot, window, "live", "running")
    qtbot.waitUntil(window.inspector.live.isVisible, timeout=LONG)
    qtbot.waitUntil(lambda: window.session.known_record(window.shown) is not None, timeout=LONG)
    record = window.session.known_record(window.shown)
    qtbot.waitUntil(lambda: record.last("train/lr") == pytest.approx(2e-3), timeout=LONG)
    control = window.inspector.live_controls()[0]
    qtbot.mouseClick(control.half, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: record.last("train/lr") == pytest.approx(1e-3), timeout=LONG)
    assert "lr set to 0.001" in [note.text for _, note in record.notes]
    control.field.setText("0")
    qtbot.keyClick(control.field, Qt.Key.Key_Return)
    assert control.field.text() == "0.001"
    assert not window.banner.text


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "segmentation")]
)
def test_engine_dies_and_the_run_is_resumed(
    qtbot, open_window: Open, number: signal.Signals, words: str
) -> None:
    window = open_window()
    set_up(window, "victim", 400)  # long enough for a checkpoint
    window.do.start()
    wait_for(qtbot, window, "victim", "running")
    # The store may tell of the run a moment before the engine's own word of it arrives.
    qtbot.waitUntil(lambda: window.shown is not None, timeout=LONG)
    folder = window.session.run(run_named(window, "victim").id).folder
    qtbot.waitUntil(lambda: bool(list((folder / "checkpoints").glob("*"))), timeout=LONG)
    with qtbot.waitSignal(window.session.lost, timeout=LONG):
        os.kill(window.session.pid, number)
    assert words in window.banner.text
    assert window.isVisible()
    assert run_named(window, "victim").status == "interrupted"
    window.do.resume(run_named(window, "victim").id)
    wait_for(qtbot, window, "victim", "done")
    steps = window.session.stored(run_named(window, "victim").id).scalars["train/loss"][0]
    assert steps == list(range(steps[0], steps[-1] + 1)), "nothing is missing or there twice"


def test_closing_while_a_run_goes_asks(qtbot, open_window: Open) -> None:
    window = open_window()
    set_up(window, "going", 10_000)
    window.do.start()
    wait_for(qtbot, window, "going", "running")
    window.close()
    assert window.isVisible()
    box = window.findChild(QMessageBox)
    stay, cancel = box.escapeButton(), next(b for b in box.buttons() if b is not box.escapeButton())
    stay.click()
    qtbot.wait(100)
    assert window.isVisible()
    assert run_named(window, "going").status == "running"
    window.close()
    box = window.findChildren(QMessageBox)[-1]
    cancel = next(b for b in box.buttons() if b is not box.escapeButton())
    run_id = run_named(window, "going").id
    cancel.click()
    qtbot.waitUntil(window.isHidden, timeout=LONG)
    assert window.session.workspace.find(run_id).info().status == "cancelled"


def test_queue_is_shown_reordered_and_emptied(qtbot, open_window: Open) -> None:
    window = open_window()
    for name in ("first", "second", "third"):
        set_up(window, name, 10_000)
        window.do.start()
    wait_for(qtbot, window, "first", "running")
    qtbot.waitUntil(lambda: len(window.session.book.queue) == 2, timeout=LONG)
    second, third = (run_named(window, name).id for name in ("second", "third"))
    assert window.session.book.queue == [second, third]
    window.session.order([third, second])
    qtbot.waitUntil(lambda: window.session.book.queue == [third, second], timeout=LONG)
    window.do.delete([second])
    wait_for(qtbot, window, "second", "skipped")
    assert window.session.book.queue == [third]


def test_export_dialog_writes_a_file(qtbot, open_window: Open, tmp_path: Path) -> None:
    window = open_window()
    set_up(window, "model", 1)
    window.do.start()
    wait_for(qtbot, window, "model", "done")
    window.inspector.exporter.click()
    dialog = window.do.export_dialog
    assert dialog is not None
    task = {
        "name": "model export",
        "kind": "export",
        "model": run_named(window, "model").id,
        "to": str(tmp_path / "model.age"),
        "recipients": [],
        "own_key": False,
        "passphrase": True,
    }
    dialog.requested.emit(task, {"passphrase": "a long enough passphrase"})
    wait_for(qtbot, window, "model export", "done")
    qtbot.waitUntil(lambda: dialog._pages.currentIndex() == 1, timeout=LONG)
    assert (tmp_path / "model.age").read_bytes().startswith(b"age-encryption.org/v1")
    assert window.tab == LIVE
    assert window.session.book.name(window.shown) == "model", "the view stays where it is"
    everything = b"".join(
        p.read_bytes() for p in (window.session.workspace.root).rglob("*") if p.is_file()
    )
    assert b"long enough passphrase" not in everything
    dialog.close()


def test_an_adversarial_set_is_embedded_and_exported(
    qtbot, open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = open_window()
    set_up(window, "model", 1)
    window.do.start()
    wait_for(qtbot, window, "model", "done")
    model = run_named(window, "model").id
    assert not window.do.has_examples(model)
    window.do.export_set(model)
    assert "no adversarial examples" in window.banner.text
    attack = {"kind": "pgd", "norm": "linf", "eps": 0.3, "steps": 3, "step_size": 0.1}
    task = {"name": "broken", "kind": "attack", "model": model, "attack": attack, "samples": 12}
    window.session.start([task])
    wait_for(qtbot, window, "broken", "done")
    qtbot.waitUntil(lambda: not window.session.busy, timeout=LONG)  # the end is drawn, too
    run = run_named(window, "broken")
    window.show_run(run.id)
    atlas = window.view("attack").atlas
    atlas.embedding.button.click()
    assert window.following
    window.session.began.emit(run.id)  # told late: what is being computed stays
    qtbot.waitUntil(lambda: not window._coming, timeout=LONG)
    qtbot.waitUntil(lambda: not atlas.embedding.computing, timeout=LONG)
    found = atlas.embedding.plane.found
    assert found is not None, atlas.embedding._warning.words.text()
    assert len(found.samples) == found.of == 12
    outcomes = [sample.outcome for sample in window.view("attack").comparison.samples]
    assert [sample.outcome for sample in found.samples] == outcomes

    chosen = str(tmp_path / "set"), "Folder of PNG files (*)"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: chosen)
    labels = [action.text() for action in run_menu(window, [run.id]).actions()]
    assert "Export adversarial set…" in labels
    window.do.export_set()
    wait_for(qtbot, window, "broken-examples", "done")
    assert len(list((tmp_path / "set" / "adversarial").iterdir())) == 12
    window.do.export_set(run.id)  # the same place again
    qtbot.waitUntil(lambda: "exists already" in window.banner.text, timeout=LONG)
    window.do.write_set(run.id, tmp_path / "exact", "safetensors")
    wait_for(qtbot, window, "broken-examples-2", "done")
    assert (tmp_path / "exact.safetensors").is_file()


def test_bad_recipe_is_refused_with_the_reason(qtbot, open_window: Open, tmp_path: Path) -> None:
    window = open_window(engine=False)
    recipe = tmp_path / "bad.toml"
    recipe.write_text('[[task]]\nname = "a"\nkind = "trian"\n')
    assert not window.do.run_recipe(recipe)
    assert "train" in window.banner.text
    assert window.session.book.infos() == []


def test_a_recipe_that_runs_code_needs_a_yes(qtbot, open_window: Open, tmp_path: Path) -> None:
    window = open_window(engine=False)
    recipe = tmp_path / "code.toml"
    recipe.write_text(
        '[[task]]\nname = "a"\nkind = "train"\n'
        'model = {kind = "module", factory = "mine.py:make", trust = true}\n'
    )
    assert not window.do.run_recipe(recipe)
    assert "mine.py:make" in window.banner.text
    assert window.session.book.infos() == []


def test_form_with_a_fault_is_not_started(qtbot, open_window: Open) -> None:
    window = open_window(engine=False)
    set_up(window, "bad", 1)
    form = window.inspector.form
    form.set_values({**form.values(), "epochs": 0})
    window.do.start()
    assert "fault" in window.banner.text
    form.set_values({**form.values(), "epochs": 1})
    qtbot.waitUntil(lambda: not window.banner.text)


def test_start_without_an_engine_starts_one(qtbot, open_window: Open) -> None:
    window = open_window()
    qtbot.waitUntil(lambda: window.session.pid is not None, timeout=LONG)
    with qtbot.waitSignal(window.session.lost, timeout=LONG):
        os.kill(window.session.pid, signal.SIGKILL)
    assert "killed" in window.banner.text
    set_up(window, "woken", 1)
    window.top.starts.click()
    wait_for(qtbot, window, "woken", "done")
    assert not window.banner.text
    assert "woken  started" in window.log.plain().replace("info ", "").replace("woken ", "woken  ")


def test_a_run_whose_beginning_is_told_late_does_not_hide_the_comparison(
    qtbot, open_window: Open, tmp_path: Path
) -> None:
    """A short last run can be over, by the store, before the engine's word that it began."""
    window = open_window()
    with qtbot.waitSignal(window.settled, timeout=120_000):
        qtbot.mouseClick(window.start_page.run_demo, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: window.tab == COMPARE, timeout=LONG)
    window.session.began.emit(run_named(window, "exported").id)
    qtbot.waitUntil(lambda: not window._coming, timeout=LONG)
    assert window.tab == COMPARE
