"""Where a private run's draws come from: its seed, or the operating system."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

from engine.bench import Bench

SUMMED = 4
"""Normal draws that one secure draw is made of. A single one tells, by the gaps between the
floating-point numbers that it can be, what it was added to; with the sum of four, finding out costs
more than can be computed (Holohan and Braghin 2021, section 5)."""


class Draws(ABC):
    """The random draws of the steps of a run."""

    source: str
    """What the run's summary says: "seed" or "system"."""

    @abstractmethod
    def uniform(self, purpose: str, step: int, count: int) -> Tensor:
        """float64 (count,) in [0, 1), on the CPU."""

    @abstractmethod
    def normal(self, purpose: str, step: int, count: int) -> Tensor:
        """Standard normal float32 (count,), on the device."""

    def chosen(self, step: int, count: int, rate: float, purpose: str = "sampling") -> Tensor:
        """Poisson sampling: each of `count` with probability `rate`, by itself. int64 (B,),
        ascending, on the CPU."""
        return (self.uniform(purpose, step, count) < rate).nonzero().squeeze(1)


class SeededDraws(Draws):
    """From the task's own seed: repeatable, by whoever knows it.

    `salt` says what is computed, and from which data: two runs that differ in anything draw other
    noise, though their seed be the same, or one could be subtracted from the other. So they do,
    with other samples, from the step on at which a person set a live value differently."""

    source = "seed"

    def __init__(self, bench: Bench, salt: str = "") -> None:
        self._bench = bench
        self._salt = salt

    def uniform(self, purpose: str, step: int, count: int) -> Tensor:
        changed = self._bench.history(step)
        generator = self._bench.generator("privacy", self._salt, *changed, purpose, step)
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def normal(self, purpose: str, step: int, count: int) -> Tensor:
        seed = self._bench.derive("privacy", self._salt, *self._bench.history(step), purpose, step)
        generator = torch.Generator(self._bench.device).manual_seed(seed)
        return torch.randn(count, generator=generator, device=self._bench.device)


class SystemDraws(Draws):
    """From the operating system's randomness, stretched by ChaCha20: nobody can repeat them."""

    source = "system"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # A key used for this object alone, so that the nonce may be anything.
        cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None)
        self._stream = cipher.encryptor()

    def uniform(self, purpose: str, step: int, count: int) -> Tensor:
        return self._uniform(count)

    def normal(self, purpose: str, step: int, count: int) -> Tensor:
        half = (count + 1) // 2
        total = torch.zeros(2 * half, dtype=torch.float64)
        for _ in range(SUMMED):  # Box and Muller (1958)
            radius = (1 - self._uniform(half)).log_().mul_(-2).sqrt_()
            angle = self._uniform(half).mul_(2 * math.pi)
            total[:half] += radius * angle.cos()
            total[half:] += radius * angle.sin()
        return (total[:count] / math.sqrt(SUMMED)).to(self._device, torch.float32)

    def _uniform(self, count: int) -> Tensor:
        """53 random bits each."""
        if not count:
            return torch.empty(0, dtype=torch.float64)
        content = bytearray(self._stream.update(bytes(8 * count)))
        bits = torch.frombuffer(content, dtype=torch.int64)
        return ((bits >> 11) & (2**53 - 1)).to(torch.float64) * 2.0**-53
