"""MNIST, Fashion-MNIST and CIFAR-10, through torchvision's own classes and download."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.data.spec import CIFAR10, MNIST, FashionMNIST
from engine.data.splitting import set_aside
from engine.errors import BadInput, UnavailableError
from engine.events import Event, Note, Progress

if TYPE_CHECKING:
    from engine.bench import Bench


@dataclass(frozen=True, slots=True)
class _Source:
    """How torchvision calls a data set, the files it keeps under its root, the size of the
    download in bytes, and how many training images each class has."""

    title: str
    name: str
    files: tuple[str, ...]
    size: int
    classes: tuple[int, ...]


def _idx_files(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{part}-ubyte" for part in parts)


_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

_SOURCES = {
    "mnist": _Source(
        "MNIST",
        "MNIST",
        _idx_files("MNIST"),
        11_594_722,
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ),
    "fashion_mnist": _Source(
        "Fashion-MNIST", "FashionMNIST", _idx_files("FashionMNIST"), 30_878_645, (6000,) * 10
    ),
    "cifar10": _Source(
        "CIFAR-10",
        "CIFAR10",
        tuple(f"cifar-10-batches-py/{n}" for n in _BATCHES),
        170_498_071,
        (5000,) * 10,
    ),
}


def training_images(spec: MNIST | FashionMNIST | CIFAR10) -> int:
    """How many images the training split has, known without reading or downloading them."""
    classes = _SOURCES[spec.kind].classes
    count = sum(n - set_aside(n, spec.validation) for n in classes)
    return min(spec.limit, count) if spec.limit else count


def read_published(
    spec: MNIST | FashionMNIST | CIFAR10, bench: Bench
) -> Generator[Event, None, tuple[Tensor, Tensor, tuple[str, ...], Tensor]]:
    """All images, uint8 (N, C, H, W), labels, int64 (N,), class names, and the rows that test.

    A copy under the data root (the workspace's `data` unless given) is used; otherwise torchvision
    downloads one to it, with Progress. Training images come first. Raises UnavailableError
    where there is neither copy nor network, BadInput where the copy is damaged.
    """
    source = _SOURCES[spec.kind]
    root = bench.data_root or bench.workspace / "data"
    if not all((root / name).is_file() for name in source.files):
        yield from _download(source, root)
    return _read(source, root)


def _read(source: _Source, root: Path) -> tuple[Tensor, Tensor, tuple[str, ...], Tensor]:
    from torchvision import datasets

    dataset = getattr(datasets, source.name)
    try:
        # CIFAR-10's batches are pickles: the class checks the MD5 of each before it reads any.
        parts = [dataset(str(root), train=train) for train in (True, False)]
        images = torch.cat([_channels_first(torch.as_tensor(part.data)) for part in parts])
        labels = torch.cat([torch.as_tensor(part.targets, dtype=torch.int64) for part in parts])
        names = tuple(name.split(" - ")[0] for name in parts[0].classes)
    except (RuntimeError, ValueError, AssertionError, EOFError, KeyError, pickle.PickleError) as e:
        raise _damaged(source, root, str(e)) from e
    if len(images) != len(labels):
        raise _damaged(source, root, f"{len(images)} images, but {len(labels)} labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise _damaged(source, root, f"labels beyond the {len(names)} classes")
    return images, labels, names, torch.arange(len(parts[0].data), len(images))


def _channels_first(images: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)


def _damaged(source: _Source, root: Path, why: str) -> BadInput:
    folder = root / Path(source.files[0]).parent
    return BadInput(
        f"the copy of {source.title} in {folder} is damaged ({why or 'it cannot be read'}). "
        "Remove that folder to have it downloaded again, or name another with --data-root."
    )


# --- downloading ----------------------------------------------------------------------------------


class _AbandonedError(Exception):
    """Nobody waits for the download any more."""


@dataclass
class _Meter:
    """Stands in for torchvision's progress bar: counts bytes, and ends a download that was
    cancelled, which torchvision offers no other way to do."""

    done: int = 0
    abandoned: bool = False
    error: list[Exception] = field(default_factory=list)

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        if self.abandoned:
            raise _AbandonedError
        self.done += count


class _Here(threading.local):
    """The meter of this thread: a run and a question may download at once."""

    meter: _Meter | None = None


_here = _Here()


def _bar(*args: Any, **kwargs: Any) -> Any:
    """What torchvision takes for its progress bar, which it has one of in the whole process."""
    from torch.utils.model_zoo import tqdm  # type: ignore[attr-defined]

    return _here.meter or tqdm(*args, **kwargs)


def _download(source: _Source, root: Path) -> Generator[Event, None, None]:
    """Download to a folder beside, and move the files into place when all of them are there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    except OSError as error:
        why = f"nothing can be written there: {error.strerror}"
        raise BadInput(_absent(source, root, why)) from error
    yield Note("info", f"{source.title} is not under {root}: downloading it")
    meter = _Meter()
    work = threading.Thread(
        target=_fetch, args=(source, beside, meter), name="download", daemon=True
    )
    work.start()
    try:
        while work.is_alive():
            yield Progress(meter.done, source.size, "bytes")
            work.join(0.04)
        if meter.error:
            *_, why = str(meter.error[0]).strip().splitlines() or [repr(meter.error[0])]
            why = f"it could not be downloaded: {why}"
            raise UnavailableError(_absent(source, root, why)) from meter.error[0]
        for name in source.files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).replace(root / name)
    finally:
        meter.abandoned = True
        if not work.is_alive():
            shutil.rmtree(beside, ignore_errors=True)


def _fetch(source: _Source, folder: Path, meter: _Meter) -> None:
    """In a thread of its own: torchvision's download, with the meter for its progress bar."""
    from torchvision import datasets
    from torchvision.datasets import utils

    _here.meter = meter
    utils.tqdm = _bar
    try:
        getattr(datasets, source.name)(str(folder), download=True)
    except Exception as error:  # whatever it is, the task says it
        meter.error.append(error)
    finally:
        if meter.abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _absent(source: _Source, root: Path, why: str) -> str:
    names = ", ".join(Path(name).name for name in source.files)
    return (
        f"{source.title} is not under {root}, and {why}. Expected {names} in "
        f"{root / Path(source.files[0]).parent}. Connect to the network, put the files there, or "
        "say where they are with --data-root."
    )
