"""The place for federated training: who has what before it starts, the clients while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, Qt
from pytestqt.qtbot import QtBot

from engine.events import Images, Progress, Scalars, Table
from engine.federated.facts import LETTERS as ENGINE_LETTERS
from engine.federated.spec import Federate
from engine.federated.telling import CLIENT_COLUMNS, ROUND_COLUMNS
from engine.store import Run
from engine.task import parse_task
from tests.workbench.stored import make_run
from tests.workbench.windows import Open, open_window
from workbench import i18n, theme
from workbench.forms.form import SpecForm
from workbench.forms.presets import presets_of
from workbench.mailbox import News
from workbench.panels import detail_of, place_of
from workbench.panels.client_views import readable
from workbench.panels.federate_panel import FIRST
from workbench.panels.federate_view import NO_CAPTURE, READ_LATER, FederateView
from workbench.panels.federation import LETTERS, STATES, Federation, size_text
from workbench.runs.record import load
from workbench.views.matrix import _every, shade

__all__ = ["open_window"]

CLIENTS = 6
SPEC = {
    "kind": "federate",
    "clients": CLIENTS,
    "partition": {"kind": "dirichlet", "alpha": 0.5},
    "strategy": {"kind": "multikrum", "hostile": 1},
    "hostile": [{"kind": "scaled", "clients": [5], "count": 1}],
    "fraction": 1.0,
    "epochs": 2,
    "batch_size": 16,
}
STATES_OF = ("kkk.ds", "kksd.s", "kkkr.s")
"""By round; client 5 is hostile, and set aside each time."""
WORDS = {letter: word for word, letter in LETTERS.items()}
TOO_MANY = (
    "there are 2000 clients and only 1295 training images; expected at least one image a client. "
    "Take at most 1295 clients, or more data."
)
ANSWER = {
    "classes": ["cat", "dog"],
    "counts": [[10, 0], [3, 17], [20, 20]],
    "clients": 3,
    "smallest": 10,
    "largest": 40,
}


def client_row(client: int, letter: str, number: int) -> tuple[Any, ...]:
    sent = letter in "ks"
    told: dict[str, Any] = dict.fromkeys(CLIENT_COLUMNS)
    told |= {"client": client, "state": WORDS[letter], "reason": "", "share": 1.0}
    told |= {"hostile": "scaled" if client == 5 else "", "examples": 20, "clipped": False}
    told |= {"bytes_up": 4000 if sent else 0, "bytes_down": 8000}
    if sent:
        told |= {"loss": 1.0 / number, "accuracy": 0.5, "norm": 1.0 + client, "cosine": 0.25}
        told |= {"drift": 0.5, "x": 9.0 if client == 5 else 0.1 * client, "y": 0.2 * client}
    return tuple(told[name] for name in CLIENT_COLUMNS)


def round_row(number: int, states: str, skipped: str = "") -> tuple[Any, ...]:
    told: dict[str, Any] = dict.fromkeys(ROUND_COLUMNS)
    picked = len(states.replace(".", ""))
    told |= {"round": number, "states": states, "picked": picked, "kept": states.count("k")}
    told |= {"bytes_up": 4000 * states.count("k"), "bytes_down": 8000 * picked, "seconds": 1.0}
    return tuple((told | {"skipped": skipped})[name] for name in ROUND_COLUMNS)


def clients_table(number: int) -> Table:
    states = STATES_OF[number - 1]
    rows = tuple(client_row(k, s, number) for k, s in enumerate(states) if s != ".")
    return Table("clients", CLIENT_COLUMNS, rows)


def rounds_table(upto: int) -> Table:
    rows = tuple(round_row(n, STATES_OF[n - 1]) for n in range(1, upto + 1))
    return Table("rounds", ROUND_COLUMNS, rows)


def picked_table(number: int, clients: tuple[int, ...]) -> Table:
    return Table("picked", ("round", "client"), tuple((number, client) for client in clients))


def federated(workspace: Path, name: str = "fed", upto: int = 3, **spec: Any) -> Run:
    """A run that is over after so many rounds."""
    said: list[Any] = [
        Table("classes", ("index", "name"), ((0, "cat"), (1, "dog"))),
        Table(
            "partition",
            ("client", "cat", "dog"),
            tuple((client, 10 + client, 2 * client) for client in range(CLIENTS)),
        ),
        Table("hostile", ("client", "kind"), ((5, "scaled"),)),
    ]
    for number in range(1, upto + 1):
        values = {"global/accuracy": 0.2 * number, "global/loss": 1.0 / number}
        values |= {"global/attack_success_rate": 0.75, "round/bytes_up": 2e6, "round/kept": 3.0}
        for client, letter in enumerate(STATES_OF[number - 1]):
            if letter in "ks":
                values |= {f"client/{client}/loss": 1.0 / (number + client)}
                values |= {f"client/{client}/cosine": 0.25}
        said.append(Scalars(number, values))
    said += [clients_table(upto), rounds_table(upto)]
    summary = {"accuracy": 0.6, "clean_accuracy": 0.6}
    return make_run(workspace, name, {**SPEC, **spec}, summary=summary, events=tuple(said))


def audit_of(workspace: Path, run: Run) -> Run:
    spec = {"kind": "audit", "model": run.id, "audit": {"kind": "inversion"}}
    pixels = np.full((2, 8, 8, 1), 90, np.uint8)
    pictures = (
        Images("original", pixels, ({"label": 0}, {"label": 1})),
        Images("reconstruction", pixels, ({"psnr": 21.0}, {"psnr": 9.0})),
    )
    return make_run(workspace, "leak", spec, lineage={"model": run.id}, events=pictures)


def show(view: FederateView, run: Run, *others: Run) -> None:
    known = {each.info().id: each for each in (run, *others)}
    view.runs = lambda: [(each.info(), each.info().name, "series:1") for each in known.values()]
    view.read = lambda run_id: load(known[run_id])
    view.show_run(run.info(), load(run), "series:0")


@pytest.fixture
def view(qtbot: QtBot) -> FederateView:
    view = FederateView()
    qtbot.addWidget(view)
    view.resize(860, 1200)
    return view


@pytest.fixture
def shown(view: FederateView, qtbot: QtBot, tmp_path: Path) -> FederateView:
    """With a run that is over."""
    show(view, federated(tmp_path))
    with qtbot.waitExposed(view):
        view.show()
    return view


# --- which runs belong here, and the form


def test_it_has_a_place_in_the_rail(open_window: Open, tmp_path: Path) -> None:
    run = federated(tmp_path / "w")
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(run.id)
    assert window.place == place_of("federate", SPEC) == "federate"
    assert type(window.pages.currentWidget()) is FederateView
    assert "federate" in window.rail.places


def test_a_run_says_in_the_list_what_it_is() -> None:
    assert detail_of("federate", SPEC) == "6 clients · Dirichlet · Multi-Krum · 1 hostile"
    private = {**SPEC, "partition": {"kind": "iid"}, "hostile": (), "privacy": {"epsilon": 8.0}}
    assert detail_of("federate", private) == "6 clients · Multi-Krum · ε 8"
    several = {**SPEC, "hostile": [{"kind": "backdoor", "clients": (), "count": 3}]}
    assert detail_of("federate", several).endswith("3 hostile")


def test_the_form_is_in_groups(qtbot: QtBot) -> None:
    form = SpecForm(Federate, first=FIRST, presets="federate")
    qtbot.addWidget(form)
    nodes = list(form._fields.nodes)
    order = ("data", "partition", "strategy", "clients", "privacy", "compression", "hostile")
    assert [nodes.index(name) for name in order] == sorted(nodes.index(name) for name in order)


def test_presets_can_be_started(qtbot: QtBot) -> None:
    form = SpecForm(Federate, first=FIRST, presets="federate")
    qtbot.addWidget(form)
    assert len(presets_of("federate")) >= 3
    for preset in presets_of("federate"):
        form.apply_preset(preset)
        assert form.problems == ()
        assert parse_task(form.values()).kind == "federate"


# --- before a run


def asked(view: FederateView, **values: Any) -> dict[str, Any]:
    """What the view asks of these values, by its kind."""
    questions: dict[str, Any] = {}
    values = {"data": {"kind": "digits"}, **SPEC, **values}
    view.preview(values, lambda question, _: questions.update({question["kind"]: question}))
    return questions


def test_before_a_run_it_asks_who_would_have_what(view: FederateView) -> None:
    questions = asked(view, clients=3)
    assert questions["preview_partition"]["clients"] == 3
    assert questions["preview_partition"]["partition"] == SPEC["partition"]
    view._partition_told(ANSWER, b"")
    view._model_told({"parameters": 1000, "layers": []}, b"")
    drawing = view.partition.drawing
    assert drawing.counts.tolist() == [[10, 3, 20], [0, 17, 20]]
    assert view.partition.value.text() == "3 clients"
    assert view.partition.note.text() == "10 to 40 images each"
    assert drawing.said(1, 1) == (
        "Client 1",
        [("accent", "Class dog", "17"), ("faint", "All of its images", "20")],
    )
    facts = dict(view.facts.model.rows)
    assert facts["Clients of a round"] == 3
    # ceil(10 / 16) and ceil(40 / 16) batches, twice
    assert facts["Steps of a client in a round"] == "2 – 6"
    assert facts["Sent to clients in a round"] == "12.0\u202fkB"


def test_before_a_private_run_it_asks_what_that_would_cost(
    view: FederateView, qtbot: QtBot
) -> None:
    with qtbot.waitExposed(view):
        view.show()
    assert "privacy_curve" not in asked(view)
    assert not view.budget.isVisible()
    privacy = {"epsilon": 8.0, "delta": 1e-3}
    question = asked(view, privacy=privacy, rounds=20, fraction=0.5)["privacy_curve"]
    assert (question["rounds"], question["fraction"]) == (20, 0.5)
    assert view.budget.isVisible()
    answer = {"within": 12, "planned": 20, "steps": [1, 12, 20], "epsilon": [2.0, 8.0, 11.0]}
    view._budget_told({**answer, "epsilon_rdp": [2.5, 8.8, 12.0]}, b"")
    assert view.budget.stops == (12, 20)
    assert view.budget.target == 8.0
    assert "11" in view.budget.value.text() or "8" in view.budget.value.text()
    view._budget_told({"error": "a target epsilon of {few} is exceeded"}, b"")
    asked(view)
    assert not view.budget.isVisible()


def test_only_what_is_known_before_stands_there_before(view: FederateView, qtbot: QtBot) -> None:
    with qtbot.waitExposed(view):
        view.show()
    assert view.partition.isVisible()
    assert not any(card.isVisible() for card in (*view._drawn, *view.curves.values(), view.found))


def test_a_refusal_is_told_in_the_card(view: FederateView) -> None:
    asked(view)
    view._partition_told({"error": "2000 clients and only {few} images"}, b"")
    assert view.partition.is_empty
    assert "2000 clients and only {few} images" in view.partition._empty.text()
    assert view.facts.model.rows == ()
    i18n.set_language("zh")
    view._partition_told({"error": TOO_MANY}, b"")
    chinese = view.partition._empty.text()
    i18n.set_language("en")
    assert view.partition._empty.text() == TOO_MANY != chinese
    view._partition_told(ANSWER, b"")
    assert not view.partition.is_empty


def test_nothing_is_downloaded_unless_a_person_asks(view: FederateView, qtbot: QtBot) -> None:
    with qtbot.waitExposed(view):
        view.show()
    questions: list[str] = []
    view.ask = lambda question, _: questions.append(question["kind"])
    values = {**SPEC, "data": {"kind": "mnist"}}
    view.preview(values, view.ask)
    assert questions == ["describe_model"]
    assert view.partition._empty.text() == READ_LATER
    assert view.count.isVisible()
    view.count.click()
    assert questions[-1] == "preview_partition"
    view._partition_told(ANSWER, b"")
    assert not view.count.isVisible()
    view.preview({**values, "clients": 7}, view.ask)
    assert view.partition._empty.text() == READ_LATER


def test_data_are_those_of_the_run_it_starts_from(view: FederateView, tmp_path: Path) -> None:
    first = federated(tmp_path, data={"kind": "digits", "split_seed": 4})
    view.runs = lambda: [(first.info(), "fed", "series:0")]
    questions = asked(view, init=first.id, data=None)
    assert questions["preview_partition"]["data"] == {"kind": "digits", "split_seed": 4}
    assert asked(view, init="elsewhere", data=None) == {}
    assert "does not say its data" in view.partition._empty.text()


# --- a run


def test_every_state_of_the_engine_is_known() -> None:
    assert {word: STATES[letter].sign for word, letter in ENGINE_LETTERS.items()}
    assert ENGINE_LETTERS == LETTERS
    signs = [state.sign for state in STATES.values()]
    assert len(set(signs)) == len(signs)  # no two are told apart by colour alone


def test_the_newest_round_is_in_the_grid(shown: FederateView) -> None:
    assert shown.told.states == STATES_OF[-1]
    assert shown.clients.value.text() == "3 of 5 kept"
    assert shown.clients.note.text() == "round 3"
    rows = list(shown.clients.rows())[1:]
    assert rows[3] == (3, "rejected", "")
    assert rows[5] == (5, "set aside", "Scaled")


def test_a_round_under_way_shows_who_trains(shown: FederateView) -> None:
    assert shown.info is not None
    shown.told.working = True
    shown.news(News(tables={"picked": picked_table(4, (1, 5))}))
    shown.news(News(progress=Progress(1, 2, "clients")))
    shown._catch_up()
    assert shown.told.states == ".t...t"
    assert shown.clients.value.text() == "1 of 2 answered"
    # Said together, whatever comes first: the round is over.
    over = Table("rounds", ROUND_COLUMNS, (round_row(4, ".k...s"),))
    shown.news(News(tables={"rounds": over, "picked": picked_table(4, (1, 5))}))
    shown._catch_up()
    assert shown.told.states == ".k...s"
    assert shown.clients.value.text() == "1 of 2 kept"


def test_a_run_that_was_stopped_trains_nobody(shown: FederateView) -> None:
    shown.told.working = True
    shown.news(News(tables={"picked": picked_table(4, (1, 5))}))
    assert shown.info is not None
    shown.told.working = False
    assert shown.told.states == STATES_OF[-1]


def test_the_timeline_has_each_state_of_each_round(shown: FederateView) -> None:
    drawing = shown.timeline.drawing
    assert drawing.count == (CLIENTS, 3)
    drawing.grab()
    shades = drawing.shades()
    for row in range(CLIENTS):
        for column in range(3):
            same = STATES_OF[column][row] == STATES_OF[0][0]
            assert bool((shades[row, column] == shades[0, 0]).all()) == same
    head, rows = drawing.said(5, 1)
    assert head == "Round 2 · Client 5 · hostile (Scaled)"
    assert rows[0][1:] == ("State", "set aside")
    assert ("faint", "Loss", "0.143") in rows  # 1 / (2 + 5)
    assert set(drawing.marked) == {5}


def test_the_plane_has_one_scale_and_sets_the_hostile_apart(shown: FederateView) -> None:
    drawing = shown.updates.drawing
    drawing.grab()
    places = {client: drawing.pixel(x, y) for client, x, y, _ in drawing.dots}
    assert set(places) == {0, 1, 2, 5}  # who sent nothing is nowhere
    right = drawing.pixel(1.0, 0.0).x() - drawing.pixel(0.0, 0.0).x()
    up = drawing.pixel(0.0, 0.0).y() - drawing.pixel(0.0, 1.0).y()
    assert right == pytest.approx(up, rel=0.05)
    assert all(drawing.area.contains(place) for place in places.values())
    said = drawing.said_at(places[5], 5)
    assert said is not None
    assert said[1] == "Client 5 · hostile (Scaled)"
    assert said[2][0][2] == "set aside"


def test_one_client_is_chosen_everywhere(shown: FederateView, qtbot: QtBot) -> None:
    grid, table = shown.clients.drawing, shown.tables["clients"].table
    grid.grab()
    at = grid.box(5).center().toPoint()
    qtbot.mouseClick(grid, Qt.MouseButton.LeftButton, pos=at)
    assert shown.chosen.client == 5
    assert shown.timeline.drawing.row == 5
    assert shown.partition.drawing.column == 5
    assert [index.data() for index in table.selectionModel().selectedRows()] == ["5"]
    assert ("Client 5", "accent", False) in shown.courses.drawing.legend()
    qtbot.mouseClick(grid, Qt.MouseButton.LeftButton, pos=at)
    assert shown.chosen.client is None
    assert table.selectionModel().selectedRows() == []
    table.selectRow(1)
    assert shown.chosen.client == 1
    drawing = shown.updates.drawing
    drawing.grab()
    dot = next(d for d in drawing.dots if d[0] == 2)
    qtbot.mouseClick(
        drawing, Qt.MouseButton.LeftButton, pos=drawing.pixel(dot[1], dot[2]).toPoint()
    )
    assert shown.chosen.client == 2


def test_a_run_drawn_anew_keeps_the_chosen_client(shown: FederateView, tmp_path: Path) -> None:
    shown.chosen.choose(5)
    assert shown.info is not None
    run = next(info for info, _, _ in shown.runs())
    shown.show_run(run, shown.read(run.id), "series:0")
    assert shown.chosen.client == 5
    assert shown.timeline.drawing.row == 5
    show(shown, federated(tmp_path, "other"))
    assert shown.chosen.client is None


def test_the_grid_by_the_keyboard(shown: FederateView, qtbot: QtBot) -> None:
    grid = shown.clients.drawing
    grid.grab()
    grid.setFocus()
    qtbot.keyClick(grid, Qt.Key.Key_Right)
    assert shown.chosen.client == 0
    qtbot.keyClick(grid, Qt.Key.Key_End)
    assert shown.chosen.client == CLIENTS - 1
    assert grid.accessibleDescription().startswith("Client 5 · hostile (Scaled), State set aside")
    qtbot.keyClick(grid, Qt.Key.Key_Escape)
    assert shown.chosen.client is None


def test_the_timeline_by_the_keyboard(shown: FederateView, qtbot: QtBot) -> None:
    drawing = shown.timeline.drawing
    drawing.grab()
    drawing.setFocus()
    for key in (Qt.Key.Key_Right, Qt.Key.Key_End, Qt.Key.Key_Down, Qt.Key.Key_Return):
        qtbot.keyClick(drawing, key)
    assert shown.chosen.client == 1
    assert drawing.accessibleDescription().startswith("Round 3 · Client 1, State kept")
    qtbot.keyClick(drawing, Qt.Key.Key_Escape)
    assert drawing._at is None


def test_courses_of_clients(shown: FederateView) -> None:
    drawing = shown.courses.drawing
    assert dict(drawing.lines)[5] == ([1, 2, 3], [1 / 6, 1 / 7, 1 / 8])
    assert ("hostile", "danger", True) in drawing.legend()
    drawing.grab()
    found = drawing.said_at(drawing.pixel(3, 1 / 8), 4)
    assert found is not None
    assert found[1] == "Round 3 · Client 5 · hostile (Scaled)"
    shown.courses.tabs.set_current(3)
    assert drawing.quantity == "cosine"
    assert dict(drawing.lines)[0] == ([1, 2, 3], [0.25] * 3)


def test_curves_of_the_global_model(shown: FederateView) -> None:
    card = shown.curves["accuracy"]
    assert card.value.text() == "60.0\u202f%"
    assert card.note.text() == "backdoor succeeds 75.0\u202f%"
    assert [curve.label for curve in card.plot.curves.values()] == [
        "Test images",
        "Backdoor succeeds",
    ]
    assert shown.curves["bytes"].value.text() == "2.00\u202fMB"
    assert "kept" not in shown.curves


def test_the_table_of_clients(shown: FederateView) -> None:
    model = shown.tables["clients"].model
    rows = [dict(zip(model.columns, row, strict=True)) for row in model.rows]
    assert [row["client"] for row in rows] == [0, 1, 2, 3, 5]
    assert rows[-1]["hostile"] == "Scaled"
    assert rows[3]["state"] == "rejected"
    assert rows[0]["sent"] == 4.0
    assert "epsilon" not in model.columns


def test_the_table_is_filled_when_it_is_seen(shown: FederateView, qtbot: QtBot) -> None:
    shown.resize(860, 300)  # it is far below
    shown.told.working = True
    again = Table("clients", CLIENT_COLUMNS, (client_row(4, "k", 4),))
    shown.news(News(tables={"clients": again}))
    for _ in range(80):
        shown.draw()
    assert len(shown.tables["clients"].model.rows) == 5
    shown.resize(860, 4000)
    qtbot.waitUntil(lambda: not shown.tables["clients"].visibleRegion().isEmpty())
    shown.draw()
    assert len(shown.tables["clients"].model.rows) == 1


def test_private_runs_have_a_meter(view: FederateView, qtbot: QtBot, tmp_path: Path) -> None:
    show(view, federated(tmp_path, privacy={"epsilon": 8.0, "delta": 1e-3}))
    with qtbot.waitExposed(view):
        view.show()
    assert view.budget.isVisible()
    view.show_table(Table("budget", ("step", "epsilon", "epsilon_rdp"), ((1, 2.0, 2.5),)))
    assert view.budget.value.text() == "ε 2.00"
    show(view, federated(tmp_path, "plain"))
    assert not view.budget.isVisible()
    assert not view.curves["clipped"].isVisible()


def test_secure_aggregation_says_what_it_hides(view: FederateView, tmp_path: Path) -> None:
    run = make_run(tmp_path, "sum", {**SPEC, "secure_aggregation": {"threshold": 4}})
    show(view, run)
    assert "only their sum is known" in view.updates._empty.text()
    assert "only their sum is known" in view.courses._empty.text()


def test_an_update_shows_what_it_gives_away(
    view: FederateView, qtbot: QtBot, tmp_path: Path
) -> None:
    kept = federated(tmp_path, "kept", capture={"rounds": [1], "clients": [2, 4]})
    with qtbot.waitExposed(view):
        view.show()
    show(view, federated(tmp_path, "not kept"))
    assert view.found._empty.text() == NO_CAPTURE
    assert not view.found.start.isVisible()
    show(view, kept)
    started: list[Any] = []
    view.set_up = lambda place, values: started.append((place, values))
    view.chosen.choose(4)
    view.found.start.click()
    audit = {"kind": "inversion", "client": 4}
    assert started == [("audit", {"model": kept.id, "audit": audit})]
    leak = audit_of(tmp_path, kept)
    show(view, kept, leak)
    assert len(view.found.reconstruction.view.pixels) == 2
    assert view.found.note.text() == "leak · Done"
    went: list[str] = []
    view.go_to = went.append
    view.found.open.click()
    assert went == [leak.id]


def test_the_window_opens_the_form_of_that_audit(open_window: Open, tmp_path: Path) -> None:
    run = federated(tmp_path / "w", capture={"rounds": [1], "clients": [2]})
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(run.id)
    view = window.view("federate")
    assert isinstance(view, FederateView)
    view.found.start.click()
    assert window.place == "audit"
    assert window.inspector.form is not None
    values = window.inspector.form.values()
    assert values["model"] == run.id
    assert (values["audit"]["kind"], values["audit"]["client"]) == ("inversion", 2)


def test_texts_follow_the_language_and_colours_the_theme(shown: FederateView) -> None:
    shown.clients.drawing.grab()
    i18n.set_language("zh")
    assert shown.clients.value.text() == "保留 3/5"
    assert shown.timeline.drawing.titles == ("轮次", "客户端")
    assert shown.tables["clients"].model.rows[0][1] == "保留"
    light = shown.partition.drawing.shades().copy()
    theme.manager.set_mode("dark")
    assert (shown.partition.drawing.shades() != light).any()
    for card in shown._drawn:
        assert card.accessibleName()
        assert card.drawing.accessibleName()  # type: ignore[attr-defined]


def test_values_are_exported(shown: FederateView, tmp_path: Path) -> None:
    for card, first in (
        (shown.clients, "Client,State,Hostile"),
        (shown.timeline, "Round,Client 0,Client 1"),
        (shown.updates, "Client,x,y,State,Hostile"),
        (shown.courses, "Round,Client 0"),
        (shown.partition, "Client,cat,dog"),
    ):
        target = tmp_path / "values.csv"
        card.export(target)
        assert target.read_text(encoding="utf-8").startswith(first)
        card.export(tmp_path / "picture.png")


def test_a_thousand_clients_and_no_images(view: FederateView, tmp_path: Path) -> None:
    told = Federation()
    told.take(Table("rounds", ROUND_COLUMNS, (round_row(1, "k." * 500),)), 1000)
    assert len(told.states) == 1000
    view.partition.set_counts(["a", "b"], [[0, 0]] * 1000, 5000)
    assert view.partition.note.text() == "the first 1\u202f000 of 5\u202f000"
    view.partition.drawing.resize(700, 200)
    view.partition.drawing.grab()


def test_what_is_kept_of_a_drawing_is_painted_once(shown: FederateView, qtbot: QtBot) -> None:
    grid = shown.clients.drawing
    calls: list[int] = []
    paint = grid.draw
    grid.draw = lambda *given: (calls.append(1), paint(*given))[-1]  # type: ignore[method-assign]
    grid.forget()
    for client in (0, 1, 2):
        grid._hover(client)
        grid.grab()
    assert len(calls) == 1
    shown.chosen.choose(3)
    grid.grab()
    assert len(calls) == 2


# --- small parts


def test_names_of_rows_are_as_many_as_have_room() -> None:
    assert [_every(size, 14) for size in (20, 14, 7, 5, 1, 0.14)] == [1, 1, 2, 5, 20, 100]


def test_cells_are_found_where_they_are(shown: FederateView) -> None:
    drawing = shown.timeline.drawing
    drawing.grab()
    for place in ((0, 0), (5, 2), (3, 1)):
        assert drawing.place_at(drawing.cell(*place).center()) == place
    assert drawing.place_at(QPointF(-5, 3)) is None
    grid = shown.clients.drawing
    grid.grab()
    for client in range(CLIENTS):
        assert grid.client_at(grid.box(client).center()) == client


def test_counts_are_read_on_any_shade() -> None:
    for mode in ("light", "dark"):
        theme.manager.set_mode(mode)  # type: ignore[arg-type]
        assert readable(shade("card")) == "text"
        assert readable(shade("accent")) == "on_accent"


def test_bytes_as_a_person_reads_them() -> None:
    assert size_text(12) == "12\u202fB"
    assert size_text(86_376) == "86.4\u202fkB"
    assert size_text(2.5e9) == "2.50\u202fGB"
