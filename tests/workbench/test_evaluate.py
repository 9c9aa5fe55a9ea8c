"""The form and the view of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.events import Table
from engine.robustness.flags import FLAGS
from engine.robustness.spec import Evaluate
from engine.store import Run
from tests.workbench.stored import make_run
from workbench.forms.form import SpecForm
from workbench.forms.several import Several
from workbench.i18n import set_language
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
