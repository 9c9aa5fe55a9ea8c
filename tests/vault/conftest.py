"""Small models, benches and limits that the vault's tests share."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from engine.bench import Bench
from engine.models.card import ModelCard
from engine.models.spec import MLP
from engine.vault import recipients


@pytest.fixture
def quick_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes with a small work factor: the real one takes most of a second a file."""
    monkeypatch.setattr(recipients, "WORK_FACTOR", 10)


def model_bytes(size: int = 1000) -> bytes:
    """A model file with `size` random float32 weights."""
    weights = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    card = ModelCard(
        model=MLP(), shape=(1, 8, 8), classes=("a", "b"), weights_sha256="5" * 64, run="r1"
    )
    return save({"w": weights}, {"card": json.dumps(card.to_dict())})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file of about 1 MB."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(250_000))
    return path


@pytest.fixture
def make_bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(**secrets: str) -> Bench:
        folder = tmp_path / "workspace" / "runs" / "r2"
        folder.mkdir(parents=True, exist_ok=True)
        return Bench(folder, tmp_path / "workspace", secrets=secrets)

    return make


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """Within `largest_file(size)`, writing beyond `size` bytes fails as on a full disk."""
    return _largest_file
