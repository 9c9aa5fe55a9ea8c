"""The explanation of one sample as two tables, the same that the window exports."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.explain.explaining import METHODS, explain
from engine.explain.pair import Pair
from engine.explain.surface import SIDE, plane_through, survey
from engine.files import atomic

EXPLANATION, SURFACE = "explanation.csv", "surface.csv"


def write_explanation(model: nn.Module, pair: Pair, folder: Path) -> dict[str, Any]:
    """Write both tables into `folder`; what each method found, by its name. A sample that the
    attack left as it was has no surface, and only the first table.

    Raises BadInput or CrucibleError where they cannot be written."""
    images = torch.cat([pair.clean, pair.adversarial])
    found = {method: explain(model, images, method) for method in METHODS}
    rows: list[Sequence[Any]] = [("method", "row", "column", "clean", "adversarial", "moved")]
    for method, each in found.items():
        if not each.missing:
            maps = torch.cat([each.shares, each.moved[None]])
            height, width = maps.shape[1:]
            rows += [
                (method, row, column, *(f"{v:.9g}" for v in maps[:, row, column].tolist()))
                for row in range(height)
                for column in range(width)
            ]
    _write(folder / EXPLANATION, rows)
    changed = not torch.equal(pair.clean, pair.adversarial)
    if changed:
        _write(folder / SURFACE, _surface(model, pair))
    return {
        "label": pair.label,
        "predictions": list(found["saliency"].classes),
        "moved": {method: each.share_moved for method, each in found.items()},
        "missing": {method: each.missing for method, each in found.items() if each.missing},
        "files": [EXPLANATION, SURFACE] if changed else [EXPLANATION],
    }


def _surface(model: nn.Module, pair: Pair) -> Iterable[Sequence[Any]]:
    plane = plane_through(pair, seed=0)
    found = survey(model, plane, pair.label, seconds=math.inf)
    middle = (SIDE - 1) / 2
    yield "along", "across", "loss", "margin", "predicted"
    for at in torch.argsort(found.row * SIDE + found.column).tolist():
        place = (found.column[at], found.row[at])
        values = [(float(v) - middle) / middle * plane.reach for v in place]
        values += [float(found.loss[at]), float(found.margin[at])]
        yield *(f"{v:.9g}" for v in values), int(found.prediction[at])


def _write(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with atomic(path) as file:
        file.write(text.getvalue().encode())
