"""The place for private training: its form, its budget before and after, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from engine.events import Scalars, Table
from engine.store import Run
from engine.training.spec import Train
from tests.workbench.stored import TRAIN, make_run, trained
from tests.workbench.windows import Open, open_window
from workbench import i18n
from workbench.forms.form import SpecForm
from workbench.forms.presets import presets_of
from workbench.panels import detail_of, place_of
from workbench.panels.budget import Bound, BudgetCard, bound_of, delta_text, sure_text
from workbench.panels.privacy_panel import FIRST, START
from workbench.panels.privacy_view import PrivacyView
from workbench.panels.tradeoff import TradeoffCard, data_of
from workbench.panels.train_view import TrainView
from workbench.runs.record import load
from workbench.window import outcome

__all__ = ["open_window"]

STEPS = tuple(range(1, 101))
EPSILON = tuple(0.3 * step**0.5 for step in STEPS)
PRIVATE = {**TRAIN, "privacy": {"kind": "dpsgd", "epsilon": 3.0, "delta": 1e-5}}
NAIVE = {**TRAIN, "privacy": {"kind": "naive"}}
ANSWER = {
    "images": 1295,
    "sample_rate": 0.2,
    "noise_multiplier": 3.5,
    "delta": 1e-5,
    "target": 3.0,
    "planned": 100,
    "within": 100,
    "steps": list(STEPS),
    "epsilon": list(EPSILON),
    "epsilon_rdp": [1.1 * value for value in EPSILON],
}
VALUES = {
    "kind": "train",
    "epochs": 20,
    "batch_size": 256,
    "data": {"kind": "digits"},
    "model": {"kind": "cnn"},
    "privacy": {"kind": "dpsgd", "epsilon": 3.0, "delta": 1e-5},
}


def private(
    workspace: Path, name: str = "dp", epsilon: float = 3.0, accuracy: float = 0.9, upto: int = 100
) -> Run:
    """A private training that said its budget, and spent as much of it as `upto` steps do."""
    rows = tuple(zip(STEPS, EPSILON, (1.1 * value for value in EPSILON)))
    said = [
        Scalars(step, {"privacy/epsilon": value, "privacy/clipped": 0.5, "train/loss": 1 / step})
        for step, value in zip(STEPS[:upto], EPSILON)
    ]
    edges = (0.0, 0.5, 1.0, 2.0, None)
    norms = tuple(zip(edges, edges[1:], (1, 3, 4, 2)))
    return make_run(
        workspace,
        name,
        PRIVATE,
        summary={"clean_accuracy": accuracy, "epsilon": epsilon, "delta": 1e-5},
        events=(
            Table("budget", ("step", "epsilon", "epsilon_rdp"), rows),
            *said,
            Table("gradient norms", ("from", "to", "images"), norms),
        ),
    )


def audited(workspace: Path, run: Run, lower: float, **summary: Any) -> Run:
    spec = {"kind": "audit", "model": run.id, "audit": {"kind": "canaries"}}
    told = {"epsilon_lower_bound": lower, "confidence": 0.999, **summary}
    return make_run(workspace, "audit", spec, summary=told, lineage={"model": run.id})


def show(view: PrivacyView, run: Run, *others: Run, color: str = "series:0") -> None:
    infos = [each.info() for each in (run, *others)]
    view.runs = lambda: [(info, info.name, f"series:{k}") for k, info in enumerate(infos)]
    view.show_run(run.info(), load(run), color)


def labels(card: Any) -> list[str]:
    return [curve.label for curve in card.plot.curves.values()]


@pytest.fixture
def view(qtbot: QtBot) -> PrivacyView:
    view = PrivacyView()
    qtbot.addWidget(view)
    view.resize(860, 700)
    return view


@pytest.fixture
def budget(qtbot: QtBot) -> BudgetCard:
    card = BudgetCard()
    qtbot.addWidget(card)
    return card


# --- which runs belong here


def test_private_trainings_have_a_place_of_their_own() -> None:
    assert place_of("train", TRAIN) == "train"
    assert place_of("train", {**TRAIN, "privacy": None}) == "train"
    assert place_of("train", PRIVATE) == place_of("train", NAIVE) == "privacy"
    assert place_of("attack", {"privacy": {"kind": "dpsgd"}}) == "attack"


def test_a_private_run_says_so_in_the_list() -> None:
    assert detail_of("train", PRIVATE) == "CNN · Digits · DP-SGD ε 3"
    noisy = {**TRAIN, "privacy": {"kind": "dpsgd", "noise_multiplier": 1.1}}
    assert detail_of("train", noisy) == "CNN · Digits · DP-SGD σ 1.1"
    assert detail_of("train", NAIVE) == "CNN · Digits · Naive"


def test_the_window_shows_each_run_in_its_place(open_window: Open, tmp_path: Path) -> None:
    plain, dp = trained(tmp_path / "w"), private(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(dp.id)
    assert window.place == "privacy"
    assert type(window.pages.currentWidget()) is PrivacyView
    assert window.inspector.kind == "privacy"
    window.choose_run(plain.id)
    assert window.place == "train"
    assert type(window.pages.currentWidget()) is TrainView
    window.go("privacy")
    assert window.shown == dp.id
    window.go("train")
    assert window.shown == plain.id
    assert "privacy" in window.rail.places
    assert "audit" in window.rail.places


def test_outcomes_name_the_epsilon(tmp_path: Path) -> None:
    assert outcome(private(tmp_path).info()).endswith("· ε 3.00")
    run = audited(tmp_path, private(tmp_path), 1.25, epsilon=3.0)
    assert outcome(run.info()) == "ε ≥ 1.25"


# --- the form


def test_the_form_begins_with_privacy(qtbot: QtBot) -> None:
    form = SpecForm(Train, first=FIRST, start=START, presets="privacy")
    qtbot.addWidget(form)
    nodes = list(form._fields.nodes)
    assert nodes.index("privacy") < nodes.index("data") < nodes.index("model")
    spec = form.spec()
    assert isinstance(spec, Train)
    assert spec.privacy is not None
    assert spec.privacy.kind == "dpsgd"
    assert getattr(spec.model, "norm", "") != "batch"


def test_reset_keeps_the_privacy_of_the_place(qtbot: QtBot) -> None:
    form = SpecForm(Train, first=FIRST, start=START, presets="privacy")
    qtbot.addWidget(form)
    form.set_values({"epochs": 3})
    assert form.values().get("privacy") is None
    form.reset()
    assert form.values()["privacy"]["epsilon"] == START["privacy"]["epsilon"]  # type: ignore[index]
    plain = SpecForm(Train)
    qtbot.addWidget(plain)
    plain.reset()
    assert "privacy" not in plain.values()


def test_the_place_has_presets_of_its_own(qtbot: QtBot) -> None:
    form = SpecForm(Train, first=FIRST, start=START, presets="privacy")
    qtbot.addWidget(form)
    own, others = presets_of("privacy"), presets_of("train")
    assert own
    assert not {p.name for p in own} & {p.name for p in others}
    assert [a.text() for a in form._preset_menu.actions()] == [p.name for p in own]
    for preset in own:
        form.apply_preset(preset)
        assert form.problems == ()
        assert form.values()["privacy"]["kind"] in ("dpsgd", "naive")
        assert form._preset_button.toolTip() == preset.name


def test_what_was_started_here_is_remembered_here(open_window: Open, tmp_path: Path) -> None:
    window = open_window(tmp_path / "w", engine=False)
    window.show_new("privacy")
    form = window.inspector.form
    assert form is not None
    form.set_values({**form.values(), "epochs": 7})
    window.do.start()
    assert window.settings.forms["privacy"]["epochs"] == 7
    assert "train" not in window.settings.forms
    window.show_new("train")
    assert window.inspector.form is not form
    assert window.inspector.form is not None
    assert "privacy" not in window.inspector.form.values()


def test_settings_are_found_once_in_either_place(open_window: Open, tmp_path: Path) -> None:
    from workbench.command_table import more_commands

    window = open_window(tmp_path / "w", engine=False)
    keys = [command.key for command in more_commands(window)]
    assert "field.privacy.privacy.delta" in keys
    assert "field.train.epochs" in keys
    assert "field.privacy.epochs" not in keys
    assert "new.privacy" in keys
    window.show_setting("privacy", ("privacy", "delta"))
    assert window.place == "privacy"


# --- before a run


def asked_of(view: PrivacyView, values: dict[str, Any]) -> dict[str, Any]:
    """What the view asks while the form says `values`, by kind: question and who is answered."""
    found: dict[str, Any] = {}

    def ask(question: Any, answer: Any) -> None:
        found[question["kind"]] = (question, answer)

    view.preview(values, ask)
    return found


def test_the_budget_is_drawn_before_anything_is_spent(view: PrivacyView) -> None:
    question, answer = asked_of(view, VALUES)["privacy_curve"]
    assert question["privacy"] == VALUES["privacy"]
    assert (question["batch_size"], question["epochs"]) == (256, 20)
    assert question["data"] == {"kind": "digits"}
    assert "computed" in view.budget._empty.text()
    answer(ANSWER, b"")
    card = view.budget
    assert labels(card) == ["Planned", "By RDP, looser"]
    assert all(curve.dashed for curve in card.plot.curves.values())
    assert card.value.text() == "ε 3.00"
    assert card.note.text() == "δ 1e−5"
    assert card.plot.frame.lines["Target"].value == 3.0
    for _ in range(2):  # what is drawn stays while the next answer is awaited
        asked_of(view, {**VALUES, "epochs": 21})
        assert labels(card) == ["Planned", "By RDP, looser"]


def test_facts_tell_the_noise_that_was_found(view: PrivacyView) -> None:
    asked = asked_of(view, VALUES)
    data = {"counts": {"train": 1295, "validation": 143, "test": 359}, "shape": [1, 8, 8]}
    data |= {"classes": list("0123456789"), "pixels": [0, 8, 8, 1], "labels": []}
    asked["preview_data"][1](data, b"")
    asked["privacy_curve"][1](ANSWER, b"")
    facts = dict(view.facts.model.rows)
    assert facts["Noise multiplier"] == 3.5
    assert facts["Steps of the run"] == 100, "drawn, 5 of an epoch: not the 6 of dealt batches"
    assert facts["Steps until the budget is spent"] == 100


def test_a_run_that_stops_at_its_target_says_so(view: PrivacyView) -> None:
    _, answer = asked_of(view, VALUES)["privacy_curve"]
    answer({**ANSWER, "within": 40}, b"")
    assert view.budget.note.text() == "stops after 40 of 100 steps · δ 1e−5"
    planned = view.budget.plot.curves["planned"]
    assert planned.raw.x.tolist() == list(STEPS[:40])
    assert view.budget.upper == pytest.approx(EPSILON[39])


def test_what_has_no_bound_is_infinite(view: PrivacyView) -> None:
    _, answer = asked_of(view, VALUES)["privacy_curve"]
    answer({**ANSWER, "epsilon": [1.0, *[None] * 99], "epsilon_rdp": [None] * 100}, b"")
    assert view.budget.value.text() == "ε ∞"
    assert len(view.budget.plot.curves["planned"].raw) == 1
    assert not view.grab().isNull()


def test_faults_are_told_in_the_card(view: PrivacyView) -> None:
    _, answer = asked_of(view, VALUES)["privacy_curve"]
    answer(ANSWER, b"")
    answer({"error": "a {strange} fault"}, b"")
    assert view.budget._empty.text() == "a {strange} fault"
    assert view.budget.value.text() == ""
    i18n.set_language("zh")
    told = (
        "a target epsilon of 3 is exceeded by a single step with noise multiplier 0.1 at a sample "
        "rate of 0.1977; take more noise, a smaller batch, or a larger target"
    )
    answer({"error": told}, b"")
    assert "目标" in view.budget._empty.text()


def test_naive_noise_has_no_epsilon(view: PrivacyView) -> None:
    asked = asked_of(view, {**VALUES, "privacy": {"kind": "naive"}})
    assert "privacy_curve" not in asked
    assert view.budget.value.text() == "✕ no guarantee"
    assert view.budget._empty.text().startswith("No guarantee: naive noise")
    asked = asked_of(view, {**VALUES, "privacy": None})
    assert "privacy_curve" not in asked
    assert view.budget.value.text() == ""
    assert "Switch it on" in view.budget._empty.text()


def test_data_of_the_run_it_starts_from(view: PrivacyView, tmp_path: Path) -> None:
    first = make_run(tmp_path, "first", {**TRAIN, "data": {"kind": "mnist"}})
    spec = {**TRAIN, "init": first.id}
    del spec["data"]
    second = make_run(tmp_path, "second", spec, lineage={"init": first.id})
    infos = {run.id: run.info() for run in (first, second)}
    view.runs = lambda: [(info, info.name, "series:0") for info in infos.values()]
    assert data_of(infos[second.id], infos.get) == {"kind": "mnist"}
    values = {**VALUES, "init": second.id}
    del values["data"]
    question, _ = asked_of(view, values)["privacy_curve"]
    assert question["data"] == {"kind": "mnist"}
    asked = asked_of(view, {**values, "init": "nobody"})
    assert "privacy_curve" not in asked
    assert "does not say its data" in view.budget._empty.text()


# --- a run


def test_a_run_shows_what_it_spent_and_clipped(view: PrivacyView, tmp_path: Path) -> None:
    show(view, private(tmp_path, upto=25))
    card = view.budget
    assert sorted(labels(card)) == ["By RDP, looser", "Planned", "Spent"]
    spent = card.plot.curves["privacy/epsilon"]
    assert not spent.dashed
    assert card.value.text() == "ε 1.50"
    assert card.note.text() == "50\u202f% spent · δ 1e−5"
    assert view.norms.value.text() == "60.0\u202f%"
    assert not view.norms.isHidden()
    assert "epsilon" not in view.tables
    assert "budget" not in view.tables
    view.show_nothing()
    assert card.value.text() == ""
    assert view.norms.is_empty


def test_a_naive_run_has_no_meter(view: PrivacyView, tmp_path: Path) -> None:
    run = make_run(tmp_path, "naive", NAIVE, summary={"clean_accuracy": 0.97, "guarantee": "none"})
    show(view, run)
    assert view.budget.value.text() == "✕ no guarantee"
    assert view.norms.isHidden()
    assert view.curves["clipped"].isHidden()
    show(view, private(tmp_path))
    assert not view.norms.isHidden()
    assert not view.curves["clipped"].isHidden()
    assert view.budget.value.text() == "ε 3.00"


def test_news_move_the_meter(view: PrivacyView, qtbot: QtBot, tmp_path: Path) -> None:
    from workbench.mailbox import News

    run = private(tmp_path, upto=10)
    run.set_state(status="running")
    show(view, run)
    view.show()
    qtbot.waitExposed(view)
    news = News()
    news.add(Scalars(64, {"privacy/epsilon": EPSILON[63]}))
    view.news(news)
    for _ in range(8):
        view.draw()
    assert view.budget.value.text() == "ε 2.40"
    assert view.budget.note.text().startswith("80")
    assert len(view.budget.plot.curves["privacy/epsilon"].raw) == 11


# --- audits beside it


def test_a_lower_bound_stands_in_the_same_chart(view: PrivacyView, tmp_path: Path) -> None:
    run = private(tmp_path)
    audit, weaker = audited(tmp_path, run, 1.25), audited(tmp_path, run, 0.5)
    stranger = audited(tmp_path, private(tmp_path, "other"), 9.0)
    show(view, run, audit, weaker, stranger)
    (name,) = [name for name in view.budget.plot.frame.lines if name != "Target"]
    line = view.budget.plot.frame.lines[name]
    assert name == "✓ audit, 99.9\u202f% sure: ≥"
    assert (line.value, line.color) == (1.25, "success")
    assert not view.budget.contradicted
    assert view.budget._warning.isHidden()
    assert "✕" not in view.budget.value.text()


def test_lower_above_upper_is_flagged(view: PrivacyView, tmp_path: Path) -> None:
    run = private(tmp_path)
    show(view, run, audited(tmp_path, run, 3.5))
    card = view.budget
    (name,) = [name for name in card.plot.frame.lines if name != "Target"]
    assert name.startswith("✕ audit")
    assert card.plot.frame.lines[name].color == "danger"
    assert card.value.text() == "ε 3.00 ✕"
    words = card._warning.words
    assert not card._warning.isHidden()
    assert words.property("tone") == "bad"
    assert "at least 3.50" in words.text()
    assert "does not keep its promise" in words.text()
    i18n.set_language("zh")
    assert "没有兑现承诺" in words.text()


def test_a_contradiction_at_another_delta_is_flagged_too(tmp_path: Path) -> None:
    run = private(tmp_path)
    audit = audited(tmp_path, run, 2.0, unmet=["epsilon at most 3 was promised at delta 1e-07"])
    bound = bound_of([(audit.info(), "audit", "")], run.id)
    assert bound == Bound(2.0, 0.999, "audit", contradicts=True)
    assert bound_of([(audit.info(), "audit", "")], "another") is None


def test_shares_are_said_with_as_many_places_as_they_have() -> None:
    assert [sure_text(c) for c in (0.95, 0.999, 0.9999)] == [
        "95\u202f%",
        "99.9\u202f%",
        "99.99\u202f%",
    ]
    assert [delta_text(d) for d in (1e-5, 2.4e-6, 0.01)] == ["1e−5", "2e−6", "0.010"]


# --- accuracy against epsilon


def test_the_price_of_privacy_over_the_runs(view: PrivacyView, tmp_path: Path) -> None:
    strict, loose = private(tmp_path, "strict", 1.0, 0.8), private(tmp_path, "loose", 8.0, 0.95)
    plain, better = trained(tmp_path), trained(tmp_path, "better")
    naive = make_run(
        tmp_path, "naive", NAIVE, summary={"clean_accuracy": 0.97, "guarantee": "none"}
    )
    other = make_run(
        tmp_path,
        "mnist",
        {**PRIVATE, "data": {"kind": "mnist"}},
        summary={"clean_accuracy": 0.98, "epsilon": 2.0},
    )
    show(view, strict, loose, plain, better, naive, other)
    drawing = view.tradeoff.drawing
    assert [(d.key, d.x, d.marked) for d in drawing.dots] == [
        (strict.id, 1.0, True),
        (loose.id, 8.0, False),
    ]
    assert [(level.name, level.y) for level in drawing.levels] == [
        ("without privacy", 0.975),
        ("naive noise, no guarantee", 0.97),
    ]
    assert view.tradeoff.note.text() == "Digits"
    gone: list[str] = []
    view.go_to = gone.append
    view.tradeoff.picked.emit(loose.id)
    assert gone == [loose.id]


def test_runs_that_end_elsewhere_are_drawn_when_it_is_seen(
    view: PrivacyView, qtbot: QtBot, tmp_path: Path
) -> None:
    run, more = private(tmp_path), private(tmp_path, "more", 5.0)
    show(view, run)
    infos = [(each.info(), each.id, "series:0") for each in (run, more)]
    view.runs = lambda: infos
    view.runs_changed()
    assert len(view.tradeoff.drawing.dots) == 1, "hidden views do nothing"
    view.show()
    qtbot.waitExposed(view)
    assert len(view.tradeoff.drawing.dots) == 2


def test_nothing_to_draw_says_what_will_come(qtbot: QtBot) -> None:
    card = TradeoffCard()
    qtbot.addWidget(card)
    card.show_runs([], None, {"kind": "digits"})
    assert card.is_empty
    assert "No private run on this data" in card._empty.text()


def test_compared_runs_are_drawn_against_their_epsilon(open_window: Open, tmp_path: Path) -> None:
    first, second = private(tmp_path / "w", "a", 1.0), private(tmp_path / "w", "b", 2.0)
    plain = trained(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.session.book.compare_only([first.id, second.id, plain.id])
    window.go("compare")
    assert not window.compare.tradeoff.isHidden()
    assert len(window.compare.tradeoff.drawing.dots) == 2
    assert window.compare.table.model.columns[-1] == "Privacy loss ε"
    words = window.compare._words.text()
    assert "a is right on 90.0\u202f% of the test images, at an epsilon of 1.00." in words
    assert "That is −7.5 points against plain, without privacy." in words
    window.session.book.compare_only([plain.id])
    assert window.compare.tradeoff.isHidden()
    assert "Privacy loss ε" not in window.compare.table.model.columns
