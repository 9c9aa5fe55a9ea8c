"""How autoencoders and AdvGANs are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from engine.events import Array, Images, Scalars
from engine.store import Run
from tests.workbench.stored import make_run
from workbench.mailbox import News
from workbench.panels import detail_of
from workbench.panels.advgan_view import AdvGanView
from workbench.panels.autoencoder_view import AutoencoderView
from workbench.panels.live import Hands
from workbench.runs.record import load

CODER = {
    "kind": "autoencoder",
    "seed": 1,
    "data": {"kind": "digits"},
    "code": {"kind": "adversarial"},
    "latent": 2,
}
KEPT = (10, 20, 30)


def coded(workspace: Path, **spec: Any) -> Run:
    """An autoencoder that is over: 40 codes of two classes, 6 pairs."""
    random = np.random.default_rng(0)
    said: list[Any] = [Array("prior", random.normal(0, 2, (50, 2)).astype(np.float32))]
    labels = {"labels": [k % 2 for k in range(40)], "classes": ["cat", "dog"]}
    for step in KEPT:
        codes = random.normal(0, step, (40, 2)).astype(np.float32)
        said.append(Array("latents", codes, step, keep=True, about=labels))
        pixels = np.zeros((12, 8, 8, 1), np.uint8)
        pixels[0::2] = 200
        pixels[1::2] = step
        captions = tuple({"label": "cat", "reconstruction": k % 2 == 1} for k in range(12))
        said.append(Images("reconstructions", pixels, captions, step, keep=True))
        plane = np.full((1, 48, 48, 1), step, np.uint8)
        said.append(Images("plane", plane, ({"extent": [-2, 2, -2, 2]},), step, keep=True))
        said.append(Scalars(step, {"train/reconstruction": 1 / step, "critic/style": 0.7}))
    return make_run(workspace, "coder", {**CODER, **spec}, events=tuple(said))


def show(view: Any, run: Run) -> None:
    view.show_run(run.info(), load(run), "series:0")


@pytest.fixture
def coder(qtbot: QtBot) -> AutoencoderView:
    view = AutoencoderView()
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    return view


def test_codes_are_shown_by_class_with_the_prior_behind_them(
    coder: AutoencoderView, tmp_path: Path
):
    run = coded(tmp_path)
    show(coder, run)
    codes = coder.codes.drawing.codes
    assert codes is not None
    assert codes.classes == ("cat", "dog")
    assert codes.labels[:3] == (0, 1, 0)
    assert codes.prior is not None
    assert len(codes.prior) == 50
    coder.timeline.slider.setValue(0)
    earlier = coder.codes.drawing.codes
    assert earlier is not None
    assert earlier.step == KEPT[0]
    assert np.array_equal(earlier.places, load(run).courses["latents"][0].values)


def test_images_stand_beside_their_reconstructions_of_the_same_time(
    coder: AutoencoderView, tmp_path: Path
):
    show(coder, coded(tmp_path))
    assert len(coder.originals.view.pixels) == len(coder.reconstructions.view.pixels) == 6
    assert np.unique(coder.originals.view.pixels).tolist() == [200]
    assert np.unique(coder.reconstructions.view.pixels).tolist() == [KEPT[-1]]
    coder.reconstructions.timeline.slider.setValue(1)
    assert np.unique(coder.reconstructions.view.pixels).tolist() == [KEPT[1]]
    coder.originals.view.link.select(4)
    assert coder.reconstructions.view.link.selected == 4
    assert coder.plane.view.pixels.shape == (1, 48, 48, 1)


def test_codes_said_while_it_runs_are_drawn(coder: AutoencoderView, tmp_path: Path):
    show(coder, coded(tmp_path))
    news = News()
    codes = np.ones((40, 2), np.float32)
    news.add(Array("latents", codes, 40, keep=True, about={"labels": [0] * 40, "classes": ["x"]}))
    coder.news(news)
    coder.draw()
    shown = coder.codes.drawing.codes
    assert shown is not None
    assert shown.step == 40
    assert coder.timeline.slider.maximum() == len(KEPT)
    coder.show_nothing()
    assert coder.codes.drawing.codes is None
    assert not len(coder.originals.view.pixels)


def test_a_class_head_is_told_classes_between_the_codes(coder: AutoencoderView, tmp_path: Path):
    asked: list[dict[str, Any]] = []
    coder.ask = lambda question, answer: asked.append(dict(question))
    run = coded(tmp_path, labels={"count": 100, "use": "head"}, latent=5)
    run.set_state(artifacts=[{"name": "model", "path": "model.safetensors"}])
    show(coder, run)
    assert {len(row) for row in asked[0]["latents"]} == {5}
    assert asked[0]["labels"] == [0] * 50
    assert [coder.latents.classes.itemText(k) for k in range(2)] == ["cat", "dog"]
    assert detail_of("autoencoder", run.info().spec) == "Digits · Adversarial · 100 labels"


def test_an_advgan_shows_images_and_changes_of_the_same_time(qtbot: QtBot, tmp_path: Path):
    view = AdvGanView()
    qtbot.addWidget(view)
    view.resize(900, 700)
    view.show()
    said: list[Any] = []
    for step in KEPT:
        captions = tuple(
            {"label": "3", "prediction": "8" if k < step // 10 else "3"} for k in range(4)
        )
        pixels = np.full((4, 8, 8, 1), step, np.uint8)
        said.append(Images("adversarial", pixels, captions, step, keep=True))
        said.append(Images("perturbation", pixels, captions, step, 0.3, keep=True))
        said.append(Scalars(step, {"train/success_rate": step / 40, "critic/loss": 0.5}))
    spec = {"kind": "advgan", "model": "victim", "eps": 0.3, "target": 4}
    run = make_run(tmp_path, "forger", spec, events=tuple(said))
    assert detail_of("advgan", spec) == "ε 0.3 · as class 4"
    sent: list[Any] = []
    view.hands = Hands(attack=lambda pixels, name: sent.append((pixels, name)))
    show(view, run)
    assert view.adversarial.note.text() == "3/4 wrong"
    view.perturbation.timeline.slider.setValue(0)
    assert view.adversarial.timeline.step == KEPT[0]
    assert view.adversarial.note.text() == "1/4 wrong"
    view.adversarial.timeline.newest.click()
    assert view.perturbation.timeline.step is None
    view.adversarial.view.link.select(2)
    view.adversarial.tile_menu().actions()[0].trigger()
    assert sent[0][1] == "forger"
    assert np.unique(sent[0][0]).tolist() == [KEPT[-1]]
    assert view.curves["success_rate"].isVisible()
