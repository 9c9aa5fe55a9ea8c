"""Updates as whole numbers under masks: the arithmetic of secure aggregation.

Everything is counted modulo 2**32 (coordinates) and 2**64 (totals), so that a mask is uniform over
all values, and what it hides could be any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from torch import Tensor

Update = dict[str, Tensor]
Words = NDArray[np.uint32]
Longs = NDArray[np.uint64]

TOTALS = ("examples", "steps", "loss", "accuracy", "clipped", "cut")
"""What else is summed under masks: images, steps, loss and accuracy times images, whether the
update was clipped, coordinates that were cut off."""
FRACTION = 2**20
"""Parts of one in which loss and accuracy are counted."""
LARGEST_LOSS = 1000.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How real numbers become whole ones, where so many clients are summed: the sum of all stays
    between -2**31 and 2**31."""

    largest: float
    clients: int

    @property
    def levels(self) -> int:
        """The whole number that stands for `largest`."""
        return (2**31 - 1) // self.clients

    @property
    def step(self) -> float:
        """The real number that 1 stands for. Each client's coordinate is off by half of it at most,
        and the sum of n by n halves."""
        return self.largest / self.levels

    def counted(self, update: Mapping[str, Tensor], weight: float) -> tuple[Words, int]:
        """An update times a weight of 0 to 1, and how many of its coordinates were cut off."""
        flat = torch.cat([tensor.detach().reshape(-1).double() for tensor in update.values()])
        cut = int((flat.abs() > self.largest).sum())
        whole = (flat.clamp(-self.largest, self.largest) * (weight / self.step)).round_()
        return whole.numpy().astype(np.int64).astype(np.uint32), cut

    def real(self, words: Words, like: Mapping[str, Tensor]) -> Update:
        """A sum, as tensors of these names and shapes, float64."""
        flat = torch.from_numpy(words.view(np.int32).astype(np.float64)) * self.step
        parts = flat.split([tensor.numel() for tensor in like.values()])
        return {
            name: part.view(tensor.shape)
            for (name, tensor), part in zip(like.items(), parts, strict=True)
        }


def clipped(
    update: Mapping[str, Tensor], norm: float, scale: Scale
) -> tuple[dict[str, Tensor], bool]:
    """An update that is no longer than `norm` also when it is counted, and whether that took
    anything off beyond what rounding may add."""
    count = sum(tensor.numel() for tensor in update.values())
    room = norm - math.sqrt(count) * scale.step / 2
    length = math.sqrt(sum(float(t.double().square().sum()) for t in update.values()))
    if length <= room:
        return dict(update), False
    factor = max(0.0, room) / length
    return {name: tensor.double() * factor for name, tensor in update.items()}, length > norm


def counted_totals(values: Mapping[str, float]) -> Longs:
    """The totals of one client, as TOTALS has them, `loss` and `accuracy` of an image."""
    images = values["examples"]
    loss = values["loss"] if math.isfinite(values["loss"]) else LARGEST_LOSS
    whole = {
        **values,
        "loss": min(LARGEST_LOSS, max(0.0, loss)) * images * FRACTION,
        "accuracy": values["accuracy"] * images * FRACTION,
    }
    return np.array([round(whole[name]) for name in TOTALS], dtype=np.uint64)


def real_totals(longs: Longs) -> dict[str, float]:
    """The totals of all, `loss` and `accuracy` the mean of an image."""
    found = dict(zip(TOTALS, map(int, longs), strict=True))
    images = max(1, found["examples"])
    return {
        **found,
        "loss": found["loss"] / FRACTION / images,
        "accuracy": found["accuracy"] / FRACTION / images,
    }


def mask(seed: bytes, words: int) -> tuple[Words, Longs]:
    """The mask that follows from a secret. ChaCha20's key stream: Flower's own generator has 2**32
    seeds, which is few enough to try them all."""
    key = HKDF(hashes.SHA256(), 32, None, b"crucible secure aggregation mask").derive(seed)
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    drawn = stream.update(bytes(4 * words + 8 * len(TOTALS)))
    return (
        np.frombuffer(drawn, "<u4", words).astype(np.uint32),
        np.frombuffer(drawn, "<u8", len(TOTALS), 4 * words).astype(np.uint64),
    )


class Sum:
    """A sum of words and longs, to which masks are added and taken off."""

    def __init__(self, words: Words, longs: Longs) -> None:
        self.words = words.copy()
        self.longs = longs.copy()

    def add(self, words: Words, longs: Longs) -> None:
        self.words += words
        self.longs += longs

    def put_on(self, seed: bytes) -> None:
        """Add the mask of a secret."""
        self.add(*mask(seed, len(self.words)))

    def take_off(self, seed: bytes) -> None:
        """Subtract it."""
        words, longs = mask(seed, len(self.words))
        self.words -= words
        self.longs -= longs
