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
from engine.frames import Listed

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
        self.turn(spec)
        self._remarks: dict[int, dict[str, Any]] = {}
        self._told = False
        self._labels = labels.tolist()
        self._predictions = predicted(logits).cpu()
        self._probabilities = _probabilities(logits)
        self._norms = torch.zeros(len(labels))
        self._clean = images
        self._now = images.clone()
        size = thumbnails(images).numel()
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
        self._told = True
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
        return pictures("clean", self._clean, self._captions())

    def update(self, iteration: Iteration, start: int) -> bool:
        """Take up what an iteration says of the shown samples, the first of its batch being
        sample `start` of them. False if it says nothing new of any."""
        if start >= len(self):
            return False
        count = min(len(self) - start, len(iteration.success))
        return self._take(iteration, slice(start, start + count), count)

    def take(self, iteration: Iteration, part: Tensor) -> bool:
        """The same of a batch whose first samples are the shown ones at `part`, int64 (M,)."""
        return self._take(iteration, part, len(part))

    def _take(self, iteration: Iteration, part: Tensor | slice, count: int) -> bool:
        asked = iteration.among(count)
        if not asked and self._told:  # all have been broken, or are not attacked: nothing is new
            return False
        self._told = True
        now = iteration.newest(count)
        self._now[part] = now
        where = iteration.active[:asked].cpu()
        where = where + part.start if isinstance(part, slice) else part[where]
        logits = iteration.logits[:asked]
        self._predictions[where] = predicted(logits).cpu()
        self._probabilities[where] = _probabilities(logits)
        change = (now - self._clean[part]).flatten(1)
        self._norms[part] = sizes(change, self._order).cpu()
        return True

    def turn(self, spec: AttackSpec) -> None:
        """From now on `spec` attacks: sizes are measured and drawn as it means them."""
        self._spec, self._order = spec, ORDERS[spec.norm]

    def settle(
        self,
        part: Tensor,
        images: Tensor,
        predictions: Tensor,
        probabilities: Tensor,
        norms: Tensor,
        remarks: list[dict[str, Any]],
    ) -> None:
        """What is known for good of the shown samples at `part`, int64 (M,); `remarks` go into
        their captions. Probabilities that are NaN are not known."""
        self._now[part] = images.to(self._now)
        self._predictions[part] = predictions
        self._probabilities[part] = probabilities
        self._norms[part] = norms.to(self._norms)
        self._remarks.update(zip(part.tolist(), remarks, strict=True))

    def frames(self, step: int, *, last: bool, keep: bool | None = None) -> Iterator[Images]:
        """The adversarial images and their perturbations, as they are now. Stored are the `last`
        ones and every k-th, or as `keep` says."""
        keep = (last or step % self._every == 0) if keep is None else keep
        captions = self._captions()
        now, change = thumbnails(self._now), self._now - self._clean
        yield Images("adversarial", as_pixels(now * 255), captions, step, keep=keep)
        scale = drawn_at(self._spec, change)
        signed = thumbnails(change) * (127 / scale) + 128
        yield Images("perturbation", as_pixels(signed), captions, step, scale=scale, keep=keep)

    def _captions(self) -> tuple[Mapping[str, Any], ...]:
        found = captions(self._labels, self._predictions, self._probabilities, self._norms)
        if not self._remarks:
            return Listed(found)
        return Listed(known | self._remarks.get(place, {}) for place, known in enumerate(found))


def captions(
    labels: list[int], predictions: Tensor, probabilities: Tensor, norms: Tensor
) -> Iterator[dict[str, Any]]:
    """What is said of pictures, of predictions (N,), probabilities (N, K) and norms (N,).
    Probabilities that are not known (NaN) are left out."""
    for label, prediction, each, norm in zip(
        labels,
        predictions.tolist(),
        _rounded(probabilities, 4),
        _rounded(norms, 6),
        strict=True,
    ):
        known = {} if math.isnan(each[0]) else {"probabilities": each}
        yield {
            "label": label,
            "prediction": prediction,
            "correct": label == prediction,
            "norm": norm,
            **known,
        }


def _rounded(values: Tensor, places: int) -> list[Any]:
    """All at once: one after the other takes most of the time that a set of pictures does."""
    rounded: list[Any] = (values.double() * 10**places).round().div(10**places).tolist()
    return rounded


def drawn_at(spec: AttackSpec, change: Tensor) -> float:
    """The size of a change, in image units, that is drawn at full strength: of `change`, (N, C, H,
    W), the largest there is, where the smallest is looked for or no radius given, and in norms that
    bound no single pixel. In l2 it is four times what each pixel would get if all changed alike:
    few pixels change more."""
    minimal = isinstance(spec, MinimalNorm)
    if spec.eps is None or minimal or spec.norm not in ("linf", "l2"):
        return max(change.abs().max().item(), 1 / 255)
    if spec.norm == "linf":
        return min(max(spec.eps, 1 / 255), 1.0)
    alike = spec.eps / math.sqrt(change[0].numel())
    return min(max(4 * alike, 1 / 255), 1.0)


def pictures(
    name: str,
    values: Tensor,
    captions: tuple[Mapping[str, Any], ...],
    step: int = 0,
    scale: float | None = None,
) -> Images:
    """A set of pictures to be stored, of images or, with a `scale`, of changes, (N, C, H, W)."""
    shown = thumbnails(values)
    whole = shown * 255 if scale is None else 128 + 127 * shown / scale
    return Images(name, as_pixels(whole), captions, step, scale=scale, keep=True)


def sizes(change: Tensor, order: float) -> Tensor:
    """The norm of each change, (N, D), as (N,). torch's own takes ten times as long for inf."""
    if order == math.inf:
        return change.abs().amax(1)
    size: Tensor = torch.linalg.vector_norm(change, order, dim=1)
    return size


def _probabilities(logits: Tensor) -> Tensor:
    """Class probabilities on the CPU; zeros where the logits are not numbers."""
    return logits.softmax(1).nan_to_num(0.0).cpu()


def thumbnails(images: Tensor, most: int = SIDE) -> Tensor:
    """One or three channels, no side longer than `most`; still float, in the same range."""
    channels = images.shape[1]
    if channels not in (1, 3):
        images = images[:, : 3 if channels > 3 else 1]
    height, width = images.shape[2:]
    longest = max(height, width)
    if longest <= most:
        return images
    size = [max(1, round(side * most / longest)) for side in (height, width)]
    return F.interpolate(images, size, mode="area")


def as_pixels(values: Tensor) -> Any:
    """uint8 (N, H, W, C) of float (N, C, H, W) in 0 to 255."""
    whole = values.permute(0, 2, 3, 1).round().clamp_(0, 255).to(torch.uint8)
    return whole.contiguous().cpu().numpy()
