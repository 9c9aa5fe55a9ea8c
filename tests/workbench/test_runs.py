"""What is known of runs, how changes by others are noticed, and the list that shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, Qt

from engine.events import Images, Progress, Scalars
from engine.store import RunInfo
from engine.store.metrics import MetricsWriter
from tests.workbench.stored import TRAIN, attacked, make_run, trained
from workbench import theme
from workbench.mailbox import News
from workbench.runs.book import Book, Rate
from workbench.runs.compare import CompareView, chosen_series, findings, warnings
from workbench.runs.record import Record, load, load_more
from workbench.runs.run_list import RunList
from workbench.runs.watch import Watch


def info(run_id: str, status: str = "done", **more: object) -> RunInfo:
    return RunInfo(run_id, run_id, "train", status, "", TRAIN, **more)  # type: ignore[arg-type]


# --- the record


def test_record_takes_nothing_twice() -> None:
    record = Record()
    record.add(News(scalars={"a": ([0, 1, 2], [0.0, 1.0, 2.0])}))
    fresh = record.add(News(scalars={"a": ([1, 2, 3], [1.0, 2.0, 3.0])}))
    assert fresh.scalars == {"a": ([3], [3.0])}
    assert record.scalars == {"a": ([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0])}
    assert record.last("a") == 3.0
    assert record.last_step == 3


def test_record_of_the_store(tmp_path: Path) -> None:
    run = attacked(tmp_path, trained(tmp_path))
    record = load(run)
    assert [images.step for images in record.frames["adversarial"]] == [1, 2, 3]
    assert record.images["clean"].pixels.shape == (4, 8, 8, 1)
    assert record.scalars["attack/success_rate"][0] == [0, 1, 2, 3]
    assert list(record.tables) == ["classes"]
    assert load(trained(tmp_path, "other")).notes[0][1].text == "a remark"


def test_record_grows_with_the_store(tmp_path: Path) -> None:
    run = trained(tmp_path, steps=3)
    record, sizes = Record(), {}
    load_more(run, record, sizes)
    writer = MetricsWriter(run.database)
    writer.commit([Scalars(50, {"train/loss": math.nan}), Progress(50, 100, "steps")])
    writer.close()
    fresh = load_more(run, record, sizes)
    assert fresh.scalars["train/loss"][0] == [50]
    assert fresh.progress == Progress(50, 100, "steps")
    assert not fresh.images
    assert not load_more(run, record, sizes).scalars


# --- the book


def test_book_tells_only_what_changed(qtbot) -> None:
    book = Book()
    book.fill([info("a"), info("b", "running")])
    with qtbot.assertNotEmitted(book.listed), qtbot.assertNotEmitted(book.changed):
        book.fill([info("a"), info("b", "running")])
    with qtbot.waitSignal(book.changed) as told:
        book.put(replace(info("a"), note="x"))
    assert told.args == ["a"]
    with qtbot.waitSignal(book.listed):
        book.set_status("b", "done")


def test_book_lists_queue_above_running_above_ended() -> None:
    book = Book()
    book.fill(
        [info("1"), info("2", "running"), info("3", "queued"), info("4", "queued"), info("5")]
    )
    book.set_queue(["3", "4"])
    assert [i.id for i in book.infos()] == ["4", "3", "2", "5", "1"]


def test_colours_stay_and_differ() -> None:
    book = Book()
    book.fill([info(str(i)) for i in range(8)])
    first = [book.color_index(str(i)) for i in range(8)]
    assert sorted(first) == list(range(8))
    assert [book.color_index(str(i)) for i in range(8)] == first


def test_comparison_forgets_runs_that_are_gone() -> None:
    book = Book()
    book.fill([info("a"), info("b")])
    book.compare("a", True)
    book.compare("b", True)
    book.fill([info("b")])
    assert book.compared == ["b"]


def test_rate_and_time_left() -> None:
    rate = Rate()
    rate.update(Progress(0, 100, "steps"), 10.0)
    rate.update(Progress(20, 100, "steps"), 11.0)
    assert rate.per_second == 20
    assert rate.seconds_left == 4
    assert rate.fraction == 0.2
    rate.update(Progress(5, 0, "images"), 12.0)
    assert rate.seconds_left is None
    assert rate.fraction == 0


def test_a_rate_counts_what_is_under_way() -> None:
    rate = Rate()
    rate.update(Progress(0, 500, "by autoattack", 0.1), 10.0)
    rate.update(Progress(0, 500, "by autoattack", 0.3), 30.0)
    assert rate.fraction == 0.3
    assert rate.per_second == pytest.approx(5)  # 100 samples' worth in 20 s
    assert rate.seconds_left == pytest.approx(70)
    rate.update(Progress(0, 500, "by square", 0.05), 31.0)
    assert rate.seconds_left is None  # another one has begun


def test_progress_of_an_ended_run_is_not_kept() -> None:
    book = Book()
    book.fill([info("a", "running")])
    book.set_progress("a", Progress(1, 2, "steps"))
    assert book.rate("a") is not None
    book.set_status("a", "done")
    book.set_progress("a", Progress(2, 2, "steps"))
    assert book.rate("a") is None


# --- noticing others


def test_watch_notices_what_other_processes_do(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "runs")
    assert watch.look() == ([], False)
    run = make_run(tmp_path, "one")
    infos, different = watch.look()
    assert [i.name for i in infos] == ["one"]
    assert different
    assert not watch.look()[1]
    run.rename("two")
    infos, different = watch.look()
    assert different
    assert infos[0].name == "two"
    (tmp_path / "runs" / "half").mkdir()
    assert not [i for i in watch.look()[0] if i.id == "half"]


# --- the list


def shown(pane: RunList) -> list[str]:
    assert pane.model is not None
    return [pane.model.index(row).data() for row in range(pane.model.rowCount())]


def test_list_searches_and_selects(qtbot) -> None:
    book = Book()
    book.fill([info("alpha"), info("beta", "failed", note="odd one")])
    pane = RunList(None)  # type: ignore[arg-type]
    qtbot.addWidget(pane)
    pane.set_book(book)
    pane.resize(248, 400)
    pane.show()
    assert shown(pane) == ["beta", "alpha"]
    qtbot.keyClicks(pane.search, "odd")
    assert shown(pane) == ["beta"]
    pane.search.setText("cnn failed")
    assert shown(pane) == ["beta"]
    pane.search.clear()
    with qtbot.waitSignal(pane.selected) as told:
        place = pane.view.visualRect(pane.model.index(1)).center()
        qtbot.mouseClick(pane.view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert told.args == ["alpha"]
    book.put(info("gamma"))
    assert pane.current() == "alpha"


def test_dot_adds_to_the_comparison(qtbot) -> None:
    book = Book()
    book.fill([info("alpha"), info("beta")])
    pane = RunList(None)  # type: ignore[arg-type]
    qtbot.addWidget(pane)
    pane.set_book(book)
    pane.resize(248, 400)
    pane.show()
    row = pane.view.visualRect(pane.model.index(0))
    with qtbot.assertNotEmitted(pane.selected):
        dot = row.topLeft() + QPoint(22, 18)
        qtbot.mouseClick(pane.view.viewport(), Qt.MouseButton.LeftButton, pos=dot)
    assert book.compared == ["beta"]


def test_queue_is_reordered_by_keyboard(qtbot) -> None:
    book = Book()
    book.fill([info("1", "queued"), info("2", "queued"), info("3", "queued")])
    book.set_queue(["1", "2", "3"])
    pane = RunList(None)  # type: ignore[arg-type]
    qtbot.addWidget(pane)
    pane.set_book(book)
    pane.select("1")
    with qtbot.waitSignal(pane.asked_order) as told:
        qtbot.keyClick(pane.view, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    assert told.args == [["2", "1", "3"]]


# --- comparing


def test_series_to_compare_by() -> None:
    names = ("train/loss", "validation/loss", "attack/loss", "train/lr")
    assert chosen_series(dict.fromkeys(names)) == {
        "loss": "validation/loss",
        "attack loss": "attack/loss",
    }


def test_comparison_puts_robust_accuracies_side_by_side(qtbot, tmp_path: Path) -> None:
    plain = trained(tmp_path)
    runs = [plain, attacked(tmp_path, plain, robust=0.0), attacked(tmp_path, plain, "again", 0.5)]
    book = Book()
    book.fill([run.info() for run in runs])
    view = CompareView(None)  # type: ignore[arg-type]
    qtbot.addWidget(view)
    view.set_book(book, lambda run_id: load(next(r for r in runs if r.id == run_id)))
    view.resize(900, 700)
    view.show()
    book.compare_only([run.id for run in runs])
    assert [value for _, value, _ in view.bars.view.bars] == [0.975, 0.0, 0.975, 0.5]
    assert len(view.table.model.rows) == 3
    with qtbot.waitSignal(view.export) as told:
        view.exporter.click()
    assert told.args == [plain.id]
    named = [book.named(run.info()) for run in runs]
    assert "plain is right on 97.5" in findings(named)[0].replace("\u202f", " ")


def test_comparison_names_the_runs_that_may_mislead() -> None:
    changed = {"clean_accuracy": 0.9, "data_changed": True}
    runs = [info("a", summary=changed), info("b", summary={}), info("c", summary=changed)]
    (told,) = warnings(runs)
    assert told.startswith("a, c: The data or its split has changed")


def test_a_result_is_no_curve_to_compare() -> None:
    scalars = {"test/accuracy": ([0], [0.9]), "train/loss": ([0, 1], [2.0, 1.0])}
    assert chosen_series(scalars) == {"loss": "train/loss"}


def test_pictures_of_the_same_step_replace_each_other() -> None:
    import numpy as np

    record = Record()
    pixels = np.zeros((1, 2, 2, 1), np.uint8)
    record.add(News(images={"x": Images("x", pixels, step=3)}))
    assert not record.add(News(images={"x": Images("x", pixels, step=2)})).images
    assert record.add(News(images={"x": Images("x", pixels, step=3)})).images


def test_colours_are_the_same_in_the_next_window() -> None:
    infos = [info(str(i)) for i in range(5)]
    first, second = Book(), Book()
    first.fill(infos)
    second.fill(infos)
    asked = [first.color_index(i) for i in ("3", "0", "4")]
    assert [second.color_index(i) for i in ("4", "0", "3")] == asked[::-1]


def test_runs_of_one_name_are_told_apart_and_two_models_compared(qtbot, tmp_path: Path) -> None:
    models = [trained(tmp_path), trained(tmp_path)]
    runs = [attacked(tmp_path, m, robust=r) for m, r in zip(models, (0.25, 0.75))]
    book = Book()
    book.fill([run.info() for run in (*models, *runs)])
    view = CompareView(None)  # type: ignore[arg-type]
    qtbot.addWidget(view)
    view.set_book(book, lambda run_id: load(next(r for r in runs if r.id == run_id)))
    book.compare_only([run.id for run in runs])
    infos = view._infos()
    assert len({i.name for i in infos}) == 2
    assert all(i.name.startswith("broken · ") for i in infos)
    assert len({i.spec["model"] for i in infos}) == 2
    assert "+50.0 points" in findings(infos)[-1]


def test_the_table_has_room_for_its_rows_at_any_size(qtbot) -> None:
    view = CompareView(None)  # type: ignore[arg-type]
    qtbot.addWidget(view)
    view.table.set_table(("a",), [(1,)] * 4)
    view._size()
    before = view.table.maximumHeight()
    theme.manager.set_scale(1.4)
    assert view.table.maximumHeight() >= 1.35 * before
