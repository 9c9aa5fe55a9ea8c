"""Pictures of an attack: the first few samples, clean, as they are now, and what was changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.driver import Iteration
from engine.attacks.geometry import ORDERS
from engine.attacks.goal import predicted
from engine.attacks.spec import AttackSpec, MinimalNorm
from engine.events import Images

SIDE = 64
"""Longest side of a picture, in pixels; larger images are averaged down."""

STORED = 64 * 2**20
"""Bytes of pictures that one run keeps for replay."""


class Gallery:
    """The shown samples, and what is known of each. A sample that is broken stays as it was."""

    def __init__(
        self, spec: AttackSpec, images: Tensor, labels: Tensor, logits: Tensor, frames: int
    ) -> None:
        """images: clean, float32 (N, C, H, W), with labels, int64 (N,), and logits, (N, K).
        frames: how many iterations there will be at most; of too many to be stored, every k-th
        is kept."""
        self._order = ORDERS[spec.norm]
        self._eps = spec.eps
        self._minimal = isinstance(spec, MinimalNorm)
        self._labels = labels.tolist()
        self._predictions = predicted(logits).cpu()
        self._probabilities = _probabilities(logits)
        self._norms = torch.zeros(len(labels))
        self._clean = images
        self._now = images.clone()
        size = _thumbnails(images).numel()
        # Five more: the clean ones, the last ones, and one pair that rounding up adds.
        self._every = max(1, math.ceil(2 * frames * size / (STORED - 5 * size)))

    def __len__(self) -> int:
        return len(self._labels)

    def tensors(self) -> dict[str, Tensor]:
        """What is known of the samples, for `restore` to take up in another process."""
        return {
            "now": self._now,
            "predictions": self._predictions,
            "probabilities": self._probabilities,
            "norms": self._norms,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._now = tensors["now"].to(self._clean.device)
        self._predictions, self._norms = tensors["predictions"], tensors["norms"]
        self._probabilities = tensors["probabilities"]

    def judged(self, logits: Tensor, start: int) -> None:
        """Another model's `logits`, (N, K), at the images as they are now, the first of them sample
        `start`."""
        count = min(len(self) - start, len(logits))
        if count > 0:
            part = slice(start, start + count)
            self._predictions[part] = predicted(logits[:count]).cpu()
            self._probabilities[part] = _probabilities(logits[:count])

    def clean(self) -> Images:
        """The clean images."""
        pixels = _pixels(_thumbnails(self._clean) * 255)
        return Images("clean", pixels, self._captions(), keep=True)

    def update(self, iteration: Iteration, start: int) -> bool:
        """Take up what an iteration says of the shown samples, the first of its batch being
        sample `start` of them. False if it says nothing of any."""
        count = min(len(self._labels) - start, len(iteration.success))
        if count <= 0:
            return False
        part = slice(start, start + count)
        self._now[part] = iteration.newest(count)
        asked = iteration.active < count
        where = iteration.active[asked].cpu() + start
        logits = iteration.logits[asked]
        self._predictions[where] = predicted(logits).cpu()
        self._probabilities[where] = _probabilities(logits)
        change = (self._now[part] - self._clean[part]).flatten(1)
        self._norms[part] = sizes(change, self._order).cpu()
        return True

    def frames(self, step: int, *, last: bool) -> Iterator[Images]:
        """The adversarial images and their perturbations, as they are now."""
        keep = last or step % self._every == 0
        captions = self._captions()
        now, clean = _thumbnails(self._now), _thumbnails(self._clean)
        yield Images("adversarial", _pixels(now * 255), captions, step, keep=keep)
        scale = self._scale()
        signed = 128 + 127 * (now - clean) / scale
        yield Images("perturbation", _pixels(signed), captions, step, scale=scale, keep=keep)

    def _scale(self) -> float:
        """The change that is drawn at full strength: the largest there is, where the smallest is
        looked for or no radius given, and in l1 and l0, which bound no single pixel. In l2 it is
        four times what each pixel would get if all changed alike: few pixels change more."""
        if self._eps is None or self._minimal or self._order < 2:
            return max((self._now - self._clean).abs().max().item(), 1 / 255)
        if self._order == math.inf:
            return min(max(self._eps, 1 / 255), 1.0)
        alike = self._eps / math.sqrt(self._clean[0].numel())
        return min(max(4 * alike, 1 / 255), 1.0)

    def _captions(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(
            {
                "label": label,
                "prediction": prediction,
                "correct": label == prediction,
                "probabilities": [round(value, 4) for value in probabilities],
                "norm": round(norm, 6),
            }
            for label, prediction, probabilities, norm in zip(
                self._labels,
                self._predictions.tolist(),
                self._probabilities.tolist(),
                self._norms.tolist(),
                strict=True,
            )
        )


def sizes(change: Tensor, order: float) -> Tensor:
    """The norm of each change, (N, D), as (N,). torch's own takes ten times as long for inf."""
    if order == math.inf:
        return change.abs().amax(1)
    size: Tensor = torch.linalg.vector_norm(change, order, dim=1)
    return size


def _probabilities(logits: Tensor) -> Tensor:
    """Class probabilities on the CPU; zeros where the logits are not numbers."""
    return logits.softmax(1).nan_to_num(0.0).cpu()


def _thumbnails(images: Tensor) -> Tensor:
    """One or three channels, no side longer than SIDE; still float, in the same range."""
    channels = images.shape[1]
    if channels not in (1, 3):
        images = images[:, : 3 if channels > 3 else 1]
    height, width = images.shape[2:]
    longest = max(height, width)
    if longest <= SIDE:
        return images
    size = [max(1, round(side * SIDE / longest)) for side in (height, width)]
    return F.interpolate(images, size, mode="area")


def _pixels(values: Tensor) -> Any:
    """uint8 (N, H, W, C) of float (N, C, H, W) in 0 to 255."""
    whole = values.round().clamp(0, 255).to(torch.uint8)
    return whole.permute(0, 2, 3, 1).contiguous().cpu().numpy()
