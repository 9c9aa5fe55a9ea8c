"""Where a model puts clean images and their adversarial examples: its features in the plane."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.attacks import projecting
from engine.attacks.goal import predicted
from engine.attacks.oracle import Oracle
from engine.attacks.projecting import LEAST, MOST_TSNE, Method
from engine.attacks.saved import Examples
from engine.attacks.showing import as_pixels, thumbnails
from engine.errors import BadInput, CrucibleError
from engine.events import Event, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

Space: TypeAlias = Literal["features", "pixels"]
SPACES: tuple[Space, ...] = ("features", "pixels")

VALUES = 64_000_000
"""Numbers that are worked on together, in all points: 256 MB. Of more samples the first are taken,
which are a random draw already."""

PICTURES = 16_000_000
"""Bytes of pictures in an answer: of very many, the pictures are small."""

_BURST = 0.015
"""Seconds that the model is asked for at a time, about."""

_GLANCE = 0.05
"""Seconds between two looks at whether the plane is wanted still."""


@dataclass(slots=True)
class Seen:
    """What a model makes of N samples, each clean and adversarial.

    values: float32 (2, N, D), the numbers to be projected. probabilities: float32 (2, N, K).
    predictions: int64 (2, N), -1 where a logit is no number. pixels: uint8 (2, N, H, W, C).
    layer: before which layer the values were taken; empty for pixels.
    """

    values: Tensor
    probabilities: Tensor
    predictions: Tensor
    pixels: NDArray[np.uint8]
    layer: str


def look(
    model: nn.Module, examples: Examples, space: Space, method: Method, device: torch.device
) -> Generator[None, None, Seen]:
    """Ask `model` for the examples, as many as can be projected. Yields after about _BURST seconds
    of work. Raises BadInput where it has no layer whose inputs can be told."""
    limit = MOST_TSNE // 2 if method == "tsne" else len(examples)
    oracle = Oracle(model, seed=0, device=device, bf16=False)
    parts: list[tuple[Tensor, ...]] = []
    pictures: list[Any] = []
    done, size, layer = 0, 8, ""
    side = 0
    while done < min(limit, len(examples)):
        begun = time.perf_counter()
        rows = slice(done, min(done + size, limit))
        images = torch.stack(examples.images(rows))
        with _watched(model) as watched:
            logits = oracle.look(images.flatten(0, 1).to(device)).cpu().unflatten(0, (2, -1))
        if space == "features":
            values, layer = watched.features(images.shape[:2])
        else:
            values = thumbnails(images.flatten(0, 1)).flatten(1).unflatten(0, (2, -1))
        if not parts:
            limit = min(limit, VALUES // (2 * values.shape[2]))
            side = _side(min(limit, len(examples)), examples.shape)
        said = predicted(logits.flatten(0, 1)).unflatten(0, (2, -1))
        parts.append((values, logits.softmax(2).nan_to_num(0.0), said))
        pictures.append(as_pixels(thumbnails(images.flatten(0, 1), side) * 255))
        done += images.shape[1]
        took = time.perf_counter() - begun
        size = min(max(1, round(size * min(_BURST / max(took, 1e-6), 4))), 100)
        yield
    values, probabilities, predictions = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    if not bool(values.isfinite().all()):
        raise BadInput(
            "what the model makes of these images holds a NaN or Inf: there is no place for it in "
            "a plane. Take the pixels instead."
        )
    pixels = np.concatenate([each.reshape(2, -1, *each.shape[1:]) for each in pictures], 1)
    return Seen(values, probabilities, predictions, pixels, layer)


def _side(count: int, shape: tuple[int, int, int]) -> int:
    """The longest side of a picture, so that all of them keep to PICTURES."""
    colours = 3 if shape[0] >= 3 else 1
    most = (PICTURES / (2 * max(count, 1) * colours)) ** 0.5
    return max(4, min(64, int(most)))


class _Watched:
    """The input of the layer that a model used last, of those with weights."""

    def __init__(self) -> None:
        self.name = ""
        self._inputs: dict[str, list[Tensor]] = {}

    def note(self, name: str, value: Any) -> None:
        self.name = name
        self._inputs.setdefault(name, []).append(value)

    def features(self, shape: torch.Size) -> tuple[Tensor, str]:
        """Its input as float32 (2, N, D) of `shape` (2, N), and its name."""
        found = self._inputs.get(self.name, [])
        count = shape.numel()
        if not found or sum(len(part) for part in found) != count:
            raise BadInput(
                "this model has no linear or convolutional layer at its end whose inputs could be "
                "taken, one row an image. Take the pixels instead."
            )
        return torch.cat(found).flatten(1).float().cpu().view(*shape, -1), self.name


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watched]:
    watched = _Watched()
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LazyLinear)
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: watched.note(name, inputs[0].detach())
        )
        for name, module in model.named_modules()
        if isinstance(module, layers)
    ]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


# --- in the plane ---------------------------------------------------------------------------------


def plane(
    values: NDArray[np.float32], method: Method, seed: int
) -> Generator[Event, None, tuple[NDArray[np.float32], list[float]]]:
    """`project` of `engine.attacks.projecting` in a process of its own, which is ended when this
    generator is closed. Raises BadInput for too few points, CrucibleError if it fails."""
    if len(values) < LEAST:
        raise BadInput(f"there are {len(values)} points; a plane needs {LEAST} or more")
    with tempfile.TemporaryDirectory(prefix="crucible-") as name:
        folder = Path(name)
        try:
            np.save(folder / "points.npy", values)
        except OSError as error:
            raise CrucibleError(f"the points could not be written: {error.strerror}") from error
        command = [sys.executable, "-W", "ignore", "-m", projecting.__name__]
        process = subprocess.Popen(
            [*command, name, method, str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # One thread gives the same bits everywhere, and leaves the others to a run.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert process.stderr is not None
        try:
            while not _ended(process):
                yield Progress(0, 0, "points")
            said = process.stderr.read().decode(errors="replace").strip()
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        if process.returncode:
            why = said.splitlines()[-1] if said else f"exit code {process.returncode}"
            raise CrucibleError(f"the points could not be put into a plane: {why}")
        shares = np.load(folder / "shares.npy").tolist()
        return np.load(folder / "plane.npy"), shares


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_GLANCE)
    except subprocess.TimeoutExpired:
        return False
    return True
