"""Samples of a trained generator in files for other programs: a picture of many, exact values, or
a table of points."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
from PIL import Image
from torch import Tensor

from engine.attacks.showing import as_pixels
from engine.errors import BadInput
from engine.files import atomic, check_target
from engine.generative.making import Maker, load_maker
from engine.generative.networks import POINT

if TYPE_CHECKING:
    from engine.bench import Bench

FORMS = (".png", ".safetensors", ".csv")

PICTURED = 10_000
"""Images in one picture, at most."""

GAP = 2
"""Pixels between two of them."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: `count` samples of `shape`, and `label`, the class that was asked for."""

    file: str
    count: int
    shape: tuple[int, ...]
    seed: int
    label: str | None


def write_samples(
    ref: str, bench: Bench, to: Path, *, count: int = 64, seed: int = 0, label: str | None = None
) -> Written:
    """Let the generator that `ref` names (a run, or a file, encrypted or not) make `count` samples
    by a seed, all of the class `label` where one is named, and write them to the new file `to`.

    .png: images in a grid, row by row. .safetensors: `samples`, float32 (N, C, H, W), and of a
    conditional one `labels`, int64 (N,). .csv: points, one row each: x, y (and label).
    Raises BadInput where that cannot be done, before anything is made where it is known by then.
    """
    form = to.suffix.lower()
    if form not in FORMS:
        raise BadInput(f"{to} does not say in which form; expected a name that ends in {_FORMS}")
    check_target(to)
    if to.exists():
        raise BadInput(f"{to} exists already and is not overwritten. Choose another name.")
    maker = load_maker(ref, bench)
    _check_form(form, maker, count, ref)
    samples, labels = maker.samples(count, seed=seed, label=label)
    match form:
        case ".png":
            content = _picture(samples)
        case ".csv":
            content = _table(samples, labels, maker.card.classes)
        case _:
            content = _exact(samples, labels, maker, seed)
    with atomic(to, replace=False) as file:
        file.write(content)
    return Written(str(to), count, tuple(maker.card.shape), seed, label)


_FORMS = ".png (images in a grid), .safetensors (exact values) or .csv (points of a plane)"


def _check_form(form: str, maker: Maker, count: int, ref: str) -> None:
    """Raises BadInput where such a file cannot hold such samples."""
    channels, height, width = shape = maker.card.shape
    if form == ".csv" and shape != POINT:
        raise BadInput(
            f"{ref!r} makes images, {channels} x {height} x {width}, and a .csv file holds points "
            "of a plane; end the name in .png or .safetensors"
        )
    if form == ".png" and shape == POINT:
        raise BadInput(
            f"{ref!r} makes points of a plane, which are no picture; end the name in .csv or "
            ".safetensors"
        )
    if form == ".png" and channels not in (1, 3):
        raise BadInput(
            f"these images have {channels} channels, a PNG file has 1 or 3; write them as "
            ".safetensors instead"
        )
    if form == ".png" and count > PICTURED:
        raise BadInput(
            f"{count} images are too many for one picture; expected at most {PICTURED}, or a name "
            "that ends in .safetensors"
        )


def _picture(samples: Tensor) -> bytes:
    """Images (N, C, H, W) in [0, 1] side by side, in about as many rows as columns, on white."""
    pixels = as_pixels(samples * 255)
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, np.uint8
    )
    for place, each in enumerate(pixels):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = each
    content = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(content, "PNG")
    return content.getvalue()


def _table(samples: Tensor, labels: Tensor | None, classes: tuple[str, ...]) -> bytes:
    """Every float32 in as many digits as tell it from its neighbours."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["x", "y", *([] if labels is None else ["label"])])
    names = [[]] * len(samples) if labels is None else [[classes[at]] for at in labels.tolist()]
    for point, name in zip(samples.reshape(-1, 2).tolist(), names, strict=True):
        writer.writerow([*(f"{value:.9g}" for value in point), *name])
    return text.getvalue().encode()


def _exact(samples: Tensor, labels: Tensor | None, maker: Maker, seed: int) -> bytes:
    tensors = {"samples": samples.contiguous()}
    if labels is not None:
        tensors["labels"] = labels
    facts = {
        "weights_sha256": maker.card.weights_sha256,
        "run": maker.card.run,
        "seed": seed,
        "classes": maker.card.classes,
    }
    # In one entry: the order of several would differ from one process to the next.
    return safetensors.torch.save(tensors, {"samples": json.dumps(facts)})
