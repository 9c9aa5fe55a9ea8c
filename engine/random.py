"""Random draws that belong to a sample, not to its place in a batch.

A counter-based generator in a few integer operations of torch: the draws of a sample depend on
(seed, sample id) and the position inside the sample alone, so they are the same in any batch, in
any order and on any device. The mixing function is the finaliser of SplitMix64 (Steele, Lea and
Flood 2014, figure 16), applied to a counter that is keyed by seed and id.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def derive(seed: int, *key: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, as in `derive(seed, "order", epoch)`."""
    text = "/".join(map(str, (seed, *key))).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def uniform(seed: int, ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform float32 in [0, 1), (len(ids), *shape), on the device of `ids` (int64, (N,)).

    24 random bits a draw, as torch.rand gives.
    """
    return _bits(seed, ids, math.prod(shape)).view(len(ids), *shape)


def normal(seed: int, ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal float32, (len(ids), *shape), by Box and Muller (1958)."""
    count = math.prod(shape)
    half = (count + 1) // 2
    draws = _bits(seed, ids, 2 * half)
    radius = draws[:, :half].neg().log1p().mul_(-2).sqrt_()
    angle = draws[:, half:] * (2 * math.pi)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :count].reshape(len(ids), *shape)


def _bits(seed: int, ids: Tensor, count: int) -> Tensor:
    key = mix(ids.to(torch.int64) * _GOLDEN + derive(seed, "sample"))
    counter = torch.arange(1, count + 1, device=ids.device) * _GOLDEN
    return _shift(mix(key[:, None] + counter), 40).to(torch.float32).mul_(2.0**-24)


def mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64: int64 to int64, one to one, every bit on every bit."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right; int64's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
