"""How certificates are drawn beside an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.events import Table
from engine.robustness.spec import Evaluate
from engine.store import Run
from tests.workbench.stored import make_run
from workbench.forms.form import SpecForm
from workbench.panels.evaluate_view import EvaluateView
from workbench.runs.record import load

SPEC = {"kind": "evaluate", "model": "m", "attacks": [{"kind": "pgd"}]}


def certified(workspace: Path, name: str, beside: str = "", more: tuple[Table, ...] = ()) -> Run:
    rows = ((0.0, 0.9, 0.8, 0.95, 0.9), (0.5, 0.6, 0.5, 0.7, 0.8), (1.0, 0.2, 0.1, 0.3, None))
    columns = ("radius", "certified_accuracy", "low", "high", "robust_accuracy")
    curve = tuple((k / 10, 0.9 - k / 20, 0.0, 1.0) for k in range(3))
    events = (
        Table("curve", ("epsilon", "robust_accuracy", "low", "high"), curve),
        Table("certificate", ("certificate", "norm", "beside"), (("smoothing", "l2", beside),)),
        Table("certified_curve", ("radius", "certified_accuracy"), ((0.0, 0.9), (1.5, 0.0))),
        Table("certified", columns, rows),
        *more,
    )
    return make_run(workspace, name, SPEC, summary={"clean_accuracy": 0.9}, events=events)


@pytest.fixture
def view(qtbot: Any) -> EvaluateView:
    view = EvaluateView()
    qtbot.addWidget(view)
    return view


def labels(card: Any) -> list[str]:
    return [curve.label for curve in card.plot.curves.values()]


def test_a_certificate_of_another_classifier_has_its_own_card(
    view: EvaluateView, tmp_path: Path
) -> None:
    run, other = certified(tmp_path, "judged"), certified(tmp_path, "other")
    view.beside = lambda: [(other.info(), load(other), "series:3")]
    view.show_run(run.info(), load(run), "series:0")
    assert not view.certified.isHidden()
    assert labels(view.curve) == ["judged", "other"]
    card = view.certified.curve
    assert labels(card) == [
        "judged, certified",
        "judged, attacked",
        "other, certified",
        "other, attacked",
    ]
    proved, attacked, *_ = card.plot.curves.values()
    assert proved.dashed
    assert not attacked.dashed
    assert proved.raw.x.tolist() == [0.0, 1.5]
    # Only where there was an attack.
    assert attacked.raw.x.tolist() == [0.0, 0.5]
    assert attacked.raw.y.tolist() == [0.9, 0.8]
    assert {curve.color for curve in (proved, attacked)} == {"series:0"}
    assert view.certified.table.model.rows[1] == (0.5, 60.0, "50.0–70.0", 80.0)
    assert view.certified.table.model.rows[2][3] is None
    assert "certified" not in view.tables
    view.beside = lambda: ()
    view.beside_changed()
    assert labels(card) == ["judged, certified", "judged, attacked"]
    view.show_nothing()
    assert view.certified.isHidden()
    assert not card.plot.curves


def test_one_of_the_model_joins_its_curve(view: EvaluateView, tmp_path: Path) -> None:
    run = certified(tmp_path, "judged", beside="curve")
    view.show_run(run.info(), load(run), "series:0")
    assert view.certified.isHidden()
    assert labels(view.curve) == ["judged", "judged, certified"]
    plain = make_run(tmp_path, "plain", SPEC)
    view.show_run(plain.info(), load(plain), "series:0")
    assert labels(view.curve) == []


def test_a_contradiction_is_the_first_thing_said(view: EvaluateView, tmp_path: Path) -> None:
    row = (17, "3", 0.8, 0.4, "5", 0.001, "apgd")
    columns = ("sample", "certified_as", "radius", "distance", "taken_for", "chance", "attack")
    table = Table("contradictions", columns, (row, (17, *row[1:]), (18, *row[1:])))
    run = certified(tmp_path, "judged", more=(table,))
    view.show_run(run.info(), load(run), "series:0")
    assert not view.verdict.isHidden()
    assert view.verdict.text().startswith("Contradicted: attacks changed answers")
    assert "on 2 images" in view.verdict.text()
    assert len(view.tables["contradictions"].model.rows) == 3


def test_the_form_asks_for_a_certificate(qtbot: Any) -> None:
    form = SpecForm(Evaluate)
    qtbot.addWidget(form)
    smoothing = {"kind": "smoothing", "sigma": 0.25, "radii": [0.5, 1.0], "n": 1000}
    form.set_values({**SPEC, "certify": smoothing})
    spec = form.spec()
    assert isinstance(spec, Evaluate)
    assert spec.certify is not None
    assert spec.certify.radii == (0.5, 1.0)
    form.set_values({**SPEC, "certify": {**smoothing, "sigma": 0.0}})
    (problem,) = form.problems
    assert problem.path == ("certify", "sigma")
