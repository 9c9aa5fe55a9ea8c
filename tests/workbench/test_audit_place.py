"""The place for audits: what each kind shows, before it starts and when it is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from engine.audits.spec import Audit
from engine.events import Event, Images, Scalars, Table
from engine.store import Run
from tests.workbench.stored import make_run, trained
from tests.workbench.test_privacy_place import private
from tests.workbench.windows import Open, open_window
from workbench import i18n
from workbench.forms.editors import Checks, RunEditor
from workbench.forms.form import SpecForm
from workbench.panels import detail_of
from workbench.panels.audit_parts import likeness
from workbench.panels.audit_view import AuditView, verdict_of
from workbench.panels.details import called, value_text
from workbench.panels.evaluate_view import unmet_text
from workbench.runs.book import counts_as, has_model
from workbench.runs.record import load

__all__ = ["open_window"]

MEMBERSHIP = (
    Scalars(4, {"auc/loss": 0.52, "auc/lira": 0.6}),
    Scalars(8, {"auc/loss": 0.52, "auc/lira": 0.66}),
    Table(
        "membership",
        (
            "method", "auc", "low", "high", "balanced_accuracy",
            "tpr_at_fpr_0.001", "low_0.001", "high_0.001",
            "tpr_at_fpr_0.01", "low_0.01", "high_0.01",
        ),
        (
            ("loss", 0.52, 0.5, 0.54, 0.53, 0.0, 0.0, 0.01, 0.01, 0.0, 0.02),
            ("lira", 0.66, 0.6, 0.7, 0.6, 0.05, 0.03, 0.08, 0.2, 0.15, 0.25),
        ),
    ),
    Table(
        "roc",
        ("method", "false_positives", "true_positives"),
        tuple((m, f, t) for m in ("loss", "lira") for f, t in ((0.0, 0.05), (0.01, 0.2), (1, 1))),
    ),
    Table(
        "scores",
        ("method", "from", "to", "members", "others"),
        (("loss", 0.0, 1.0, 5, 5), ("lira", -1.0, 0.0, 2, 8), ("lira", 0.0, 1.0, 7, 3)),
    ),
    Images("exposed", np.zeros((2, 8, 8, 1), np.uint8), ({"label": 3, "score": 9.5},) * 2),
)  # fmt: skip
FOUND = {
    "method": "lira",
    "auc": 0.66,
    "tpr_at_fpr_0.001": 0.05,
    "tpr_at_fpr_0.001_interval": [0.03, 0.08],
    "members": 100,
}
CANARIES = (
    Table("flags", ("flag", "evidence", "p"), ()),
    Table(
        "bounds",
        ("delta", "epsilon_lower_bound", "epsilon", "guesses", "right", "canaries"),
        ((1e-5, 1.2, 3.0, 100, 70, 500),),
    ),
    Table(
        "noise",
        ("noise", "promised", "found", "limit", "p"),
        (
            ("each_step", 1.5, 1.49, 1.45, 0.3),
            ("all_steps", 1.5, 1.52, 1.3, 0.6),
            ("between_steps", 1.0, 1.02, 1.2, 0.4),
        ),
    ),
    Table("canaries", ("from", "to", "in", "out"), ((0.0, 1.0, 3, 9), (1.0, 2.0, 8, 4))),
)
BOUND = {
    "epsilon_lower_bound": 1.2,
    "epsilon": 3.0,
    "confidence": 0.999,
    "noise_share": 0.993,
    "canary": "gradient",
    "flags": [],
}
QUIET = (
    "the noise is smaller than promised: in each step, its deviation is 0 clipping norms a step, "
    "and 1.5 was promised; 1.45 could be chance"
)
OBJECTION = (
    "epsilon at most 3 was promised at delta 1e-05; the canaries show that it is at least 3.61, "
    "with a confidence of 99.9000%"
)
EXTRACTION = (
    Scalars(12, {"extraction/agreement": 0.5, "extraction/accuracy": 0.4}),
    Table(
        "extraction",
        ("queries", "agreement", "low", "high", "accuracy"),
        ((12, 0.5, 0.4, 0.6, 0.4), (1200, 0.9, 0.8, 0.95, 0.85)),
    ),
)


def pictures(name: str, *captions: dict[str, Any]) -> Images:
    return Images(name, np.full((len(captions), 8, 8, 1), 99, np.uint8), captions)


INVERSION = (
    pictures("original", {"label": 3}, {"label": 5}),
    pictures(
        "reconstruction", {"label": 3, "psnr": 21.31, "ssim": 0.87}, {"label": 5, "psnr": 8.0}
    ),
    Scalars(1, {"inversion/psnr": 6.0, "inversion/ssim": 0.1, "inversion/loss": 0.9}),
    Scalars(9, {"inversion/psnr": 21.0, "inversion/ssim": 0.8, "inversion/loss": 0.01}),
    Table(
        "reconstructions",
        ("gradient", "label", "psnr", "ssim", "recognised"),
        ((0, "3", 21.31, 0.87, True), (1, "5", 8.0, 0.1, False)),
    ),
)


def audit(
    workspace: Path,
    model: Run,
    kind: str,
    events: tuple[Event, ...] = (),
    summary: dict[str, Any] | None = None,
    **more: Any,
) -> Run:
    spec = {"kind": "audit", "model": model.id, "audit": {"kind": kind}}
    lineage = {"model": model.id}
    return make_run(workspace, kind, spec, summary=summary, lineage=lineage, events=events, **more)


def show(view: AuditView, run: Run, *others: Run) -> None:
    infos = [each.info() for each in (run, *others)]
    records = {each.info().id: load(each) for each in (run, *others)}
    view.runs = lambda: [(info, info.name, f"series:{k}") for k, info in enumerate(infos)]
    view.read = records.__getitem__
    view.show_run(run.info(), records[run.info().id], "series:0")


def seen(view: AuditView) -> list[str]:
    return [name for name, part in view.parts.items() if not part.isHidden()]


@pytest.fixture
def view(qtbot: QtBot) -> AuditView:
    view = AuditView()
    qtbot.addWidget(view)
    view.resize(860, 700)
    return view


# --- each kind


def test_members_are_told_from_others(view: AuditView, tmp_path: Path) -> None:
    run = audit(tmp_path, trained(tmp_path), "membership", MEMBERSHIP, FOUND)
    show(view, run)
    part: Any = view.parts["membership"]
    assert seen(view) == ["membership"]
    assert [curve.name for curve in part.roc.drawing.curves] == ["LiRA", "Loss"]
    assert part.roc.value.text() == "5.0\u202f%"
    assert [c.label for c in part.auc.plot.curves.values()] == ["Loss", "LiRA"]
    assert part.auc.value.text() == "0.660", "of the strongest method"
    assert part.auc.plot.frame.lines["Guessing"].value == 0.5
    colors = {c.name: c.color for c in part.roc.drawing.curves}
    assert {c.label: c.color for c in part.auc.plot.curves.values()} == colors
    assert [one.other for one in part.scores.drawing.bins] == [8, 3], "those of the strongest"
    assert part.scores.note.text() == "LiRA"
    assert part.figures.model.rows[1] == (
        "LiRA", "0.660 (0.600–0.700)", 60.0, "5.0 (3.0–8.0)", "20.0 (15.0–25.0)",
    )  # fmt: skip
    assert part.exposed.view.words(part.exposed.view.captions[0]) == "9.50"
    assert "loss" not in view.curves or view.curves["loss"] is not part.auc
    assert view.verdict.text().startswith("5.0\u202f% of the training images are found")
    assert not view.verdict.isHidden()
    assert not {"membership", "roc", "scores"} & view.tables.keys()


def test_canaries_stand_beside_what_was_promised(view: AuditView, tmp_path: Path) -> None:
    model = private(tmp_path)
    show(view, audit(tmp_path, model, "canaries", CANARIES, BOUND), model)
    part: Any = view.parts["canaries"]
    assert seen(view) == ["canaries"]
    assert part.budget.value.text() == "ε 3.00"
    assert {c.label for c in part.budget.plot.curves.values()} == {
        "Spent", "Planned", "By RDP, looser",
    }  # fmt: skip
    (name,) = [n for n in part.budget.plot.frame.lines if n != "Target"]
    assert part.budget.plot.frame.lines[name].value == 1.2
    assert part.scores.drawing.paired
    assert part.bounds.model.rows[0][0] == "1e−5"
    assert part.bounds.model.columns[2] == "epsilon_promised"
    assert [row[0] for row in part.noise.model.rows] == [
        "In each step", "Over all steps", "Sum over all steps, over independent draws",
    ]  # fmt: skip
    assert view.verdict.text().startswith("✓ Not contradicted")
    assert "The noise is 99.3\u202f% of what was promised." in view.verdict.text()
    assert view.verdict.property("tone") == "good"
    assert "flags" not in view.tables


def test_a_promise_that_is_contradicted_is_rejected(view: AuditView, tmp_path: Path) -> None:
    model = private(tmp_path)
    summary = {**BOUND, "epsilon_lower_bound": 3.61, "unmet": [OBJECTION]}
    run = audit(tmp_path, model, "canaries", CANARIES, summary, status="rejected")
    show(view, run, model)
    budget = view.parts["canaries"].budget  # type: ignore[attr-defined]
    assert budget.contradicted
    assert "danger" in {line.color for line in budget.plot.frame.lines.values()}
    assert view.verdict.text().startswith("✕ Rejected: epsilon at most 3 was promised")
    assert view.verdict.property("tone") == "bad"
    i18n.set_language("zh")
    assert "未通过" in view.verdict.text() or "拒绝" in view.verdict.text()
    assert "金丝雀" in view.verdict.text()
    assert unmet_text(OBJECTION).endswith("99.9\u202f%")


def test_noise_that_is_missing_is_rejected_in_its_own_words(
    view: AuditView, tmp_path: Path
) -> None:
    model = private(tmp_path)
    summary = {**BOUND, "noise_share": 0.0, "unmet": [QUIET]}
    show(view, audit(tmp_path, model, "canaries", CANARIES, summary, status="rejected"), model)
    assert view.verdict.text().startswith("✕ Rejected: the noise is smaller than promised")
    assert view.verdict.property("tone") == "bad"
    i18n.set_language("zh")
    assert "噪声" in view.verdict.text()
    assert "promised" not in view.verdict.text()


def test_canaries_that_cannot_show_noise_are_said_to_be_so(view: AuditView, tmp_path: Path) -> None:
    model = private(tmp_path)
    events = tuple(e for e in CANARIES if not isinstance(e, Table) or e.name != "noise")
    summary = {k: v for k, v in BOUND.items() if k != "noise_share"} | {"canary": "sample"}
    show(view, audit(tmp_path, model, "canaries", events, summary), model)
    assert "canaries of this kind do not show" in view.verdict.text()


def test_reconstructions_stand_beside_the_originals(view: AuditView, tmp_path: Path) -> None:
    summary = {"images": 2, "psnr": 14.7, "recognised": 0.5}
    show(view, audit(tmp_path, trained(tmp_path), "inversion", INVERSION, summary))
    part: Any = view.parts["inversion"]
    assert part.original.view.link is part.reconstruction.view.link
    part.original.view.link.select(1)
    assert part.reconstruction.view.link.selected == 1
    words = part.reconstruction.view.words
    assert words is likeness
    assert [words(c) for c in part.reconstruction.view.captions] == [
        "21.3\u202fdB · SSIM 0.87",
        "8.00\u202fdB",
    ]
    assert view.curves["psnr"] is part.likeness
    assert part.likeness.value.text() == "21.0\u202fdB"
    assert part.distance.value.text() == "0.010"
    assert part.figures.model.rows[1][-1] is False
    assert view.verdict.text() == (
        "2 images were reconstructed, on average to 14.7 dB. A classifier recognises 50\u202f% of "
        "them."
    )


def test_what_was_found_is_written_on_it(view: AuditView, qtbot: QtBot, tmp_path: Path) -> None:
    show(view, audit(tmp_path, trained(tmp_path), "inversion", INVERSION))
    part: Any = view.parts["inversion"]
    mosaic = part.reconstruction.view
    mosaic.resize(300, 200)
    with_words = mosaic.picture().toImage()
    mosaic.words = None
    mosaic.forget()
    assert mosaic.picture().toImage() != with_words
    mosaic.words = likeness
    mosaic.resize(40, 20)  # too small: nothing is hidden by words
    mosaic.forget()
    small = mosaic.picture().toImage()
    mosaic.words = None
    mosaic.forget()
    assert mosaic.picture().toImage() == small


def test_a_copy_is_drawn_over_its_queries(view: AuditView, tmp_path: Path) -> None:
    summary = {"queries": 1200, "agreement": 0.9, "model_accuracy": 0.97}
    show(view, audit(tmp_path, trained(tmp_path), "extraction", EXTRACTION, summary))
    part: Any = view.parts["extraction"]
    assert [c.label for c in part.curve.plot.curves.values()] == [
        "agrees with the model",
        "is right",
    ]
    assert part.curve.plot.curves["agreement"].raw.x.tolist() == [12, 1200]
    assert part.curve.plot.frame.lines["the model itself"].value == 0.97
    assert part.figures.model.rows[1] == (1200, 90.0, "80.0–95.0", 85.0)
    assert "1\u202f200 answers" in view.verdict.text()
    assert not {"agreement", "accuracy"} & view.curves.keys(), "it is drawn over queries alone"


# --- one view for all


def test_another_run_leaves_nothing_of_the_one_before(view: AuditView, tmp_path: Path) -> None:
    model = trained(tmp_path)
    first = audit(tmp_path, model, "membership", MEMBERSHIP, FOUND)
    second = audit(tmp_path, model, "extraction", EXTRACTION, {})
    show(view, first)
    show(view, second)
    assert seen(view) == ["extraction"]
    assert view.parts["membership"].roc.is_empty  # type: ignore[attr-defined]
    assert view.verdict.isHidden(), "it was stopped before it knew"
    i18n.set_language("zh")
    show(view, first)
    assert seen(view) == ["membership"]


def test_an_ended_audit_no_longer_promises(view: AuditView, tmp_path: Path) -> None:
    show(view, audit(tmp_path, trained(tmp_path), "membership", (), {}, status="failed"))
    part: Any = view.parts["membership"]
    assert part.roc._empty.text() == "This run recorded no members found."
    view.show_nothing()
    assert part.roc._empty.text().startswith("True over false positives")


def test_the_form_says_what_will_be_shown(view: AuditView, tmp_path: Path) -> None:
    model = private(tmp_path)
    info, record = model.info(), load(model)
    read: list[str] = []

    def reads(run_id: str) -> Any:
        read.append(run_id)
        return record

    view.runs, view.read = lambda: [(info, info.name, "series:2")], reads
    values = {"kind": "audit", "model": info.id, "audit": {"kind": "canaries"}}
    for _ in range(3):
        view.preview(values, lambda question, answer: None)
    assert seen(view) == ["canaries"]
    budget = view.parts["canaries"].budget  # type: ignore[attr-defined]
    assert budget.value.text() == "ε 3.00", "what the chosen run promises"
    assert budget.plot.curves["privacy/epsilon"].color == "series:2"
    assert read == [info.id], "once, while it does not change"
    view.preview({"kind": "audit", "audit": {"kind": "inversion"}}, lambda *_: None)
    assert seen(view) == ["inversion"]


def test_every_kind_of_audit_has_its_part(view: AuditView) -> None:
    from engine.audits.spec import AuditSpec
    from engine.task import kinds

    assert view.parts.keys() == kinds(AuditSpec).keys()


def test_what_is_missing_in_a_summary_is_no_fault() -> None:
    for kind in ("membership", "canaries", "inversion", "extraction", "of another version"):
        assert verdict_of({}, kind) == ("", "")


def test_the_audit_is_a_place_of_the_window(open_window: Open, tmp_path: Path) -> None:
    model = private(tmp_path / "w")
    run = audit(tmp_path / "w", model, "canaries", CANARIES, BOUND)
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(run.id)
    assert window.place == "audit"
    view = window.pages.currentWidget()
    assert isinstance(view, AuditView)
    budget = view.parts["canaries"].budget  # type: ignore[attr-defined]
    assert budget.value.text() == "ε 3.00"
    assert detail_of("audit", window.session.book.named(run.info()).spec) == "Canaries · on dp"
    window.choose_run(model.id)
    (name,) = [n for n in window.view("privacy").budget.plot.frame.lines if n != "Target"]  # type: ignore[attr-defined]
    assert name.startswith("✓ audit")


def test_one_card_fills_the_screen_and_comes_back(
    open_window: Open, qtbot: QtBot, tmp_path: Path
) -> None:
    run = audit(tmp_path / "w", trained(tmp_path / "w"), "membership", MEMBERSHIP, FOUND)
    window = open_window(tmp_path / "w", engine=False)
    window.choose_run(run.id)
    card: Any = window.view("audit").parts["membership"].roc  # type: ignore[attr-defined]
    card.drawing.setFocus()
    window.present()
    assert window._presenter is not None
    assert card.window() is window._presenter
    window._presenter.close()
    assert card.window() is window


# --- the form, and what is said


def test_methods_are_ticked(qtbot: QtBot) -> None:
    form = SpecForm(Audit)
    qtbot.addWidget(form)
    form.set_values({"model": "m", "audit": {"kind": "membership"}})
    section = form._fields.nodes["audit"]
    editor = section.nodes()["method"].editor  # type: ignore[union-attr]
    assert isinstance(editor, Checks)
    assert [box.isChecked() for box in editor.boxes] == [True] * 4
    assert all(box.accessibleName() for box in editor.boxes)
    editor.boxes[1].click()
    assert form.values()["audit"]["method"] == ["loss", "lira_offline", "lira"]
    assert form.spec() is not None
    form.undo()
    assert editor.boxes[1].isChecked()
    for box in editor.boxes:
        box.setChecked(False)
    editor.boxes[0].click()
    editor.boxes[0].click()
    assert form.problems
    assert [box.text() for box in editor.boxes][2:] == ["LiRA offline", "LiRA"]


def test_figures_of_audits_have_names() -> None:
    assert called("tpr_at_fpr_0.001") == "Found at 0.1 % false"
    assert called("auc_by_method.lira") == "AUC: LiRA"
    assert called("agreement") == "Agreement with the model"
    assert value_text("tpr_at_fpr_0.01_interval", [0.1, 0.25]) == "10.0\u202f%, 25.0\u202f%"
    assert value_text("auc_interval", [0.5, 0.75]) == "0.5000, 0.7500"
    assert value_text("sample_rate", 0.0043) == "0.0043"
    assert value_text("noise_source", "seed") == "the seed"
    assert value_text("method", "lira") == "LiRA"
    assert value_text("recognised", 0.2) == "20.0\u202f%"


def test_a_copy_is_a_model(tmp_path: Path) -> None:
    run = audit(tmp_path, trained(tmp_path), "extraction", EXTRACTION, {"queries": 12})
    assert not has_model(run.info())
    assert counts_as(run.info()) == "audit"
    run.set_state(artifacts=[{"name": "model", "path": "model.safetensors"}])
    assert has_model(run.info())
    assert counts_as(run.info()) == "train"


def test_a_federation_and_a_copy_can_be_chosen_as_the_model(
    tmp_path: Path, open_window: Open
) -> None:
    """From the list, by their names; an audit that copied nothing cannot."""
    victim = trained(tmp_path)
    audit(tmp_path, victim, "membership", MEMBERSHIP, FOUND)
    copy = audit(tmp_path, victim, "extraction", EXTRACTION, {"queries": 12})
    copy.set_state(artifacts=[{"name": "model", "path": "model.safetensors"}])
    make_run(tmp_path, "together", {"kind": "federate"})
    window = open_window(tmp_path, engine=False)
    window.go("audit")
    form = window.inspector.form
    assert form is not None
    editor = form.findChildren(RunEditor)[0]
    offered = {editor.combo.itemText(i) for i in range(editor.combo.count())}
    assert offered == {"plain", "extraction", "together"}
