"""Whether a data set is still the one that it was: hashes of what is in its splits.

A folder grows, a file is replaced, another version of a set lies under the same name: then a split
that is drawn anew can put into the test split what was trained on before. A run therefore keeps
the fingerprints of what it learnt from, and whoever comes later compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.data.splitting import Rows

MARK = hashlib.sha256().digest_size
"""Bytes of the mark of an image file."""


def mark_of_file(name: str, content: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """What tells an image file from others, uint8 (MARK,): its name within the set, its bytes."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\0" + content).digest()
    return np.frombuffer(digest, np.uint8)


def marks_of_rows(images: Tensor) -> Tensor:
    """Marks, uint8 (M, 40), for a set in memory, uint8 (M, C, H, W), contiguous and on the CPU:
    the hash of all of its pixels, and the row of each image."""
    digest = hashlib.sha256(images.numpy().data).digest()
    every = torch.from_numpy(np.frombuffer(digest, np.uint8).copy()).expand(len(images), -1)
    return torch.cat((every, torch.arange(len(images)).view(-1, 1).view(torch.uint8)), dim=1)


def fingerprints(
    marks: Tensor, labels: Tensor, classes: Sequence[str], rows: Rows
) -> tuple[str, str]:
    """SHA-256, hexadecimal: of the whole data set, and of its test split alone.

    `marks`, uint8 (M, K), tell the images apart; `labels` are int64 (M,); `rows` are the ids.
    See `Dataset` for what the two see.
    """
    test = _of_split(marks, labels, rows.test)
    digest = hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape"))
    for part in (rows.train, rows.validation, rows.test):
        digest.update(_of_split(marks, labels, part).encode())
        digest.update(part.numpy().tobytes())
    return digest.hexdigest(), test


def _of_split(marks: Tensor, labels: Tensor, part: Tensor) -> str:
    digest = hashlib.sha256(marks[part].numpy().tobytes())
    digest.update(labels[part].numpy().tobytes())
    return digest.hexdigest()
