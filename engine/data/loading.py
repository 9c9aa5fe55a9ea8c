"""From the description of a data set to its splits on the device."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from engine.data.spec import CIFAR10, MNIST, DataSpec, Digits, FashionMNIST, Folder
from engine.data.split import Dataset, resident
from engine.data.splitting import Rows, divide
from engine.errors import BadInput
from engine.events import Event

if TYPE_CHECKING:
    from engine.bench import Bench


def load(spec: DataSpec, bench: Bench) -> Generator[Event, None, Dataset]:
    """The data set that `spec` describes, on the device of the bench.

    Yields Progress while downloading or decoding, and a Note where images were skipped. Draws on
    nothing global. Raises BadInput where the data is absent or cannot be used as it is, and
    CrucibleError where a download fails.
    """
    match spec:
        case Digits():
            from engine.data.digits import read_digits

            images, labels, classes = read_digits(spec.size)
            rows = divide(
                labels, classes, seed=spec.split_seed, validation=spec.validation, test=spec.test
            )
            return resident(images, labels, classes, rows, bench.device)
        case MNIST() | FashionMNIST() | CIFAR10():
            from engine.data.published import read_published

            images, labels, classes, test = yield from read_published(spec, bench)
            rows = divide(
                labels, classes, seed=spec.split_seed, validation=spec.validation, test=test
            )
            if spec.limit:
                rows = Rows(rows.train[: spec.limit], rows.validation, rows.test)
            return resident(images, labels, classes, rows, bench.device)
        case Folder():
            from engine.data.folder import load_folder

            return (yield from load_folder(spec, bench))
        case _:
            raise BadInput(f"there is no way to load data of kind {spec.kind!r}")
