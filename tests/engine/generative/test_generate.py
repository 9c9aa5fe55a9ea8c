"""What the window asks of a generator, and the files that hold one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bench import Bench
from engine.errors import BadInput
from engine.events import drain
from engine.generative.spec.autoencoder import Autoencoder
from engine.generative.spec.base import GanGenerator, Latent
from engine.generative.spec.networks import MLPGenerator
from engine.models import NetworkCard, load_model, load_network, save_model
from engine.models.card import read_card
from engine.models.spec import NetworkSpec
from engine.questions import prepare
from engine.store import Workspace
from engine.vault.spec import Export

SHAPE = (1, 4, 4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path, conditional=False)


def saved(folder: Path, *, conditional: bool) -> Path:
    spec = GanGenerator(
        generator=MLPGenerator(width=8, depth=1), latent=Latent(size=3), conditional=conditional
    )
    classes = ("round", "square") if conditional else ()
    torch.manual_seed(0)
    module = spec.network(SHAPE, len(classes))
    path = folder / "made.safetensors"
    save_model(path, module, NetworkCard(model=spec, shape=SHAPE, classes=classes))
    return path


def asked(file: Path, **question: Any) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    workspace = Workspace(file.parent)
    question = {"kind": "generate", "model": str(file), **question}
    reply, content = drain(prepare(question, workspace, None))()
    return reply, np.frombuffer(content, np.uint8).reshape(reply["pixels"])


def test_a_generator_makes_what_its_module_makes(file: Path, tmp_path: Path) -> None:
    latents = [[0.5, -1.0, 2.0], [0.0, 0.25, -0.5]]
    reply, pixels = asked(file, latents=latents)
    loaded = load_network(str(file), Bench(tmp_path, tmp_path), GanGenerator)
    with torch.no_grad():
        images = loaded.module(torch.tensor(latents), None)
    assert reply["pixels"] == [2, 4, 4, 1]
    expected = (images * 255).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert np.array_equal(pixels, expected.to(torch.uint8).numpy())


def test_a_conditional_one_is_told_classes(tmp_path: Path) -> None:
    file = saved(tmp_path, conditional=True)
    latents = [[0.5, -1.0, 2.0]] * 2
    _, pixels = asked(file, latents=latents, labels=[0, 1])
    assert not np.array_equal(pixels[0], pixels[1])
    for labels in (None, [0], [0, 2], [0, "a"]):
        with pytest.raises(BadInput, match="2 labels, each from 0 to 1"):
            asked(file, latents=latents, labels=labels)


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        ([], "1 to 1024 latents"),
        ([[1.0, 2.0]], "2 numbers each; expected 3"),
        ([[1.0, 2.0, float("nan")]], "all finite"),
        ([["x"]], "no latents"),
        ([1.0, 2.0, 3.0], "1 to 1024 latents"),
    ],
)
def test_latents_that_are_none_are_refused(file: Path, latents: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        asked(file, latents=latents)


def test_what_a_file_holds_is_told(file: Path, tmp_path: Path) -> None:
    card = read_card(file)
    assert isinstance(card, NetworkCard)
    bench = Bench(tmp_path, tmp_path)
    with pytest.raises(BadInput, match="'gan_generator', which is no classifier"):
        load_model(str(file), bench)

    with pytest.raises(BadInput, match="holds a network of kind 'gan_generator'"):
        load_network(str(file), bench, Autoencoder)
    assert load_network(str(file), bench, NetworkSpec).card.shape == SHAPE


def test_a_generator_goes_through_the_vault(file: Path, tmp_path: Path) -> None:
    """Written as an encrypted file and opened again it makes what it made."""
    secrets = {"passphrase": "correct horse battery staple"}
    bench = Bench(tmp_path, tmp_path, secrets=secrets)
    target = tmp_path / "out.safetensors.age"
    summary = drain(Export(model=str(file), to=str(target), passphrase=True).run(bench))
    assert target.read_bytes().startswith(b"age-encryption.org/v1")
    assert summary["weights_sha256"] == read_card(file).weights_sha256
    before = load_network(str(file), bench, GanGenerator)
    after = load_network(str(target), bench, GanGenerator)
    latents = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(before.module(latents, None), after.module(latents, None))
    with pytest.raises(BadInput, match="no classifier"):
        load_model(str(target), bench)
