"""The form and the view of evaluations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt

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
from workbench.panels.evaluate_view import (
    EVIDENCE,
    EvaluateView,
    attack_name,
    evidence_text,
    unmet_text,
)
from workbench.recipes import recipe_text
from workbench.runs.record import load
from workbench.words import note_text

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
    assert view.verdict.text() == f"Rejected: {unmet_text(UNMET)}"
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


def test_what_could_not_be_checked_is_not_called_good(qtbot: Any, tmp_path: Path) -> None:
    text = (
        "No samples were to be checked (checked = 0), so attacks were neither compared with each "
        "other nor tried without bounds, and these flags cannot be raised: one_step_wins. Two "
        "attacks have to differ on 8 samples that withstand, as 31 of 62 do: 16 are needed."
    )
    events = (
        Table("flags", ("flag", "evidence", "p"), ()),
        Table("unchecked", ("text",), ((text,),)),
    )
    run = make_run(tmp_path, "unchecked", SPEC, summary={}, events=events)
    view = EvaluateView()
    qtbot.addWidget(view)

    def words() -> list[str]:
        labels = view.flags._list.findChildren(type(view.verdict))
        return [label.text() for label in labels if not label.isHidden()]

    view.show_run(run.info(), load(run), "series:0")
    assert words() == [text]
    assert "unchecked" not in view.tables
    set_language("zh")
    view.flags.retranslate()
    (said,) = words()
    assert said == note_text(text)
    set_language("en")
    assert "needed" not in said
    assert "16" in said
    view.show_nothing()
    view.show_run(judged(tmp_path).info(), load(judged(tmp_path, "again")), "series:0")
    assert text not in words()


def test_what_the_checks_measure_is_said_in_chinese() -> None:
    set_language("zh")
    said = [
        evidence_text(text)
        for text in (
            "5 passes of the same images differ by up to 0.1; up to 3% of the predictions changed",
            "of cross-entropy, at 31 of 128 images of the ball",
            "of 128 steps along the gradient at clean images, twice as long as it says the "
            "decision is away, 31 did not lead a tenth of the way there",
            "by their gradients, 31 of 128 clean images are more than 3 times as far from another "
            "class as it is on the way to another image (median 4.2)",
            "in batches of 1 and of 128 images, answers differ by up to 0.2",
            "7 of 256 images of the attacks are answered otherwise by a copy that was asked "
            "nothing before, by up to 3.1",
        )
    ]
    set_language("en")
    assert not [text for text in said if re.search("[a-z]{3}", text)]
    assert all(number in said[1] for number in ("31", "128"))


def test_words() -> None:
    assert detail(SPEC) == "PGD, FGSM · on plain"
    assert attack_name("pgd") == "PGD"
    assert attack_name("pgd-2") == "PGD 2"
    assert unmet_text(UNMET) == (
        "Robust accuracy >= 80\u202f% is required; it is 50\u202f% on 60 samples, so at least "
        "37.74\u202f%"
    )
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
        "PGD 2 is attacking 40 samples, 30\u202f% done; 38 of 60 were left before it."
    )
    assert (stage.during.adversarial.view.pixels == 20).all()
    assert "adversarial" not in view.mosaics, "they are not shown twice"
    assert "running" not in view.tables
    more = News()
    more.add(pictures("adversarial", 3, 5, 30))
    more.add(Progress(3, 40, "by queries"))
    view.news(more)
    assert (stage.during.adversarial.view.pixels == 30).all()
    assert "30\u202f% done" in stage.words.text(), "the checks are no attack of it"
    within = News()
    within.add(Progress(12, 40, "by pgd-2", 0.475))
    view.news(within)
    assert "48\u202f% done" in stage.words.text(), "none of the second batch is done, and most is"
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


def test_what_was_said_in_one_language_is_said_again_in_the_other(
    qtbot: Any, tmp_path: Path
) -> None:
    """Cells, headings and the names of curves are words too."""
    run = judged(tmp_path, status="rejected")
    view = EvaluateView()
    qtbot.addWidget(view)
    view.show_run(run.info(), load(run), "series:0")
    kinds = (("gaussian_noise", 0.9, 0.8, 0.85),)
    columns = ("corruption", "severity 1", "severity 2", "mean")
    view.show_table(Table("corruptions", columns, kinds))
    view.show_table(Table("certificate", ("a", "b", "c"), (("ibp", "linf", "curve"),)))
    view.show_table(Table("certified_curve", ("r", "a"), ((0.0, 1.0), (0.1, 0.5))))
    set_language("zh")
    model = view.tables["corruptions"].model
    assert model.rows[0][0] == "高斯噪声"
    horizontal = Qt.Orientation.Horizontal
    assert model.headerData(1, horizontal, Qt.ItemDataRole.DisplayRole).startswith("强度 1")
    assert view.curve.plot.curves["/certified"].label == "judged（认证）"
    assert "80\u202f%" in view.verdict.text()
    set_language("en")
    assert model.rows[0][0] == "Gaussian noise"
    assert view.curve.plot.curves["/certified"].label == "judged, certified"


def test_the_clean_accuracy_is_there_as_soon_as_an_attack_has_begun(
    qtbot: Any, tmp_path: Path
) -> None:
    """Also where the first one is over before anybody looks."""
    run = make_run(tmp_path, "going", SPEC, status="running")
    view = EvaluateView()
    qtbot.addWidget(view)
    view.show_run(run.info(), load(run), "series:0")
    columns = ("attack", "number", "attacked", "left", "samples", "correct")
    view.show_table(Table("running", columns, (("pgd-2", 2, 40, 38, 60, 57),)))
    assert [(words, share) for words, share, _ in view.accuracies.view.bars] == [("Clean", 0.95)]
