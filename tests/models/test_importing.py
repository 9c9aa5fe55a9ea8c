from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.data import load
from engine.data.spec import Digits
from engine.errors import BadInput, Cancelled
from engine.events import Note, Progress, Saved
from engine.files import sha256_of
from engine.models import build, load_model, read_card, save_model, weights_sha256
from engine.models.answers import PROBABILITIES
from engine.models.card import ModelCard
from engine.models.spec import CNN, MLP, Import, Module, ResNet18
from engine.models.trust import remember

SHAPE = (1, 8, 8)
SMALL = MLP(width=16, depth=1)
DIGITS = tuple("0123456789")


def imported(bench, drain, weights, model=SMALL, **fields):
    spec = Import(weights=str(weights), model=model, data=Digits(), **fields)
    return drain(spec.run(bench))


@pytest.fixture
def trained(bench, drain) -> nn.Module:
    """A small model that knows its digits, normalised with .3 and .4."""
    _, data = drain(load(Digits(), bench))
    model = build(MLP(width=16, depth=1), SHAPE, 10, mean=(0.3,), std=(0.4,))
    optimiser = torch.optim.SGD(model.parameters(), 0.5)
    images, labels = data.train.batch(torch.arange(len(data.train)))
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.eval()


def accuracy_of(model: nn.Module, bench, drain) -> float:
    _, data = drain(load(Digits(), bench))
    images, labels = data.test.batch(torch.arange(len(data.test)))
    return (model(images).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("form", ["safetensors", "pt", "checkpoint"])
def test_a_persons_weights(bench, drain, tmp_path, trained, form):
    """The network's own state dict, as a plain training script saves it."""
    state = trained.body.state_dict()
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "weights.pt"
        wrapped = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}
        torch.save(state if form == "pt" else wrapped, path)
    events, summary = imported(bench, drain, path, mean=(0.3,), std=(0.4,))

    expected = accuracy_of(trained, bench, drain)
    assert expected > 0.85
    assert math.isclose(summary["clean_accuracy"], expected)
    assert summary["weights_sha256"] == weights_sha256(trained.state_dict())
    assert summary["parameters"] == sum(p.numel() for p in trained.parameters())
    assert summary["classes"] == list(DIGITS)
    (saved,) = (event for event in events if isinstance(event, Saved))
    file = bench.folder / saved.path
    assert (saved.size, saved.sha256) == (file.stat().st_size, sha256_of(file))
    assert [entry.name for entry in bench.folder.iterdir() if entry.is_file()] == [file.name]

    loaded = load_model(str(file), bench)
    assert math.isclose(accuracy_of(loaded.module, bench, drain), expected)
    card = read_card(file)
    assert card.model == MLP(width=16, depth=1)
    assert card.data == Digits()
    assert card.metrics["clean_accuracy"] == summary["clean_accuracy"]
    assert card.run == bench.folder.name
    assert "torch" in card.versions


def test_a_model_file_of_ours_says_itself_what_it_is(bench, drain, tmp_path, trained):
    path = tmp_path / "m.safetensors"
    spec = MLP(width=16, depth=1)
    save_model(path, trained, ModelCard(model=spec, shape=SHAPE, classes=DIGITS))
    _, summary = imported(bench, drain, path, model=None)
    assert summary["weights_sha256"] == weights_sha256(trained.state_dict())


def test_one_that_returns_probabilities_is_told(bench, drain, tmp_path, trained, write_module):
    factory = write_module("""
        def make():
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))
    """)
    weights = {"1.weight": torch.zeros(10, 64), "1.bias": torch.arange(10.0)}
    save_file(weights, tmp_path / "w.safetensors")
    remember(Module(factory=factory))
    events, _ = imported(bench, drain, tmp_path / "w.safetensors", Module(factory=factory))
    texts = [event.text for event in events if isinstance(event, Note)]
    assert PROBABILITIES in texts
    save_file(trained.body.state_dict(), tmp_path / "logits.safetensors")
    events, _ = imported(bench, drain, tmp_path / "logits.safetensors", mean=(0.3,), std=(0.4,))
    assert [event.text for event in events if isinstance(event, Note)] == []


def test_a_module_of_their_own(bench, drain, tmp_path, trained, write_module):
    factory = write_module("""
        def make():
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    """)
    weights = [t for _, t in trained.body.state_dict().items()]
    names = ("1.weight", "1.bias", "3.weight", "3.bias")
    save_file(dict(zip(names, weights, strict=True)), tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match="--trust-code"):
        imported(bench, drain, tmp_path / "w.safetensors", Module(factory=factory))
    with pytest.raises(BadInput, match="--trust-code"):  # whoever wrote that is not asked
        imported(bench, drain, tmp_path / "w.safetensors", Module(factory=factory, trust=True))
    remember(Module(factory=factory))
    _, summary = imported(
        bench,
        drain,
        tmp_path / "w.safetensors",
        Module(factory=factory),
        mean=(0.3,),
        std=(0.4,),
    )
    assert summary["clean_accuracy"] > 0.85


def test_guessing_is_pointed_out(bench, drain, tmp_path):
    state = build(MLP(width=16, depth=1), SHAPE, 10).body.state_dict()
    save_file({name: torch.zeros_like(t) for name, t in state.items()}, tmp_path / "w.safetensors")
    events, _ = imported(bench, drain, tmp_path / "w.safetensors")
    assert any(isinstance(e, Note) and "about that of guessing" in e.text for e in events)


def test_older_batch_normalisation_has_no_counter(bench, drain, tmp_path):
    state = build(CNN(width=2), SHAPE, 10).body.state_dict()
    kept = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "w.safetensors")
    _, summary = imported(bench, drain, tmp_path / "w.safetensors", CNN(width=2))
    assert 0 <= summary["clean_accuracy"] <= 1


def test_no_grad_mode_is_held_between_steps(bench, tmp_path, trained, monkeypatch):
    save_file(trained.body.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr("engine.models.evaluating.PAUSE", -1.0)  # a word after every batch
    spec = Import(
        weights=str(tmp_path / "w.safetensors"), model=MLP(width=16, depth=1), data=Digits()
    )
    steps = spec.run(bench)
    for event in steps:
        assert torch.is_grad_enabled()
        if isinstance(event, Progress):
            break
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert not (bench.folder / "model.safetensors").exists()


# --- what does not belong together ----------------------------------------------------------------


def refused(bench, drain, weights, *args, **fields) -> str:
    with pytest.raises(BadInput) as told:
        imported(bench, drain, weights, *args, **fields)
    assert not (bench.folder / "model.safetensors").exists()
    return str(told.value)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build(MLP(width=16, depth=1), SHAPE, 10).body.state_dict(), path)
    return path


def test_names_that_differ(bench, drain, tmp_path):
    state = build(CNN(width=2, norm="none"), SHAPE, 10).body.state_dict()
    renamed = {name.replace("0.0.weight", "0.0.wieght"): t for name, t in state.items()}
    renamed["extra.thing"] = torch.zeros(2)
    save_file(renamed, tmp_path / "w.safetensors")
    text = refused(bench, drain, tmp_path / "w.safetensors", CNN(width=2, norm="none"))
    assert "1 missing from the file: 0.0.weight" in text
    assert "0.0.wieght (did you mean 0.0.weight?)" in text
    assert "extra.thing" in text


def test_shapes_that_differ(bench, drain, weights):
    text = refused(bench, drain, weights, MLP(width=32, depth=1))
    assert "1.0.weight is (16, 64), expected (32, 64)" in text


def test_quite_another_architecture(bench, drain, weights):
    text = refused(bench, drain, weights, ResNet18())
    assert "missing from the file" in text
    assert "more" in text
    assert len(text) < 1500


def test_the_stem_of_a_resnet(bench, drain, tmp_path):
    state = build(ResNet18(stem="imagenet"), SHAPE, 10).body.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    text = refused(bench, drain, tmp_path / "w.safetensors", ResNet18())
    assert "conv1.weight is (64, 1, 7, 7), expected (64, 1, 3, 3)" in text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input_size": (3, 32, 32)}, "takes images of 3 x 32 x 32 .*, the data has 1 x 8 x 8"),
        ({"classes": ("cat", "dog")}, "2 class names are given, but the data has 10"),
        ({"classes": tuple(reversed(DIGITS))}, "another order than the data's: output 0 is '9'"),
        ({"mean": (0.1,)}, "belong together"),
        ({"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}, "mean has 3 values for images of 1"),
        ({"mean": (0.1,), "std": (0.0,)}, "std must be above 0"),
    ],
)
def test_data_that_differs(bench, drain, weights, fields, text):
    import re

    assert re.search(text, refused(bench, drain, weights, **fields))


def test_other_names_for_the_same_classes(bench, drain, weights):
    names = tuple(f"digit {i}" for i in range(10))
    _, summary = imported(bench, drain, weights, classes=names, input_size=SHAPE)
    assert summary["classes"] == list(names)


def test_files_that_are_no_weights(bench, drain, tmp_path, weights):
    assert "there is no file" in refused(bench, drain, tmp_path / "none.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "cut short" in refused(bench, drain, weights)
    (tmp_path / "w.pt").write_bytes(b"hello")
    assert "w.pt" in refused(bench, drain, tmp_path / "w.pt")
    (tmp_path / "w.txt").write_bytes(b"hello")
    assert "w.txt" in refused(bench, drain, tmp_path / "w.txt")


def test_no_architecture_is_named(bench, drain, weights):
    assert "does not say which architecture" in refused(bench, drain, weights, None)
