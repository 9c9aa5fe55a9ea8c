"""What hides gradients: what it does to an image, and what passes through it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor, nn

from engine.data.spec import Digits
from engine.errors import BadInput, SpecError
from engine.events import Note
from engine.models import build, describe, load_model, read_card, save_model, transforms
from engine.models.card import ModelCard
from engine.models.spec import (
    CNN,
    JPEG,
    MLP,
    BitDepth,
    Import,
    Median,
    Module,
    Strided,
    Transform,
    TransformSpec,
)
from engine.task import parse, parse_task
from engine.training.loop import run_train
from engine.training.spec import Train
from engine.vault.spec import Export
from tests.engine.test_training import new_bench, pull

SHAPE = (1, 8, 8)
EACH: list[TransformSpec] = [BitDepth(bits=2), JPEG(quality=30), Median()]
DIGITS = tuple("0123456789")


def images(*shape: int, seed: int = 0) -> Tensor:
    """With edges, not only noise, and some values at 0 and at 1."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    x[..., : shape[-1] // 2] *= 0.3
    return (x * 1.2 - 0.1).clamp(0, 1)


def module(spec: TransformSpec, shape: tuple[int, int, int] = SHAPE) -> transforms.Masking:
    made = transforms.transform(spec, shape).eval()
    assert isinstance(made, transforms.Masking)
    return made


# --- against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_is_numpys_rounding(bits: int) -> None:
    x = images(5, 3, 9, 7)
    most = np.float32(2**bits - 1)
    expected = np.rint(x.numpy() * most) / most
    found = module(BitDepth(bits=bits), (3, 9, 7))(x)
    assert np.array_equal(found.numpy(), expected)
    assert len(found.unique()) <= 2**bits
    assert {float(found.min()), float(found.max())} == {0.0, 1.0}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 11), (2, 28, 28)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_median_is_scipys(kernel: int, shape: tuple[int, int, int]) -> None:
    x = images(4, *shape)
    expected = median_filter(x.numpy(), size=(1, 1, kernel, kernel))
    assert np.array_equal(module(Median(kernel=kernel), shape)(x).numpy(), expected)


def test_a_median_as_large_as_the_image_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(6, 1, 7, 9)
    monkeypatch.setattr(transforms, "WINDOWS", 2 * 63 * 49)  # two images at a time
    expected = median_filter(x.numpy(), size=(1, 1, 7, 7))
    assert np.array_equal(module(Median(kernel=7), (1, 7, 9))(x).numpy(), expected)


def pillow(x: Tensor, quality: int) -> np.ndarray[Any, Any]:
    """What Pillow's encoder and decoder leave of images (N, C, H, W), at 4:2:0."""
    out = []
    for image in (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture.save(file, "jpeg", quality=quality, subsampling="4:2:0")
        opened = np.asarray(Image.open(file))
        out.append(opened.reshape(*opened.shape[:2], -1).transpose(2, 0, 1))
    return np.stack(out).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 17, 23)])
@pytest.mark.parametrize("quality", [1, 10, 75, 100])
def test_jpeg_is_pillows(quality: int, shape: tuple[int, int, int]) -> None:
    x = images(5, *shape)
    found = module(JPEG(quality=quality), shape)(x)
    assert np.array_equal(found.numpy(), pillow(x, quality))
    assert torch.equal(found, module(JPEG(quality=quality), shape)(x))


def test_many_grey_images_are_compressed_as_each_alone() -> None:
    """They go into pictures of limited height."""
    x = images(2100, 1, 28, 30)
    found = module(JPEG(quality=50), (1, 28, 30))(x)
    assert np.array_equal(found[2040:].numpy(), pillow(x[2040:], 50))
    assert torch.equal(found[:1], module(JPEG(quality=50), (1, 28, 30))(x[:1]))


def test_activations_are_limited_and_rounded() -> None:
    h = torch.linspace(-1, 2, 400)
    found = transforms.Quantise(2).eval()(h)
    assert np.array_equal(found.numpy(), np.rint(np.clip(h.numpy(), 0, 1) * 3) / np.float32(3))


def test_no_images_are_none() -> None:
    for spec in EACH:
        assert module(spec)(torch.zeros(0, *SHAPE)).shape == (0, *SHAPE)


# --- gradients ------------------------------------------------------------------------------------


def slope(part: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    weights = torch.arange(x.numel(), dtype=torch.float32).view_as(x) + 1
    (found,) = torch.autograd.grad((part(x) * weights).sum(), x)
    return found / weights


@pytest.mark.parametrize("spec", EACH, ids=lambda s: s.kind)
def test_no_gradient_passes_unless_it_is_let_through(spec: TransformSpec) -> None:
    part, x = module(spec), images(3, *SHAPE)
    plain = part(x)
    assert not torch.equal(plain, x)
    assert torch.equal(slope(part, x), torch.zeros_like(x))
    part.straight_through = True
    assert torch.equal(slope(part, x), torch.ones_like(x))
    assert torch.equal(part(x.clone().requires_grad_()), plain)
    part.straight_through = False
    assert torch.equal(slope(part.train(), x), torch.ones_like(x))
    assert torch.equal(part(x), plain)


def test_the_gradient_through_activations_is_that_of_their_limits() -> None:
    part, h = transforms.Quantise(2), torch.tensor([-0.5, 0.2, 0.8, 1.5])
    assert slope(part.eval(), h).tolist() == [0, 0, 0, 0]
    assert slope(part.train(), h).tolist() == [0, 1, 1, 0]


# --- as part of a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EACH, ids=lambda s: s.kind)
def test_it_stands_before_the_normalisation(spec: TransformSpec) -> None:
    plain = build(CNN(width=4), SHAPE, 10, mean=(0.3,), std=(0.4,), generator_seed=3).eval()
    model = build(
        CNN(width=4, transform=spec), SHAPE, 10, mean=(0.3,), std=(0.4,), generator_seed=3
    ).eval()
    assert [name for name, _ in model.named_children()] == ["transform", "normalise", "body"]
    x = images(4, *SHAPE)
    # The weights are the same, by name too, so those of a model that is there fit.
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), plain(module(spec)(x)))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))
    described = describe(CNN(width=4, transform=spec), SHAPE, 10)
    assert (described.layers[0].name, described.layers[0].output) == ("transform", SHAPE)
    assert described.parameters == describe(CNN(width=4), SHAPE, 10).parameters


@pytest.mark.parametrize(
    "spec", [MLP(width=8), CNN(width=4), Strided(channels=(4,), hidden=8)], ids=lambda s: s.kind
)
def test_rounded_activations_keep_the_names_of_the_weights(spec: Any) -> None:
    plain = build(spec, SHAPE, 10)
    rounded = build(spec.model_copy(update={"activation_bits": 2}), SHAPE, 10)
    assert list(rounded.state_dict()) == list(plain.state_dict())
    assert transforms.hidden_by(plain) == ""
    assert transforms.hidden_by(rounded) == "activations rounded to 2 bits"
    hidden = [m for m in rounded.modules() if isinstance(m, transforms.Quantise)]
    assert len(hidden) == len([m for m in plain.modules() if isinstance(m, nn.ReLU)])
    # Every weight learns: in train mode the gradient passes.
    rounded.train()(images(9, *SHAPE)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rounded.parameters())


def test_a_persons_own_module_takes_a_transform(write_module: Any) -> None:
    factory = write_module("""
        def make():
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    """)
    model = build(Module(factory=factory, transform=Median()), SHAPE, 10, trust=True)
    assert transforms.hidden_by(model) == "median of 3 x 3 pixels"


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "bit_depth", "bits": 0}, "must be at least 1, but it is 0"),
        ({"kind": "bit_depth", "bits": 9}, "must be at most 8, but it is 9"),
        ({"kind": "bit_depth", "bits": 2.5}, "whole number"),
        ({"kind": "jpeg", "quality": 0}, "must be at least 1"),
        ({"kind": "jpeg", "quality": 101}, "must be at most 100"),
        ({"kind": "median", "kernel": 4}, "has no middle; expected an odd number, as 3 or 5"),
        ({"kind": "median", "kernel": 1}, "must be at least 3"),
        ({"kind": "jpg"}, "did you mean 'jpeg'?"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(CNN, {"kind": "cnn", "transform": values})
    assert words in str(refused.value)
    assert "transform" in str(refused.value)
    with pytest.raises(SpecError, match="activation_bits"):
        parse(CNN, {"kind": "cnn", "activation_bits": 9})


def test_what_does_not_fit_the_images_is_refused() -> None:
    with pytest.raises(BadInput, match=r"1 or 3 channels; these have 2"):
        build(CNN(transform=JPEG()), (2, 8, 8), 10)
    with pytest.raises(BadInput, match=r"larger than images of 8 x 5; expected .* at most 5"):
        build(CNN(transform=Median(kernel=7)), (1, 8, 5), 10)


# --- kept -----------------------------------------------------------------------------------------


def test_it_is_kept_by_export_import_and_further_training(
    bench: Any, drain: Any, tmp_path: Path
) -> None:
    spec = MLP(width=8, depth=1, transform=JPEG(quality=40), activation_bits=3)
    path = tmp_path / "model.safetensors"
    model = build(spec, SHAPE, 10)
    save_model(path, model, ModelCard(model=spec, data=Digits(), shape=SHAPE, classes=DIGITS))
    exported, _ = drain(
        Export(model=str(path), own_key=True, to=str(tmp_path / "m.age")).run(bench)
    )
    assert exported
    drain(Import(weights=str(tmp_path / "m.age")).run(bench))
    assert read_card(bench.folder / "model.safetensors").model == spec
    again = load_model(str(bench.folder / "model.safetensors"), bench).module
    x = images(6, *SHAPE)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    further = new_bench(tmp_path, "further")
    drain(run_train(Train(init=str(path), epochs=1), further))
    assert read_card(further.folder / "model.safetensors").model == spec


def test_a_resumed_training_ends_with_the_same_weights(
    drain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Train(
        model=CNN(width=4, depth=1, transform=JPEG(quality=20), activation_bits=2), epochs=2, seed=3
    )
    _, whole = drain(run_train(spec, new_bench(tmp_path, "whole")))
    monkeypatch.setattr("engine.bench.BURST", 0.0)
    pull(run_train(spec, new_bench(tmp_path, "cut")), 30)
    bench = new_bench(tmp_path, "cut")
    checkpoint = bench.checkpoints.latest()
    assert checkpoint is not None
    assert 0 < checkpoint.step < whole["steps"]
    bench.restore(checkpoint)
    events, summary = drain(run_train(spec, bench))
    assert summary["weights_sha256"] == whole["weights_sha256"]
    assert not [e for e in events if isinstance(e, Note) and "hides" in e.text]  # said before


def test_a_training_says_that_it_is_no_defence(drain: Any, tmp_path: Path) -> None:
    spec = Train(model=MLP(width=8, depth=1, transform=BitDepth()), epochs=1)
    events, _ = drain(run_train(spec, new_bench(tmp_path, "a")))
    (note,) = [e for e in events if isinstance(e, Note) and e.level == "warning"]
    assert "bit depth of 3. That is not a defence by itself" in note.text


# --- for a model that is there --------------------------------------------------------------------


def test_a_transform_before_a_model_that_is_there(drain: Any, tmp_path: Path) -> None:
    trained = new_bench(tmp_path, "plain")
    _, plain = drain(run_train(Train(model=CNN(width=4), epochs=4), trained))
    path = trained.folder / "model.safetensors"
    bench = new_bench(tmp_path, "squeezed")
    spec = parse_task(
        {"kind": "transform", "model": str(path), "transform": {"kind": "bit_depth", "bits": 1}}
    )
    assert isinstance(spec, Transform)
    events, summary = drain(spec.run(bench))
    assert summary["weights_sha256"] == plain["weights_sha256"]
    assert summary["untransformed_accuracy"] == plain["clean_accuracy"]
    assert any("not a defence by itself" in e.text for e in events if isinstance(e, Note))

    loaded = load_model(str(bench.folder / "model.safetensors"), bench)
    was = load_model(str(path), bench)
    assert loaded.card.model == CNN(width=4, transform=BitDepth(bits=1))
    assert loaded.card.learnt == was.card.learnt
    data = new_bench(tmp_path, "data")
    test = drain(_load(data))[1].test
    x, labels = test.batch(torch.arange(len(test)))
    with torch.no_grad():
        right = was.module(x.round()).argmax(1) == labels
    assert summary["clean_accuracy"] == right.double().mean().item()

    # Another one takes its place.
    last = new_bench(tmp_path, "last")
    model = str(bench.folder / "model.safetensors")
    drain(Transform(model=model, transform=Median()).run(last))
    assert read_card(last.folder / "model.safetensors").model == CNN(width=4, transform=Median())


def _load(bench: Any) -> Any:
    from engine.data import load

    return load(Digits(), bench)


def test_a_copy_is_independent() -> None:
    """As the moving average of weights takes it."""
    model = build(CNN(width=4, transform=JPEG()), SHAPE, 10).eval()
    twin = copy.deepcopy(model)
    transforms.masking(model)[0].straight_through = True
    assert not transforms.masking(twin)[0].straight_through
