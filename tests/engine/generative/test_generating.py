"""`engine generate`, and the samples of a trained generator from Python."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from engine.bench import Bench
from engine.errors import BadInput
from engine.events import drain
from engine.generative import load_maker
from engine.generative.spec.autoencoder import (
    Autoencoder,
    GaussianPrior,
    MixturePrior,
    MLPCoder,
)
from engine.generative.spec.base import GanGenerator, Latent
from engine.generative.spec.networks import MLPGenerator
from engine.models import NetworkCard, load_network, save_model
from engine.models.spec import NetworkSpec
from engine.vault.spec import Export
from tests.engine.cli import engine, recipe, refused, tasks, train

CLASSES = ("round", "square")
POINT = (1, 1, 2)


def saved(
    folder: Path, shape: tuple[int, int, int] = (1, 4, 6), *, conditional: bool = False
) -> Path:
    spec = GanGenerator(
        generator=MLPGenerator(width=8, depth=1), latent=Latent(size=3), conditional=conditional
    )
    return kept(folder, spec, shape, CLASSES if conditional else ())


def kept(
    folder: Path, spec: NetworkSpec, shape: tuple[int, int, int], classes: tuple[str, ...]
) -> Path:
    torch.manual_seed(0)
    module = spec.network(shape, len(classes))
    path = folder / "made.safetensors"
    save_model(path, module, NetworkCard(model=spec, shape=shape, classes=classes, data=None))
    return path


def exact(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


# --- samples --------------------------------------------------------------------------------------


def test_samples_are_what_the_module_makes_of_its_latents(tmp_path: Path) -> None:
    file, bench = saved(tmp_path), Bench(tmp_path)
    maker = load_maker(str(file), bench)
    samples, labels = maker.samples(700, seed=3)  # more than are made at once
    assert labels is None
    module = load_network(str(file), bench, GanGenerator).module
    with torch.no_grad():
        expected = module(maker.draw(3, 700, None), None)
    assert torch.allclose(samples, expected, atol=1e-6)
    assert samples.shape == (700, 1, 4, 6)
    assert torch.equal(samples, maker.samples(700, seed=3)[0])
    assert not torch.equal(samples, maker.samples(700, seed=4)[0])
    assert torch.allclose(samples[:5], maker.samples(5, seed=3)[0], atol=1e-6)


def test_a_conditional_one_makes_each_class_in_turn_or_the_one_that_is_named(
    tmp_path: Path,
) -> None:
    maker = load_maker(str(saved(tmp_path, conditional=True)), Bench(tmp_path))
    both, labels = maker.samples(5)
    square, ones = maker.samples(5, label="square")
    assert labels is not None
    assert labels.tolist() == [0, 1, 0, 1, 0]
    assert ones is not None
    assert ones.tolist() == [1] * 5
    assert torch.equal(both[1::2], square[1::2])
    assert not torch.equal(both[0], square[0])


@pytest.mark.parametrize("classes", ["none", "head", "prior"])
def test_an_autoencoder_makes_samples_of_its_prior(classes: str, tmp_path: Path) -> None:
    prior = MixturePrior(gaussians=2) if classes == "prior" else GaussianPrior()
    spec = Autoencoder(coder=MLPCoder(width=8), latent=2, prior=prior, classes=classes)
    names = () if classes == "none" else CLASSES
    maker = load_maker(str(kept(tmp_path, spec, (1, 4, 4), names)), Bench(tmp_path))
    samples, labels = maker.samples(6, label="square" if names else None)
    assert samples.shape == (6, 1, 4, 4)
    assert labels is None if classes == "none" else labels.tolist() == [1] * 6
    assert torch.equal(samples, maker.samples(6, label="square" if names else None)[0])


# --- files ----------------------------------------------------------------------------------------


def test_a_picture_holds_the_samples_side_by_side(tmp_path: Path) -> None:
    file = saved(tmp_path)
    said = engine("generate", file, "--count", "5", "--to", tmp_path / "a.png")
    assert said.code == 0, said.err
    assert said.out == f"wrote 5 samples, 1 x 4 x 6, to {tmp_path / 'a.png'}\n"
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (2 * 4 + 2, 3 * 6 + 2 * 2)
    samples, _ = load_maker(str(file), Bench(tmp_path)).samples(5)
    expected = (samples[:, 0] * 255).round().numpy().astype(np.uint8)
    assert np.array_equal(sheet[0:4, 8:14], expected[1])
    assert np.array_equal(sheet[6:10, 0:6], expected[3])
    assert (sheet[4:6] == 255).all()
    assert (sheet[6:10, 14:] == 255).all()


def test_a_picture_of_colours(tmp_path: Path) -> None:
    file = saved(tmp_path, (3, 4, 4))
    assert engine("generate", file, "--count", "1", "--to", tmp_path / "a.png").code == 0
    assert np.asarray(Image.open(tmp_path / "a.png")).shape == (4, 4, 3)


def test_the_same_seed_makes_the_same_file(tmp_path: Path) -> None:
    file = saved(tmp_path, conditional=True)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        to = tmp_path / f"{name}.safetensors"
        said = engine("generate", file, "--count", "9", "--seed", str(seed), "--to", to, "--json")
        assert said.json["count"] == 9
        assert said.json["shape"] == [1, 4, 6]
    one, same, other = (exact(tmp_path / f"{name}.safetensors") for name in "abc")
    assert one["samples"].shape == (9, 1, 4, 6)
    assert one["labels"].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert torch.equal(one["samples"], same["samples"])
    assert not torch.equal(one["samples"], other["samples"])
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["samples"])["classes"] == list(CLASSES)
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    to = tmp_path / "square.safetensors"
    assert engine("generate", file, "--label", "square", "--to", to).code == 0
    assert exact(to)["labels"].tolist() == [1] * 64


def test_points_are_a_table_to_the_last_bit(tmp_path: Path) -> None:
    file = saved(tmp_path, POINT, conditional=True)
    assert engine("generate", file, "--count", "4", "--to", tmp_path / "a.csv").code == 0
    with (tmp_path / "a.csv").open(newline="") as table:
        rows = list(csv.reader(table))
    samples, _ = load_maker(str(file), Bench(tmp_path)).samples(4)
    assert rows[0] == ["x", "y", "label"]
    assert [row[2] for row in rows[1:]] == ["round", "square", "round", "square"]
    read = np.array([row[:2] for row in rows[1:]], np.float32)
    assert np.array_equal(read, samples.reshape(4, 2).numpy())


def test_a_run_by_its_name_and_an_encrypted_file(tmp_path: Path) -> None:
    small = 'generator = {kind = "mlp", width = 8}\ncritic = {kind = "mlp", width = 8}'
    bench = 'bench = {device = "cpu", threads = 1}\niterations = 3\nseeds = 2'
    text = tasks(f'name = "gan"\nkind = "gan"\n{small}\n{bench}')
    said = engine("run", recipe(tmp_path / "r.toml", text), "--workspace", tmp_path / "w")
    assert said.code == 0, said.err
    to = tmp_path / "a.csv"
    assert engine("generate", "gan", "--workspace", tmp_path / "w", "--to", to).code == 0
    assert len(to.read_text().splitlines()) == 65
    assert to.read_text().startswith("x,y\n")
    words = tmp_path / "words"
    words.write_text("correct horse battery staple\n")
    locked, opened = tmp_path / "g.age", tmp_path / "b.csv"
    secrets = {"passphrase": "correct horse battery staple"}
    drain(
        Export(model="gan", to=str(locked), passphrase=True).run(
            Bench(tmp_path / "x", tmp_path / "w", secrets=secrets)
        )
    )
    refused(engine("generate", locked, "--to", opened), "--passphrase-file")
    said = engine("generate", locked, "--to", opened, "--passphrase-file", words)
    assert said.code == 0, said.err
    assert opened.read_bytes() == to.read_bytes()
    other = next((tmp_path / "w").rglob("generator_1.safetensors"))  # of the second seed
    assert engine("generate", other, "--to", tmp_path / "c.csv").code == 0
    assert (tmp_path / "c.csv").read_bytes() != to.read_bytes()


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    images, points = tmp_path / "images", tmp_path / "points"
    told, many = tmp_path / "told", tmp_path / "many"
    for folder in (images, points, told, many):
        folder.mkdir()
    image, point = saved(images), saved(points, POINT)
    conditional, channels = saved(told, conditional=True), saved(many, (2, 4, 4))
    there = tmp_path / "there.png"
    there.write_bytes(b"mine")
    cases: list[tuple[list[object], tuple[str, ...]]] = [
        ([image, "--to", tmp_path / "a.jpg"], ("in which form", ".png", ".safetensors", ".csv")),
        ([image, "--to", tmp_path / "a"], ("in which form",)),
        ([image, "--to", tmp_path / "a.csv"], ("makes images, 1 x 4 x 6", ".png")),
        ([point, "--to", tmp_path / "a.png"], ("makes points of a plane", ".csv")),
        ([channels, "--to", tmp_path / "a.png"], ("2 channels", ".safetensors")),
        ([image, "--to", tmp_path / "a.png", "--count", "0"], ("0 samples", "expected 1 to")),
        ([image, "--to", tmp_path / "a.png", "--count", "-3"], ("-3 samples",)),
        ([image, "--to", tmp_path / "a.png", "--count", "10001"], ("at most 10000",)),
        ([image, "--to", tmp_path / "a.safetensors", "--count", "999999999"], ("expected 1 to",)),
        ([image, "--to", tmp_path / "a.png", "--label", "round"], ("told no class", "'round'")),
        ([conditional, "--to", tmp_path / "a.png", "--label", "3"], ("'3'", "'round', 'square'")),
        ([image, "--to", tmp_path / "gone" / "a.png"], ("gone",)),
        ([image, "--to", there], ("exists already",)),
        ([tmp_path / "no.safetensors", "--to", tmp_path / "a.png"], ("there is no file",)),
        (["nobody", "--workspace", tmp_path, "--to", tmp_path / "a.png"], ("nobody",)),
    ]
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in cases:
        refused(engine("generate", *arguments), *words)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before
    assert there.read_bytes() == b"mine"


def test_a_classifier_makes_no_samples(tmp_path: Path) -> None:
    text = recipe(tmp_path / "r.toml", tasks(train()))
    assert engine("run", text, "--workspace", tmp_path).code == 0
    said = engine("generate", "plain", "--workspace", tmp_path, "--to", tmp_path / "a.png")
    refused(said, "holds a network of kind 'mlp'", "gan_generator")
    with pytest.raises(BadInput, match="holds a network of kind 'mlp'"):
        load_maker("plain", Bench(tmp_path))
