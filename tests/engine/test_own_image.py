"""Questions about an image of a person's own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import questions
from engine.bench import Bench
from engine.errors import BadInput
from engine.models import ModelCard, build, save_model
from engine.models.spec import MLP
from engine.questions import prepare
from engine.store import Workspace

SHAPE = (1, 6, 8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    spec = MLP(width=8)
    module = build(spec, SHAPE, 3, generator_seed=1)
    save_model(path, module, ModelCard(model=spec, shape=SHAPE, classes=("a", "b", "c")))
    return path


def ask(folder: Path, **question: Any) -> tuple[dict[str, Any], bytes]:
    steps = prepare(question, Workspace(folder), None)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    if callable(found):
        found = found()
    while not isinstance(found, tuple):
        try:
            next(found)
        except StopIteration as end:
            found = end.value
    return found


def picture(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"shape": list(pixels.shape), "pixels": base64.b64encode(pixels.tobytes()).decode()}


def png(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_model_says_what_it_takes(model: Path, tmp_path: Path) -> None:
    answer, _ = ask(tmp_path, kind="meet_model", model=str(model))
    assert answer == {"shape": [1, 6, 8], "classes": ["a", "b", "c"], "data": None}
    with pytest.raises(BadInput, match="there is no file"):
        ask(tmp_path, kind="meet_model", model=str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_any_image_file_becomes_one_for_the_model(
    model: Path, tmp_path: Path, mode: str, kind: str
) -> None:
    """Left half dark, right half light, in whatever form."""
    values = np.zeros((30, 60), np.uint8)
    values[:, 30:] = 255
    base = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    else:
        image = base.convert("RGB").convert(mode) if mode == "CMYK" else base.convert(mode)
    try:
        content = png(image, kind)
    except OSError:
        pytest.skip(f"{kind} holds no {mode}")
    answer, data = ask(tmp_path, kind="fit_image", model=str(model), file=content)
    assert answer == {"pixels": [1, 6, 8, 1]}
    found = np.frombuffer(data, np.uint8).reshape(6, 8)
    assert found[:, :3].max() < 20
    assert found[:, 5:].min() > 235


def test_what_is_no_image_is_refused(model: Path, tmp_path: Path) -> None:
    for content in (
        "",
        base64.b64encode(b"no image").decode(),
        "%%%",
        png(Image.new("L", (9, 9)))[:40],
    ):
        with pytest.raises(BadInput, match="cannot be read as an image"):
            ask(tmp_path, kind="fit_image", model=str(model), file=content)


def test_an_attack_on_a_picture(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 1), np.uint8)
    attack = {"kind": "pgd", "norm": "linf", "steps": 5}
    common = {"model": str(model), "image": picture(pixels), "attack": attack}
    answer, data = ask(tmp_path, kind="try_attack", eps=0.2, **common)
    assert answer["pixels"] == [2, 6, 8, 1]
    adversarial, change = np.frombuffer(data, np.uint8).reshape(2, 6, 8, 1).astype(int)
    assert answer["scale"] == pytest.approx(0.2)
    assert np.abs(adversarial - pixels).max() <= round(0.2 * 255)
    moved = (change - 128) / 127 * answer["scale"] * 255
    assert np.abs(moved - (adversarial - pixels)).max() <= 1.0
    assert answer["norm"] <= 0.2 + 1e-6
    module = questions.load_model(str(model), Bench(tmp_path, tmp_path)).module
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    expected = module(x).softmax(1)[0].tolist()
    assert answer["clean"]["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert answer["label"] == answer["clean"]["prediction"]
    found, _ = ask(tmp_path, kind="smallest_eps", most=0.5, **common)
    at, _ = ask(tmp_path, kind="try_attack", eps=found["eps"], **common)
    assert at["success"]
    with pytest.raises(BadInput, match="takes images"):
        ask(tmp_path, kind="try_attack", eps=0.1, **{**common, "image": picture(pixels[:5])})
    with pytest.raises(BadInput, match="no picture"):
        ask(tmp_path, kind="try_attack", eps=0.1, **{**common, "image": {"shape": [6, 8, 1]}})


def test_a_model_is_read_once_until_its_file_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = questions.load_model

    def watched(ref: str, bench: Any) -> Any:
        read.append(ref)
        return load(ref, bench)

    monkeypatch.setattr(questions, "load_model", watched)
    monkeypatch.setattr(questions, "_kept", {})
    image = picture(np.full((6, 8, 1), 200, np.uint8))
    question = {"kind": "try_attack", "model": str(model), "image": image, "attack": {}, "eps": 0.0}
    before, _ = ask(tmp_path, **question)
    assert ask(tmp_path, **question)[0] == before
    assert len(read) == 1
    spec = MLP(width=9)
    card = ModelCard(model=spec, shape=SHAPE, classes=("a", "b", "c"))
    save_model(model, build(spec, SHAPE, 3, generator_seed=2), card)
    assert ask(tmp_path, **question)[0] != before
    assert len(read) == 2
