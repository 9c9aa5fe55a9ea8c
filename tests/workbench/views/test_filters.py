"""Filters, the embedding and the table of an attack: the same samples everywhere."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtTest import QTest

from engine.events import Images, Table
from engine.store import Run, RunInfo
from tests.workbench.stored import attacked, make_run, trained
from workbench import i18n, theme
from workbench.panels.atlas import rules_of
from workbench.panels.attack_view import AttackView
from workbench.panels.evaluate_view import EvaluateView
from workbench.runs.record import load
from workbench.views.comparison import Comparison
from workbench.views.embedding import EmbeddingCard, read_answer
from workbench.views.filters import Filter, FilterBar, Rules, sample_of
from workbench.views.plane import class_color

CLASSES = ("cat", "dog", "owl")
TRUE = (0, 0, 1, 1, 2, 2)
BEFORE = (0, 0, 1, 2, 2, 2)
AFTER = (1, 0, 0, 2, 2, 1)
NORMS = (0.3, 0.3, 0.2, 0.0, 0.3, 0.1)
OUTCOMES = ("broken", "withstood", "broken", "wrong", "withstood", "broken")


def captions(said: tuple[int, ...], norms: tuple[float, ...] = (0.0,) * 6) -> tuple[Any, ...]:
    return tuple(
        {
            "label": t,
            "prediction": p,
            "correct": t == p,
            "probabilities": [0.2, 0.3, 0.5],
            "norm": n,
        }
        for t, p, n in zip(TRUE, said, norms)
    )


def pictures() -> np.ndarray[Any, Any]:
    return np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)


def events() -> tuple[Any, ...]:
    pixels = pictures()
    return (
        Table("classes", ("index", "name"), tuple(enumerate(CLASSES))),
        Images("clean", pixels, captions(BEFORE), keep=True),
        Images("adversarial", pixels + 50, captions(BEFORE), 0, keep=True),
        Images("perturbation", pixels, captions(BEFORE), 0, 0.3, keep=True),
        Images("adversarial", pixels + 100, captions(AFTER, NORMS), 1, keep=True),
        Images("perturbation", pixels, captions(AFTER, NORMS), 1, 0.3, keep=True),
    )


def spec(model: Run, **attack: Any) -> dict[str, Any]:
    values = {"kind": "pgd", "norm": "linf", "eps": 0.3, **attack}
    return {"kind": "attack", "model": model.id, "attack": values, "samples": 6}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    model = trained(tmp_path)
    return make_run(tmp_path, "broken", spec(model), events=events())


class Engine:
    """Answers `embed` as the engine would."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any]] = []
        self.dropped: list[str] = []

    def ask(self, question: Any, answer: Any) -> None:
        self.asked.append((question, answer))

    def reply(self, **changes: Any) -> None:
        """Eight samples: the six that are shown, and two further ones."""
        labels, before, after = [*TRUE, 0, 1], [*BEFORE, 0, 1], [*AFTER, 2, 1]
        places = np.arange(32, dtype="<f4").reshape(2, 8, 2) ** 1.2
        known = np.full((2, 8, 3), 0.25, "<f2")
        pixels = np.arange(2 * 8 * 4, dtype=np.uint8).reshape(2, 8, 2, 2, 1)
        answer = {
            "method": "pca",
            "layer": "body.4",
            "width": 12,
            "shares": [0.5, 0.25],
            "classes": list(CLASSES),
            "count": 8,
            "of": 8,
            "labels": labels,
            "before": before,
            "after": after,
            "success": [o == "broken" for o in OUTCOMES] + [True, False],
            "norms": [*NORMS, 0.3, 0.3],
            "surrogate": [],
            "norm": "linf",
            "known": 3,
            "pixels": list(pixels.shape),
        }
        payload = places.tobytes() + known.tobytes() + pixels.tobytes()
        self.asked[-1][1]({**answer, **changes}, payload)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def view(qtbot: Any, run: Run, engine: Engine) -> AttackView:
    view = AttackView()
    view.ask, view.drop = engine.ask, engine.dropped.append
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    view.show_run(run.info(), load(run), "series:0")
    return view


def page(view: AttackView, title: str) -> None:
    names = ["", *(name for name, _ in view.comparison._pages)]
    view.comparison.tabs.set_current(names.index(title))


# --- what is known of a sample --------------------------------------------------------------------


def test_what_becomes_of_samples() -> None:
    clean, after = captions(BEFORE), captions(AFTER, NORMS)
    rules = Rules(eps=0.3)
    found = [sample_of(*both, 3, rules) for both in zip(clean, after)]
    assert tuple(sample.outcome for sample in found) == OUTCOMES
    marks = [set(sample.marks) for sample in found]
    assert marks == [{"border"}, {"border"}, {"inside"}, set(), {"border"}, {"inside"}]
    # Before it is touched a sample is neither; at the end, what was not changed has withstood.
    still = sample_of(clean[0], {**clean[0], "norm": 0.0}, 3, rules)
    assert still.outcome == "waiting"
    over = sample_of(clean[0], {**clean[0], "norm": 0.0}, 3, Rules(eps=0.3, over=True))
    assert over.outcome == "withstood"


def test_a_targeted_attack_must_reach_its_target() -> None:
    clean = {"label": 2, "prediction": 2, "correct": True}
    there = {"label": 2, "prediction": 0, "correct": False, "norm": 0.1}
    rules = Rules(targeted=True)
    assert sample_of(clean, there, 3, rules).outcome == "broken"  # 0 is the class after 2
    missed = sample_of(clean, {**there, "prediction": 1}, 3, rules)
    assert missed.outcome == "withstood"
    assert missed.marks == {"missed"}
    said = sample_of(clean, {**there, "prediction": 1, "success": True}, 3, Rules())
    assert said.outcome == "broken"


def test_answers_that_are_no_numbers_break_nothing() -> None:
    clean = {"label": 2, "prediction": 2, "correct": True}
    nan = sample_of(
        clean, {"label": 2, "prediction": -1, "correct": False, "norm": 0.1}, 3, Rules()
    )
    assert nan.outcome == "withstood"
    assert nan.marks == {"nan"}


# --- the bar --------------------------------------------------------------------------------------


def test_the_bar_is_reached_by_keyboard_and_cleared(qtbot: Any) -> None:
    bar = FilterBar()
    qtbot.addWidget(bar)
    bar.set_classes(CLASSES)
    bar.offer_marks(["border"])
    bar.show()
    bar.say_count(12, 100)
    assert bar.count.text() == "12 of 100 samples"
    assert not bar.clear_button.isVisible()
    for field in bar._fields.values():
        assert field.focusPolicy() & Qt.FocusPolicy.TabFocus
        assert field.accessibleName().startswith("Filter: ")
    told: list[Filter] = []
    bar.changed.connect(lambda: told.append(bar.filter))
    QTest.keyClick(bar._fields["label"], Qt.Key.Key_Down)
    QTest.keyClick(bar._fields["outcome"], Qt.Key.Key_Down)
    assert told == [Filter(label=0), Filter(label=0, outcome="broken")]
    assert bar.clear_button.isVisible()
    QTest.keyClick(bar.clear_button, Qt.Key.Key_Space)
    assert bar.filter == Filter()
    assert bar._fields["label"].currentText() == "Any class"
    i18n.set_language("zh")
    assert bar._fields["label"].currentText() == "任意类别"
    assert bar.count.text() == "12 / 100 个样本"


def test_a_choice_outlasts_another_run_but_not_other_classes(qtbot: Any) -> None:
    bar = FilterBar()
    qtbot.addWidget(bar)
    bar.set_classes(CLASSES)
    bar.set_filter(Filter(label=1, after=2, outcome="broken", mark="nan"))
    bar.set_classes(CLASSES)
    bar.offer_marks([])
    assert bar.filter == Filter(label=1, after=2, outcome="broken", mark="nan")
    assert bar._fields["mark"].currentText() == "Output is no number"
    bar.set_classes(("0", "1"))
    assert bar.filter == Filter(outcome="broken", mark="nan")


# --- linked ---------------------------------------------------------------------------------------


def shown(view: AttackView) -> list[list[int]]:
    """The samples in the mosaics, as they are arranged."""
    cards = (view.comparison.clean, view.comparison.adversarial, view.comparison.perturbation)
    return [list(card.view.order) for card in cards]


def test_everything_shows_the_same_samples(view: AttackView, engine: Engine) -> None:
    comparison, atlas = view.comparison, view.atlas
    page(view, "Embedding")
    atlas.embedding.button.click()
    engine.reply()
    page(view, "Table")
    assert shown(view) == [list(range(6))] * 3
    assert comparison.filters.count.text() == "6 samples shown"
    for chosen, kept, further in (
        (Filter(label=1), [2, 3], [7]),
        (Filter(after=1), [0, 5], [7]),
        (Filter(outcome="broken"), [0, 2, 5], [6]),
        (Filter(outcome="wrong"), [3], []),
        (Filter(mark="border"), [0, 1, 4], [6, 7]),
        (Filter(label=0, outcome="withstood", mark="border"), [1], []),
    ):
        comparison.filters.set_filter(chosen)
        assert shown(view) == [kept] * 3
        assert [row[0] - 1 for row in atlas.table.model.rows] == kept
        assert list(atlas.embedding.plane.order) == [*kept, *further]
        assert comparison.filters.count.text() == f"{len(kept)} of 6 samples"
        assert f"{len(kept + further)} of 8 samples" in atlas.embedding.note.text()
        assert comparison.selected in kept
    assert atlas.table.model.rows == ((2, "cat", "cat", "cat", "Withstood", 0.3),)
    assert comparison.adversarial.note.text() != ""
    comparison.filters.clear()
    assert shown(view) == [list(range(6))] * 3


def test_a_mosaic_draws_and_finds_the_pictures_that_are_kept(view: AttackView) -> None:
    comparison = view.comparison
    comparison.filters.set_filter(Filter(outcome="broken"))
    tiles = comparison.adversarial.view
    assert [tiles.index_at(tiles.tile(k).center()) for k in (0, 2, 5)] == [0, 2, 5]
    image = tiles.picture().toImage()
    for k in (0, 2, 5):
        color = image.pixelColor((tiles.tile(k).topLeft() + QPointF(3, 3)).toPoint())
        assert color.red() == 100 + k
    comparison.select(2)
    QTest.keyClick(tiles, Qt.Key.Key_Right)
    assert comparison.selected == 5
    comparison.step(-1)
    assert comparison.selected == 2
    assert comparison.adversarial.wrong == 3


def test_nothing_left_is_said_in_words(view: AttackView, engine: Engine) -> None:
    view.atlas.embedding.button.click()
    engine.reply()
    page(view, "Table")
    view.comparison.filters.set_filter(Filter(label=0, after=0, outcome="broken"))
    words = "No sample passes the filters. Choose others, or clear them."
    cards = (view.comparison.clean, view.atlas.table, view.atlas.embedding)
    assert [card._empty.text() for card in cards] == [words] * 3
    view.comparison.filters.clear()
    assert not any(card._empty.isVisibleTo(card) for card in cards)


def test_a_filter_survives_news_and_another_run(view: AttackView, run: Run, tmp_path: Path) -> None:
    comparison = view.comparison
    comparison.filters.set_filter(Filter(outcome="broken"))
    pixels = pictures()
    now = captions((1, 1, 0, 2, 2, 1), (0.3,) * 6)
    view.show_images(Images("adversarial", pixels, now, 2), [])
    assert shown(view)[1] == [0, 1, 2, 5]
    # The replay shows the same samples throughout, not those that were broken by then.
    comparison.magnifier.replay.slider.setValue(0)
    assert shown(view) == [[0, 1, 2, 5]] * 3
    view.show_run(run.info(), load(run), "series:0")
    assert shown(view) == [[0, 2, 5]] * 3
    comparison.filters.set_filter(Filter(label=2, outcome="broken"))
    other = attacked(tmp_path, trained(tmp_path, "other"))
    view.show_run(other.info(), load(other), "series:1")
    assert comparison.filters.filter == Filter(outcome="broken")
    view.show_nothing()
    assert not comparison.filters.isVisibleTo(comparison)


def test_the_rules_are_those_of_the_run(run: Run) -> None:
    info = run.info()
    assert rules_of(info) == Rules(targeted=False, eps=0.3, over=True)

    def of(attack: dict[str, Any], status: str) -> Rules:
        return rules_of(RunInfo("i", "n", "attack", status, "", {"attack": attack}))  # type: ignore[arg-type]

    assert of({"eps": None, "targeted": True}, "running") == Rules(True, None, False)


def test_the_table_selects_and_follows(view: AttackView) -> None:
    page(view, "Table")
    table = view.atlas.table.table
    view.comparison.select(4)
    assert table.currentIndex().row() == 4
    table.selectRow(2)
    assert view.comparison.selected == 2
    view.comparison.filters.set_filter(Filter(outcome="broken"))
    table.selectRow(2)
    assert view.comparison.selected == 5


# --- the embedding --------------------------------------------------------------------------------


def test_an_embedding_is_asked_for_shown_and_given_up(
    view: AttackView, engine: Engine, run: Run
) -> None:
    page(view, "Embedding")
    card = view.atlas.embedding
    card.methods.set_current(1)
    card.spaces.set_current(1)
    card.button.click()
    question = {"kind": "embed", "run": run.id, "space": "pixels", "method": "tsne"}
    assert engine.asked[-1][0] == question
    assert (card.button.text(), card._empty.text()) == ("Stop", "Being computed…")
    card.button.click()
    assert engine.dropped == ["embed"]
    engine.reply()  # too late
    assert card.plane.found is None
    assert card.button.text() == "Compute"
    card.button.click()
    engine.asked[-1][1]({"error": "there are 2 points; a plane needs 3 or more"}, b"")
    assert card._warning.words.text() == "There are 2 points; a plane needs 3 or more"
    card.button.click()
    engine.reply()
    assert card._warning.words.text() == ""
    assert "12 inputs of body.4" in card.note.text()
    card.button.click()
    view.show_nothing()
    assert engine.dropped == ["embed", "embed"]
    assert not card.button.isEnabled()


def test_a_click_opens_the_magnifier_also_of_samples_that_the_mosaics_lack(
    view: AttackView, engine: Engine
) -> None:
    page(view, "Embedding")
    view.atlas.embedding.button.click()
    engine.reply()
    plane = view.atlas.embedding.plane
    plane.resize(600, 400)
    places = plane._on_screen(plane._area(QRectF(plane.rect())))
    for index in (3, 6):
        at = QPointF(*places[0, index]).toPoint()
        QTest.mouseClick(plane, Qt.MouseButton.LeftButton, pos=at)
        assert view.comparison.selected == index
        assert plane.selected == index
    magnifier = view.comparison.magnifier
    assert magnifier.note.text() == "L∞ 0.3 · #7"
    text, correct = magnifier.portraits._texts[1]
    assert text.startswith("owl · 25")
    assert correct is False
    plane.setFocus()
    QTest.keyClick(plane, Qt.Key.Key_Right)
    assert plane.hovered == 7
    QTest.keyClick(plane, Qt.Key.Key_Return)
    assert view.comparison.selected == 7
    assert plane.words_of(6) == ["#7 · true class cat", "cat → owl · Was broken", "L∞ 0.300"]
    assert plane.words_of(3) == ["#4 · true class dog", "owl · Was wrong already"]


def test_zoom_and_back(view: AttackView, engine: Engine) -> None:
    view.atlas.embedding.button.click()
    engine.reply()
    plane = view.atlas.embedding.plane
    plane.resize(600, 400)
    whole = QRectF(plane._bounds())
    assert all(whole.contains(QPointF(*p)) for p in plane.found.places.reshape(-1, 2).tolist())
    QTest.keyClick(plane, Qt.Key.Key_Plus)
    assert plane._bounds().width() == pytest.approx(0.8 * whole.width())
    assert plane._bounds().center().x() == pytest.approx(whole.center().x())
    QTest.keyClick(plane, Qt.Key.Key_Home)
    assert plane._bounds() == whole


def test_exports(view: AttackView, engine: Engine, tmp_path: Path) -> None:
    card = view.atlas.embedding
    card.button.click()
    engine.reply()
    view.comparison.filters.set_filter(Filter(outcome="broken"))
    card.export(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["1", "3", "6", "7"]
    places = card.plane.found.places
    for row in rows:
        k = int(row["sample"]) - 1
        ends = [float(row[n]) for n in ("clean_x", "clean_y", "adversarial_x", "adversarial_y")]
        assert ends == pytest.approx(places[:, k].ravel().tolist())
        assert row["outcome"] == "broken"
    card.export(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "Component 1: 50.0" in text
    card.export(tmp_path / "a.png")
    assert QImage(str(tmp_path / "a.png")).width() >= 960
    with pytest.raises(OSError, match="missing"):
        card.export(tmp_path / "no" / "a.png")
    with pytest.raises(ValueError, match="expected .png"):
        card.export(tmp_path / "a.pdf")


def test_an_answer_is_read(qtbot: Any, engine: Engine) -> None:
    found: list[Any] = []
    engine.ask({}, lambda answer, payload: found.append(read_answer(answer, payload, Rules())))
    engine.reply(surrogate=[True] * 8, of=20, shares=[0.0, 0.0], method="tsne")
    (embedding,) = found
    assert [sample.outcome for sample in embedding.samples[:6]] == list(OUTCOMES)
    assert all("surrogate" in sample.marks for sample in embedding.samples)
    clean, adversarial = embedding.pair(2)
    assert adversarial[0].ravel().tolist() == [40, 41, 42, 43]
    assert adversarial[1]["probabilities"] == [0.25] * 3
    assert clean[1]["prediction"] == 1
    assert embedding.pair(8) is None
    card = EmbeddingCard()
    qtbot.addWidget(card)
    card.resize(500, 400)
    card.show_embedding(embedding)
    assert card.note.text().startswith("8 of the first 8 samples")
    card.grab()
    card._copy.trigger()
    copied = QGuiApplication.clipboard().image()
    assert copied.size() == card.picture_size() * 2
    assert copied == card.picture() != QImage(copied.size(), copied.format())


def test_classes_have_colours_of_their_own() -> None:
    for mode in ("light", "dark"):
        theme.manager.set_mode(mode)
        assert len({class_color(k).name() for k in range(16)}) == 16


def test_a_comparison_without_samples_has_no_filters(qtbot: Any) -> None:
    comparison = Comparison()
    qtbot.addWidget(comparison)
    comparison.show()
    assert not comparison.filters.isVisible()


def test_an_evaluation_is_filtered_and_drawn_too(
    qtbot: Any, tmp_path: Path, engine: Engine
) -> None:
    model = trained(tmp_path)
    clean, first, last = events()[1], events()[2], events()[4]
    by = tuple(
        {**c, "attack": "pgd-2"} if o == "broken" else c for c, o in zip(last.captions, OUTCOMES)
    )
    attacks = [{"kind": "pgd", "norm": "linf", "eps": 0.3}]
    run = make_run(
        tmp_path,
        "judged",
        {"kind": "evaluate", "model": model.id, "attacks": attacks},
        events=(events()[0], clean, first, Images("adversarial", last.pixels, by, 1, keep=True)),
    )
    view = EvaluateView()
    view.ask = engine.ask
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    view.show_run(run.info(), load(run), "series:0")
    comparison = view.stage.during
    marks = comparison.filters._fields["mark"]
    assert [marks.itemText(k) for k in range(marks.count())] == ["Any mark", "Broken by PGD 2"]
    marks.setCurrentIndex(1)
    assert comparison.kept == [0, 2, 5]
    view.atlas.embedding.button.click()
    assert engine.asked[-1][0]["run"] == run.id
    engine.reply()
    comparison.filters.set_filter(Filter(outcome="broken"))
    assert list(view.atlas.embedding.plane.order) == [0, 2, 5, 6]
    asked: list[str] = []
    view.save_set = asked.append
    comparison._export.trigger()
    assert asked == [run.id]
