"""The adversarial examples that a run has kept, read back a part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import BadInput
from engine.store import Run

_NEEDED = ("clean", "adversarial", "labels", "predictions", "success", "norm", "ids")


@dataclass(frozen=True, slots=True)
class Examples:
    """What is known of N samples, without their images: see `images`.

    labels, predictions: int64 (N,), the true class, and what the model made of the adversarial
        image (-1: of its logits one was no number).
    success: bool (N,), whether that counts. norm: (N,), the measured size of the change.
    ids: int64 (N,), rows of the data set. surrogate: bool (N,), of a transfer, whether the
        surrogate was fooled. shape: of an image, (C, H, W). model: the run or file that was judged.
    measure: the norm; eps: the largest change allowed, None where there is no one such.
    targeted: whether one class alone counts as success.
    """

    path: Path
    labels: Tensor
    predictions: Tensor
    success: Tensor
    norm: Tensor
    ids: Tensor
    surrogate: Tensor | None
    shape: tuple[int, int, int]
    model: str
    measure: str
    eps: float | None
    targeted: bool

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Clean and adversarial images, float32 (M, C, H, W) in [0, 1]."""
        with _opened(self.path) as file:
            clean, adversarial = (file.get_slice(n)[rows] for n in ("clean", "adversarial"))
        return clean.to(torch.float32), adversarial.to(torch.float32)


def read_examples(run: Run) -> Examples:
    """The examples of an attack or an evaluation. Raises BadInput where the run has kept none."""
    info = run.info()
    path = run.examples_file()
    try:
        with _opened(path) as file:
            names = set(file.keys())
            absent = [name for name in _NEEDED if name not in names]
            if absent:
                raise BadInput(f"{path} is no set of adversarial examples: no {', '.join(absent)}")
            found = {n: file.get_tensor(n) for n in _NEEDED if n not in ("clean", "adversarial")}
            several = "surrogate_success" in names
            surrogate = file.get_tensor("surrogate_success") if several else None
            _, channels, height, width = file.get_slice("clean").get_shape()
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is not a whole set of adversarial examples: {error}") from None
    attacks = list(info.spec.get("attacks") or [info.spec.get("attack") or {}])
    norms = {str(attack.get("norm", "linf")) for attack in attacks}
    first: Mapping[str, Any] = attacks[0]
    alone = len(attacks) == 1 and info.kind == "attack"
    return Examples(
        path=path,
        labels=found["labels"].to(torch.int64),
        predictions=found["predictions"].to(torch.int64),
        success=found["success"].to(torch.bool),
        norm=found["norm"],
        ids=found["ids"].to(torch.int64),
        surrogate=surrogate,
        shape=(channels, height, width),
        model=str(info.spec["model"]),
        measure=norms.pop() if len(norms) == 1 else "",
        eps=float(first["eps"]) if alone and first.get("eps") is not None else None,
        targeted=bool(attacks) and all(bool(attack.get("targeted")) for attack in attacks),
    )


def _opened(path: Path) -> Any:
    return safe_open(str(path), "pt")
