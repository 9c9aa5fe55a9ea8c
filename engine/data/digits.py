"""scikit-learn's handwritten digits, read from the file that the package ships.

Importing `sklearn.datasets` takes seconds, reading the file takes milliseconds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import CrucibleError

SIDE = 8
DARKEST = 16
"""The file's grey values are 0 to 16."""


def read_digits(size: int = SIDE) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """All 1,797 images, uint8 (N, 1, size, size), their labels, int64 (N,), and class names.

    Source: UCI optdigits (Alpaydin and Kaynak 1998), as in `sklearn.datasets.load_digits`; the 17
    grey values are spread over 0 to 255, and larger sizes are interpolated bilinearly.
    Raises CrucibleError if scikit-learn or its file is not there.
    """
    table = torch.from_numpy(np.loadtxt(_file(), delimiter=",", dtype=np.float32))
    images = table[:, :-1].view(-1, 1, SIDE, SIDE) * (255 / DARKEST)
    if size != SIDE:
        images = functional.interpolate(
            images, size=(size, size), mode="bilinear", align_corners=False
        )
    labels = table[:, -1].to(torch.int64)
    return images.round_().to(torch.uint8), labels, tuple("0123456789")


def _file() -> Path:
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise CrucibleError(
        "the digits that scikit-learn ships were not found; expected sklearn/datasets/data/"
        "digits.csv.gz. Install scikit-learn again."
    )
