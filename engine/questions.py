"""Questions: what the window asks beside runs.

Each is a generator, and takes the question's fields. While it runs it loads data, yielding the
events of that, and touches nothing that a run in another thread depends on. It returns its answer
(JSON values, bytes of a picture or none) or, where a model is to be built or asked, a function that
computes the answer: that one touches global random state, and is called between two steps of the
run (see `engine.desk`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from engine.bench import Bench
from engine.data import Dataset, load
from engine.data.spec import DataSpec
from engine.errors import BadInput
from engine.events import Event
from engine.models import describe, load_model
from engine.models.files import read_model
from engine.models.spec import ModelSpec
from engine.models.trust import trusts
from engine.store import Workspace
from engine.task import BenchSpec, kinds, parse
from engine.training.spec import DEFAULT_DATA, DEFAULT_MODEL

Answer: TypeAlias = tuple[dict[str, Any], bytes]
Finish: TypeAlias = Callable[[], Answer]
Loading: TypeAlias = Generator[Event, None, Answer | Finish]

SHOWN = 24
"""Images of a preview."""


def prepare(question: Mapping[str, Any], workspace: Workspace, data_root: Path | None) -> Loading:
    """Answer a question of one of the kinds below. Raises BadInput where it makes no sense."""
    known: dict[str, Callable[[Mapping[str, Any], Bench], Loading]] = {
        "describe_model": describe_model,
        "predict": predict,
        "preview_data": preview_data,
    }
    kind = question.get("kind")
    if kind not in known:
        raise BadInput(f"there is no question {kind!r}; expected one of: {', '.join(known)}")
    # A run may be under way: its number of threads must not change under it.
    spec = BenchSpec(device="cpu", threads=torch.get_num_threads())
    bench = Bench(workspace.root, workspace.root, spec=spec, data_root=data_root)
    return (yield from known[kind](question, bench))


def describe_model(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model` and `data` (specs, or absent for the defaults): layers, parameters, FLOPs."""
    model = _spec(ModelSpec, question.get("model")) or DEFAULT_MODEL
    data = yield from _load(question, bench)
    shape, classes = data.shape, len(data.classes)

    def finish() -> Answer:
        described = describe(model, shape, classes, trust=trusts(model, bench))
        layers = [
            {
                "name": layer.name,
                "type": layer.type,
                "output": list(layer.output),
                "parameters": layer.parameters,
                "flops": layer.flops,
            }
            for layer in described.layers
        ]
        sums = {"parameters": described.parameters, "flops": described.flops}
        return {"layers": layers, **sums}, b""

    return finish


def preview_data(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`data` (a spec): classes, shape, how many images a split, and pictures of the first ones."""
    data = yield from _load(question, bench)
    index = torch.arange(min(SHOWN, len(data.train)))
    images, labels = data.train.batch(index)
    pixels = _pixels(images)
    counts = {
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }
    reply = {
        "classes": list(data.classes),
        "shape": list(data.shape),
        "counts": counts,
        "pixels": list(pixels.shape),
        "labels": labels.tolist(),
    }
    return reply, pixels.tobytes()


def predict(question: Mapping[str, Any], bench: Bench) -> Loading:
    """`model` (a run or file) on `image`: the place of a test image, or rows of values in [0, 1],
    (H, W) or (H, W, C). Class probabilities."""
    ref, image = str(question["model"]), question["image"]
    label: int | None = None
    if isinstance(image, int):
        card, _ = read_model(bench.find_model(ref), bench)
        if bench.data_root is None and not ref.endswith((".safetensors", ".age")):
            workspace = Workspace(bench.workspace, create=False)
            bench.data_root = workspace.data_root_of(workspace.find(ref).info())
        data = yield from load(card.data or DEFAULT_DATA, bench)
        if not 0 <= image < len(data.test):
            raise BadInput(f"there is no test image {image}; there are {len(data.test)}")
        images, labels = data.test.batch(torch.tensor([image]))
        label = int(labels[0])
    else:
        values = torch.tensor(image, dtype=torch.float32)
        values = values[..., None] if values.ndim == 2 else values
        images = values.permute(2, 0, 1)[None]

    def finish() -> Answer:
        loaded = load_model(ref, bench)
        if tuple(images.shape[1:]) != loaded.card.shape:
            raise BadInput(
                f"the model takes images {loaded.card.shape} (channels, height, width), "
                f"not {tuple(images.shape[1:])}"
            )
        with torch.no_grad():
            probabilities = loaded.module(images).softmax(1)[0]
        pixels = _pixels(images)
        reply = {
            "classes": list(loaded.card.classes),
            "probabilities": probabilities.tolist(),
            "prediction": int(probabilities.argmax()),
            "label": label,
            "pixels": list(pixels.shape),
        }
        return reply, pixels.tobytes()

    return finish


def _spec(family: type[Any], values: Mapping[str, Any] | None) -> Any:
    if not values:
        return None
    known = kinds(family)
    kind = values.get("kind")
    if kind not in known:
        raise BadInput(f"there is no kind {kind!r}; expected one of: {', '.join(known)}")
    return parse(known[str(kind)], values)


def _load(question: Mapping[str, Any], bench: Bench) -> Generator[Event, None, Dataset]:
    return load(_spec(DataSpec, question.get("data")) or DEFAULT_DATA, bench)


def _pixels(images: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """float32 (N, C, H, W) in [0, 1] as uint8 (N, H, W, C)."""
    scaled = (images * 255).round().clamp(0, 255).to(torch.uint8)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    )
    return pixels
