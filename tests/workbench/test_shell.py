"""The window without an engine: places, keys, looks, languages, other windows and processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
)

from engine.events import Images, Note, Progress, Scalars, Table
from engine.store import Run
from engine.store.metrics import MetricsWriter
from tests.workbench.stored import TRAIN, attacked, make_run, trained
from tests.workbench.windows import Open, open_window
from workbench import i18n, theme
from workbench.panels.start import StartPage
from workbench.present import Presenter
from workbench.window import COMPARE, DETAILS, LIVE, Window

__all__ = ["open_window"]


def press(qtbot, window: Window, key: Qt.Key, control: bool = True, shift: bool = False) -> None:
    modifiers = Qt.KeyboardModifier.NoModifier
    if control:
        modifiers |= Qt.KeyboardModifier.ControlModifier
    if shift:
        modifiers |= Qt.KeyboardModifier.ShiftModifier
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    qtbot.keyClick(window, key, modifiers)


# --- starting


def test_first_paint_needs_neither_torch_nor_specs(tmp_path: Path) -> None:
    code = (
        "import sys, workbench.app as a; a.run(['--workspace', sys.argv[1], "
        "'--exit-after-first-paint']); "
        "print(*[m for m in ('torch', 'pydantic', 'numpy', 'pyqtgraph') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w")],
        capture_output=True,
        text=True,
        check=True,
    )
    times, modules = done.stdout.splitlines()
    assert modules == ""
    assert json.loads(times)["cpu"] > 0
    assert not (tmp_path / "w").exists(), "nothing is made before the window is there"


def test_workbench_never_imports_torch() -> None:
    code = (
        "import pkgutil, importlib, sys, workbench\n"
        "for m in pkgutil.walk_packages(workbench.__path__, 'workbench.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "import engine.task; engine.task.discover()\n"
        "print([m for m in ('torch', 'torchvision', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_empty_workspace_shows_the_start_page(open_window: Open) -> None:
    window = open_window(engine=False)
    assert window.pages.currentWidget() is window.start_page
    assert window.start_page.run_demo.isEnabled()
    assert window.rail.places[:2] == ["start", "train"]
    assert set(window.rail.places) >= {"train", "attack", "compare", "import", "export"}


def test_newest_run_is_shown_first(open_window: Open, tmp_path: Path) -> None:
    trained(tmp_path / "w")
    newest = trained(tmp_path / "w", "newest")
    window = open_window(tmp_path / "w", engine=False)
    assert window.shown == newest.id
    assert window.tab == LIVE
    assert window.status.state.text() == "done"
    assert "97.5" in window.status.steps.text()


def test_a_place_that_cannot_be_used_is_said(
    open_window: Open, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "file").write_text("")
    window = open_window(tmp_path / "file" / "w", engine=False)
    assert "cannot be used as a workspace" in window.banner.text
    assert window.session.workspace.root.is_relative_to(tmp_path / "data")


# --- places


def test_runs_tabs_and_places(qtbot, open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    broken = attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    assert window.shown == broken.id
    view = window.views["attack"]
    assert [value for _, value, _ in view.accuracies.view.bars] == [0.975, 0.25]
    assert view.comparison.magnifier.replay.slider.maximum() == 2
    window.go("train")
    assert window.shown == plain.id
    assert window.pages.currentWidget() is window.views["train"]
    assert len(window.views["train"].curves["loss"].plot.curves["train/loss"].raw) == 40
    window.turn(DETAILS)
    assert "cnn" in window.details.spec.toPlainText()
    window.turn(COMPARE)
    assert window.session.book.compared == [plain.id]
    window.go("import")
    assert window.shown is None
    assert window.inspector.kind == "import"
    window.go("start")
    assert window.pages.currentWidget() is window.start_page


def test_new_attack_offers_the_newest_model(open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.show_new("attack")
    assert window.inspector.form.values()["model"] == plain.id


def test_form_shows_what_a_run_was_started_with_but_keeps_a_draft(
    open_window: Open, tmp_path: Path
) -> None:
    one, two = (
        make_run(tmp_path / "w", n, {**TRAIN, "epochs": e}) for n, e in (("a", 7), ("b", 9))
    )
    window = open_window(tmp_path / "w", engine=False)
    form = window.inspector.form
    assert form.values()["epochs"] == 9
    window.choose_run(one.id)
    assert form.values()["epochs"] == 7
    form.set_values({**form.values(), "epochs": 33})
    window.choose_run(two.id)
    assert form.values()["epochs"] == 33
    window.do.restore_form(two.id)
    assert form.values()["epochs"] == 9
    window.undo(True)
    assert form.values()["epochs"] == 33


def test_a_kind_without_a_view_of_its_own_is_drawn_too(qtbot) -> None:
    import numpy as np

    from workbench.panels.live import LiveView
    from workbench.runs.record import Record

    view = LiveView()
    qtbot.addWidget(view)
    record = Record(
        scalars={"privacy/epsilon": ([1, 2], [0.1, 0.2]), "test/accuracy": ([1], [0.5])},
        images={"samples": Images("samples", np.zeros((4, 8, 8, 1), np.uint8))},
        tables={"clients": Table("clients", ("name",), (("a",),))},
    )
    run = make_run_info()
    view.show_run(run, record, "series:0")
    assert set(view.curves) == {"epsilon", "accuracy"}
    assert view.curves["accuracy"].plot.frame.percent
    assert view.mosaics["samples"].view.pixels.shape[0] == 4
    assert view.tables["clients"].model.rows == (("a",),)
    view.show_nothing()
    assert not view.tables["clients"].model.rows


def make_run_info():
    from engine.store import RunInfo

    return RunInfo("x", "x", "other", "done", "", {"kind": "other"})


# --- other processes and windows


def test_runs_of_other_processes_appear_and_grow(qtbot, open_window: Open, tmp_path: Path) -> None:
    window = open_window(tmp_path / "w", engine=False)
    from engine.store import Workspace

    run = Workspace(tmp_path / "w").create(TRAIN, name="beside")
    run.set_state(status="running")
    qtbot.waitUntil(lambda: window.session.book.info(run.id) is not None)
    window.choose_run(run.id)
    assert window.session.book.info(run.id).status == "running"
    writer = MetricsWriter(run.database)
    writer.commit([Scalars(step, {"train/loss": 1.0}) for step in range(5)])
    writer.commit([Progress(5, 10, "steps"), Note("warning", "careful")])
    view = window.views["train"]
    qtbot.waitUntil(lambda: "train/loss" in view.curves["loss"].plot.curves)
    qtbot.waitUntil(lambda: window.status.bar.value() == 500)
    assert "5 / 10" in window.status.steps.text()
    writer.close()
    run.set_state(status="done", summary={"clean_accuracy": 0.5})
    run.lock.release()
    qtbot.waitUntil(lambda: window.status.state.text() == "done")


def test_second_window_only_looks(qtbot, open_window: Open, tmp_path: Path) -> None:
    run = trained(tmp_path / "w")
    first = open_window(tmp_path / "w", engine=False)
    second = open_window(tmp_path / "w", engine=False)
    assert not first.session.read_only
    assert second.session.read_only
    assert f"process {__import__('os').getpid()}" in second.banner.text
    assert not second.top.starts.isEnabled()
    assert not second.start_page.run_demo.isEnabled()
    second.do.start()
    second.do.delete([run.id])
    assert second.session.book.info(run.id) is not None
    first.close()


def test_rename_and_note_are_kept(qtbot, open_window: Open, tmp_path: Path) -> None:
    run = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.session.rename(run.id, "better name")
    window.show_details(run.id)
    qtbot.keyClicks(window.details.note, "tuned by hand")
    info = Run(run.folder).info()
    assert (info.name, info.note) == ("better name", "tuned by hand")
    assert window.run_list.model.index(0).data() == "better name"
    assert "better name" in window.top.run.text()
    assert [name for _, name, _ in window.inspector._runs] == ["better name"]


def test_comparing_from_a_run_without_an_accuracy_takes_those_that_have_one(
    open_window: Open, tmp_path: Path
) -> None:
    plain = trained(tmp_path / "w")
    broken = attacked(tmp_path / "w", plain)
    other = make_run(tmp_path / "w", "under way", status="interrupted")
    window = open_window(tmp_path / "w", engine=False)
    assert window.shown == other.id
    window.turn(COMPARE)
    assert sorted(window.session.book.compared) == sorted([plain.id, broken.id])


def test_a_run_that_is_not_over_can_be_resumed_beside_its_tabs(
    open_window: Open, tmp_path: Path
) -> None:
    stopped = make_run(tmp_path / "w", "stopped", status="interrupted")
    done = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    assert window.shown == done.id
    assert not window.resumer.isVisible()
    window.choose_run(stopped.id)
    assert window.resumer.isVisible()
    assert window.resumer.text() == "Resume"


def test_what_is_no_longer_true_leaves_the_banner(open_window: Open) -> None:
    window = open_window(engine=False)
    window.banner.tell("The engine is gone.", "error", about="engine")
    window.banner.settled("form")
    assert window.banner.text
    window.banner.settled("engine")
    assert not window.banner.text


def test_a_damaged_run_is_listed_and_hurts_nobody(open_window: Open, tmp_path: Path) -> None:
    run = trained(tmp_path / "w")
    (run.folder / "run.json").write_text("{")
    good = trained(tmp_path / "w", "good")
    (good.folder / "metrics.db").write_bytes(b"not a database, not at all")
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(run.id)
    window.choose_run(good.id)
    assert window.session.book.info(run.id).status == "damaged"
    assert "cannot be read" in window.log.plain()


# --- hands


def test_keys(qtbot, open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    press(qtbot, window, Qt.Key.Key_K)
    assert window.palette_view.isVisible()
    qtbot.keyClicks(window.palette_view.field, "plain")
    assert window.palette_view.command(0).title == "Go to run: plain"
    qtbot.keyClick(window.palette_view.field, Qt.Key.Key_Return)
    assert window.shown == plain.id
    press(qtbot, window, Qt.Key.Key_I)
    assert window.tab == DETAILS
    press(qtbot, window, Qt.Key.Key_C, shift=True)
    assert window.tab == COMPARE
    press(qtbot, window, Qt.Key.Key_N)
    assert window.shown is None
    press(qtbot, window, Qt.Key.Key_1)
    assert window.columns.sizes()[0] == 0
    press(qtbot, window, Qt.Key.Key_1)
    assert window.columns.sizes()[0] > 200
    press(qtbot, window, Qt.Key.Key_Equal)
    assert theme.manager.scale == 1.1
    press(qtbot, window, Qt.Key.Key_0)
    assert theme.manager.scale == 1.0
    press(qtbot, window, Qt.Key.Key_F, control=True)
    assert window.run_list.search.hasFocus()
    press(qtbot, window, Qt.Key.Key_F1, control=False)
    dialog = window.findChild(QDialog)
    assert dialog.isVisible()
    dialog.close()
    press(qtbot, window, Qt.Key.Key_E, shift=True)
    assert window.do.export_dialog is not None
    window.do.export_dialog.reject()
    assert window.do.export_dialog is None


def test_a_card_is_presented_and_comes_back(qtbot, open_window: Open, tmp_path: Path) -> None:
    trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    view = window.views["train"]
    card = view.curves["loss"]
    curves = [each for each in view.curves.values() if each.isVisibleTo(view)]
    assert len(curves) > 2
    window.present()
    presenter = window._presenter
    shown = presenter._card
    heads = [each.title.sizeHint().height() for each in curves]
    assert shown.window() is presenter
    assert theme.manager.scale > 1.2
    QApplication.sendEvent(
        presenter,
        QKeyEvent(QEvent.Type.KeyPress, Qt.Key.Key_Escape, Qt.KeyboardModifier.NoModifier),
    )
    assert shown.window() is window
    assert card.isVisible()
    assert theme.manager.scale == 1.0
    assert window._presenter is None
    after = [each.title.sizeHint().height() for each in curves]
    assert max(after) < min(heads), "nothing keeps the height it had when it was enlarged"


def test_language_changes_everything(open_window: Open, tmp_path: Path) -> None:
    trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.set_language("zh")
    assert window.settings.language == "zh"
    assert window.top.starts.text() == "开始运行"
    assert window.status.state.text() == i18n.tr("done") != "done"
    window.set_language("en")
    assert window.top.starts.text() == "Start run"
    assert window.tabs._options == ("Live", "Compare", "Details")


def test_theme_is_changed_and_remembered(open_window: Open) -> None:
    window = open_window(engine=False)
    window.top.themes.click()
    assert theme.manager.theme.dark
    assert theme.DARK.surface in QApplication.instance().styleSheet()
    window.close()
    assert json.loads(window.settings.path.read_text())["theme"] == "dark"


def test_sizes_are_remembered(open_window: Open) -> None:
    window = open_window(engine=False)
    window.resize(1300, 850)
    window.fold("log")
    window.close()
    stored = json.loads(window.settings.path.read_text())
    assert stored["sizes"]["log"] == 0
    assert (stored["width"], stored["height"]) == (1300, 850)


def test_a_small_window_squeezes_the_panes_for_a_while_only(open_window: Open) -> None:
    window = open_window(engine=False)
    window.resize(1440, 900)
    before = window.columns.sizes()[0], window.columns.sizes()[2], window.rows.sizes()[1]
    assert before == (248, 284, 128)
    window.resize(900, 560)
    assert window.columns.sizes()[0] < 248
    window.keep_sizes()
    assert window.settings.sizes == {"runs": 248, "inspector": 284, "log": 128}
    window.resize(1440, 900)
    assert (window.columns.sizes()[0], window.columns.sizes()[2], window.rows.sizes()[1]) == before
    window.resize(1920, 1080)
    theme.manager.set_scale(1.25)
    assert (window.columns.sizes()[0], window.columns.sizes()[2]) == (310, 355)


def test_an_edge_that_was_moved_stays_where_it_was_put(qtbot, open_window: Open) -> None:
    window = open_window(engine=False)
    window.resize(1440, 900)
    handle = window.columns.handle(1)
    qtbot.mousePress(handle, Qt.MouseButton.LeftButton)
    qtbot.mouseMove(handle, QPoint(60, 10))
    qtbot.mouseRelease(handle, Qt.MouseButton.LeftButton, pos=QPoint(60, 10))
    moved = window.columns.sizes()[0]
    assert moved > 290
    for size in ((900, 560), (1440, 900)):
        window.resize(*size)
    assert (window.columns.sizes()[0], window.columns.sizes()[2]) == (moved, 284)
    window.fold("inspector")
    for size in ((900, 560), (1440, 900)):
        window.resize(*size)
    assert (window.columns.sizes()[0], window.columns.sizes()[2]) == (moved, 0)


@pytest.mark.parametrize("place", ["start", "train", "attack", "compare", "import", "export"])
def test_every_control_has_a_name(open_window: Open, tmp_path: Path, place: str) -> None:
    plain = trained(tmp_path / "w")
    attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    window.go(place)
    nameless = [
        f"{type(control).__name__} in {control.parentWidget()}"
        for control_type in (QAbstractButton, QLineEdit, QComboBox, QPlainTextEdit)
        for control in window.findChildren(control_type)
        if control.isVisible()
        and not control.accessibleName()
        and not (isinstance(control, QAbstractButton) and control.text())
        and not isinstance(control.parentWidget(), QComboBox)
        and not control.objectName().startswith("qt_")
    ]
    assert nameless == []


def test_fits_a_small_screen(open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    window.resize(1024, 700)
    assert (window.width(), window.height()) == (1024, 700)
    window.resize(1440, 900)
    assert (window.width(), window.height()) == (1440, 900)


# --- what can be done with runs


def test_run_is_moved_to_the_trash_after_a_yes(
    qtbot, open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    moved: list[str] = []

    def move(path: str) -> bool:
        moved.append(path)
        Path(path).rename(tmp_path / "trash")
        return True

    monkeypatch.setattr("workbench.session.QFile.moveToTrash", move)
    monkeypatch.setattr(window.do, "_confirm_delete", lambda ids: False)
    window.do.delete([run.id])
    assert window.session.book.info(run.id) is not None
    monkeypatch.setattr(window.do, "_confirm_delete", lambda ids: True)
    window.run_list.select(run.id)
    qtbot.keyClick(window.run_list.view, Qt.Key.Key_Delete)
    assert moved == [str(run.folder)]
    assert window.session.book.infos() == []
    assert window.shown is None


def test_trash_that_fails_says_where_the_folder_is(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    monkeypatch.setattr("workbench.session.QFile.moveToTrash", lambda path: False)
    window.do.trash([run.id])
    assert str(run.folder) in window.banner.text
    assert window.session.book.info(run.id) is not None


def test_recipes_of_runs(qtbot, open_window: Open, tmp_path: Path) -> None:
    from engine.recipe import read_recipe

    plain = trained(tmp_path / "w")
    broken = attacked(tmp_path / "w", plain)
    window = open_window(tmp_path / "w", engine=False)
    window.do.copy_recipe(broken.id)
    assert 'model = "plain"' in QApplication.clipboard().text()
    window.do.write_lineage(broken.id, tmp_path / "both.toml")
    assert [entry.name for entry in read_recipe(tmp_path / "both.toml")] == ["plain", "broken"]
    window.do.write_lineage(broken.id, Path("/proc/nowhere.toml"))
    assert "nowhere" in window.banner.text


def test_context_menu_fits_the_run(open_window: Open, tmp_path: Path) -> None:
    from workbench.runs.menu import run_menu

    plain = trained(tmp_path / "w")
    cut = make_run(tmp_path / "w", "cut", status="interrupted")
    window = open_window(tmp_path / "w", engine=False)

    def offered(*ids: str) -> set[str]:
        menu = run_menu(window, ids)
        return {a.text().split("\t")[0] for a in menu.actions() if a.isEnabled() and a.text()}

    assert {"Compare", "Export encrypted…", "Rename…", "Move to trash…"} <= offered(plain.id)
    assert "Resume" not in offered(plain.id)
    assert "Resume" in offered(cut.id)
    assert "Export encrypted…" not in offered(cut.id)
    assert offered(plain.id, cut.id) == {"Compare", "Move to trash…"}


def test_dropping_a_waiting_run_changes_the_queue(open_window: Open, tmp_path: Path, qtbot) -> None:
    runs = [make_run(tmp_path / "w", name, status="queued") for name in ("a", "b", "c")]
    window = open_window(tmp_path / "w", engine=False)
    ids = [run.id for run in runs]
    window.session.book.set_queue(ids)
    model = window.run_list.model
    top = model.index(0)
    assert top.data() == "c", "the last of the queue stands on top"
    data = model.mimeData([top])
    with qtbot.waitSignal(window.run_list.asked_order) as told:
        model.dropMimeData(data, Qt.DropAction.MoveAction, 2, 0, model.index(2))
    assert told.args == [[ids[2], ids[0], ids[1]]]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_narrow_start_page_cuts_no_words_off(qtbot, language: str) -> None:
    i18n.set_language(language)
    page = StartPage(None)
    qtbot.addWidget(page)
    page.resize(420, 400)
    page.show()
    QApplication.processEvents()
    for label in page.findChildren(QLabel):
        if label.isVisible() and label.text():
            room = label.size()
            assert label.heightForWidth(room.width()) <= room.height(), label.text()
            assert label.minimumSizeHint().width() <= room.width(), label.text()


# --- what a newcomer stumbled over


def test_mosaics_and_magnifier_are_presented_too(qtbot, open_window: Open, tmp_path: Path) -> None:
    attacked(tmp_path / "w", trained(tmp_path / "w"))
    window = open_window(tmp_path / "w", engine=False)
    window.resize(1440, 900)
    comparison = window.views["attack"].comparison
    for card in comparison.cards:
        presenter = Presenter(card)
        qtbot.waitExposed(presenter)
        qtbot.wait(50)
        assert card.window() is presenter, "nobody takes it back while it is presented"
        seen = presenter.grab().toImage()
        middle = {seen.pixelColor(x, seen.height() // 3).name() for x in range(0, seen.width(), 3)}
        assert len(middle) > 2, card.title.text()
        presenter.close()
        assert card.window() is window
        assert card.isVisible()
    places = [comparison._grid.indexOf(card) for card in comparison.cards]
    assert -1 not in places


def test_a_presented_card_that_is_no_more_needed_ends_the_presentation(
    qtbot, open_window: Open, tmp_path: Path
) -> None:
    run = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.session.book.compare_only([run.id])
    window.go("compare")
    card = window.compare._cards["loss"]
    presenter = Presenter(card)
    closed: list[bool] = []
    presenter.closed.connect(lambda: closed.append(True))
    window.compare.refresh()
    assert card.window() is presenter
    card.deleteLater()
    qtbot.waitUntil(lambda: bool(closed))
    assert theme.manager.scale == 1.0


def test_a_switch_of_theme_dresses_every_widget_once(open_window: Open) -> None:
    window = open_window(engine=False)
    leaf = window.inspector.forms["train"].findChildren(QLineEdit)[0]
    told: list[QEvent.Type] = []

    class Ears(QObject):
        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            told.append(event.type())
            return False

    ears = Ears()
    leaf.installEventFilter(ears)
    window.toggle_theme()
    leaf.removeEventFilter(ears)
    assert 1 <= told.count(QEvent.Type.StyleChange) <= 4
    assert theme.manager.theme.dark


def test_the_banner_gives_the_keyboard_back(qtbot, open_window: Open) -> None:
    window = open_window(engine=False)
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    window.run_list.setFocus()
    before = window.focusWidget()
    pressed: list[bool] = []
    window.banner.tell("The engine has gone.", "error", (("Resume", lambda: pressed.append(True)),))
    button = next(b for b in window.banner.findChildren(QPushButton) if b.text() == "Resume")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert pressed
    assert window.focusWidget() is before
    window.banner.tell("The engine has gone.", "error", (("Resume", lambda: None),))
    button = next(b for b in window.banner.findChildren(QPushButton) if b.isVisible() and b.text())
    button.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.keyClick(button, Qt.Key.Key_Space)
    assert not window.banner.isVisible()
    assert window.focusWidget() is before


def test_space_pauses_wherever_the_keyboard_is(
    qtbot, open_window: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = open_window(engine=False)
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    said: list[bool] = []
    session = window.session
    monkeypatch.setattr(type(session), "pause", lambda self, on: said.append(on))
    session.current = "a-run"
    window._show_state()
    place = window.place
    for focused in (window.top.logo, window.top.themes, window.run_list, window):
        focused.setFocus()
        qtbot.keyClick(focused, Qt.Key.Key_Space)
    assert len(said) == 4
    assert window.place == place
    window.inspector.name.setFocus()
    qtbot.keyClicks(window.inspector.name, "a b")
    assert window.inspector.name.text() == "a b"
    assert len(said) == 4
    window.setFocus()
    qtbot.keyClick(window, Qt.Key.Key_Tab)
    reached = QApplication.focusWidget()
    assert reached is not window
    qtbot.keyClick(reached, Qt.Key.Key_Space)
    assert len(said) == 4, "what Tab has reached is pressed"
    session.current = None


@pytest.mark.parametrize(
    ("query", "kind", "name"),
    [
        ("learning rate", "train", "lr"),
        ("lr", "train", "lr"),
        ("eps", "attack", "eps"),
        ("epsilon", "attack", "eps"),
        ("seed", "train", "seed"),
    ],
)
def test_settings_are_found_and_reached(
    qtbot, open_window: Open, query: str, kind: str, name: str
) -> None:
    window = open_window(engine=False)
    window.show_new(kind)
    window.open_palette()
    palette = window.palette_view
    qtbot.keyClicks(palette.field, query)
    found = [palette.command(row).key for row in range(palette.list.count())]
    assert found[0].startswith(f"field.{kind}."), found[:3]
    assert found[0].endswith(f".{name}")
    window.go("start")
    qtbot.keyClick(palette.field, Qt.Key.Key_Return)
    assert window.place == kind
    path = tuple(found[0].split(".")[2:])
    node = window.inspector.form._node(path)
    assert node.editor.isAncestorOf(window.focusWidget()) or node.editor is window.focusWidget()


def test_a_setting_of_another_kind_leads_to_the_choice_of_kinds(open_window: Open) -> None:
    window = open_window(engine=False)
    window.show_new("train")
    window.show_setting("train", ("optimizer", "no_such_field"))
    section = window.inspector.form._node(("optimizer",))
    assert section._kind.isAncestorOf(window.focusWidget()) or section._kind is window.focusWidget()
