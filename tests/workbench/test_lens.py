"""The pages about one sample: when they ask the engine, and which answers they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from engine.events import Images, Table
from engine.store import Run
from tests.workbench.stored import attacked, make_run, trained
from workbench.panels.attack_view import AttackView
from workbench.panels.evaluate_view import EvaluateView
from workbench.panels.lens import Lens
from workbench.runs.record import load
from workbench.views.explanation import METHODS

CLASSES = ["0", "1", "2", "3"]


class Engine:
    """Keeps what is asked, until a test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[str, Any], Callable[[dict[str, Any], bytes], None]]] = []

    def ask(
        self, question: Mapping[str, Any], answer: Callable[[dict[str, Any], bytes], None]
    ) -> None:
        self.asked.append((dict(question), answer))

    def questions(self) -> list[Mapping[str, Any]]:
        return [question for question, _ in self.asked]

    def explain(self, at: int = -1) -> None:
        """Answer a question about maps."""
        question, answer = self.asked[at]
        maps = np.full((3, 8, 8), 1 / 64, "<f4")
        reply = {
            "method": question["method"],
            "label": 0,
            "predictions": [0, 1],
            "missing": "",
            "empty": [False, False],
            "moved": 0.5,
            "places": [[0, 0], [1, 1]],
            "gaps": None,
            "steps": 0,
            "shape": [3, 8, 8],
        }
        answer(reply, maps.tobytes())

    def survey(self, at: int = -1, *, done: int) -> None:
        """Answer a question about the surface, with the points up to number `done`."""
        question, answer = self.asked[at]
        numbers = range(question["start"], done)
        points = np.array([[n // 5, n % 5, 1, n, 1.0, 0] for n in numbers], "<f4")
        reply = {
            "label": 0,
            "side": 5,
            "reach": 0.4,
            "norm": "linf",
            "distance": 0.3,
            "eps": None,
            "ball": [],
            "start": question["start"],
            "done": done,
            "points": list(points.shape),
        }
        answer(reply, points.tobytes())


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def view(qtbot: QtBot, tmp_path: Path, engine: Engine) -> AttackView:
    """An attack that is over, on its first page."""
    run = attacked(tmp_path, trained(tmp_path))
    view = AttackView()
    view.ask = engine.ask
    qtbot.addWidget(view)
    view.resize(860, 620)
    view.show()
    view.show_run(run.info(), load(run), "series:0")
    return view


def turn(view: AttackView, card: object) -> None:
    """Open the page of a card, or the mosaics."""
    cards = [None, *(c for _, c in view.comparison._pages)]
    view.comparison.tabs.set_current(cards.index(card))


def test_only_a_page_that_is_seen_asks(view: AttackView, engine: Engine) -> None:
    view.comparison.select(2)
    assert not engine.asked
    turn(view, view.lens.explanation)
    assert view.lens.explanation.isVisible()
    assert not view.comparison.clean.isVisible()
    assert view.comparison.magnifier.isVisible()
    for number, method in enumerate(METHODS):
        assert len(engine.asked) == number + 1
        asked = {"kind": "explain", "run": view.info.id, "sample": 2, "method": method}
        assert engine.questions()[-1] == asked
        engine.explain()
    assert len(engine.asked) == 3
    turn(view, None)
    assert view.comparison.clean.isVisible()
    turn(view, view.lens.explanation)
    assert len(engine.asked) == 3  # it is there already


def test_an_answer_for_another_sample_is_thrown_away(view: AttackView, engine: Engine) -> None:
    turn(view, view.lens.explanation)
    view.comparison.select(1)
    assert [q["sample"] for q in engine.questions()] == [0, 1]
    engine.explain(0)
    assert view.lens.explanation.maps.found == {}
    assert len(engine.asked) == 2
    engine.explain(1)
    assert set(view.lens.explanation.maps.found) == {"saliency"}


def test_an_answer_for_another_run_is_thrown_away(view: AttackView, engine: Engine) -> None:
    turn(view, view.lens.surface)
    view.show_nothing()
    engine.survey(0, done=5)
    assert view.lens.surface.surface.grid is None


def test_what_was_left_half_done_is_asked_again(view: AttackView, engine: Engine) -> None:
    turn(view, view.lens.explanation)
    engine.explain()
    turn(view, view.lens.surface)
    engine.explain(1)
    assert set(view.lens.explanation.maps.found) == {"saliency"}
    turn(view, view.lens.explanation)
    kinds = [(q["kind"], q.get("method")) for q in engine.questions()]
    assert kinds[-2:] == [("surface", None), ("explain", "saliency")]


def test_a_surface_is_asked_for_until_it_is_whole(view: AttackView, engine: Engine) -> None:
    turn(view, view.lens.surface)
    card = view.lens.surface
    for start, done in ((0, 4), (4, 20), (20, 25)):
        assert engine.questions()[-1]["start"] == start
        engine.survey(done=done)
        assert card.surface.grid.known.sum() == done
    assert len(engine.asked) == 3
    card.redrawn.emit()
    assert engine.questions()[-1]["seed"] != engine.questions()[0]["seed"]
    assert engine.questions()[-1]["start"] == 0


def test_a_refusal_is_shown_in_its_place(view: AttackView, engine: Engine) -> None:
    for card in (view.lens.surface, view.lens.explanation):
        turn(view, card)
        engine.asked[-1][1]({"error": "there is no sample 0; the run kept 0"}, b"")
        assert card._empty.text() == "There is no sample 0; the run kept 0"
        count = len(engine.asked)
        turn(view, None)
        turn(view, card)
        assert card._empty.text() == "There is no sample 0; the run kept 0"
        assert len(engine.asked) == count, "it would be refused again"
    view.comparison.select(1)
    assert view.lens.explanation._empty.isHidden()


def test_while_the_attack_runs_it_says_when(view: AttackView, engine: Engine) -> None:
    turn(view, view.lens.explanation)
    info = view.info
    view.lens.set_run(None)
    engine.asked.clear()
    view.lens.set_run(dataclasses.replace(info, status="running"))
    assert not engine.asked
    assert view.lens.explanation._empty.text().startswith("Drawn when the run is over")
    view.update_info(info)
    assert len(engine.asked) == 1


def test_samples_are_stepped_through_by_button_and_key(
    view: AttackView, engine: Engine, qtbot: QtBot
) -> None:
    turn(view, view.lens.explanation)
    steps = view.comparison._steps
    assert steps.label.text() == "sample 1 of 4"
    assert not steps.back.isEnabled()
    qtbot.mouseClick(steps.on, Qt.MouseButton.LeftButton)
    qtbot.keyClick(view.lens.explanation.maps, Qt.Key.Key_Right)
    assert view.comparison.selected == 2
    assert [q["sample"] for q in engine.questions()] == [0, 1, 2]


def test_a_narrow_view_keeps_the_magnifier_below(view: AttackView, qtbot: QtBot) -> None:
    turn(view, view.lens.surface)
    view.resize(420, 900)
    card, magnifier = view.lens.surface, view.comparison.magnifier
    qtbot.waitUntil(lambda: magnifier.geometry().top() >= card.geometry().bottom())
    assert card.isVisible()
    assert magnifier.isVisible()


# --- of an evaluation -----------------------------------------------------------------------------


def judged(workspace: Path, show: int = 4) -> Run:
    """An evaluation that is over: 4 samples shown, 3 of which were broken."""
    spec = {
        "kind": "evaluate",
        "model": "plain",
        "attacks": [{"kind": "pgd", "norm": "linf", "eps": 0.3}],
        "show": show,
    }
    pixels = np.full((4, 8, 8, 1), 128, np.uint8)
    captions = tuple({"label": 0, "prediction": 0, "correct": True, "norm": 0.1} for _ in range(4))
    events = [Table("running", ("attack", "n", "attacked", "left", "of"), (("pgd", 1, 4, 4, 4),))]
    for name in ("clean", "adversarial", "perturbation") if show else ():
        events.append(Images(name, pixels, captions, keep=name != "clean"))
        events.append(Images(f"worst_{name}", pixels[:3], captions[:3]))
    return make_run(workspace, "judged", spec, events=tuple(events))


@pytest.fixture
def evaluation(qtbot: QtBot, engine: Engine) -> EvaluateView:
    view = EvaluateView()
    view.ask = engine.ask
    qtbot.addWidget(view)
    view.resize(1000, 800)
    view.show()
    return view


def test_samples_of_an_evaluation_are_explained_where_they_are_seen(
    evaluation: EvaluateView, engine: Engine, tmp_path: Path
) -> None:
    view, run = evaluation, judged(tmp_path)
    view.show_run(run.info(), load(run), "series:0")
    stage, (first, worst) = view.stage, view.lenses
    assert stage.tabs.current == 1
    assert not engine.asked
    stage.after.tabs.set_current(stage.after.titles.index("Explain"))
    stage.after.select(2)
    assert worst.explanation.isVisible()
    asked = {"kind": "explain", "run": run.id, "sample": 2, "method": "saliency", "broken": True}
    assert engine.questions()[-1] == asked
    engine.explain()
    assert set(worst.explanation.maps.found) == {"saliency"}
    count = len(engine.asked)
    stage.during.tabs.set_current(stage.during.titles.index("Surface"))
    assert len(engine.asked) == count, "nobody sees that page"
    stage.tabs.set_current(0)
    question = engine.questions()[-1]
    assert (question["kind"], question["sample"]) == ("surface", 0)
    assert "broken" not in question
    error = "no attack of the evaluation broke this sample, and what they tried is not kept: there"
    engine.asked[-1][1]({"error": f"{error} is nothing to set beside the clean image"}, b"")
    assert first.surface._empty.text().startswith("No attack of the evaluation broke this sample")


def test_without_pictures_it_is_said_where_they_would_be(
    evaluation: EvaluateView, tmp_path: Path
) -> None:
    view, run = evaluation, judged(tmp_path, show=0)
    view.show_run(run.info(), load(run), "series:0")
    assert view.stage.isVisible()
    assert view.stage.words.text().startswith("No pictures: Shown samples was 0.")
    assert not view.stage.tabs.isVisible()
    assert not view.stage.during.isVisible()
    assert not view.stage.after.isVisible()
    other = judged(tmp_path)
    view.show_run(other.info(), load(other), "series:0")
    assert view.stage.tabs.isVisible()
    assert view.stage.after.isVisible()
    view.show_run(run.info(), load(run), "series:0")
    view.show_nothing()
    assert not view.stage.isVisible()


def test_the_first_explanation_says_that_it_takes_longer(
    view: AttackView, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured: 1.1 CPU seconds (2 by the clock) in the engine for the first one, 4 ms after."""
    monkeypatch.setattr(Lens, "explained", False)
    turn(view, view.lens.explanation)
    maps = view.lens.explanation.maps
    assert maps.waiting.startswith("Being computed… The engine loads what explains first")
    engine.explain()
    assert maps.waiting == "Being computed…"
    view.comparison.select(1)
    assert maps.waiting == "Being computed…"
