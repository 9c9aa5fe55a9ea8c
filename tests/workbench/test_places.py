"""What the places of the window have in common: models, examples, pages, and what is said of runs
that evaluate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtWidgets import QFrame

from engine.events import Images, Scalars, Table
from engine.robustness.flags import FLAGS
from tests.workbench.stored import attacked, make_run, trained
from tests.workbench.windows import Open, open_window
from workbench import i18n, theme
from workbench.bars import unit_text
from workbench.panels.attack_view import AttackView
from workbench.panels.details import called, value_text
from workbench.panels.evaluate_view import EvaluateView
from workbench.panels.live import LiveView
from workbench.panels.stage import AFTER, TALLEST
from workbench.refusals import error_text
from workbench.runs.record import load
from workbench.window import COMPARE
from workbench.words import note_text

__all__ = ["open_window"]

EVALUATE = {"kind": "evaluate", "model": "plain", "attacks": [{"kind": "pgd", "norm": "linf"}]}


@pytest.fixture(autouse=True)
def english() -> Any:
    yield
    i18n.set_language("en")


# --- models and examples


def test_a_model_behind_a_transform_is_a_model(open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    spec = {"kind": "transform", "model": plain.id, "transform": {"kind": "jpeg", "quality": 50}}
    behind = make_run(tmp_path / "w", "behind JPEG", spec, lineage={"model": plain.id})
    judged = make_run(tmp_path / "w", "judged", EVALUATE, lineage={"model": behind.id})
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(judged.id)
    assert not window.tester.isHidden()
    window.tester.click()
    assert window.own is not None
    assert window.own.chosen == behind.id, "not the model without the transform"
    window.choose_run(behind.id)
    assert window.do.exportable() == behind.id


def test_the_set_to_export_is_the_one_that_is_shown(open_window: Open, tmp_path: Path) -> None:
    plain = trained(tmp_path / "w")
    runs = [attacked(tmp_path / "w", plain) for _ in range(2)]
    for run in runs:
        run.set_state(artifacts=[{"name": "adversarial", "path": "adversarial.safetensors"}])
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(runs[0].id)
    window.show_new("export_set")
    form = window.inspector.form
    assert form is not None
    assert form.values()["source"] == runs[0].id
    editor = form._node(("source",)).editor  # type: ignore[union-attr]
    offered = [editor.combo.itemText(k) for k in range(editor.combo.count())]
    assert len(offered) == 2, "a training has no examples"


def test_a_perturbation_for_all_is_judged_on_test_images(qtbot: Any, tmp_path: Path) -> None:
    spec = {
        "kind": "attack",
        "model": "plain",
        "attack": {"kind": "universal", "norm": "linf", "eps": 0.2, "train_samples": 9},
    }
    rates = [Scalars(k, {"train/success_rate": k / 10}) for k in range(3)]
    rates.append(Scalars(3, {"attack/success_rate": 0.75}))
    run = make_run(tmp_path, "one for all", spec, events=tuple(rates))
    view = AttackView()
    qtbot.addWidget(view)
    view.show_run(run.info(), load(run), "series:0")
    for _ in range(2):
        view.draw()
    assert view.curves["success_rate"].value.text().startswith("75.0")


# --- finding the way


def test_the_rail_is_in_groups(open_window: Open, tmp_path: Path) -> None:
    window = open_window(engine=False)
    rules = [f for f in window.rail.findChildren(QFrame) if f.property("role") == "rule"]
    assert len(rules) == 3
    tops = [window.rail._places[name].y() for name in ("start", "train", "own", "import")]
    lines = sorted(rule.y() for rule in rules)
    assert all(a < line < b for a, line, b in zip(tops, lines, tops[1:]))


def test_a_low_window_keeps_its_icons_and_scrolls_to_the_open_place(
    open_window: Open, qtbot: Any
) -> None:
    window = open_window(engine=False)
    high = window.rail._places["train"].height()
    window.resize(window.minimumSize())
    window.go("export")
    button = window.rail._places["export"]
    assert button.height() == high >= theme.px(30)

    def in_sight() -> bool:
        area = window.rail._scroll.viewport()
        place = button.mapTo(area, button.rect().center())
        return bool(area.rect().contains(place))

    qtbot.waitUntil(in_sight)
    window.go("train")
    button = window.rail._places["train"]
    qtbot.waitUntil(in_sight)


def test_pages_are_found_by_name(open_window: Open, tmp_path: Path) -> None:
    broken = attacked(tmp_path / "w", trained(tmp_path / "w"))
    window = open_window(tmp_path / "w", engine=False)
    window.turn(COMPARE)
    window.show_page("Embedding")
    assert window.shown == broken.id
    view: Any = window.view("attack")
    assert window.pages.currentWidget() is view
    assert view.comparison.page is view.atlas.embedding
    window.open_palette()
    window.palette_view.field.setText("surface")
    assert [found.key for found in window.palette_view._found] == ["page.Surface"]


# --- what is said of an evaluation


def test_what_is_counted_is_said_in_words() -> None:
    assert unit_text("iterations") == "iteration"
    assert unit_text("by pgd-2") == "PGD 2: sample"
    i18n.set_language("zh")
    assert unit_text("by pgd-2") == "PGD 2：样本"
    for unit in ("clean images", "checks", "corruptions", "points judged", "steps of fitting"):
        assert not unit_text(unit).isascii()


def test_flags_in_the_log_are_in_the_language() -> None:
    flag = FLAGS["zero_gradients"]
    evidence = "of the margin, at 32 of 32 clean images (p = 0.01)"
    said = f"{flag.title}: {evidence}. {flag.means} {flag.advice}"
    assert note_text(said) == said
    i18n.set_language("zh")
    shown = note_text(said)
    assert shown.startswith("零梯度")
    assert "(p = 0.01)" in shown
    assert not any(words in shown for words in ("Gradients", "margin", "Attack without"))
    unmet = "robust accuracy >= 0.8 is required; it is 0.5 on 60 samples, so at least 0.3"
    for text in (unmet, f"{unmet}; clean {unmet.removeprefix('robust ')}"):
        assert "required" not in note_text(f"rejected: {text}")


def test_a_contradiction_is_told_in_the_language() -> None:
    said = (
        "the certificate is contradicted (2 of 60 samples): image 7 is certified as '3' within l2 "
        "0.5000, but at 0.3000 the classifier says '8'. That cannot happen by chance. Do not use "
        "these radii: look for what the certificate does not know of the model. The images are in "
        "contradictions.safetensors."
    )
    assert error_text(said) == said.replace("within l2", "within L2")
    i18n.set_language("zh")
    assert "contradicted" not in error_text(said)
    assert "chance" not in error_text(said)


def test_shares_of_a_summary_are_named_and_in_percent() -> None:
    assert called("certified_accuracy.0.05") == "Certified accuracy: 0.05"
    assert called("robust_accuracy_by_attack.pgd-2") == "Robust accuracy after: PGD 2"
    assert called("max_norm.linf") == "Largest norm: L∞"
    assert value_text("certified_accuracy.0.05", 0.669) == "66.9\u202f%"
    assert value_text("robust_accuracy_by_attack.pgd-2", 0.5) == "50.0\u202f%"
    assert value_text("max_norm.linf", 0.25) == "0.2500"


# --- the evaluation's view


@pytest.fixture
def view(qtbot: Any) -> EvaluateView:
    view = EvaluateView()
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    return view


def pictures(name: str, count: int) -> Images:
    captions = tuple({"label": 0, "prediction": 1, "correct": False} for _ in range(count))
    scale = 0.1 if name.endswith("perturbation") else None
    return Images(name, np.zeros((count, 8, 8, 1), np.uint8), captions, 1, scale=scale, keep=True)


def test_accuracies_are_drawn_as_attacks_end(view: EvaluateView, tmp_path: Path) -> None:
    run = make_run(tmp_path, "judged", EVALUATE)
    view.show_run(replace(run.info(), status="running"), load(run), "series:0")
    columns = ("attack", "number", "attacked", "left", "samples")
    view.show_table(Table("running", columns, (("pgd", 1, 98, 98, 100),)))
    row = ("pgd", "linf", 0.6)
    view.show_table(Table("attacks", ("attack", "norm", "robust_accuracy"), (row,)))
    assert [bar[:2] for bar in view.accuracies.view.bars] == [("Clean", 0.98), ("PGD", 0.6)]
    view.show_nothing()
    assert not view.accuracies.view.bars


def test_pictures_leave_room_for_the_results(view: EvaluateView, qtbot: Any) -> None:
    for name in ("clean", "adversarial", "perturbation"):
        view.stage.show_images(pictures(f"worst_{name}", 36))
    qtbot.waitUntil(lambda: view.stage.after.isVisible())
    assert view.stage.tabs.current == AFTER
    assert not view.stage.during.isVisible(), "it takes no room"
    assert view.stage.after.height() <= theme.px(TALLEST)
    assert not view.stage.after.magnifier.replay.isVisible(), "there is one iteration"


def test_tables_stand_as_high_as_their_rows(view: EvaluateView, tmp_path: Path) -> None:
    rows = tuple((f"{k}", 10, 1.0, 0.5, 0.4, 0.6) for k in range(10))
    columns = ("class", "samples", "clean_accuracy", "robust_accuracy", "low", "high")
    events = (
        Table("by_class", columns, rows),
        Table("input_noise", ("noise", "level", "accuracy"), (("gaussian", 0.1, 0.5),)),
    )
    run = make_run(tmp_path, "judged", EVALUATE, events=events)
    view.show_run(run.info(), load(run), "series:0")
    table = view.tables["by_class"]
    assert table.model.columns[-1] == "interval"
    assert table.model.rows[0][-1] == "40.0–60.0"
    assert table.minimumHeight() > 10 * theme.px(26)
    assert not table.isHidden()
    assert view.tables["attacks"].isHidden(), "the run is over: it will not come"
    other = make_run(tmp_path, "other", EVALUATE, status="running")
    view.show_run(replace(other.info(), status="running"), load(other), "series:1")
    assert not view.tables["attacks"].isHidden()
    assert view.tables["input_noise"].isHidden(), "nobody knows whether there will be one"
    view.update_info(replace(other.info(), status="done"))
    assert view.tables["attacks"].isHidden()


def test_another_theme_moves_nothing(view: EvaluateView, tmp_path: Path) -> None:
    flags = (("zero_gradients", "of the margin, at 32 of 32 clean images", None),)
    run = make_run(tmp_path, "judged", EVALUATE, events=(Table("flags", ("a", "b", "p"), flags),))
    view.show_run(run.info(), load(run), "series:0")
    before = view.flags._column.contentsMargins(), view.flags.layout().contentsMargins()
    theme.manager.changed.emit()
    assert (view.flags._column.contentsMargins(), view.flags.layout().contentsMargins()) == before


def test_steps_count_the_samples_that_can_be_selected(view: EvaluateView) -> None:
    view.stage.during.show_images(pictures("clean", 4))
    assert view.stage.during._steps.label.text() == "sample 1 of 4"
    view.stage.during.set_beyond(300)
    assert view.stage.during._steps.label.text() == "sample 1 of 300"


def test_other_views_share_out_the_room(qtbot: Any) -> None:
    view = LiveView(tables={"model": "Parameters"})
    qtbot.addWidget(view)
    view.show_table(Table("model", ("layer",), tuple((str(k),) for k in range(40))))
    assert view.tables["model"].minimumHeight() == theme.px(200)
