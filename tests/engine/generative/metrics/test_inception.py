"""The extractor of published figures: what is handed to torch-fidelity, and what is told where it
or its weights are missing. A network of one layer stands for Inception here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.bench import Bench
from engine.errors import BadInput, UnavailableError
from engine.events import drain
from engine.generative.metrics import features
from engine.generative.metrics.inception import DIMENSIONS, WEIGHTS, inception


class OneLayer(nn.Module):
    """Loads its weights as torch-fidelity's class does, and takes what that takes."""

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert layers == ["2048"]
        self.layer = nn.Linear(3, DIMENSIONS)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return (self.layer(images.float().mean((2, 3))),)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch-fidelity is installed, and torch's downloads are in this folder."""
    module: Any = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = OneLayer
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_it_is_given_grey_images_in_colour_and_in_levels(bench: Bench, checkpoints: Path) -> None:
    layer = nn.Linear(3, DIMENSIONS)
    state = {"layer.weight": layer.weight.detach(), "layer.bias": layer.bias.detach()}
    torch.save(state, checkpoints / WEIGHTS)
    extractor = drain(inception((1, 6, 6), bench))
    assert (extractor.name, extractor.shape, extractor.classes) == ("inception", (3, 6, 6), ())
    levels = torch.randint(0, 256, (9, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    found = features(levels / 255, extractor)
    with torch.no_grad():
        expected = layer(levels.float().mean((2, 3)).expand(-1, 3))
    assert torch.allclose(found, expected, atol=1e-4)
    assert list(bench.folder.iterdir()) == []


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("harm"), "done"))


def test_a_pickle_that_is_a_program_is_not_run(
    bench: Bench, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"layer.weight": Harm()}, checkpoints / WEIGHTS)
    with pytest.raises(BadInput):
        drain(inception((3, 6, 6), bench))
    assert not (tmp_path / "harm").exists()
    assert list(bench.folder.iterdir()) == []


def test_missing_weights_are_told_and_not_downloaded(bench: Bench, checkpoints: Path) -> None:
    with pytest.raises(UnavailableError, match="the weights of Inception are not on this machine"):
        drain(inception((3, 6, 6), bench))


def test_a_missing_torch_fidelity_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UnavailableError, match=r"install crucible-workbench\[fidelity\]"):
        drain(inception((3, 6, 6), bench))
