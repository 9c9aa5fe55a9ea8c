"""A person's own images: decoded into memory where they fit, else decoded as they are used."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.data.fingerprint import MARK, fingerprint, mark_of_file
from engine.data.images import UnreadableError, decode
from engine.data.listing import Listing, list_images
from engine.data.spec import Folder
from engine.data.split import WORKERS, Dataset, Split, StreamedSplit, resident
from engine.data.splitting import Rows, divide
from engine.errors import BadInput, CrucibleError
from engine.events import Event, Note, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.bench import Bench

_CHUNK = 8
"""Images that one thread decodes in one go."""

_NAMED = 5
"""Skipped images that are named; the others are counted."""

Decoded = Callable[[int, bytes, "NDArray[np.uint8]"], None]
"""Takes the row of an image, its file, and its pixels."""


def load_folder(spec: Folder, bench: Bench) -> Generator[Event, None, Dataset]:
    """The data set in the folder or zip at `spec.path`.

    Every image is decoded once, with Progress; those that cannot be are left out and listed in a
    Note. The id of an image is its place in the sorted list of all files, readable or not. Raises
    BadInput where the folder is not what `Folder` describes.
    """
    listing = list_images(Path(spec.path).expanduser())
    total = len(listing.names)
    shape = (spec.channels, spec.size, spec.size)
    budget = spec.memory * 2**20 if spec.memory else bench.free_memory() // 4
    streamed = total * int(np.prod(shape)) > budget

    pixels = np.empty((0 if streamed else total, *shape), np.uint8)
    marked = np.zeros((total, MARK), np.uint8)

    def keep(row: int, content: bytes, image: NDArray[np.uint8]) -> None:
        marked[row] = mark_of_file(listing.inner[row], content)
        if not streamed:
            pixels[row] = image

    faults: dict[int, str] = {}
    yield from _decode_all(listing, spec, keep, faults)
    if faults:
        yield Note("warning", _skipped(listing, faults))
    rows = _split(listing, spec, faults)
    labels = torch.tensor(listing.labels)
    marks = torch.from_numpy(marked)
    groups = _groups(listing)
    if not streamed:
        images = torch.from_numpy(pixels)
        data = resident(images, labels, listing.classes, rows, bench.device, marks)
        return dataclasses.replace(data, groups=groups)

    yield Note(
        "info",
        f"{total} images of {spec.size} x {spec.size} exceed the memory budget of "
        f"{budget / 2**20:.0f} MB: they are decoded as they are used",
    )

    def read(row: int) -> NDArray[np.uint8]:
        try:
            return decode(listing.read(listing.names[row]), spec.size, spec.channels)
        except UnreadableError as error:
            raise CrucibleError(
                f"{listing.names[row]} in {spec.path} could be read at first and now cannot: "
                f"{error}. Leave the images in place while they are used."
            ) from None

    def split(part: torch.Tensor) -> Split:
        return StreamedSplit(read, part.tolist(), labels[part], part, shape, bench.device)

    return Dataset(
        train=split(rows.train),
        validation=split(rows.validation),
        test=split(rows.test),
        classes=listing.classes,
        shape=shape,
        fingerprint=fingerprint(marks, labels, listing.classes, rows),
        marks=marks,
        groups=groups,
    )


def _groups(listing: Listing) -> torch.Tensor | None:
    """Who the images are from; None where no class folder has folders inside."""
    if not any(listing.groups):
        return None
    place = {name: i for i, name in enumerate(sorted(set(listing.groups)))}
    return torch.tensor([place[name] for name in listing.groups])


def _decode_all(
    listing: Listing, spec: Folder, keep: Decoded, faults: dict[int, str]
) -> Iterator[Event]:
    """Decode each image into `keep`, in threads; note in `faults` why one cannot be."""
    total = len(listing.names)

    def work(start: int) -> int:
        rows = range(start, min(start + _CHUNK, total))
        for row in rows:
            try:
                content = listing.read(listing.names[row])
                keep(row, content, decode(content, spec.size, spec.channels))
            except UnreadableError as error:
                faults[row] = str(error)
        return len(rows)

    starts = iter(range(0, total, _CHUNK))
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
    running: deque[Future[int]] = deque()
    done, said = 0, time.monotonic()
    try:
        yield Progress(0, total, "images")
        while True:
            while len(running) < 2 * WORKERS and (start := next(starts, None)) is not None:
                running.append(pool.submit(work, start))
            if not running:
                break
            done += running.popleft().result()
            if time.monotonic() - said > 0.03:
                yield Progress(done, total, "images")
                said = time.monotonic()
        yield Progress(total, total, "images")
    finally:
        pool.shutdown(cancel_futures=True)


def _skipped(listing: Listing, faults: dict[int, str]) -> str:
    rows = sorted(faults)
    named = "; ".join(f"{listing.names[row]} ({faults[row]})" for row in rows[:_NAMED])
    more = f"; and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return (
        f"{len(rows)} of {len(listing.names)} images cannot be read and are skipped: {named}{more}"
    )


def _split(listing: Listing, spec: Folder, faults: dict[int, str]) -> Rows:
    """The splits of the images that could be read."""
    good = torch.tensor([row for row in range(len(listing.names)) if row not in faults])
    if not len(good):
        raise BadInput(f"none of the {len(listing.names)} images in {spec.path} can be read")
    labels = torch.tensor(listing.labels)[good]

    def part(name: str) -> torch.Tensor:
        return torch.tensor([listing.parts[row] == name for row in good.tolist()]).nonzero()[:, 0]

    own = {"test": listing.own_test, "validation": listing.own_validation}
    for name in (name for name, present in own.items() if present):
        missing = set(range(len(listing.classes))) - set(labels[part(name)].tolist())
        if missing:
            first = listing.classes[min(missing)]
            raise BadInput(f"no image of class {first!r} in {spec.path} ({name}) can be read")
    rows = divide(
        labels,
        listing.classes,
        seed=spec.split_seed,
        validation=spec.validation,
        test=part("test") if listing.own_test else spec.test,
        aside=part("validation") if listing.own_validation else None,
    )
    return Rows(good[rows.train], good[rows.validation], good[rows.test])
