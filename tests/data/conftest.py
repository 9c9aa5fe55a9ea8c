"""Small data sets in the real forms, written by the tests."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PARTS = (("train", 60), ("t10k", 20))


def idx(array: np.ndarray) -> bytes:
    """The IDX form of a uint8 array, as MNIST's page describes it."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def idx_files(seed: int = 0) -> dict[str, bytes]:
    """The four files of a small MNIST: 60 and 20 images of 28 x 28, every class equally often."""
    draw = np.random.default_rng(seed)
    files = {}
    for part, count in PARTS:
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


@pytest.fixture
def write_idx() -> Callable[..., Path]:
    def write(root: Path, name: str = "MNIST") -> Path:
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for file, content in idx_files().items():
            (raw / file).write_bytes(content)
        return raw

    return write


@pytest.fixture
def serve_idx(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, bytes]]:
    """What a mirror would serve, with torchvision told the sums of these files."""

    def files() -> dict[str, bytes]:
        from torchvision.datasets import MNIST

        served = {f"{name}.gz": gzip.compress(body) for name, body in idx_files().items()}
        sums = [(n, hashlib.md5(b, usedforsecurity=False).hexdigest()) for n, b in served.items()]
        monkeypatch.setattr(MNIST, "resources", sums)
        return served

    return files


@pytest.fixture
def write_cifar(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, np.ndarray]]:
    """Batches as CIFAR-10's page describes them: 10 images each, in a row of 3072 bytes."""

    def write(root: Path) -> dict[str, np.ndarray]:
        from torchvision.datasets import CIFAR10

        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        draw = np.random.default_rng(0)
        written: dict[str, np.ndarray] = {}
        sums: dict[str, str] = {}

        def put(name: str, content: dict[str, Any]) -> None:
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            data = (folder / name).read_bytes()
            sums[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()

        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            count = 20
            written[name] = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
            put(name, {"data": written[name], "labels": [i % 10 for i in range(count)]})
        put("batches.meta", {"label_names": [f"class{i}" for i in range(10)]})
        monkeypatch.setattr(
            CIFAR10, "train_list", [[n, sums[n]] for n in sums if n.startswith("data")]
        )
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
        return written

    return write


Write = Callable[..., Path]


@pytest.fixture
def write_images() -> Write:
    """Class folders of PNGs; the red of image i of class k is 40 * k + i."""

    def write(root: Path, classes: dict[str, int], side: int = 12) -> Path:
        for k, (name, count) in enumerate(classes.items()):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = Image.new("RGB", (side, side), (40 * k + i, 100, 200))
                image.save(root / name / f"{i:03}.png")
        return root

    return write


@pytest.fixture
def zip_of() -> Callable[[Path, Path], Path]:
    def pack(folder: Path, target: Path) -> Path:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
        return target

    return pack
