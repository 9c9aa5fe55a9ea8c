"""One sample of an attack or evaluation, as its run kept it: the clean image and what was made of
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.attacks.geometry import ORDERS
from engine.attacks.running import FILE
from engine.attacks.spec import Norm
from engine.errors import BadInput
from engine.store import Run

NAMED = 10
"""Broken samples that are named where one was asked for that was not broken."""


@dataclass(frozen=True, slots=True)
class Pair:
    """clean, adversarial: float32 (1, C, H, W) in [0, 1]. model: the run or file that was judged.
    norm, eps: what the attack measured with, and its radius (None where it had none; of several
    attacks of an evaluation in that norm, the largest)."""

    clean: Tensor
    adversarial: Tensor
    label: int
    model: str
    norm: Norm
    eps: float | None


def read_pair(run: Run, index: int, *, broken: bool = False) -> Pair:
    """Sample `index`, from 0, in the order of the run's pictures; `broken`: of those that were
    broken alone, as the worst case of an evaluation shows them.

    Raises BadInput where there is none, and where no attack of an evaluation broke it, which keeps
    nothing of what was tried in vain. What is said to a person counts from 1, as the window does.
    """
    info = run.info()
    if info.kind not in ("attack", "evaluate"):
        raise BadInput(
            f"run {info.name!r} is of kind {info.kind}: only samples of an attack or an evaluation "
            "are explained"
        )
    path = run.folder / FILE
    if not path.is_file():
        raise BadInput(
            f"run {info.name!r} has kept no examples: they are written when it is over, also if it "
            "was cancelled, but not if it failed"
        )
    try:
        with safe_open(str(path), "pt") as file:
            places: Sequence[int] = range(len(file.get_slice("labels")[:]))
            if broken:
                places = file.get_tensor("success").nonzero().flatten().tolist()
            if not 0 <= index < len(places):
                raise BadInput(f"there is no sample {index + 1}; the run kept {len(places)}")
            rows = slice(places[index], places[index] + 1)
            if info.kind == "evaluate" and not bool(file.get_slice("success")[rows][0]):
                raise BadInput(_unbroken(file.get_tensor("success")))
            clean, adversarial = (file.get_slice(n)[rows] for n in ("clean", "adversarial"))
            label = int(file.get_slice("labels")[rows][0])
            several = info.kind == "evaluate"
            size = float(file.get_slice("norm")[rows][0]) if several else 0.0
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from None
    clean, adversarial = clean.to(torch.float32), adversarial.to(torch.float32)
    attacks = info.spec["attacks"] if several else [info.spec["attack"]]
    norm = _norm(attacks, adversarial - clean, size)
    radii = [float(a["eps"]) for a in attacks if _norm_of(a) == norm and a.get("eps") is not None]
    model, eps = str(info.spec["model"]), max(radii, default=None)
    return Pair(clean, adversarial, label, model, norm, eps)


def _unbroken(success: Tensor) -> str:
    rows = success.nonzero().flatten().tolist()
    if not rows:
        return (
            "no attack of the evaluation broke any sample, and what they tried is not kept: there "
            "is nothing to set beside the clean images"
        )
    named = ", ".join(str(row + 1) for row in rows[:NAMED])
    return (
        "no attack of the evaluation broke this sample, and what they tried is not kept: there is "
        f"nothing to set beside the clean image. {len(rows)} were broken, the first: {named}"
    )


def _norm_of(attack: Mapping[str, Any]) -> Norm:
    return cast("Norm", attack.get("norm", "linf"))


def _norm(attacks: Sequence[Mapping[str, Any]], change: Tensor, size: float) -> Norm:
    """The norm that `change`, (1, C, H, W), was measured in, which gave `size`."""
    norms = list(dict.fromkeys(map(_norm_of, attacks)))
    sizes = [float(torch.linalg.vector_norm(change.double(), ORDERS[norm])) for norm in norms]
    return min(zip(norms, sizes, strict=True), key=lambda each: abs(each[1] - size))[0]
