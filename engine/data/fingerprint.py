"""Whether a data set is still the one that it was: hashes of what is in its splits.

A folder grows, a file is replaced, another version of a set lies under the same name: then a split
that is drawn anew can put into the test split what was trained on before. A run therefore keeps the
fingerprint of its data, to be resumed with no other, and its model a sketch of the images that it
learnt from, to be tested on no one of them unsaid.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.data.splitting import Rows
from engine.random import mix

KEY = 8
"""Bytes that a mark begins with, and which tell images apart by what they show."""

MARK = KEY + hashlib.sha256().digest_size
"""Bytes of the mark of an image file."""

SKETCH = 1024
"""Images that a sketch holds."""


def mark_of_file(name: str, content: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """What tells an image file from others, uint8 (MARK,): its bytes, its name within the set."""
    digest = hashlib.sha256(content).digest()
    named = hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\0" + digest).digest()
    return np.frombuffer(digest[:KEY] + named, np.uint8)


def marks_of_rows(images: Tensor) -> Tensor:
    """Marks, uint8 (M, 40), for a set in memory, uint8 (M, C, H, W), contiguous and on the CPU:
    the hash of all of its pixels, with the row of each image."""
    digest = hashlib.sha256(images.numpy().data).digest()
    every = torch.from_numpy(np.frombuffer(digest, np.uint8).copy()).expand(len(images), -1)
    keys = mix(torch.arange(len(images)) + int.from_bytes(digest[:KEY], "little", signed=True))
    return torch.cat((keys.view(-1, 1).view(torch.uint8), every), dim=1)


def fingerprint(marks: Tensor, labels: Tensor, classes: Sequence[str], rows: Rows) -> str:
    """SHA-256, hexadecimal, of a whole data set. `marks`, uint8 (M, K), tell the images apart;
    `labels` are int64 (M,); `rows` are the ids. See `Dataset` for what it sees."""
    digest = hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape"))
    for part in (rows.train, rows.validation, rows.test):
        for of_split in (marks[part], labels[part], part):
            digest.update(of_split.numpy().tobytes())
    return digest.hexdigest()


def keys_of(marks: Tensor) -> Tensor:
    """Of each image a number that others of the same contents have too, int64 (M,), >= 0."""
    keys: Tensor = marks[:, :KEY].contiguous().view(torch.int64).squeeze(1)
    return keys & (2**63 - 1)


def sketch(learnt: Tensor, kept: Tensor) -> str:
    """What is kept of the images that a model learns from: base64 of the SKETCH smallest of their
    keys `learnt`, int64 (N,), and of the bound below which these are all (bottom-k sampling: Cohen
    and Kaplan 2007, section 2). Pictures that are also in the test split, whose keys are `kept`,
    were there twice when the model was trained, and say nothing of a change."""
    smallest = learnt[~torch.isin(learnt, kept)].unique()[: SKETCH + 1]
    bound = int(smallest[SKETCH]) if len(smallest) > SKETCH else 2**63 - 1
    numbers = torch.cat((torch.tensor([bound]), smallest[:SKETCH]))
    return base64.b64encode(numbers.numpy().astype("<i8").tobytes()).decode()


def share_seen(sketches: Sequence[str], keys: Tensor) -> float:
    """The share of the images with these keys, int64 (N,), that the sketches show to have been
    learnt from: exact for up to SKETCH training images, else an estimate from as many."""
    shares = [0.0]
    for text in sketches:
        numbers = torch.from_numpy(np.frombuffer(base64.b64decode(text), "<i8").astype(np.int64))
        known = keys[keys < numbers[0]]
        shares.append(torch.isin(known, numbers[1:]).double().mean().item() if len(known) else 0.0)
    return max(shares)
