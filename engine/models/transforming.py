"""Putting an input transform in front of a model that is there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.data import load
from engine.device import versions
from engine.errors import BadInput
from engine.events import Note, Saved, Scalars
from engine.files import sha256_of
from engine.models.building import build
from engine.models.card import SEEN
from engine.models.evaluating import evaluate
from engine.models.files import load_model, save_model
from engine.models.spec import Transform
from engine.models.transforms import transform, warning
from engine.models.trust import trusts
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench


def run_transform(spec: Transform, bench: Bench) -> Steps:
    """The task: the same weights behind a transform, its accuracy with and without, its file.

    Raises BadInput where the transform does not fit the model's images, or its data is not known.
    """
    loaded = load_model(spec.model, bench)
    card = loaded.card
    if card.data is None:
        raise BadInput(f"the model {spec.model!r} does not say what data it is for")
    transform(spec.transform, card.shape)
    described = card.model.model_copy(update={"transform": spec.transform})
    module = build(described, card.shape, len(card.classes), trust=trusts(described, bench))
    module.load_state_dict(loaded.module.state_dict())
    module.to(bench.device).eval()
    data = yield from load(card.data, bench)
    if tuple(data.shape) != tuple(card.shape) or len(data.classes) != len(card.classes):
        raise BadInput(
            f"the data of {spec.model!r} is not what it was: it has images {tuple(data.shape)} of "
            f"{len(data.classes)} classes, and the model takes {tuple(card.shape)} of "
            f"{len(card.classes)}"
        )
    yield Note("warning", warning(module))
    changed = data.seen(card.learnt) > 0
    if changed:
        yield Note("warning", SEEN)
    before = (yield from evaluate(loaded.module, data.test, bench)).accuracy
    accuracy = (yield from evaluate(module, data.test, bench)).accuracy
    yield Scalars(0, {"test/accuracy": accuracy})
    path = bench.folder / "model.safetensors"
    card = save_model(
        path,
        module,
        card.model_copy(
            update={
                "model": described,
                "metrics": {"clean_accuracy": accuracy},
                "versions": versions(),
                "run": bench.folder.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        ),
    )
    yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    summary: Summary = {
        "clean_accuracy": accuracy,
        "untransformed_accuracy": before,
        "weights_sha256": card.weights_sha256,
    }
    if changed:
        summary["data_changed"] = True
    return summary
