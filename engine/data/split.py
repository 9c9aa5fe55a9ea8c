"""A data set in its three splits, and how batches are taken from them.

Images stay uint8 in memory and become float32 in [0, 1] on the device, one batch at a time. Sets
that fit are one tensor on the device, and a batch is an index; larger ones are decoded ahead of
need by a few threads.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from engine.data.fingerprint import fingerprint, keys_of, marks_of_rows, share_seen, sketch
from engine.data.splitting import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, int, int]
"""Channels, height, width."""

Decode: TypeAlias = "Callable[[int], NDArray[np.uint8]]"
"""The image of one row of the whole set, uint8 (C, H, W)."""

WORKERS = min(4, os.cpu_count() or 1)
"""Threads that decode images; decoding leaves the interpreter lock."""

_CHUNK = 16
"""Images that one thread decodes in one go: handing over fewer costs more than decoding them."""

_AHEAD = 2
"""Batches that are decoded while the current one is used."""


def parts(index: Tensor, size: int) -> tuple[Tensor, ...]:
    """`index` in parts of `size`; none of nothing, where torch's own split gives an empty one."""
    return index.split(size) if len(index) else ()


class Split(ABC):
    """Some of the images of a data set, with their labels.

    `labels` is int64 (N,) on the device; `ids` is int64 (N,) on the CPU and names each image in
    the whole set, whatever the split; `shape` is (C, H, W).
    """

    def __init__(self, labels: Tensor, ids: Tensor, shape: Shape, device: torch.device) -> None:
        self.labels = labels.to(device)
        self.ids = ids
        self.shape = shape
        self.device = device

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images, float32 in [0, 1], (B, C, H, W), and labels, int64 (B,), at `index`.

        `index` is int64 (B,), places within this split, on the CPU or the device. Both results
        are new tensors on the device. Raises IndexError where there is no such place.
        """

    def batches(self, index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`index` in parts of `size`, each with its images and labels, in order."""
        for part in parts(index, size):
            images, labels = self.batch(part)
            yield part, images, labels


class ResidentSplit(Split):
    """A split of a set that lies in memory, on the device."""

    def __init__(
        self, images: Tensor, rows: Tensor, labels: Tensor, ids: Tensor, device: torch.device
    ) -> None:
        """`images` is the whole set, uint8 (M, C, H, W), shared by the splits; `rows`, int64 (N,),
        says which of them are in this one, as do `labels` and `ids`, (N,) each."""
        _, channels, height, width = images.shape
        super().__init__(labels, ids, (channels, height, width), device)
        self._pixels = images.to(device).flatten(1)
        self._rows = rows.to(device)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.device, non_blocking=True)
        pixels = self._pixels.index_select(0, self._rows.index_select(0, index))
        images = pixels.to(torch.float32).div_(255).view(-1, *self.shape)
        return images, self.labels.index_select(0, index)


class StreamedSplit(Split):
    """A split of a set that is decoded as it is used."""

    def __init__(
        self,
        decode: Decode,
        rows: Sequence[int],
        labels: Tensor,
        ids: Tensor,
        shape: Shape,
        device: torch.device,
    ) -> None:
        """`decode(row)` is called from several threads; `rows`, `labels` and `ids` are as in
        ResidentSplit."""
        super().__init__(labels, ids, shape, device)
        self._decode = decode
        self._rows = rows

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        for _, images, labels in self.batches(index, max(1, len(index))):
            return images, labels
        return torch.empty(0, *self.shape, device=self.device), self.labels[:0]

    def batches(self, index: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
        ahead: deque[tuple[Tensor, Tensor, list[Future[None]]]] = deque()
        try:
            for part in parts(index, size):
                ahead.append(self._start(pool, part))
                if len(ahead) > _AHEAD:
                    yield self._finish(*ahead.popleft())
            while ahead:
                yield self._finish(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, part: Tensor
    ) -> tuple[Tensor, Tensor, list[Future[None]]]:
        places = part.tolist()
        if any(not 0 <= place < len(self) for place in places):
            raise IndexError(f"a place beyond the {len(self)} images of this split")
        pixels = torch.empty(
            len(places), math.prod(self.shape), dtype=torch.uint8, pin_memory=self._pinned
        )
        view = pixels.view(-1, *self.shape).numpy()

        def fill(start: int) -> None:
            for place in range(start, min(start + _CHUNK, len(places))):
                view[place] = self._decode(self._rows[places[place]])

        return part, pixels, [pool.submit(fill, i) for i in range(0, len(places), _CHUNK)]

    def _finish(
        self, part: Tensor, pixels: Tensor, work: list[Future[None]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        for chunk in work:
            chunk.result()
        moved = pixels.to(self.device, non_blocking=True)
        images = moved.to(torch.float32).div_(255).view(-1, *self.shape)
        return part, images, self.labels.index_select(0, part.to(self.device))

    @property
    def _pinned(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Train (learnt from), validation (early stopping, best epoch; may be empty), test (reported).

    `classes` are the names in the order of the labels; `shape` is (C, H, W).

    `fingerprint` is a SHA-256 in hexadecimal. It changes with the class names, and with the images,
    labels and ids of any split. Of a set in memory an image is the pixels of the whole set and its
    row; of a person's own images it is its name (from where the classes or splits begin, so that a
    set may move, or be zipped) and the bytes of its file. What is done to images later (size and
    channels of a `Folder`), files that are no images, or a file that changes while a streamed set
    is used, it does not see.

    `sketch` is what a model keeps of the training images (`engine.data.fingerprint.sketch`), and
    `seen` says what share of the test images such sketches hold. There a name does not matter: the
    same file in another place is the same image, the same picture in another format another one.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    shape: Shape
    fingerprint: str
    marks: Tensor = field(repr=False)
    """Of all images, by their ids, uint8 (M, K); on the CPU."""
    groups: Tensor | None = field(default=None, repr=False)
    """Who each image is from (a writer, a device), by its id, int64 (M,), on the CPU; None where
    the data does not say. Of a person's own images it is the folder inside of the class's."""

    @property
    def sketch(self) -> str:
        """Of the training images, for the card of a model that learns from them."""
        keys = keys_of(self.marks)
        return sketch(keys[self.train.ids.cpu()], keys[self.test.ids.cpu()])

    def seen(self, sketches: Sequence[str]) -> float:
        """The share of the test images that models with these sketches learnt from."""
        return share_seen(sketches, keys_of(self.marks)[self.test.ids.cpu()])


def resident(
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    rows: Rows,
    device: torch.device,
    marks: Tensor | None = None,
) -> Dataset:
    """A data set in memory from all its images, uint8 (M, C, H, W), and labels, int64 (M,).

    The id of an image is its row. `marks`, uint8 (M, K), tell images apart where there is something
    better to do so than their pixels.
    """
    images = images.contiguous()
    marks = marks_of_rows(images) if marks is None else marks
    whole = fingerprint(marks, labels, classes, rows)
    images = images.to(device)

    def split(part: Tensor) -> Split:
        return ResidentSplit(images, part, labels[part], part, device)

    _, channels, height, width = images.shape
    return Dataset(
        train=split(rows.train),
        validation=split(rows.validation),
        test=split(rows.test),
        classes=classes,
        shape=(channels, height, width),
        fingerprint=whole,
        marks=marks,
    )
