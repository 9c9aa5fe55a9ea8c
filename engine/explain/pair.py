"""One sample of an attack, as its run kept it: the clean image and what the attack made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.attacks.running import FILE
from engine.attacks.spec import Norm
from engine.errors import BadInput
from engine.store import Run


@dataclass(frozen=True, slots=True)
class Pair:
    """clean, adversarial: float32 (1, C, H, W) in [0, 1]. model: the run or file that was judged.
    norm, eps: what the attack measured with, and its radius (None where it had none)."""

    clean: Tensor
    adversarial: Tensor
    label: int
    model: str
    norm: Norm
    eps: float | None


def read_pair(run: Run, index: int) -> Pair:
    """Sample `index`, from 0, in the order of the run's pictures. Raises BadInput where there is
    none; what is said to a person counts from 1, as the window does."""
    info = run.info()
    if info.kind != "attack":
        raise BadInput(
            f"run {info.name!r} is of kind {info.kind}: only the samples of an attack are explained"
        )
    path = run.folder / FILE
    if not path.is_file():
        raise BadInput(
            f"run {info.name!r} has kept no examples: an attack writes them when it is over, also "
            "if it was cancelled, but not if it failed"
        )
    try:
        with safe_open(str(path), "pt") as file:
            count = len(file.get_slice("labels")[:])
            if not 0 <= index < count:
                raise BadInput(f"there is no sample {index + 1}; the attack kept {count}")
            rows = slice(index, index + 1)
            clean, adversarial = (file.get_slice(n)[rows] for n in ("clean", "adversarial"))
            label = int(file.get_slice("labels")[rows][0])
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from None
    attack: dict[str, Any] = dict(info.spec["attack"])
    return Pair(
        clean.to(torch.float32),
        adversarial.to(torch.float32),
        label,
        str(info.spec["model"]),
        attack.get("norm", "linf"),
        None if attack.get("eps") is None else float(attack["eps"]),
    )
