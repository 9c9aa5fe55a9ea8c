"""The extractors that are shipped, and what is seen by them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import resources
from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import Digits
from engine.errors import BadInput, CrucibleError
from engine.events import Progress, drain
from engine.files import sha256_of
from engine.generative.metrics import extractors, features, recognised, seen, shipped, suited
from engine.generative.metrics.extractors import (
    SHIPPED,
    extractor_of,
    fitted,
    judge,
    seen_of_split,
)
from engine.generative.metrics.shipping import ship
from engine.models import ModelCard, build, read_card, save_model
from engine.models.spec import CNN, MLP, LeNet

EXPECTED = {"mnist": ((1, 28, 28), 64), "cifar10": ((3, 32, 32), 128), "digits": ((1, 8, 8), 32)}


@pytest.fixture
def digits(bench: Bench) -> Dataset:
    return drain(load(Digits(validation=0.0), bench))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_small_and_tells_no_place(name: str) -> None:
    path = resources.path("features", f"{name}.safetensors")
    assert path.stat().st_size <= 1_000_000
    card = read_card(path)
    assert isinstance(card, ModelCard)
    assert (card.data, card.run, card.training, card.learnt) == (None, "", {}, ())
    extractor = shipped(name)
    assert (extractor.shape, extractor.dimensions) == EXPECTED[name]
    looked = seen(torch.rand(3, *extractor.shape), extractor)
    assert looked.features.shape == (3, extractor.dimensions)
    assert looked.logits.shape == (3, 10)
    assert looked.features.dtype == torch.float32


def test_the_shipped_one_knows_its_images(digits: Dataset) -> None:
    """Of test images that it was not trained on, in features around 1."""
    looked = drain(seen_of_split(digits.test, torch.arange(len(digits.test)), shipped("digits")))
    assert recognised(looked, digits.test.labels) > 0.98
    assert float(looked.features.square().mean().sqrt()) == pytest.approx(1.0, abs=0.1)


def test_features_are_what_the_last_layer_is_given(digits: Dataset) -> None:
    """Computed layer by layer, in any batch."""
    images, _ = digits.test.batch(torch.arange(120))
    extractor = shipped("digits")
    path = resources.path("features", "digits.safetensors")
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    spec = LeNet(channels=(32, 64), kernels=(3,), padding=(1,), hidden=(32,), activation="silu")
    module = build(spec, (1, 8, 8), 10)
    module.load_state_dict(state)
    hidden = images
    with torch.no_grad():
        for layer in [module[0], *module[1]][:-1]:  # type: ignore[index]
            hidden = layer(hidden)
        logits = module[1][-1](hidden)  # type: ignore[index]
    looked = seen(images, extractor)
    unit = SHIPPED["digits"].unit
    assert torch.allclose(looked.features, hidden / unit, atol=1e-5)
    assert torch.allclose(looked.logits, logits, atol=1e-4)
    assert torch.allclose(features(images[:1], extractor), looked.features[:1], atol=1e-5)


def test_a_changed_file_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(resources.path("features", "digits.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits.safetensors").write_bytes(content)
    monkeypatch.setattr(extractors.resources, "path", lambda *parts: tmp_path / parts[-1])
    with pytest.raises(CrucibleError, match="its SHA-256 differs"):
        shipped("digits")


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1, 8, 8), "digits"),
        ((1, 12, 30), "digits"),
        ((1, 28, 28), "mnist"),
        ((1, 64, 64), "mnist"),
        ((3, 32, 32), "cifar10"),
        ((3, 8, 8), "cifar10"),
    ],
)
def test_the_shape_chooses(shape: tuple[int, int, int], name: str) -> None:
    assert suited(shape) == name


def test_points_have_no_features() -> None:
    with pytest.raises(BadInput, match="1 x 1 x 2 are no images"):
        suited((1, 1, 2))


def test_images_are_brought_to_the_extractors_shape() -> None:
    colours = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    grey = fitted(colours, (1, 20, 20))
    expected = 0.299 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2]
    assert torch.allclose(grey[:, 0], expected)
    assert fitted(grey, (3, 32, 32)).shape == (2, 3, 32, 32)
    whole = fitted(torch.full((1, 1, 8, 8), 0.25), (1, 28, 28))
    assert torch.allclose(whole, torch.full((1, 1, 28, 28), 0.25))
    assert fitted(grey, (1, 20, 20)) is grey


def test_images_that_are_no_numbers_are_counted_and_refused() -> None:
    images = torch.rand(10, 1, 8, 8)
    images[3, 0, 0, 0] = torch.nan
    images[7, 0, 2, 2] = torch.inf
    with pytest.raises(BadInput, match="2 of 10 images hold values that are no numbers"):
        seen(images, shipped("digits"))


def test_no_image_has_no_features(digits: Dataset) -> None:
    looked = drain(seen_of_split(digits.test, torch.arange(0), shipped("digits")))
    assert (looked.features.shape, looked.logits.shape) == ((0, 32), (0, 10))


def test_looking_says_how_far_it_is_and_holds_nothing(digits: Dataset) -> None:
    steps = seen_of_split(digits.test, torch.arange(110), shipped("digits"))
    told = []
    for event in steps:
        assert torch.is_grad_enabled()
        told.append(event)
    assert told == [Progress(n, 110, "images") for n in (50, 100, 110)]


def test_a_run_of_ones_own_can_judge(bench: Bench, tmp_path: Path) -> None:
    spec = MLP(width=7, depth=1)
    path = tmp_path / "own.safetensors"
    card = ModelCard(model=spec, shape=(1, 8, 8), classes=tuple("abc"))
    save_model(path, build(spec, (1, 8, 8), 3), card)
    extractor = judge(str(path), bench)
    assert (extractor.classes, extractor.dimensions) == (tuple("abc"), 7)
    assert not seen(torch.rand(2, 1, 8, 8), extractor).features.requires_grad


def test_what_ends_in_no_linear_layer_cannot_judge() -> None:
    card = ModelCard(model=CNN(), shape=(1, 8, 8), classes=("a", "b"))
    with pytest.raises(BadInput, match="does not end in a linear layer"):
        extractor_of("x", torch.nn.Conv2d(1, 2, 8), card)


def test_shipping_twice_gives_the_same_file(tmp_path: Path) -> None:
    spec = MLP(width=5, depth=1, norm="batch")
    module = build(spec, (1, 8, 8), 3)
    card = ModelCard(
        model=spec,
        data=Digits(),
        shape=(1, 8, 8),
        classes=tuple("abc"),
        run="a-run",
        training={"seed": 1},
        learnt=("x",),
        metrics={"clean_accuracy": 0.5, "seconds": 3.0},
    )
    save_model(tmp_path / "model.safetensors", module, card)
    first = ship(tmp_path / "model.safetensors", tmp_path / "one.safetensors")
    again = ship(tmp_path / "model.safetensors", tmp_path / "two.safetensors")
    assert first == again == sha256_of(tmp_path / "one.safetensors")
    told = read_card(tmp_path / "one.safetensors")
    assert (told.data, told.run, told.training, told.learnt) == (None, "", {}, ())
    assert told.metrics == {"clean_accuracy": 0.5}
    kinds = {str(t.dtype) for t in load_file(tmp_path / "one.safetensors").values()}
    assert kinds == {"torch.float16", "torch.int64"}


def test_what_is_shipped_is_not_large(tmp_path: Path) -> None:
    spec = MLP(width=900, depth=2)
    card = ModelCard(
        model=spec, shape=(1, 8, 8), classes=("a", "b"), metrics={"clean_accuracy": 0.5}
    )
    save_model(tmp_path / "model.safetensors", build(spec, (1, 8, 8), 2), card)
    with pytest.raises(CrucibleError, match="expected at most 1000000"):
        ship(tmp_path / "model.safetensors", tmp_path / "one.safetensors")
