"""The playground: what a run of a generator against a critic shows, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine.errors import BadInput
from engine.events import Array, Progress, Scalars, drain
from engine.generative.health import COLUMNS
from engine.generative.spec.gan import Gan
from engine.questions import prepare
from engine.store import Run, Workspace
from engine.task import live_fields, parse_task
from tests.workbench.played import (
    COLLAPSE,
    FIRST_SEED,
    HEALTH,
    KEPT,
    MODES,
    SPEC,
    health,
    image_events,
    played,
)
from tests.workbench.windows import Open, open_window
from workbench import i18n
from workbench.mailbox import News
from workbench.panels import detail_of
from workbench.panels.details import called, value_text
from workbench.panels.gan_view import GanView
from workbench.panels.gan_words import (
    FIELDS,
    TROUBLES,
    Proposal,
    changed,
    evidence_text,
    proposal_of,
)
from workbench.panels.live import Hands
from workbench.runs.record import load
from workbench.views.scene import Scene
from workbench.words import note_text

__all__ = ["open_window"]


@pytest.fixture
def view(qtbot: QtBot) -> GanView:
    view = GanView()
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    return view


def show(view: GanView, run: Run) -> None:
    view.show_run(run.info(), load(run), "series:0")


def told(*events: Any) -> News:
    news = News()
    for event in events:
        news.add(event)
    return news


def tick(view: GanView, times: int = 8) -> None:
    for _ in range(times):
        view.draw()


# --- what is shown ------------------------------------------------------------------------------


def test_a_run_in_the_plane_shows_points_modes_and_figures(view: GanView, tmp_path: Path):
    show(view, played(tmp_path))
    scene = view.scene.scene
    assert scene is not None
    assert scene.extent == (-1.6, 1.6, -1.6, 1.6)
    assert scene.generated is not None
    assert len(scene.generated) == 512
    assert scene.surface is not None
    assert scene.step == KEPT[-1]
    assert view.scene.value.text() == f"6/{MODES}"
    assert view.modes.note.text() == "1 without a sample"
    assert view.scene.isVisible()
    assert view.modes.isVisible()
    assert not view.samples.isVisible()
    assert not view.seeds.isVisible()


def test_one_can_go_back_to_any_moment_and_sees_no_critic_of_another(view: GanView, tmp_path: Path):
    run = played(tmp_path)
    show(view, run)
    assert view.timeline.isVisibleTo(view)
    view.timeline.slider.setValue(1)
    tick(view)
    scene = view.scene.scene
    assert scene is not None
    assert scene.step == KEPT[1]
    kept = {each.step: each for each in load(run).courses["generated"]}
    assert np.array_equal(scene.generated, kept[KEPT[1]].values[0])
    assert scene.surface is None
    view.timeline.newest.click()
    tick(view)
    assert view.scene.scene is not None
    assert view.scene.scene.surface is not None


def test_what_is_said_while_it_runs_is_drawn_and_kept_to_go_back_to(view: GanView, tmp_path: Path):
    run = played(tmp_path, status="running")
    show(view, run)
    points = np.full((1, 32, 2), 0.5, np.float32)
    view.news(told(Array("generated", points, 900, keep=True)))
    view.news(told(Array("generated", points * 3, 920, keep=True)))
    view.news(told(Array("generated", points * 2, 950)))
    tick(view)
    assert view.scene.scene is not None
    assert np.array_equal(view.scene.scene.generated, points[0] * 2)
    view.timeline.go_to(900)
    tick(view)
    assert np.array_equal(view.scene.scene.generated, points[0])


def test_several_seeds_stand_side_by_side_and_one_is_large(
    view: GanView, tmp_path: Path, qtbot: QtBot
):
    show(view, played(tmp_path, seeds=4, troubles=((FIRST_SEED + 2, *COLLAPSE[1:]),)))
    smalls = view.seeds.drawing.seeds
    assert [small.seed for small in smalls] == [5, 6, 7, 8]
    assert [small.trouble for small in smalls] == [False, False, True, False]
    assert smalls[0].words.startswith("6 modes")
    assert view.scene.note.text().startswith("seed 5")
    before = view.scene.scene
    qtbot.keyClick(view.seeds.drawing, Qt.Key.Key_Right)
    assert view.seed == 1
    assert view.scene.note.text().startswith("seed 6")
    assert before is not None
    assert view.scene.scene is not None
    assert not np.array_equal(before.generated, view.scene.scene.generated)


def test_curves_are_those_of_the_seed_that_is_large(view: GanView, tmp_path: Path):
    show(view, played(tmp_path, seeds=3))
    first = {row[0]: row for row in view.curves["loss"].rows()}
    view.choose_seed(2)
    third = {row[0]: row for row in view.curves["loss"].rows()}
    assert first.keys() == third.keys()
    last = list(third.values())[-1], list(first.values())[-1]
    # Of seed k every loss is k higher (see `played`).
    assert [float(a) - float(b) for a, b in zip(last[0][1:], last[1][1:])] == pytest.approx([2, 2])


def test_a_run_drawn_anew_keeps_the_seed_that_is_looked_at(view: GanView, tmp_path: Path):
    run = played(tmp_path, seeds=3)
    show(view, run)
    view.choose_seed(2)
    show(view, run)
    assert view.seed == 2
    assert view.seeds.drawing.chosen == 2


def test_images_are_shown_over_time_with_their_neighbours(view: GanView, tmp_path: Path):
    show(view, played(tmp_path, images=True))
    assert view.samples.isVisible()
    assert view.neighbours.isVisible()
    assert not view.scene.isVisible()
    assert len(view.samples.view.pixels) == 16
    newest = view.samples.view.pixels.copy()
    view.samples.timeline.slider.setValue(0)
    assert view.samples.view.pixels.mean() < newest.mean()
    assert np.array_equal(view.neighbours.view.pixels, 255 - newest)
    view.samples.view.link.select(3)  # what is selected in one is in the other
    assert view.neighbours.view.link.selected == 3


def test_of_several_seeds_the_samples_of_one_are_shown(view: GanView, tmp_path: Path):
    show(view, played(tmp_path, images=True, seeds=2))
    every = image_events(2)[3].pixels
    assert np.array_equal(view.samples.view.pixels, every[:16])
    view.choose_seed(1)
    assert np.array_equal(view.samples.view.pixels, every[16:])
    assert np.array_equal(view.neighbours.view.pixels, 255 - every[16:])
    assert view.seeds.drawing.seeds[1].pixels is not None


def test_the_form_says_whether_points_or_images_will_be_shown(view: GanView, tmp_path: Path):
    workspace = Workspace(tmp_path)

    def ask(question: Mapping[str, Any], answer: Callable[[dict[str, Any], bytes], None]) -> None:
        try:
            answer(*drain(prepare(question, workspace, None)))
        except BadInput as error:
            answer({"error": {"kind": "BadInput", "text": str(error)}}, b"")

    assert not view.transport.pauses.isEnabled()
    view.preview({"data": {"kind": "digits"}}, ask)
    assert view.samples.isVisible()
    view.preview({"data": {"kind": "ring", "modes": 4, "sigma": 0.01}}, ask)
    assert view.scene.isVisible()
    assert not view.timeline.isVisible()
    assert view.scene.scene is not None
    assert view.scene.scene.real is not None
    assert np.hypot(*view.scene.scene.real.T) == pytest.approx(1.0, abs=0.06)
    view.preview({"data": {"kind": "drawn", "points": [[0, 0], ["x"]]}}, ask)
    assert view.scene.scene is None


def test_a_preview_that_comes_late_is_not_drawn_over_a_run(view: GanView, tmp_path: Path):
    answers: list[Callable[[dict[str, Any], bytes], None]] = []
    view.preview({"data": {"kind": "ring"}}, lambda question, answer: answers.append(answer))
    show(view, played(tmp_path))
    before = view.scene.scene
    answers[0]({"extent": [-9.0, 9.0, -9.0, 9.0]}, np.zeros((3, 2), np.float32).tobytes())
    assert view.scene.scene is before


def test_it_speaks_chinese(view: GanView, tmp_path: Path):
    show(view, played(tmp_path, troubles=(COLLAPSE,)))
    i18n.set_language("zh")
    words = " ".join(label.text() for label in view.health.findChildren(QPushButton))
    assert "试一试" in words
    assert view.transport.critic.text() == "评判器一步"
    note = "seed 5: collapse (modes_reached=1, modes=8); try r1=0.1 or r2=0.1"
    assert note_text("instance_noise set to 0.5").endswith("0.5")
    assert not note_text("instance_noise set to 0.5").startswith("instance")
    assert note_text(note).startswith("种子 5：模式崩溃（8 个模式中到达了 1 个）；可尝试 R1")


# --- what goes wrong ----------------------------------------------------------------------------


def test_columns_and_troubles_are_the_engines():
    assert HEALTH == COLUMNS
    named = {name for name in FIELDS if name in live_fields(parse_task({"kind": "gan"}))}
    assert named == set(live_fields(parse_task({"kind": "gan"})))


def test_a_collapse_is_named_with_its_evidence_and_two_things_to_try(view: GanView, tmp_path: Path):
    show(view, played(tmp_path, troubles=(COLLAPSE,)))
    texts = [label.text() for label in view.health.findChildren(QLabel)]
    assert "Mode collapse" in texts
    assert any("1 of 8 modes are reached, diversity of the samples 0.04." in t for t in texts)
    assert "Instance noise: 0.2" in texts
    assert "Loss: Relativistic" in texts
    assert [button.text() for button in view.health.buttons] == ["Try it", "Try it"]
    assert view.health.buttons[0].accessibleName() == "Try it: Instance noise: 0.2"


def test_samples_out_of_sight_are_said_to_be(view: GanView, tmp_path: Path):
    scattered = (FIRST_SEED, "exploding", "scattered=5e+07", "generator_lr=0.01", "critic_lr=0.01")
    show(view, played(tmp_path, status="running", troubles=(scattered,)))
    texts = [label.text() for label in view.health.findChildren(QLabel)]
    assert "Divergence" in texts
    assert any("The samples have left the picture: they are 5e+07 times as far" in t for t in texts)
    assert "outside" not in view.scene.note.text()
    points = np.zeros((1, 32, 2), np.float32)
    for count, words in (
        (32, "all samples are outside of the picture"),
        (8, "of the samples are outside of the picture"),
        (0, "of high quality"),
    ):
        points[:, :count] = 1e6
        points[:, count:] = 0.5
        view.news(told(Array("generated", points.copy(), 950 + count)))
        tick(view)
        assert words in view.scene.note.text()
    assert Scene((0.0, 1.0, 0.0, 1.0), generated=np.array([[0.5, np.nan]], np.float32)).outside == 1


def test_the_troubles_of_a_summary_have_names():
    assert called("troubles.collapse") == "Went wrong, seeds: Mode collapse"
    assert value_text("troubles.collapse", [5, 7]) == "5, 7"


def test_when_all_is_well_it_says_so_in_a_line(view: GanView, tmp_path: Path):
    run = played(tmp_path, status="running", troubles=(COLLAPSE,))
    show(view, run)
    assert len(view.health.buttons) == 2
    view.news(told(health()))
    tick(view)
    assert view.health.note.text() == "At the last look nothing was wrong."
    assert not view.health.buttons


def test_trying_sets_a_live_value_of_the_run_that_goes(view: GanView, tmp_path: Path):
    done: list[Any] = []
    view.hands = Hands(control=lambda name, value: done.append((name, value)))
    view.set_up = lambda place, values: done.append((place, values))
    run = played(tmp_path, status="running", troubles=(COLLAPSE,))
    show(view, run)
    view.state_changed(run.id, False)
    view.health.buttons[0].click()
    assert done == [("instance_noise", 0.2)]
    view.health.buttons[1].click()  # another loss needs another run
    assert done[1][0] == "gan"
    assert done[1][1]["loss"] == {"kind": "relativistic"}
    assert "kind" not in done[1][1]


def test_trying_after_the_run_opens_the_form_with_the_value_in_its_place(
    view: GanView, tmp_path: Path
):
    done: list[Any] = []
    view.set_up = lambda place, values: done.append(values)
    show(view, played(tmp_path, troubles=(COLLAPSE,)))
    view.health.buttons[0].click()
    assert done[0]["steadying"] == {"instance_noise": 0.2}
    assert parse_task({"kind": "gan", **done[0]}).steadying.instance_noise == 0.2


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("instance_noise=0.2", "instance_noise", 0.2),
        ("critic_steps=4", "critic_steps", 4),
        ("loss.kind=relativistic", "loss.kind", "relativistic"),
        (
            "steadying.augment=translation,cutout,colour",
            "steadying.augment",
            ["translation", "cutout", "colour"],
        ),
        ("buy more data", "", None),
    ],
)
def test_proposals_are_read(text: str, path: str, value: Any):
    found = proposal_of(text)
    assert (found.path, found.value) == (path, value)
    if path:
        spec = parse_task(changed({**SPEC}, path, value))
        assert isinstance(spec, Gan)


def test_a_live_value_is_a_number():
    assert proposal_of("r1=0.1").live == ("r1", 0.1)
    assert proposal_of("rates.clip=1").live == ("clip", 1.0)
    assert proposal_of("loss.kind=hinge").live is None
    assert Proposal("rest").live is None


def test_evidence_is_said_in_words():
    assert evidence_text("") == ""
    assert evidence_text("critic_loss=0.01, generator_gradient=2e-05, before=0.4") == (
        "Loss of the critic 0.01, gradient norm of the generator 2e-05, 0.4 before."
    )
    assert evidence_text("network=critic, gradient_norm=3e+03, before=2") == (
        "In the critic, gradient norm 3000, 2 before."
    )
    assert evidence_text("something else") == "something else"
    assert set(TROUBLES) == {"collapse", "critic_wins", "oscillation", "exploding", "memorising"}


# --- playing ------------------------------------------------------------------------------------


class Driven:
    """What was asked of the run, and a run that answers half steps by turns."""

    def __init__(self, view: GanView, halves: tuple[str, ...]) -> None:
        self.view, self.halves, self.done = view, list(halves), 0
        self.asked: list[Any] = []
        view.hands = replace(
            Hands(),
            step=self.step,
            pause=lambda on: self.asked.append(("pause", on)),
            pace=lambda pace: self.asked.append(("pace", pace)),
            again=lambda run, seed: self.asked.append(("again", run, seed)),
            attack=lambda pixels, name: self.asked.append((pixels, name)),
        )

    def step(self) -> None:
        """A half step, said as the engine says it: its progress comes with the next."""
        side = self.halves[self.done % len(self.halves)]
        self.done += 1
        number = 1000 + self.done // len(self.halves)
        self.view.news(
            told(Progress(number, 4000, "iterations"), Scalars(number, {f"{side}/loss": 1.0}))
        )


def test_a_generator_step_goes_through_the_critics(view: GanView, tmp_path: Path):
    run = played(tmp_path, status="running")
    driven = Driven(view, ("critic", "critic", "generator"))
    show(view, run)
    view.state_changed(run.id, True)
    view.transport.generator.click()
    tick(view, 30)
    assert driven.done == 3
    assert view.transport.turn.text() == "The generator has moved."
    view.transport.critic.click()
    tick(view, 30)
    assert driven.done == 4
    assert view.transport.turn.text() == "The critic has moved."


def test_a_side_that_is_frozen_is_not_waited_for_without_end(view: GanView, tmp_path: Path):
    run = played(tmp_path, status="running")
    driven = Driven(view, ("critic",))
    show(view, run)
    view.state_changed(run.id, True)
    view.transport.generator.click()
    tick(view, 3000)
    assert driven.done <= 257


def test_the_strip_drives_the_run_that_is_shown(view: GanView, tmp_path: Path):
    run = played(tmp_path, status="running")
    driven = Driven(view, ("critic", "generator"))
    show(view, run)
    strip = view.transport
    assert not strip.pauses.isEnabled()  # another run is under way
    view.state_changed(run.id, False)
    strip.pauses.click()
    view.state_changed(run.id, True)
    assert strip.pauses.text() == "Continue"
    strip.pauses.click()
    strip.paces.setCurrentIndex(2)
    strip.paces.activated.emit(2)
    strip.same.click()
    strip.other.click()
    assert driven.asked[:4] == [
        ("pause", True),
        ("pause", False),
        ("pace", 10.0),
        ("again", run.id, None),
    ]
    assert isinstance(driven.asked[4][2], int)
    view.state_changed(None, False)
    assert not strip.pauses.isEnabled()
    assert strip.paces.currentIndex() == 0
    assert strip.same.isEnabled()


def test_a_sample_is_sent_to_be_attacked(view: GanView, tmp_path: Path):
    driven = Driven(view, ("critic",))
    show(view, played(tmp_path, images=True, seeds=2))
    view.choose_seed(1)
    view.samples.view.link.select(5)
    view.samples.tile_menu().actions()[0].trigger()
    pixels, name = driven.asked[0]
    assert np.array_equal(pixels, image_events(2)[3].pixels[16 + 5])
    assert name == "ring"


def test_when_it_is_over_the_generator_is_asked_between_four_latents(view: GanView, tmp_path: Path):
    asked: list[dict[str, Any]] = []

    def ask(question: Any, answer: Any) -> None:
        asked.append(dict(question))
        count = len(question["latents"])
        answer({"pixels": [count, 8, 8, 1]}, bytes(count * 64))

    view.ask = ask
    run = played(
        tmp_path,
        images=True,
        latent={"size": 3, "codes": 2, "code_scale": 8.0},
        conditional="projection",
    )
    run.set_state(artifacts=[{"name": "model", "path": "model.safetensors"}])
    show(view, run)
    first = asked[0]
    assert first["kind"] == "generate"
    assert first["model"] == run.id
    assert len(first["latents"]) == 50
    assert {len(row) for row in first["latents"]} == {5}
    corner = first["latents"][0]
    assert sorted(corner[3:]) == [0.0, 8.0]  # one code, one-hot
    assert first["labels"] == [0] * 50
    assert not view.latents.square.is_empty
    view.latents.square.place(view.latents.square.at * 0.5)
    assert len(asked[-1]["latents"]) == 1
    view.latents.again.click()
    assert asked[-1]["latents"][0] != corner
    show(view, run)  # drawn anew, as when its name changed: it is not asked again
    assert len(asked) == 3


def test_the_newest_place_is_asked_next_and_no_two_questions_are_open(
    view: GanView, tmp_path: Path
):
    waiting: list[Any] = []
    view.ask = lambda question, answer: waiting.append((question, answer))
    run = played(tmp_path, images=True)
    run.set_state(artifacts=[{"name": "model", "path": "model.safetensors"}])
    show(view, run)
    square = view.latents.square
    question, answer = waiting.pop()
    answer({"pixels": [50, 8, 8, 1]}, bytes(50 * 64))
    for step in range(1, 6):
        square.place(square.at * (1 - step / 50))
    assert len(waiting) == 1
    _, answer = waiting.pop()
    answer({"pixels": [1, 8, 8, 1]}, bytes(64))
    assert len(waiting) == 1  # the last of the five, and none of those between
    question, answer = waiting.pop()
    assert question["latents"] == view.latents.latents([square.at.x()], [square.at.y()])
    answer({"error": "it is gone"}, b"")
    assert "it is gone" in view.latents._empty.text()
    view.show_nothing()
    assert not waiting


def test_a_generator_is_no_classifier_and_can_be_exported(open_window: Open, tmp_path: Path):
    from workbench.runs.book import has_classifier, has_generator, has_model

    run = played(tmp_path / "workspace", images=True)
    window = open_window(tmp_path / "workspace", engine=False)
    info = run.info()
    assert has_model(info)
    assert has_generator(info)
    assert not has_classifier(info)
    assert window.do.exportable() == run.id
    assert window.do.classifier() is None
    window.show_run(run.id)
    assert not window.tester.isVisible()
    window.go("attack")
    assert window.inspector.form is not None
    assert window.inspector.form.values().get("model") != run.id
    window.go("export")
    assert window.inspector.form.values()["model"] == run.id


def test_its_place_is_on_the_rail_with_a_few_words_about_each_run(
    open_window: Open, tmp_path: Path
):
    run = played(tmp_path / "workspace", seeds=8, conditional="projection")
    window = open_window(tmp_path / "workspace", engine=False)
    assert "gan" in window.rail.places
    assert window.panels["gan"].title == "Playground"
    assert detail_of("gan", run.info().spec) == "Ring · Non saturating · conditional · 8 seeds"
    window.show_run(run.id)
    assert isinstance(window.view("gan"), GanView)


def test_beginning_again_starts_the_same_with_the_seed(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = played(tmp_path / "workspace")
    window = open_window(tmp_path / "workspace", engine=False)
    started: list[Any] = []
    monkeypatch.setattr(window.session, "start", lambda tasks, **more: started.extend(tasks))
    window.do.begin_again(run.id)
    window.do.begin_again(run.id, 77)
    assert [task["seed"] for task in started] == [FIRST_SEED, 77]
    assert all(task["iterations"] == SPEC["iterations"] for task in started)
    assert len({task["name"] for task in started}) == 1 or started[0]["name"] != run.info().name


def test_a_collapse_made_on_purpose_is_named_and_repaired_by_the_proposal(
    open_window: Open, qtbot: QtBot
):
    """With the real engine: minimax on the ring loses modes; the proposed value is set while it
    runs, and its change is in the run."""
    window = open_window()
    qtbot.waitUntil(lambda: bool(window.session.device), timeout=60_000)
    broken = {
        "kind": "gan",
        "loss": {"kind": "minimax"},
        "rates": {"generator_lr": 0.02, "critic_lr": 0.0002},
        "iterations": 100_000,
        "bench": {"device": "cpu", "threads": 1},
    }
    window.do._start([{"name": "broken", **broken}])
    view = window.view("gan")
    assert isinstance(view, GanView)
    qtbot.waitUntil(lambda: view.info is not None and view.game.is_plane, timeout=60_000)
    qtbot.waitUntil(lambda: "arrows" in view.game.arrays, timeout=60_000)
    qtbot.waitUntil(lambda: view.scene.scene is not None, timeout=20_000)
    window.do.pause(True)
    qtbot.waitUntil(lambda: window.session.paused, timeout=20_000)
    view.transport.generator.click()
    said = lambda: view.transport.turn.text()  # noqa: E731
    qtbot.waitUntil(lambda: said() == "The generator has moved.", timeout=20_000)
    view.transport.critic.click()
    qtbot.waitUntil(lambda: said() == "The critic has moved.", timeout=20_000)
    view.news(told(health((0, *COLLAPSE[1:]))))
    tick(view)
    view.health.buttons[0].click()
    control = next(c for c in window.inspector.live_controls() if c.name == "instance_noise")
    assert control.field.text() == "0.2"
    run = window.shown
    qtbot.waitUntil(lambda: bool(window.session.changes(run)), timeout=20_000)
    (change,) = window.session.changes(run)
    assert (change.name, change.value) == ("instance_noise", 0.2)
    view.transport.paces.activated.emit(2)
    window.do.pause(False)
    qtbot.waitUntil(lambda: not window.session.paused, timeout=20_000)
    window.do.stop()
    qtbot.waitUntil(lambda: window.session.current is None, timeout=60_000)
    assert window.info(run).status == "cancelled"


def test_a_sample_becomes_the_image_of_ones_own(qtbot: QtBot):
    """One of the model's own size is taken as it is; another the engine makes one of."""
    from workbench.panels.own_image import OwnImage

    asked: list[dict[str, Any]] = []
    own = OwnImage()
    qtbot.addWidget(own)
    own.ask = lambda question, answer: asked.append(dict(question))
    own.set_model("m", (1, 8, 8), ("a", "b"))
    sample = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    own.bring(sample, "gan-mnist")
    assert np.array_equal(own.pad.pixels, sample)
    assert own.about.text() == "a sample of gan-mnist · 8 × 8 px"
    assert not asked
    own.bring(np.zeros((12, 12, 1), np.uint8), "gan-mnist")
    assert asked[0]["kind"] == "fit_image"
    assert asked[0]["model"] == "m"


def test_sending_to_attack_opens_the_place_for_it(open_window: Open, tmp_path: Path):
    from tests.workbench.stored import trained

    run = trained(tmp_path / "workspace")
    played(tmp_path / "workspace", images=True)
    window = open_window(tmp_path / "workspace", engine=False)
    window.do.hands(lambda name, value: None).attack(np.full((8, 8, 1), 9, np.uint8), "digits")
    assert window.own is not None
    assert window.place == "own"
    assert window.own.chosen == run.id  # the generator itself says no classes
    window.own._meeting = run.id
    window.own._met(run.id, {"shape": [1, 8, 8], "classes": ["a", "b"]})
    assert window.own.image.pad.pixels is not None
    assert window.own.image.pad.pixels.max() == 9
