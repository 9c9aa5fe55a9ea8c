"""The form and the view of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.events import Images, Progress, Table
from engine.robustness.flags import FLAGS
from engine.robustness.spec import Evaluate
from engine.store import Run
from tests.workbench.stored import make_run
from workbench.forms.form import SpecForm
from workbench.forms.several import Several
from workbench.i18n import set_language
from workbench.mailbox import News
from workbench.panels.evaluate_panel import detail
from workbench.panels.evaluate_view import EVIDENCE, EvaluateView, attack_name, unmet_text
from workbench.recipes import recipe_text
from workbench.runs.record import load

SPEC = {
    "kind": "evaluate",
    "model": "plain",
    "attacks": [{"kind": "pgd", "norm": "linf", "eps": 0.1}, {"kind": "fgsm", "norm": "linf"}],
    "require": {"robust_accuracy": ">= 0.8"},
}
UNMET = "robust accuracy >= 0.8 is required; it is 0.5000 on 60 samples, so at least 0.3774"


def judged(workspace: Path, name: str = "judged", **values: Any) -> Run:
    curve = tuple((k / 10, 1 - k / 4, 0.9 - k / 4, 1.0) for k in range(4))
    flags = (("zero_gradients", "of the margin, at 32 of 32 clean images", None),)
    events = (
        Table("classes", ("index", "name"), ((0, "a"), (1, "b"))),
        Table("flags", ("flag", "evidence", "p"), flags),
        Table("attacks", ("attack", "norm", "robust_accuracy"), (("pgd-2", "linf", 0.5),)),
        Table("curve", ("epsilon", "robust_accuracy", "low", "high"), curve),
    )
    summary = {
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.5,
        "robust_accuracy_by_attack": {"pgd": 0.6, "fgsm": 0.5},
        "unmet": [UNMET],
    }
    return make_run(workspace, name, SPEC, summary=summary, events=events, **values)


def test_what_an_evaluation_found_is_drawn(qtbot: Any, tmp_path: Path) -> None:
    run, other = judged(tmp_path, status="rejected"), judged(tmp_path, "other")
    view = EvaluateView()
    qtbot.addWidget(view)
    view.beside = lambda: [(other.info(), load(other), "series:3")]
    view.show_run(run.info(), load(run), "series:0")
    curves = view.curve.plot.curves
    assert [curve.label for curve in curves.values()] == ["judged", "other"]
    assert curves[""].raw.x.tolist() == [0.0, 0.1, 0.2, pytest.approx(0.3)]
    assert "0.2" in [text for _, text in view.curve.plot.frame.steps()]
    assert [bar[:2] for bar in view.accuracies.view.bars] == [
        ("Clean", 0.9),
        ("PGD", 0.6),
        ("FGSM", 0.5),
        ("Worst case", 0.5),
    ]
    assert not view.verdict.isHidden()
    assert view.verdict.text() == "Rejected: R" + UNMET[1:]
    words = [label.text() for label in view.flags._list.findChildren(type(view.verdict))]
    meaning = FLAGS["zero_gradients"]
    assert words == [
        meaning.title,
        "Of the margin, at 32 of 32 clean images",
        meaning.means,
        f"Try: {meaning.advice}",
    ]
    assert view.tables["attacks"].model.rows == (("PGD 2", "L∞", 50.0),)
    assert "classes" not in view.tables
    view.beside = lambda: ()
    view.beside_changed()
    assert list(view.curve.plot.curves) == [""]
    view.show_nothing()
    assert not view.curve.plot.curves
    assert view.verdict.isHidden()


def test_words() -> None:
    assert detail(SPEC) == "PGD, FGSM · on plain"
    assert attack_name("pgd") == "PGD"
    assert attack_name("pgd-2") == "PGD 2"
    assert unmet_text(UNMET) == UNMET.replace("robust", "Robust", 1)
    doubt = "robust accuracy >= 0.8 is required; it is 0.9, but the checks doubt that: "
    set_language("zh")
    said = unmet_text(doubt + "Zero gradients, Saturated loss")
    set_language("en")
    assert "Zero" not in said
    assert "robust" not in said
    assert len(set(EVIDENCE)) == len(EVIDENCE)


def test_a_form_holds_a_list_of_attacks(qtbot: Any) -> None:
    form = SpecForm(Evaluate)
    qtbot.addWidget(form)
    several = form._fields.nodes["attacks"]
    assert isinstance(several, Several)
    usual = [attack["kind"] for attack in form.values()["attacks"]]
    several._one_more()
    assert len(form.values()["attacks"]) == len(usual) + 1
    form.undo()
    assert [attack["kind"] for attack in form.values()["attacks"]] == usual
    several._remove(several._rows[0])
    assert [attack["kind"] for attack in form.values()["attacks"]] == usual[1:]
    form.undo()
    form.set_values({"kind": "evaluate", "model": "m", "attacks": [{"kind": "pgd", "eps": -1.0}]})
    (attack,) = form.values()["attacks"]
    assert attack["eps"] == -1.0
    assert attack["steps"] == 40
    (problem,) = form.problems
    assert problem.path == ("attacks", "0", "eps")
    node = form._node(problem.path)
    assert node is not None
    assert node.path == problem.path
    form.set_values({"kind": "evaluate", "model": "m", "attacks": SPEC["attacks"]})
    assert form.spec() is not None


def test_a_recipe_names_several_runs() -> None:
    text = recipe_text([{"name": "e", **SPEC, "also": ["id-1", "id-2"]}], {"id-1": "first"})
    assert 'also = [\n    "first",\n    "id-2",\n]' in text


def pictures(name: str, count: int, step: int, value: int, **more: Any) -> Images:
    captions = tuple(
        {"label": 0, "prediction": 1, "correct": False, "norm": 0.1, **more} for _ in range(count)
    )
    pixels = np.full((count, 4, 4, 1), value, np.uint8)
    scale = 0.1 if "perturbation" in name else None
    return Images(name, pixels, captions, step, scale=scale, keep=True)


def test_the_attacks_are_watched_and_the_worst_is_looked_through(
    qtbot: Any, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "going", SPEC, status="running")
    view = EvaluateView()
    qtbot.addWidget(view)
    view.show_run(run.info(), load(run), "series:0")
    stage = view.stage
    assert stage.isHidden(), "there are no pictures yet"
    news = News()
    running = ("attack", "number", "attacked", "left", "samples")
    news.add(Table("classes", ("index", "name"), ((0, "a"), (1, "b"))))
    news.add(Table("running", running, (("pgd-2", 2, 40, 38, 60),)))
    for event in (
        pictures("clean", 3, 0, 10),
        pictures("adversarial", 3, 4, 20),
        pictures("perturbation", 3, 4, 128),
        Progress(12, 40, "by pgd-2"),
    ):
        news.add(event)
    view.news(news)
    assert not stage.isHidden()
    assert stage.words.text() == (
        "PGD 2 is attacking: 12 of 40 samples done; 38 of 60 were left before it."
    )
    assert (stage.during.adversarial.view.pixels == 20).all()
    assert "adversarial" not in view.mosaics, "they are not shown twice"
    assert "running" not in view.tables
    more = News()
    more.add(pictures("adversarial", 3, 5, 30))
    more.add(Progress(3, 40, "by queries"))
    view.news(more)
    assert (stage.during.adversarial.view.pixels == 30).all()
    assert "12 of 40" in stage.words.text(), "the checks are no attack of it"
    rows = (("pgd", "linf", 0.7), ("pgd-2", "linf", 0.5))
    over = News()
    over.add(Table("attacks", ("attack", "norm", "robust_accuracy"), rows))
    view.news(over)
    assert stage.words.text() == "30 of 60 samples withstood the attacks."
    last = News()
    last.add(pictures("worst_clean", 5, 0, 10))
    last.add(pictures("worst_adversarial", 5, 0, 40, attack="pgd-2", measured="l2"))
    last.add(pictures("worst_perturbation", 5, 0, 128))
    view.news(last)
    assert stage.tabs.current == 1
    assert (stage.after.adversarial.view.pixels == 40).all()
    stage.after.select(3)
    assert stage.words.text() == "Sample 4 of 5, broken by PGD 2: L2 0.100"
    assert stage.after.magnifier.note.text().startswith("L2 0.1")
    stage.tabs.set_current(0)
    assert stage.words.text() == "30 of 60 samples withstood the attacks."
    assert (stage.during.adversarial.view.pixels == 30).all()
    view.show_nothing()
    assert stage.isHidden()


def test_what_was_empty_promises_again(qtbot: Any, tmp_path: Path) -> None:
    over = make_run(tmp_path, "over", SPEC)
    view = EvaluateView()
    qtbot.addWidget(view)
    view.show_run(over.info(), load(over), "series:0")
    assert "recorded no" in view.curve._empty.text()
    view.show_nothing()
    assert view.curve._empty.text() == "Drawn when the attacks are over."
