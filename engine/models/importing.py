"""Bringing in a model that a person already has: checked, measured, and then one like any other."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.data import Dataset, load
from engine.errors import BadInput
from engine.events import Event, Note, Saved, Scalars
from engine.files import sha256_of
from engine.models.answers import PROBABILITIES, adds_up_to_one
from engine.models.building import build
from engine.models.card import SEEN, ModelCard, has_card, read_metadata
from engine.models.evaluating import evaluate
from engine.models.files import read_model, read_tensors, save_model
from engine.models.spec import Import, ModelSpec
from engine.models.trust import trusts
from engine.task import Steps, Summary

if TYPE_CHECKING:
    from engine.bench import Bench

_BATCH = 128
"""Images judged at a time: a model of unknown size may need much memory for each."""

_BODY = "body."
"""What the network's own names begin with inside a model of ours, behind its normalisation."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What wrappers put before every name."""

_COUNTERS = ".num_batches_tracked"
"""Batch normalisation's count, which older files lack and which changes no output."""


def run_import(spec: Import, bench: Bench) -> Steps:
    """The task: weights into a model that fits them and the data, its accuracy, its file.

    Raises BadInput where weights, architecture and data do not belong together, with what differs.
    """
    spec.check(bench.workspace)
    architecture, state, past = yield from _read_weights(spec, bench)
    source = spec.data or (past.data if past is not None else None)
    if source is None:
        raise BadInput(f"{spec.weights} does not say what data its model is for: give `data`")
    data = yield from load(source, bench)
    classes = _check_against_data(spec, data)
    module = build(
        architecture,
        data.shape,
        len(classes),
        mean=spec.mean or None,
        std=spec.std or None,
        trust=trusts(architecture, bench),
    )
    fill(module, state, keep_normalisation=bool(spec.mean))
    module.to(bench.device).eval()

    learnt = past.learnt if past is not None else ()
    changed = data.seen(learnt) > 0
    if changed:
        yield Note("warning", SEEN)
    accuracy = (yield from evaluate(module, data.test, bench, _BATCH)).accuracy
    yield Scalars(0, {"test/accuracy": accuracy})
    if accuracy < 1.5 / len(classes):
        yield Note(
            "warning",
            f"the accuracy of {accuracy:.3f} is about that of guessing among {len(classes)} "
            "classes. Check mean and std, the order of the classes, and the data.",
        )
    images, _ = data.test.batch(torch.arange(min(_BATCH, len(data.test))))
    with torch.no_grad():
        if bool(adds_up_to_one(module(images)).all()):
            yield Note("warning", PROBABILITIES)
    path = bench.folder / "model.safetensors"
    card = save_model(
        path,
        module,
        ModelCard(
            model=architecture,
            data=source,
            shape=data.shape,
            classes=classes,
            data_fingerprint=data.fingerprint,
            learnt=learnt,
            withheld=past is not None and past.withheld,
            training={"imported": Path(spec.weights).name},
            metrics={"clean_accuracy": accuracy},
            versions=bench.environment.get("versions", {}),
            run=bench.folder.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    yield Saved("model", path.name, path.stat().st_size, sha256_of(path))
    summary: Summary = {
        "clean_accuracy": accuracy,
        "weights_sha256": card.weights_sha256,
        "parameters": sum(p.numel() for p in module.parameters()),
        "classes": list(classes),
    }
    if changed:
        summary["data_changed"] = True
    return summary


# --- weights --------------------------------------------------------------------------------------


def _read_weights(
    spec: Import, bench: Bench
) -> Generator[Event, None, tuple[ModelSpec, dict[str, Tensor], ModelCard | None]]:
    """The architecture (asked for, or the file's own word), the tensors and, of a file of ours,
    the card of `spec.weights`."""
    path = Path(spec.weights).expanduser()
    if path.suffix == ".age" or has_card(path):
        card, state = read_model(path, bench)
        return spec.model or card.model, state, card
    assert spec.model is not None  # as `check` saw to
    with tempfile.TemporaryDirectory(prefix=".import-", dir=bench.folder) as scratch:
        from engine.vault.convert import converting

        safe = yield from converting(path, Path(scratch))
        name, metadata = read_metadata(safe)
        tensors = read_tensors(safe, str(path) if safe != path else name, metadata)
        return spec.model, tensors, None


def fill(
    module: nn.Module, state: Mapping[str, Tensor], *, keep_normalisation: bool = False
) -> None:
    """Load `state` into a model that `build` made, names matched strictly.

    Names may be those of the whole model or of its body alone, and may have a wrapper's prefix
    (as DataParallel's). With `keep_normalisation` the model keeps its own mean and std. Raises
    BadInput with what is missing, unexpected (with the nearest name), or of another shape.
    """
    expected = module.state_dict()
    given = max(_readings(state), key=lambda reading: len(reading.keys() & expected.keys()))
    for name, tensor in expected.items():
        absent = name not in given
        ours = name.startswith("normalise.") and (absent or keep_normalisation)
        if ours or (absent and name.endswith(_COUNTERS)):
            given[name] = tensor
    faults = _differences(expected, given)
    if faults:
        raise BadInput("the weights do not fit the architecture:\n" + "\n".join(faults))
    module.load_state_dict(given)


def _readings(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The ways in which the names of `state` could be meant."""
    plain = [dict(state)]
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            plain.append({name.removeprefix(prefix): t for name, t in state.items()})
    return [
        *({f"{_BODY}{name}": t for name, t in names.items()} for names in plain),
        *plain,
    ]


def _differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [_short(name) for name in expected if name not in given]
    unexpected = [_short(name) for name in given if name not in expected]
    shapes = [
        f"{_short(name)} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    near = [
        f"{name} (did you mean {close[0]}?)"
        if (close := difflib.get_close_matches(name, missing, n=1, cutoff=0.6))
        else name
        for name in unexpected[:_LISTED]
    ]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing from the file: {_list(missing)}")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected in the file: {_list(near, len(unexpected))}")
    if shapes:
        faults.append(f"{len(shapes)} of another shape: {_list(shapes)}")
    return faults


_LISTED = 5


def _short(name: str) -> str:
    return name.removeprefix(_BODY)


def _list(items: list[str], total: int | None = None) -> str:
    more = (len(items) if total is None else total) - _LISTED
    return "; ".join(items[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


# --- data -----------------------------------------------------------------------------------------


def _check_against_data(spec: Import, data: Dataset) -> tuple[str, ...]:
    """The names of the model's outputs. Raises BadInput where model and data are not of a kind."""
    if spec.input_size and spec.input_size != data.shape:
        raise BadInput(
            f"the model takes images of {_by(spec.input_size)} (channels x height x width), the "
            f"data has {_by(data.shape)}. Choose data of that size, or set its size and channels."
        )
    if bool(spec.mean) != bool(spec.std):
        raise BadInput("mean and std belong together: give both, or neither")
    if not spec.classes:
        return data.classes
    if len(spec.classes) != len(data.classes):
        raise BadInput(
            f"{len(spec.classes)} class names are given, but the data has {len(data.classes)}: "
            f"{_list(list(data.classes))}"
        )
    if spec.classes != data.classes and set(spec.classes) == set(data.classes):
        first = next(i for i, name in enumerate(spec.classes) if name != data.classes[i])
        raise BadInput(
            f"the classes are in another order than the data's: output {first} is "
            f"{spec.classes[first]!r}, but label {first} is {data.classes[first]!r}. Give data "
            "whose labels are in the order of the model's outputs."
        )
    return spec.classes


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
