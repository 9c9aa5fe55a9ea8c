"""What an attack found over all its batches: figures, and what a reader must know before trusting
them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.attacks.result import AttackResult
from engine.events import Event, Note
from engine.task import Summary

QUANTILES = 0.1, 0.25, 0.5, 0.75, 0.9
"""Of the sizes that a search for the smallest perturbation found."""


@dataclass(slots=True)
class Tally:
    """Sums over the batches that were attacked."""

    samples: int
    correct: int = 0
    """Samples that the model gets right when clean."""
    minimal: bool = False
    """The attack looks for the smallest perturbation."""
    forward: int = 0
    nan: int = 0
    """Of the pass over the clean images: how many they are, and answers that were no numbers."""
    results: list[AttackResult] = field(default_factory=list)
    broken: int = 0
    fooled: list[Tensor] = field(default_factory=list)
    """Of a transfer: bool, for each result, whether the surrogate was broken."""
    seconds: float = 0.0
    """Spent attacking; pauses are not counted."""
    chunk: int | None = None
    """How many images still fit into memory together; None while all do."""
    cancelled: bool = False

    def add(self, result: AttackResult, fooled: Tensor | None = None) -> None:
        self.results.append(result.cpu())
        self.broken += int(result.success.sum())
        if fooled is not None:
            self.fooled.append(fooled.cpu())

    def chunked(self, chunk: int | None) -> Iterator[Event]:
        """Say so if memory ran out."""
        if chunk is not None and (self.chunk is None or chunk < self.chunk):
            self.chunk = chunk
            yield Note("warning", f"out of memory: going on with {chunk} images at a time")

    def scalars(self, broken: int) -> dict[str, float]:
        """With `broken` samples more than in the batches that are done."""
        broken += self.broken
        return {
            "attack/success_rate": broken / max(1, self.correct),
            "attack/robust_accuracy": (self.correct - broken) / self.samples,
        }

    def surrogate_scalars(self, fooled: int) -> dict[str, float]:
        """The same of a transfer, whose examples have met the surrogate alone so far."""
        fooled += sum(int(each.sum()) for each in self.fooled)
        return {"attack/surrogate_success_rate": fooled / max(1, self.correct)}

    def summary(self) -> Summary:
        """What `run_attack` returns. After a cancel, of the batches that were begun alone."""
        found = merged(self.results) if self.results else None
        seen = len(found.success) if found else 0
        correct = int(found.correct.sum()) if found else 0
        robust = correct - self.broken
        summary: Summary = {
            "clean_accuracy": self.correct / self.samples,
            "robust_accuracy": robust / max(1, seen),
            "robust_accuracy_interval": list(wilson(robust, seen)),
            "interval": "Wilson, 95 %",
            "success_rate": self.broken / max(1, correct),
            "samples": seen,
            "correct": correct,
            "broken": self.broken,
            **_sizes(found, self.minimal),
            **_queries(found),
            "seconds": self.seconds,
            "images_per_second": seen / max(self.seconds, 1e-9),
            "forward_evaluations": self.forward + (found.forward_evaluations if found else 0),
            "gradient_evaluations": found.gradient_evaluations if found else 0,
            "zero_gradients": found.zero_gradients if found else 0,
            "nan_count": self.nan + (found.nan_count if found else 0),
        }
        if found and self.fooled:
            summary |= _transfer(found, torch.cat(self.fooled))
        if self.cancelled:
            finished = int(found.finished.sum()) if found else 0
            summary |= {"partial": True, "finished": finished}
        return summary


def merged(results: Sequence[AttackResult]) -> AttackResult:
    """The results of batches, off the GPU, as one."""
    first = results[0]
    values = {f.name: [getattr(r, f.name) for r in results] for f in dataclasses.fields(first)}
    chunks = [chunk for chunk in values.pop("chunk") if chunk is not None]
    whole: dict[str, Any] = {
        name: torch.cat(parts) if isinstance(parts[0], Tensor) else sum(parts)
        for name, parts in values.items()
    }
    return AttackResult(**whole, chunk=min(chunks, default=None))


def _sizes(found: AttackResult | None, minimal: bool) -> Summary:
    """Of a search for the smallest perturbation also quantiles over the samples that were attacked:
    who was not broken is infinitely far, and None is a quantile among those."""
    none = {"mean_norm": 0.0, "max_norm": 0.0}
    if found is None:
        return none
    hits = found.norm[found.success]
    if len(hits):
        most = hits if minimal else found.norm
        none = {"mean_norm": hits.mean().item(), "max_norm": most.max().item()}
    if not minimal or not bool(found.correct.any()):
        return none
    sizes = torch.where(found.success, found.norm, float("inf"))[found.correct].sort().values
    at = {share: sizes[math.ceil(share * len(sizes)) - 1].item() for share in QUANTILES}
    finite = {share: size if math.isfinite(size) else None for share, size in at.items()}
    return none | {
        "median_norm": finite[0.5],
        "norm_quantiles": {f"{share:g}": size for share, size in finite.items()},
    }


def _queries(found: AttackResult | None) -> Summary:
    """Images that the model was asked about, for each sample that was attacked."""
    spent = found.queries[found.correct] if found else torch.zeros(0)
    if not len(spent):
        return {"median_queries": 0, "max_queries": 0}
    return {"median_queries": int(spent.median()), "max_queries": int(spent.max())}


def _transfer(found: AttackResult, fooled: Tensor) -> Summary:
    """How often the surrogate was broken, the model after it, and the one if the other was."""
    attacked, of_them = int(found.correct.sum()), int(fooled.sum())
    broken = int(found.success.sum())
    both = int((found.success & fooled).sum())
    return {
        "success_rate_interval": list(wilson(broken, attacked)),
        "surrogate_success_rate": of_them / max(1, attacked),
        "surrogate_success_rate_interval": list(wilson(of_them, attacked)),
        "transfer_rate": both / max(1, of_them),
        "transfer_rate_interval": list(wilson(both, of_them)),
    }


def warnings(tally: Tally) -> Iterator[Event]:
    """What a reader must know before trusting the figures."""
    summary = tally.summary()
    zero, asked = summary["zero_gradients"], summary["gradient_evaluations"]
    if zero:
        yield Note(
            "warning",
            f"{zero} of {asked} gradients were exactly zero. An attack by gradients cannot "
            "break such a sample, so the robust accuracy may be too high; the margin loss "
            "or an attack without gradients may tell.",
        )
    if summary["nan_count"]:
        yield Note(
            "warning",
            f"{summary['nan_count']} answers of the model held a NaN or Inf; none was counted "
            "as a success.",
        )


def wilson(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927); (0, 1) if nothing was counted."""
    if not total:
        return 0.0, 1.0
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
