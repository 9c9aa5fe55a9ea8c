"""The features that published FIDs are of: Inception v3's, in the version of Heusel et al. (2017),
through torch-fidelity, where it is installed and its weights are on this machine.

Nothing is downloaded. The weights are a pickle, which is a program: it is opened in a process of
its own (`engine.vault.convert`), and torch-fidelity is given the tensors alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from engine.errors import UnavailableError
from engine.events import Event
from engine.generative.metrics.extractors import Extractor, Shape
from engine.vault.convert import converting

if TYPE_CHECKING:
    from engine.bench import Bench

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""As torch-fidelity's releases call them, and keep them among torch's downloads."""

LAYER, DIMENSIONS = "2048", 2048

BATCH = 4
"""Each image is enlarged to 299 x 299, and takes a CPU a tenth of a second."""


def inception(shape: Shape, bench: Bench) -> Generator[Event, None, Extractor]:
    """Inception's features of images of `shape`, which it enlarges itself; grey ones count as
    colours. Raises UnavailableError where torch-fidelity or its weights are missing."""
    network = _network_class()
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not path.is_file():
        raise UnavailableError(
            f"the weights of Inception are not on this machine: there is no {path}. Put them there "
            "as torch-fidelity's releases offer them, or take one of our own extractors"
        )
    with tempfile.TemporaryDirectory(prefix=".inception-", dir=bench.folder) as scratch:
        tensors = yield from converting(path, Path(scratch))
        plain = Path(scratch) / "plain.pth"  # of tensors alone, written by ourselves
        torch.save(safetensors.torch.load_file(tensors), plain)
        module = network("inception", [LAYER], feature_extractor_weights_path=str(plain))
    module = module.to(bench.device).eval()

    def see(images: Tensor) -> tuple[Tensor, Tensor]:
        whole = (images.to(bench.device) * 255).round().clamp(0, 255).to(torch.uint8)
        (found,) = module(whole)
        return found, found.new_empty(len(found), 0)

    _, height, width = shape
    return Extractor("inception", (3, height, width), (), DIMENSIONS, see, BATCH)


def _network_class() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UnavailableError(
            "Inception's features need torch-fidelity, which is not installed; install "
            "crucible-workbench[fidelity], or take one of our own extractors"
        ) from None
    return FeatureExtractorInceptionV3
